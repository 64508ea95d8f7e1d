/* SPDX-License-Identifier: Apache-2.0 */
#include "registry.h"

#include <stdio.h>

#include "unit.h"

static const uint8_t seed[SIPHASH_KEY_SIZE] = "a seed of 16 by";

enum { MANY = 1000000 };

static NodeInfo make_info(const char *name, uint16_t highest_version) {
        return (NodeInfo){.name = (const uint8_t *) name,
                          .name_len = (uint16_t) strlen(name),
                          .port = 1234,
                          .highest_version = highest_version};
}

static const char *number_name(unsigned number, char buffer[16]) {
        (void) snprintf(buffer, 16, "node%u", number);
        return buffer;
}

static Registry *make_registry(uint32_t counter, size_t nodes_max) {
        Registry *registry = NULL;

        ck_assert_int_eq(registry_new(seed, counter, nodes_max, NULL, &registry), 0);
        return registry;
}

static Node *add(Registry *registry, const char *name) {
        NodeInfo info = make_info(name, 6);
        Node *node = NULL;
        int r = registry_add(registry, &info, &(Holder){.connection = registry, .fd = 3}, NOW, &node);

        if (r != 0 || !node)
                ck_abort_msg("registering %s: %d", name, r);
        return node;
}

static Node *find(const Registry *registry, const char *name) {
        return registry_find(registry, (const uint8_t *) name, strlen(name));
}

static void release(Registry *registry, const char *name) {
        Node *node = find(registry, name);

        if (!node)
                ck_abort_msg("%s is not registered", name);
        registry_remove(registry, node);
}

/* The names from the first node on, with a space behind each. */
static const char *join(const Node *node, Node *(*next)(const Node *), char buffer[256]) {
        size_t n = 0;

        buffer[0] = 0;
        for (; node; node = next(node)) {
                NodeInfo info = node_info(node);
                n += (size_t) snprintf(buffer + n, 256 - n, "%.*s ", (int) info.name_len, (const char *) info.name);
        }
        return buffer;
}

static void check_lists(const Registry *registry, const char *live, const char *released) {
        char buffer[256];

        ck_assert_str_eq(join(registry_newest(registry), registry_older, buffer), live);
        ck_assert_str_eq(join(registry_oldest_released(registry), registry_newer_released, buffer), released);
}

START_TEST(empty) {
        _cleanup_(registry_freep) Registry *registry = make_registry(0, MANY);

        check_lists(registry, "", "");
        ck_assert_uint_eq(registry_count(registry), 0);
        ck_assert_uint_eq(registry_released_count(registry), 0);
        ck_assert_ptr_null(find(registry, "a"));
        ck_assert_ptr_null(find(registry, ""));
        ck_assert_ptr_null(registry_free(NULL));
}
END_TEST

START_TEST(order) {
        _cleanup_(registry_freep) Registry *registry = make_registry(0, MANY);

        add(registry, "a");
        check_lists(registry, "a ", "");
        add(registry, "b");
        add(registry, "c");
        add(registry, "d");
        check_lists(registry, "d c b a ", "");
        release(registry, "b");
        check_lists(registry, "d c a ", "b ");
        release(registry, "d");
        check_lists(registry, "c a ", "b d ");
        release(registry, "a");
        check_lists(registry, "c ", "b d a ");
        /* One that returns is the newest, and not remembered any more. */
        add(registry, "d");
        check_lists(registry, "d c ", "b a ");
        release(registry, "c");
        release(registry, "d");
        check_lists(registry, "", "b a c d ");
        add(registry, "a");
        check_lists(registry, "a ", "b c d ");
        ck_assert_uint_eq(registry_count(registry), 1);
        ck_assert_uint_eq(registry_released_count(registry), 3);
}
END_TEST

START_TEST(what_a_node_said) {
        _cleanup_(registry_freep) Registry *registry = make_registry(41, MANY);
        _cleanup_free_ uint8_t *name = unit_copy("rabbit", 6), *extra = unit_copy("\0ex", 3);
        NodeInfo info = {.name = name, .name_len = 6, .extra = extra, .extra_len = 3, .port = 25672,
                         .highest_version = 6, .lowest_version = 5, .type = 77, .protocol = 9};
        Node *node = NULL;
        int holder;

        ck_assert_int_eq(registry_add(registry, &info, &(Holder){.connection = &holder, .fd = 17}, NOW, &node), 0);
        /* The registry keeps its own copy. */
        memset(name, 'x', 6);
        memset(extra, 'x', 3);
        for (int released = 0; released <= 1; released++) {
                NodeInfo got = node_info(node);

                ck_assert_uint_eq(got.name_len, 6);
                ck_assert_mem_eq(got.name, "rabbit", 6);
                ck_assert_uint_eq(got.extra_len, 3);
                ck_assert_mem_eq(got.extra, "\0ex", 3);
                ck_assert_uint_eq(got.port, 25672);
                ck_assert_uint_eq(got.highest_version, 6);
                ck_assert_uint_eq(got.lowest_version, 5);
                ck_assert_uint_eq(got.type, 77);
                ck_assert_uint_eq(got.protocol, 9);
                ck_assert_uint_eq(node_creation(node), 42);
                ck_assert_int_eq(node_fd(node), 17);
                ck_assert_ptr_eq(node_holder(node), released ? NULL : &holder);
                if (!released)
                        registry_remove(registry, node);
                node = registry_oldest_released(registry);
        }
}
END_TEST

