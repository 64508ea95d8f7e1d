/* SPDX-License-Identifier: Apache-2.0 */

/* A library for LD_PRELOAD under which allocations and system calls fail when the driver of the tests says so.
 *
 * It shares a file with the driver, struct Control, named by EPMD_FAULTS: there the calls of each function are counted,
 * and there stands which of them is to fail, and how. So the driver can change its mind while the process runs, and
 * counts go on over an exec. Until a file is there everything works as ever. See faults.py for the other side. */

#undef _FORTIFY_SOURCE

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
        CONTROL_VERSION = 1,
        ERRORS_MAX = 8,
        FUNCTIONS_MAX = 64,
        NAME_MAX_ = 24,
        SHORT = -1, /* no error: less is done than was asked for */
        NO_FUNCTION = -1,
        ANY_FUNCTION = -2,
};

typedef struct Counted {
        char name[NAME_MAX_];
        int32_t errors[ERRORS_MAX]; /* how it can fail; 0 ends the list */
        uint64_t calls;
} Counted;

typedef struct Control {
        uint64_t version;
        int64_t function; /* its index, NO_FUNCTION, or ANY_FUNCTION: each call fails with the probability rate/2^32 */
        uint64_t first, times; /* the call, counted from 1, with which it begins to fail, and how many do */
        int64_t error;
        uint64_t rate;
        uint64_t random; /* state of the generator, begins as the seed */
        uint64_t injected;
        int64_t last_function, last_error; /* what was injected last */
        uint64_t n_functions;
        Counted functions[FUNCTIONS_MAX];
} Control;

/* Every function that fails here, with the errors that Linux documents for it and a daemon can meet. What only a wrong
 * program gets (EBADF, EFAULT, EINVAL) is left out, and EAGAIN of what receives: the kernel never says it while
 * something is there, and a program that waits for the next edge would wait for ever. */
#define FUNCTIONS(X)                                                                                         \
        X(malloc, ENOMEM)                                                                                    \
        X(calloc, ENOMEM)                                                                                    \
        X(realloc, ENOMEM)                                                                                   \
        X(accept4, EMFILE, ENFILE, ENOMEM, ECONNABORTED, EINTR, EPERM)                                       \
        X(access, EIO, ENOENT)                                                                               \
        X(bind, EADDRINUSE, EADDRNOTAVAIL, EACCES)                                                           \
        X(chdir, EIO)                                                                                        \
        X(connect, ECONNREFUSED, EAGAIN, EINTR, EACCES)                                                      \
        X(dup2, EMFILE, EINTR)                                                                               \
        X(epoll_create1, EMFILE, ENFILE, ENOMEM)                                                             \
        X(epoll_ctl, ENOMEM, ENOSPC)                                                                         \
        X(epoll_wait, EINTR)                                                                                 \
        X(execv, ENOENT, EACCES, ENOMEM, E2BIG, EIO)                                                         \
        X(fcntl, EMFILE, ENOLCK)                                                                             \
        X(fdopendir, ENOMEM)                                                                                 \
        X(flock, EINTR, ENOLCK, EWOULDBLOCK)                                                                 \
        X(fork, EAGAIN, ENOMEM)                                                                              \
        X(fstat, EIO)                                                                                        \
        X(fstatvfs, EIO, EINTR)                                                                              \
        X(ftruncate, EIO, EINTR)                                                                             \
        X(getpeername, ENOTCONN)                                                                             \
        X(getpwnam, ENOMEM, EIO)                                                                             \
        X(getrandom, ENOSYS, EINTR)                                                                          \
        X(getrlimit, EPERM)                                                                                  \
        X(getsockname, ENOBUFS)                                                                              \
        X(getsockopt, ENOMEM, ENOPROTOOPT, EPERM)                                                            \
        X(listen, EADDRINUSE)                                                                                \
        X(mmap, ENOMEM, ENFILE, EPERM)                                                                       \
        X(open, EMFILE, ENFILE, ENOMEM, EACCES, EIO, ENOSPC)                                                 \
        X(pipe2, EMFILE, ENFILE)                                                                             \
        X(poll, EINTR, ENOMEM)                                                                               \
        X(posix_fallocate, ENOSPC, EINTR, EIO, EFBIG)                                                        \
        X(read, EINTR)                                                                                       \
        X(readdir, EIO, ENOENT)                                                                              \
        X(recv, EINTR, ECONNRESET, ENOMEM, ETIMEDOUT, SHORT)                                                 \
        X(recvfrom, EINTR, ENOBUFS, ENOMEM)                                                                  \
        X(recvmsg, EINTR, ENOMEM)                                                                            \
        X(send, EINTR, EAGAIN, ENOBUFS, EPIPE, ECONNRESET, SHORT)                                            \
        X(sendmsg, EINTR, EAGAIN, ENOBUFS, ENOMEM, EPIPE, ECONNRESET, SHORT)                                 \
        X(sendto, EINTR, EAGAIN, ENOBUFS, ENOMEM)                                                            \
        X(setrlimit, EPERM)                                                                                  \
        X(setsockopt, ENOMEM, EPERM, ENOPROTOOPT)                                                            \
        X(shutdown, ENOTCONN)                                                                                \
        X(signalfd, EMFILE, ENFILE, ENOMEM)                                                                  \
        X(socket, EMFILE, ENFILE, ENOMEM, EACCES, EAFNOSUPPORT)                                              \
        X(socketpair, EMFILE, ENFILE, ENOMEM)                                                                \
        X(statfs, EIO, EINTR)                                                                                \
        X(timerfd_create, EMFILE, ENFILE, ENOMEM)                                                            \
        X(timerfd_settime, ECANCELED)                                                                        \
        X(write, EINTR)

