/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The addresses of a host by its name, within a time. */

#include <stddef.h>
#include <stdint.h>

#include "address.h"

typedef struct AddressList {
        Address *items; /* owned */
        size_t n;
} AddressList;

/* Outcome. */
enum {
        RESOLVE_FAILED = 1, /* the name has no address; a text says why */
};

int resolve_host(const char *host, uint16_t port, uint64_t timeout, AddressList *ret, const char **ret_why);
int resolve_list_add(AddressList *list, const Address *address);
void resolve_list_done(AddressList *list);
