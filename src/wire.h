/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A cursor over big-endian bytes with bounds and a sticky error: a codec reads or writes straight down and looks
 * at `failed` once, at the end. A failed read yields 0 or NULL, a failed write changes nothing. Pure. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct WireReader {
        const uint8_t *at;
        const uint8_t *end;
        bool failed;
} WireReader;

typedef struct WireWriter {
        uint8_t *data;
        size_t size; /* bytes that fit */
        size_t len;  /* bytes written so far */
        bool failed;
} WireWriter;

static inline WireReader wire_reader(const uint8_t *data, size_t n) {
        /* Nothing may be NULL, to which not even 0 can be added. */
        return (WireReader){.at = data, .end = n > 0 ? data + n : data};
}

static inline size_t wire_left(const WireReader *r) {
        return (size_t) (r->end - r->at);
}

/* The next n bytes, or NULL when fewer are left. */
static inline const uint8_t *wire_bytes(WireReader *r, size_t n) {
        const uint8_t *p = r->at;

        if (r->failed || n > wire_left(r)) {
                r->failed = true;
                return NULL;
        }
        r->at += n;
        return p;
}

static inline uint8_t wire_u8(WireReader *r) {
        const uint8_t *p = wire_bytes(r, 1);
        return p ? p[0] : 0;
}

static inline uint16_t wire_u16(WireReader *r) {
        const uint8_t *p = wire_bytes(r, 2);
        if (!p)
                return 0;
        return (uint16_t) (p[0] << 8 | p[1]);
}

static inline uint32_t wire_u32(WireReader *r) {
        const uint8_t *p = wire_bytes(r, 4);
        return p ? (uint32_t) p[0] << 24 | (uint32_t) p[1] << 16 | (uint32_t) p[2] << 8 | (uint32_t) p[3] : 0;
}

static inline WireWriter wire_writer(uint8_t *data, size_t size) {
        return (WireWriter){.data = data, .size = size};
}

static inline void wire_put_bytes(WireWriter *w, const void *p, size_t n) {
        if (w->failed || n > w->size - w->len) {
                w->failed = true;
                return;
        }
        if (n > 0)
                memcpy(w->data + w->len, p, n);
        w->len += n;
}

static inline void wire_put_u8(WireWriter *w, uint8_t v) {
        wire_put_bytes(w, &v, 1);
}

static inline void wire_put_u16(WireWriter *w, uint16_t v) {
        wire_put_bytes(w, (const uint8_t[]){(uint8_t) (v >> 8), (uint8_t) (v & 0xff)}, 2);
}

static inline void wire_put_u32(WireWriter *w, uint32_t v) {
        wire_put_bytes(w,
                       (const uint8_t[]){(uint8_t) (v >> 24), (uint8_t) (v >> 16 & 0xff), (uint8_t) (v >> 8 & 0xff),
                                         (uint8_t) (v & 0xff)},
                       4);
}
