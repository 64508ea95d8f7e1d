/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the fuzz targets share: the entry that libFuzzer and the replay call, a reader of the input's bytes, and checks
 * that end the program, which both take for a finding. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

_Noreturn static inline void fuzz_failed(const char *what, const char *file, int line) {
        (void) fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
        abort();
}

/* As assert(3), in every build. */
#define EXPECT(condition)                                                                                             \
        do {                                                                                                          \
                if (!(condition))                                                                                     \
                        fuzz_failed(#condition, __FILE__, __LINE__);                                                  \
        } while (0)

/* The bytes that are left of an input; behind its end there are zeros. */
typedef struct Input {
        const uint8_t *at;
        const uint8_t *end;
} Input;

static inline Input input_of(const uint8_t *data, size_t size) {
        return (Input){.at = data, .end = data + size};
}

static inline size_t input_left(const Input *input) {
        return (size_t) (input->end - input->at);
}

static inline uint8_t input_u8(Input *input) {
        return input->at < input->end ? *input->at++ : 0;
}

static inline uint16_t input_u16(Input *input) {
        uint8_t high = input_u8(input);

        return (uint16_t) (high << 8 | input_u8(input));
}

/* The next n bytes, or what is left. */
static inline const uint8_t *input_bytes(Input *input, size_t n, size_t *ret_n) {
        const uint8_t *at = input->at;

        *ret_n = size_min(n, input_left(input));
        input->at += *ret_n;
        return at;
}

/* A copy with nothing behind it, where a sanitizer sees the first byte that is read past the end. */
static inline uint8_t *fuzz_copy(const void *data, size_t n) {
        uint8_t *copy = malloc(n + (n == 0));

        EXPECT(copy);
        if (n > 0)
                memcpy(copy, data, n);
        return copy;
}

/* The same with a NUL behind it. */
static inline char *fuzz_text(const void *data, size_t n) {
        char *copy = malloc(n + 1);

        EXPECT(copy);
        if (n > 0)
                memcpy(copy, data, n);
        copy[n] = 0;
        return copy;
}
