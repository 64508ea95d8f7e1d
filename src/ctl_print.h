/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* How epmdctl writes: messages, tables, JSON; colour only where there is a terminal that wants it. */

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "nodelist.h"
#include "util.h"

enum {
        CTL_LINE_MAX = 8192,
        CTL_TIME_MAX = 64,
        CTL_CELLS_MAX = 8,
};

typedef enum CtlColour {
        COLOUR_GREEN,
        COLOUR_YELLOW,
        COLOUR_RED,
        COLOUR_BOLD,
        COLOUR_OFF,
} CtlColour;

typedef struct CtlColumn {
        const char *title;
        bool right;
} CtlColumn;

/* A table under way; the rows are printed at the end, when the widths are known. */
typedef struct CtlTable CtlTable;

void ctl_say(const char *format, ...) _printf_(1, 2);
int ctl_flush(void);
bool ctl_has_colour(FILE *file);
const char *ctl_colour(FILE *file, CtlColour colour);

char *ctl_escape(const char *text, size_t n);
const char *ctl_time(uint64_t usec, char buffer[CTL_TIME_MAX]);
const char *ctl_user(const ListedNode *node, char buffer[CTL_TIME_MAX]);
const char *ctl_type(uint8_t type, char buffer[CTL_TIME_MAX]);

CtlTable *ctl_table_new(const CtlColumn *columns, size_t n, bool headings);
int ctl_table_add(CtlTable *table, const char *const *cells);
int ctl_table_print(CtlTable *table);
CtlTable *ctl_table_free(CtlTable *table);
DEFINE_CLEANUP(CtlTable *, ctl_table_free)

int ctl_print_json(const json_t *json);
json_t *ctl_json_text(const char *text, size_t n);
json_t *ctl_json_node(const ListedNode *node);
