/* SPDX-License-Identifier: Apache-2.0 */
#include "loop.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#include "clock.h"
#include "inherited.h"

enum {
        BATCH_MAX = 64,  /* events of sockets in one turn, so that the others get theirs */
        SELDOM_MAX = 16, /* timers and signals in one turn, likewise */
        AT_ONCE_USEC = 5, /* a wait that was no longer was none */
};

/* What is told of a signal. */
typedef struct SignalHandler {
        void (*on_signal)(void *userdata);
        void *userdata;
} SignalHandler;

struct Loop {
        int epoll;
        sd_event *event; /* timers and signals; whoever changes something in it sets event_is_due */
        Watch event_watch;
        bool event_is_due; /* something is ready in it, or was changed */
        bool ended;
        SignalHandler hangup;
        uint64_t now; /* monotonic, µs, in this turn; 0: between turns */
        bool busy;    /* the events of this turn were there already */
        struct epoll_event ready[BATCH_MAX]; /* those of this turn */
        int n_ready;
        int at; /* the one being handled */
};

static void on_event_ready(Watch *watch, uint32_t events) {
        (void) events;
        CONTAINER_OF(watch, Loop, event_watch)->event_is_due = true;
}

/* Makes a loop in which nothing is waited for. *ret is the caller's. Returns 0 or a negative errno. */
int loop_new(Loop **ret) {
        _cleanup_(loop_freep) Loop *loop = calloc(1, sizeof *loop);
        int r;

        if (!loop)
                return -ENOMEM;
        loop->epoll = epoll_create1(EPOLL_CLOEXEC);
        if (loop->epoll < 0)
                /* cppcheck-suppress memleak ; its cleanup frees it */
                return -errno;
        /* Not the thread's default loop: that one asks for the thread's id at every turn. */
        r = sd_event_new(&loop->event);
        if (r < 0)
                return r;
        r = loop_watch(loop, &loop->event_watch, sd_event_get_fd(loop->event), EPOLLIN, on_event_ready);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(loop);
        return 0;
}

/* All timers must be done. What is watched is not closed. Always returns NULL. */
Loop *loop_free(Loop *loop) {
        if (!loop)
                return NULL;
        sd_event_unref(loop->event);
        safe_close(loop->epoll);
        free(loop);
        return NULL;
}

/* ---- Descriptors ---- */

/* Waits for events (epoll_ctl(2)) of a descriptor, or for others than before. Returns 0 or a negative errno: what was
 * waited for is as it was. */
int loop_watch(Loop *loop, Watch *watch, int fd, uint32_t events, void (*on_ready)(Watch *watch, uint32_t events)) {
        struct epoll_event event = {.events = events, .data.ptr = watch};

        if (epoll_ctl(loop->epoll, watch->on_ready ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event) < 0)
                return -errno;
        watch->on_ready = on_ready;
        return 0;
}

/* The descriptor is not waited for any more; one that is not watched may be forgotten, too. To be called before it is
 * closed: epoll goes on reporting a closed descriptor of which a duplicate lives. */
void loop_forget(Loop *loop, Watch *watch, int fd) {
        if (!watch->on_ready)
                return;
        (void) epoll_ctl(loop->epoll, EPOLL_CTL_DEL, fd, NULL);
        loop_forget_last(loop, watch);
}

/* The same for a descriptor that is about to be closed and of which there is no duplicate: epoll forgets it with that. */
void loop_forget_last(Loop *loop, Watch *watch) {
        if (!watch->on_ready)
                return;
        watch->on_ready = NULL;
        for (int i = loop->at + 1; i < loop->n_ready; i++)
                if (loop->ready[i].data.ptr == watch)
                        loop->ready[i].data.ptr = NULL;
}

/* Whether it is waited for. */
bool watch_is_on(const Watch *watch) {
        return watch->on_ready;
}

/* ---- Timers and signals ---- */

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        Timer *timer = userdata;

        (void) source;
        (void) usec;
        timer->running = false;
        timer->on_time(timer->userdata);
        return 0;
}

/* Prepares a timer that does not run. accuracy: µs that it may be late, or 0: a quarter of a second. Returns 0 or a
 * negative errno; timer_done() is right in both cases. */
int loop_add_timer(Loop *loop, uint64_t accuracy, void (*on_time)(void *userdata), void *userdata, Timer *timer) {
        int r;

        *timer = (Timer){.loop = loop, .on_time = on_time, .userdata = userdata};
        r = sd_event_add_time(loop->event, &timer->source, CLOCK_MONOTONIC, UINT64_MAX, accuracy, on_timer, timer);
        return r < 0 ? r : sd_event_source_set_enabled(timer->source, SD_EVENT_OFF);
}

/* Has it happen at that time (monotonic, µs), and at no other. */
void timer_start(Timer *timer, uint64_t usec) {
        (void) sd_event_source_set_time(timer->source, usec);
        (void) sd_event_source_set_enabled(timer->source, SD_EVENT_ONESHOT);
        timer->running = true;
        timer->loop->event_is_due = true;
}

