/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Registered nodes as a client knows them: what NAMES tells, and what the daemon on this host tells beyond it. Pure.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util.h"

typedef struct ListedNode {
        char *name; /* owned, as are the other texts; terminated, though a name may hold any byte */
        size_t name_len;
        uint16_t port;
        bool detailed; /* what follows is known */
        uint8_t type;
        uint8_t protocol;
        uint16_t highest_version;
        uint16_t lowest_version;
        uint32_t creation;
        uint64_t since; /* µs of the realtime clock */
        char *extra;    /* base64 */
        char *peer; /* NULL: not known */
        bool has_uid;
        uint32_t uid;
        char *unit; /* NULL: not known */
} ListedNode;

typedef struct NodeList {
        ListedNode *items; /* owned; newest first */
        size_t n;
        size_t size;
        uint16_t epmd_port; /* that the epmd says it has; 0: not told */
        size_t unreadable;  /* lines of NAMES that are no node */
} NodeList;

/* Outcome. */
enum {
        NODELIST_MALFORMED = 1, /* no reply of an epmd */
};

int nodelist_add(NodeList *list, ListedNode *node);
int nodelist_from_names(const uint8_t *reply, size_t n, NodeList *ret);
size_t nodelist_add_details(NodeList *names, NodeList *detailed);
void listed_node_done(ListedNode *node);
void nodelist_done(NodeList *list);
