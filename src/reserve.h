/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Names that only one user may register. Pure: who a user is, is asked of a function. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "owner.h"

/* One reservation; the texts point into the list that was parsed. */
typedef struct Reservation {
        const char *name;
        size_t name_len;
        const char *user;
        size_t user_len;
        uint32_t uid;
        bool prefix;   /* the name was followed by an asterisk */
        bool resolved; /* the user exists; else only root may register the name */
} Reservation;

typedef struct Reserve {
        Reservation *items; /* owned */
        size_t n;
} Reserve;

/* Finds the uid of a user's name, which is not terminated. */
typedef bool (*ReserveUserFunction)(const char *user, size_t n, uint32_t *ret);

int reserve_parse(const char *list, ReserveUserFunction find_user, Reserve *ret, const char **ret_bad,
                  size_t *ret_bad_len);
void reserve_done(Reserve *reserve);
const Reservation *reserve_find(const Reserve *reserve, const uint8_t *name, size_t n);
bool reservation_permits(const Reservation *reservation, const Owner *owner);
