/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The units of systemd by the numbers of their control groups, which are the inodes of the directories of a tree. */

#include <stdint.h>

#include "owner.h"
#include "util.h"

typedef struct Units Units;

typedef struct Unit {
        uint64_t cgroup;
        uint16_t len; /* 0: the group belongs to no unit */
        char name[OWNER_UNIT_MAX];
} Unit;

int units_new(const char *root, Units **ret);
Units *units_free(Units *units);
DEFINE_CLEANUP(Units *, units_free)

const Unit *units_find(Units *units, uint64_t cgroup, uint64_t now);
