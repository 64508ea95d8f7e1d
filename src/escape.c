/* SPDX-License-Identifier: Apache-2.0 */
#include "escape.h"

#include <stdbool.h>
#include <string.h>
#include <unistr.h>

/* Control characters, of ASCII and of Latin-1 (a terminal obeys U+009B as it does ESC [), the line and paragraph
 * separators and the marks that turn the direction of writing around. */
static bool is_unprintable(ucs4_t c) {
        return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x61c || c == 0x200e || c == 0x200f ||
               (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
}

static size_t put_hex(const uint8_t *data, size_t n, char *out) {
        static const char digits[] = "0123456789abcdef";

        for (size_t i = 0; i < n; i++) {
                *out++ = '\\';
                *out++ = 'x';
                *out++ = digits[data[i] >> 4];
                *out++ = digits[data[i] & 15];
        }
        return n * ESCAPED_BYTE_MAX;
}

static const char *escape(const uint8_t *data, size_t n, bool backslash, char *buffer, size_t size) {
        size_t out = 0;

        while (n > 0) {
                ucs4_t c;
                int len = u8_mbtoucr(&c, data, n);
                size_t used = len > 0 ? (size_t) len : 1;
                bool hex = len <= 0 || is_unprintable(c);
                size_t need = hex ? used * ESCAPED_BYTE_MAX : used + (backslash && c == '\\');

                if (out + need + 1 > size)
                        break;
                if (hex)
                        (void) put_hex(data, used, buffer + out);
                else {
                        memcpy(buffer + out, data, used);
                        if (need > used)
                                buffer[out + 1] = '\\';
                }
                out += need;
                data += used;
                n -= used;
        }
        buffer[out] = 0;
        return buffer;
}

/* Copies text with every character that is not printable, and what is not UTF-8, as \xNN and the backslash doubled.
 *
 * buffer, size: takes what fits of it, never half a character, and a NUL; ESCAPED_NAME_MAX bytes hold any name.
 * Always returns buffer. */
const char *escape_text(const uint8_t *data, size_t n, char *buffer, size_t size) {
        return escape(data, n, true, buffer, size);
}

/* The same of a line of which parts may have come through escape_text(): these are not escaped again. */
const char *escape_line(const char *text, char *buffer, size_t size) {
        return escape((const uint8_t *) text, strlen(text), false, buffer, size);
}
