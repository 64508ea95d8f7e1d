/* SPDX-License-Identifier: Apache-2.0 */
#include "service.h"

#include <stdio.h>

#include "unit.h"

/* Whose name it is, how much one may have, and who may end what: every branch of what the service decides by users. */

static const uint8_t seed[SIPHASH_KEY_SIZE];

enum {
        ROOT = 0,
        DAEMON = 101, /* the daemon's own user */
        ALICE = 1001,
        BOB = 1002,
        UNKNOWN = -1,
        HIDDEN = -2, /* unknown where others are known */

        NODES_MAX = 12,
        USER_MAX = 3,
};

typedef struct World {
        Registry *registry;
        Service *service;
        Reserve reserve;
        char holders[64];
        size_t n_holders;
} World;

static bool no_user(const char *user, size_t n, uint32_t *ret) {
        (void) user;
        (void) n;
        (void) ret;
        return false;
}

static void make_world(World *world, bool relaxed, const char *reservations) {
        ServiceConfig config = {
                .relaxed = relaxed,
                .default_port = 4369,
                .own_uid = DAEMON,
                .user_nodes_max = USER_MAX,
                .reserve = &world->reserve,
        };
        const char *bad;
        size_t n;

        *world = (World){};
        ck_assert_int_eq(reserve_parse(reservations, no_user, &world->reserve, &bad, &n), 0);
        ck_assert_int_eq(registry_new(seed, 100, NODES_MAX, NULL, &world->registry), 0);
        ck_assert_int_eq(service_new(world->registry, &config, &world->service), 0);
}

static void world_done(World *world) {
        service_free(world->service);
        registry_free(world->registry);
        reserve_done(&world->reserve);
}

/* A user with a unit, or nobody known: then the uid means nothing, and is the one that would permit most. */
static Owner owner_of(int uid) {
        static const uint8_t unit[] = "node.service";

        if (uid == UNKNOWN)
                return (Owner){.uid = ROOT};
        if (uid == HIDDEN)
                return (Owner){.uid = ROOT, .hidden = true};
        return (Owner){.known = true, .uid = (uint32_t) uid, .unit = unit, .unit_len = sizeof unit - 1};
}

static void ask(World *world, int uid, const void *body, size_t n, bool local, Response *ret) {
        _cleanup_free_ uint8_t *copy = unit_copy(body, n);
        Peer peer = {.address = {.family = AF_INET, .port = 50000, .ip = {127, 0, 0, 1}}, .port_reached = 4369,
                     .local = local};
        Holder holder = {.connection = &world->holders[world->n_holders++ % sizeof world->holders], .fd = 9,
                         .owner = owner_of(uid)};

        memset(ret, 0xa5, sizeof *ret);
        ck_assert_int_eq(service_handle(world->service, &peer, copy, n, &holder, NOW, ret), 0);
}

/* As a node of version 6 does. */
static Response try_register(World *world, int uid, const char *name) {
        uint8_t body[64] = "x\x1b\x58\x4d\0\0\6\0\5\0";
        size_t n = strlen(name);
        Response response;

        body[10] = (uint8_t) n;
        memcpy(body + 11, name, n);
        ask(world, uid, body, n + 13, true, &response);
        return response;
}

static Node *registered(World *world, int uid, const char *name) {
        Response response = try_register(world, uid, name);

        ck_assert_msg(response.verdict == VERDICT_REGISTERED, "%s of %d: refusal %d", name, uid, response.refusal);
        ck_assert_int_eq(response.refusal, REFUSAL_NONE);
        ck_assert_uint_eq(response.len, 6);
        ck_assert_mem_eq(response.data, "v\0", 2);
        return response.node;
}

static Response refused(World *world, int uid, const char *name, Refusal why) {
        uint64_t revision = registry_revision(world->registry);
        Response response = try_register(world, uid, name);

        ck_assert_msg(response.verdict == VERDICT_REFUSED, "%s of %d is not refused", name, uid);
        ck_assert_msg(response.refusal == why, "%s of %d: refusal %d", name, uid, response.refusal);
        /* What upstream says of a name that is taken; a node knows no other. */
        ck_assert_uint_eq(response.len, 6);
        ck_assert_mem_eq(response.data, "v\1\0\0\0\x63", 6);
        ck_assert_uint_eq(registry_revision(world->registry), revision);
        return response;
}

