/* SPDX-License-Identifier: Apache-2.0 */
#include "listing.h"

#include <stdio.h>

#include "unit.h"

static const uint8_t seed[SIPHASH_KEY_SIZE];

static Registry *make_registry(void) {
        Registry *registry = NULL;

        ck_assert_int_eq(registry_new(seed, 0, 1000, NULL, &registry), 0);
        return registry;
}

static Node *add(Registry *registry, const char *name, uint16_t port, int fd) {
        NodeInfo info = {.name = (const uint8_t *) name, .name_len = (uint16_t) strlen(name), .port = port};
        Node *node = NULL;

        ck_assert_int_eq(registry_add(registry, &info, &(Holder){.connection = registry, .fd = fd}, NOW, &node), 0);
        return node;
}

static Listing *make_names(const Registry *registry) {
        Listing *listing = NULL;

        ck_assert_int_eq(listing_new_names(registry, &listing), 0);
        return listing;
}

static Listing *make_dump(const Registry *registry) {
        Listing *listing = NULL;

        ck_assert_int_eq(listing_new_dump(registry, &listing), 0);
        return listing;
}

static void check_text(const Listing *listing, Bytes want) {
        ck_assert_uint_eq(listing_size(listing), want.n);
        ck_assert_mem_eq(listing_data(listing), want.data, want.n);
}

/* A registry in some state, and what it looks like. */
typedef struct Row {
        void (*fill)(Registry *registry);
        Bytes names, dump;
} Row;

static void fill_nothing(Registry *registry) {
        (void) registry;
}

static void fill_one(Registry *registry) {
        add(registry, "rabbit", 25672, 7);
}

static void fill_order(Registry *registry) {
        add(registry, "oldest", 1, 5);
        add(registry, "n\303\270d", 65535, 6);
        add(registry, "a b", 0, 12345);
}

static void fill_released(Registry *registry) {
        registry_remove(registry, add(registry, "gone", 10, 5));
}

static void fill_both(Registry *registry) {
        Node *first = add(registry, "first", 1, 11), *second = add(registry, "second", 2, 12);

        add(registry, "third", 3, 13);
        add(registry, "fourth", 4, 14);
        registry_remove(registry, second);
        registry_remove(registry, first);
}

static void fill_returned(Registry *registry) {
        registry_remove(registry, add(registry, "back", 1, 5));
        add(registry, "other", 2, 6);
        add(registry, "back", 3, 7);
}

static const Row rows[] = {
        {fill_nothing, BYTES_INIT(""), BYTES_INIT("")},
        {fill_one, BYTES_INIT("name rabbit at port 25672\n"),
         BYTES_INIT("active name     <rabbit> at port 25672, fd = 7\n\0")},
        {fill_order,
         BYTES_INIT("name a b at port 0\n"
                    "name n\303\270d at port 65535\n"
                    "name oldest at port 1\n"),
         BYTES_INIT("active name     <a b> at port 0, fd = 12345\n\0"
                    "active name     <n\303\270d> at port 65535, fd = 6\n\0"
                    "active name     <oldest> at port 1, fd = 5\n\0")},
        {fill_released, BYTES_INIT(""), BYTES_INIT("old/unused name <gone>, port = 10, fd = 5 \n\0")},
        {fill_both,
         BYTES_INIT("name fourth at port 4\n"
                    "name third at port 3\n"),
         BYTES_INIT("active name     <fourth> at port 4, fd = 14\n\0"
                    "active name     <third> at port 3, fd = 13\n\0"
                    "old/unused name <second>, port = 2, fd = 12 \n\0"
                    "old/unused name <first>, port = 1, fd = 11 \n\0")},
        {fill_returned,
         BYTES_INIT("name back at port 3\n"
                    "name other at port 2\n"),
         BYTES_INIT("active name     <back> at port 3, fd = 7\n\0"
                    "active name     <other> at port 2, fd = 6\n\0")},
};

START_TEST(names) {
        _cleanup_(registry_freep) Registry *registry = make_registry();
        _cleanup_(listing_unrefp) Listing *listing = NULL;

        rows[_i].fill(registry);
        listing = make_names(registry);
        check_text(listing, rows[_i].names);
        ck_assert_uint_eq(listing_revision(listing), registry_revision(registry));
}
END_TEST

START_TEST(dump) {
        _cleanup_(registry_freep) Registry *registry = make_registry();
        _cleanup_(listing_unrefp) Listing *listing = NULL;

        rows[_i].fill(registry);
        listing = make_dump(registry);
        check_text(listing, rows[_i].dump);
        ck_assert_uint_eq(listing_revision(listing), registry_revision(registry));
}
END_TEST

