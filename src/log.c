/* SPDX-License-Identifier: Apache-2.0 */
#include "log.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>

/* The caller's file and line say nothing to an operator. */
#define SD_JOURNAL_SUPPRESS_LOCATION 1
#include <systemd/sd-journal.h>

#include "escape.h"

enum {
        UNIT_TEXT_MAX = ESCAPED_BYTE_MAX * OWNER_UNIT_MAX,
        MESSAGE_MAX = ESCAPED_NAME_MAX + 2 * UNIT_TEXT_MAX + 512,
};

typedef enum LogTarget {
        LOG_TO_STDERR,
        LOG_TO_JOURNAL,
        LOG_TO_SYSLOG,
} LogTarget;

struct Log {
        LogTarget target;
        int verbosity;
};

/* Whether stderr is a stream to the journal: then fields reach it as well. sd_journal_send() reports success even
 * where no journal is, so this has to be known. */
static bool stderr_is_journal(void) {
        const char *stream = getenv("JOURNAL_STREAM");
        unsigned long long device, inode;
        struct stat st;
        char *end;

        if (!stream)
                return false;
        device = strtoull(stream, &end, 10);
        if (*end != ':')
                return false;
        inode = strtoull(end + 1, &end, 10);
        return !*end && fstat(STDERR_FILENO, &st) == 0 && st.st_dev == device && st.st_ino == inode;
}

/* Opens the log. verbosity: as -d counts. *ret is the caller's. Returns 0 or -ENOMEM. */
int log_new(int verbosity, Log **ret) {
        Log *log = malloc(sizeof *log);

        if (!log)
                return -ENOMEM;
        *log = (Log){.target = stderr_is_journal() ? LOG_TO_JOURNAL : LOG_TO_STDERR, .verbosity = verbosity};
        *ret = log;
        return 0;
}

Log *log_free(Log *log) {
        if (log && log->target == LOG_TO_SYSLOG)
                closelog();
        free(log);
        return NULL;
}

/* For a process without a terminal: from now on to the journal, or to syslog(3) where there is none. */
void log_detach(Log *log) {
        if (access("/run/systemd/journal/socket", W_OK) == 0) {
                log->target = LOG_TO_JOURNAL;
                return;
        }
        openlog("epmd", LOG_PID | LOG_CONS, LOG_DAEMON);
        log->target = LOG_TO_SYSLOG;
}

int log_verbosity(const Log *log) {
        return log->verbosity;
}

static void to_stderr(const char *message) {
        time_t now = time(NULL);
        struct tm tm;
        char date[32] = "?";

        /* Always in English, as upstream's asctime(): the program never calls setlocale(). */
        if (localtime_r(&now, &tm))
                (void) strftime(date, sizeof date, "%a %b %e %H:%M:%S %Y", &tm);
        (void) fprintf(stderr, "epmd: %s: %s\n", date, message);
}

enum {
        FIELDS_MAX = 10,
        FIELDS_SIZE = 16 * FIELDS_MAX + MESSAGE_MAX + ESCAPED_NAME_MAX + UNIT_TEXT_MAX + 512,
};

/* The fields of a journal entry, one behind the other. */
typedef struct Entry {
        struct iovec iov[FIELDS_MAX];
        int n;
        size_t used;
        char text[FIELDS_SIZE];
} Entry;

static void add(Entry *entry, const char *format, ...) _printf_(2, 3);

/* Adds NAME=value. What would not fit, which the sizes above rule out, is left out whole. */
static void add(Entry *entry, const char *format, ...) {
        char *at = entry->text + entry->used;
        size_t left = sizeof entry->text - entry->used;
        va_list ap;
        int len;

        va_start(ap, format);
        len = vsnprintf(at, left, format, ap);
        va_end(ap);
        if (len <= 0 || (size_t) len >= left || entry->n >= FIELDS_MAX)
                return;
        entry->iov[entry->n++] = (struct iovec){.iov_base = at, .iov_len = (size_t) len};
        entry->used += (size_t) len + 1;
}

static void add_owner(Entry *entry, const Owner *owner) {
        char unit[UNIT_TEXT_MAX + 1];

        if (owner->known)
                add(entry, "EPMD_UID=%u", owner->uid);
        if (owner->unit_len > 0)
                add(entry, "EPMD_UNIT=%s", escape_text(owner->unit, owner->unit_len, unit, sizeof unit));
}

static void add_fields(Entry *entry, const LogFields *fields) {
        char name[ESCAPED_NAME_MAX], address[ADDRESS_TEXT_MAX];

        if (fields->message_id)
                add(entry, "MESSAGE_ID=%s", fields->message_id);
        if (fields->node) {
                add(entry, "EPMD_NODE=%s", escape_text(fields->node, fields->node_len, name, sizeof name));
                add(entry, "EPMD_PORT=%d", fields->port);
        }
        if (fields->peer)
                add(entry, "EPMD_PEER=%s", address_format(fields->peer, address));
        if (fields->owner)
                add_owner(entry, fields->owner);
        if (fields->creation != 0)
                add(entry, "EPMD_CREATION=%u", fields->creation);
        if (fields->reason)
                add(entry, "EPMD_REASON=%s", fields->reason);
}

static void to_journal(int priority, const LogFields *fields, const char *message) {
        Entry entry;

        entry.n = 0;
        entry.used = 0;
        add(&entry, "MESSAGE=%s", message);
        add(&entry, "PRIORITY=%d", priority);
        if (fields)
                add_fields(&entry, fields);
        (void) sd_journal_sendv(entry.iov, entry.n);
}

static bool is_wanted(const Log *log, int priority) {
        return priority <= (log->verbosity >= VERBOSITY_DEBUG ? LOG_DEBUG : LOG_INFO);
}

static void emit(Log *log, int priority, const LogFields *fields, const char *message) {
        switch (log->target) {
        case LOG_TO_JOURNAL:
                to_journal(priority, fields, message);
                break;
        case LOG_TO_SYSLOG:
                syslog(priority, "%s", message);
                break;
        default:
                to_stderr(message);
        }
}

/* Logs one line. priority: LOG_ERR … LOG_DEBUG; what the verbosity leaves out costs next to nothing.
 * Text of a peer must come through escape_text(). */
void log_event(Log *log, int priority, const LogFields *fields, const char *format, ...) {
        char message[MESSAGE_MAX];
        va_list ap;

        if (!is_wanted(log, priority))
                return;
        va_start(ap, format);
        (void) vsnprintf(message, sizeof message, format, ap);
        va_end(ap);
        emit(log, priority, fields, message);
}

int log_failure(Log *log, int error, const char *format, ...) {
        char message[MESSAGE_MAX];
        va_list ap;

        va_start(ap, format);
        (void) vsnprintf(message, sizeof message, format, ap);
        va_end(ap);
        log_event(log, LOG_ERR, NULL, "%s: %s", message, ERR_TEXT(error));
        return error;
}
