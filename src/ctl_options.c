/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl_options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "util.h"
#include "varlink_client.h"
#include "values.h"

enum {
        TIMEOUT_DEFAULT = 5,
        TIMEOUT_MAX = 3600,
        ANY_NUMBER = INT16_MAX, /* of arguments */
};

enum {
        OPT_JSON = 256,
        OPT_PROMETHEUS,
        OPT_NO_LEGEND,
        OPT_TIMEOUT,
        OPT_TYPE,
        OPT_VERSION,
};

static const struct option long_options[] = {
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, OPT_VERSION},
        {"port", required_argument, NULL, 'p'},
        {"timeout", required_argument, NULL, OPT_TIMEOUT},
        {"json", no_argument, NULL, OPT_JSON},
        {"prometheus", no_argument, NULL, OPT_PROMETHEUS},
        {"no-legend", no_argument, NULL, OPT_NO_LEGEND},
        {"quiet", no_argument, NULL, 'q'},
        {"type", required_argument, NULL, OPT_TYPE},
        {},
};

static const struct {
        const char *name;
        Verb verb;
        size_t least, most; /* arguments */
        const char *arguments;
} verbs[] = {
        {"list", VERB_LIST, 0, 1, "[HOST]"},
        {"lookup", VERB_LOOKUP, 1, 1, "NAME[@HOST]"},
        {"register", VERB_REGISTER, 2, ANY_NUMBER, "NAME PORT [-- COMMAND...]"},
        {"check", VERB_CHECK, 0, 1, "[HOST]"},
        {"stats", VERB_STATS, 0, 0, ""},
        {"help", VERB_HELP, 0, 0, ""},
};

static const char help_text[] = "Usage: epmdctl [OPTION]... [COMMAND]\n"
                                "\n"
                                "Shows what the Erlang Port Mapper Daemon knows, and what is wrong with it.\n"
                                "\n"
                                "Commands:\n"
                                "  list [HOST]             the registered nodes (without a command, too)\n"
                                "  lookup NAME[@HOST]      what one node has registered\n"
                                "  register NAME PORT [-- COMMAND...]\n"
                                "                          hold a name while a command runs, or until Ctrl-C\n"
                                "  check [HOST]            test what usually goes wrong, and tell the cure\n"
                                "  stats                   what the daemon of this host has counted\n"
                                "  help                    say this\n"
                                "\n"
                                "Options:\n"
                                "  -p, --port N            port of the epmd (default $ERL_EPMD_PORT, or 4369)\n"
                                "      --timeout SEC       time for each address that is asked (default 5)\n"
                                "      --json              list, lookup, check, stats: for programs\n"
                                "      --prometheus        stats: for node_exporter's textfile collector\n"
                                "      --no-legend         list: neither headings nor the number of nodes\n"
                                "  -q, --quiet             list: names only; register: say failures only\n"
                                "      --type TYPE         register: hidden (default), normal or a number\n"
                                "  -h, --help              say this\n"
                                "      --version           say the version\n"
                                "\n"
                                "Environment: ERL_EPMD_PORT, EPMD_VARLINK_SOCKET, NO_COLOR. See epmdctl(1).\n";

/* The text of --help. */
const char *ctl_options_help(void) {
        return help_text;
}

static int parse_timeout(const char *text, uint64_t *ret, char *error) {
        double seconds;

        if (!value_seconds(text, &seconds) || !(seconds > 0 && seconds <= (double) TIMEOUT_MAX))
                return value_fail(error, "--timeout \"%s\" is not a time: give seconds, more than 0 and at most %d",
                                  text, TIMEOUT_MAX);
        *ret = (uint64_t) (seconds * (double) USEC_PER_SEC) + 1;
        return 0;
}

static int parse_type(const char *text, uint8_t *ret, char *error) {
        unsigned long type;

        if (strcmp(text, "hidden") == 0)
                *ret = NODE_TYPE_HIDDEN;
        else if (strcmp(text, "normal") == 0)
                *ret = NODE_TYPE_NORMAL;
        else if (value_number(text, 0, UINT8_MAX, &type))
                *ret = (uint8_t) type;
        else
                return value_fail(error,
                                  "--type \"%s\" is not a type of node: give hidden, normal or a number up to 255",
                                  text);
        return 0;
}

static int parse_environment(char *const *environment, CtlOptions *options, char *error) {
        const char *port = value_of_variable(environment, "ERL_EPMD_PORT");
        const char *path = value_of_variable(environment, "EPMD_VARLINK_SOCKET");

        options->varlink_path = path && *path ? path : VARLINK_CLIENT_SOCKET;
        /* The option may correct it, and "check" is to tell of it. */
        if (options->port_given || options->verb == VERB_CHECK || !port || !*port)
                return 0;
        options->port_given = true;
        return value_port("ERL_EPMD_PORT", port, &options->port, error);
}