/* A text shows what was when it was made. */
START_TEST(does_not_change) {
        _cleanup_(registry_freep) Registry *registry = make_registry();
        _cleanup_(listing_unrefp) Listing *listing = NULL;
        Node *node = add(registry, "rabbit", 25672, 7);

        listing = make_names(registry);
        registry_remove(registry, node);
        add(registry, "other", 1, 8);
        check_text(listing, BYTES("name rabbit at port 25672\n"));
        ck_assert_uint_ne(listing_revision(listing), registry_revision(registry));
}
END_TEST

/* It lives as long as anyone holds it, the registry or not. */
START_TEST(references) {
        Registry *registry = make_registry();
        Listing *listing;

        add(registry, "rabbit", 25672, 7);
        listing = make_names(registry);
        ck_assert_ptr_eq(listing_ref(listing), listing);
        ck_assert_ptr_eq(listing_ref(listing), listing);
        ck_assert_ptr_null(listing_unref(listing));
        registry_free(registry);
        ck_assert_ptr_null(listing_unref(listing));
        check_text(listing, BYTES("name rabbit at port 25672\n"));
        ck_assert_ptr_null(listing_unref(listing));
        ck_assert_ptr_null(listing_ref(NULL));
        ck_assert_ptr_null(listing_unref(NULL));
}
END_TEST

enum { LONGEST = 20 };

/* As large as a line can be: longest name, longest port, longest descriptor. */
START_TEST(longest_lines) {
        _cleanup_(registry_freep) Registry *registry = make_registry();
        _cleanup_(listing_unrefp) Listing *names_text = NULL, *dump_text = NULL;
        Node *nodes[LONGEST];
        const uint8_t *last;

        for (size_t i = 0; i < LONGEST; i++) {
                char name[PROTO_NAME_BYTES_MAX + 1];

                memset(name, 'a' + (int) i, sizeof name - 1);
                name[sizeof name - 1] = 0;
                nodes[i] = add(registry, name, UINT16_MAX, INT32_MAX);
        }
        names_text = make_names(registry);
        ck_assert_uint_eq(listing_size(names_text), LONGEST * (size_t) PROTO_NAMES_LINE_MAX);
        for (size_t i = 0; i < LONGEST / 2; i++)
                registry_remove(registry, nodes[i]);
        dump_text = make_dump(registry);
        /* One byte of a line is the minus of a descriptor that there never is; active lines have a space less. */
        ck_assert_uint_eq(listing_size(dump_text),
                          LONGEST * (size_t) (PROTO_DUMP_LINE_MAX - 1) - LONGEST / 2);
        last = listing_data(dump_text) + listing_size(dump_text) - 1;
        ck_assert_uint_eq(*last, 0);
        ck_assert_mem_eq(last - strlen("fd = 2147483647 \n"), "fd = 2147483647 \n", 17);
}
END_TEST

/* What is written can be read again, in order. */
START_TEST(names_parse_again) {
        _cleanup_(registry_freep) Registry *registry = make_registry();
        _cleanup_(listing_unrefp) Listing *listing = NULL;
        const uint8_t *at, *end;
        NodeInfo node;

        for (unsigned i = 0; i < 1000; i++) {
                char name[16];

                (void) snprintf(name, sizeof name, "node%u", i);
                add(registry, name, (uint16_t) i, (int) i);
        }
        listing = make_names(registry);
        at = listing_data(listing);
        end = at + listing_size(listing);
        for (unsigned i = 1000; i-- > 0;) {
                char name[16];

                (void) snprintf(name, sizeof name, "node%u", i);
                if (proto_parse_names_line(&at, end, &node) != 0 || node.name_len != strlen(name) ||
                    memcmp(node.name, name, node.name_len) != 0 || node.port != i)
                        ck_abort_msg("line of %s", name);
        }
        ck_assert_ptr_eq(at, end);
}
END_TEST

int main(void) {
        Suite *suite = suite_create("listing");
        TCase *tcase = unit_case(suite, "listing");

        tcase_add_loop_test(tcase, names, 0, ARRAY_SIZE(rows));
        tcase_add_loop_test(tcase, dump, 0, ARRAY_SIZE(rows));
        tcase_add_test(tcase, does_not_change);
        tcase_add_test(tcase, references);
        tcase_add_test(tcase, longest_lines);
        tcase_add_test(tcase, names_parse_again);
        return unit_main(suite);
}
