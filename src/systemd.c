/* SPDX-License-Identifier: Apache-2.0 */
#include "systemd.h"

#include <stdarg.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>

/* How long the manager may take to read something without which nodes would be lost. */
enum { PATIENCE_SECONDS = 10 };

/* n of them, of which some may be NULL. */
static void free_names(char **names, int n) {
        for (int i = 0; names && i < n; i++)
                free(names[i]);
        free(names);
}

/* The end of the name that begins there: the next colon, but for an instance of a unit only one behind its suffix. */
static const char *end_of_name(const char *name) {
        const char suffix[] = ".socket", *end = strchrnul(name, ':');
        const size_t n = sizeof suffix - 1;

        if (memchr(name, '@', (size_t) (end - name)))
                while (*end && ((size_t) (end - name) < n || memcmp(end - n, suffix, n) != 0))
                        end = strchrnul(end + 1, ':');
        return end;
}

/* Names of descriptors when LISTEN_FDNAMES seems to have more of them than there are descriptors, because a unit's name
 * has colons in it: epmd@[2001:db8::1].socket. NULL: it is not that, or there is no memory. */
static char **names_of_units(int n) {
        const char *at = getenv("LISTEN_FDNAMES"), *end;
        char **names = calloc((size_t) n, sizeof *names);

        for (int i = 0; names && at && i < n; i++) {
                end = end_of_name(at);
                names[i] = strndup(at, (size_t) (end - at));
                at = *end ? end + 1 : NULL;
        }
        for (int i = 0; names && !at && names[i]; i++)
                if (i == n - 1)
                        return names;
        free_names(names, n);
        return NULL;
}

#if defined(__GNUC__) && !defined(__clang__)
/* The analyzer loses sight of an array that is filled from its end. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wanalyzer-malloc-leak"
#endif

/* The same where even that does not come out. The names of what is in the store have no colons, and come last: so they
 * are given out from the end, and what is wrong belongs to listening sockets. */
static char **names_from_end(int n) {
        const char *all = getenv("LISTEN_FDNAMES");
        char **names = calloc((size_t) n, sizeof *names);
        const char *end = all ? strchr(all, 0) : NULL;

        for (int i = n - 1; names && all && end && i >= 0; i--) {
                const char *colon = memrchr(all, ':', (size_t) (end - all)), *name = colon ? colon + 1 : all;

                names[i] = strndup(name, (size_t) (end - name));
                if (!names[i]) {
                        free_names(names, n);
                        return NULL;
                }
                end = colon;
        }
        return names;
}

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

/* Takes the descriptors that the service manager passed to this very process (sd_listen_fds_with_names(3)); they
 * are close-on-exec. *ret is to be freed with passed_sockets_done(), which closes what is still there.
 * Returns 0, with no items when nothing was passed; -ENOMEM; the error of a malformed environment. */
int systemd_take_sockets(PassedSockets *ret) {
        PassedSockets sockets = {};
        char **names = NULL;
        int n, r = 0;

        n = sd_listen_fds_with_names(false, &names);
        if (n == -EINVAL) {
                n = sd_listen_fds(false);
                names = n > 0 ? names_of_units(n) : NULL;
                if (n > 0 && !names)
                        names = names_from_end(n);
        }
        if (n < 0)
                return n;
        /* Without its name nothing would be known as what an earlier process has stored. */
        if (n > 0 && !names)
                return -ENOMEM;
        for (int i = 0; i < n && r >= 0; i++)
                r = passed_sockets_add(&sockets, SD_LISTEN_FDS_START + i, names && names[i] ? names[i] : "?");
        free_names(names, n);
        if (r < 0) {
                passed_sockets_done(&sockets);
                return r;
        }
        *ret = sockets;
        return 0;
}

/* Adds a descriptor, which is the list's from here on, unless there is no memory. Returns 0 or -ENOMEM. */
int passed_sockets_add(PassedSockets *sockets, int fd, const char *name) {
        PassedSocket *items = reallocarray(sockets->items, sockets->n + 1, sizeof *items);
        char *copy;

        if (!items)
                return -ENOMEM;
        sockets->items = items;
        copy = strdup(name);
        if (!copy)
                return -ENOMEM;
        items[sockets->n++] = (PassedSocket){.fd = fd, .name = copy};
        return 0;
}

