/* SPDX-License-Identifier: Apache-2.0 */
#include "options.h"

#include <arpa/inet.h>
#include <stdio.h>

#include "unit.h"

/* The settings of the policy: --allow, --reserve, --max-nodes-per-user and their variables. */

enum { WORDS_MAX = 4 };

typedef const char *Words[WORDS_MAX];

static int parse(const Words args, const Words environment, Options *ret, char error[OPTIONS_ERROR_MAX]) {
        char *argv[WORDS_MAX + 2] = {(char *) "epmd"}, *env[WORDS_MAX + 1] = {};
        int argc = 1;

        for (size_t i = 0; i < WORDS_MAX && args[i]; i++)
                argv[argc++] = (char *) args[i];
        for (size_t i = 0; i < WORDS_MAX && environment[i]; i++)
                env[i] = (char *) environment[i];
        return options_parse(argc, argv, env, ret, error);
}

static Address address_of(const char *text) {
        Address address = {.family = strchr(text, ':') ? AF_INET6 : AF_INET};

        ck_assert_int_eq(inet_pton(address.family, text, address.ip), 1);
        return address;
}

/* ---- What the settings say ---- */

typedef struct Good {
        Words args, environment;
        const char *allow, *reserve;
        size_t user_nodes_max;
        const char *admitted, *refused; /* an address each, or NULL */
} Good;

#define PRIVATE "10.0.0.1", "203.0.113.1"

static const Good goods[] = {
        {{NULL}, {NULL}, "private", "", 0, PRIVATE},
        /* Each in each spelling. */
        {{"-allow", "any"}, {NULL}, "any", "", 0, "203.0.113.1", NULL},
        {{"--allow", "any"}, {NULL}, "any", "", 0, "203.0.113.1", NULL},
        {{"-allow=any"}, {NULL}, "any", "", 0, "203.0.113.1", NULL},
        {{"--allow=any"}, {NULL}, "any", "", 0, "203.0.113.1", NULL},
        {{"-reserve", "a:1 b:2"}, {NULL}, "private", "a:1 b:2", 0, PRIVATE},
        {{"--reserve=a:1 b:2"}, {NULL}, "private", "a:1 b:2", 0, PRIVATE},
        {{"-max-nodes-per-user", "7"}, {NULL}, "private", "", 7, PRIVATE},
        {{"--max-nodes-per-user=7"}, {NULL}, "private", "", 7, PRIVATE},
        {{NULL}, {"EPMD_ALLOW=any"}, "any", "", 0, "203.0.113.1", NULL},
        {{NULL}, {"EPMD_RESERVE=a:1 b:2"}, "private", "a:1 b:2", 0, PRIVATE},
        {{NULL}, {"EPMD_MAX_NODES_PER_USER=7"}, "private", "", 7, PRIVATE},
        /* Options win, and the last one does. */
        {{"--allow=local"}, {"EPMD_ALLOW=any"}, "local", "", 0, NULL, "10.0.0.1"},
        {{"--allow=any", "--allow=local"}, {NULL}, "local", "", 0, NULL, "203.0.113.1"},
        {{"--allow=local", "--allow=203.0.113.1"}, {NULL}, "203.0.113.1", "", 0, "203.0.113.1", "10.0.0.1"},
        {{"--reserve=a:1"}, {"EPMD_RESERVE=b:2"}, "private", "a:1", 0, PRIVATE},
        {{"--reserve=a:1", "--reserve=c:3"}, {NULL}, "private", "c:3", 0, PRIVATE},
        {{"--max-nodes-per-user=7"}, {"EPMD_MAX_NODES_PER_USER=8"}, "private", "", 7, PRIVATE},
        {{"--max-nodes-per-user=7", "--max-nodes-per-user=9"}, {NULL}, "private", "", 9, PRIVATE},
        /* An empty variable is none; an empty list is one without anybody. */
        {{NULL}, {"EPMD_ALLOW="}, "private", "", 0, PRIVATE},
        {{NULL}, {"EPMD_RESERVE="}, "private", "", 0, PRIVATE},
        {{NULL}, {"EPMD_MAX_NODES_PER_USER="}, "private", "", 0, PRIVATE},
        {{"--allow="}, {NULL}, "", "", 0, NULL, "10.0.0.1"},
        {{"--reserve="}, {"EPMD_RESERVE=b:2"}, "private", "", 0, PRIVATE},
        /* Other variables are not these. */
        {{NULL}, {"EPMD_ALLOWED=any", "XEPMD_ALLOW=any", "EPMD_ALLO=any", "EPMD_ALLOW"}, "private", "", 0, PRIVATE},
        {{NULL}, {"EPMD_MAX_NODES_PER_USERS=1", "ERL_EPMD_RESERVE=a:1", "ERL_EPMD_ALLOW=any"}, "private", "", 0, PRIVATE},
        /* At the limits. */
        {{"--max-nodes-per-user=1"}, {NULL}, "private", "", 1, PRIVATE},
        {{"--max-nodes-per-user=2147483647"}, {NULL}, "private", "", 2147483647, PRIVATE},
        /* All together. */
        {{"-allow", "192.0.2.0/24,2001:db8::/32", "--reserve=a:1"}, {"EPMD_MAX_NODES_PER_USER=7"},
         "192.0.2.0/24,2001:db8::/32", "a:1", 7, "2001:db8::1", "10.0.0.1"},
};