START_TEST(longest_node) {
        _cleanup_(registry_freep) Registry *registry = make_registry(0, MANY);
        uint8_t name[PROTO_NAME_BYTES_MAX], extra[PROTO_EXTRA_MAX];
        NodeInfo info = {.name = name, .name_len = sizeof name, .extra = extra, .extra_len = sizeof extra}, got;
        Node *node = NULL;

        memset(name, 'n', sizeof name);
        memset(extra, 'e', sizeof extra);
        ck_assert_int_eq(registry_add(registry, &info, &(Holder){.connection = registry, .fd = 3}, NOW, &node), 0);
        got = node_info(node);
        ck_assert_uint_eq(got.name_len, sizeof name);
        ck_assert_mem_eq(got.name, name, sizeof name);
        ck_assert_uint_eq(got.extra_len, sizeof extra);
        ck_assert_mem_eq(got.extra, extra, sizeof extra);
        ck_assert_ptr_eq(registry_find(registry, name, sizeof name), node);
        ck_assert_ptr_null(registry_find(registry, name, sizeof name - 1));
}
END_TEST

/* Names are bytes: neither case, nor a common beginning, nor how Unicode composes them make two names one. */
static const char *const distinct[] = {"a",  "A",          "aa",          "a ", " a", "n\303\270d", "no\314\270d",
                                       "no", "\303\251", "e\314\201", "e"};

START_TEST(names_are_bytes) {
        _cleanup_(registry_freep) Registry *registry = make_registry(0, MANY);
        Node *nodes[ARRAY_SIZE(distinct)];

        for (size_t i = 0; i < ARRAY_SIZE(distinct); i++)
                nodes[i] = add(registry, distinct[i]);
        for (size_t i = 0; i < ARRAY_SIZE(distinct); i++)
                ck_assert_ptr_eq(find(registry, distinct[i]), nodes[i]);
}
END_TEST

START_TEST(taken) {
        _cleanup_(registry_freep) Registry *registry = make_registry(0, 2);
        Node *node = add(registry, "a"), *other = (Node *) seed;
        NodeInfo info = make_info("a", 5);
        uint64_t revision = registry_revision(registry);

        ck_assert_int_eq(registry_add(registry, &info, &(Holder){.connection = NULL, .fd = 4}, NOW, &other), REGISTRY_TAKEN);
        ck_assert_ptr_eq(other, (Node *) seed);
        ck_assert_uint_eq(registry_revision(registry), revision);
        ck_assert_ptr_eq(find(registry, "a"), node);
        ck_assert_uint_eq(node_info(node).highest_version, 6);
        ck_assert_int_eq(node_fd(node), 3);
        check_lists(registry, "a ", "");
        /* Said before that there is no room, too: it is what the node can do something about. */
        add(registry, "b");
        ck_assert_int_eq(registry_add(registry, &info, &(Holder){.connection = NULL, .fd = 4}, NOW, &other), REGISTRY_TAKEN);
        /* A refusal uses up no creation. */
        release(registry, "b");
        ck_assert_uint_eq(node_creation(add(registry, "c")), 6);
        release(registry, "a");
        ck_assert_int_eq(registry_add(registry, &info, &(Holder){.connection = NULL, .fd = 4}, NOW, &other), 0);
}
END_TEST

static const size_t nodes_max[] = {0, 1, 2, 100};

START_TEST(full) {
        const size_t max = nodes_max[_i];
        _cleanup_(registry_freep) Registry *registry = make_registry(0, max);
        NodeInfo info = make_info("one too many", 6);
        Node *node = (Node *) seed;
        uint64_t revision;

        for (size_t i = 0; i < max; i++) {
                char name[16];

                add(registry, number_name((unsigned) i, name));
        }
        revision = registry_revision(registry);
        ck_assert_int_eq(registry_add(registry, &info, &(Holder){.connection = NULL, .fd = 4}, NOW, &node), REGISTRY_FULL);
        ck_assert_ptr_eq(node, (Node *) seed);
        ck_assert_uint_eq(registry_revision(registry), revision);
        ck_assert_uint_eq(registry_count(registry), max);
        ck_assert_ptr_null(find(registry, "one too many"));
        if (max > 0) {
                release(registry, "node0");
                ck_assert_int_eq(registry_add(registry, &info, &(Holder){.connection = NULL, .fd = 4}, NOW, &node), 0);
                ck_assert_int_eq(registry_add(registry, &(NodeInfo){.name = seed, .name_len = 1}, &(Holder){.connection = NULL, .fd = 4}, NOW, &node),
                                 REGISTRY_FULL);
        }
}
END_TEST

START_TEST(revision) {
        _cleanup_(registry_freep) Registry *registry = make_registry(0, MANY);
        uint64_t seen[8];
        size_t n = 0;

        seen[n++] = registry_revision(registry);
        add(registry, "a");
        seen[n++] = registry_revision(registry);
        add(registry, "b");
        seen[n++] = registry_revision(registry);
        release(registry, "a");
        seen[n++] = registry_revision(registry);
        add(registry, "a");
        seen[n++] = registry_revision(registry);
        ck_assert_uint_eq(registry_revision(registry), seen[n - 1]);
        (void) find(registry, "a");
        ck_assert_uint_eq(registry_revision(registry), seen[n - 1]);
        for (size_t i = 0; i < n; i++)
                for (size_t j = 0; j < i; j++)
                        ck_assert_uint_ne(seen[i], seen[j]);
}
END_TEST