/* The same with a duplicate of the descriptor. Returns 0 or a negative errno. */
int passed_sockets_add_copy(PassedSockets *sockets, int fd, const char *name) {
        _cleanup_close_ int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        int r;

        if (copy < 0)
                return -errno;
        r = passed_sockets_add(sockets, copy, name);
        if (r >= 0)
                (void) TAKE_FD(copy);
        return r;
}

void passed_sockets_done(PassedSockets *sockets) {
        for (size_t i = 0; i < sockets->n; i++) {
                safe_close(sockets->items[i].fd);
                free(sockets->items[i].name);
        }
        free(sockets->items);
        *sockets = (PassedSockets){};
}

/* For a process that was not started as a service of its own, but inherited the environment of one (an epmd that a
 * node in a Type=notify service starts): what it says would count as that service's. */
void systemd_leave(void) {
        (void) unsetenv("NOTIFY_SOCKET");
        (void) unsetenv("WATCHDOG_USEC");
        (void) unsetenv("WATCHDOG_PID");
}

/* Where the service manager listens, as sd_notify(3) has it. Returns false where there is none. */
static bool manager_address(struct sockaddr_un *ret, socklen_t *ret_len) {
        const char *path = getenv("NOTIFY_SOCKET");
        size_t n = path ? strlen(path) : 0;

        *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
        if (n < 2 || n >= sizeof ret->sun_path || (path[0] != '/' && path[0] != '@'))
                return false;
        memcpy(ret->sun_path, path, n);
        if (path[0] == '@')
                ret->sun_path[0] = 0;
        *ret_len = (socklen_t) (offsetof(struct sockaddr_un, sun_path) + n);
        return true;
}

static void put_descriptor(struct msghdr *message, void *control, size_t size, int fd) {
        struct cmsghdr *header = control;

        memset(control, 0, size);
        message->msg_control = control;
        message->msg_controllen = size;
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(header), &fd, sizeof fd);
}

static int open_notify_socket(void) {
        return socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
}

/* Sends a notification to the service manager; does nothing where there is none. sd_notify(3) would wait for as long as
 * the manager does not read, and everybody would wait for the daemon.
 *
 * sock: of systemd_notify_socket(), or -1: one for this alone; fd: goes with it, or -1; patient: waits for some seconds,
 * else not at all. Returns 0; -EAGAIN: the manager does not read; another negative errno. */
static int send_notification(int sock, const char *state, int fd, bool patient) {
        const struct timeval patience = {.tv_sec = PATIENCE_SECONDS};
        struct sockaddr_un address;
        struct iovec iov = {.iov_base = (void *) state, .iov_len = strlen(state)};
        struct msghdr message = {.msg_name = &address, .msg_iov = &iov, .msg_iovlen = 1};
        union {
                struct cmsghdr header; /* for alignment */
                uint8_t space[CMSG_SPACE(sizeof(int))];
        } control;
        _cleanup_close_ int own = -1;

        if (!manager_address(&address, &message.msg_namelen))
                return 0;
        if (sock < 0)
                sock = own = open_notify_socket();
        if (sock < 0)
                return -errno;
        if (patient && setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) < 0)
                patient = false;
        if (fd >= 0)
                put_descriptor(&message, &control, sizeof control, fd);
        while (sendmsg(sock, &message, MSG_NOSIGNAL | (patient ? 0 : MSG_DONTWAIT)) < 0)
                if (errno != EINTR)
                        return -errno;
        return 0;
}

/* Opens a socket for systemd_notify(), for notifications that must not depend on a descriptor being free. It is the
 * caller's. Returns -1 where there is no service manager, or no descriptor now. */
int systemd_notify_socket(void) {
        struct sockaddr_un address;
        socklen_t len;

        return manager_address(&address, &len) ? open_notify_socket() : -1;
}

/* Tells the service manager what sd_notify(3) says, and never waits. sock: of systemd_notify_socket(), or -1. Returns 0,
 * also where there is no manager; a negative errno: it does not know, and what is important should be said again
 * later. */
int systemd_notify(int sock, const char *format, ...) {
        char state[512];
        va_list ap;

        va_start(ap, format);
        (void) vsnprintf(state, sizeof state, format, ap);
        va_end(ap);
        return send_notification(sock, state, -1, false);
}

