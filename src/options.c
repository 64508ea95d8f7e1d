/* SPDX-License-Identifier: Apache-2.0 */
#include "options.h"
#include "values.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

enum {
        PACKET_TIMEOUT_DEFAULT = 60,
        IDLE_TIMEOUT_DEFAULT = 300, /* only where something starts the daemon again */
        SECONDS_MAX = 86400 * 365,
};

enum {
        OPT_DAEMON = 256,
        OPT_RELAXED,
        OPT_PACKET_TIMEOUT,
        OPT_IDLE_TIMEOUT,
        OPT_DELAY_ACCEPT,
        OPT_DELAY_WRITE,
        OPT_ADDRESS,
        OPT_PORT,
        OPT_SYSTEMD,
        OPT_ALLOW,
        OPT_RESERVE,
        OPT_USER_NODES,
        OPT_NAMES,
        OPT_DUMP,
        OPT_KILL,
        OPT_STOP,
        OPT_STARTED,
        OPT_HELP,
        OPT_VERSION,
};

/* Upstream's words and, where those have an underscore, GNU's spelling. getopt_long_only() takes each with one dash
 * or two. */
static const struct option long_options[] = {
        {"debug", no_argument, NULL, 'd'},
        {"daemon", no_argument, NULL, OPT_DAEMON},
        {"relaxed_command_check", no_argument, NULL, OPT_RELAXED},
        {"relaxed-command-check", no_argument, NULL, OPT_RELAXED},
        {"packet_timeout", required_argument, NULL, OPT_PACKET_TIMEOUT},
        {"packet-timeout", required_argument, NULL, OPT_PACKET_TIMEOUT},
        {"idle-timeout", required_argument, NULL, OPT_IDLE_TIMEOUT},
        {"delay_accept", required_argument, NULL, OPT_DELAY_ACCEPT},
        {"delay-accept", required_argument, NULL, OPT_DELAY_ACCEPT},
        {"delay_write", required_argument, NULL, OPT_DELAY_WRITE},
        {"delay-write", required_argument, NULL, OPT_DELAY_WRITE},
        {"address", required_argument, NULL, OPT_ADDRESS},
        {"port", required_argument, NULL, OPT_PORT},
        {"systemd", no_argument, NULL, OPT_SYSTEMD},
        {"allow", required_argument, NULL, OPT_ALLOW},
        {"reserve", required_argument, NULL, OPT_RESERVE},
        {"max-nodes-per-user", required_argument, NULL, OPT_USER_NODES},
        {"names", no_argument, NULL, OPT_NAMES},
        {"dump", no_argument, NULL, OPT_DUMP},
        {"kill", no_argument, NULL, OPT_KILL},
        {"stop", required_argument, NULL, OPT_STOP},
        {"started", no_argument, NULL, OPT_STARTED},
        {"help", no_argument, NULL, OPT_HELP},
        {"version", no_argument, NULL, OPT_VERSION},
        {},
};

