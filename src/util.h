/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The few helpers that every file may use: scope-bound cleanup and small arithmetic. */

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(f) __attribute__((cleanup(f)))
#define _printf_(string, first) __attribute__((format(printf, string, first)))

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* What a pointer to one of its members belongs to. */
#define CONTAINER_OF(pointer, type, member) ((type *) (void *) ((char *) (pointer) - offsetof(type, member)))

#define USEC_PER_SEC UINT64_C(1000000)
#define USEC_PER_MSEC UINT64_C(1000)

/* Gives the pointer away: the variable is NULL afterwards, so that its cleanup does nothing. */
#define TAKE_PTR(p)                                                                                          \
        ({                                                                                                   \
                __auto_type _taken = (p);                                                                    \
                (p) = NULL;                                                                                  \
                _taken;                                                                                      \
        })

/* The same for a descriptor. */
#define TAKE_FD(fd)                                                                                          \
        ({                                                                                                   \
                int _taken_fd = (fd);                                                                        \
                (fd) = -1;                                                                                   \
                _taken_fd;                                                                                   \
        })

/* NOLINTBEGIN(bugprone-macro-parentheses): a type cannot have parentheses. */
/* Defines NAMEp() for _cleanup_(NAMEp): calls the free function unless the pointer is NULL. */
#define DEFINE_CLEANUP(type, function)                                                                       \
        static inline void function##p(type *p) {                                                            \
                if (*p)                                                                                      \
                        function(*p);                                                                        \
        }
/* NOLINTEND(bugprone-macro-parentheses) */

static inline void freep(void *p) {
        free(*(void **) p);
}

#define _cleanup_free_ _cleanup_(freep)

/* Closes without disturbing errno; always returns -1, to be assigned to the variable. */
static inline int safe_close(int fd) {
        if (fd >= 0) {
                int saved = errno;
                (void) close(fd);
                errno = saved;
        }
        return -1;
}

static inline void safe_closep(int *fd) {
        safe_close(*fd);
}

#define _cleanup_close_ _cleanup_(safe_closep)

static inline size_t size_min(size_t a, size_t b) {
        return a < b ? a : b;
}

/* Whether an error, a negative errno, is one of want, which another process may not meet a moment later. */
static inline bool is_passing_error(int r) {
        return r == -ENOMEM || r == -ENOBUFS || r == -EMFILE || r == -ENFILE || r == -EAGAIN || r == -EINTR;
}

/* strerror() for the fixed set of errors that we print; errors are negative errno values. */
#define ERR_TEXT(r) strerror(-(r))