/* A thousand released names are remembered, and no more: the one released first goes. */
START_TEST(released_limit) {
        _cleanup_(registry_freep) Registry *registry = make_registry(0, MANY);
        char name[16];

        ck_assert_int_eq(REGISTRY_RELEASED_MAX, 1000);
        for (unsigned i = 0; i < 1000; i++) {
                add(registry, number_name(i, name));
                release(registry, name);
        }
        ck_assert_uint_eq(registry_released_count(registry), 1000);
        ck_assert_mem_eq(node_info(registry_oldest_released(registry)).name, "node0", 5);
        /* One that comes and goes again is the last to be forgotten. */
        add(registry, "node0");
        ck_assert_uint_eq(registry_released_count(registry), 999);
        release(registry, "node0");
        ck_assert_uint_eq(registry_released_count(registry), 1000);
        for (unsigned i = 1000; i < 2500; i++) {
                unsigned oldest = i - 998, n = 0;
                NodeInfo info;

                add(registry, number_name(i, name));
                release(registry, name);
                ck_assert_uint_eq(registry_released_count(registry), 1000);
                info = node_info(registry_oldest_released(registry));
                /* node0 stands behind node999. */
                number_name(i < 1998 ? oldest : i == 1998 ? 0 : oldest - 1, name);
                if (info.name_len != strlen(name) || memcmp(info.name, name, info.name_len) != 0)
                        ck_abort_msg("after %u names: the oldest is not %s", i, name);
                for (Node *node = registry_oldest_released(registry); node; node = registry_newer_released(node))
                        n++;
                if (n != 1000)
                        ck_abort_msg("after %u names: %u are listed", i, n);
        }
}
END_TEST

/* ---- Creations ---- */

typedef struct First {
        uint32_t counter;
        uint16_t version;
        uint32_t creation;
} First;

/* Of the first node, when creations continue behind the counter. */
static const First firsts[] = {
        {0, 6, 4},
        {1, 6, 4},
        {2, 6, 4},
        {3, 6, 4},
        {4, 6, 5},
        {98, 6, 99},
        {1700000000, 6, 1700000001},
        {INT32_MAX, 6, 0x80000000},
        {UINT32_MAX - 1, 6, UINT32_MAX},
        {UINT32_MAX, 6, 4},
        {UINT32_MAX, 65535, 4},
        {3, 5, 2},
        {4, 5, 3},
        {5, 5, 1},
        {3, 0, 2},
        {UINT32_MAX - 1, 5, 1},
        {UINT32_MAX, 5, 2},
};

START_TEST(first_creation) {
        const First *row = &firsts[_i];
        _cleanup_(registry_freep) Registry *registry = make_registry(row->counter, MANY);
        NodeInfo info = make_info("a", row->version);
        Node *node = NULL;

        ck_assert_int_eq(registry_add(registry, &info, &(Holder){.connection = registry, .fd = 3}, NOW, &node), 0);
        ck_assert_uint_eq(node_creation(node), row->creation);
}
END_TEST

static bool is_legal(uint16_t version, uint32_t creation) {
        return version >= 6 ? creation > 3 : creation >= 1 && creation <= 3;
}

static const uint32_t starts[] = {0, 3, 1700000000, UINT32_MAX - 20, UINT32_MAX - 1, UINT32_MAX};
static const uint16_t versions[] = {0, 5, 6, 7, 65535};

/* A name that comes back, as any version, with any number of others in between. */
START_TEST(returning_creation) {
        const uint32_t start = starts[(size_t) _i / ARRAY_SIZE(versions)];
        const uint16_t version = versions[(size_t) _i % ARRAY_SIZE(versions)];
        _cleanup_(registry_freep) Registry *registry = make_registry(start, MANY);
        uint32_t previous = 0;

        for (unsigned round = 0; round < 200; round++) {
                uint16_t now = round % 7 == 6 ? versions[round % ARRAY_SIZE(versions)] : version;
                NodeInfo info = make_info("comes back", now);
                Node *node = NULL;

                ck_assert_int_eq(registry_add(registry, &info, &(Holder){.connection = registry, .fd = 3}, NOW, &node), 0);
                if (!is_legal(now, node_creation(node)) || node_creation(node) == previous)
                        ck_abort_msg("round %u: creation %u after %u", round, node_creation(node), previous);
                previous = node_creation(node);
                registry_remove(registry, node);
                for (unsigned i = 0; i < round % 6; i++) {
                        char name[16];

                        add(registry, number_name(i, name));
                        release(registry, name);
                }
        }
}
END_TEST

/* No two nodes get the same creation in the long form, be they of one name or of different ones. */
START_TEST(long_creations_differ) {
        static uint32_t seen[3000];
        _cleanup_(registry_freep) Registry *registry = make_registry(UINT32_MAX - 1500, MANY);

        for (unsigned i = 0; i < ARRAY_SIZE(seen); i++) {
                char name[16];

                seen[i] = node_creation(add(registry, number_name(i / 2, name)));
                release(registry, name);
                for (unsigned j = 0; j < i; j++)
                        if (seen[i] == seen[j] || seen[i] <= 3)
                                ck_abort_msg("creation %u, %u", seen[i], i);
        }
}
END_TEST

