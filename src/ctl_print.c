/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl_print.h"

#include <libsmartcols/libsmartcols.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ctl_options.h"
#include "escape.h"

struct CtlTable {
        struct libscols_table *scols;
        size_t columns;
};

/* ---- Messages ---- */

/* One line on stderr, without what a terminal would obey; it may be cut. */
void ctl_say(const char *format, ...) {
        char text[CTL_LINE_MAX], line[CTL_LINE_MAX];
        va_list ap;

        va_start(ap, format);
        (void) vsnprintf(text, sizeof text, format, ap);
        va_end(ap);
        (void) fprintf(stderr, "epmdctl: %s\n", escape_line(text, line, sizeof line));
}

/* Writes what is still in memory of the output. Returns 0, or the negative errno of the first such write that failed. */
int ctl_flush(void) {
        static int problem = 0;

        errno = 0;
        /* Why one in between has failed may be lost; as a rule the last one fails for the same reason. */
        if ((fflush(stdout) != 0 || ferror(stdout)) && problem == 0)
                problem = errno != 0 ? -errno : -EIO;
        return problem;
}

/* See https://no-color.org: set and not empty. */
bool ctl_has_colour(FILE *file) {
        const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");

        return !(no_color && *no_color) && term && strcmp(term, "dumb") != 0 && isatty(fileno(file)) == 1;
}

/* What switches a colour on, or nothing. */
const char *ctl_colour(FILE *file, CtlColour colour) {
        static const char *const sequences[] = {
                [COLOUR_GREEN] = "\033[32m", [COLOUR_YELLOW] = "\033[33m", [COLOUR_RED] = "\033[31m",
                [COLOUR_BOLD] = "\033[1m",   [COLOUR_OFF] = "\033[0m",
        };

        return ctl_has_colour(file) ? sequences[colour] : "";
}

/* ---- Texts ---- */

/* Bytes from elsewhere, made fit for a terminal; the caller frees them. NULL: no memory. */
char *ctl_escape(const char *text, size_t n) {
        size_t size = n * ESCAPED_BYTE_MAX + 1;
        char *escaped = malloc(size);

        if (escaped)
                (void) escape_text((const uint8_t *) text, n, escaped, size);
        return escaped;
}

/* A time of the realtime clock as systemd writes it: "Sat 2026-11-21 10:00:00 CET". Always returns buffer. */
const char *ctl_time(uint64_t usec, char buffer[CTL_TIME_MAX]) {
        time_t seconds = (time_t) (usec / USEC_PER_SEC);
        struct tm tm;

        if (!localtime_r(&seconds, &tm) || strftime(buffer, CTL_TIME_MAX, "%a %F %T %Z", &tm) == 0)
                (void) strcpy(buffer, "?");
        return buffer;
}

/* Whose node it is: the user's name, or number where it has none. Always returns buffer. */
const char *ctl_user(const ListedNode *node, char buffer[CTL_TIME_MAX]) {
        const struct passwd *entry = node->has_uid ? getpwuid(node->uid) : NULL;

        if (entry)
                (void) snprintf(buffer, CTL_TIME_MAX, "%s", entry->pw_name);
        else if (node->has_uid)
                (void) snprintf(buffer, CTL_TIME_MAX, "%u", (unsigned) node->uid);
        else
                (void) strcpy(buffer, "-");
        return buffer;
}

/* "normal", "hidden", or the number. Always returns buffer. */
const char *ctl_type(uint8_t type, char buffer[CTL_TIME_MAX]) {
        if (type == NODE_TYPE_NORMAL)
                (void) strcpy(buffer, "normal");
        else if (type == NODE_TYPE_HIDDEN || type == NODE_TYPE_EI)
                (void) strcpy(buffer, "hidden");
        else
                (void) snprintf(buffer, CTL_TIME_MAX, "%u", (unsigned) type);
        return buffer;
}

/* ---- Tables ---- */

static int add_column(CtlTable *table, const CtlColumn *column, bool colour) {
        struct libscols_column *scols =
                scols_table_new_column(table->scols, column->title, 0, column->right ? SCOLS_FL_RIGHT : 0);

        if (!scols)
                return -ENOMEM;
        return colour ? scols_cell_set_color(scols_column_get_header(scols), "bold") : 0;
}

