/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The connections that must be done by a deadline. All have the same time from when they were accepted, so the
 * queue is in order by itself, and one timer serves it. */

#include <stdbool.h>

#include "conn.h"
#include "loop.h"

typedef struct Deadlines {
        Conn *first; /* the next to expire */
        Conn *last;
        size_t count;
        Loop *loop;  /* not ours */
        Timer timer; /* runs for the first, or for one that was before it */
        void (*on_expired)(Conn *conn); /* must take the connection out */
} Deadlines;

int deadlines_init(Deadlines *deadlines, Loop *loop, void (*on_expired)(Conn *conn));
void deadlines_done(Deadlines *deadlines);
void deadlines_add(Deadlines *deadlines, Conn *conn);
void deadlines_remove(Deadlines *deadlines, Conn *conn);
bool deadlines_has(const Deadlines *deadlines, const Conn *conn);
