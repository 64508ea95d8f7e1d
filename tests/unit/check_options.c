/* SPDX-License-Identifier: Apache-2.0 */
#include "options.h"

#include <arpa/inet.h>
#include <malloc.h>
#include <stdio.h>

#include "unit.h"

enum { ARGS_MAX = 8 };

/* As environ: the rows of most tables have none. */
typedef const char *Words[ARGS_MAX];

static int parse(const Words args, const Words environment, Options *ret, char error[OPTIONS_ERROR_MAX]) {
        char *argv[ARGS_MAX + 2] = {(char *) "epmd"}, *env[ARGS_MAX + 1] = {};
        int argc = 1;

        for (size_t i = 0; i < ARGS_MAX && args[i]; i++)
                argv[argc++] = (char *) args[i];
        for (size_t i = 0; i < ARGS_MAX && environment[i]; i++)
                env[i] = (char *) environment[i];
        return options_parse(argc, argv, env, ret, error);
}

/* What nothing at all means. */
static const Options defaults = {
        .command = COMMAND_SERVE, .port = OPTIONS_DEFAULT_PORT, .packet_timeout = 60 * USEC_PER_SEC};

static void check_same(const Options *got, const Options *want, const char *label) {
        ck_assert_msg(got->command == want->command, "%s: command %d", label, got->command);
        ck_assert_msg(!got->stop_name == !want->stop_name &&
                              (!want->stop_name || strcmp(got->stop_name, want->stop_name) == 0),
                      "%s: stop_name", label);
        ck_assert_msg(got->daemon == want->daemon, "%s: daemon", label);
        ck_assert_msg(got->systemd == want->systemd, "%s: systemd", label);
        ck_assert_msg(got->relaxed == want->relaxed, "%s: relaxed", label);
        ck_assert_msg(got->verbosity == want->verbosity, "%s: verbosity %d", label, got->verbosity);
        ck_assert_msg(got->port == want->port, "%s: port %u", label, got->port);
        ck_assert_msg(got->n_addresses == want->n_addresses, "%s: %zu addresses", label, got->n_addresses);
        ck_assert_msg(got->packet_timeout == want->packet_timeout, "%s: packet_timeout", label);
        ck_assert_msg(got->idle_timeout == want->idle_timeout, "%s: idle_timeout", label);
        ck_assert_msg(got->delay_accept == want->delay_accept, "%s: delay_accept %u", label, got->delay_accept);
        ck_assert_msg(got->delay_write == want->delay_write, "%s: delay_write %u", label, got->delay_write);
}

START_TEST(nothing) {
        Options options;
        char error[OPTIONS_ERROR_MAX] = "untouched";

        ck_assert_int_eq(parse((Words){NULL}, (Words){NULL}, &options, error), 0);
        check_same(&options, &defaults, "nothing");
        ck_assert_ptr_null(options.addresses);
        ck_assert_str_eq(error, "untouched");
        options_done(&options);
}
END_TEST

/* ---- Each option in each spelling ---- */

typedef struct Option {
        const char *word, *value; /* without dashes; NULL: takes none */
        Options want;
} Option;

#define MINIMUM .port = OPTIONS_DEFAULT_PORT, .packet_timeout = 60 * USEC_PER_SEC