static const char help_text[] =
        "Usage: epmd [OPTION]...            serve, in the foreground\n"
        "       epmd [-port N] COMMAND      talk to the epmd of this host\n"
        "\n"
        "The Erlang Port Mapper Daemon, native to systemd. Every option may be written\n"
        "with one dash or two, and its value as the next word or behind an equals sign.\n"
        "\n"
        "Commands:\n"
        "  -names                  list the registered nodes\n"
        "  -dump                   list what is registered and what was\n"
        "  -started                no output; status 0 if an epmd answers\n"
        "  -kill                   end the epmd, if no node is registered\n"
        "  -stop NAME              unregister a node, if epmd runs with relaxed checks\n"
        "  -help, -version         say this, or the version, and end\n"
        "\n"
        "Options:\n"
        "  -port N                 port to listen on or to talk to (default 4369)\n"
        "  -address LIST           addresses to listen on, separated by commas;\n"
        "                          127.0.0.1 and ::1 are added (default: all)\n"
        "  -allow LIST             whom to answer besides this host: private (default),\n"
        "                          any, local for no one, addresses, networks\n"
        "  -reserve LIST           NAME:USER or PREFIX*:USER, separated by blanks:\n"
        "                          names that only that user may register\n"
        "  -max-nodes-per-user N   nodes that one user may register (default half of all)\n"
        "  -systemd                take the listening sockets from systemd\n"
        "  -daemon                 go to the background once listening\n"
        "  -relaxed_command_check  allow -kill with nodes registered, and -stop\n"
        "  -packet_timeout SEC     time for a whole request and its reply (default 60)\n"
        "  -idle-timeout SEC       with -systemd: end when nothing happens for so long,\n"
        "                          0 for never (default 300)\n"
        "  -d, -debug              log more; up to three times\n"
        "  -delay_accept SEC, -delay_write SEC\n"
        "                          for tests: wait before accepting, before replying\n"
        "\n"
        "Environment: ERL_EPMD_PORT, ERL_EPMD_ADDRESS, ERL_EPMD_RELAXED_COMMAND_CHECK,\n"
        "EPMD_ALLOW, EPMD_RESERVE, EPMD_MAX_NODES_PER_USER; options win over it.\n"
        "See epmd(1).\n";

/* The text of -help. */
const char *options_help(void) {
        return help_text;
}

static int parse_seconds(const char *what, const char *text, double least, double *ret, char *error) {
        double seconds;

        if (!value_seconds(text, &seconds) || !(seconds >= least && seconds <= (double) SECONDS_MAX))
                return value_fail(error, "%s \"%s\" is not a time: give seconds from %g to %d", what, text, least,
                                  SECONDS_MAX);
        *ret = seconds;
        return 0;
}

static int parse_timeout(const char *what, const char *text, double least, uint64_t *ret, char *error) {
        double seconds = 0;
        int r = parse_seconds(what, text, least, &seconds, error);

        if (r < 0)
                return r;
        *ret = (uint64_t) (seconds * (double) USEC_PER_SEC);
        return 0;
}

static int parse_delay(const char *what, const char *text, unsigned *ret, char *error) {
        double seconds = 0;
        int r = parse_seconds(what, text, 0, &seconds, error);

        if (r < 0)
                return r;
        *ret = (unsigned) seconds;
        return 0;
}

/* A list without any address is the same as no list. The ports are filled in at the end, when they are known. */
static int parse_addresses(const char *what, const char *list, Options *options, char *error) {
        static const char separators[] = ", ";
        Address *addresses;
        size_t n = 0;

        addresses = calloc(strlen(list) / 2 + 1, sizeof *addresses);
        if (!addresses) {
                (void) value_fail(error, "out of memory");
                return -ENOMEM;
        }
        for (const char *p = list + strspn(list, separators); *p; p += strspn(p, separators)) {
                size_t len = strcspn(p, separators);

                if (!address_parse(p, len, &addresses[n])) {
                        free(addresses);
                        return value_fail(error, "%s: \"%.*s\" is not an IPv4 or IPv6 address", what,
                                          (int) size_min(len, 100), p);
                }
                n++;
                p += len;
        }
        free(options->addresses);
        options->addresses = addresses;
        options->n_addresses = n;
        return 0;
}

static int parse_allow(const char *what, const char *list, Options *options, char *error) {
        const char *bad = "";
        size_t bad_len = 0;
        Allow allow;
        int r = allow_parse(list, &allow, &bad, &bad_len);

        if (r == -ENOMEM) {
                (void) value_fail(error, "out of memory");
                return r;
        }
        if (r < 0)
                return value_fail(error, "%s: \"%.*s\" is neither local, private, any, an address nor a network such as "
                                  "192.0.2.0/24", what, (int) size_min(bad_len, 100), bad);
        allow_done(&options->allow);
        options->allow = allow;
        options->allow_text = list;
        return 0;
}

static int parse_count(const char *what, const char *text, size_t *ret, char *error) {
        unsigned long n;

        if (!value_number(text, 1, INT32_MAX, &n))
                return value_fail(error, "%s \"%s\" is not a number of nodes: give 1 or more", what, text);
        *ret = (size_t) n;
        return 0;
}