/* Has it not happen. */
void timer_stop(Timer *timer) {
        (void) sd_event_source_set_enabled(timer->source, SD_EVENT_OFF);
        timer->running = false;
}

/* Of one that loop_add_timer() could not prepare, and of one that is done already, too. */
void timer_done(Timer *timer) {
        timer->source = sd_event_source_disable_unref(timer->source);
        timer->running = false;
}

static int end_on_signal(Loop *loop, int number) {
        return sd_event_add_signal(loop->event, NULL, number | SD_EVENT_SIGNAL_PROCMASK, NULL, NULL);
}

/* From now on SIGTERM, and SIGINT and SIGHUP unless they are ignored, end the loop, with 0. Returns 0 or a negative
 * errno. */
int loop_end_on_signals(Loop *loop) {
        int r = end_on_signal(loop, SIGTERM);

        if (r >= 0 && !inherited_ignores(SIGINT))
                r = end_on_signal(loop, SIGINT);
        if (r >= 0 && !inherited_ignores(SIGHUP))
                r = end_on_signal(loop, SIGHUP);
        loop->event_is_due = true;
        return r;
}

static int on_hangup(sd_event_source *source, const struct signalfd_siginfo *info, void *userdata) {
        const SignalHandler *handler = userdata;

        (void) source;
        (void) info;
        handler->on_signal(handler->userdata);
        return 0;
}

/* From now on SIGHUP waits for loop_on_hangup(). */
void loop_hold_hangup(void) {
        sigset_t hangup;

        (void) sigemptyset(&hangup);
        (void) sigaddset(&hangup, SIGHUP);
        (void) sigprocmask(SIG_BLOCK, &hangup, NULL);
}

/* Has SIGHUP, which must be held, handled in the loop, also one that waits. Returns 0 or a negative errno. */
int loop_on_hangup(Loop *loop, void (*on_signal)(void *userdata), void *userdata) {
        loop->hangup = (SignalHandler){.on_signal = on_signal, .userdata = userdata};
        loop->event_is_due = true;
        return sd_event_add_signal(loop->event, NULL, SIGHUP, on_hangup, &loop->hangup);
}

/* ---- Turns ---- */

/* The time (monotonic, µs): the same throughout a turn. */
uint64_t loop_now(const Loop *loop) {
        return loop->now > 0 ? loop->now : clock_monotonic();
}

/* Whether what is handled in this turn was there before anybody waited for it: there may be more of it. */
bool loop_is_busy(const Loop *loop) {
        return loop->busy;
}

/* Gives libsystemd's loop its turn: it sets the clock for timers that have changed, and handles what is due. Returns how
 * much it handled, or a negative errno. */
static int run_event(Loop *loop) {
        int n = 0;

        loop->event_is_due = false;
        loop->now = clock_monotonic();
        while (n < SELDOM_MAX && !loop->ended) {
                int r = sd_event_run(loop->event, 0);

                loop->ended = sd_event_get_state(loop->event) == SD_EVENT_FINISHED;
                if (r <= 0)
                        return r < 0 ? r : n;
                n++;
        }
        loop->event_is_due = true;
        return n;
}

static int wait_and_handle(Loop *loop, int timeout_msec) {
        uint64_t before = clock_monotonic();
        int n = epoll_wait(loop->epoll, loop->ready, BATCH_MAX, timeout_msec);

        if (n < 0)
                return errno == EINTR ? 0 : -errno;
        loop->now = clock_monotonic();
        loop->busy = loop->now <= before + AT_ONCE_USEC;
        loop->n_ready = n;
        for (loop->at = 0; loop->at < loop->n_ready; loop->at++) {
                Watch *watch = loop->ready[loop->at].data.ptr;

                if (watch)
                        watch->on_ready(watch, loop->ready[loop->at].events);
        }
        loop->n_ready = 0;
        return n;
}

/* Waits so long for something to happen, or for ever (-1), and handles what has: no more than a bounded number of
 * events. Returns how many there were, or a negative errno. */
int loop_turn(Loop *loop, int timeout_msec) {
        int r = 0, n = 0;

        if (loop->event_is_due)
                r = n = run_event(loop);
        if (r >= 0 && !loop->ended)
                r = wait_and_handle(loop, loop->event_is_due || n > 0 ? 0 : timeout_msec);
        loop->now = 0;
        return r < 0 ? r : n + r;
}

/* Takes turns until loop_end(). Returns its code, or a negative errno. */
int loop_run(Loop *loop) {
        int code = 0;

        while (!loop->ended) {
                int r = loop_turn(loop, -1);

                if (r < 0)
                        return r;
        }
        (void) sd_event_get_exit_code(loop->event, &code);
        return code;
}

/* Ends the loop before its next turn; code: what loop_run() is to return, 0 or more. */
void loop_end(Loop *loop, int code) {
        (void) sd_event_exit(loop->event, code);
        loop->event_is_due = true;
}

bool loop_has_ended(const Loop *loop) {
        return loop->ended;
}
