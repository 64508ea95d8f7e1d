/* SPDX-License-Identifier: Apache-2.0 */
#include "listening.h"

#include <ctype.h>
#include <dirent.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util.h"

enum { STATE_LISTEN = 10 };

static int list_add(ListeningList *list, size_t *size, const Listening *item) {
        if (list->n == *size) {
                size_t more = *size * 2 + 16;
                Listening *items = reallocarray(list->items, more, sizeof *items);

                if (!items)
                        return -ENOMEM;
                list->items = items;
                *size = more;
        }
        list->items[list->n++] = *item;
        return 0;
}

/* NOLINTBEGIN(cert-err34-c): sscanf() does not tell a number that is too large, and the kernel writes none. */

/* "0100007F:1111" of /proc/net/tcp, or the same with 32 digits of tcp6: words of 32 bits as the machine has them. */
static bool parse_end(const char *text, sa_family_t family, Address *ret) {
        size_t words = family == AF_INET6 ? 4 : 1;
        Address address = {.family = (uint8_t) family};
        unsigned port;

        for (size_t i = 0; i < words; i++, text += 8) {
                uint32_t word;

                if (sscanf(text, "%8" SCNx32, &word) != 1)
                        return false;
                memcpy(address.ip + i * sizeof word, &word, sizeof word);
        }
        if (sscanf(text, ":%4x", &port) != 1)
                return false;
        address.port = (uint16_t) port;
        (void) address_unmap(&address);
        *ret = address;
        return true;
}

/* One line; false when it is no listening socket. */
static bool parse_line(const char *line, sa_family_t family, Listening *ret) {
        Listening item = {};
        char local[48];
        unsigned state;

        if (sscanf(line, " %*[0-9]: %47s %*s %x %*s %*s %*s %" SCNu32 " %*s %" SCNu64, local, &state, &item.uid,
                   &item.inode) != 4 ||
            state != STATE_LISTEN || !parse_end(local, family, &item.address))
                return false;
        *ret = item;
        return true;
}

/* NOLINTEND(cert-err34-c) */

static int read_table(const char *path, sa_family_t family, ListeningList *list, size_t *size) {
        FILE *file = fopen(path, "re");
        char *line = NULL;
        size_t line_size = 0;
        int r = 0;

        /* There is no tcp6 where IPv6 is off. */
        if (!file)
                return family == AF_INET6 && errno == ENOENT ? 0 : -errno;
        while (r >= 0 && getline(&line, &line_size, file) >= 0) {
                Listening item;

                if (parse_line(line, family, &item))
                        r = list_add(list, size, &item);
        }
        free(line);
        (void) fclose(file);
        return r;
}

/* Every listening TCP socket of this network namespace. *ret is to be freed with listening_done(). Returns 0 or a
 * negative errno. */
int listening_read(ListeningList *ret) {
        ListeningList list = {};
        size_t size = 0;
        int r;

        r = read_table("/proc/net/tcp", AF_INET, &list, &size);
        if (r >= 0)
                r = read_table("/proc/net/tcp6", AF_INET6, &list, &size);
        if (r < 0) {
                listening_done(&list);
                return r;
        }
        *ret = list;
        return 0;
}

/* Removes all that listen on other ports. */
void listening_keep_port(ListeningList *list, uint16_t port) {
        size_t kept = 0;

        for (size_t i = 0; i < list->n; i++)
                if (list->items[i].address.port == port)
                        list->items[kept++] = list->items[i];
        list->n = kept;
}

static bool is_listed(const ListeningList *list, const char *link) {
        uint64_t inode;

        if (sscanf(link, "socket:[%" SCNu64 "]", &inode) != 1) /* NOLINT(cert-err34-c): as above */
                return false;
        for (size_t i = 0; i < list->n; i++)
                if (list->items[i].inode == inode)
                        return true;
        return false;
}

/* Whether a process has one of the sockets open; false also when that is not ours to see. */
static bool holds_one(const char *pid, const ListeningList *list) {
        char path[64 + NAME_MAX], link[64];
        const struct dirent *entry;
        bool found = false;
        DIR *dir;

        (void) snprintf(path, sizeof path, "/proc/%s/fd", pid);
        dir = opendir(path);
        if (!dir)
                return false;
        while (!found && (entry = readdir(dir))) {
                ssize_t n = readlinkat(dirfd(dir), entry->d_name, link, sizeof link - 1);

                if (n <= 0)
                        continue;
                link[n] = 0;
                found = is_listed(list, link);
        }
        (void) closedir(dir);
        return found;
}

static void read_name(const char *pid, char name[HOLDER_NAME_MAX]) {
        char path[64 + NAME_MAX];
        FILE *file;

        (void) snprintf(path, sizeof path, "/proc/%s/comm", pid);
        file = fopen(path, "re");
        if (!file || !fgets(name, HOLDER_NAME_MAX, file))
                (void) strcpy(name, "?");
        name[strcspn(name, "\n")] = 0;
        if (file)
                (void) fclose(file);
}

/* Finds processes that hold one of the sockets, as far as the caller may see that. Returns how many, at most max. */
size_t listening_holders(const ListeningList *list, SocketHolder *holders, size_t max) {
        const struct dirent *entry;
        DIR *dir = opendir("/proc");
        size_t n = 0;

        if (!dir)
                return 0;
        while (n < max && list->n > 0 && (entry = readdir(dir))) {
                if (!isdigit((unsigned char) entry->d_name[0]) || !holds_one(entry->d_name, list))
                        continue;
                holders[n].pid = (pid_t) strtol(entry->d_name, NULL, 10);
                read_name(entry->d_name, holders[n].name);
                n++;
        }
        (void) closedir(dir);
        return n;
}

/* Frees what the list owns. */
void listening_done(ListeningList *list) {
        free(list->items);
        *list = (ListeningList){};
}