static const Option options_rows[] = {
        {"debug", NULL, {MINIMUM, .verbosity = 1}},
        {"daemon", NULL, {MINIMUM, .daemon = true}},
        {"relaxed_command_check", NULL, {MINIMUM, .relaxed = true}},
        {"relaxed-command-check", NULL, {MINIMUM, .relaxed = true}},
        {"packet_timeout", "7", {.port = OPTIONS_DEFAULT_PORT, .packet_timeout = 7 * USEC_PER_SEC}},
        {"packet-timeout", "7", {.port = OPTIONS_DEFAULT_PORT, .packet_timeout = 7 * USEC_PER_SEC}},
        {"delay_accept", "7", {MINIMUM, .delay_accept = 7}},
        {"delay-accept", "7", {MINIMUM, .delay_accept = 7}},
        {"delay_write", "7", {MINIMUM, .delay_write = 7}},
        {"delay-write", "7", {MINIMUM, .delay_write = 7}},
        {"address", "192.0.2.1", {MINIMUM, .n_addresses = 1}},
        {"port", "4370", {.port = 4370, .packet_timeout = 60 * USEC_PER_SEC}},
        {"systemd", NULL, {MINIMUM, .systemd = true, .idle_timeout = 300 * USEC_PER_SEC}},
        /* Of no use without -systemd, and no error either. */
        {"idle-timeout", "7", {MINIMUM}},
        {"names", NULL, {MINIMUM, .command = COMMAND_NAMES}},
        {"dump", NULL, {MINIMUM, .command = COMMAND_DUMP}},
        {"kill", NULL, {MINIMUM, .command = COMMAND_KILL}},
        {"stop", "rabbit", {MINIMUM, .command = COMMAND_STOP, .stop_name = "rabbit"}},
        {"started", NULL, {MINIMUM, .command = COMMAND_STARTED}},
        {"help", NULL, {MINIMUM, .command = COMMAND_HELP}},
        {"version", NULL, {MINIMUM, .command = COMMAND_VERSION}},
};

/* How an option is written: its dashes, and what is between it and its value; NULL: they are two words. */
typedef struct Spelling {
        const char *dashes, *between;
} Spelling;

static const Spelling spellings[] = {{"-", NULL}, {"--", NULL}, {"-", "="}, {"--", "="}};

START_TEST(each_option) {
        const Option *row = &options_rows[(size_t) _i / ARRAY_SIZE(spellings)];
        const Spelling *spelling = &spellings[(size_t) _i % ARRAY_SIZE(spellings)];
        bool joined = row->value && spelling->between;
        char word[64], error[OPTIONS_ERROR_MAX];
        Options options;

        (void) snprintf(word, sizeof word, "%s%s%s%s", spelling->dashes, row->word, joined ? spelling->between : "",
                        joined ? row->value : "");
        ck_assert_msg(parse((Words){word, joined ? NULL : row->value}, (Words){NULL}, &options, error) == 0, "%s: %s",
                      word, error);
        check_same(&options, &row->want, word);
        options_done(&options);
}
END_TEST

/* The same option, one letter short: a daemon must not end by a typing error. */
START_TEST(no_abbreviation) {
        const Option *row = &options_rows[_i];

        for (size_t n = 1; n < strlen(row->word); n++)
                for (size_t i = 0; i < ARRAY_SIZE(spellings); i++) {
                        const Spelling *spelling = &spellings[i];
                        bool joined = row->value && spelling->between;
                        char word[64], error[OPTIONS_ERROR_MAX] = "";
                        Options options;

                        (void) snprintf(word, sizeof word, "%s%.*s%s%s", spelling->dashes, (int) n, row->word,
                                        joined ? spelling->between : "", joined ? row->value : "");
                        /* -d is a word of its own. */
                        if (strcmp(word, "-d") == 0)
                                continue;
                        ck_assert_msg(parse((Words){word, joined ? NULL : row->value}, (Words){NULL}, &options,
                                            error) == -EINVAL,
                                      "%s is taken", word);
                        ck_assert_ptr_nonnull(strstr(error, word));
                }
}
END_TEST

/* ---- Several options, values, the environment ---- */

typedef struct Good {
        Words args, environment;
        Options want;
} Good;

