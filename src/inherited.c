/* SPDX-License-Identifier: Apache-2.0 */
#include "inherited.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <unistd.h>

/* Whether a signal is to be ignored, as nohup(1) wants it, and a shell without job control for what it starts in the
 * background. It has to be asked: a signal that is blocked, to be read from a descriptor, is delivered there all the
 * same. */
bool inherited_ignores(int number) {
        struct sigaction action;

        return sigaction(number, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
}

static bool is_closed(int fd) {
        return fcntl(fd, F_GETFD) < 0 && errno == EBADF;
}

/* Opens those of standard input, output and error that are closed: else a connection would take their place, and messages
 * would go to it. They are opened the wrong way round, so that using them fails as before. Returns 0 or a negative
 * errno. */
int inherited_complete(void) {
        for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
                if (is_closed(fd) && open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) < 0)
                        return -errno;
        return 0;
}
