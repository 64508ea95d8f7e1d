/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Allocations that fail when the input wants it: for targets that are linked with --wrap for the functions here. What
 * the target itself needs comes from __real_malloc(). */

#include "fuzz.h"

/* The linker gives these names (ld(1), --wrap). NOLINTBEGIN(bugprone-reserved-identifier) */
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_reallocarray(void *data, size_t n, size_t size);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_reallocarray(void *data, size_t n, size_t size);
/* NOLINTEND(bugprone-reserved-identifier) */

static size_t memory_left; /* allocations until one fails; 0: none does */
static bool memory_failed; /* one has, since memory_fail() */

static inline void memory_fail(size_t n) {
        memory_left = n;
        memory_failed = false;
}

static bool memory_fails(void) {
        if (memory_left == 0 || --memory_left > 0)
                return false;
        memory_failed = true;
        errno = ENOMEM;
        return true;
}

void *__wrap_malloc(size_t n) {
        return memory_fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size) {
        return memory_fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_reallocarray(void *data, size_t n, size_t size) {
        return memory_fails() ? NULL : __real_reallocarray(data, n, size);
}
