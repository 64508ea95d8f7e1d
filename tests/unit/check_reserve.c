/* SPDX-License-Identifier: Apache-2.0 */
#include "reserve.h"

#include "unit.h"

enum { RABBITMQ = 110, COUCHDB = 111, ROOT = 0, NOBODY_KNOWN = 4000 };

/* What the machine's users are, and who was asked for. */
static char asked[256];

static bool find_user(const char *user, size_t n, uint32_t *ret) {
        static const struct {
                const char *name;
                uint32_t uid;
        } users[] = {{"rabbitmq", RABBITMQ}, {"couchdb", COUCHDB}, {"root", ROOT}, {"with.dots-1$", 112}};

        strncat(asked, user, n);
        strcat(asked, ";");
        for (size_t i = 0; i < ARRAY_SIZE(users); i++)
                if (n == strlen(users[i].name) && memcmp(user, users[i].name, n) == 0) {
                        *ret = users[i].uid;
                        return true;
                }
        return false;
}

static Reserve parse(const char *list) {
        const char *bad = "untouched";
        size_t bad_len = 99;
        Reserve reserve;

        asked[0] = 0;
        memset(&reserve, 0xa5, sizeof reserve);
        ck_assert_msg(reserve_parse(list, find_user, &reserve, &bad, &bad_len) == 0, "\"%s\" is refused", list);
        ck_assert_str_eq(bad, "untouched");
        ck_assert_uint_eq(bad_len, 99);
        return reserve;
}

static const Reservation *find(const Reserve *reserve, const char *name) {
        size_t n = strlen(name);
        _cleanup_free_ uint8_t *copy = unit_copy(name, n);

        return reserve_find(reserve, copy, n);
}

/* ---- The parser ---- */

typedef struct Item {
        const char *list;
        const char *name, *user; /* of the first item; name NULL: the list is empty */
        bool prefix, resolved;
        uint32_t uid;
        size_t n;
        const char *asked;
} Item;

static const Item items[] = {
        {"", NULL, NULL, false, false, 0, 0, ""},
        {" \t\n ", NULL, NULL, false, false, 0, 0, ""},
        {"rabbit:rabbitmq", "rabbit", "rabbitmq", false, true, RABBITMQ, 1, "rabbitmq;"},
        {"couch*:couchdb", "couch", "couchdb", true, true, COUCHDB, 1, "couchdb;"},
        {"rabbit:root", "rabbit", "root", false, true, ROOT, 1, "root;"},
        {"*:couchdb", "", "couchdb", true, true, COUCHDB, 1, "couchdb;"},
        {"a:with.dots-1$", "a", "with.dots-1$", false, true, 112, 1, "with.dots-1$;"},
        /* Numbers are nobody's names. */
        {"db:1001", "db", "1001", false, true, 1001, 1, ""},
        {"db:0", "db", "0", false, true, 0, 1, ""},
        {"db:0001", "db", "0001", false, true, 1, 1, ""},
        {"db:4294967294", "db", "4294967294", false, true, 4294967294U, 1, ""},
        /* These are no uids, so they may be names; there is no such user. */
        {"db:4294967295", "db", "4294967295", false, false, 0, 1, "4294967295;"},
        {"db:4294967296", "db", "4294967296", false, false, 0, 1, "4294967296;"},
        {"db:9999999999", "db", "9999999999", false, false, 0, 1, "9999999999;"},
        {"db:18446744073709551616", "db", "18446744073709551616", false, false, 0, 1, "18446744073709551616;"},
        {"db:00000000001", "db", "00000000001", false, false, 0, 1, "00000000001;"},
        {"db:-1", "db", "-1", false, false, 0, 1, "-1;"},
        {"db:1x", "db", "1x", false, false, 0, 1, "1x;"},
        /* A user that is not there: the name is reserved all the same. */
        {"rabbit:nobody", "rabbit", "nobody", false, false, 0, 1, "nobody;"},
        {"rabbit:rabbitm", "rabbit", "rabbitm", false, false, 0, 1, "rabbitm;"},
        {"rabbit:rabbitmqq", "rabbit", "rabbitmqq", false, false, 0, 1, "rabbitmqq;"},
        /* The last colon counts: names may have some. */
        {"a:b:rabbitmq", "a:b", "rabbitmq", false, true, RABBITMQ, 1, "rabbitmq;"},
        {"::rabbitmq", ":", "rabbitmq", false, true, RABBITMQ, 1, "rabbitmq;"},
        /* Any blanks, anywhere. */
        {"  rabbit:rabbitmq\t\ncouch*:couchdb\n db:1001 ", "rabbit", "rabbitmq", false, true, RABBITMQ, 3,
         "rabbitmq;couchdb;"},
        {"na\303\257ve:rabbitmq", "na\303\257ve", "rabbitmq", false, true, RABBITMQ, 1, "rabbitmq;"},
};