static int apply_option(int option, const char *value, CtlOptions *options, char *error) {
        switch (option) {
        case 'h':
                options->verb = VERB_HELP;
                return 0;
        case OPT_VERSION:
                options->verb = VERB_VERSION;
                return 0;
        case 'p':
                options->port_given = true;
                return value_port("--port", value, &options->port, error);
        case OPT_TIMEOUT:
                return parse_timeout(value, &options->timeout, error);
        case OPT_JSON:
                options->json = true;
                return 0;
        case OPT_PROMETHEUS:
                options->prometheus = true;
                return 0;
        case OPT_NO_LEGEND:
                options->legend = false;
                return 0;
        case 'q':
                options->quiet = true;
                return 0;
        default:
                return parse_type(value, &options->type, error);
        }
}

/* What goes only with some verbs. */
static int check_combination(const CtlOptions *options, char *error) {
        if (options->prometheus && options->verb != VERB_STATS)
                return value_fail(error, "--prometheus goes with stats only");
        if (options->prometheus && options->json)
                return value_fail(error, "--json and --prometheus exclude each other");
        if (options->json && options->verb == VERB_REGISTER)
                return value_fail(error, "--json does not go with register");
        if (options->type != NODE_TYPE_HIDDEN && options->verb != VERB_REGISTER)
                return value_fail(error, "--type goes with register only");
        return 0;
}

static int parse_verb(int argc, char **argv, CtlOptions *options, char *error) {
        const char *word = argc > 0 ? argv[0] : "list";
        size_t n = argc > 0 ? (size_t) argc - 1 : 0;

        for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
                if (strcmp(word, verbs[i].name) != 0)
                        continue;
                if (n < verbs[i].least || n > verbs[i].most)
                        return value_fail(error, "%s %s arguments: epmdctl %s%s%s", word,
                                          n < verbs[i].least ? "needs more" : "takes fewer", word,
                                          *verbs[i].arguments ? " " : "", verbs[i].arguments);
                if (n == 1 && !*argv[1])
                        return value_fail(error, "the argument of %s is empty: epmdctl %s %s", word, word,
                                          verbs[i].arguments);
                options->verb = verbs[i].verb;
                options->arguments = argv + 1;
                options->n_arguments = n;
                return 0;
        }
        return value_fail(error, "unknown command \"%s\"; see epmdctl --help", word);
}

/* Says which option getopt(3) has just refused. */
static int refuse_option(char **argv, char *error) {
        const char *word = argv[optind - 1];
        size_t n = strlen(word);

        if (optopt >= OPT_JSON || (optopt != 0 && strchr("hpq", optopt)))
                return value_fail(error, "option %s takes no value; see epmdctl --help", word);
        /* Within a word of letters it has not gone on to the next word. */
        if (optopt != 0 && (n == 0 || word[n - 1] != (char) optopt))
                word = argv[optind];
        return value_fail(error, "unknown option %s; see epmdctl --help", word);
}

static int parse_options(int argc, char **argv, CtlOptions *options, char *error) {
        int option;

        optind = 0;
        opterr = 0;
        while ((option = getopt_long(argc, argv, ":hp:q", long_options, NULL)) != -1) {
                int r;

                if (option == ':')
                        return value_fail(error, "option %s needs a value; see epmdctl --help", argv[optind - 1]);
                if (option == '?')
                        return refuse_option(argv, error);
                r = apply_option(option, optarg, options, error);
                if (r < 0 || options->verb == VERB_HELP || options->verb == VERB_VERSION)
                        return r;
        }
        return 0;
}

/* Parses the command line and the environment; options win over the environment.
 *
 * environment: as environ. *ret is valid while argv and the environment are. Returns 0, or -EINVAL with one line in
 * error that names what is wrong and what is right. */
int ctl_options_parse(int argc, char **argv, char *const *environment, CtlOptions *ret, char error[VALUE_ERROR_MAX]) {
        CtlOptions options = {
                .verb = VERB_LIST,
                .port = CTL_DEFAULT_PORT,
                .timeout = TIMEOUT_DEFAULT * USEC_PER_SEC,
                .legend = true,
                .type = NODE_TYPE_HIDDEN,
        };
        int r;

        r = parse_options(argc, argv, &options, error);
        if (r >= 0 && options.verb == VERB_LIST)
                r = parse_verb(argc - optind, argv + optind, &options, error);
        if (r >= 0 && options.verb == VERB_REGISTER)
                r = value_port("the node's port", options.arguments[1], &options.node_port, error);
        if (r >= 0 && options.verb != VERB_HELP && options.verb != VERB_VERSION) {
                r = check_combination(&options, error);
                if (r >= 0)
                        r = parse_environment(environment, &options, error);
        }
        if (r >= 0)
                *ret = options;
        return r;
}
