/* SPDX-License-Identifier: Apache-2.0 */
#include "values.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_digit(char c) {
        return c >= '0' && c <= '9';
}

/* A number within these bounds. Returns false, with *ret untouched, when the text is none. */
bool value_number(const char *text, unsigned long least, unsigned long most, unsigned long *ret) {
        unsigned long value;
        char *end;

        errno = 0;
        value = strtoul(text, &end, 10);
        if (errno != 0 || *end || !is_digit(text[0]) || value < least || value > most)
                return false;
        *ret = value;
        return true;
}

/* A time in seconds, with or without a fraction; not negative, but perhaps infinite: the caller has bounds. Returns
 * false, with *ret untouched, when the text is none. */
bool value_seconds(const char *text, double *ret) {
        char *end;
        double seconds = strtod(text, &end);

        if (end == text || *end || !(is_digit(text[0]) || text[0] == '.'))
                return false;
        *ret = seconds;
        return true;
}

/* A port that can be listened on or asked; what: the option or variable that says it. Returns 0, or -EINVAL with a
 * message in error and *ret untouched. */
int value_port(const char *what, const char *text, uint16_t *ret, char error[VALUE_ERROR_MAX]) {
        unsigned long port;

        if (!value_number(text, 1, UINT16_MAX, &port))
                return value_fail(error, "%s \"%s\" is not a port: give a number from 1 to 65535", what, text);
        *ret = (uint16_t) port;
        return 0;
}

/* The value of a variable in what is like environ, or NULL. */
const char *value_of_variable(char *const *environment, const char *name) {
        size_t n = strlen(name);

        for (; *environment; environment++)
                if (strncmp(*environment, name, n) == 0 && (*environment)[n] == '=')
                        return *environment + n + 1;
        return NULL;
}

/* Writes a message, cut to its place. Always returns -EINVAL. */
int value_fail(char error[VALUE_ERROR_MAX], const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        (void) vsnprintf(error, VALUE_ERROR_MAX, format, ap);
        va_end(ap);
        return -EINVAL;
}
