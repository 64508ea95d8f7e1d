/* SPDX-License-Identifier: Apache-2.0 */
#include "log.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>

#include "escape.h"

#define JOURNAL_SOCKET "/run/systemd/journal/socket"

enum {
        JOURNAL_PATIENCE_MSEC = 100,
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
        int journal;   /* a socket, once it is needed, or -1 */
        unsigned lost; /* messages that the journal did not take since it took one */
};

/* Whether stderr is a stream to the journal: then fields reach it as well. */
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
        *log = (Log){
                .target = stderr_is_journal() ? LOG_TO_JOURNAL : LOG_TO_STDERR,
                .verbosity = verbosity,
                .journal = -1,
        };
        *ret = log;
        return 0;
}

Log *log_free(Log *log) {
        if (!log)
                return NULL;
        if (log->target == LOG_TO_SYSLOG)
                closelog();
        safe_close(log->journal);
        free(log);
        return NULL;
}

/* For a process without a terminal: from now on to the journal, or to syslog(3) where there is none. */
void log_detach(Log *log) {
        if (access(JOURNAL_SOCKET, W_OK) == 0) {
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
        FIELDS_MAX = 11,
        FIELDS_SIZE = 20 * FIELDS_MAX + MESSAGE_MAX + ESCAPED_NAME_MAX + UNIT_TEXT_MAX + 512,
};

/* The fields of a journal entry, as the journal's own protocol has them: a line for each. */
typedef struct Entry {
        size_t used;
        char text[FIELDS_SIZE];
} Entry;

static void add(Entry *entry, const char *format, ...) _printf_(2, 3);

/* Adds NAME=value, which is one line whatever is in it. What would not fit, which the sizes above rule out, is left out
 * whole. */
static void add(Entry *entry, const char *format, ...) {
        char *at = entry->text + entry->used;
        size_t left = sizeof entry->text - entry->used;
        va_list ap;
        int len;

        va_start(ap, format);
        len = vsnprintf(at, left, format, ap);
        va_end(ap);
        if (len <= 0 || (size_t) len >= left)
                return;
        for (char *p = at; (p = strchr(p, '\n'));)
                *p = ' ';
        at[len] = '\n';
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

static int open_journal(void) {
        const struct timeval patience = {.tv_usec = JOURNAL_PATIENCE_MSEC * 1000L};
        int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

        if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) < 0)
                fd = safe_close(fd);
        return fd;
}

/* sd_journal_sendv(3) would wait for as long as the journal does not read, and everybody would wait for the daemon.
 * Here the first message that the journal does not take waits for a moment, and those after it do not wait. */
static bool send_entry(Log *log, const Entry *entry) {
        static const struct sockaddr_un journal = {.sun_family = AF_UNIX, .sun_path = JOURNAL_SOCKET};
        const int flags = MSG_NOSIGNAL | (log->lost > 0 ? MSG_DONTWAIT : 0);

        if (log->journal < 0)
                log->journal = open_journal();
        while (sendto(log->journal, entry->text, entry->used, flags, (const struct sockaddr *) &journal,
                      sizeof journal) < 0)
                if (errno != EINTR)
                        return false;
        return true;
}

static void to_journal(Log *log, int priority, const LogFields *fields, const char *message) {
        unsigned lost = log->lost;
        Entry entry;

        entry.used = 0;
        add(&entry, "MESSAGE=%s", message);
        add(&entry, "PRIORITY=%d", priority);
        add(&entry, "SYSLOG_IDENTIFIER=%s", program_invocation_short_name);
        if (fields)
                add_fields(&entry, fields);
        if (!send_entry(log, &entry)) {
                log->lost++;
                return;
        }
        log->lost = 0;
        if (lost > 0)
                log_message(log, LOG_WARNING, "Before this the journal did not take %u messages", lost);
}

static bool is_wanted(const Log *log, int priority) {
        return priority <= (log->verbosity >= VERBOSITY_DEBUG ? LOG_DEBUG : LOG_INFO);
}

static void emit(Log *log, int priority, const LogFields *fields, const char *message) {
        switch (log->target) {
        case LOG_TO_JOURNAL:
                to_journal(log, priority, fields, message);
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
