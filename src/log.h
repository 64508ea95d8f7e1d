/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Where messages go: the journal with fields, stderr in upstream's form, or syslog(3). The only file that knows the
 * journal. Called by the top layers alone; modules below return errors. */

#include <stddef.h>
#include <stdint.h>
#include <syslog.h>

#include "address.h"
#include "owner.h"
#include "util.h"

typedef struct Log Log;

/* The verbosities that -d counts up to. */
enum {
        VERBOSITY_NORMAL,  /* registrations and what went wrong */
        VERBOSITY_DEBUG,   /* and every request */
        VERBOSITY_PACKETS, /* and connections and packets */
        VERBOSITY_TABLES,  /* and the registered nodes after each change */
};

/* What a message is about; all of it is optional. */
typedef struct LogFields {
        const uint8_t *node; /* EPMD_NODE: a name, as its peer sent it */
        size_t node_len;
        const Address *peer; /* EPMD_PEER */
        int port;            /* EPMD_PORT: the node's distribution port, when node is set */
        const Owner *owner;  /* EPMD_UID and EPMD_UNIT, as far as they are known */
        uint32_t creation;   /* EPMD_CREATION, unless 0 */
        const char *reason;  /* EPMD_REASON */
        const char *message_id;
} LogFields;

int log_new(int verbosity, Log **ret);
Log *log_free(Log *log);
DEFINE_CLEANUP(Log *, log_free)

void log_detach(Log *log);
int log_verbosity(const Log *log);
void log_event(Log *log, int priority, const LogFields *fields, const char *format, ...) _printf_(4, 5);

#define log_message(log, priority, ...) log_event(log, priority, NULL, __VA_ARGS__)

/* "Failed to …: <error>"; returns the error, so that a caller can say and return it in one statement. */
int log_failure(Log *log, int error, const char *format, ...) _printf_(3, 4);
