/* SPDX-License-Identifier: Apache-2.0 */
#include "units.h"

#include <dirent.h>
#include <ftw.h>
#include <stdio.h>
#include <sys/stat.h>

#include "allowance.h"
#include "unit.h"

/* ---- Time for work ---- */

enum { MAX = 40, RECOVERY = 200 };

static Allowance make_allowance(void) {
        return (Allowance){.max = MAX, .recovery = RECOVERY};
}

START_TEST(at_the_limit_and_past_it) {
        Allowance allowance = make_allowance();

        ck_assert(allowance_is_left(&allowance, NOW));
        allowance_spend(&allowance, MAX);
        ck_assert(allowance_is_left(&allowance, NOW));
        allowance_spend(&allowance, 1);
        ck_assert(!allowance_is_left(&allowance, NOW));
        ck_assert(!allowance_is_left(&allowance, NOW + RECOVERY - NOW % RECOVERY - 1));
        ck_assert(allowance_is_left(&allowance, NOW + RECOVERY));
}
END_TEST

/* Nobody saves up for later, and however much it was is forgiven in the end. */
START_TEST(forgiven) {
        Allowance allowance = make_allowance();

        ck_assert(allowance_is_left(&allowance, NOW));
        allowance_spend(&allowance, MAX + 1000);
        ck_assert(!allowance_is_left(&allowance, NOW + 999 * RECOVERY));
        ck_assert(allowance_is_left(&allowance, NOW + 1000 * RECOVERY));
        ck_assert(allowance_is_left(&allowance, 2 * NOW));
        allowance_spend(&allowance, MAX + 1);
        ck_assert(!allowance_is_left(&allowance, 2 * NOW));
        /* A clock that goes backwards is no excuse. */
        ck_assert(!allowance_is_left(&allowance, NOW));
}
END_TEST

/* However often one asks: work gets its share of the time and no more. */
START_TEST(share) {
        static const uint64_t steps[] = {1, 7, RECOVERY - 1, RECOVERY, RECOVERY + 1, 3 * RECOVERY};
        enum { TOOK = 36, DURATION = 1000000 };
        Allowance allowance = make_allowance();
        uint64_t spent = 0;

        for (uint64_t now = NOW; now < NOW + DURATION; now += steps[_i])
                if (allowance_is_left(&allowance, now)) {
                        allowance_spend(&allowance, TOOK);
                        spent += TOOK;
                }
        ck_assert_uint_le(spent, DURATION / RECOVERY + MAX + TOOK);
        ck_assert_uint_ge(spent, DURATION / RECOVERY);
}
END_TEST

/* ---- Units ---- */

typedef struct Tree {
        char root[64];
        Units *units;
} Tree;

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *ftw) {
        (void) status;
        (void) type;
        (void) ftw;
        return remove(path);
}

static void remove_below(const char *path) {
        ck_assert_int_eq(nftw(path, remove_entry, 8, FTW_DEPTH | FTW_PHYS), 0);
}

static void make_tree(Tree *tree) {
        *tree = (Tree){.root = "/tmp/check_units.XXXXXX"};
        ck_assert_ptr_nonnull(mkdtemp(tree->root));
        ck_assert_int_eq(units_new(tree->root, &tree->units), 0);
}

static void tree_done(Tree *tree) {
        units_free(tree->units);
        remove_below(tree->root);
}

static void join(const Tree *tree, const char *path, char *ret, size_t size) {
        ck_assert_int_lt(snprintf(ret, size, "%s/%s", tree->root, path), (int) size);
}

/* The number of a directory as its parent has it: on an overlay, where the tests may run, stat() has another. */
static uint64_t inode_of(const char *path) {
        char parent[512];
        const char *name = strrchr(path, '/') + 1;
        uint64_t found = 0;
        DIR *dir;

        (void) snprintf(parent, sizeof parent, "%.*s", (int) (name - path), path);
        dir = opendir(parent);
        ck_assert_ptr_nonnull(dir);
        for (struct dirent *entry; (entry = readdir(dir));)
                if (strcmp(entry->d_name, name) == 0)
                        found = entry->d_ino;
        (void) closedir(dir);
        ck_assert_uint_ne(found, 0);
        return found;
}

