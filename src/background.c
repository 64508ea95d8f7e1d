/* SPDX-License-Identifier: Apache-2.0 */
#include "background.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "util.h"

/* Makes a child without terminal that goes on as the daemon, while the parent waits for its word.
 *
 * Returns 0 in the child, with *ret_ready_fd for background_ready(); 1 in the parent, with *ret_ready_fd for
 * background_wait(); a negative errno when there is no child. */
int background_enter(int *ret_ready_fd) {
        int fds[2];
        pid_t pid;

        if (pipe2(fds, O_CLOEXEC) < 0)
                return -errno;
        pid = fork();
        if (pid < 0) {
                int r = -errno;
                safe_close(fds[0]);
                safe_close(fds[1]);
                return r;
        }
        if (pid > 0) {
                safe_close(fds[1]);
                *ret_ready_fd = fds[0];
                return 1;
        }
        safe_close(fds[0]);
        *ret_ready_fd = fds[1];
        (void) setsid();
        return 0;
}

/* For the parent: waits until the child is ready or gone. Returns 0 when it is ready, -ECHILD when it is gone. */
int background_wait(int ready_fd) {
        char byte;
        ssize_t n;

        do
                n = read(ready_fd, &byte, 1);
        while (n < 0 && errno == EINTR);
        safe_close(ready_fd);
        return n == 1 ? 0 : -ECHILD;
}

/* For the child: lets go of the terminal and of the directory, then tells the parent. Returns 0 or a negative
 * errno. */
int background_ready(int ready_fd) {
        _cleanup_close_ int ready = ready_fd, null = -1;

        if (chdir("/") < 0)
                return -errno;
        null = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (null < 0)
                return -errno;
        for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
                if (dup2(null, fd) < 0)
                        return -errno;
        while (write(ready, "", 1) != 1)
                if (errno != EINTR)
                        return -errno;
        return 0;
}
