/* SPDX-License-Identifier: Apache-2.0 */
#include "tally.h"

#include "ratelimit.h"
#include "unit.h"

static const uint8_t seed[SIPHASH_KEY_SIZE] = "sixteen bytes ..";

/* ---- Counting ---- */

static Tally *make_tally(void) {
        Tally *tally = NULL;

        ck_assert_int_eq(tally_new(seed, &tally), 0);
        ck_assert_ptr_nonnull(tally);
        return tally;
}

static TallyKey key_of(uint32_t number) {
        return tally_key(&number, sizeof number);
}

START_TEST(up_and_down) {
        _cleanup_(tally_freep) Tally *tally = make_tally();
        TallyKey one = key_of(1), two = key_of(2);

        ck_assert_uint_eq(tally_count(tally, &one), 0);
        for (size_t i = 1; i <= 1000; i++) {
                ck_assert_int_eq(tally_add(tally, &one), 0);
                ck_assert_uint_eq(tally_count(tally, &one), i);
                ck_assert_uint_eq(tally_count(tally, &two), 0);
        }
        ck_assert_int_eq(tally_add(tally, &two), 0);
        for (size_t i = 1000; i-- > 0;) {
                tally_remove(tally, &one);
                ck_assert_uint_eq(tally_count(tally, &one), i);
                ck_assert_uint_eq(tally_count(tally, &two), 1);
        }
        /* What is not there cannot become less. */
        tally_remove(tally, &one);
        ck_assert_uint_eq(tally_count(tally, &one), 0);
        ck_assert_int_eq(tally_add(tally, &one), 0);
        ck_assert_uint_eq(tally_count(tally, &one), 1);
}
END_TEST

/* Against a table of counts. */
START_TEST(many_keys) {
        enum { KEYS = 5000, STEPS = 200000 };
        _cleanup_(tally_freep) Tally *tally = make_tally();
        _cleanup_free_ unsigned *want = calloc(KEYS, sizeof *want);
        uint64_t state = 5;

        ck_assert_ptr_nonnull(want);
        for (unsigned step = 0; step < STEPS; step++) {
                uint32_t number = unit_random(&state) % KEYS;
                TallyKey key = key_of(number);

                if (unit_random(&state) % 2 == 0) {
                        ck_assert_int_eq(tally_add(tally, &key), 0);
                        want[number]++;
                } else {
                        tally_remove(tally, &key);
                        want[number] -= want[number] > 0;
                }
                ck_assert_uint_eq(tally_count(tally, &key), want[number]);
        }
        for (uint32_t number = 0; number < KEYS; number++) {
                TallyKey key = key_of(number);
                ck_assert_uint_eq(tally_count(tally, &key), want[number]);
        }
}
END_TEST

/* The whole of a key counts, and what is shorter is not mixed up with what ends in other bytes. */
START_TEST(keys) {
        _cleanup_(tally_freep) Tally *tally = make_tally();
        const char bytes[] = "01234567890123456789+";
        TallyKey none = tally_key(bytes, 0), zero = {};

        ck_assert_mem_eq(&none, &zero, sizeof zero);
        for (size_t n = 0; n <= 20; n++) {
                TallyKey key = tally_key(bytes, n);

                ck_assert_uint_eq(tally_count(tally, &key), 0);
                for (size_t i = 0; i <= n; i++)
                        ck_assert_int_eq(tally_add(tally, &key), 0);
        }
        for (size_t n = 0; n <= 20; n++) {
                TallyKey key = tally_key(bytes, n);
                ck_assert_uint_eq(tally_count(tally, &key), n + 1);
        }
        for (size_t i = 0; i < 20; i++) {
                TallyKey key = tally_key(bytes, 20);

                key.bytes[i] ^= 1;
                ck_assert_uint_eq(tally_count(tally, &key), 0);
        }
        /* No more than there is room for. */
        zero = tally_key(bytes, 20);
        none = tally_key(bytes, 21);
        ck_assert_mem_eq(&none, &zero, sizeof zero);
}
END_TEST

START_TEST(free_nothing) {
        ck_assert_ptr_null(tally_free(NULL));
}
END_TEST

/* ---- So many in a period ---- */

enum { PERIOD = 1000, MAX = 3 };

static RateLimit make_limit(void) {
        return (RateLimit){.period = PERIOD, .max = MAX};
}

