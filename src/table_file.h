/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The file of the runtime directory in which the table is, mapped into memory for one process alone. What is in it is
 * no business of this module. */

#include <stdbool.h>
#include <stddef.h>

typedef struct TableFile {
        int fd;
        void *memory;    /* of the file; it stays where it is when the file grows */
        size_t size;     /* bytes of the file, in whole blocks of a table */
        size_t size_max; /* it grows no further */
        bool blank;      /* nothing had been written to it when it was opened */
} TableFile;

#define TABLE_FILE_NONE ((TableFile){.fd = -1})

int table_file_open(const char *directory, size_t records_max, TableFile *ret);
void table_file_close(TableFile *file);
int table_file_grow(TableFile *file);
int table_file_clear(TableFile *file);
