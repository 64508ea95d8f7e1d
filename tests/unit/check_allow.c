/* SPDX-License-Identifier: Apache-2.0 */
#include "allow.h"

#include <arpa/inet.h>
#include <stdio.h>

#include "unit.h"

/* The list is a copy of exactly its size, so that nothing behind it is read unnoticed. */
static Allow parse(const char *list) {
        _cleanup_free_ char *copy = (char *) unit_copy(list, strlen(list) + 1);
        const char *bad = "untouched";
        size_t bad_len = 99;
        Allow allow;

        memset(&allow, 0xa5, sizeof allow);
        ck_assert_msg(allow_parse(copy, &allow, &bad, &bad_len) == 0, "\"%s\" is refused", list);
        ck_assert_str_eq(bad, "untouched");
        ck_assert_uint_eq(bad_len, 99);
        return allow;
}

static Address address_of(const char *text) {
        Address address = {.port = 50000};
        bool ipv6 = strchr(text, ':');

        address.family = ipv6 ? AF_INET6 : AF_INET;
        ck_assert_msg(inet_pton(address.family, text, address.ip) == 1, "%s", text);
        return address;
}

/* As the kernel gives it to a dual-stack socket: IPv4 addresses in their IPv6 form. */
static Address address_seen(const char *text) {
        SocketAddress socket = {};
        char mapped[INET6_ADDRSTRLEN + 8];

        (void) snprintf(mapped, sizeof mapped, "%s%s", strchr(text, ':') ? "" : "::ffff:", text);
        socket.in6.sin6_family = AF_INET6;
        socket.in6.sin6_port = htons(50000);
        ck_assert_msg(inet_pton(AF_INET6, mapped, &socket.in6.sin6_addr) == 1, "%s", mapped);
        return address_from_socket(&socket);
}

static void check_admits(const Allow *allow, const char *list, const char *text, bool want) {
        Address plain = address_of(text), seen = address_seen(text);

        ck_assert_msg(allow_admits(allow, &plain, false) == want, "\"%s\": %s", list, text);
        ck_assert_msg(allow_admits(allow, &seen, false) == want, "\"%s\": %s by a dual-stack socket", list, text);
        ck_assert_msg(allow_admits(allow, &plain, true), "\"%s\": %s on this host", list, text);
}

/* ---- Networks: the address before the first, the first, the last, the one behind ---- */

typedef struct Range {
        const char *list;
        const char *before, *first, *last, *behind; /* NULL: there is none */
} Range;