/* ---- The table: what it holds ---- */

/* A registry whose changes are written to a table. */
typedef struct Stored {
        void *memory;
        size_t size;
        Table table;
        Registry *registry;
} Stored;

static Stored *stored_free(Stored *stored) {
        registry_free(stored->registry);
        free(stored->memory);
        free(stored);
        return NULL;
}
DEFINE_CLEANUP(Stored *, stored_free)

static Stored *make_stored(uint32_t counter, size_t max, size_t blocks) {
        Stored *stored = calloc(1, sizeof *stored);

        ck_assert_ptr_nonnull(stored);
        stored->size = blocks * TABLE_BLOCK_SIZE;
        stored->memory = malloc(stored->size);
        ck_assert_ptr_nonnull(stored->memory);
        table_format(&stored->table, stored->memory, stored->size);
        ck_assert_int_eq(registry_new(seed, counter, max, &stored->table, &stored->registry), 0);
        return stored;
}

/* Every name has its own, in whatever process. */
static uint64_t cookie_for(const NodeInfo *info) {
        return siphash24(seed, info->name, info->name_len);
}

static Node *add_stored(Stored *stored, const char *name, uint16_t version) {
        NodeInfo info = make_info(name, version);
        Holder holder = {.connection = stored, .fd = 3, .cookie = cookie_for(&info)};
        Node *node = NULL;
        int r = registry_add(stored->registry, &info, &holder, NOW + strlen(name), &node);

        if (r != 0 || !node)
                ck_abort_msg("registering %s: %d", name, r);
        return node;
}

static bool same_info(const NodeInfo *a, const NodeInfo *b) {
        return a->name_len == b->name_len && memcmp(a->name, b->name, a->name_len) == 0 &&
               a->extra_len == b->extra_len && memcmp(a->extra, b->extra, a->extra_len) == 0 && a->port == b->port &&
               a->highest_version == b->highest_version && a->lowest_version == b->lowest_version &&
               a->type == b->type && a->protocol == b->protocol;
}

/* Checks a node's record and returns its place in the order of registration. */
static uint64_t check_record(const Table *table, const Node *node, bool live) {
        NodeInfo info = node_info(node);
        uint8_t payload[TABLE_PAYLOAD_MAX];
        TableRecord record;
        int r = table_get(table, node_slot(node), payload, &record);

        if (r != 0 || !same_info(&record.info, &info) || record.counter != node_counter(node) ||
            record.since != node_since(node) || record.live != live || record.cookie != cookie_for(&info))
                ck_abort_msg("%.*s has no record, or another: %d", (int) info.name_len, (const char *) info.name, r);
        return record.serial;
}

static size_t count_records(const Table *table) {
        uint8_t payload[TABLE_PAYLOAD_MAX];
        TableRecord record;
        size_t n = 0;

        for (uint32_t slot = 0; slot < table->n_blocks; slot++)
                n += table_get(table, slot, payload, &record) == 0;
        return n;
}

/* All nodes and released names are in the table, in their order, and nothing else is. */
static void check_table(const Stored *stored) {
        uint64_t serial = UINT64_MAX;

        for (Node *node = registry_newest(stored->registry); node; node = registry_older(node)) {
                uint64_t older = check_record(&stored->table, node, true);

                if (older >= serial)
                        ck_abort_msg("node %u is out of order", node_counter(node));
                serial = older;
        }
        for (Node *node = registry_oldest_released(stored->registry); node; node = registry_newer_released(node))
                (void) check_record(&stored->table, node, false);
        ck_assert_uint_eq(count_records(&stored->table),
                          registry_count(stored->registry) + registry_released_count(stored->registry));
}

static void check_counter(const Stored *stored, uint32_t want) {
        uint32_t counter = want + 1;

        ck_assert(table_get_counter(&stored->table, &counter));
        ck_assert_uint_eq(counter, want);
}

START_TEST(every_change_is_written) {
        _cleanup_(stored_freep) Stored *stored = make_stored(41, MANY, 10);
        Node *a, *b;

        check_table(stored);
        a = add_stored(stored, "a", 6);
        ck_assert_uint_ne(node_slot(a), TABLE_NO_SLOT);
        check_table(stored);
        check_counter(stored, 42);
        b = add_stored(stored, "bb", 5);
        check_table(stored);
        check_counter(stored, 43);
        ck_assert_uint_ne(node_slot(a), node_slot(b));
        ck_assert_uint_eq(node_since(b), NOW + 2);
        registry_remove(stored->registry, a);
        check_table(stored);
        registry_remove(stored->registry, b);
        check_table(stored);
        /* The record of a name that comes back replaces that of the released one. */
        add_stored(stored, "a", 6);
        check_table(stored);
        ck_assert_uint_eq(count_records(&stored->table), 2);
        check_counter(stored, 44);
}
END_TEST

