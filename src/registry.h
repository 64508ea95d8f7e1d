/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Who is registered: the live names, newest first, and the names that were released lately, with the creations they
 * had. Pure: no descriptor, no clock, no randomness, no log; look-ups and changes take the same time however many
 * nodes there are. */

#include <stddef.h>
#include <stdint.h>

#include "owner.h"
#include "proto.h"
#include "siphash.h"
#include "table.h"
#include "util.h"

/* How many released names are remembered; as many as upstream's. */
enum { REGISTRY_RELEASED_MAX = 1000 };

typedef struct Registry Registry;
typedef struct Node Node;

/* The connection that a name belongs to, as far as the registry needs to know it. */
typedef struct Holder {
        void *connection; /* opaque */
        int fd;           /* shown by DUMP_REQ */
        uint64_t cookie;  /* SO_COOKIE, for the table; 0: not known */
        Owner owner;      /* copied */
} Holder;

/* Outcomes. */
enum {
        REGISTRY_TAKEN = 1, /* the name is registered */
        REGISTRY_FULL,      /* as many nodes as the registry may hold */
};

int registry_new(const uint8_t seed[SIPHASH_KEY_SIZE], uint32_t counter, size_t nodes_max, Table *table,
                 Registry **ret);
Registry *registry_free(Registry *registry);
DEFINE_CLEANUP(Registry *, registry_free)

int registry_add(Registry *registry, const NodeInfo *info, const Holder *holder, uint64_t now, Node **ret);
int registry_restore(Registry *registry, uint32_t slot, const TableRecord *record, const Holder *holder, Node **ret);
void registry_tell(Registry *registry, const Node *node);
void registry_remove(Registry *registry, Node *node);

Node *registry_find(const Registry *registry, const uint8_t *name, size_t n);
Node *registry_newest(const Registry *registry);
Node *registry_older(const Node *node);
Node *registry_oldest_released(const Registry *registry);
Node *registry_newer_released(const Node *node);

size_t registry_count(const Registry *registry);
size_t registry_count_of(const Registry *registry, const Owner *owner);
size_t registry_count_known(const Registry *registry);
size_t registry_released_count(const Registry *registry);
uint64_t registry_revision(const Registry *registry);

NodeInfo node_info(const Node *node);
Owner node_owner(const Node *node);
uint32_t node_creation(const Node *node);
uint32_t node_counter(const Node *node);
uint32_t node_slot(const Node *node);
uint64_t node_since(const Node *node);
void *node_holder(const Node *node);
int node_fd(const Node *node);
