/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The commands of epmdctl, each in its own file. They print; what they return is the exit status, or a negative
 * number: the signal by which to end. */

#include "ctl_options.h"

enum {
        CTL_OK = 0,
        CTL_NO = 1,      /* asked and answered, and the answer is no */
        CTL_NO_EPMD = 2, /* nobody answered */
        CTL_USAGE = 64,
        CTL_FAILED = 71, /* this program or this system is at fault: no memory, say */
};

int ctl_list(const CtlOptions *options);
int ctl_lookup(const CtlOptions *options);
int ctl_register(const CtlOptions *options);
int ctl_check(const CtlOptions *options);
int ctl_stats(const CtlOptions *options);