/* How often the service manager wants to hear WATCHDOG=1, in µs; 0: never. */
uint64_t systemd_watchdog(void) {
        uint64_t usec = 0;

        return sd_watchdog_enabled(false, &usec) > 0 ? usec : 0;
}

/* Gives a duplicate of a descriptor to the service manager, which passes it to the next process of the service
 * (sd_pid_notify_with_fds(3)). It is kept even when it hangs up. Returns 0 or a negative errno. */
int systemd_store(const char *name, int fd) {
        char state[128];

        (void) snprintf(state, sizeof state, "FDSTORE=1\nFDNAME=%s\nFDPOLL=0", name);
        return send_notification(-1, state, fd, true);
}

/* Has the service manager close all that it keeps under that name. */
void systemd_unstore(const char *name) {
        char state[128];

        (void) snprintf(state, sizeof state, "FDSTOREREMOVE=1\nFDNAME=%s", name);
        (void) send_notification(-1, state, -1, true);
}

/* Moves what occupies the places where sd_listen_fds(3) looks out of the way, and the descriptors, too. saved: as
 * many as sockets; -1: nothing was there. */
static int make_way(const PassedSockets *sockets, int *saved) {
        const int first_free = SD_LISTEN_FDS_START + (int) sockets->n;

        for (size_t i = 0; i < sockets->n; i++) {
                int fd = fcntl(sockets->items[i].fd, F_DUPFD_CLOEXEC, first_free);

                if (fd < 0)
                        return -errno;
                safe_close(sockets->items[i].fd);
                sockets->items[i].fd = fd;
        }
        for (size_t i = 0; i < sockets->n; i++) {
                saved[i] = fcntl(SD_LISTEN_FDS_START + (int) i, F_DUPFD_CLOEXEC, first_free);
                if (saved[i] < 0 && errno != EBADF)
                        return -errno;
        }
        return 0;
}

/* Puts the descriptors where sd_listen_fds(3) looks for them, open across exec. */
static int line_up(const PassedSockets *sockets) {
        for (size_t i = 0; i < sockets->n; i++)
                if (dup2(sockets->items[i].fd, SD_LISTEN_FDS_START + (int) i) < 0)
                        return -errno;
        return 0;
}

/* Puts what was there before back. */
static void put_back(const PassedSockets *sockets, const int *saved) {
        for (size_t i = 0; i < sockets->n; i++) {
                if (saved[i] >= 0)
                        (void) dup3(saved[i], SD_LISTEN_FDS_START + (int) i, O_CLOEXEC);
                else
                        (void) close(SD_LISTEN_FDS_START + (int) i);
                safe_close(saved[i]);
        }
}

static int put_environment(const PassedSockets *sockets) {
        _cleanup_free_ char *names = NULL;
        char count[16];
        size_t len = 1;

        for (size_t i = 0; i < sockets->n; i++)
                len += strlen(sockets->items[i].name) + 1;
        names = calloc(1, len);
        if (!names)
                return -ENOMEM;
        for (size_t i = 0, at = 0; i < sockets->n; i++)
                at += (size_t) sprintf(names + at, "%s%s", i > 0 ? ":" : "", sockets->items[i].name);
        (void) snprintf(count, sizeof count, "%zu", sockets->n);
        if (setenv("LISTEN_FDS", count, true) < 0 || setenv("LISTEN_FDNAMES", names, true) < 0)
                return -errno;
        return 0;
}

/* Replaces the program of this process, passing descriptors on as the service manager does. Returns only a negative
 * errno; then everything is as before, but for the numbers of the sockets passed. */
int systemd_exec(const char *program, char **argv, const PassedSockets *sockets) {
        _cleanup_free_ int *saved = malloc(sockets->n * sizeof *saved);
        int r;

        if (!saved)
                return -ENOMEM;
        for (size_t i = 0; i < sockets->n; i++)
                saved[i] = -1;
        r = put_environment(sockets);
        if (r >= 0)
                r = make_way(sockets, saved);
        if (r < 0) {
                for (size_t i = 0; i < sockets->n; i++)
                        safe_close(saved[i]);
                return r;
        }
        r = line_up(sockets);
        if (r >= 0) {
                (void) execv(program, argv);
                r = -errno;
        }
        put_back(sockets, saved);
        return r;
}