/* A control group with all that are above it; its number. */
static uint64_t add_group(const Tree *tree, const char *path) {
        char full[512];

        join(tree, path, full, sizeof full);
        for (char *p = full + strlen(tree->root) + 1; (p = strchr(p, '/')); *p++ = '/') {
                *p = 0;
                (void) mkdir(full, 0700);
        }
        ck_assert_int_eq(mkdir(full, 0700), 0);
        return inode_of(full);
}

static void assert_unit(Tree *tree, uint64_t cgroup, const char *name) {
        const Unit *unit = units_find(tree->units, cgroup, NOW);

        ck_assert_ptr_nonnull(unit);
        ck_assert_uint_eq(unit->cgroup, cgroup);
        ck_assert_uint_eq(unit->len, strlen(name));
        ck_assert_mem_eq(unit->name, name, strlen(name));
}

START_TEST(names) {
        static const struct {
                const char *path, *unit;
        } rows[] = {
                {"system.slice/rabbitmq.service", "rabbitmq.service"},
                {"system.slice/system-x.slice/x@1.service/inner", "x@1.service"},
                {"user.slice/user-1000.slice/session-1.scope", "session-1.scope"},
                {"user.slice/user-1000.slice/user@1000.service/app.slice/node.service", "user@1000.service"},
                {"other.slice", ""},
                {"init.scope", "init.scope"},
                {"plain/service", ""},
        };
        _cleanup_(tree_done) Tree tree;

        make_tree(&tree);
        assert_unit(&tree, add_group(&tree, rows[_i].path), rows[_i].unit);
}
END_TEST

START_TEST(no_such_group) {
        _cleanup_(tree_done) Tree tree;

        make_tree(&tree);
        add_group(&tree, "a.service");
        ck_assert_ptr_null(units_find(tree.units, UINT64_MAX, NOW));
}
END_TEST

/* What was found is not looked for again: it is known when the tree is gone. */
START_TEST(remembered) {
        _cleanup_(tree_done) Tree tree;
        uint64_t one, two;
        char full[512];

        make_tree(&tree);
        one = add_group(&tree, "system.slice/one.service");
        two = add_group(&tree, "plain/two");
        assert_unit(&tree, one, "one.service");
        assert_unit(&tree, two, "");
        join(&tree, "system.slice", full, sizeof full);
        remove_below(full);
        join(&tree, "plain", full, sizeof full);
        remove_below(full);
        assert_unit(&tree, one, "one.service");
        assert_unit(&tree, two, "");
}
END_TEST

/* Those who keep it looking use up what there is; what is remembered is given all the same, and it recovers. */
START_TEST(walks_end) {
        _cleanup_(tree_done) Tree tree;
        uint64_t known, late;
        size_t turns = 0;

        make_tree(&tree);
        known = add_group(&tree, "known.service");
        assert_unit(&tree, known, "known.service");
        for (;; turns++) {
                char path[32];
                const Unit *unit;

                /* Far more than there is time for, and fewer groups than are remembered. */
                ck_assert_uint_lt(turns, 200);
                for (size_t i = 0; i < 50; i++)
                        ck_assert_ptr_null(units_find(tree.units, UINT64_MAX, NOW));
                (void) snprintf(path, sizeof path, "late%zu.service", turns);
                late = add_group(&tree, path);
                unit = units_find(tree.units, late, NOW);
                if (!unit)
                        break;
                ck_assert_uint_eq(unit->cgroup, late);
        }
        assert_unit(&tree, known, "known.service");
        ck_assert_ptr_null(units_find(tree.units, late, NOW));
        /* A day forgives more than minutes. */
        ck_assert_ptr_nonnull(units_find(tree.units, late, NOW + 86400 * USEC_PER_SEC));
}
END_TEST

int main(void) {
        Suite *suite = suite_create("units");
        TCase *allowance = unit_case(suite, "allowance"), *units = unit_case(suite, "units");

        tcase_add_test(allowance, at_the_limit_and_past_it);
        tcase_add_test(allowance, forgiven);
        tcase_add_loop_test(allowance, share, 0, 6);
        tcase_add_loop_test(units, names, 0, 7);
        tcase_add_test(units, no_such_group);
        tcase_add_test(units, remembered);
        tcase_add_test(units, walks_end);
        return unit_main(suite);
}
