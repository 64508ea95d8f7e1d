/* SPDX-License-Identifier: Apache-2.0 */

/* The floor of the benchmark: a server that accepts, reads once, writes a fixed answer of so many bytes, and closes.
 * Nobody can serve a connection with fewer system calls, so its processor time is the kernel's own work. With "stay"
 * it closes when its peer has, as a server of registrations must, and meanwhile serves others.
 *
 * floor BYTES [stay]: listens on a free port of 127.0.0.1, prints the port, and serves until it is killed. */

#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
        ANSWER_MAX = 16 * 1024 * 1024,
        REQUEST_MAX = 4096,
        EVENTS_MAX = 64,
};

static uint8_t request[REQUEST_MAX];

static void die(const char *what) {
        perror(what);
        exit(EXIT_FAILURE);
}

static int open_listener(int flags) {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t len = sizeof address;
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);

        if (fd < 0 || bind(fd, (const struct sockaddr *) &address, len) < 0 || listen(fd, SOMAXCONN) < 0 ||
            getsockname(fd, (struct sockaddr *) &address, &len) < 0)
                die("floor: failed to listen on a free port of 127.0.0.1");
        (void) printf("%u\n", (unsigned) ntohs(address.sin_port));
        if (fflush(stdout) != 0)
                die("floor: failed to print the port");
        return fd;
}

static void answer_once(int fd, const uint8_t *answer, size_t n) {
        size_t at = 0;

        if (recv(fd, request, sizeof request, 0) <= 0)
                return;
        while (at < n) {
                ssize_t sent = send(fd, answer + at, n - at, MSG_NOSIGNAL);

                if (sent <= 0)
                        return;
                at += (size_t) sent;
        }
}

static void serve(int listener, const uint8_t *answer, size_t n) {
        for (;;) {
                int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

                if (fd < 0)
                        die("floor: failed to accept a connection");
                answer_once(fd, answer, n);
                (void) close(fd);
        }
}

/* The connection waits in epoll before the answer goes out: a peer that closes at once is not missed. */
static void accept_to_stay(int listener, int epoll, const uint8_t *answer, size_t n) {
        for (;;) {
                struct epoll_event event = {.events = EPOLLRDHUP | EPOLLET};
                int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

                if (fd < 0 && errno == EAGAIN)
                        return;
                event.data.fd = fd;
                if (fd < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
                        die("floor: failed to accept a connection");
                answer_once(fd, answer, n);
        }
}

static void serve_and_stay(int listener, const uint8_t *answer, size_t n) {
        struct epoll_event events[EVENTS_MAX], event = {.events = EPOLLIN, .data.fd = listener};
        int epoll = epoll_create1(EPOLL_CLOEXEC);

        if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) < 0)
                die("floor: failed to wait for connections");
        for (;;) {
                int ready = epoll_wait(epoll, events, EVENTS_MAX, -1);

                for (int i = 0; i < ready; i++)
                        if (events[i].data.fd == listener)
                                accept_to_stay(listener, epoll, answer, n);
                        else
                                (void) close(events[i].data.fd);
        }
}

int main(int argc, char **argv) {
        char none[] = "", *end = none;
        unsigned long n = argc >= 2 ? strtoul(argv[1], &end, 10) : 0;
        int stay = argc == 3 && strcmp(argv[2], "stay") == 0;
        uint8_t *answer;

        if (argc != 2 + stay || *end || n == 0 || n > ANSWER_MAX) {
                (void) fprintf(stderr, "Usage: %s BYTES [stay] (1 to %d, of the answer)\n", argv[0], ANSWER_MAX);
                return EXIT_FAILURE;
        }
        /* Whoever measures may be killed. */
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
                die("floor: failed to ask for a signal at the end of the parent");
        answer = calloc(1, n);
        if (!answer)
                die("floor: no memory for the answer");
        if (stay)
                serve_and_stay(open_listener(SOCK_NONBLOCK), answer, n);
        else
                serve(open_listener(0), answer, n);
}
