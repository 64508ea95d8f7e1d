/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What people write on command lines and into settings. Numbers are all of the text, no sign, no blanks. Pure. */

#include <stdbool.h>
#include <stdint.h>

#include "util.h"

enum { VALUE_ERROR_MAX = 512 }; /* of a message, its NUL included */

bool value_number(const char *text, unsigned long least, unsigned long most, unsigned long *ret);
bool value_seconds(const char *text, double *ret);
int value_port(const char *what, const char *text, uint16_t *ret, char error[VALUE_ERROR_MAX]);
const char *value_of_variable(char *const *environment, const char *name);
int value_fail(char error[VALUE_ERROR_MAX], const char *format, ...) _printf_(2, 3);