/* Nor is anything written that did not happen. */
START_TEST(refusals_are_not_written) {
        _cleanup_(stored_freep) Stored *stored = make_stored(0, 2, 10);
        _cleanup_free_ void *before = malloc(stored->size);
        NodeInfo again = make_info("a", 6), excess = make_info("c", 6);
        Holder holder = {.connection = stored, .fd = 4};
        Node *node = NULL;

        add_stored(stored, "a", 6);
        add_stored(stored, "b", 6);
        memcpy(before, stored->memory, stored->size);
        ck_assert_int_eq(registry_add(stored->registry, &again, &holder, NOW, &node), REGISTRY_TAKEN);
        ck_assert_int_eq(registry_add(stored->registry, &excess, &holder, NOW, &node), REGISTRY_FULL);
        ck_assert_mem_eq(stored->memory, before, stored->size);
}
END_TEST

/* Without room in the table nodes are registered all the same. */
START_TEST(table_full) {
        _cleanup_(stored_freep) Stored *stored = make_stored(0, MANY, 10);
        Node *a, *b, *c;

        table_format(&stored->table, stored->memory, (1 + 2) * TABLE_BLOCK_SIZE);
        a = add_stored(stored, "a", 6);
        b = add_stored(stored, "b", 6);
        c = add_stored(stored, "c", 6);
        ck_assert_uint_ne(node_slot(a), TABLE_NO_SLOT);
        ck_assert_uint_ne(node_slot(b), TABLE_NO_SLOT);
        ck_assert_uint_eq(node_slot(c), TABLE_NO_SLOT);
        check_lists(stored->registry, "c b a ", "");
        /* Creations continue behind theirs, too. */
        check_counter(stored, node_counter(c));
        registry_remove(stored->registry, c);
        check_lists(stored->registry, "b a ", "c ");
        ck_assert_uint_eq(count_records(&stored->table), 2);
        check_record(&stored->table, a, true);
        check_record(&stored->table, b, true);
        /* A released name has its room until it comes back. */
        registry_remove(stored->registry, a);
        c = add_stored(stored, "c", 6);
        ck_assert_uint_eq(node_slot(c), TABLE_NO_SLOT);
        ck_assert_uint_eq(count_records(&stored->table), 2);
        table_extend(&stored->table, stored->size);
        registry_remove(stored->registry, c);
        check_lists(stored->registry, "b ", "a c ");
        ck_assert_uint_ne(node_slot(add_stored(stored, "c", 6)), TABLE_NO_SLOT);
        check_table(stored);
}
END_TEST

START_TEST(without_table) {
        _cleanup_(registry_freep) Registry *registry = make_registry(0, MANY);
        Node *node = add(registry, "a");

        ck_assert_uint_eq(node_slot(node), TABLE_NO_SLOT);
        ck_assert_uint_eq(node_counter(node), 4);
        ck_assert_uint_eq(node_since(node), NOW);
}
END_TEST

/* What is forgotten leaves the table; what is remembered stays there. */
START_TEST(forgotten_names_are_erased) {
        _cleanup_(stored_freep) Stored *stored = make_stored(0, MANY, 1 + REGISTRY_RELEASED_MAX + 1);
        char name[16];

        for (unsigned i = 0; i < 3 * REGISTRY_RELEASED_MAX; i++) {
                Node *node = add_stored(stored, number_name(i, name), 6);

                if (node_slot(node) == TABLE_NO_SLOT)
                        ck_abort_msg("the table has no room for %s", name);
                registry_remove(stored->registry, node);
                if (i % 500 == 499)
                        check_table(stored);
        }
        ck_assert_uint_eq(count_records(&stored->table), REGISTRY_RELEASED_MAX);
}
END_TEST

/* ---- The table: what is made of it ---- */

typedef struct Row {
        const char *name;
        uint32_t counter;
        bool live; /* with a connection */
        int want;
} Row;

/* Writes a record as an earlier process has, with serials from 1 on. */
static uint32_t write_row(Stored *stored, const Row *row, uint64_t serial, bool live) {
        TableRecord record = {.info = make_info(row->name, 6), .serial = serial, .since = NOW + serial,
                              .counter = row->counter, .live = live};
        uint32_t slot = TABLE_NO_SLOT;

        record.cookie = cookie_for(&record.info);
        ck_assert_int_eq(table_put(&stored->table, &record, &slot), 0);
        return slot;
}

static int restore(Stored *stored, uint32_t slot, bool live, Node **ret) {
        uint8_t payload[TABLE_PAYLOAD_MAX];
        TableRecord record;
        Holder holder = {.connection = stored, .fd = 5};

        ck_assert_int_eq(table_get(&stored->table, slot, payload, &record), 0);
        holder.cookie = record.cookie;
        return registry_restore(stored->registry, slot, &record, live ? &holder : NULL, ret);
}

typedef struct Restoring {
        const char *label;
        Row rows[6];
        const char *live, *released; /* afterwards */
        size_t nodes_max;
} Restoring;

