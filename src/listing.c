/* SPDX-License-Identifier: Apache-2.0 */
#include "listing.h"

#include <stdlib.h>

struct Listing {
        size_t refs;
        size_t len;
        uint64_t revision; /* of the registry that it shows */
        uint8_t data[];
};

static Listing *listing_alloc(const Registry *registry, size_t size) {
        Listing *listing = malloc(sizeof *listing + size);

        if (listing)
                *listing = (Listing){.refs = 1, .revision = registry_revision(registry)};
        return listing;
}

static size_t names_bytes(const Node *node) {
        return node_info(node).name_len;
}

/* The reply to NAMES_REQ behind its port: a line for each registered node, the newest first.
 * *ret is the caller's reference. Returns 0 or -ENOMEM. */
int listing_new_names(const Registry *registry, Listing **ret) {
        const size_t line = PROTO_NAMES_LINE_MAX - PROTO_NAME_BYTES_MAX;
        size_t size = 0;
        Listing *listing;
        WireWriter writer;

        for (const Node *node = registry_newest(registry); node; node = registry_older(node))
                size += line + names_bytes(node);
        listing = listing_alloc(registry, size);
        if (!listing)
                return -ENOMEM;
        writer = wire_writer(listing->data, size);
        for (const Node *node = registry_newest(registry); node; node = registry_older(node)) {
                NodeInfo info = node_info(node);
                proto_put_names_line(&writer, &info);
        }
        listing->len = writer.len;
        *ret = listing;
        return 0;
}

/* The reply to DUMP_REQ behind its port: the registered nodes, the newest first, then the remembered names, in the
 * order in which they were released. *ret is the caller's reference. Returns 0 or -ENOMEM. */
int listing_new_dump(const Registry *registry, Listing **ret) {
        const size_t line = PROTO_DUMP_LINE_MAX - PROTO_NAME_BYTES_MAX;
        size_t size = 0;
        Listing *listing;
        WireWriter writer;

        for (const Node *node = registry_newest(registry); node; node = registry_older(node))
                size += line + names_bytes(node);
        for (const Node *node = registry_oldest_released(registry); node; node = registry_newer_released(node))
                size += line + names_bytes(node);
        listing = listing_alloc(registry, size);
        if (!listing)
                return -ENOMEM;
        writer = wire_writer(listing->data, size);
        for (const Node *node = registry_newest(registry); node; node = registry_older(node)) {
                NodeInfo info = node_info(node);
                proto_put_dump_line(&writer, &info, true, node_fd(node));
        }
        for (const Node *node = registry_oldest_released(registry); node; node = registry_newer_released(node)) {
                NodeInfo info = node_info(node);
                proto_put_dump_line(&writer, &info, false, node_fd(node));
        }
        listing->len = writer.len;
        *ret = listing;
        return 0;
}

/* Another reference, which is the caller's. NULL stays NULL. */
Listing *listing_ref(Listing *listing) {
        if (listing)
                listing->refs++;
        return listing;
}

/* Drops a reference; always returns NULL. */
Listing *listing_unref(Listing *listing) {
        if (listing && --listing->refs == 0)
                free(listing);
        return NULL;
}

/* Whether there is another reference than the caller's. */
bool listing_has_others(const Listing *listing) {
        return listing->refs > 1;
}

/* The text, listing_size() bytes, valid as long as the reference. */
const uint8_t *listing_data(const Listing *listing) {
        return listing->data;
}

size_t listing_size(const Listing *listing) {
        return listing->len;
}

/* The revision of the registry that the text shows. */
uint64_t listing_revision(const Listing *listing) {
        return listing->revision;
}
