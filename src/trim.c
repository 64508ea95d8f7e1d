/* SPDX-License-Identifier: Apache-2.0 */
#include "trim.h"

#include <fcntl.h>
#include <link.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "util.h"

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

/* A debugger's breakpoints are changes of the code, which would be lost. */
static bool is_traced(void) {
        static const char key[] = "\nTracerPid:\t";
        _cleanup_close_ int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
        char text[1024];
        ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
        const char *tracer;

        if (n < 0)
                return false;
        text[n] = 0;
        tracer = strstr(text, key);
        return tracer && tracer[sizeof key - 1] != '0';
}

/* Lets go of the code and the constants of the program and its libraries: most of what is mapped was needed to link
 * and to start them, and never will be again. What is, the kernel maps again from its cache. */
void trim_code(void) {
        if (!is_traced())
                (void) dl_iterate_phdr(trim_object, NULL);
}