START_TEST(good) {
        const Good *row = &goods[_i];
        char error[OPTIONS_ERROR_MAX] = "";
        Options options;

        ck_assert_msg(parse(row->args, row->environment, &options, error) == 0, "row %d: %s", _i, error);
        ck_assert_str_eq(options.allow_text, row->allow);
        ck_assert_str_eq(options.reserve, row->reserve);
        ck_assert_uint_eq(options.user_nodes_max, row->user_nodes_max);
        if (row->admitted) {
                const Address address = address_of(row->admitted);
                ck_assert(allow_admits(&options.allow, &address, false));
        }
        if (row->refused) {
                const Address address = address_of(row->refused);
                ck_assert(!allow_admits(&options.allow, &address, false));
                ck_assert(allow_admits(&options.allow, &address, true));
        }
        options_done(&options);
        ck_assert_ptr_null(options.allow.nets);
}
END_TEST

/* ---- Errors ---- */

typedef struct Bad {
        Words args, environment;
        const char *says[3]; /* what the message names */
} Bad;

static const Bad bads[] = {
        {{"-allow"}, {NULL}, {"-allow", "value"}},
        {{"--reserve"}, {NULL}, {"--reserve", "value"}},
        {{"-max-nodes-per-user"}, {NULL}, {"-max-nodes-per-user", "value"}},
        {{"-allow", "x"}, {NULL}, {"-allow", "\"x\"", "private"}},
        {{"-allow", "private,192.0.2.0/33"}, {NULL}, {"-allow", "\"192.0.2.0/33\"", "192.0.2.0/24"}},
        {{NULL}, {"EPMD_ALLOW=any, host.example"}, {"EPMD_ALLOW", "\"host.example\"", "network"}},
        /* What nobody uses is wrong all the same, or it would be found out at the worst moment. */
        {{"--allow=any"}, {"EPMD_ALLOW=x"}, {"EPMD_ALLOW", "\"x\""}},
        {{"--allow=x", "--allow=any"}, {NULL}, {"--allow", "\"x\""}},
        {{"--allow=any", "--allow=x"}, {NULL}, {"--allow", "\"x\""}},
        {{"--allow=any", "-nosuch"}, {NULL}, {"-nosuch"}},
        {{"-allo", "any"}, {NULL}, {"-allo", "unknown"}},
        {{"-max-nodes", "7"}, {NULL}, {"-max-nodes", "unknown"}},
        {{"-max_nodes_per_user", "7"}, {NULL}, {"-max_nodes_per_user", "unknown"}},
        {{NULL}, {"EPMD_MAX_NODES_PER_USER=0"}, {"EPMD_MAX_NODES_PER_USER", "\"0\"", "1"}},
        {{NULL}, {"EPMD_MAX_NODES_PER_USER=half"}, {"EPMD_MAX_NODES_PER_USER", "\"half\"", "number"}},
        {{"--max-nodes-per-user=7"}, {"EPMD_MAX_NODES_PER_USER=x"}, {"EPMD_MAX_NODES_PER_USER", "\"x\""}},
};

static const char *const bad_counts[] = {
        "0", "-1", "+1", "", " 1", "1 ", "\t1", "1x", "x", "0x10", "1.5", "1e3", "2147483648", "4294967297",
        "18446744073709551617",
};

/* One line, which names what is wrong; and nothing is returned. */
static void check_error(const Words args, const Words environment, const char *const *says, size_t n) {
        char error[OPTIONS_ERROR_MAX] = "";
        Options options, before;

        memset(&options, 0xa5, sizeof options);
        memcpy(&before, &options, sizeof before);
        ck_assert_msg(parse(args, environment, &options, error) == -EINVAL, "%s %s is taken", args[0] ? args[0] : "",
                      environment[0] ? environment[0] : "");
        ck_assert_mem_eq(&options, &before, sizeof before);
        for (size_t i = 0; i < n && says[i]; i++)
                ck_assert_msg(strstr(error, says[i]), "\"%s\" does not say %s", error, says[i]);
        ck_assert_ptr_null(strchr(error, '\n'));
}

START_TEST(bad) {
        check_error(bads[_i].args, bads[_i].environment, bads[_i].says, ARRAY_SIZE(bads[_i].says));
}
END_TEST

START_TEST(bad_count) {
        const char *says[] = {"-max-nodes-per-user", "number"};

        check_error((Words){"-max-nodes-per-user", bad_counts[_i]}, (Words){NULL}, says, ARRAY_SIZE(says));
}
END_TEST

/* What is wrong may be long; it is still one message. */
START_TEST(long_item) {
        char list[2000];
        const char *says[] = {"-allow", "aaaa"};

        memset(list, 'a', sizeof list - 1);
        list[sizeof list - 1] = 0;
        check_error((Words){"-allow", list}, (Words){NULL}, says, ARRAY_SIZE(says));
}
END_TEST

START_TEST(help) {
        ck_assert_ptr_nonnull(strstr(options_help(), "-allow LIST"));
        ck_assert_ptr_nonnull(strstr(options_help(), "-reserve LIST"));
        ck_assert_ptr_nonnull(strstr(options_help(), "-max-nodes-per-user"));
        ck_assert_ptr_nonnull(strstr(options_help(), "EPMD_ALLOW"));
        ck_assert_ptr_nonnull(strstr(options_help(), "EPMD_RESERVE"));
        ck_assert_ptr_nonnull(strstr(options_help(), "EPMD_MAX_NODES_PER_USER"));
}
END_TEST

int main(void) {
        Suite *suite = suite_create("settings");
        TCase *tcase = unit_case(suite, "settings"), *errors = unit_case(suite, "errors");

        tcase_add_loop_test(tcase, good, 0, ARRAY_SIZE(goods));
        tcase_add_test(tcase, help);
        tcase_add_loop_test(errors, bad, 0, ARRAY_SIZE(bads));
        tcase_add_loop_test(errors, bad_count, 0, ARRAY_SIZE(bad_counts));
        tcase_add_test(errors, long_item);
        return unit_main(suite);
}
