/* SPDX-License-Identifier: Apache-2.0 */
#include "registry.h"

#include <stdlib.h>
#include <string.h>

#include "index.h"
#include "tally.h"

struct Node {
        Node *older;      /* in the order in which they were registered or, of released ones, released */
        Node *newer;
        void *holder;     /* the connection that registered it; NULL once released */
        uint64_t since;   /* realtime, µs */
        uint32_t counter; /* what its creation is derived from */
        uint32_t slot;    /* in the table, or TABLE_NO_SLOT */
        uint32_t hash;    /* of the name */
        int fd;           /* of that connection; for DUMP_REQ only */
        uint16_t port;
        uint16_t highest_version;
        uint16_t lowest_version;
        uint16_t name_len;
        uint16_t extra_len;
        uint16_t unit_len;
        uint8_t type;
        uint8_t protocol;
        bool uid_known;
        uint32_t uid;
        uint8_t bytes[]; /* the name, then Extra, then the owner's unit */
};

/* Nodes by their names, and in their order. */
typedef struct Names {
        Index index;
        Node *oldest;
        Node *newest;
} Names;

struct Registry {
        Table *table;   /* not ours; NULL: nothing outlives the process */
        Names live;
        Names released;
        Tally *users;   /* live nodes of each user */
        size_t n_known; /* live nodes whose user is known */
        size_t nodes_max;
        uint64_t revision;
        uint64_t serial;  /* of the registration before, in the order of all */
        uint32_t counter; /* the last one given */
        uint8_t seed[SIPHASH_KEY_SIZE];
};

/* Makes an empty registry.
 *
 * seed: 16 random bytes, against names chosen to collide; counter: creations continue behind it; nodes_max: how many
 * nodes may be registered at once; table: where every change is written as it happens, or NULL. *ret is the
 * caller's, to be freed with registry_free(), which leaves the table as it is. Returns 0 or -ENOMEM. */
int registry_new(const uint8_t seed[SIPHASH_KEY_SIZE], uint32_t counter, size_t nodes_max, Table *table,
                 Registry **ret) {
        _cleanup_(registry_freep) Registry *registry = calloc(1, sizeof *registry);
        int r;

        if (!registry)
                return -ENOMEM;
        r = tally_new(seed, &registry->users);
        if (r < 0)
                /* cppcheck-suppress memleak ; its cleanup frees it */
                return r;
        memcpy(registry->seed, seed, sizeof registry->seed);
        registry->counter = counter;
        registry->nodes_max = nodes_max;
        registry->table = table;
        *ret = TAKE_PTR(registry);
        return 0;
}

static void names_done(Names *names) {
        Node *node, *newer;

        for (node = names->oldest; node; node = newer) {
                newer = node->newer;
                free(node);
        }
        index_done(&names->index);
}

Registry *registry_free(Registry *registry) {
        if (!registry)
                return NULL;
        names_done(&registry->live);
        names_done(&registry->released);
        tally_free(registry->users);
        free(registry);
        return NULL;
}

static uint32_t name_hash(const Registry *registry, const uint8_t *name, size_t n) {
        return (uint32_t) siphash24(registry->seed, name, n);
}

static Node *names_find(const Names *names, uint32_t hash, const uint8_t *name, size_t n) {
        uint32_t step = 0;
        Node *node;

        do
                node = index_next(&names->index, hash, &step);
        while (node && (node->name_len != n || memcmp(node->bytes, name, n) != 0));
        return node;
}

/* Adds the node as the newest; false when there was no memory, the names being as before. */
static bool names_add(Names *names, Node *node) {
        if (index_add(&names->index, node->hash, node) < 0)
                return false;
        node->older = names->newest;
        node->newer = NULL;
        if (names->newest)
                names->newest->newer = node;
        else
                names->oldest = node;
        names->newest = node;
        return true;
}

static void names_remove(Names *names, Node *node) {
        index_remove(&names->index, node->hash, node);
        if (node->older)
                node->older->newer = node->newer;
        else
                names->oldest = node->newer;
        if (node->newer)
                node->newer->older = node->older;
        else
                names->newest = node->older;
}

static void forget(Registry *registry, Node *node) {
        names_remove(&registry->released, node);
        if (registry->table)
                table_erase(registry->table, node->slot);
        free(node);
}

static void forget_excess(Registry *registry) {
        if (registry_released_count(registry) > REGISTRY_RELEASED_MAX)
                forget(registry, registry->released.oldest);
}

/* The next creation for a node of this version: never 0..3 nor, in the form it is told, the previous one of its
 * name. One counter serves all names, so that a value comes back for no name before all 2^32 were used. */
