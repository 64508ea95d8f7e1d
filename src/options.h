/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The command line and the environment as a struct. Pure but for the state of getopt(3). */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "address.h"
#include "allow.h"
#include "values.h"

enum {
        OPTIONS_DEFAULT_PORT = 4369,
        OPTIONS_ERROR_MAX = VALUE_ERROR_MAX,
};

typedef enum Command {
        COMMAND_SERVE,
        COMMAND_NAMES,
        COMMAND_DUMP,
        COMMAND_KILL,
        COMMAND_STOP,
        COMMAND_STARTED,
        COMMAND_HELP,
        COMMAND_VERSION,
} Command;

typedef struct Options {
        Command command;
        const char *stop_name; /* of COMMAND_STOP; points into argv */
        bool daemon;
        bool systemd;
        bool relaxed;
        int verbosity;
        uint16_t port;
        /* Of COMMAND_SERVE; of others nobody looks at them. */
        Address *addresses; /* owned; what to bind to, without the implied loopbacks; NULL: everything */
        size_t n_addresses;
        uint64_t packet_timeout; /* µs */
        uint64_t idle_timeout;   /* µs; 0: never */
        unsigned delay_accept;   /* s */
        unsigned delay_write;    /* s */
        Allow allow;             /* owned; who is answered */
        const char *allow_text;  /* as it was given; points into argv or the environment */
        bool allow_option;       /* by an option, which the environment cannot change */
        const char *reserve;     /* reservations, not parsed: users are looked up later; the same */
        size_t user_nodes_max;   /* of one user, but root; 0: half of what there is room for */
} Options;

int options_parse(int argc, char **argv, char *const *environment, Options *ret, char error[OPTIONS_ERROR_MAX]);
void options_done(Options *options);
const char *options_help(void);
