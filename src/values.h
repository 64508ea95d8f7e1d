/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Numbers that people write on command lines and into settings: all of the text, no sign, no blanks. Pure. */

#include <stdbool.h>

bool value_number(const char *text, unsigned long least, unsigned long most, unsigned long *ret);
bool value_seconds(const char *text, double *ret);
