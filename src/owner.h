/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Whose process is at the other end of a local connection. What is not known for sure is unknown. */

#include <stdbool.h>
#include <stdint.h>

enum { OWNER_UNIT_MAX = 255 };

typedef struct Owner {
        const uint8_t *unit; /* of systemd: a service, or the scope of a session; not text to be trusted */
        uint16_t unit_len;   /* 0: not known */
        bool known;          /* whether uid is */
        bool hidden;         /* it is not, though owners are told here */
        uint32_t uid;
} Owner;
