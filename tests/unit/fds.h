/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the tests of parked connections share: connections, who they are, whether they have ended, how many
 * descriptors there are, and points that cannot be had everywhere. */

#include <arpa/inet.h>
#include <dirent.h>
#include <poll.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "unit.h"

/* How long anything may take that is on its way. */
enum { FDS_TIMEOUT_MSEC = 20000 };

/* A connection over the loopback device. */
typedef struct Pair {
        int fd;   /* the daemon's end */
        int peer; /* the node's */
} Pair;

static inline void no_linger(int fd) {
        const struct linger linger = {.l_onoff = 1};

        /* So that thousands of them leave no port in TIME_WAIT. */
        ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger), 0);
}

static inline Pair make_pair(void) {
        static int listener = -1; /* stays */
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t len = sizeof address;
        Pair pair;

        if (listener < 0) {
                listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
                ck_assert_int_ge(listener, 0);
                ck_assert_int_eq(bind(listener, (struct sockaddr *) &address, len), 0);
                ck_assert_int_eq(listen(listener, 8), 0);
                unit_fds_before++;
        }
        ck_assert_int_eq(getsockname(listener, (struct sockaddr *) &address, &len), 0);
        pair.peer = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        ck_assert_int_ge(pair.peer, 0);
        ck_assert_int_eq(connect(pair.peer, (struct sockaddr *) &address, len), 0);
        pair.fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        ck_assert_int_ge(pair.fd, 0);
        no_linger(pair.peer);
        return pair;
}

static inline void pair_done(Pair *pair) {
        pair->fd = safe_close(pair->fd);
        pair->peer = safe_close(pair->peer);
}

/* What tells a socket from every other, whatever the descriptor. */
static inline uint64_t cookie_of(int fd) {
        uint64_t cookie = 0;
        socklen_t len = sizeof cookie;

        if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &len) < 0)
                ck_abort_msg("descriptor %d is no socket", fd);
        return cookie;
}

/* Whether a node still has its connection, at this moment. */
static inline bool is_connected(int peer) {
        char byte;

        return recv(peer, &byte, 1, MSG_DONTWAIT | MSG_PEEK) < 0 && errno == EAGAIN;
}

/* Waits for the proper end of a connection: the end of the data, no reset. */
static inline void check_ended(int peer, const char *what) {
        struct pollfd poller = {.fd = peer, .events = POLLIN};
        char byte;

        if (poll(&poller, 1, FDS_TIMEOUT_MSEC) != 1)
                ck_abort_msg("%s: the peer's connection does not end", what);
        if (recv(peer, &byte, 1, MSG_DONTWAIT) != 0)
                ck_abort_msg("%s: the peer's connection did not end properly", what);
}

/* The number of descriptors of this process. */
static inline size_t count_fds(void) {
        DIR *dir = opendir("/proc/self/fd");
        size_t n = 0;

        ck_assert_ptr_nonnull(dir);
        while (readdir(dir))
                n++;
        closedir(dir);
        return n;
}

/* Whether the function succeeds in a process of its own. */
static inline bool succeeds_in_child(bool (*function)(void)) {
        pid_t pid = fork();
        int status = 0;

        if (pid == 0)
                _exit(!function());
        return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

START_TEST(not_here) {
}
END_TEST

/* Adds, instead of a test that this machine does not allow, a point that says so. text: "NAME # SKIP REASON". */
static inline void add_skipped(TCase *tcase, TTest *storage, const char *text) {
        *storage = *not_here;
        storage->name = text;
        tcase_add_test(tcase, storage);
}
