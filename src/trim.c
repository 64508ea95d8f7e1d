/* SPDX-License-Identifier: Apache-2.0 */
#include "trim.h"

#include <link.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

/* Segments that can be written have been written: relocations at least. */
static int trim_object(struct dl_phdr_info *info, size_t size, void *userdata) {
        const uintptr_t page = (uintptr_t) sysconf(_SC_PAGESIZE);

        (void) size;
        (void) userdata;
        for (size_t i = 0; i < info->dlpi_phnum; i++) {
                const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
                uintptr_t begin = (info->dlpi_addr + segment->p_vaddr) & ~(page - 1);
                uintptr_t end = (info->dlpi_addr + segment->p_vaddr + segment->p_memsz + page - 1) & ~(page - 1);

                if (segment->p_type == PT_LOAD && !(segment->p_flags & PF_W))
                        (void) madvise((void *) begin, end - begin, MADV_DONTNEED);
        }
        return 0;
}

/* Lets go of the code and the constants of the program and its libraries: most of what is mapped was needed to link
 * and to start them, and never will be again. What is, the kernel maps again from its cache. */
void trim_code(void) {
        (void) dl_iterate_phdr(trim_object, NULL);
}
