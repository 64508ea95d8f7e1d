/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the unit tests share: rows of bytes, copies of exactly their size, and the main() that speaks TAP. */

#include <check.h>
#include <dirent.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "util.h"

/* Long enough for valgrind on a busy machine; a test that hangs fails all the same. */
enum { UNIT_TIMEOUT = 120 };

/* When everything happens; realtime, µs. */
#define NOW UINT64_C(1700000000000000)

typedef struct Bytes {
        const char *data;
        size_t n;
} Bytes;

/* The bytes of a string literal without its NUL. The second form is a constant, for tables. */
#define BYTES(literal) ((Bytes){.data = (literal), .n = sizeof(literal) - 1})
#define BYTES_INIT(literal) {.data = (literal), .n = sizeof(literal) - 1}

/* A heap copy with nothing behind it: a sanitizer or valgrind sees the first byte that is read past the end. */
static inline uint8_t *unit_copy(const void *data, size_t n) {
        uint8_t *copy = n <= PTRDIFF_MAX ? malloc(n) : NULL;

        if (!copy && n > 0)
                ck_abort_msg("no memory for %zu bytes", n);
        if (n > 0)
                memcpy(copy, data, n);
        return copy;
}

/* A fixed sequence of numbers that look random: a failure can be repeated. */
static inline uint32_t unit_random(uint64_t *state) {
        *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        return (uint32_t) (*state >> 33);
}

/* The descriptors that this process has, one of its own aside. */
static inline size_t unit_count_fds(void) {
        DIR *dir = opendir("/proc/self/fd");
        size_t n = 0;

        ck_assert_ptr_nonnull(dir);
        while (readdir(dir))
                n++;
        (void) closedir(dir);
        return n;
}

static size_t unit_fds_before;

static inline void unit_before(void) {
        unit_fds_before = unit_count_fds();
}

static inline void unit_after(void) {
        ck_assert_uint_eq(unit_count_fds(), unit_fds_before);
}

/* Each test of it is one process, which has as many descriptors after the test as before. */
static inline TCase *unit_case(Suite *suite, const char *name) {
        TCase *tcase = tcase_create(name);

        tcase_set_timeout(tcase, UNIT_TIMEOUT);
        tcase_add_checked_fixture(tcase, unit_before, unit_after);
        suite_add_tcase(suite, tcase);
        return tcase;
}

static inline int unit_main(Suite *suite) {
        SRunner *runner = srunner_create(suite);
        int failed;

        srunner_set_tap(runner, "-");
        srunner_run_all(runner, CK_SILENT);
        failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
