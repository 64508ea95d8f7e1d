/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the daemon waits for. Sockets are in an epoll instance of the loop's own. Timers and signals, which come seldom,
 * are in an event loop of libsystemd, whose descriptor is one more in that instance: it has a turn only when one of
 * them is due or was changed, as a turn of it for each connection would be felt (tests/bench/README). */

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <systemd/sd-event.h>

#include "util.h"

typedef struct Loop Loop;
typedef struct Watch Watch;
typedef struct Timer Timer;

/* A part of whatever has a descriptor that is waited for. Zeroes: it is not. */
struct Watch {
        void (*on_ready)(Watch *watch, uint32_t events); /* may forget any, and free what it is a part of */
};

/* A time that something is to be done at, once. Zeroes: timer_done() is right. It must stay where it is. */
struct Timer {
        Loop *loop;
        sd_event_source *source;
        void (*on_time)(void *userdata);
        void *userdata;
        bool running;
};

int loop_new(Loop **ret);
Loop *loop_free(Loop *loop);
DEFINE_CLEANUP(Loop *, loop_free)

int loop_watch(Loop *loop, Watch *watch, int fd, uint32_t events, void (*on_ready)(Watch *watch, uint32_t events));
void loop_forget(Loop *loop, Watch *watch, int fd);
void loop_forget_last(Loop *loop, Watch *watch);
bool watch_is_on(const Watch *watch);

int loop_add_timer(Loop *loop, uint64_t accuracy, void (*on_time)(void *userdata), void *userdata, Timer *timer);
void timer_start(Timer *timer, uint64_t usec);
void timer_stop(Timer *timer);
void timer_done(Timer *timer);

int loop_end_on_signals(Loop *loop);
void loop_hold_hangup(void);
int loop_on_hangup(Loop *loop, void (*on_signal)(void *userdata), void *userdata);

uint64_t loop_now(const Loop *loop);
bool loop_is_busy(const Loop *loop);
int loop_turn(Loop *loop, int timeout_msec);
int loop_run(Loop *loop);
void loop_end(Loop *loop, int code);
bool loop_has_ended(const Loop *loop);
