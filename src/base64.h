/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Bytes as text (RFC 4648), for the Extra of a node in JSON. Pure. */

#include <stddef.h>
#include <stdint.h>

/* Characters for n bytes, with the terminating NUL. */
#define BASE64_SIZE(n) (((n) + 2) / 3 * 4 + 1)

const char *base64_encode(const uint8_t *data, size_t n, char *buffer);