#define INDEX(name, ...) INDEX_##name,
enum { FUNCTIONS(INDEX) FUNCTIONS_COUNT };
_Static_assert((int) FUNCTIONS_COUNT <= (int) FUNCTIONS_MAX, "there is room for all functions");

static Control *control;
static bool late;                  /* EPMD_FAULTS_LATE is set */
static struct sockaddr_un journal; /* the tests' own, from EPMD_FAULTS_JOURNAL, instead of the machine's */

__attribute__((constructor(101))) static void begin(void) {
#define ROW(name, ...) {#name, {__VA_ARGS__}, 0},
        static const Counted rows[] = {FUNCTIONS(ROW)};
        const char *path = getenv("EPMD_FAULTS");
        void *memory;
        int fd;

        fd = path ? (int) syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC) : -1;
        if (fd < 0)
                return;
        memory = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        (void) close(fd);
        if (memory == MAP_FAILED)
                return;
        if (((Control *) memory)->version != CONTROL_VERSION) {
                ((Control *) memory)->n_functions = FUNCTIONS_COUNT;
                memcpy(((Control *) memory)->functions, rows, sizeof rows);
                ((Control *) memory)->version = CONTROL_VERSION;
        }
        control = memory;
        late = getenv("EPMD_FAULTS_LATE");
        path = getenv("EPMD_FAULTS_JOURNAL");
        if (path && strlen(path) < sizeof journal.sun_path) {
                journal.sun_family = AF_UNIX;
                strcpy(journal.sun_path, path);
        }
}

/* Never NULL: without the real function nothing can go on. */
static void *real(const char *name) {
        void *found = dlsym(RTLD_NEXT, name);

        if (!found)
                abort();
        return found;
}

static uint64_t next_random(void) {
        uint64_t z = control->random += UINT64_C(0x9e3779b97f4a7c15);

        z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
        return z ^ (z >> 31);
}

/* No EAGAIN twice in a row: the edge that follows a real one would not come. */
static int random_error(const Counted *counted) {
        int n = 0, error;

        if (next_random() >> 32 >= control->rate)
                return 0;
        while (n < ERRORS_MAX && counted->errors[n] != 0)
                n++;
        error = n > 0 ? counted->errors[next_random() % (uint64_t) n] : 0;
        return error == EAGAIN && control->last_error == EAGAIN ? 0 : error;
}

/* Counts a call. Returns how it is to fail: an errno, SHORT, or 0: it is not. can_be_short: whether this call could do
 * less than it is asked for. */
static int fault(int index, bool can_be_short) {
        Counted *counted;
        int error = 0;

        if (!control)
                return 0;
        counted = &control->functions[index];
        counted->calls++;
        if (control->function == ANY_FUNCTION)
                error = random_error(counted);
        else if (control->function == index && counted->calls >= control->first &&
                 counted->calls - control->first < control->times)
                error = (int) control->error;
        if (error == 0 || (error == SHORT && !can_be_short))
                return 0;
        control->injected++;
        control->last_function = index;
        control->last_error = error;
        return error;
}

/* A function that fails by returning `failed`, errno being set. symbol: its name for the linker, which keeps the
 * compiler from comparing our prototype with that of the headers: an optional argument is passed as any other. */
