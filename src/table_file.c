/* SPDX-License-Identifier: Apache-2.0 */
#include "table_file.h"

#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "table.h"
#include "util.h"

enum {
        CHUNK = 64 * 1024,             /* the file grows by so many bytes */
        FOUND_MAX = 256 * 1024 * 1024, /* of a file that is found */
};

/* How large the file may become: what its records need, but no more than half of the file system, on which others
 * depend; and no less than it is, as far as that can be one of ours, or those at its end were lost when a limit was
 * lowered. */
static size_t largest(int fd, size_t size_now, size_t records_max) {
        size_t size = (1 + records_max * TABLE_RECORD_BLOCKS_MAX) * TABLE_BLOCK_SIZE;
        struct statvfs vfs;

        if (fstatvfs(fd, &vfs) == 0 && vfs.f_blocks > 0 && vfs.f_blocks < SIZE_MAX / vfs.f_frsize)
                size = size_min(size, (size_t) (vfs.f_blocks * vfs.f_frsize / 2));
        size_now = size_min(size_now, FOUND_MAX);
        size = size < size_now ? size_now : size;
        return (size + CHUNK - 1) / CHUNK * CHUNK;
}

/* Opens the file, or makes it, and locks it. */
static int open_locked(const char *directory, int *ret_fd, size_t *ret_size) {
        _cleanup_close_ int dir = -1, fd = -1;
        struct stat st;

        dir = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (dir < 0)
                return -errno;
        fd = openat(dir, "table", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return -errno;
        if (flock(fd, LOCK_EX | LOCK_NB) < 0)
                return errno == EWOULDBLOCK ? -EBUSY : -errno;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode) || st.st_size < 0)
                return -EINVAL;
        *ret_fd = TAKE_FD(fd);
        *ret_size = (size_t) st.st_size;
        return 0;
}

/* Whether the file is one that an earlier process was killed over before it had made a table of it. */
static bool is_blank(const TableFile *file) {
        static const uint8_t zeros[sizeof(uint64_t)];

        return file->size >= TABLE_BLOCK_SIZE && memcmp(file->memory, zeros, sizeof zeros) == 0;
}

/* Opens the file that an earlier process has left, or makes an empty one.
 *
 * directory: the runtime directory; records_max: for so many of the largest records it may grow. *ret is the
 * caller's, for table_file_close(). Returns 0; -EBUSY: another process has it; -EINVAL: it is no regular file; other
 * negative errno. */
int table_file_open(const char *directory, size_t records_max, TableFile *ret) {
        _cleanup_close_ int fd = -1;
        TableFile file = {};
        size_t size = 0;
        int r;

        r = open_locked(directory, &fd, &size);
        if (r < 0)
                return r;
        file.size_max = largest(fd, size, records_max);
        file.size = size_min(size / TABLE_BLOCK_SIZE * TABLE_BLOCK_SIZE, file.size_max);
        /* More than there is now, so that nothing moves when it grows. */
        file.memory = mmap(NULL, file.size_max, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
        if (file.memory == MAP_FAILED)
                return -errno;
        file.blank = size == 0 || is_blank(&file);
        file.fd = TAKE_FD(fd);
        *ret = file;
        return 0;
}

/* Lets go of the file, which stays as it is, and of its memory. *file may be TABLE_FILE_NONE, and is it then. */
void table_file_close(TableFile *file) {
        if (file->memory)
                (void) munmap(file->memory, file->size_max);
        safe_close(file->fd);
        *file = TABLE_FILE_NONE;
}

/* Makes the file larger, by zeros. Its blocks are allocated here and now: writing to a hole of a full file system
 * would be answered with SIGBUS. Returns 0, with the new size in it; -ENOSPC and other negative errno: it is as it
 * was. */
int table_file_grow(TableFile *file) {
        size_t size = size_min(file->size + CHUNK, file->size_max);
        int r;

        if (size <= file->size)
                return -ENOSPC;
        do
                r = posix_fallocate(file->fd, 0, (off_t) size);
        while (r == EINTR);
        if (r != 0)
                return -r;
        file->size = size;
        return 0;
}

/* Throws away what is in the file, which is zeros then. Returns 0; a negative errno: it is of no use any more. */
int table_file_clear(TableFile *file) {
        if (ftruncate(file->fd, 0) < 0)
                return -errno;
        file->size = 0;
        return table_file_grow(file);
}
