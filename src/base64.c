/* SPDX-License-Identifier: Apache-2.0 */
#include "base64.h"

/* buffer: of BASE64_SIZE(n) characters. Always returns buffer. */
const char *base64_encode(const uint8_t *data, size_t n, char *buffer) {
        static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=";
        const size_t padding = 64;
        char *out = buffer;

        for (size_t i = 0; i < n; i += 3) {
                size_t left = n - i;
                uint32_t group = (uint32_t) data[i] << 16;

                if (left > 1)
                        group |= (uint32_t) data[i + 1] << 8;
                if (left > 2)
                        group |= data[i + 2];
                *out++ = digits[group >> 18];
                *out++ = digits[group >> 12 & 63];
                *out++ = digits[left > 1 ? group >> 6 & 63 : padding];
                *out++ = digits[left > 2 ? group & 63 : padding];
        }
        *out = 0;
        return buffer;
}