/* NOLINTBEGIN(bugprone-macro-parentheses): a type cannot have parentheses. */
#define CALL(type, failed, name, symbol, parameters, arguments)                                              \
        type wrapped_##symbol parameters __asm__(#symbol);                                                   \
        type wrapped_##symbol parameters {                                                                   \
                static type(*next) parameters;                                                               \
                int error = fault(INDEX_##name, false);                                                      \
                                                                                                             \
                if (error != 0) {                                                                            \
                        errno = error;                                                                       \
                        return failed;                                                                       \
                }                                                                                            \
                if (!next)                                                                                   \
                        *(void **) &next = real(#symbol);                                                    \
                return next arguments;                                                                       \
        }
/* NOLINTEND(bugprone-macro-parentheses) */

CALL(void *, NULL, malloc, malloc, (size_t n), (n))
CALL(void *, NULL, calloc, calloc, (size_t n, size_t size), (n, size))
CALL(void *, NULL, realloc, realloc, (void *p, size_t n), (p, n))
CALL(int, -1, accept4, accept4, (int fd, void *address, void *len, int flags), (fd, address, len, flags))
CALL(int, -1, access, access, (const char *path, int mode), (path, mode))
CALL(int, -1, bind, bind, (int fd, const void *address, socklen_t len), (fd, address, len))
CALL(int, -1, chdir, chdir, (const char *path), (path))
CALL(int, -1, connect, connect, (int fd, const void *address, socklen_t len), (fd, address, len))
CALL(int, -1, dup2, dup2, (int fd, int to), (fd, to))
CALL(int, -1, dup2, dup3, (int fd, int to, int flags), (fd, to, flags))
CALL(int, -1, epoll_create1, epoll_create1, (int flags), (flags))
CALL(int, -1, epoll_wait, epoll_wait, (int fd, void *events, int n, int timeout), (fd, events, n, timeout))
CALL(int, -1, epoll_wait, epoll_pwait2, (int fd, void *events, int n, const void *timeout, const void *mask),
     (fd, events, n, timeout, mask))
CALL(int, -1, execv, execv, (const char *path, char *const *argv), (path, argv))
CALL(int, -1, fcntl, fcntl, (int fd, int command, void *argument), (fd, command, argument))
CALL(int, -1, fcntl, fcntl64, (int fd, int command, void *argument), (fd, command, argument))
CALL(void *, NULL, fdopendir, fdopendir, (int fd), (fd))
CALL(int, -1, flock, flock, (int fd, int operation), (fd, operation))
CALL(int, -1, fork, fork, (void), ())
CALL(int, -1, fstat, fstat, (int fd, void *st), (fd, st))
CALL(int, -1, fstat, fstat64, (int fd, void *st), (fd, st))
CALL(int, -1, fstatvfs, fstatvfs, (int fd, void *vfs), (fd, vfs))
CALL(int, -1, fstatvfs, fstatvfs64, (int fd, void *vfs), (fd, vfs))
CALL(int, -1, ftruncate, ftruncate, (int fd, off_t size), (fd, size))
CALL(int, -1, ftruncate, ftruncate64, (int fd, off64_t size), (fd, size))
CALL(int, -1, getpeername, getpeername, (int fd, void *address, void *len), (fd, address, len))
CALL(void *, NULL, getpwnam, getpwnam, (const char *name), (name))
CALL(ssize_t, -1, getrandom, getrandom, (void *buffer, size_t n, unsigned flags), (buffer, n, flags))
CALL(int, -1, getrlimit, getrlimit, (int what, void *limit), (what, limit))
CALL(int, -1, getrlimit, getrlimit64, (int what, void *limit), (what, limit))
CALL(int, -1, getsockname, getsockname, (int fd, void *address, void *len), (fd, address, len))
CALL(int, -1, getsockopt, getsockopt, (int fd, int level, int option, void *value, void *len),
     (fd, level, option, value, len))
CALL(int, -1, listen, listen, (int fd, int backlog), (fd, backlog))
CALL(void *, MAP_FAILED, mmap, mmap, (void *at, size_t n, int access, int flags, int fd, off_t offset),
     (at, n, access, flags, fd, offset))
CALL(void *, MAP_FAILED, mmap, mmap64, (void *at, size_t n, int access, int flags, int fd, off64_t offset),
     (at, n, access, flags, fd, offset))
CALL(int, -1, open, open, (const char *path, int flags, mode_t mode), (path, flags, mode))
CALL(int, -1, open, open64, (const char *path, int flags, mode_t mode), (path, flags, mode))
CALL(int, -1, open, openat, (int dir, const char *path, int flags, mode_t mode), (dir, path, flags, mode))
CALL(int, -1, open, openat64, (int dir, const char *path, int flags, mode_t mode), (dir, path, flags, mode))
CALL(int, -1, open, __open64_2, (const char *path, int flags), (path, flags))
CALL(int, -1, open, __openat64_2, (int dir, const char *path, int flags), (dir, path, flags))
CALL(int, -1, pipe2, pipe2, (int *fds, int flags), (fds, flags))
CALL(int, -1, poll, poll, (void *fds, nfds_t n, int timeout), (fds, n, timeout))
CALL(int, -1, poll, ppoll, (void *fds, nfds_t n, const void *timeout, const void *mask), (fds, n, timeout, mask))
CALL(int, error, posix_fallocate, posix_fallocate, (int fd, off_t at, off_t n), (fd, at, n))
CALL(int, error, posix_fallocate, posix_fallocate64, (int fd, off64_t at, off64_t n), (fd, at, n))
CALL(ssize_t, -1, read, read, (int fd, void *buffer, size_t n), (fd, buffer, n))
CALL(void *, NULL, readdir, readdir, (void *dir), (dir))
CALL(void *, NULL, readdir, readdir64, (void *dir), (dir))
CALL(ssize_t, -1, recvfrom, recvfrom, (int fd, void *buffer, size_t n, int flags, void *from, void *len),
     (fd, buffer, n, flags, from, len))
CALL(ssize_t, -1, recvmsg, recvmsg, (int fd, void *message, int flags), (fd, message, flags))
CALL(int, -1, setrlimit, setrlimit, (int what, const void *limit), (what, limit))
CALL(int, -1, setrlimit, setrlimit64, (int what, const void *limit), (what, limit))
CALL(int, -1, setsockopt, setsockopt, (int fd, int level, int option, const void *value, socklen_t len),
     (fd, level, option, value, len))
CALL(int, -1, shutdown, shutdown, (int fd, int how), (fd, how))
CALL(int, -1, signalfd, signalfd, (int fd, const void *mask, int flags), (fd, mask, flags))
CALL(int, -1, socket, socket, (int domain, int type, int protocol), (domain, type, protocol))
CALL(int, -1, socketpair, socketpair, (int domain, int type, int protocol, int *fds), (domain, type, protocol, fds))
CALL(int, -1, statfs, statfs, (const char *path, void *fs), (path, fs))
CALL(int, -1, statfs, statfs64, (const char *path, void *fs), (path, fs))
CALL(int, -1, timerfd_create, timerfd_create, (int clock, int flags), (clock, flags))
CALL(int, -1, timerfd_settime, timerfd_settime, (int fd, int flags, const void *value, void *old),
     (fd, flags, value, old))
CALL(ssize_t, -1, write, write, (int fd, const void *buffer, size_t n), (fd, buffer, n))

/* To stop watching what is watched never fails. */
int wrapped_epoll_ctl(int fd, int operation, int other, void *event) __asm__("epoll_ctl");
int wrapped_epoll_ctl(int fd, int operation, int other, void *event) {
        static int (*next)(int, int, int, void *);
        int error = operation == EPOLL_CTL_DEL ? 0 : fault(INDEX_epoll_ctl, false);

        if (error != 0) {
                errno = error;
                return -1;
        }
        if (!next)
                *(void **) &next = real("epoll_ctl");
        return next(fd, operation, other, event);
}

/* ---- What can be done in part ---- */

/* Whether less than asked for can be sent or received at once. */
static bool is_stream(int fd) {
        int type = 0;
        socklen_t len = sizeof type;

        return control && syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_STREAM;
}

/* Half of it, and at least one byte. */
static size_t part(size_t n) {
        return n / 2 > 0 ? n / 2 : n;
}

ssize_t wrapped_recv(int fd, void *buffer, size_t n, int flags) __asm__("recv");
ssize_t wrapped_recv(int fd, void *buffer, size_t n, int flags) {
        static ssize_t (*next)(int, void *, size_t, int);
        int error = fault(INDEX_recv, n > 1 && is_stream(fd));

        if (error > 0) {
                errno = error;
                return -1;
        }
        if (!next)
                *(void **) &next = real("recv");
        return next(fd, buffer, error == SHORT ? 1 : n, flags);
}

ssize_t wrapped_send(int fd, const void *buffer, size_t n, int flags) __asm__("send");
ssize_t wrapped_send(int fd, const void *buffer, size_t n, int flags) {
        static ssize_t (*next)(int, const void *, size_t, int);
        int error = fault(INDEX_send, n > 1 && is_stream(fd));

        if (error > 0) {
                errno = error;
                return -1;
        }
        if (!next)
                *(void **) &next = real("send");
        return next(fd, buffer, error == SHORT ? part(n) : n, flags);
}

static bool is_for_journal(const void *to, socklen_t len) {
        static const char path[] = "/run/systemd/journal/socket";

        return journal.sun_family == AF_UNIX && to && len >= offsetof(struct sockaddr_un, sun_path) + sizeof path - 1 &&
               memcmp(((const struct sockaddr_un *) to)->sun_path, path, sizeof path - 1) == 0;
}

ssize_t wrapped_sendto(int fd, const void *buffer, size_t n, int flags, const void *to, socklen_t len) __asm__("sendto");
ssize_t wrapped_sendto(int fd, const void *buffer, size_t n, int flags, const void *to, socklen_t len) {
        static ssize_t (*next)(int, const void *, size_t, int, const void *, socklen_t);
        int error = fault(INDEX_sendto, false);

        if (error > 0) {
                errno = error;
                return -1;
        }
        if (!next)
                *(void **) &next = real("sendto");
        if (is_for_journal(to, len))
                return next(fd, buffer, n, flags, &journal, sizeof journal);
        return next(fd, buffer, n, flags, to, len);
}

ssize_t wrapped_sendmsg(int fd, const struct msghdr *message, int flags) __asm__("sendmsg");
ssize_t wrapped_sendmsg(int fd, const struct msghdr *message, int flags) {
        static ssize_t (*next)(int, const struct msghdr *, int);
        int error = fault(INDEX_sendmsg, message->msg_iovlen > 0 && message->msg_iov[0].iov_len > 1 && is_stream(fd));
        struct msghdr less = *message;
        struct iovec first;

        if (error > 0) {
                errno = error;
                return -1;
        }
        if (error == SHORT) {
                first = message->msg_iov[0];
                first.iov_len = part(first.iov_len);
                less.msg_iov = &first;
                less.msg_iovlen = 1;
        }
        if (is_for_journal(message->msg_name, message->msg_namelen)) {
                less.msg_name = &journal;
                less.msg_namelen = sizeof journal;
        }
        if (!next)
                *(void **) &next = real("sendmsg");
        return next(fd, &less, flags);
}

/* sd-event waits in this way where its C library knows no epoll_pwait2(). */
long wrapped_syscall(long number, long a, long b, long c, long d, long e, long f) __asm__("syscall");
long wrapped_syscall(long number, long a, long b, long c, long d, long e, long f) {
        static long (*next)(long, long, long, long, long, long, long);
        int error = number == SYS_epoll_pwait2 ? fault(INDEX_epoll_wait, false) : 0;

        if (error != 0) {
                errno = error;
                return -1;
        }
        if (!next)
                *(void **) &next = real("syscall");
        return next(number, a, b, c, d, e, f);
}

/* What a peer sends between the last look at its connection and the end of it: with EPMD_FAULTS_LATE, a connection is
 * closed only when something has come, or nothing has for a while. */
int wrapped_close(int fd) __asm__("close");
int wrapped_close(int fd) {
        const struct timespec while_ = {.tv_nsec = 200 * 1000 * 1000};
        struct pollfd connection = {.fd = fd, .events = POLLIN};
        int domain = 0, listens = 1, unread = 0;
        socklen_t len = sizeof domain;

        if (late && control && syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_INET &&
            syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) == 0 && !listens &&
            syscall(SYS_ppoll, &connection, 1, &while_, NULL, 0) > 0 && syscall(SYS_ioctl, fd, FIONREAD, &unread) == 0)
                control->injected += unread > 0;
        return (int) syscall(SYS_close, fd);
}

/* The pause of a daemon that cannot begin is for systemd's sake; thousands of them would be for nobody's. */
unsigned wrapped_sleep(unsigned seconds) __asm__("sleep");
unsigned wrapped_sleep(unsigned seconds) {
        static unsigned (*next)(unsigned);

        if (control)
                return 0;
        if (!next)
                *(void **) &next = real("sleep");
        return next(seconds);
}
