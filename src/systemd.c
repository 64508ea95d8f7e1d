/* SPDX-License-Identifier: Apache-2.0 */
#include "systemd.h"

#include <stdarg.h>
#include <stdio.h>
#include <systemd/sd-daemon.h>

/* Takes the descriptors that the service manager passed to this very process (sd_listen_fds_with_names(3)); they
 * are close-on-exec. *ret is to be freed with passed_sockets_done(), which closes what is still there.
 * Returns 0, with no items when nothing was passed; -ENOMEM; the error of a malformed environment. */
int systemd_take_sockets(PassedSockets *ret) {
        char **names = NULL;
        PassedSocket *items;
        int n;

        n = sd_listen_fds_with_names(false, &names);
        /* A unit's name with a colon in it, epmd@[2001:db8::1].socket, is not told apart from two names. Better to
         * serve without names than not at all. */
        if (n == -EINVAL)
                n = sd_listen_fds(false);
        if (n <= 0) {
                if (n == 0)
                        *ret = (PassedSockets){};
                return n;
        }
        items = calloc((size_t) n, sizeof *items);
        for (int i = 0; i < n; i++) {
                if (items)
                        items[i] = (PassedSocket){.fd = SD_LISTEN_FDS_START + i, .name = names ? names[i] : NULL};
                else if (names)
                        free(names[i]);
        }
        free(names);
        if (!items)
                return -ENOMEM;
        *ret = (PassedSockets){.items = items, .n = (size_t) n};
        return 0;
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

/* Tells the service manager (sd_notify(3)); does nothing where there is none. A failure is of no consequence that
 * the daemon could mend, the manager's time-outs are there for it. */
void systemd_notify(const char *format, ...) {
        char state[512];
        va_list ap;

        va_start(ap, format);
        (void) vsnprintf(state, sizeof state, format, ap);
        va_end(ap);
        (void) sd_notify(false, state);
}
