/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The forms of the command line that ask the epmd of this host: -names, -dump, -started, -kill, -stop. */

#include "options.h"

int command_run(const Options *options);