START_TEST(item) {
        const Item *row = &items[_i];
        _cleanup_(reserve_done) Reserve reserve = parse(row->list);
        const Reservation *first = reserve.items;

        ck_assert_uint_eq(reserve.n, row->n);
        ck_assert_str_eq(asked, row->asked);
        if (!row->name)
                return;
        ck_assert_uint_eq(first->name_len, strlen(row->name));
        ck_assert_mem_eq(first->name, row->name, first->name_len);
        ck_assert_uint_eq(first->user_len, strlen(row->user));
        ck_assert_mem_eq(first->user, row->user, first->user_len);
        ck_assert_int_eq(first->prefix, row->prefix);
        ck_assert_int_eq(first->resolved, row->resolved);
        if (row->resolved)
                ck_assert_uint_eq(first->uid, row->uid);
}
END_TEST

typedef struct Bad {
        const char *list, *bad;
} Bad;

static const Bad bads[] = {
        {"rabbit", "rabbit"},
        {":", ":"},
        {"::", "::"},
        {":rabbitmq", ":rabbitmq"},
        {"rabbit:", "rabbit:"},
        {"a:b:", "a:b:"},
        {"*", "*"},
        {"couch*", "couch*"},
        {"*couch:couchdb", "*couch:couchdb"},
        {"co*ch:couchdb", "co*ch:couchdb"},
        {"couch**:couchdb", "couch**:couchdb"},
        {"*couch*:couchdb", "*couch*:couchdb"},
        {"rabbit: rabbitmq", "rabbit:"},
        {"rabbit :rabbitmq", "rabbit"},
        {"rabbit=rabbitmq", "rabbit=rabbitmq"},
        /* The one of several. */
        {"rabbit:rabbitmq couch*", "couch*"},
        {"couch* rabbit:rabbitmq", "couch*"},
        {"rabbit:rabbitmq x couch*:couchdb", "x"},
        {"rabbit:nobody zz x", "zz"},
        /* Blanks separate, nothing else does; this is one item, whose name has an asterisk in it. */
        {"rabb*:rabbitmq,couch*:couchdb", "rabb*:rabbitmq,couch*:couchdb"},
};

START_TEST(bad_item) {
        const Bad *row = &bads[_i];
        const char *bad = NULL;
        size_t bad_len = 0;
        Reserve reserve, before;

        asked[0] = 0;
        memset(&reserve, 0xa5, sizeof reserve);
        memcpy(&before, &reserve, sizeof before);
        ck_assert_msg(reserve_parse(row->list, find_user, &reserve, &bad, &bad_len) == -EINVAL, "\"%s\" is taken",
                      row->list);
        ck_assert_mem_eq(&reserve, &before, sizeof before);
        ck_assert_ptr_nonnull(bad);
        ck_assert_uint_eq(bad_len, strlen(row->bad));
        ck_assert_ptr_eq(bad, strstr(row->list, row->bad));
}
END_TEST

/* ---- Which reservation a name has ---- */

typedef struct Match {
        const char *list, *name;
        int item; /* of the list; -1: not reserved */
} Match;