static const Restoring restorings[] = {
        {"nothing", {{0}}, "", "", 9},
        {"in their order", {{"a", 10, true, 0}, {"b", 11, true, 0}, {"c", 12, true, 0}}, "c b a ", "", 9},
        {"released ones between", {{"a", 10, false, 0}, {"b", 11, true, 0}, {"c", 12, false, 0}}, "b ", "a c ", 9},
        {"a name that has come back", {{"a", 10, false, 0}, {"b", 11, true, 0}, {"a", 12, true, 0}}, "a b ", "", 9},
        {"released twice", {{"a", 10, false, 0}, {"b", 11, false, 0}, {"a", 12, false, 0}}, "", "b a ", 9},
        {"a later one of a live name", {{"a", 10, true, 0}, {"a", 11, false, REGISTRY_TAKEN}}, "a ", "", 9},
        {"two live ones", {{"a", 10, true, 0}, {"a", 11, true, REGISTRY_TAKEN}, {"b", 12, true, 0}}, "b a ", "", 9},
        {"three of a name",
         {{"a", 10, false, 0}, {"a", 11, false, 0}, {"a", 12, true, 0}, {"a", 13, true, REGISTRY_TAKEN}}, "a ", "", 9},
        {"more than may be",
         {{"a", 10, true, 0}, {"b", 11, false, 0}, {"c", 12, true, 0}, {"d", 13, true, REGISTRY_FULL}},
         "c a ", "b ", 2},
        {"full, and taken", {{"a", 10, true, 0}, {"a", 11, true, REGISTRY_TAKEN}}, "a ", "", 1},
        {"released ones do not count", {{"a", 10, false, 0}, {"b", 11, false, 0}}, "", "a b ", 0},
};

START_TEST(restored) {
        const Restoring *row = &restorings[_i];
        _cleanup_(stored_freep) Stored *stored = make_stored(100, row->nodes_max, 10);
        uint64_t before = registry_revision(stored->registry);
        uint32_t slots[ARRAY_SIZE(row->rows)];
        size_t n = 0;

        for (; n < ARRAY_SIZE(slots) && row->rows[n].name; n++)
                slots[n] = write_row(stored, &row->rows[n], n + 1, row->rows[n].live);
        for (size_t i = 0; i < n; i++) {
                const Row *want = &row->rows[i];
                Node *none = (Node *) seed, *node = none;
                int r = restore(stored, slots[i], want->live, &node);

                if (r != want->want || (node != none) != (r == 0 && want->live))
                        ck_abort_msg("%s: record %zu: %d", row->label, i, r);
                if (node == none)
                        continue;
                ck_assert_uint_eq(node_slot(node), slots[i]);
                ck_assert_uint_eq(node_counter(node), want->counter);
                ck_assert_uint_eq(node_since(node), NOW + i + 1);
                ck_assert_int_eq(node_fd(node), 5);
                ck_assert_ptr_eq(node_holder(node), stored);
                ck_assert_uint_ne(registry_revision(stored->registry), before);
                before = registry_revision(stored->registry);
        }
        check_lists(stored->registry, row->live, row->released);
        check_table(stored);
        /* Whoever comes next is the newest, there as here, and gets a creation that nobody had. */
        if (registry_count(stored->registry) < row->nodes_max) {
                ck_assert_uint_eq(node_creation(add_stored(stored, "next", 6)), 101);
                check_table(stored);
        }
}
END_TEST

/* One that was registered, and has no connection any more, is a released name from then on. */
START_TEST(restored_as_released) {
        _cleanup_(stored_freep) Stored *stored = make_stored(100, MANY, 10);
        const Row row = {.name = "a", .counter = 10};
        uint32_t slot = write_row(stored, &row, 1, true);
        Node *node;

        ck_assert_int_eq(restore(stored, slot, false, NULL), 0);
        check_lists(stored->registry, "", "a ");
        check_table(stored);
        node = registry_oldest_released(stored->registry);
        ck_assert_ptr_null(node_holder(node));
        ck_assert_int_eq(node_fd(node), -1);
        ck_assert_uint_eq(node_creation(node), 10);
}
END_TEST

/* No more released names are remembered than at any other time. */
START_TEST(restored_beyond_limit) {
        enum { RECORDS = REGISTRY_RELEASED_MAX + 50 };
        _cleanup_(stored_freep) Stored *stored = make_stored(5000, MANY, RECORDS + 1);
        static uint32_t slots[RECORDS];
        char name[16];

        for (unsigned i = 0; i < RECORDS; i++)
                slots[i] = write_row(stored, &(Row){.name = number_name(i, name), .counter = 10 + i}, i + 1, false);
        for (unsigned i = 0; i < RECORDS; i++)
                ck_assert_int_eq(restore(stored, slots[i], false, NULL), 0);
        ck_assert_uint_eq(registry_released_count(stored->registry), REGISTRY_RELEASED_MAX);
        ck_assert_mem_eq(node_info(registry_oldest_released(stored->registry)).name, "node50", 6);
        check_table(stored);
}
END_TEST

typedef struct Place {
        uint64_t serial;
        uint32_t slot;
        bool live;
} Place;

static int compare_places(const void *a, const void *b) {
        const Place *x = a, *y = b;

        return x->serial < y->serial ? -1 : x->serial > y->serial;
}

/* What another process makes of the table as it is now. */
static Stored *rebuild(const Stored *stored, size_t max) {
        Stored *other = make_stored(0, 0, stored->size / TABLE_BLOCK_SIZE);
        Place *places = calloc(stored->table.n_blocks, sizeof *places);
        uint8_t payload[TABLE_PAYLOAD_MAX];
        size_t n = 0, damaged;
        TableRecord record;
        uint32_t counter;

        memcpy(other->memory, stored->memory, stored->size);
        other->registry = registry_free(other->registry);
        ck_assert_int_eq(table_open(&other->table, other->memory, other->size, &damaged), 0);
        ck_assert_uint_eq(damaged, 0);
        ck_assert(table_get_counter(&other->table, &counter));
        ck_assert_int_eq(registry_new(seed, counter, max, &other->table, &other->registry), 0);
        for (uint32_t slot = 1; slot < other->table.n_blocks; slot++)
                if (table_get(&other->table, slot, payload, &record) == 0)
                        places[n++] = (Place){.serial = record.serial, .slot = slot, .live = record.live};
        qsort(places, n, sizeof *places, compare_places);
        for (size_t i = 0; i < n; i++) {
                Node *node = NULL;
                int r = restore(other, places[i].slot, places[i].live, &node);

                if (r != 0)
                        ck_abort_msg("slot %u: %d", places[i].slot, r);
        }
        free(places);
        return other;
}

