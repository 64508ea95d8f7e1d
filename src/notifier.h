/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the service manager is told while the daemon runs: that it serves, its counts, and that it lives. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "loop.h"

/* Writes the counts as text. Returns whether to ask again a second later, though nothing may have changed. */
typedef bool (*StatusFunction)(void *userdata, char *text, size_t size);

typedef struct Notifier {
        Loop *loop; /* not ours */
        StatusFunction on_status;
        void *userdata;
        int socket; /* of systemd_notify_socket(): a sign of life must not wait for a free descriptor */
        Timer status_timer;   /* runs: a change waits to be told */
        uint64_t status_time; /* of the last STATUS= */
        bool ready_untold;    /* READY=1 goes with the next one */
        Timer watchdog_timer;
        uint64_t watchdog; /* µs; 0: the manager does not wait for a sign of life */
} Notifier;

int notifier_init(Notifier *notifier, Loop *loop, StatusFunction on_status, void *userdata);
void notifier_done(Notifier *notifier);

void notifier_ready(Notifier *notifier);
void notifier_changed(Notifier *notifier);