static const Good goods[] = {
        {{"-d"}, {NULL}, {MINIMUM, .verbosity = 1}},
        {{"-dd"}, {NULL}, {MINIMUM, .verbosity = 2}},
        {{"-ddd"}, {NULL}, {MINIMUM, .verbosity = 3}},
        {{"-d", "-d", "-debug", "--debug"}, {NULL}, {MINIMUM, .verbosity = 4}},
        {{"-dd", "-names"}, {NULL}, {MINIMUM, .verbosity = 2, .command = COMMAND_NAMES}},
        /* In any order. */
        {{"-port", "4370", "-names"},
         {NULL},
         {.port = 4370, .packet_timeout = 60 * USEC_PER_SEC, .command = COMMAND_NAMES}},
        {{"-names", "-port", "4370"},
         {NULL},
         {.port = 4370, .packet_timeout = 60 * USEC_PER_SEC, .command = COMMAND_NAMES}},
        {{"-stop", "a", "--port=4370", "-d"},
         {NULL},
         {.port = 4370,
          .packet_timeout = 60 * USEC_PER_SEC,
          .command = COMMAND_STOP,
          .stop_name = "a",
          .verbosity = 1}},
        /* The last one counts. */
        {{"-port", "1", "-port", "2"}, {NULL}, {.port = 2, .packet_timeout = 60 * USEC_PER_SEC}},
        {{"-address", "192.0.2.1,192.0.2.2", "-address", "192.0.2.3"}, {NULL}, {MINIMUM, .n_addresses = 1}},
        {{"-names", "-names"}, {NULL}, {MINIMUM, .command = COMMAND_NAMES}},
        /* Who asks for help gets help, whatever else is there. */
        {{"-names", "-help"}, {NULL}, {MINIMUM, .command = COMMAND_HELP}},
        {{"-help", "-names"}, {NULL}, {MINIMUM, .command = COMMAND_HELP}},
        {{"-kill", "-version"}, {NULL}, {MINIMUM, .command = COMMAND_VERSION}},
        {{"-version", "-kill"}, {NULL}, {MINIMUM, .command = COMMAND_VERSION}},
        /* A value may look like an option. */
        {{"-stop", "-names"}, {NULL}, {MINIMUM, .command = COMMAND_STOP, .stop_name = "-names"}},
        {{"-stop="}, {NULL}, {MINIMUM, .command = COMMAND_STOP, .stop_name = ""}},
        {{"--stop=a=b"}, {NULL}, {MINIMUM, .command = COMMAND_STOP, .stop_name = "a=b"}},
        {{"-names", "--"}, {NULL}, {MINIMUM, .command = COMMAND_NAMES}},
        /* Values at their limits. */
        {{"-port", "1"}, {NULL}, {.port = 1, .packet_timeout = 60 * USEC_PER_SEC}},
        {{"-port", "65535"}, {NULL}, {.port = 65535, .packet_timeout = 60 * USEC_PER_SEC}},
        {{"-packet_timeout", "1"}, {NULL}, {.port = OPTIONS_DEFAULT_PORT, .packet_timeout = USEC_PER_SEC}},
        {{"-packet_timeout", "1.5"}, {NULL}, {.port = OPTIONS_DEFAULT_PORT, .packet_timeout = 1500000}},
        {{"-packet_timeout", "31536000"},
         {NULL},
         {.port = OPTIONS_DEFAULT_PORT, .packet_timeout = 31536000 * USEC_PER_SEC}},
        {{"-systemd", "-idle-timeout", "0"}, {NULL}, {MINIMUM, .systemd = true}},
        {{"-systemd", "-idle-timeout", "0.25"}, {NULL}, {MINIMUM, .systemd = true, .idle_timeout = 250000}},
        {{"--idle-timeout=31536000", "--systemd"},
         {NULL},
         {MINIMUM, .systemd = true, .idle_timeout = 31536000 * USEC_PER_SEC}},
        {{"-delay_accept", "0", "-delay_write", "0"}, {NULL}, {MINIMUM}},
        {{"-delay_accept", "31536000"}, {NULL}, {MINIMUM, .delay_accept = 31536000}},
        /* The environment, and what options make of it. */
        {{NULL}, {"ERL_EPMD_PORT=4370"}, {.port = 4370, .packet_timeout = 60 * USEC_PER_SEC}},
        {{"-port", "4371"}, {"ERL_EPMD_PORT=4370"}, {.port = 4371, .packet_timeout = 60 * USEC_PER_SEC}},
        {{"-names"}, {"ERL_EPMD_PORT=65535"},
         {.port = 65535, .packet_timeout = 60 * USEC_PER_SEC, .command = COMMAND_NAMES}},
        {{NULL}, {"ERL_EPMD_PORT="}, {MINIMUM}},
        {{NULL}, {"ERL_EPMD_PORTS=1", "XERL_EPMD_PORT=2", "ERL_EPMD_POR=3", "ERL_EPMD_PORT"}, {MINIMUM}},
        {{NULL}, {"ERL_EPMD_ADDRESS=192.0.2.1"}, {MINIMUM, .n_addresses = 1}},
        {{NULL}, {"ERL_EPMD_ADDRESS="}, {MINIMUM}},
        {{"-address", "192.0.2.1"}, {"ERL_EPMD_ADDRESS=192.0.2.2,192.0.2.3"}, {MINIMUM, .n_addresses = 1}},
        {{"-address", ""}, {"ERL_EPMD_ADDRESS=192.0.2.2"}, {MINIMUM}},
        {{NULL}, {"ERL_EPMD_RELAXED_COMMAND_CHECK=1"}, {MINIMUM, .relaxed = true}},
        {{NULL}, {"ERL_EPMD_RELAXED_COMMAND_CHECK=0"}, {MINIMUM, .relaxed = true}},
        {{NULL}, {"ERL_EPMD_RELAXED_COMMAND_CHECK="}, {MINIMUM, .relaxed = true}},
        {{"-relaxed_command_check"}, {"ERL_EPMD_RELAXED_COMMAND_CHECK=1"}, {MINIMUM, .relaxed = true}},
        {{NULL}, {"ERL_EPMD_RELAXED=1"}, {MINIMUM}},
        {{"-port", "1"}, {"ERL_EPMD_PORT=x"}, {.port = 1, .packet_timeout = 60 * USEC_PER_SEC}},
        /* What only a daemon needs, no command looks at. */
        {{"-names"}, {"ERL_EPMD_ADDRESS=localhost"}, {MINIMUM, .command = COMMAND_NAMES}},
        {{"-dump"}, {"EPMD_ALLOW=foo"}, {MINIMUM, .command = COMMAND_DUMP}},
        {{"-started"}, {"EPMD_MAX_NODES_PER_USER=0"}, {MINIMUM, .command = COMMAND_STARTED}},
        {{"-kill", "-address", "x"}, {NULL}, {MINIMUM, .command = COMMAND_KILL}},
        {{"-stop", "a", "-allow", "x"}, {NULL}, {MINIMUM, .command = COMMAND_STOP, .stop_name = "a"}},
        {{"-help"}, {"ERL_EPMD_PORT=x"}, {MINIMUM, .command = COMMAND_HELP}},
        {{"-version"}, {"ERL_EPMD_PORT=0"}, {MINIMUM, .command = COMMAND_VERSION}},
        {{"-d"},
         {"PATH=/bin", "ERL_EPMD_RELAXED_COMMAND_CHECK=true", "ERL_EPMD_ADDRESS=::1 192.0.2.1", "ERL_EPMD_PORT=1"},
         {.port = 1, .packet_timeout = 60 * USEC_PER_SEC, .relaxed = true, .n_addresses = 2, .verbosity = 1}},
};