static int compare_names(const void *a, const void *b) {
        NodeInfo x = node_info(*(Node *const *) a), y = node_info(*(Node *const *) b);
        int r = memcmp(x.name, y.name, size_min(x.name_len, y.name_len));

        return r != 0 ? r : x.name_len - y.name_len;
}

static size_t sort_released(const Registry *registry, Node *nodes[REGISTRY_RELEASED_MAX]) {
        size_t n = 0;

        for (Node *node = registry_oldest_released(registry); node; node = registry_newer_released(node))
                nodes[n++] = node;
        qsort(nodes, n, sizeof *nodes, compare_names); /* NOLINT(bugprone-sizeof-expression): it sorts pointers */
        return n;
}

static void compare_rebuilt_node(const Node *a, const Node *b) {
        NodeInfo x = node_info(a), y = node_info(b);

        if (!same_info(&x, &y) || node_counter(a) != node_counter(b) || node_creation(a) != node_creation(b) ||
            node_since(a) != node_since(b) || node_slot(a) != node_slot(b))
                ck_abort_msg("%.*s is not the same in the registry made of the table", (int) x.name_len,
                             (const char *) x.name);
}

/* The same names in the same order, with all that is known of them, and the same released names. */
static void compare_rebuilt(const Stored *stored, size_t max) {
        static Node *released[2][REGISTRY_RELEASED_MAX];
        _cleanup_(stored_freep) Stored *other = rebuild(stored, max);
        Node *a = registry_newest(stored->registry), *b = registry_newest(other->registry);
        size_t n;

        ck_assert_uint_eq(registry_count(stored->registry), registry_count(other->registry));
        for (; a && b; a = registry_older(a), b = registry_older(b))
                compare_rebuilt_node(a, b);
        n = sort_released(stored->registry, released[0]);
        ck_assert_uint_eq(sort_released(other->registry, released[1]), n);
        for (size_t i = 0; i < n; i++)
                compare_rebuilt_node(released[0][i], released[1][i]);
        check_table(other);
}

/* Whoever registers afterwards gets what it would have got. */
START_TEST(creations_continue) {
        _cleanup_(stored_freep) Stored *stored = make_stored(UINT32_MAX - 30, MANY, 100), *other = NULL;
        uint64_t state = (uint64_t) _i;
        char name[16];

        for (unsigned i = 0; i < 200; i++) {
                uint16_t version = unit_random(&state) % 2 == 0 ? 6 : 5;
                Node *node = find(stored->registry, number_name(unit_random(&state) % 15, name));

                if (node)
                        registry_remove(stored->registry, node);
                else
                        add_stored(stored, name, version);
        }
        other = rebuild(stored, MANY);
        for (unsigned i = 0; i < 100; i++) {
                uint16_t version = unit_random(&state) % 2 == 0 ? 6 : 5;

                if (find(stored->registry, number_name(unit_random(&state) % 25, name)))
                        continue;
                ck_assert_uint_eq(node_creation(add_stored(stored, name, version)),
                                  node_creation(add_stored(other, name, version)));
        }
        compare_rebuilt(stored, MANY);
        compare_rebuilt(other, MANY);
}
END_TEST

/* ---- Any operations, compared with the simplest thing that could be right ---- */

enum { MODEL_NAMES = 1600, MODEL_NODES = 1200 };

typedef struct Model {
        unsigned live[MODEL_NODES], n_live;                 /* the newest last */
        unsigned released[REGISTRY_RELEASED_MAX], n_released; /* the oldest first */
        uint32_t creation[MODEL_NAMES]; /* the last one; 0: none that is remembered */
        Node *node[MODEL_NAMES];
} Model;

static void list_remove(unsigned *list, unsigned *n, unsigned value) {
        unsigned at = 0;

        while (at < *n && list[at] != value)
                at++;
        if (at == *n)
                return;
        memmove(list + at, list + at + 1, (*n - at - 1) * sizeof *list);
        (*n)--;
}

static void model_add(Model *model, Registry *registry, unsigned number, uint16_t version) {
        char name[16];
        NodeInfo info = make_info(number_name(number, name), version);
        Holder holder = {.connection = model, .fd = (int) number, .cookie = cookie_for(&info)};
        Node *node = NULL;
        int r = registry_add(registry, &info, &holder, NOW, &node);
        int want = model->node[number]              ? REGISTRY_TAKEN
                   : model->n_live == MODEL_NODES ? REGISTRY_FULL
                                                    : 0;

        if (r != want)
                ck_abort_msg("registering %s: %d, not %d", name, r, want);
        if (r != 0)
                return;
        if (!is_legal(version, node_creation(node)) || node_creation(node) == model->creation[number])
                ck_abort_msg("%s: creation %u", name, node_creation(node));
        list_remove(model->released, &model->n_released, number);
        model->live[model->n_live++] = number;
        model->creation[number] = node_creation(node);
        model->node[number] = node;
}