static const int everyone[] = {UNKNOWN, HIDDEN, ROOT, DAEMON, ALICE, BOB};

/* ---- Reservations ---- */

/* Who may register which name, with alice's name, bob's prefix, and a user who does not exist. */
typedef struct Right {
        const char *name;
        bool unknown, root, daemon, alice, bob;
} Right;

#define RESERVATIONS "rabbit:1001 couch*:1002 couch_a:1001 gone:nobody"

static const Right rights[] = {
        {"free", true, true, true, true, true},
        {"rabbit", false, true, false, true, false},
        {"rabbit2", true, true, true, true, true},
        {"rabbi", true, true, true, true, true},
        {"couch", false, true, false, false, true},
        {"couchdb", false, true, false, false, true},
        {"couch_a", false, true, false, true, false},
        {"couch_ab", false, true, false, false, true},
        {"gone", false, true, false, false, false},
};

static bool has_right(const Right *row, int uid) {
        return uid < 0         ? row->unknown
               : uid == ROOT   ? row->root
               : uid == DAEMON ? row->daemon
               : uid == ALICE  ? row->alice
                               : row->bob;
}

START_TEST(reservations) {
        const Right *row = &rights[_i];

        for (size_t i = 0; i < ARRAY_SIZE(everyone); i++) {
                _cleanup_(world_done) World world;
                Response response;

                make_world(&world, false, RESERVATIONS);
                if (has_right(row, everyone[i])) {
                        registered(&world, everyone[i], row->name);
                        continue;
                }
                response = refused(&world, everyone[i], row->name, REFUSAL_RESERVED);
                ck_assert_ptr_eq(response.reservation,
                                 reserve_find(&world.reserve, (const uint8_t *) row->name, strlen(row->name)));
                ck_assert_ptr_nonnull(response.reservation);
                ck_assert_ptr_null(response.node);
        }
}
END_TEST

/* A reserved name is one name like any other to those who may have it, and to those who ask for it. */
START_TEST(reserved_and_taken) {
        _cleanup_(world_done) World world;
        Response response;
        Node *node;

        make_world(&world, false, RESERVATIONS);
        node = registered(&world, ALICE, "rabbit");
        ck_assert_ptr_eq(refused(&world, ALICE, "rabbit", REFUSAL_TAKEN).node, node);
        ck_assert_ptr_eq(refused(&world, ROOT, "rabbit", REFUSAL_TAKEN).node, node);
        /* Whether it is taken does not concern the others: nothing is done about its holder for their sake. */
        ck_assert_ptr_null(refused(&world, BOB, "rabbit", REFUSAL_RESERVED).node);
        ask(&world, BOB, "zrabbit", 7, false, &response);
        ck_assert_mem_eq(response.data, "w\0", 2);
        registry_remove(world.registry, node);
        refused(&world, BOB, "rabbit", REFUSAL_RESERVED);
        registered(&world, ROOT, "rabbit");
        refused(&world, ALICE, "rabbit", REFUSAL_TAKEN);
}
END_TEST

/* What was no registration before is none because of this. */
START_TEST(reserved_for_remote_peers) {
        static const uint8_t body[] = "x\x1b\x58\x4d\0\0\6\0\5\0\6rabbit\0";
        _cleanup_(world_done) World world;
        Response response;

        make_world(&world, false, RESERVATIONS);
        ask(&world, ROOT, body, sizeof body, false, &response);
        ck_assert_int_eq(response.verdict, VERDICT_CLOSE);
        ck_assert_uint_eq(response.len, 0);
        ck_assert_uint_eq(registry_count(world.registry), 0);
        refused(&world, ROOT, "rab\nbit", REFUSAL_INVALID);
}
END_TEST

/* ---- The quota ---- */

static void fill(World *world, int uid, const char *prefix, size_t n) {
        for (size_t i = 0; i < n; i++) {
                char name[32];

                (void) snprintf(name, sizeof name, "%s%zu", prefix, i);
                registered(world, uid, name);
        }
}

static size_t count_of(const World *world, int uid) {
        const Owner owner = owner_of(uid);

        return registry_count_of(world->registry, &owner);
}