/* The port where no option has said it; to be helped, nobody needs one. */
static int parse_port_variable(char *const *environment, Options *options, char *error) {
        const char *value = value_of_variable(environment, "ERL_EPMD_PORT");

        if (options->port != 0)
                return 0;
        options->port = OPTIONS_DEFAULT_PORT;
        if (options->command == COMMAND_HELP || options->command == COMMAND_VERSION)
                return 0;
        return value && *value ? value_port("ERL_EPMD_PORT", value, &options->port, error) : 0;
}

/* What only a daemon needs. */
static int parse_environment(char *const *environment, Options *options, char *error) {
        const char *value;
        int r;

        value = value_of_variable(environment, "ERL_EPMD_ADDRESS");
        if (value) {
                r = parse_addresses("ERL_EPMD_ADDRESS", value, options, error);
                if (r < 0)
                        return r;
        }
        value = value_of_variable(environment, "EPMD_ALLOW");
        r = parse_allow("EPMD_ALLOW", value && *value ? value : ALLOW_DEFAULT, options, error);
        if (r < 0)
                return r;
        value = value_of_variable(environment, "EPMD_MAX_NODES_PER_USER");
        if (value && *value) {
                r = parse_count("EPMD_MAX_NODES_PER_USER", value, &options->user_nodes_max, error);
                if (r < 0)
                        return r;
        }
        value = value_of_variable(environment, "EPMD_RESERVE");
        options->reserve = value ? value : "";
        if (value_of_variable(environment, "ERL_EPMD_RELAXED_COMMAND_CHECK"))
                options->relaxed = true;
        return 0;
}

static int set_command(Options *options, Command command, char *error) {
        if (options->command == COMMAND_HELP || options->command == COMMAND_VERSION)
                return 0;
        if (options->command != COMMAND_SERVE && options->command != command)
                return value_fail(error, "more than one command was given: give one of -names, -dump, -started, -kill, "
                                  "-stop");
        options->command = command;
        return 0;
}

/* The first pass: what is to be done, on which port, and switches. */
static int apply_switch(int option, const char *word, const char *value, Options *options, char *error) {
        switch (option) {
        case 'd':
                options->verbosity++;
                return 0;
        case OPT_DAEMON:
                options->daemon = true;
                return 0;
        case OPT_RELAXED:
                options->relaxed = true;
                return 0;
        case OPT_SYSTEMD:
                options->systemd = true;
                return 0;
        case OPT_PORT:
                return value_port(word, value, &options->port, error);
        case OPT_NAMES:
                return set_command(options, COMMAND_NAMES, error);
        case OPT_DUMP:
                return set_command(options, COMMAND_DUMP, error);
        case OPT_KILL:
                return set_command(options, COMMAND_KILL, error);
        case OPT_STOP:
                options->stop_name = value;
                return set_command(options, COMMAND_STOP, error);
        case OPT_STARTED:
                return set_command(options, COMMAND_STARTED, error);
        case OPT_HELP:
                options->command = COMMAND_HELP;
                return 0;
        case OPT_VERSION:
                options->command = COMMAND_VERSION;
                return 0;
        default:
                return 0;
        }
}

/* The second pass, of a daemon: the values with which it is to serve. */
static int apply_setting(int option, const char *word, const char *value, Options *options, char *error) {
        switch (option) {
        case OPT_PACKET_TIMEOUT:
                return parse_timeout(word, value, 1, &options->packet_timeout, error);
        case OPT_IDLE_TIMEOUT:
                return parse_timeout(word, value, 0, &options->idle_timeout, error);
        case OPT_DELAY_ACCEPT:
                return parse_delay(word, value, &options->delay_accept, error);
        case OPT_DELAY_WRITE:
                return parse_delay(word, value, &options->delay_write, error);
        case OPT_ADDRESS:
                return parse_addresses(word, value, options, error);
        case OPT_ALLOW:
                options->allow_option = true;
                return parse_allow(word, value, options, error);
        case OPT_RESERVE:
                options->reserve = value;
                return 0;
        case OPT_USER_NODES:
                return parse_count(word, value, &options->user_nodes_max, error);
        default:
                return 0;
        }
}

