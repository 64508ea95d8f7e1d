/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The command line and the environment of epmdctl as a struct. Pure but for the state of getopt(3). */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "values.h"

enum {
        CTL_DEFAULT_PORT = 4369,
};

/* Types of nodes, as they register. */
enum {
        NODE_TYPE_HIDDEN = 72,
        NODE_TYPE_NORMAL = 77,
        NODE_TYPE_EI = 104, /* what libei says, also a hidden one */
};

typedef enum Verb {
        VERB_LIST,
        VERB_LOOKUP,
        VERB_REGISTER,
        VERB_CHECK,
        VERB_STATS,
        VERB_HELP,
        VERB_VERSION,
} Verb;

typedef struct CtlOptions {
        Verb verb;
        char **arguments; /* behind the verb; as many as it takes; point into argv */
        size_t n_arguments;
        uint16_t port;
        bool port_given;
        uint64_t timeout; /* µs for each address that is asked */
        bool json;
        bool prometheus;
        bool legend;
        bool quiet;
        uint8_t type;
        uint16_t node_port; /* of VERB_REGISTER */
        const char *varlink_path;
} CtlOptions;

int ctl_options_parse(int argc, char **argv, char *const *environment, CtlOptions *ret, char error[VALUE_ERROR_MAX]);
const char *ctl_options_help(void);
