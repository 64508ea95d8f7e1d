/* SPDX-License-Identifier: Apache-2.0 */
#include "nodelist.h"

#include <stdlib.h>
#include <string.h>

#include "proto.h"

/* Appends a node, whose texts are the list's from here on, also after a failure. Returns 0 or -ENOMEM. */
int nodelist_add(NodeList *list, ListedNode *node) {
        if (list->n == list->size) {
                size_t size = list->size * 2 + 16;
                ListedNode *items = reallocarray(list->items, size, sizeof *items);

                if (!items) {
                        listed_node_done(node);
                        return -ENOMEM;
                }
                list->items = items;
                list->size = size;
        }
        list->items[list->n++] = *node;
        *node = (ListedNode){};
        return 0;
}

static int add_named(NodeList *list, const NodeInfo *info) {
        ListedNode node = {.name_len = info->name_len, .port = info->port};

        node.name = calloc(1, (size_t) info->name_len + 1);
        if (!node.name)
                return -ENOMEM;
        memcpy(node.name, info->name, info->name_len);
        return nodelist_add(list, &node);
}

/* A line that is no node, such as the upstream daemon sends for a name with a newline in it, is passed over. */
static int add_lines(NodeList *list, const uint8_t *at, const uint8_t *end) {
        while (at < end) {
                const uint8_t *newline;
                NodeInfo info;
                int r = 0;

                if (proto_parse_names_line(&at, end, &info) == 0)
                        r = add_named(list, &info);
                else {
                        newline = memchr(at, '\n', (size_t) (end - at));
                        at = newline ? newline + 1 : end;
                        list->unreadable++;
                }
                if (r < 0)
                        return r;
        }
        return 0;
}

/* Reads the whole reply to NAMES_REQ. *ret is to be freed with nodelist_done(). Returns 0, NODELIST_MALFORMED or
 * -ENOMEM. */
int nodelist_from_names(const uint8_t *reply, size_t n, NodeList *ret) {
        NodeList list = {};
        uint16_t port;
        int r;

        if (proto_parse_listing(reply, n, &port) != 0)
                return NODELIST_MALFORMED;
        list.epmd_port = port;
        r = add_lines(&list, reply + PROTO_LISTING_HEAD, reply + n);
        if (r < 0) {
                nodelist_done(&list);
                return r;
        }
        *ret = list;
        return 0;
}

/* By name and port, which are what both sides know. */
static int compare(const void *a, const void *b) {
        const ListedNode *x = a, *y = b;
        int r = memcmp(x->name, y->name, size_min(x->name_len, y->name_len));

        if (r == 0 && x->name_len != y->name_len)
                r = x->name_len < y->name_len ? -1 : 1;
        return r != 0 ? r : (int) x->port - (int) y->port;
}

/* Moves what is known of each node of one list to the same node, by name and port, of another. What is left of
 * detailed is only fit to be freed. Returns for how many nodes there was something. */
size_t nodelist_add_details(NodeList *names, NodeList *detailed) {
        size_t found = 0;

        if (detailed->n == 0)
                return 0;
        qsort(detailed->items, detailed->n, sizeof *detailed->items, compare);
        for (size_t i = 0; i < names->n; i++) {
                ListedNode *known = bsearch(&names->items[i], detailed->items, detailed->n, sizeof *detailed->items,
                                            compare);
                ListedNode bare = names->items[i];

                /* The bare one takes its place, where another search may come by. */
                if (!known || !known->detailed || bare.detailed)
                        continue;
                names->items[i] = *known;
                *known = bare;
                found++;
        }
        return found;
}

/* Frees what the node owns. */
void listed_node_done(ListedNode *node) {
        free(node->name);
        free(node->extra);
        free(node->peer);
        free(node->unit);
        *node = (ListedNode){};
}

/* Frees what the list owns. */
void nodelist_done(NodeList *list) {
        for (size_t i = 0; i < list->n; i++)
                listed_node_done(&list->items[i]);
        free(list->items);
        *list = (NodeList){};
}