static void model_remove(Model *model, Registry *registry, unsigned number) {
        if (!model->node[number])
                return;
        registry_remove(registry, model->node[number]);
        model->node[number] = NULL;
        list_remove(model->live, &model->n_live, number);
        if (model->n_released == REGISTRY_RELEASED_MAX) {
                model->creation[model->released[0]] = 0;
                list_remove(model->released, &model->n_released, model->released[0]);
        }
        model->released[model->n_released++] = number;
}

static void compare_node(const Model *model, const Node *node, unsigned number, bool live) {
        NodeInfo info = node_info(node);
        char name[16];

        number_name(number, name);
        if (info.name_len != strlen(name) || memcmp(info.name, name, info.name_len) != 0)
                ck_abort_msg("%.*s stands in the place of %s", (int) info.name_len, (const char *) info.name, name);
        if (node_creation(node) != model->creation[number] || node_fd(node) != (int) number ||
            node_holder(node) != (live ? model : NULL) || (live && node != model->node[number]))
                ck_abort_msg("%s has other facts", name);
}

static void compare(const Model *model, const Registry *registry) {
        const Node *node = registry_newest(registry);

        for (unsigned i = model->n_live; i > 0; i--, node = registry_older(node)) {
                if (!node)
                        ck_abort_msg("%u live nodes are missing", i);
                compare_node(model, node, model->live[i - 1], true);
        }
        if (node || registry_count(registry) != model->n_live)
                ck_abort_msg("too many live nodes");
        node = registry_oldest_released(registry);
        for (unsigned i = 0; i < model->n_released; i++, node = registry_newer_released(node)) {
                if (!node)
                        ck_abort_msg("released nodes are missing from %u on", i);
                compare_node(model, node, model->released[i], false);
        }
        if (node || registry_released_count(registry) != model->n_released)
                ck_abort_msg("too many released nodes");
}

static void compare_finds(const Model *model, const Registry *registry) {
        for (unsigned number = 0; number < MODEL_NAMES; number++) {
                char name[16];

                if (find(registry, number_name(number, name)) != model->node[number])
                        ck_abort_msg("%s is not found as it should be", name);
        }
}

enum { MODEL_SEEDS = 6, MODEL_BLOCKS = 1 + MODEL_NODES + REGISTRY_RELEASED_MAX + 1 };

START_TEST(random_operations) {
        static Model model;
        /* Few names meet each other more often; many reach the limits. */
        const unsigned names = _i % 2 == 0 ? 12 : MODEL_NAMES;
        _cleanup_(stored_freep) Stored *stored = make_stored(UINT32_MAX - 5000, MODEL_NODES, MODEL_BLOCKS);
        uint64_t state = (uint64_t) _i + 1;

        memset(&model, 0, sizeof model);
        for (unsigned step = 0; step < 30000; step++) {
                /* It fills up, and empties again. */
                bool filling = step / 5000 % 2 == 0;
                unsigned number = unit_random(&state) % names;

                if (unit_random(&state) % 10 < (filling ? 8 : 2))
                        model_add(&model, stored->registry, number,
                                  versions[unit_random(&state) % ARRAY_SIZE(versions)]);
                else
                        model_remove(&model, stored->registry, number);
                if (names == 12 || step % 250 == 0)
                        compare(&model, stored->registry);
                if (step % 1000 == 999)
                        compare_rebuilt(stored, MODEL_NODES);
                if (step % 5000 == 4999)
                        compare_finds(&model, stored->registry);
        }
        check_table(stored);
}
END_TEST

int main(void) {
        Suite *suite = suite_create("registry");
        TCase *names = unit_case(suite, "names"), *creations = unit_case(suite, "creations"),
              *table = unit_case(suite, "table"), *model = unit_case(suite, "model");

        tcase_add_test(names, empty);
        tcase_add_test(names, order);
        tcase_add_test(names, what_a_node_said);
        tcase_add_test(names, longest_node);
        tcase_add_test(names, names_are_bytes);
        tcase_add_test(names, taken);
        tcase_add_loop_test(names, full, 0, ARRAY_SIZE(nodes_max));
        tcase_add_test(names, revision);
        tcase_add_test(names, released_limit);
        tcase_add_loop_test(creations, first_creation, 0, ARRAY_SIZE(firsts));
        tcase_add_loop_test(creations, returning_creation, 0, ARRAY_SIZE(starts) * ARRAY_SIZE(versions));
        tcase_add_test(creations, long_creations_differ);
        tcase_add_test(table, every_change_is_written);
        tcase_add_test(table, refusals_are_not_written);
        tcase_add_test(table, table_full);
        tcase_add_test(table, without_table);
        tcase_add_test(table, forgotten_names_are_erased);
        tcase_add_loop_test(table, restored, 0, ARRAY_SIZE(restorings));
        tcase_add_test(table, restored_as_released);
        tcase_add_test(table, restored_beyond_limit);
        tcase_add_loop_test(table, creations_continue, 0, 4);
        tcase_add_loop_test(model, random_operations, 0, MODEL_SEEDS);
        return unit_main(suite);
}
