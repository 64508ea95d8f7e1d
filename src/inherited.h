/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What whoever starts a process leaves to it, besides its arguments and its environment. */

#include <stdbool.h>

bool inherited_ignores(int number);
int inherited_complete(void);
