/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Who is registered: the live names, newest first, and the names that were released lately, with the creations they
 * had. Pure: no descriptor, no clock, no randomness, no log; look-ups and changes take the same time however many
 * nodes there are. */

#include <stddef.h>
#include <stdint.h>

#include "proto.h"
#include "siphash.h"
#include "util.h"

/* How many released names are remembered; as many as upstream's. */
enum { REGISTRY_RELEASED_MAX = 1000 };

typedef struct Registry Registry;
typedef struct Node Node;

/* Outcomes. */
enum {
        REGISTRY_TAKEN = 1, /* the name is registered */
        REGISTRY_FULL,      /* as many nodes as the registry may hold */
};

int registry_new(const uint8_t seed[SIPHASH_KEY_SIZE], uint32_t counter, size_t nodes_max, Registry **ret);
Registry *registry_free(Registry *registry);
DEFINE_CLEANUP(Registry *, registry_free)

int registry_add(Registry *registry, const NodeInfo *info, void *holder, int fd, Node **ret);
void registry_remove(Registry *registry, Node *node);

Node *registry_find(const Registry *registry, const uint8_t *name, size_t n);
Node *registry_newest(const Registry *registry);
Node *registry_older(const Node *node);
Node *registry_oldest_released(const Registry *registry);
Node *registry_newer_released(const Node *node);

size_t registry_count(const Registry *registry);
size_t registry_released_count(const Registry *registry);
uint64_t registry_revision(const Registry *registry);

NodeInfo node_info(const Node *node);
uint32_t node_creation(const Node *node);
void *node_holder(const Node *node);
int node_fd(const Node *node);