/* The option's name without dashes and value. */
static size_t option_name(const char *word, const char **ret) {
        *ret = word + strspn(word, "-");
        return strcspn(*ret, "=");
}

/* getopt_long_only() takes -k for -kill. A daemon must not end by a typing error. */
static bool is_exact(const char *word, const char *name) {
        const char *given;
        size_t n = option_name(word, &given);

        return strlen(name) == n && strncmp(given, name, n) == 0;
}

static int refuse_word(int option, const char *word, char *error) {
        if (option == ':')
                return value_fail(error, "option %s needs a value; see epmd -help", word);
        return value_fail(error, "unknown option %s; see epmd -help", word);
}

/* Takes in an option, its name as it was written, its value; returns as options_parse(). */
typedef int Apply(int option, const char *word, const char *value, Options *options, char *error);

static int parse_arguments(int argc, char **argv, Apply *apply, Options *options, char *error) {
        optind = 0;
        opterr = 0;
        for (;;) {
                int index = -1, at = optind > 0 ? optind : 1, option, r;
                const char *word = at < argc ? argv[at] : "";

                option = getopt_long_only(argc, argv, "+:d", long_options, &index);
                if (option == -1)
                        break;
                if (option == '?' || option == ':' || (index >= 0 && !is_exact(word, long_options[index].name)))
                        return refuse_word(option, word, error);
                r = apply(option, word, optarg, options, error);
                if (r < 0)
                        return r;
        }
        if (optind < argc)
                return value_fail(error, "unexpected argument \"%s\"; see epmd -help", argv[optind]);
        return 0;
}

/* How to serve: the environment, and options over it. Both are looked at wholly: an error in what is overridden would
 * be found at the worst moment. */
static int parse_settings(int argc, char **argv, char *const *environment, Options *options, char *error) {
        int r;

        options->idle_timeout = UINT64_MAX;
        r = parse_environment(environment, options, error);
        if (r >= 0)
                r = parse_arguments(argc, argv, apply_setting, options, error);
        if (r < 0)
                return r;
        if (options->systemd && options->daemon)
                return value_fail(error, "-systemd and -daemon exclude each other: systemd needs the process in the "
                                  "foreground");
        if (!options->systemd)
                options->idle_timeout = 0;
        else if (options->idle_timeout == UINT64_MAX)
                options->idle_timeout = IDLE_TIMEOUT_DEFAULT * USEC_PER_SEC;
        for (size_t i = 0; i < options->n_addresses; i++)
                options->addresses[i].port = options->port;
        return 0;
}

/* Parses the command line and the environment; options win over the environment. What a command does not need is not
 * looked at: a setting of the daemon cannot make it fail.
 *
 * environment: as environ. *ret is to be freed with options_done(), and valid while argv is.
 * Returns 0; -EINVAL or -ENOMEM with one line in error, naming what is wrong and what is right, and *ret untouched. */
int options_parse(int argc, char **argv, char *const *environment, Options *ret, char error[OPTIONS_ERROR_MAX]) {
        Options options = {.packet_timeout = PACKET_TIMEOUT_DEFAULT * USEC_PER_SEC};
        int r;

        r = parse_arguments(argc, argv, apply_switch, &options, error);
        if (r >= 0)
                r = parse_port_variable(environment, &options, error);
        if (r >= 0 && options.command == COMMAND_SERVE)
                r = parse_settings(argc, argv, environment, &options, error);
        if (r < 0) {
                options_done(&options);
                return r;
        }
        *ret = options;
        return 0;
}

/* Frees what the struct owns. */
void options_done(Options *options) {
        free(options->addresses);
        options->addresses = NULL;
        options->n_addresses = 0;
        allow_done(&options->allow);
}
