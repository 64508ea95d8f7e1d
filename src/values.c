/* SPDX-License-Identifier: Apache-2.0 */
#include "values.h"

#include <errno.h>
#include <stdlib.h>

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
