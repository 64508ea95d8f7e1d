/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Who is answered: a list of words and networks. Peers on this host always are, for nodes could not register
 * otherwise. Pure. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "address.h"

#define ALLOW_DEFAULT "private"

typedef struct AllowNet {
        Address address;
        uint8_t bits; /* of it that must be the same */
} AllowNet;

typedef struct Allow {
        bool any;
        AllowNet *nets; /* owned */
        size_t n_nets;
} Allow;

int allow_parse(const char *list, Allow *ret, const char **ret_bad, size_t *ret_bad_len);
void allow_done(Allow *allow);
bool allow_admits(const Allow *allow, const Address *address, bool local);