/* An empty table with n columns, which are copied; headings: whether their titles are printed. It is to be freed with
 * ctl_table_free(). NULL: no memory. */
CtlTable *ctl_table_new(const CtlColumn *columns, size_t n, bool headings) {
        _cleanup_(ctl_table_freep) CtlTable *table = calloc(1, sizeof *table);
        bool colour = ctl_has_colour(stdout);

        if (!table)
                return NULL;
        table->columns = n;
        table->scols = scols_new_table();
        if (!table->scols)
                /* cppcheck-suppress memleak ; its cleanup frees it */
                return NULL;
        /* The cells are escaped already, and not twice. */
        (void) scols_table_enable_noencoding(table->scols, 1);
        (void) scols_table_enable_noheadings(table->scols, !headings);
        (void) scols_table_enable_colors(table->scols, colour);
        for (size_t i = 0; i < n; i++)
                if (add_column(table, &columns[i], colour) < 0)
                        return NULL;
        return TAKE_PTR(table);
}

/* Adds a row, of as many cells as there are columns; they are copied. Returns 0 or a negative errno. */
int ctl_table_add(CtlTable *table, const char *const *cells) {
        struct libscols_line *line = scols_table_new_line(table->scols, NULL);
        int r = line ? 0 : -ENOMEM;

        for (size_t i = 0; i < table->columns && r >= 0; i++)
                r = scols_line_set_data(line, i, cells[i]);
        return r;
}

/* Prints all rows on stdout. Returns 0 or a negative errno; a failed write is found at the end, by ctl_flush(). */
int ctl_table_print(CtlTable *table) {
        int r = scols_print_table(table->scols);

        return ferror(stdout) ? 0 : r;
}

/* Frees the table, which may be NULL. Always returns NULL. */
CtlTable *ctl_table_free(CtlTable *table) {
        if (!table)
                return NULL;
        scols_unref_table(table->scols);
        free(table);
        return NULL;
}

/* ---- JSON ---- */

/* Prints it in lines, in pure ASCII: a name may have characters that a terminal obeys. NULL stands for a value for
 * which there was no memory. Returns 0 or -ENOMEM; a failed write is found at the end, by ctl_flush(). */
int ctl_print_json(const json_t *json) {
        if (!json || (json_dumpf(json, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII) < 0 && !ferror(stdout)))
                return -ENOMEM;
        (void) fputc('\n', stdout);
        return 0;
}

/* A text from elsewhere; what is not UTF-8 is escaped first. NULL: no memory. */
json_t *ctl_json_text(const char *text, size_t n) {
        json_t *json = json_stringn(text, n);
        _cleanup_free_ char *escaped = NULL;

        if (json)
                return json;
        escaped = ctl_escape(text, n);
        return escaped ? json_string(escaped) : NULL;
}

/* A node with all that is known of it, under the names of the Varlink interface. NULL: no memory. */
json_t *ctl_json_node(const ListedNode *node) {
        json_t *json =
                json_pack("{s:o, s:i}", "name", ctl_json_text(node->name, node->name_len), "port", (int) node->port);
        int r = 0;

        if (!json || !node->detailed)
                return json;
        r |= json_object_set_new(json, "type", json_integer(node->type));
        r |= json_object_set_new(json, "protocol", json_integer(node->protocol));
        r |= json_object_set_new(json, "highestVersion", json_integer(node->highest_version));
        r |= json_object_set_new(json, "lowestVersion", json_integer(node->lowest_version));
        r |= json_object_set_new(json, "creation", json_integer(node->creation));
        r |= json_object_set_new(json, "extra", json_string(node->extra));
        r |= json_object_set_new(json, "since", json_integer((json_int_t) node->since));
        if (node->peer)
                r |= json_object_set_new(json, "peer", json_string(node->peer));
        if (node->has_uid)
                r |= json_object_set_new(json, "uid", json_integer(node->uid));
        if (node->unit)
                r |= json_object_set_new(json, "unit", json_string(node->unit));
        if (r == 0)
                return json;
        json_decref(json);
        return NULL;
}