static void next_creation(Registry *registry, Node *node, const Node *previous) {
        do {
                do
                        registry->counter++;
                while (registry->counter <= 3);
                node->counter = registry->counter;
        } while (previous && node_creation(node) == node_creation(previous));
        if (registry->table)
                table_set_counter(registry->table, registry->counter);
}

static void append(Node *node, size_t at, const uint8_t *data, size_t n) {
        if (n > 0)
                memcpy(node->bytes + at, data, n);
}

static Node *node_new(const NodeInfo *info, uint32_t hash, const Owner *owner) {
        Node *node = malloc(sizeof *node + info->name_len + info->extra_len + owner->unit_len);

        if (!node)
                return NULL;
        *node = (Node){
                .fd = -1,
                .hash = hash,
                .port = info->port,
                .highest_version = info->highest_version,
                .lowest_version = info->lowest_version,
                .name_len = info->name_len,
                .extra_len = info->extra_len,
                .unit_len = owner->unit_len,
                .type = info->type,
                .protocol = info->protocol,
                .uid_known = owner->known,
                .uid = owner->uid,
        };
        append(node, 0, info->name, info->name_len);
        append(node, info->name_len, info->extra, info->extra_len);
        append(node, (size_t) info->name_len + info->extra_len, owner->unit, owner->unit_len);
        return node;
}

static TallyKey user_key(const Owner *owner) {
        return tally_key(&owner->uid, sizeof owner->uid);
}

/* Makes a node one of the registered. Returns false, with nothing changed, when there is no memory. */
static bool enter(Registry *registry, Node *node) {
        const Owner owner = node_owner(node);
        const TallyKey key = user_key(&owner);

        if (owner.known && tally_add(registry->users, &key) < 0)
                return false;
        if (names_add(&registry->live, node)) {
                registry->n_known += owner.known;
                return true;
        }
        if (owner.known)
                tally_remove(registry->users, &key);
        return false;
}

static void leave(Registry *registry, Node *node) {
        const Owner owner = node_owner(node);
        const TallyKey key = user_key(&owner);

        names_remove(&registry->live, node);
        registry->n_known -= owner.known;
        if (owner.known)
                tally_remove(registry->users, &key);
}

static void set_holder(Node *node, const Holder *holder) {
        node->holder = holder->connection;
        node->fd = holder->fd;
}

/* Writes a live node into the table. Without room there the node is registered all the same, and has no slot. */
static void write_record(Registry *registry, Node *node, uint64_t cookie) {
        const TableRecord record = {
                .info = node_info(node),
                .owner = node_owner(node),
                .cookie = cookie,
                .serial = ++registry->serial,
                .since = node->since,
                .counter = node->counter,
                .live = true,
        };

        if (registry->table && table_put(registry->table, &record, &node->slot) != 0)
                node->slot = TABLE_NO_SLOT;
}

/* Registers a name.
 *
 * info: checked by proto_parse_request(), copied; holder: the connection it belongs to; now: realtime, µs. *ret is
 * the registry's, valid until registry_remove(); the record is in the table when this returns.
 * Returns 0; REGISTRY_TAKEN; REGISTRY_FULL; -ENOMEM. In all but the first case nothing has changed. */
int registry_add(Registry *registry, const NodeInfo *info, const Holder *holder, uint64_t now, Node **ret) {
        uint32_t hash = name_hash(registry, info->name, info->name_len);
        Node *node, *previous;

        if (names_find(&registry->live, hash, info->name, info->name_len))
                return REGISTRY_TAKEN;
        if (registry_count(registry) >= registry->nodes_max)
                return REGISTRY_FULL;
        node = node_new(info, hash, &holder->owner);
        if (!node)
                return -ENOMEM;
        set_holder(node, holder);
        node->since = now;
        if (!enter(registry, node)) {
                free(node);
                return -ENOMEM;
        }
        previous = names_find(&registry->released, hash, info->name, info->name_len);
        next_creation(registry, node, previous);
        write_record(registry, node, holder->cookie);
        if (previous)
                forget(registry, previous);
        registry->revision++;
        *ret = node;
        return 0;
}

/* Brings back a record of the table, as registered, or, without a holder, as a released name. To be called in the
 * order of their serials: of two with the same name the later one is remembered.
 *
 * *ret is set for a registered node. Returns 0; REGISTRY_TAKEN or REGISTRY_FULL: the record is erased;
 * -ENOMEM: it is as it was. */
