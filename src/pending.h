/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The connections that hold no name: each must be done by its deadline, and one remote address has no more than its share
 * of them. All have the same time from when they were accepted, so a queue of them is in order by itself, and one timer
 * serves it. Those of this host have a queue of their own: who must give way is asked of the others first. */

#include <stdbool.h>
#include <stddef.h>

#include "conn.h"
#include "loop.h"
#include "siphash.h"
#include "util.h"

typedef struct Pending Pending;

int pending_new(Loop *loop, const uint8_t seed[SIPHASH_KEY_SIZE], void (*on_expired)(Conn *conn), Pending **ret);
Pending *pending_free(Pending *pending);
DEFINE_CLEANUP(Pending *, pending_free)

int pending_add(Pending *pending, Conn *conn, size_t places);
void pending_remove(Pending *pending, Conn *conn);
size_t pending_count(const Pending *pending);
Conn *pending_victim(const Pending *pending, bool local, size_t places);
Conn *pending_first(const Pending *pending);
Conn *pending_next(const Pending *pending, const Conn *conn);