static const Range ranges[] = {
        /* Each network of "private". */
        {"private", "9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0"},
        {"private", "172.15.255.255", "172.16.0.0", "172.31.255.255", "172.32.0.0"},
        {"private", "192.167.255.255", "192.168.0.0", "192.168.255.255", "192.169.0.0"},
        {"private", "100.63.255.255", "100.64.0.0", "100.127.255.255", "100.128.0.0"},
        {"private", "169.253.255.255", "169.254.0.0", "169.254.255.255", "169.255.0.0"},
        {"private", "fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
         "fe00::"},
        {"private", "fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
         "fec0::"},
        /* Every address of a family, and one alone. */
        {"0.0.0.0/0", NULL, "0.0.0.0", "255.255.255.255", NULL},
        {"::/0", NULL, "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", NULL},
        {"192.0.2.1/32", "192.0.2.0", "192.0.2.1", "192.0.2.1", "192.0.2.2"},
        {"192.0.2.1", "192.0.2.0", "192.0.2.1", "192.0.2.1", "192.0.2.2"},
        {"2001:db8::1/128", "2001:db8::", "2001:db8::1", "2001:db8::1", "2001:db8::2"},
        {"2001:db8::1", "2001:db8::", "2001:db8::1", "2001:db8::1", "2001:db8::2"},
        /* Prefixes that end anywhere within a byte. */
        {"128.0.0.0/1", "127.255.255.255", "128.0.0.0", "255.255.255.255", NULL},
        {"64.0.0.0/2", "63.255.255.255", "64.0.0.0", "127.255.255.255", "128.0.0.0"},
        {"10.0.0.0/7", "9.255.255.255", "10.0.0.0", "11.255.255.255", "12.0.0.0"},
        {"10.0.0.0/8", "9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0"},
        {"10.128.0.0/9", "10.127.255.255", "10.128.0.0", "10.255.255.255", "11.0.0.0"},
        {"192.0.2.0/23", "192.0.1.255", "192.0.2.0", "192.0.3.255", "192.0.4.0"},
        {"192.0.2.0/24", "192.0.1.255", "192.0.2.0", "192.0.2.255", "192.0.3.0"},
        {"192.0.2.128/25", "192.0.2.127", "192.0.2.128", "192.0.2.255", "192.0.3.0"},
        {"192.0.2.8/29", "192.0.2.7", "192.0.2.8", "192.0.2.15", "192.0.2.16"},
        {"192.0.2.254/31", "192.0.2.253", "192.0.2.254", "192.0.2.255", "192.0.3.0"},
        {"8000::/1", "7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "8000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
         NULL},
        {"2001:db8::/33", "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db8::",
         "2001:db8:7fff:ffff:ffff:ffff:ffff:ffff", "2001:db8:8000::"},
        {"2001:db8:0:8::/61", "2001:db8:0:7:ffff:ffff:ffff:ffff", "2001:db8:0:8::",
         "2001:db8:0:f:ffff:ffff:ffff:ffff", "2001:db8:0:10::"},
        {"2001:db8::/64", "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db8::", "2001:db8::ffff:ffff:ffff:ffff",
         "2001:db8:0:1::"},
        {"2001:db8::2/127", "2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4"},
        /* What is behind the prefix does not matter. */
        {"192.0.2.77/24", "192.0.1.255", "192.0.2.0", "192.0.2.255", "192.0.3.0"},
        {"2001:db8::77/64", "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db8::", "2001:db8::ffff:ffff:ffff:ffff",
         "2001:db8:0:1::"},
        /* The IPv6 form of an IPv4 network is the IPv4 network. */
        {"::ffff:192.0.2.1", "192.0.2.0", "192.0.2.1", "192.0.2.1", "192.0.2.2"},
        {"::ffff:192.0.2.0/120", "192.0.1.255", "192.0.2.0", "192.0.2.255", "192.0.3.0"},
        {"::ffff:192.0.2.128/121", "192.0.2.127", "192.0.2.128", "192.0.2.255", "192.0.3.0"},
        {"::ffff:192.0.2.1/128", "192.0.2.0", "192.0.2.1", "192.0.2.1", "192.0.2.2"},
        {"::ffff:0:0/96", NULL, "0.0.0.0", "255.255.255.255", NULL},
        {"::ffff:c000:201", "192.0.2.0", "192.0.2.1", "192.0.2.1", "192.0.2.2"},
};

START_TEST(boundaries) {
        const Range *row = &ranges[_i];
        _cleanup_(allow_done) Allow allow = parse(row->list);

        check_admits(&allow, row->list, row->first, true);
        check_admits(&allow, row->list, row->last, true);
        if (row->before)
                check_admits(&allow, row->list, row->before, false);
        if (row->behind)
                check_admits(&allow, row->list, row->behind, false);
}
END_TEST

/* Against the definition: two addresses are in the same network when their first bits are the same. */
START_TEST(every_prefix_length) {
        const char *base = _i == 0 ? "171.205.51.171" : "abcd:33ab:cd33:abcd:33ab:cd33:abcd:33ab";
        Address address = address_of(base);
        unsigned all = _i == 0 ? 32 : 128;

        for (unsigned bits = 0; bits <= all; bits++) {
                char list[64];
                Allow allow;

                (void) snprintf(list, sizeof list, "%s/%u", base, bits);
                allow = parse(list);
                ck_assert(allow_admits(&allow, &address, false));
                for (unsigned flipped = 0; flipped < all; flipped++) {
                        Address other = address;

                        other.ip[flipped / 8] ^= (uint8_t) (0x80 >> flipped % 8);
                        ck_assert_msg(allow_admits(&allow, &other, false) == (flipped >= bits),
                                      "%s, with bit %u changed", list, flipped);
                }
                allow_done(&allow);
        }
}
END_TEST

/* ---- Lists ---- */

typedef struct List {
        const char *list;
        const char *admitted[5], *refused[5];
} List;