static const Match matches[] = {
        {"", "rabbit", -1},
        {"rabbit:1", "rabbit", 0},
        {"rabbit:1", "rabbi", -1},
        {"rabbit:1", "rabbit2", -1},
        {"rabbit:1", "Rabbit", -1},
        {"rabbit:1", "", -1},
        {"rabbit:1", "tibbar", -1},
        {"couch*:1", "couch", 0},
        {"couch*:1", "couchdb", 0},
        {"couch*:1", "couch*", 0},
        {"couch*:1", "couc", -1},
        {"couch*:1", "Couch", -1},
        {"couch*:1", "acouch", -1},
        {"*:1", "x", 0},
        {"*:1", "", 0},
        /* The whole name before a prefix, wherever it stands. */
        {"couch*:1 couchdb:2", "couchdb", 1},
        {"couchdb:2 couch*:1", "couchdb", 0},
        {"couchdb*:1 couchdb:2", "couchdb", 1},
        {"couchdb:2 couchdb*:1", "couchdb", 0},
        {"couch*:1 couchdb:2", "couchdb2", 0},
        /* A longer prefix before a shorter one. */
        {"*:1 c*:2 couch*:3 co*:4", "couchdb", 2},
        {"couch*:3 co*:4 c*:2 *:1", "couchdb", 0},
        {"*:1 c*:2 couch*:3 co*:4", "cobol", 3},
        {"*:1 c*:2 couch*:3 co*:4", "c", 1},
        {"*:1 c*:2 couch*:3 co*:4", "x", 0},
        {"a:1 b:2 c:3", "b", 1},
};

START_TEST(match) {
        const Match *row = &matches[_i];
        _cleanup_(reserve_done) Reserve reserve = parse(row->list);
        const Reservation *found = find(&reserve, row->name);

        ck_assert_msg(found == (row->item < 0 ? NULL : &reserve.items[row->item]), "\"%s\", %s", row->list, row->name);
}
END_TEST

/* ---- Who may ---- */

START_TEST(permits) {
        _cleanup_(reserve_done) Reserve reserve = parse("rabbit:rabbitmq gone:nobody zero:0");
        const Owner rabbitmq = {.known = true, .uid = RABBITMQ}, root = {.known = true, .uid = ROOT};
        const Owner other = {.known = true, .uid = NOBODY_KNOWN};
        /* What is not known has any uid. */
        const Owner unknown = {.known = false, .uid = RABBITMQ}, unknown_zero = {.known = false, .uid = 0};
        const Reservation *rabbit = find(&reserve, "rabbit"), *gone = find(&reserve, "gone");
        const Reservation *zero = find(&reserve, "zero");

        ck_assert(reservation_permits(rabbit, &rabbitmq));
        ck_assert(reservation_permits(rabbit, &root));
        ck_assert(!reservation_permits(rabbit, &other));
        ck_assert(!reservation_permits(rabbit, &unknown));
        ck_assert(!reservation_permits(rabbit, &unknown_zero));
        /* Of a user who is not there: root alone. */
        ck_assert(reservation_permits(gone, &root));
        ck_assert(!reservation_permits(gone, &rabbitmq));
        ck_assert(!reservation_permits(gone, &other));
        ck_assert(!reservation_permits(gone, &unknown));
        ck_assert(!reservation_permits(gone, &unknown_zero));
        ck_assert(reservation_permits(zero, &root));
        ck_assert(!reservation_permits(zero, &rabbitmq));
        ck_assert(!reservation_permits(zero, &unknown_zero));
}
END_TEST

START_TEST(twice_done) {
        Reserve reserve = parse("rabbit:rabbitmq");

        reserve_done(&reserve);
        ck_assert_ptr_null(reserve.items);
        ck_assert_uint_eq(reserve.n, 0);
        ck_assert_ptr_null(find(&reserve, "rabbit"));
        reserve_done(&reserve);
}
END_TEST

int main(void) {
        Suite *suite = suite_create("reserve");
        TCase *parser = unit_case(suite, "parser"), *rest = unit_case(suite, "names");

        tcase_add_loop_test(parser, item, 0, ARRAY_SIZE(items));
        tcase_add_loop_test(parser, bad_item, 0, ARRAY_SIZE(bads));
        tcase_add_loop_test(rest, match, 0, ARRAY_SIZE(matches));
        tcase_add_test(rest, permits);
        tcase_add_test(rest, twice_done);
        return unit_main(suite);
}