START_TEST(quota_at_and_past_the_limit) {
        _cleanup_(world_done) World world;

        make_world(&world, false, "");
        fill(&world, ALICE, "a", USER_MAX - 1);
        ck_assert_uint_eq(count_of(&world, ALICE), USER_MAX - 1);
        registered(&world, ALICE, "last");
        ck_assert_uint_eq(count_of(&world, ALICE), USER_MAX);
        ck_assert_ptr_null(refused(&world, ALICE, "more", REFUSAL_QUOTA).node);
        ck_assert_uint_eq(count_of(&world, ALICE), USER_MAX);
        /* Each has one's own. */
        fill(&world, BOB, "b", USER_MAX);
        refused(&world, BOB, "more", REFUSAL_QUOTA);
        ck_assert_uint_eq(registry_count(world.registry), 2 * USER_MAX);
}
END_TEST

/* Neither root has one, nor anyone where nobody is known; the daemon's own user has, and those who hide, together. */
START_TEST(quota_of_whom) {
        static const struct {
                int uid;
                bool limited;
        } rows[] = {{ROOT, false}, {UNKNOWN, false}, {HIDDEN, true}, {DAEMON, true}, {ALICE, true}};
        _cleanup_(world_done) World world;

        make_world(&world, false, "");
        fill(&world, rows[_i].uid, "x", USER_MAX);
        if (rows[_i].limited) {
                refused(&world, rows[_i].uid, "more", REFUSAL_QUOTA);
                return;
        }
        fill(&world, rows[_i].uid, "more", NODES_MAX - USER_MAX);
        refused(&world, rows[_i].uid, "past", REFUSAL_FULL);
        refused(&world, ALICE, "past", REFUSAL_FULL);
        ck_assert_uint_eq(count_of(&world, UNKNOWN), 0);
}
END_TEST

/* What the known have is none of theirs, and what was registered while nobody was known is. */
START_TEST(quota_of_the_hidden) {
        _cleanup_(world_done) World world;
        Node *node;

        make_world(&world, false, "");
        fill(&world, ALICE, "a", USER_MAX);
        fill(&world, ROOT, "r", USER_MAX);
        node = registered(&world, UNKNOWN, "before");
        fill(&world, HIDDEN, "h", USER_MAX - 1);
        ck_assert_ptr_eq(refused(&world, HIDDEN, "before", REFUSAL_QUOTA).node, node);
        registry_remove(world.registry, node);
        registered(&world, HIDDEN, "last");
        refused(&world, HIDDEN, "more", REFUSAL_QUOTA);
        registered(&world, BOB, "bobs");
}
END_TEST

START_TEST(leaving_frees) {
        _cleanup_(world_done) World world;
        Node *node;

        make_world(&world, false, "");
        fill(&world, ALICE, "a", USER_MAX - 1);
        for (size_t turn = 0; turn < 5; turn++) {
                node = registered(&world, ALICE, turn % 2 == 0 ? "comes" : "goes");
                refused(&world, ALICE, "more", REFUSAL_QUOTA);
                registry_remove(world.registry, node);
                ck_assert_uint_eq(count_of(&world, ALICE), USER_MAX - 1);
        }
        registered(&world, ALICE, "more");
}
END_TEST

/* A node that restarts at once has its own name in its way: the caller is told, so that it can look at the holder. */
START_TEST(quota_and_taken) {
        _cleanup_(world_done) World world;
        Node *node;

        make_world(&world, false, "");
        node = registered(&world, ALICE, "restarts");
        ck_assert_ptr_eq(refused(&world, ALICE, "restarts", REFUSAL_TAKEN).node, node);
        fill(&world, ALICE, "a", USER_MAX - 1);
        ck_assert_ptr_eq(refused(&world, ALICE, "restarts", REFUSAL_QUOTA).node, node);
        registry_remove(world.registry, node);
        registered(&world, ALICE, "restarts");
}
END_TEST