START_TEST(good) {
        const Good *row = &goods[_i];
        char label[128], error[OPTIONS_ERROR_MAX] = "";
        Options options;

        (void) snprintf(label, sizeof label, "%s %s, %s", row->args[0] ? row->args[0] : "",
                        row->args[0] && row->args[1] ? row->args[1] : "",
                        row->environment[0] ? row->environment[0] : "no environment");
        ck_assert_msg(parse(row->args, row->environment, &options, error) == 0, "%s: %s", label, error);
        check_same(&options, &row->want, label);
        ck_assert_str_eq(error, "");
        options_done(&options);
        ck_assert_ptr_null(options.addresses);
        ck_assert_uint_eq(options.n_addresses, 0);
}
END_TEST

/* ---- Addresses ---- */

typedef struct List {
        const char *list;
        const char *want[4];
} List;

static const List lists[] = {
        {"192.0.2.1", {"192.0.2.1"}},
        {"::1", {"::1"}},
        {"0.0.0.0,::", {"0.0.0.0", "::"}},
        {"192.0.2.1,2001:db8::1", {"192.0.2.1", "2001:db8::1"}},
        {"192.0.2.1 2001:db8::1", {"192.0.2.1", "2001:db8::1"}},
        {", 192.0.2.1 ,, ::1 ,", {"192.0.2.1", "::1"}},
        {"::,::,::,::", {"::", "::", "::", "::"}},
        {"2001:db8:1111:2222:3333:4444:5555:6666", {"2001:db8:1111:2222:3333:4444:5555:6666"}},
        {"1111:2222:3333:4444:5555:6666:255.255.255.255", {"1111:2222:3333:4444:5555:6666:ffff:ffff"}},
        {"", {NULL}},
        {" ,, ", {NULL}},
};

