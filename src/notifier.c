/* SPDX-License-Identifier: Apache-2.0 */
#include "notifier.h"

#include "systemd.h"
#include "util.h"

enum { STATUS_TEXT_MAX = 256 };

/* Tells the new counts, at most once a second. */
void notifier_changed(Notifier *notifier) {
        if (!notifier->status_timer.running)
                timer_start(&notifier->status_timer, notifier->status_time + USEC_PER_SEC);
}

/* A manager that has no time to read hears it a second later. */
static void tell_status(void *userdata) {
        Notifier *notifier = userdata;
        char text[STATUS_TEXT_MAX] = "";
        bool again = notifier->on_status(notifier->userdata, text, sizeof text);

        notifier->status_time = loop_now(notifier->loop);
        if (systemd_notify(notifier->socket, "%sSTATUS=%s", notifier->ready_untold ? "READY=1\n" : "", text) < 0)
                again = true;
        else
                notifier->ready_untold = false;
        if (again)
                notifier_changed(notifier);
}

/* Tells that the sockets are served. Without it the manager would end the daemon sooner or later, so it is said again
 * until it was heard. */
void notifier_ready(Notifier *notifier) {
        notifier->ready_untold = true;
        tell_status(notifier);
}

/* Twice in each period, so that one that gets lost does no harm. */
static void on_watchdog_timer(void *userdata) {
        Notifier *notifier = userdata;

        (void) systemd_notify(notifier->socket, "WATCHDOG=1");
        timer_start(&notifier->watchdog_timer, loop_now(notifier->loop) + notifier->watchdog / 2);
}

/* Begins with signs of life; the rest follows notifier_ready(). Returns 0 or a negative errno; notifier_done() is right
 * in both cases. */
int notifier_init(Notifier *notifier, Loop *loop, StatusFunction on_status, void *userdata) {
        int r;

        *notifier = (Notifier){.loop = loop, .on_status = on_status, .userdata = userdata,
                               .watchdog = systemd_watchdog(), .socket = systemd_notify_socket()};
        r = loop_add_timer(loop, 100 * USEC_PER_MSEC, tell_status, notifier, &notifier->status_timer);
        if (r < 0 || notifier->watchdog == 0)
                return r;
        r = loop_add_timer(loop, notifier->watchdog / 8 + 1, on_watchdog_timer, notifier, &notifier->watchdog_timer);
        if (r >= 0)
                timer_start(&notifier->watchdog_timer, 0);
        return r;
}

/* Of one that is all zeroes, too. */
void notifier_done(Notifier *notifier) {
        if (!notifier->loop)
                return;
        timer_done(&notifier->status_timer);
        timer_done(&notifier->watchdog_timer);
        notifier->socket = safe_close(notifier->socket);
}