/* What is not the user's counts for nothing: names that were released, refused, taken by others. */
START_TEST(quota_counts_the_registered) {
        _cleanup_(world_done) World world;

        make_world(&world, false, "reserved:0");
        registered(&world, BOB, "bobs");
        for (size_t i = 0; i < 2 * USER_MAX; i++) {
                refused(&world, ALICE, "bobs", REFUSAL_TAKEN);
                refused(&world, ALICE, "reserved", REFUSAL_RESERVED);
                refused(&world, ALICE, "a\nb", REFUSAL_INVALID);
                registry_remove(world.registry, registered(&world, ALICE, "passing"));
        }
        ck_assert_uint_eq(count_of(&world, ALICE), 0);
        fill(&world, ALICE, "a", USER_MAX);
        /* Of two reasons the one that will not pass. */
        refused(&world, ALICE, "reserved", REFUSAL_RESERVED);
        refused(&world, ALICE, "bobs", REFUSAL_QUOTA);
}
END_TEST

/* ---- KILL and STOP ---- */

/* Whose nodes are registered. */
typedef struct Set {
        int of[3];
        size_t n;
} Set;

static void register_set(World *world, const Set *set) {
        for (size_t i = 0; i < set->n; i++) {
                char name[] = {'n', (char) ('0' + i), 0};

                registered(world, set->of[i], name);
        }
}

typedef struct KillRow {
        const char *label;
        Set set;
        bool relaxed;
        bool unknown, root, daemon, alice, bob; /* may */
} KillRow;

static const KillRow kill_rows[] = {
        {"nothing", {.n = 0}, false, true, true, true, true, true},
        {"nothing, relaxed", {.n = 0}, true, true, true, true, true, true},
        /* Upstream's rule, which nobody is above. */
        {"alice's", {{ALICE}, 1}, false, false, false, false, false, false},
        {"root's", {{ROOT}, 1}, false, false, false, false, false, false},
        {"of nobody known", {{UNKNOWN}, 1}, false, false, false, false, false, false},
        {"alice's, relaxed", {{ALICE}, 1}, true, false, true, true, true, false},
        {"all alice's, relaxed", {{ALICE, ALICE, ALICE}, 3}, true, false, true, true, true, false},
        {"bob's last, relaxed", {{ALICE, ALICE, BOB}, 3}, true, false, true, true, false, false},
        {"bob's first, relaxed", {{BOB, ALICE, ALICE}, 3}, true, false, true, true, false, false},
        {"root's, relaxed", {{ROOT}, 1}, true, false, true, true, false, false},
        {"the daemon's, relaxed", {{DAEMON}, 1}, true, false, true, true, false, false},
        {"alice's and root's, relaxed", {{ALICE, ROOT}, 2}, true, false, true, true, false, false},
        /* Where nobody is known there are upstream's rules. */
        {"of nobody known, relaxed", {{UNKNOWN}, 1}, true, true, true, true, false, false},
        {"alice's and of nobody known, relaxed", {{ALICE, UNKNOWN}, 2}, true, false, true, true, false, false},
};

static bool may_kill(const KillRow *row, int uid) {
        return uid < 0         ? row->unknown
               : uid == ROOT   ? row->root
               : uid == DAEMON ? row->daemon
               : uid == ALICE  ? row->alice
                               : row->bob;
}

START_TEST(kill) {
        const KillRow *row = &kill_rows[_i];

        for (size_t i = 0; i < ARRAY_SIZE(everyone); i++) {
                bool may = may_kill(row, everyone[i]);
                _cleanup_(world_done) World world;
                Response response;

                make_world(&world, row->relaxed, "");
                register_set(&world, &row->set);
                ask(&world, everyone[i], "k", 1, true, &response);
                ck_assert_msg(response.verdict == (may ? VERDICT_EXIT : VERDICT_CLOSE), "%s: verdict %d for %d",
                              row->label, response.verdict, everyone[i]);
                ck_assert_uint_eq(response.len, 2);
                ck_assert_mem_eq(response.data, may ? "OK" : "NO", 2);
                /* Never from elsewhere, whoever it is. */
                ask(&world, everyone[i], "k", 1, false, &response);
                ck_assert_int_eq(response.verdict, VERDICT_CLOSE);
                ck_assert_uint_eq(response.len, 0);
                ck_assert_uint_eq(registry_count(world.registry), row->set.n);
        }
}
END_TEST

typedef struct StopRow {
        int of;                                 /* whose node */
        bool unknown, root, daemon, alice, bob; /* may */
} StopRow;