static void check_list(const List *row, const Options *options) {
        size_t n = 0;

        for (; n < ARRAY_SIZE(row->want) && row->want[n]; n++) {
                uint8_t ip[16] = {};
                bool ipv6 = strchr(row->want[n], ':');

                ck_assert_int_eq(inet_pton(ipv6 ? AF_INET6 : AF_INET, row->want[n], ip), 1);
                ck_assert_uint_lt(n, options->n_addresses);
                ck_assert_uint_eq(options->addresses[n].family, ipv6 ? AF_INET6 : AF_INET);
                ck_assert_mem_eq(options->addresses[n].ip, ip, sizeof ip);
                /* Wherever -port stands. */
                ck_assert_uint_eq(options->addresses[n].port, 4370);
        }
        ck_assert_uint_eq(options->n_addresses, n);
}

START_TEST(addresses) {
        const List *row = &lists[_i];
        char error[OPTIONS_ERROR_MAX], variable[128];
        Options options;

        ck_assert_int_eq(parse((Words){"-address", row->list, "-port", "4370"}, (Words){NULL}, &options, error), 0);
        check_list(row, &options);
        options_done(&options);
        ck_assert_int_eq(parse((Words){"-port", "4370", "-address", row->list}, (Words){NULL}, &options, error), 0);
        check_list(row, &options);
        options_done(&options);
        (void) snprintf(variable, sizeof variable, "ERL_EPMD_ADDRESS=%s", row->list);
        ck_assert_int_eq(parse((Words){"-port", "4370"}, (Words){variable}, &options, error), 0);
        check_list(row, &options);
        options_done(&options);
}
END_TEST

/* ---- Errors ---- */

typedef struct Bad {
        Words args, environment;
        const char *says[3]; /* what the message names */
} Bad;

