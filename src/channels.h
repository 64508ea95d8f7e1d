/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Connections of AF_UNIX clients that send messages, each ended by a NUL byte, and get one back for each. There are few
 * at a time, and each has so much time for all it wants. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "loop.h"
#include "util.h"

typedef struct Channels Channels;

/* Answers one message, which has no NUL. Returns 0 with *ret to be freed; above 0: no reply, and, unless
 * *ret_go_on is set, the connection is closed; a negative errno: it is closed. */
typedef int (*ChannelFunction)(void *userdata, const char *message, size_t n, char **ret, size_t *ret_n,
                               bool *ret_go_on);

int channels_new(Loop *loop, size_t message_max, uint64_t timeout, ChannelFunction on_message, void *userdata,
                 Channels **ret);
Channels *channels_free(Channels *channels);
DEFINE_CLEANUP(Channels *, channels_free)

void channels_add(Channels *channels, int fd);
size_t channels_count(const Channels *channels);
