/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Listening sockets: judged when they are passed in, made when they are not. */

#include <stdint.h>

#include "address.h"

/* Outcomes of listener_check(). */
enum {
        LISTENER_NO_SOCKET = 1,
        LISTENER_WRONG_TYPE,    /* not a stream socket */
        LISTENER_WRONG_FAMILY,  /* neither IPv4, IPv6 nor of the file system */
        LISTENER_NOT_LISTENING,
};

int listener_check(int fd);
const char *listener_problem_text(int problem);
int listener_open(const Address *address, int *ret_fd);
int listener_address(int fd, Address *ret);
