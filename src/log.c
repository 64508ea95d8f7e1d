/* SPDX-License-Identifier: Apache-2.0 */
#include "log.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>

#include "allowance.h"
#include "clock.h"
#include "escape.h"

#define JOURNAL_SOCKET "/run/systemd/journal/socket"

enum {
        PATIENCE_MSEC = 100,
        UNIT_TEXT_MAX = ESCAPED_BYTE_MAX * OWNER_UNIT_MAX,
        MESSAGE_MAX = ESCAPED_NAME_MAX + 2 * UNIT_TEXT_MAX + 512,
};

/* While the daemon waits for who reads its log everybody waits: for a moment in which that is busy, and of all the rest of
 * the time half a percent. */
static const Allowance patience = {.max = PATIENCE_MSEC * USEC_PER_MSEC, .recovery = 200};

typedef enum LogTarget {
        LOG_TO_STDERR,
        LOG_TO_JOURNAL,
        LOG_TO_SYSLOG,
} LogTarget;

struct Log {
        LogTarget target;
        int verbosity;
        int journal;   /* a socket, once it is needed, or -1 */
        int terminal;  /* that standard error is, opened so that writing there does not wait; -1: it is none, or */
        bool asked;    /* nobody has asked yet */
        unsigned lost; /* messages that nobody took, and of which the log does not tell yet */
        Allowance patience;
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

/* A terminal tells that there is room when there is some for one byte, and whoever shares what it is opened as, as the
 * shell does, wants it as it was. */
static int open_terminal(void) {
        return isatty(STDERR_FILENO) ? open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC) : -1;
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
                .terminal = -1,
                .patience = patience,
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
        safe_close(log->terminal);
        free(log);
        return NULL;
}

/* For a process without a terminal: from now on to the journal, or to syslog(3) where there is none. */
void log_detach(Log *log) {
        log->terminal = safe_close(log->terminal);
        if (access(JOURNAL_SOCKET, W_OK) == 0) {
                log->target = LOG_TO_JOURNAL;
                return;
        }
        openlog("epmd", LOG_PID, LOG_DAEMON);
        log->target = LOG_TO_SYSLOG;
}

int log_verbosity(const Log *log) {
        return log->verbosity;
}

/* What whoever reads standard error is told in one piece, the date included. Returns its length. */
static size_t format_line(const char *message, char line[PIPE_BUF]) {
        time_t now = time(NULL);
        struct tm tm;
        char date[32] = "?";
        int len;

        /* Always in English, as upstream's asctime(): the program never calls setlocale(). */
        if (localtime_r(&now, &tm))
                (void) strftime(date, sizeof date, "%a %b %e %H:%M:%S %Y", &tm);
        len = snprintf(line, PIPE_BUF, "epmd: %s: %s\n", date, message);
        if (len < PIPE_BUF)
                return (size_t) len;
        line[PIPE_BUF - 1] = '\n';
        return PIPE_BUF;
}

/* Whether so much as PIPE_BUF bytes can be written at once, or after a moment; who cannot be asked is believed. */
static bool is_writable(Log *log, int fd) {
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        uint64_t begun;
        int r = poll(&p, 1, 0);

        if (r != 0)
                return true;
        begun = clock_monotonic();
        if (!allowance_is_left(&log->patience, begun))
                return false;
        r = poll(&p, 1, PATIENCE_MSEC);
        allowance_spend(&log->patience, clock_monotonic() - begun);
        return r != 0;
}

/* Nobody may read it, and without -d the daemon is not to wait for that. Returns whether it was taken. */
static bool to_stderr(Log *log, const char *message) {
        char line[PIPE_BUF];
        size_t n = format_line(message, line);

        if (log->verbosity == 0 && !log->asked) {
                log->asked = true;
                log->terminal = open_terminal();
        }
        if (log->terminal >= 0)
                return write(log->terminal, line, n) == (ssize_t) n;
        if (log->verbosity == 0 && !is_writable(log, STDERR_FILENO))
                return false;
        return fwrite(line, 1, n, stderr) == n;
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
        const struct timeval timeout = {.tv_usec = PATIENCE_MSEC * 1000L};
        int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

        if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout) < 0)
                fd = safe_close(fd);
        return fd;
}

/* Returns 0 or a negative errno. */
static int send_entry_once(const Log *log, const Entry *entry, int flags) {
        static const struct sockaddr_un journal = {.sun_family = AF_UNIX, .sun_path = JOURNAL_SOCKET};

        while (sendto(log->journal, entry->text, entry->used, flags | MSG_NOSIGNAL, (const struct sockaddr *) &journal,
                      sizeof journal) < 0)
                if (errno != EINTR)
                        return -errno;
        return 0;
}

/* sd_journal_sendv(3) would wait for as long as the journal does not read. */
static bool send_entry(Log *log, const Entry *entry) {
        uint64_t begun;
        int r;

        if (log->journal < 0)
                log->journal = open_journal();
        r = send_entry_once(log, entry, MSG_DONTWAIT);
        if (r != -EAGAIN)
                return r == 0;
        begun = clock_monotonic();
        if (!allowance_is_left(&log->patience, begun))
                return false;
        r = send_entry_once(log, entry, 0);
        allowance_spend(&log->patience, clock_monotonic() - begun);
        return r == 0;
}

static bool to_journal(Log *log, int priority, const LogFields *fields, const char *message) {
        Entry entry;

        entry.used = 0;
        add(&entry, "MESSAGE=%s", message);
        add(&entry, "PRIORITY=%d", priority);
        add(&entry, "SYSLOG_IDENTIFIER=%s", program_invocation_short_name);
        if (fields)
                add_fields(&entry, fields);
        return send_entry(log, &entry);
}

static bool is_wanted(const Log *log, int priority) {
        return priority <= (log->verbosity >= VERBOSITY_DEBUG ? LOG_DEBUG : LOG_INFO);
}

/* syslog(3) waits for as long as nobody reads. */
static bool to_syslog(Log *log, int priority, const char *message) {
        static const struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "/dev/log"};
        _cleanup_close_ int probe = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        if (probe >= 0 && connect(probe, (const struct sockaddr *) &address, sizeof address) == 0 &&
            !is_writable(log, probe))
                return false;
        syslog(priority, "%s", message);
        return true;
}

/* Returns whether it was taken. */
static bool send_message(Log *log, int priority, const LogFields *fields, const char *message) {
        switch (log->target) {
        case LOG_TO_JOURNAL:
                return to_journal(log, priority, fields, message);
        case LOG_TO_SYSLOG:
                return to_syslog(log, priority, message);
        default:
                return to_stderr(log, message);
        }
}

static void emit(Log *log, int priority, const LogFields *fields, const char *message) {
        char notice[64];

        if (!send_message(log, priority, fields, message)) {
                log->lost++;
                return;
        }
        if (log->lost == 0)
                return;
        (void) snprintf(notice, sizeof notice, "Before this %u messages were not taken", log->lost);
        if (send_message(log, LOG_WARNING, NULL, notice))
                log->lost = 0;
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