static const Bad bads[] = {
        {{"-nosuch"}, {NULL}, {"-nosuch", "unknown"}},
        {{"--nosuch=1"}, {NULL}, {"--nosuch", "unknown"}},
        {{"-k"}, {NULL}, {"-k", "unknown"}},
        {{"-na"}, {NULL}, {"-na", "unknown"}},
        {{"--kil"}, {NULL}, {"--kil", "unknown"}},
        {{"--d"}, {NULL}, {"--d", "unknown"}},
        {{"-dk"}, {NULL}, {"-dk", "unknown"}},
        {{"-dkill"}, {NULL}, {"-dkill", "unknown"}},
        {{"-kd"}, {NULL}, {"-kd", "unknown"}},
        {{"-x"}, {NULL}, {"-x", "unknown"}},
        {{"-D"}, {NULL}, {"-D", "unknown"}},
        {{"-Names"}, {NULL}, {"-Names", "unknown"}},
        {{"-:"}, {NULL}, {"-:"}},
        {{"-="}, {NULL}, {"-="}},
        {{"--="}, {NULL}, {"--="}},
        {{"---names"}, {NULL}, {"---names"}},
        {{"-idle_timeout", "1"}, {NULL}, {"-idle_timeout", "unknown"}},
        {{"-relaxed-command_check"}, {NULL}, {"-relaxed-command_check", "unknown"}},
        {{"-names=1"}, {NULL}, {"-names=1"}},
        {{"--daemon=yes"}, {NULL}, {"--daemon=yes"}},
        /* A good option before and after does not help. */
        {{"-names", "-k"}, {NULL}, {"-k"}},
        {{"-k", "-names"}, {NULL}, {"-k"}},
        {{"-dd", "-k"}, {NULL}, {"-k"}},
        {{"-port"}, {NULL}, {"-port", "value"}},
        {{"--port"}, {NULL}, {"--port", "value"}},
        {{"-stop"}, {NULL}, {"-stop", "value"}},
        {{"-address"}, {NULL}, {"-address", "value"}},
        {{"-names", "-packet_timeout"}, {NULL}, {"-packet_timeout", "value"}},
        {{"-idle-timeout"}, {NULL}, {"-idle-timeout", "value"}},
        {{"-delay_accept"}, {NULL}, {"-delay_accept", "value"}},
        {{"-delay-write"}, {NULL}, {"-delay-write", "value"}},
        {{"rabbit"}, {NULL}, {"rabbit"}},
        {{"-names", "rabbit"}, {NULL}, {"rabbit"}},
        {{"names"}, {NULL}, {"names"}},
        {{""}, {NULL}, {"\"\""}},
        {{"-"}, {NULL}, {"\"-\""}},
        {{"--", "-names"}, {NULL}, {"-names"}},
        {{"-kill", "-names"}, {NULL}, {"command"}},
        {{"-names", "-dump"}, {NULL}, {"command"}},
        {{"-stop", "a", "-started"}, {NULL}, {"command"}},
        {{"-started", "-kill"}, {NULL}, {"command"}},
        {{"-systemd", "-daemon"}, {NULL}, {"-systemd", "-daemon"}},
        {{"-daemon", "-address", "::1", "-systemd"}, {NULL}, {"-systemd", "-daemon"}},
        {{NULL}, {"ERL_EPMD_PORT=x"}, {"ERL_EPMD_PORT", "\"x\"", "65535"}},
        {{NULL}, {"ERL_EPMD_PORT=70000"}, {"ERL_EPMD_PORT", "\"70000\""}},
        {{NULL}, {"ERL_EPMD_PORT=0"}, {"ERL_EPMD_PORT"}},
        {{"-names"}, {"ERL_EPMD_PORT=x"}, {"ERL_EPMD_PORT", "\"x\"", "65535"}},
        {{NULL}, {"ERL_EPMD_ADDRESS=::1,host"}, {"ERL_EPMD_ADDRESS", "\"host\""}},
        {{"-daemon", "-address", "::1"}, {"ERL_EPMD_ADDRESS=x"}, {"ERL_EPMD_ADDRESS", "\"x\""}},
        /* Behind addresses that were good. */
        {{"-address", "::1,192.0.2.1", "-port", "0"}, {NULL}, {"-port"}},
        {{"-address", "::1", "-address", "x"}, {NULL}, {"\"x\""}},
        {{"-address", "::1", "rabbit"}, {NULL}, {"rabbit"}},
        {{"-nosuch"}, {"ERL_EPMD_ADDRESS=::1"}, {"-nosuch"}},
};

static const char *const bad_ports[] = {
        "0", "65536", "70000", "x", "", " 1", "1 ", "-1", "1x", "0x10", "1.5", "99999999999999999999", "4369,4370",
        "\t1",
};

static const char *const bad_addresses[] = {
        "x", "localhost", "192.0.2", "192.0.2.256", "192.0.2.1:4369", "192.0.2.1;::1", "[::1]", "::1%lo", ":", ":::",
        "1:2:3:4:5:6:7:8:9", "192.0.2.1/24", "192.0.2.1\t::1",
        "1111:2222:3333:4444:5555:6666:255.255.255.2555", "1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb",
};

