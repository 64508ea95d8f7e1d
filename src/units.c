/* SPDX-License-Identifier: Apache-2.0 */
#include "units.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "allowance.h"
#include "clock.h"

enum {
        UNITS_MAX = 256,   /* control groups whose units are remembered */
        DEPTH_MAX = 32,    /* of the tree of control groups */
        GROUPS_MAX = 4096, /* looked at in one walk: users may make any number of them */
        PATH_SIZE = 4096,
};

/* Strangers say how often a walk is wanted, and how long it takes, as users make groups: some dozens of ordinary ones
 * at the start, as many nodes start with the host, and of the rest of the time half a percent, so that those who only
 * look names up do not notice. */
static const Allowance walking = {.max = 40 * USEC_PER_MSEC, .recovery = 200};

struct Units {
        const char *root; /* of the tree */
        Allowance allowance;
        size_t n, next; /* a ring once it is full */
        Unit items[UNITS_MAX];
};

/* root: the directory of the tree; must outlive it. Returns 0 or -ENOMEM. */
int units_new(const char *root, Units **ret) {
        Units *units = calloc(1, sizeof *units);

        if (!units)
                return -ENOMEM;
        units->root = root;
        units->allowance = walking;
        *ret = units;
        return 0;
}

Units *units_free(Units *units) {
        free(units);
        return NULL;
}

/* The first directory of a path that is a unit and not a slice: system.slice/x.service, user.slice/…/session-1.scope. */
static bool find_unit(const char *path, Unit *unit) {
        static const char *const suffixes[] = {".service", ".scope", ".socket", ".mount", ".swap"};

        for (const char *p = path; *p; p += strspn(p, "/")) {
                size_t n = strcspn(p, "/");

                for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++) {
                        size_t m = strlen(suffixes[i]);

                        if (n <= m || n > sizeof unit->name || memcmp(p + n - m, suffixes[i], m) != 0)
                                continue;
                        memcpy(unit->name, p, n);
                        unit->len = (uint16_t) n;
                        return true;
                }
                p += n;
        }
        return false;
}

static Unit *remember(Units *units, uint64_t cgroup) {
        Unit *unit = &units->items[units->next];

        units->next = (units->next + 1) % UNITS_MAX;
        if (units->n < UNITS_MAX)
                units->n++;
        *unit = (Unit){.cgroup = cgroup};
        return unit;
}

static const Unit *known_unit(const Units *units, uint64_t cgroup) {
        for (size_t i = 0; i < units->n; i++)
                if (units->items[i].cgroup == cgroup)
                        return &units->items[i];
        return NULL;
}

/* Looks for the directory with that inode below a directory, whose descriptor it closes. path: of that directory,
 * below the root, with room for more; budget: of directories to look at. Returns whether it is found; path is then
 * its. */
static bool walk(int dir_fd, uint64_t cgroup, char *path, size_t size, unsigned depth, unsigned *budget) {
        size_t len = strlen(path);
        bool found = false;
        DIR *dir = fdopendir(dir_fd);
        struct dirent *entry;

        if (!dir) {
                safe_close(dir_fd);
                return false;
        }
        while (!found && depth < DEPTH_MAX && *budget > 0 && (entry = readdir(dir))) {
                int sub;

                if (entry->d_type != DT_DIR || entry->d_name[0] == '.' || len + strlen(entry->d_name) + 2 > size)
                        continue;
                --*budget;
                path[len] = '/';
                strcpy(path + len + 1, entry->d_name);
                if (entry->d_ino == cgroup)
                        found = true;
                else {
                        sub = openat(dirfd(dir), entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
                        found = sub >= 0 && walk(sub, cgroup, path, size, depth + 1, budget);
                }
                if (!found)
                        path[len] = 0;
        }
        (void) closedir(dir);
        return found;
}

/* The same from the root. */
static bool walk_from_root(const char *root, uint64_t cgroup, char *path, size_t size) {
        unsigned budget = GROUPS_MAX;
        int fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        return fd >= 0 && walk(fd, cgroup, path, size, 0, &budget);
}

/* The unit of a control group, or NULL: there is no such group, or it is not looked for now. now: monotonic, µs. The
 * unit is valid until the next call.
 *
 * Walking through the tree is slow, so what is found is remembered, and only so much time is spent with it. */
const Unit *units_find(Units *units, uint64_t cgroup, uint64_t now) {
        const Unit *known = known_unit(units, cgroup);
        char path[PATH_SIZE] = "";
        uint64_t begun;
        bool found;
        Unit *unit;

        if (known || !allowance_is_left(&units->allowance, now))
                return known;
        begun = clock_monotonic();
        found = walk_from_root(units->root, cgroup, path, sizeof path);
        allowance_spend(&units->allowance, clock_monotonic() - begun);
        if (!found)
                return NULL;
        unit = remember(units, cgroup);
        (void) find_unit(path, unit);
        return unit;
}
