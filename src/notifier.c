/* SPDX-License-Identifier: Apache-2.0 */
#include "notifier.h"

#include "systemd.h"
#include "util.h"

enum { STATUS_TEXT_MAX = 256 };

/* Tells the new counts, at most once a second. */
void notifier_changed(Notifier *notifier) {
        int enabled = SD_EVENT_OFF;

        (void) sd_event_source_get_enabled(notifier->status_timer, &enabled);
        if (enabled != SD_EVENT_OFF)
                return;
        (void) sd_event_source_set_time(notifier->status_timer, notifier->status_time + USEC_PER_SEC);
        (void) sd_event_source_set_enabled(notifier->status_timer, SD_EVENT_ONESHOT);
}

/* A manager that has no time to read hears it a second later. */
static void tell_status(Notifier *notifier) {
        char text[STATUS_TEXT_MAX] = "";
        bool again = notifier->on_status(notifier->userdata, text, sizeof text);

        (void) sd_event_now(notifier->event, CLOCK_MONOTONIC, &notifier->status_time);
        if (systemd_notify("%sSTATUS=%s", notifier->ready_untold ? "READY=1\n" : "", text) < 0)
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

static int on_status_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        (void) source;
        (void) usec;
        tell_status(userdata);
        return 0;
}

/* Twice in each period, so that one that gets lost does no harm. */
static int on_watchdog_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        const Notifier *notifier = userdata;

        (void) usec;
        (void) systemd_notify("WATCHDOG=1");
        (void) sd_event_source_set_time_relative(source, notifier->watchdog / 2);
        return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

static int add_timer(Notifier *notifier, uint64_t accuracy, sd_event_time_handler_t handler, sd_event_source **ret) {
        int r = sd_event_add_time(notifier->event, ret, CLOCK_MONOTONIC, 0, accuracy, handler, notifier);

        return r < 0 ? r : sd_event_source_set_enabled(*ret, SD_EVENT_OFF);
}

/* Begins with signs of life; the rest follows notifier_ready(). Returns 0 or a negative errno; notifier_done() is right
 * in both cases. */
int notifier_init(Notifier *notifier, sd_event *event, StatusFunction on_status, void *userdata) {
        int r;

        *notifier = (Notifier){.event = event, .on_status = on_status, .userdata = userdata,
                               .watchdog = systemd_watchdog()};
        r = add_timer(notifier, 100 * USEC_PER_MSEC, on_status_timer, &notifier->status_timer);
        if (r < 0 || notifier->watchdog == 0)
                return r;
        r = add_timer(notifier, notifier->watchdog / 8 + 1, on_watchdog_timer, &notifier->watchdog_timer);
        if (r < 0)
                return r;
        return sd_event_source_set_enabled(notifier->watchdog_timer, SD_EVENT_ONESHOT);
}

void notifier_done(Notifier *notifier) {
        notifier->status_timer = sd_event_source_disable_unref(notifier->status_timer);
        notifier->watchdog_timer = sd_event_source_disable_unref(notifier->watchdog_timer);
}