static const List lists[] = {
        {"", {NULL}, {"10.0.0.1", "203.0.113.1", "127.0.0.1", "::1", "fd00::1"}},
        {" ,\t,, ", {NULL}, {"10.0.0.1", "203.0.113.1", "2001:db8::1", "fe80::1"}},
        {"local", {NULL}, {"10.0.0.1", "203.0.113.1", "127.0.0.1", "::1", "fd00::1"}},
        {"any", {"0.0.0.0", "203.0.113.1", "255.255.255.255", "::", "2001:db8::1"}, {NULL}},
        {"private", {"10.0.0.1", "192.168.1.1", "fd00::1", "fe80::1"}, {"203.0.113.1", "2001:db8::1", "127.0.0.1", "::1"}},
        /* They add up, in any order. */
        {"local,203.0.113.1", {"203.0.113.1"}, {"203.0.113.2", "10.0.0.1"}},
        {"private,203.0.113.0/24", {"10.0.0.1", "203.0.113.77"}, {"203.0.112.255", "2001:db8::1"}},
        {"203.0.113.0/24,private", {"10.0.0.1", "203.0.113.77"}, {"203.0.112.255", "2001:db8::1"}},
        {"local,any", {"203.0.113.1", "2001:db8::1"}, {NULL}},
        {"any,local", {"203.0.113.1", "2001:db8::1"}, {NULL}},
        {"any,192.0.2.1", {"203.0.113.1"}, {NULL}},
        {"private private", {"10.0.0.1", "fd00::1"}, {"203.0.113.1"}},
        {"192.0.2.1,2001:db8::/32", {"192.0.2.1", "2001:db8:ffff::1"}, {"192.0.2.2", "2001:db9::"}},
        /* Commas, blanks, or both. */
        {"192.0.2.1 192.0.2.3\t192.0.2.5", {"192.0.2.1", "192.0.2.3", "192.0.2.5"}, {"192.0.2.2", "192.0.2.4"}},
        {", 192.0.2.1 ,, 192.0.2.3 ,", {"192.0.2.1", "192.0.2.3"}, {"192.0.2.2"}},
        {"192.0.2.1,\t192.0.2.3", {"192.0.2.1", "192.0.2.3"}, {"192.0.2.2"}},
        /* A network of one family has nothing to do with the other. */
        {"0.0.0.0/0", {"203.0.113.1"}, {"::", "2001:db8::1", "::203.0.113.1"}},
        {"::/0", {"2001:db8::1"}, {"0.0.0.0", "203.0.113.1"}},
        {"192.0.2.0/24", {"192.0.2.1"}, {"c000:200::", "c000:201::1"}},
        {"c000:200::/24", {"c000:201::1"}, {"192.0.2.1"}},
};

START_TEST(whole_list) {
        const List *row = &lists[_i];
        _cleanup_(allow_done) Allow allow = parse(row->list);

        for (size_t i = 0; i < ARRAY_SIZE(row->admitted) && row->admitted[i]; i++)
                check_admits(&allow, row->list, row->admitted[i], true);
        for (size_t i = 0; i < ARRAY_SIZE(row->refused) && row->refused[i]; i++)
                check_admits(&allow, row->list, row->refused[i], false);
}
END_TEST

START_TEST(the_default_is_private) {
        ck_assert_str_eq(ALLOW_DEFAULT, "private");
}
END_TEST

/* Neither family, as for AF_UNIX or something unknown: only what is known to be on this host, or everything. */
START_TEST(no_address) {
        _cleanup_(allow_done) Allow all_nets = parse("0.0.0.0/0,::/0,private"), any = parse("any");
        const Address unix_address = {.family = AF_UNIX}, none = {};

        ck_assert(!allow_admits(&all_nets, &unix_address, false));
        ck_assert(!allow_admits(&all_nets, &none, false));
        ck_assert(allow_admits(&all_nets, &unix_address, true));
        ck_assert(allow_admits(&any, &unix_address, false));
        ck_assert(allow_admits(&any, &none, false));
}
END_TEST

/* ---- Errors ---- */

typedef struct Bad {
        const char *list, *bad;
} Bad;

