/* SPDX-License-Identifier: Apache-2.0 */
#include "deadlines.h"

/* How late a connection may be closed; leaves the kernel room to wake up once for many. */
#define ACCURACY_USEC (250 * USEC_PER_MSEC)

static void arm(Deadlines *deadlines) {
        (void) sd_event_source_set_time(deadlines->timer, deadlines->first->deadline);
        (void) sd_event_source_set_enabled(deadlines->timer, SD_EVENT_ONESHOT);
        deadlines->armed = true;
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        Deadlines *deadlines = userdata;
        uint64_t now = usec;

        deadlines->armed = false;
        (void) sd_event_now(sd_event_source_get_event(source), CLOCK_MONOTONIC, &now);
        while (deadlines->first && deadlines->first->deadline <= now)
                deadlines->on_expired(deadlines->first);
        if (deadlines->first)
                arm(deadlines);
        return 0;
}

/* Prepares an empty queue; on_expired is called with each connection whose time is over.
 * Returns 0 or a negative errno; deadlines_done() is right in both cases. */
int deadlines_init(Deadlines *deadlines, sd_event *event, void (*on_expired)(Conn *conn)) {
        int r;

        *deadlines = (Deadlines){.on_expired = on_expired};
        r = sd_event_add_time(
                event, &deadlines->timer, CLOCK_MONOTONIC, UINT64_MAX, ACCURACY_USEC, on_timer, deadlines);
        if (r < 0)
                return r;
        return sd_event_source_set_enabled(deadlines->timer, SD_EVENT_OFF);
}

void deadlines_done(Deadlines *deadlines) {
        deadlines->timer = sd_event_source_disable_unref(deadlines->timer);
}

bool deadlines_has(const Deadlines *deadlines, const Conn *conn) {
        return conn->earlier || conn->later || deadlines->first == conn;
}

/* Puts a connection, whose deadline is no earlier than that of all others, at the end. The timer is set for the
 * first alone; when that one leaves early, the timer finds out at its time. */
void deadlines_add(Deadlines *deadlines, Conn *conn) {
        conn->earlier = deadlines->last;
        conn->later = NULL;
        if (deadlines->last)
                deadlines->last->later = conn;
        else
                deadlines->first = conn;
        deadlines->last = conn;
        deadlines->count++;
        if (!deadlines->armed)
                arm(deadlines);
}

/* Takes a connection out, if it is in. */
void deadlines_remove(Deadlines *deadlines, Conn *conn) {
        if (!deadlines_has(deadlines, conn))
                return;
        if (conn->earlier)
                conn->earlier->later = conn->later;
        else
                deadlines->first = conn->later;
        if (conn->later)
                conn->later->earlier = conn->earlier;
        else
                deadlines->last = conn->earlier;
        conn->earlier = conn->later = NULL;
        deadlines->count--;
}