/* For all; what is too little depends on the option. */
static const char *const bad_times[] = {
        "x", "", "-1", "1s", "1 ", " 1", "\t1", "31536001", "1e9", "nan", "inf", "1,5", "99999999999999999999",
};

/* One line, which names what is wrong; and nothing has changed. */
static void check_error(const Words args, const Words environment, const char *const *says, size_t n) {
        char error[OPTIONS_ERROR_MAX] = "";
        Options options, before;

        memset(&options, 0xa5, sizeof options);
        memcpy(&before, &options, sizeof before);
        ck_assert_msg(parse(args, environment, &options, error) == -EINVAL, "%s %s is taken",
                      args[0] ? args[0] : environment[0], args[0] && args[1] ? args[1] : "");
        ck_assert_mem_eq(&options, &before, sizeof before);
        ck_assert_uint_gt(strlen(error), 0);
        for (size_t i = 0; i < n && says[i]; i++)
                ck_assert_msg(strstr(error, says[i]), "\"%s\" does not say %s", error, says[i]);
}

START_TEST(bad) {
        check_error(bads[_i].args, bads[_i].environment, bads[_i].says, ARRAY_SIZE(bads[_i].says));
}
END_TEST

START_TEST(bad_port) {
        const char *says[] = {"-port", bad_ports[_i], "65535"};

        check_error((Words){"-port", bad_ports[_i]}, (Words){NULL}, says, ARRAY_SIZE(says));
}
END_TEST

START_TEST(bad_address) {
        const char *says[] = {"-address", "address"};
        char list[128];

        check_error((Words){"-address", bad_addresses[_i]}, (Words){NULL}, says, ARRAY_SIZE(says));
        (void) snprintf(list, sizeof list, "::1,%s", bad_addresses[_i]);
        check_error((Words){"-address", list}, (Words){NULL}, says, ARRAY_SIZE(says));
        (void) snprintf(list, sizeof list, "%s ::1", bad_addresses[_i]);
        check_error((Words){"-address", list}, (Words){NULL}, says, ARRAY_SIZE(says));
}
END_TEST

static const char *const time_options[] = {"-packet_timeout", "-idle-timeout", "-delay_accept", "-delay_write"};

START_TEST(bad_time) {
        for (size_t i = 0; i < ARRAY_SIZE(time_options); i++) {
                const char *says[] = {time_options[i], bad_times[_i]};

                check_error((Words){time_options[i], bad_times[_i]}, (Words){NULL}, says, ARRAY_SIZE(says));
        }
}
END_TEST

/* Every connection would end before its request could come. */
START_TEST(packet_timeout_too_short) {
        static const char *const values[] = {"0", "0.999", "0.0"};

        for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
                const char *says[] = {"-packet_timeout", values[i]};

                check_error((Words){"-packet_timeout", values[i]}, (Words){NULL}, says, ARRAY_SIZE(says));
        }
}
END_TEST

/* A message as long as its argument is cut, not written past its end. */
START_TEST(endless_words) {
        _cleanup_free_ char *word = malloc(10001), *error = malloc(OPTIONS_ERROR_MAX);
        const Words rows[] = {{word}, {"-port", word}, {"-address", word}, {"-packet_timeout", word}, {"-d", word}};
        Options options;

        memset(word, 'x', 10000);
        word[10000] = 0;
        for (int dash = 0; dash <= 1; dash++) {
                word[0] = dash ? '-' : 'x';
                for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                        memset(error, 'e', OPTIONS_ERROR_MAX);
                        ck_assert_int_eq(parse(rows[i], (Words){NULL}, &options, error), -EINVAL);
                        ck_assert_ptr_nonnull(memchr(error, 0, OPTIONS_ERROR_MAX));
                }
        }
}
END_TEST

/* ---- Memory ---- */

/* The bytes that are allocated, free ones kept for later among them: what a leak makes grow. */
static size_t memory_used(void) {
        return mallinfo2().uordblks;
}

enum { WARM_UP = 50, ROUNDS = 1000 };