static const Bad bads[] = {
        {"x", "x"},
        {"localhost", "localhost"},
        {"Private", "Private"},
        {"ANY", "ANY"},
        {"an", "an"},
        {"anyone", "anyone"},
        {"privat", "privat"},
        {"locale", "locale"},
        {"private/8", "private/8"},
        {"any/0", "any/0"},
        {"private;any", "private;any"},
        {"-", "-"},
        {"/", "/"},
        {"/24", "/24"},
        {"192.0.2", "192.0.2"},
        {"192.0.2.256", "192.0.2.256"},
        {"192.0.2.1.1", "192.0.2.1.1"},
        {"192.0.2.1:4369", "192.0.2.1:4369"},
        {"192.0.2.0/", "192.0.2.0/"},
        {"192.0.2.0/33", "192.0.2.0/33"},
        {"192.0.2.0/99", "192.0.2.0/99"},
        {"192.0.2.0/128", "192.0.2.0/128"},
        {"192.0.2.0/0024", "192.0.2.0/0024"},
        {"192.0.2.0/4294967296", "192.0.2.0/4294967296"},
        {"192.0.2.0/-1", "192.0.2.0/-1"},
        {"192.0.2.0/+1", "192.0.2.0/+1"},
        {"192.0.2.0/2x", "192.0.2.0/2x"},
        {"192.0.2.0/24/24", "192.0.2.0/24/24"},
        {"192.0.2.0/255.255.255.0", "192.0.2.0/255.255.255.0"},
        {"2001:db8::/", "2001:db8::/"},
        {"2001:db8::/129", "2001:db8::/129"},
        {"2001:db8::/999", "2001:db8::/999"},
        {"2001:db8::/1280", "2001:db8::/1280"},
        {"2001:db8::g", "2001:db8::g"},
        {"[2001:db8::1]", "[2001:db8::1]"},
        {"fe80::1%lo", "fe80::1%lo"},
        {"1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7:8:9"},
        {"1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb:cccc", "1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb:cccc"},
        /* Wider than all of IPv4: what should that be? */
        {"::ffff:192.0.2.0/95", "::ffff:192.0.2.0/95"},
        {"::ffff:192.0.2.0/24", "::ffff:192.0.2.0/24"},
        {"::ffff:0:0/0", "::ffff:0:0/0"},
        /* The one of several, whatever stands before and behind. */
        {"private,x", "x"},
        {"x,private", "x"},
        {"any,x", "x"},
        {"192.0.2.1, 192.0.2.0/33 ,private", "192.0.2.0/33"},
        {"private\n", "private\n"},
        {"10.0.0.1,y,x", "y"},
};

/* The item is named, exactly, where it stands in the list; and nothing is returned. */
START_TEST(bad_item) {
        const Bad *row = &bads[_i];
        _cleanup_free_ char *copy = (char *) unit_copy(row->list, strlen(row->list) + 1);
        const char *bad = NULL;
        size_t bad_len = 0;
        Allow allow, before;

        memset(&allow, 0xa5, sizeof allow);
        memcpy(&before, &allow, sizeof before);
        ck_assert_msg(allow_parse(copy, &allow, &bad, &bad_len) == -EINVAL, "\"%s\" is taken", row->list);
        ck_assert_mem_eq(&allow, &before, sizeof before);
        ck_assert_ptr_nonnull(bad);
        ck_assert(bad >= copy && bad + bad_len <= copy + strlen(copy));
        ck_assert_uint_eq(bad_len, strlen(row->bad));
        ck_assert_mem_eq(bad, row->bad, bad_len);
}
END_TEST

/* Lists are of any length. */
START_TEST(many) {
        char list[1000 * sizeof "10.255.255.0/24,"];
        size_t n = 0;
        Allow allow;

        for (unsigned i = 0; i < 1000; i++)
                n += (size_t) snprintf(list + n, sizeof list - n, "%u.%u.0.0/16,", 20 + i / 250, i % 250);
        allow = parse(list);
        ck_assert_uint_eq(allow.n_nets, 1000);
        for (unsigned i = 0; i < 1000; i++) {
                const Address address = {.family = AF_INET, .ip = {(uint8_t) (20 + i / 250), (uint8_t) (i % 250), 7, 7}};

                ck_assert(allow_admits(&allow, &address, false));
        }
        check_admits(&allow, "many", "20.250.0.0", false);
        check_admits(&allow, "many", "24.0.0.0", false);
        allow_done(&allow);
        ck_assert_ptr_null(allow.nets);
        ck_assert_uint_eq(allow.n_nets, 0);
        allow_done(&allow);
}
END_TEST

int main(void) {
        Suite *suite = suite_create("allow");
        TCase *nets = unit_case(suite, "networks"), *parser = unit_case(suite, "lists");

        tcase_add_loop_test(nets, boundaries, 0, ARRAY_SIZE(ranges));
        tcase_add_loop_test(nets, every_prefix_length, 0, 2);
        tcase_add_loop_test(parser, whole_list, 0, ARRAY_SIZE(lists));
        tcase_add_test(parser, the_default_is_private);
        tcase_add_test(parser, no_address);
        tcase_add_loop_test(parser, bad_item, 0, ARRAY_SIZE(bads));
        tcase_add_test(parser, many);
        return unit_main(suite);
}