START_TEST(at_the_limit_and_past_it) {
        RateLimit limit = make_limit();

        for (unsigned i = 0; i < MAX; i++)
                ck_assert(ratelimit_pass(&limit, 5));
        ck_assert(!ratelimit_pass(&limit, 5));
        ck_assert(!ratelimit_pass(&limit, 5 + PERIOD - 1));
        for (unsigned i = 0; i < MAX; i++)
                ck_assert(ratelimit_pass(&limit, 5 + PERIOD));
        ck_assert(!ratelimit_pass(&limit, 5 + PERIOD));
        ck_assert_uint_eq(limit.held, 3);
}
END_TEST

/* Whatever stretch of time one looks at: none has more than the limit. */
START_TEST(any_period) {
        RateLimit limit = make_limit();

        ck_assert(ratelimit_pass(&limit, 100));
        ck_assert(ratelimit_pass(&limit, 100 + PERIOD - 2));
        ck_assert(ratelimit_pass(&limit, 100 + PERIOD - 1));
        ck_assert(!ratelimit_pass(&limit, 100 + PERIOD - 1));
        /* The place of the first is free, no other. */
        ck_assert(ratelimit_pass(&limit, 100 + PERIOD));
        ck_assert(!ratelimit_pass(&limit, 100 + PERIOD));
        ck_assert(!ratelimit_pass(&limit, 100 + 2 * PERIOD - 3));
        ck_assert(ratelimit_pass(&limit, 100 + 2 * PERIOD - 2));
}
END_TEST

START_TEST(what_was_held_back_is_told) {
        RateLimit limit = make_limit();

        ck_assert_uint_eq(ratelimit_tell(&limit, 7), 0);
        for (unsigned i = 0; i < MAX + 4; i++)
                (void) ratelimit_pass(&limit, 7);
        /* Telling takes a place, of which there is none. */
        ck_assert_uint_eq(ratelimit_tell(&limit, 7 + PERIOD - 1), 0);
        ck_assert_uint_eq(limit.held, 4);
        ck_assert_uint_eq(ratelimit_tell(&limit, 7 + PERIOD), 4);
        ck_assert_uint_eq(limit.held, 0);
        for (unsigned i = 1; i < MAX; i++)
                ck_assert(ratelimit_pass(&limit, 7 + PERIOD));
        ck_assert(!ratelimit_pass(&limit, 7 + PERIOD));
        /* Once in a period. */
        ck_assert_uint_eq(ratelimit_tell(&limit, 7 + 2 * PERIOD - 1), 0);
        ck_assert_uint_eq(ratelimit_tell(&limit, 7 + 2 * PERIOD), 1);
}
END_TEST

/* Of a flood no period has more than it may, telling included, and nothing that was held back is forgotten. */
START_TEST(a_flood) {
        enum { PERIODS = 100 };
        RateLimit limit = make_limit();
        unsigned passed = 0, told = 0, tellings = 0;

        for (uint64_t now = PERIOD; now < (PERIODS + 1) * PERIOD; now++) {
                unsigned held = ratelimit_tell(&limit, now);

                told += held;
                tellings += held > 0;
                passed += ratelimit_pass(&limit, now);
        }
        ck_assert_uint_eq(tellings, PERIODS - 1);
        ck_assert_uint_eq(passed + tellings, PERIODS * MAX);
        ck_assert_uint_eq(told + limit.held, PERIODS * PERIOD - passed);
}
END_TEST

START_TEST(none_at_all) {
        RateLimit limit = {.period = PERIOD};

        ck_assert(!ratelimit_pass(&limit, 1));
        ck_assert(!ratelimit_pass(&limit, 1 + PERIOD));
        ck_assert_uint_eq(ratelimit_tell(&limit, 1 + PERIOD), 0);
        ck_assert_uint_eq(limit.held, 2);
}
END_TEST

int main(void) {
        Suite *suite = suite_create("tally");
        TCase *tally = unit_case(suite, "tally"), *limit = unit_case(suite, "ratelimit");

        tcase_add_test(tally, up_and_down);
        tcase_add_test(tally, many_keys);
        tcase_add_test(tally, keys);
        tcase_add_test(tally, free_nothing);
        tcase_add_test(limit, at_the_limit_and_past_it);
        tcase_add_test(limit, any_period);
        tcase_add_test(limit, what_was_held_back_is_told);
        tcase_add_test(limit, a_flood);
        tcase_add_test(limit, none_at_all);
        return unit_main(suite);
}