/* Nothing that fails keeps memory. A sanitizer sees it too, and has a malloc of its own of which we know nothing. */
static void check_leak(const Words args, const Words environment, int want) {
        char error[OPTIONS_ERROR_MAX];
        size_t before = 0;

        for (int round = 0; round < ROUNDS; round++) {
                Options options;

                if (round == WARM_UP)
                        before = memory_used();
                if (parse(args, environment, &options, error) != want)
                        ck_abort_msg("%s: %s", args[0] ? args[0] : environment[0], error);
                if (want == 0)
                        options_done(&options);
        }
        ck_assert_uint_eq(memory_used(), before);
}

START_TEST(no_leak_of_errors) {
        check_leak(bads[_i].args, bads[_i].environment, -EINVAL);
}
END_TEST

START_TEST(no_leak) {
        check_leak(goods[_i].args, goods[_i].environment, 0);
}
END_TEST

/* ---- The rest ---- */

/* The parser can be used again and again, whatever it stopped at. */
START_TEST(again) {
        for (int round = 0; round < 3; round++) {
                char error[OPTIONS_ERROR_MAX];
                Options options;

                ck_assert_int_eq(parse((Words){"-dkd", "-names"}, (Words){NULL}, &options, error), -EINVAL);
                ck_assert_int_eq(parse((Words){"-d", "-names"}, (Words){NULL}, &options, error), 0);
                ck_assert_int_eq(options.command, COMMAND_NAMES);
                ck_assert_int_eq(options.verbosity, 1);
                options_done(&options);
        }
}
END_TEST

/* The help names every option that there is. */
START_TEST(help) {
        const char *text = options_help();

        ck_assert_ptr_nonnull(strstr(text, "ERL_EPMD_PORT"));
        ck_assert_ptr_nonnull(strstr(text, "ERL_EPMD_ADDRESS"));
        ck_assert_ptr_nonnull(strstr(text, "ERL_EPMD_RELAXED_COMMAND_CHECK"));
        ck_assert_int_eq(text[strlen(text) - 1], '\n');
        for (size_t i = 0; i < ARRAY_SIZE(options_rows); i++) {
                char word[64];

                (void) snprintf(word, sizeof word, "-%s", options_rows[i].word);
                /* Of two spellings one is enough. */
                if (strchr(word + 1, '-') && strcmp(word, "-idle-timeout") != 0)
                        continue;
                ck_assert_msg(strstr(text, word), "%s", word);
        }
}
END_TEST

int main(void) {
        Suite *suite = suite_create("options");
        TCase *accepted = unit_case(suite, "accepted"), *refused = unit_case(suite, "refused"),
              *rest = unit_case(suite, "rest");

        tcase_add_test(accepted, nothing);
        tcase_add_loop_test(accepted, each_option, 0, ARRAY_SIZE(options_rows) * ARRAY_SIZE(spellings));
        tcase_add_loop_test(accepted, good, 0, ARRAY_SIZE(goods));
        tcase_add_loop_test(accepted, addresses, 0, ARRAY_SIZE(lists));
        tcase_add_loop_test(refused, no_abbreviation, 0, ARRAY_SIZE(options_rows));
        tcase_add_loop_test(refused, bad, 0, ARRAY_SIZE(bads));
        tcase_add_loop_test(refused, bad_port, 0, ARRAY_SIZE(bad_ports));
        tcase_add_loop_test(refused, bad_address, 0, ARRAY_SIZE(bad_addresses));
        tcase_add_loop_test(refused, bad_time, 0, ARRAY_SIZE(bad_times));
        tcase_add_test(refused, packet_timeout_too_short);
        tcase_add_test(refused, endless_words);
        tcase_add_loop_test(rest, no_leak_of_errors, 0, ARRAY_SIZE(bads));
        tcase_add_loop_test(rest, no_leak, 0, ARRAY_SIZE(goods));
        tcase_add_test(rest, again);
        tcase_add_test(rest, help);
        return unit_main(suite);
}