static const StopRow stop_rows[] = {
        {ROOT, false, true, false, false, false},
        {DAEMON, false, true, true, false, false},
        {ALICE, false, true, false, true, false},
        {BOB, false, true, false, false, true},
        {UNKNOWN, true, true, true, true, true},
};

static bool may_stop(const StopRow *row, int uid) {
        return uid < 0         ? row->unknown
               : uid == ROOT   ? row->root
               : uid == DAEMON ? row->daemon
               : uid == ALICE  ? row->alice
                               : row->bob;
}

static void check_stop(const StopRow *row, int uid, bool relaxed, bool local) {
        bool allowed = relaxed && local, may = allowed && may_stop(row, uid);
        _cleanup_(world_done) World world;
        Response response;
        Node *node;

        make_world(&world, relaxed, "");
        registered(&world, ALICE, "other");
        node = registered(&world, row->of, "node");
        ask(&world, uid, "snode", 5, local, &response);
        ck_assert_msg(response.verdict == (may ? VERDICT_STOP : VERDICT_CLOSE), "node of %d: verdict %d for %d", row->of,
                      response.verdict, uid);
        /* Who may not is told nothing at all. */
        ck_assert_uint_eq(response.len, may ? 7 : 0);
        if (may) {
                ck_assert_mem_eq(response.data, "STOPPED", 7);
                ck_assert_ptr_eq(response.node, node);
        }
        ck_assert_uint_eq(registry_count(world.registry), 2);
        ask(&world, uid, "snobody", 7, local, &response);
        ck_assert_int_eq(response.verdict, VERDICT_CLOSE);
        ck_assert_uint_eq(response.len, allowed ? 7 : 0);
        ck_assert_mem_eq(response.data, "NOEXIST", response.len);
}

START_TEST(stop) {
        const StopRow *row = &stop_rows[_i];

        for (size_t i = 0; i < ARRAY_SIZE(everyone); i++) {
                check_stop(row, everyone[i], true, true);
                check_stop(row, everyone[i], false, true);
                check_stop(row, everyone[i], true, false);
        }
}
END_TEST

/* ---- Who is kept with the record ---- */

START_TEST(the_owner_is_kept) {
        for (size_t i = 0; i < ARRAY_SIZE(everyone); i++) {
                const Owner want = owner_of(everyone[i]);
                _cleanup_(world_done) World world;
                Owner owner;

                make_world(&world, false, "");
                owner = node_owner(registered(&world, everyone[i], "node"));
                ck_assert_int_eq(owner.known, want.known);
                if (!want.known)
                        continue;
                ck_assert_uint_eq(owner.uid, want.uid);
                ck_assert_uint_eq(owner.unit_len, want.unit_len);
                ck_assert_mem_eq(owner.unit, want.unit, want.unit_len);
        }
}
END_TEST

START_TEST(texts_of_refusals) {
        for (Refusal refusal = REFUSAL_NONE; refusal <= REFUSAL_NO_MEMORY; refusal++) {
                ck_assert_uint_gt(strlen(refusal_text(refusal)), 0);
                for (Refusal other = REFUSAL_NONE; other < refusal; other++)
                        ck_assert_str_ne(refusal_text(refusal), refusal_text(other));
        }
}
END_TEST

int main(void) {
        Suite *suite = suite_create("policy");
        TCase *names = unit_case(suite, "names"), *quota = unit_case(suite, "quota"), *ends = unit_case(suite, "ends");

        tcase_add_loop_test(names, reservations, 0, ARRAY_SIZE(rights));
        tcase_add_test(names, reserved_and_taken);
        tcase_add_test(names, reserved_for_remote_peers);
        tcase_add_test(names, the_owner_is_kept);
        tcase_add_test(names, texts_of_refusals);
        tcase_add_test(quota, quota_at_and_past_the_limit);
        tcase_add_loop_test(quota, quota_of_whom, 0, 5);
        tcase_add_test(quota, quota_of_the_hidden);
        tcase_add_test(quota, leaving_frees);
        tcase_add_test(quota, quota_and_taken);
        tcase_add_test(quota, quota_counts_the_registered);
        tcase_add_loop_test(ends, kill, 0, ARRAY_SIZE(kill_rows));
        tcase_add_loop_test(ends, stop, 0, ARRAY_SIZE(stop_rows));
        return unit_main(suite);
}
