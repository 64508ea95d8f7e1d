/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Bytes of a peer made fit for a log line or a terminal. Pure. */

#include <stddef.h>
#include <stdint.h>

#include "proto.h"

enum {
        ESCAPED_BYTE_MAX = 4, /* \x1f */
        ESCAPED_NAME_MAX = ESCAPED_BYTE_MAX * PROTO_NAME_BYTES_MAX + 1,
};

const char *escape_text(const uint8_t *data, size_t n, char *buffer, size_t size);
const char *escape_line(const char *text, char *buffer, size_t size);
