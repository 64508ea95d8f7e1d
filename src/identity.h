/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Whose process is at the other end of a connection on this host, as the kernel's sock_diag tells it: the user, and
 * the unit of systemd by its control group. The only file that knows netlink. */

#include <stdbool.h>
#include <stdint.h>

#include "address.h"
#include "owner.h"
#include "util.h"

typedef struct Identity Identity;

int identity_new(int netlink_fd, Identity **ret);
Identity *identity_free(Identity *identity);
DEFINE_CLEANUP(Identity *, identity_free)

bool identity_is_netlink(int fd);
Owner identity_of(Identity *identity, int fd, const Address *peer, uint64_t now);
int identity_pass_on(const Identity *identity);