int registry_restore(Registry *registry, uint32_t slot, const TableRecord *record, const Holder *holder, Node **ret) {
        Node *previous, *node = NULL;
        const NodeInfo *info = &record->info;
        uint32_t hash = name_hash(registry, info->name, info->name_len);
        int r = 0;

        if (names_find(&registry->live, hash, info->name, info->name_len))
                r = REGISTRY_TAKEN;
        else if (holder && registry_count(registry) >= registry->nodes_max)
                r = REGISTRY_FULL;
        else if (!(node = node_new(info, hash, &record->owner)))
                r = -ENOMEM;
        if (r != 0) {
                if (r != -ENOMEM)
                        table_erase(registry->table, slot);
                return r;
        }
        previous = names_find(&registry->released, hash, info->name, info->name_len);
        if (previous)
                forget(registry, previous);
        node->slot = slot;
        node->since = record->since;
        node->counter = record->counter;
        if (holder)
                set_holder(node, holder);
        else
                table_release(registry->table, slot);
        if (!(holder ? enter(registry, node) : names_add(&registry->released, node))) {
                free(node);
                return -ENOMEM;
        }
        registry->serial = record->serial;
        registry->revision++;
        forget_excess(registry);
        if (holder)
                *ret = node;
        return 0;
}

/* The node has the reply to its registration; a successor need not see to that. */
void registry_tell(Registry *registry, const Node *node) {
        if (registry->table)
                table_tell(registry->table, node->slot);
}

/* Releases a registered name and remembers it, at the cost of the one released longest ago. The node is not the
 * caller's any more. */
void registry_remove(Registry *registry, Node *node) {
        leave(registry, node);
        registry->revision++;
        node->holder = NULL;
        if (registry->table)
                table_release(registry->table, node->slot);
        if (!names_add(&registry->released, node)) {
                /* Without memory the name is forgotten; its creation stays behind the counter all the same. */
                if (registry->table)
                        table_erase(registry->table, node->slot);
                free(node);
                return;
        }
        forget_excess(registry);
}

/* The registered node of that name, or NULL. */
Node *registry_find(const Registry *registry, const uint8_t *name, size_t n) {
        return names_find(&registry->live, name_hash(registry, name, n), name, n);
}

/* The node registered last, or NULL. */
Node *registry_newest(const Registry *registry) {
        return registry->live.newest;
}

/* The node registered before this one, or NULL. */
Node *registry_older(const Node *node) {
        return node->older;
}

/* The name released longest ago, or NULL. */
Node *registry_oldest_released(const Registry *registry) {
        return registry->released.oldest;
}

/* The name released after this one, or NULL. */
Node *registry_newer_released(const Node *node) {
        return node->newer;
}

size_t registry_count(const Registry *registry) {
        return registry->live.index.count;
}

/* How many nodes of a user are registered; 0 for one that is not known. */
size_t registry_count_of(const Registry *registry, const Owner *owner) {
        const TallyKey key = user_key(owner);

        return owner->known ? tally_count(registry->users, &key) : 0;
}

/* How many of the registered nodes are of a user that is known. */
size_t registry_count_known(const Registry *registry) {
        return registry->n_known;
}

size_t registry_released_count(const Registry *registry) {
        return registry->released.index.count;
}

/* A number that differs whenever the set of registered or remembered names does. */
uint64_t registry_revision(const Registry *registry) {
        return registry->revision;
}

/* What the node said of itself; points into the node. */
NodeInfo node_info(const Node *node) {
        return (NodeInfo){
                .name = node->bytes,
                .extra = node->bytes + node->name_len,
                .name_len = node->name_len,
                .extra_len = node->extra_len,
                .port = node->port,
                .highest_version = node->highest_version,
                .lowest_version = node->lowest_version,
                .type = node->type,
                .protocol = node->protocol,
        };
}

/* Whose it is; points into the node. */
Owner node_owner(const Node *node) {
        return (Owner){
                .unit = node->bytes + node->name_len + node->extra_len,
                .unit_len = node->unit_len,
                .known = node->uid_known,
                .uid = node->uid,
        };
}

/* The creation that the node was told. */
uint32_t node_creation(const Node *node) {
        return proto_wire_creation(node->highest_version, node->counter);
}

/* What its creation is derived from; no other registration has the same before 2^32 more. */
uint32_t node_counter(const Node *node) {
        return node->counter;
}

/* Its record in the table, or TABLE_NO_SLOT. */
uint32_t node_slot(const Node *node) {
        return node->slot;
}

/* When it was registered; realtime, µs. */
uint64_t node_since(const Node *node) {
        return node->since;
}

/* The connection that holds the name; NULL for a released one. */
void *node_holder(const Node *node) {
        return node->holder;
}

/* The descriptor of that connection; of a released name, what it was. */
int node_fd(const Node *node) {
        return node->fd;
}
