/* SPDX-License-Identifier: Apache-2.0 */
#include "index.h"

#include <stdbool.h>

#include "unit.h"

/* Items are numbers in an array; a few bits of hash make many of them share one. */
enum { ITEMS = 2000 };

static uint32_t items[ITEMS];

static uint32_t hash_of(uint32_t i, uint32_t mask) {
        return (i * UINT32_C(2654435761)) & mask;
}

static bool has(const Index *index, uint32_t hash, const void *item) {
        uint32_t step = 0;
        void *found;

        while ((found = index_next(index, hash, &step)))
                if (found == item)
                        return true;
        return false;
}

START_TEST(empty) {
        Index index = {};

        ck_assert(!has(&index, 7, &items[0]));
        index_done(&index);
}
END_TEST

static const uint32_t masks[] = {UINT32_MAX, 0xff, 0xf000000f, 1, 0};

/* Adds and removes at random, and compares with what ought to be in after every change. */
START_TEST(changes) {
        Index index = {};
        bool in[ITEMS] = {};
        uint64_t state = 1;
        uint32_t n = 0, range = masks[_i] < 2 ? 100 : ITEMS;

        for (unsigned turn = 0; turn < 20 * range; turn++) {
                uint32_t i = unit_random(&state) % range, hash = hash_of(i, masks[_i]);

                ck_assert_int_eq(has(&index, hash, &items[i]), in[i]);
                if (in[i])
                        index_remove(&index, hash, &items[i]);
                else
                        ck_assert_int_eq(index_add(&index, hash, &items[i]), 0);
                in[i] = !in[i];
                n = in[i] ? n + 1 : n - 1;
                ck_assert_uint_eq(index.count, n);
        }
        for (uint32_t i = 0; i < range; i++)
                ck_assert_int_eq(has(&index, hash_of(i, masks[_i]), &items[i]), in[i]);
        index_done(&index);
        ck_assert_uint_eq(index.count, 0);
}
END_TEST

/* However full it gets, some of it stays free, or a search for what is not there would not end. */
START_TEST(room) {
        Index index = {};

        for (uint32_t i = 0; i < ITEMS; i++) {
                ck_assert_int_eq(index_add(&index, i, &items[i]), 0);
                ck_assert_uint_lt(index.count, index.size);
                ck_assert(!has(&index, i + 1, &items[i]));
        }
        index_done(&index);
}
END_TEST

int main(void) {
        Suite *suite = suite_create("index");
        TCase *tcase = unit_case(suite, "index");

        tcase_add_test(tcase, empty);
        tcase_add_loop_test(tcase, changes, 0, (int) ARRAY_SIZE(masks));
        tcase_add_test(tcase, room);
        return unit_main(suite);
}
