/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Who listens on the TCP ports of this host, as /proc tells anyone, and which processes hold such a socket, as it
 * tells those who may see them. */

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "address.h"

typedef struct Listening {
        Address address;
        uint32_t uid;
        uint64_t inode;
} Listening;

typedef struct ListeningList {
        Listening *items; /* owned */
        size_t n;
} ListeningList;

enum { HOLDER_NAME_MAX = 64 };

/* A process that holds one of the sockets. */
typedef struct SocketHolder {
        pid_t pid;
        char name[HOLDER_NAME_MAX]; /* of its program, as the kernel has it */
} SocketHolder;

int listening_read(ListeningList *ret);
void listening_keep_port(ListeningList *list, uint16_t port);
size_t listening_holders(const ListeningList *list, SocketHolder *holders, size_t max);
void listening_done(ListeningList *list);
