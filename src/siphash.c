/* SPDX-License-Identifier: Apache-2.0 */
#include "siphash.h"

typedef struct SipState {
        uint64_t v0, v1, v2, v3;
} SipState;

static uint64_t rotate_left(uint64_t x, unsigned bits) {
        return x << bits | x >> (64 - bits);
}

/* One load, where the compiler sees it. */
static uint64_t load_word(const uint8_t *p) {
        return (uint64_t) p[0] | (uint64_t) p[1] << 8 | (uint64_t) p[2] << 16 | (uint64_t) p[3] << 24 |
               (uint64_t) p[4] << 32 | (uint64_t) p[5] << 40 | (uint64_t) p[6] << 48 | (uint64_t) p[7] << 56;
}

static uint64_t load_rest(const uint8_t *p, size_t n) {
        uint64_t x = 0;

        for (size_t i = 0; i < n; i++)
                x |= (uint64_t) p[i] << (8 * i);
        return x;
}

static void sip_rounds(SipState *s, unsigned rounds) {
        while (rounds-- > 0) {
                s->v0 += s->v1;
                s->v1 = rotate_left(s->v1, 13) ^ s->v0;
                s->v0 = rotate_left(s->v0, 32);
                s->v2 += s->v3;
                s->v3 = rotate_left(s->v3, 16) ^ s->v2;
                s->v0 += s->v3;
                s->v3 = rotate_left(s->v3, 21) ^ s->v0;
                s->v2 += s->v1;
                s->v1 = rotate_left(s->v1, 17) ^ s->v2;
                s->v2 = rotate_left(s->v2, 32);
        }
}

static void sip_word(SipState *s, uint64_t word) {
        s->v3 ^= word;
        sip_rounds(s, 2);
        s->v0 ^= word;
}

/* The 64-bit hash of n bytes under the key. */
uint64_t siphash24(const uint8_t key[SIPHASH_KEY_SIZE], const void *data, size_t n) {
        uint64_t k0 = load_word(key), k1 = load_word(key + 8);
        SipState s = {
                .v0 = k0 ^ UINT64_C(0x736f6d6570736575),
                .v1 = k1 ^ UINT64_C(0x646f72616e646f6d),
                .v2 = k0 ^ UINT64_C(0x6c7967656e657261),
                .v3 = k1 ^ UINT64_C(0x7465646279746573),
        };
        const uint8_t *p = data;
        size_t left = n;

        for (; left >= 8; left -= 8, p += 8)
                sip_word(&s, load_word(p));
        sip_word(&s, load_rest(p, left) | (uint64_t) n << 56);
        s.v2 ^= 0xff;
        sip_rounds(&s, 4);
        return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}
