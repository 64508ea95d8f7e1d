/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

/* Whether whoever started this process wants a signal ignored, as nohup(1) does, and a shell without job control for what
 * it starts in the background. It has to be asked: a signal that is blocked, to be read from a descriptor, is delivered
 * there all the same. */
static inline bool signal_is_ignored(int number) {
        struct sigaction action;

        return sigaction(number, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
}
