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
        Node *node = NULL;
        int r = registry_add(registry, &info, &(Holder){.connection = model, .fd = (int) number}, NOW, &node);
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

enum { MODEL_SEEDS = 6 };

START_TEST(random_operations) {
        static Model model;
        /* Few names meet each other more often; many reach the limits. */
        const unsigned names = _i % 2 == 0 ? 12 : MODEL_NAMES;
        _cleanup_(registry_freep) Registry *registry = make_registry(UINT32_MAX - 5000, MODEL_NODES);
        uint64_t state = (uint64_t) _i + 1;

        memset(&model, 0, sizeof model);
        for (unsigned step = 0; step < 30000; step++) {
                /* It fills up, and empties again. */
                bool filling = step / 5000 % 2 == 0;
                unsigned number = unit_random(&state) % names;

                if (unit_random(&state) % 10 < (filling ? 8 : 2))
                        model_add(&model, registry, number, versions[unit_random(&state) % ARRAY_SIZE(versions)]);
                else
                        model_remove(&model, registry, number);
                if (names == 12 || step % 250 == 0)
                        compare(&model, registry);
                if (step % 5000 == 4999)
                        compare_finds(&model, registry);
        }
}
END_TEST

int main(void) {
        Suite *suite = suite_create("registry");
        TCase *names = unit_case(suite, "names"), *creations = unit_case(suite, "creations"),
              *model = unit_case(suite, "model");

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
        tcase_add_loop_test(model, random_operations, 0, MODEL_SEEDS);
        return unit_main(suite);
}
