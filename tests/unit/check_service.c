/* SPDX-License-Identifier: Apache-2.0 */
#include "service.h"

#include "unit.h"

static const uint8_t seed[SIPHASH_KEY_SIZE];

enum {
        COUNTER = 0x01020303, /* the first node gets 0x01020304, or 2 in the short form */
        OWN_PORT = 4369,
        REACHED_PORT = 4370,
};

/* The daemon in one of its states, with "alpha" registered or nothing. */
typedef struct World {
        Registry *registry;
        Service *service;
        Node *alpha;
} World;

static void *const alpha_holder = &(char){0}, *const other_holder = &(char){0};

static const uint8_t alpha_request[] = "x\x1b\x58\x4d\0\0\6\0\5\0\5alpha\0\2ex";

static int handle(World *world, const Peer *peer, Bytes body, Response *ret) {
        _cleanup_free_ uint8_t *copy = unit_copy(body.data, body.n);

        /* Nothing of what was there before may show through. */
        memset(ret, 0xa5, sizeof *ret);
        return service_handle(world->service, peer, copy, body.n, &(Holder){.connection = other_holder, .fd = 9}, NOW,
                              ret);
}

static Peer make_peer(bool local) {
        Peer peer = {.address = {.family = AF_INET, .port = 50000, .ip = {192, 0, 2, 1}},
                     .port_reached = REACHED_PORT,
                     .local = local};

        return peer;
}

static World make_world(bool relaxed, bool registered, size_t nodes_max) {
        static const Reserve nothing_reserved = {};
        const ServiceConfig config = {
                .relaxed = relaxed,
                .default_port = OWN_PORT,
                .user_nodes_max = nodes_max,
                .reserve = &nothing_reserved,
        };
        World world = {};
        Peer peer = make_peer(true);
        Response response;

        ck_assert_int_eq(registry_new(seed, COUNTER, nodes_max, NULL, &world.registry), 0);
        ck_assert_int_eq(service_new(world.registry, &config, &world.service), 0);
        if (registered) {
                ck_assert_int_eq(service_handle(world.service, &peer, alpha_request, sizeof alpha_request - 1,
                                                &(Holder){.connection = alpha_holder, .fd = 8}, NOW, &response),
                                 0);
                ck_assert_int_eq(response.verdict, VERDICT_REGISTERED);
                world.alpha = response.node;
        }
        return world;
}

static void world_done(World *world) {
        service_free(world->service);
        registry_free(world->registry);
}

/* ---- Every request in every state ---- */

typedef struct Want {
        Verdict verdict;
        Bytes data;
        const char *listing; /* the text behind data */
        Refusal refusal;
} Want;

/* The states: what is registered, and whether checks are relaxed. */
enum { EMPTY, ALPHA, EMPTY_RELAXED, ALPHA_RELAXED, STATES };

typedef struct Row {
        const char *label;
        uint8_t tag; /* in the response; 0: malformed */
        Bytes body;
        Want local[STATES], remote[STATES];
} Row;

#define SILENT {VERDICT_CLOSE, BYTES_INIT(""), NULL, REFUSAL_NONE}
#define REPLY(bytes) {VERDICT_CLOSE, BYTES_INIT(bytes), NULL, REFUSAL_NONE}
#define LISTING(text) {VERDICT_CLOSE, BYTES_INIT("\0\0\x11\x12"), text, REFUSAL_NONE}
#define REGISTERED(bytes) {VERDICT_REGISTERED, BYTES_INIT(bytes), NULL, REFUSAL_NONE}
#define REFUSED(why, bytes) {VERDICT_REFUSED, BYTES_INIT(bytes), NULL, why}
#define STOPS {VERDICT_STOP, BYTES_INIT("STOPPED"), NULL, REFUSAL_NONE}
#define EXITS {VERDICT_EXIT, BYTES_INIT("OK"), NULL, REFUSAL_NONE}
#define ALWAYS(want) {want, want, want, want}
#define NEVER ALWAYS(SILENT)

#define LONG_REFUSAL "v\1\0\0\0\x63"
#define SHORT_REFUSAL "y\1\0\x63"
#define FOUND REPLY("w\0\x1b\x58\x4d\0\0\6\0\5\0\5alpha\0\2ex")
#define UNKNOWN REPLY("w\1")
#define NAMES_TEXT "name alpha at port 7000\n"
#define DUMP_TEXT "active name     <alpha> at port 7000, fd = 8\n" /* and a NUL, which the comparison includes */

/* The second registration of a world gets the second creation. */
#define NEW_LONG {REGISTERED("v\0\1\2\3\4"), REGISTERED("v\0\1\2\3\5"), REGISTERED("v\0\1\2\3\4"), \
                  REGISTERED("v\0\1\2\3\5")}
#define NEW_SHORT {REGISTERED("y\0\0\2"), REGISTERED("y\0\0\3"), REGISTERED("y\0\0\2"), REGISTERED("y\0\0\3")}
#define TAKEN_LONG {REGISTERED("v\0\1\2\3\4"), REFUSED(REFUSAL_TAKEN, LONG_REFUSAL), REGISTERED("v\0\1\2\3\4"), \
                    REFUSED(REFUSAL_TAKEN, LONG_REFUSAL)}
#define TAKEN_SHORT {REGISTERED("y\0\0\2"), REFUSED(REFUSAL_TAKEN, SHORT_REFUSAL), REGISTERED("y\0\0\2"), \
                     REFUSED(REFUSAL_TAKEN, SHORT_REFUSAL)}

#define ALIVE2(version, name_and_extra) BYTES_INIT("x\0\1\x4d\0\0" version "\0\5\0" name_and_extra)

static const Row rows[] = {
        {"ALIVE2, version 6", 'x', ALIVE2("\6", "\4beta\0\0"), NEW_LONG, NEVER},
        {"ALIVE2, version 7", 'x', ALIVE2("\7", "\4beta\0\0"), NEW_LONG, NEVER},
        {"ALIVE2, version 5", 'x', ALIVE2("\5", "\4beta\0\0"), NEW_SHORT, NEVER},
        {"ALIVE2, version 0", 'x', ALIVE2("\0", "\4beta\0\0"), NEW_SHORT, NEVER},
        {"ALIVE2, bytes behind", 'x', ALIVE2("\6", "\4beta\0\0behind"), NEW_LONG, NEVER},
        {"ALIVE2, the same name", 'x', ALIVE2("\6", "\5alpha\0\0"), TAKEN_LONG, NEVER},
        {"ALIVE2, the same name, version 5", 'x', ALIVE2("\5", "\5alpha\0\0"), TAKEN_SHORT, NEVER},
        {"ALIVE2, control character", 'x', ALIVE2("\6", "\4be\na\0\0"), ALWAYS(REFUSED(REFUSAL_INVALID, LONG_REFUSAL)),
         NEVER},
        {"ALIVE2, control character, version 5", 'x', ALIVE2("\5", "\4be\na\0\0"),
         ALWAYS(REFUSED(REFUSAL_INVALID, SHORT_REFUSAL)), NEVER},
        {"ALIVE2, not UTF-8", 'x', ALIVE2("\6", "\1\377\0\0"), ALWAYS(REFUSED(REFUSAL_INVALID, LONG_REFUSAL)), NEVER},
        {"ALIVE2, empty name", 'x', ALIVE2("\6", "\0\0\1e"), ALWAYS(REFUSED(REFUSAL_INVALID, LONG_REFUSAL)), NEVER},
        {"ALIVE2, NUL in the name", 0, ALIVE2("\6", "\4be\0a\0\0"), NEVER, NEVER},
        {"ALIVE2, one byte too short", 0, ALIVE2("\6", "\4beta\0"), NEVER, NEVER},
        {"ALIVE2, nothing but the tag", 0, BYTES_INIT("x"), NEVER, NEVER},
        {"PORT2", 'z', BYTES_INIT("zalpha"), {UNKNOWN, FOUND, UNKNOWN, FOUND}, {UNKNOWN, FOUND, UNKNOWN, FOUND}},
        {"PORT2, a NUL behind", 'z', BYTES_INIT("zalpha\0"), {UNKNOWN, FOUND, UNKNOWN, FOUND},
         {UNKNOWN, FOUND, UNKNOWN, FOUND}},
        {"PORT2, unknown", 'z', BYTES_INIT("zalph"), ALWAYS(UNKNOWN), ALWAYS(UNKNOWN)},
        {"PORT2, bytes behind are of the name", 'z', BYTES_INIT("zalpha "), ALWAYS(UNKNOWN), ALWAYS(UNKNOWN)},
        {"PORT2, empty", 0, BYTES_INIT("z"), NEVER, NEVER},
        {"PORT2, two NULs", 0, BYTES_INIT("zalpha\0\0"), NEVER, NEVER},
        {"NAMES", 'n', BYTES_INIT("n"), {LISTING(""), LISTING(NAMES_TEXT), LISTING(""), LISTING(NAMES_TEXT)},
         {LISTING(""), LISTING(NAMES_TEXT), LISTING(""), LISTING(NAMES_TEXT)}},
        {"NAMES, bytes behind", 'n', BYTES_INIT("nmore"),
         {LISTING(""), LISTING(NAMES_TEXT), LISTING(""), LISTING(NAMES_TEXT)},
         {LISTING(""), LISTING(NAMES_TEXT), LISTING(""), LISTING(NAMES_TEXT)}},
        {"DUMP", 'd', BYTES_INIT("d"), {LISTING(""), LISTING(DUMP_TEXT), LISTING(""), LISTING(DUMP_TEXT)}, NEVER},
        {"DUMP, bytes behind", 'd', BYTES_INIT("dmore"),
         {LISTING(""), LISTING(DUMP_TEXT), LISTING(""), LISTING(DUMP_TEXT)}, NEVER},
        {"KILL", 'k', BYTES_INIT("k"), {EXITS, REPLY("NO"), EXITS, EXITS}, NEVER},
        {"KILL, bytes behind", 'k', BYTES_INIT("kmore"), {EXITS, REPLY("NO"), EXITS, EXITS}, NEVER},
        {"STOP", 's', BYTES_INIT("salpha"), {SILENT, SILENT, REPLY("NOEXIST"), STOPS}, NEVER},
        {"STOP, a NUL behind", 's', BYTES_INIT("salpha\0"), {SILENT, SILENT, REPLY("NOEXIST"), STOPS}, NEVER},
        {"STOP, unknown", 's', BYTES_INIT("sbeta"), {SILENT, SILENT, REPLY("NOEXIST"), REPLY("NOEXIST")}, NEVER},
        {"STOP, empty", 0, BYTES_INIT("s"), NEVER, NEVER},
        {"unknown tag", 0, BYTES_INIT("?"), NEVER, NEVER},
        {"reply for a request", 0, BYTES_INIT("v\0\1\2\3\4"), NEVER, NEVER},
        {"nothing", 0, BYTES_INIT(""), NEVER, NEVER},
};

static void check_listing(const Row *row, const Response *response, const char *want) {
        /* A line of DUMP ends with a NUL. */
        size_t n = want ? strlen(want) + (row->tag == 'd' && *want) : 0;

        ck_assert_msg(!response->listing == !want, "%s", row->label);
        if (want) {
                ck_assert_uint_eq(listing_size(response->listing), n);
                ck_assert_mem_eq(listing_data(response->listing), want, n);
        }
}

/* Which node the response is about: the new one, the one in its way, the one looked up or stopped. */
static void check_node(const Row *row, const World *world, const Response *response, bool allowed) {
        bool names_alpha = row->body.n > 5 && memmem(row->body.data, row->body.n, "alpha", 5) &&
                           !memchr(row->body.data, ' ', row->body.n);

        if (response->verdict == VERDICT_REGISTERED) {
                ck_assert_ptr_nonnull(response->node);
                ck_assert_ptr_eq(response->node, registry_newest(world->registry));
                ck_assert_ptr_eq(node_holder(response->node), other_holder);
                ck_assert_int_eq(node_fd(response->node), 9);
        } else
                ck_assert_msg(response->node == (allowed && row->tag && names_alpha ? world->alpha : NULL), "%s",
                              row->label);
}

static void check_row(const Row *row, bool local, int state) {
        const Want *want = local ? &row->local[state] : &row->remote[state];
        const bool relaxed = state >= EMPTY_RELAXED, registered = state == ALPHA || state == ALPHA_RELAXED;
        _cleanup_(world_done) World world = make_world(relaxed, registered, 100);
        Peer peer = make_peer(local);
        uint64_t revision = registry_revision(world.registry);
        Response response;

        ck_assert_int_eq(handle(&world, &peer, row->body, &response), 0);
        ck_assert_msg(response.verdict == want->verdict, "%s: verdict %d, not %d", row->label, response.verdict,
                      want->verdict);
        ck_assert_msg(response.refusal == want->refusal, "%s: refusal %d, not %d", row->label, response.refusal,
                      want->refusal);
        ck_assert_msg(response.len == want->data.n, "%s: %zu bytes of reply", row->label, response.len);
        ck_assert_msg(want->data.n == 0 || memcmp(response.data, want->data.data, want->data.n) == 0,
                      "%s: another reply", row->label);
        ck_assert_msg(response.request.tag == row->tag, "%s: tag %u", row->label, response.request.tag);
        check_listing(row, &response, want->listing);
        check_node(row, &world, &response, want->data.n > 0);
        /* Only a registration changes anything: STOP and KILL leave it to the caller. */
        ck_assert_int_eq(registry_revision(world.registry) != revision, want->verdict == VERDICT_REGISTERED);
        ck_assert_uint_eq(registry_count(world.registry),
                          (registered ? 1U : 0U) + (want->verdict == VERDICT_REGISTERED ? 1U : 0U));
}

START_TEST(local) {
        check_row(&rows[_i / STATES], true, _i % STATES);
}
END_TEST

START_TEST(remote) {
        check_row(&rows[_i / STATES], false, _i % STATES);
}
END_TEST

START_TEST(unknown_tags) {
        for (int state = 0; state < STATES; state++)
                for (unsigned tag = 0; tag <= 0xff; tag++) {
                        char body[] = {(char) tag, 'a'};
                        const Row row = {.label = "unknown tag", .body = {body, sizeof body}};

                        if (tag != 0 && strchr("xzndks", (int) tag))
                                continue;
                        check_row(&row, true, state);
                        check_row(&row, false, state);
                }
}
END_TEST

/* Whatever is cut off a request, the response is filled in, and no truncated registration is taken. */
START_TEST(truncated) {
        const Row *row = &rows[_i];

        for (size_t n = 0; n < row->body.n; n++) {
                _cleanup_(world_done) World world = make_world(false, true, 100);
                Peer peer = make_peer(true);
                Response response;

                ck_assert_int_eq(handle(&world, &peer, (Bytes){row->body.data, n}, &response), 0);
                ck_assert_uint_le(response.len, sizeof response.data);
                ck_assert_uint_le(response.refusal, REFUSAL_NO_MEMORY);
                if (row->body.data[0] == 'x' && n < 13) {
                        ck_assert_int_eq(response.verdict, VERDICT_CLOSE);
                        ck_assert_uint_eq(response.len, 0);
                        ck_assert_uint_eq(response.request.tag, 0);
                }
        }
}
END_TEST

/* ---- What the table has no room for ---- */

START_TEST(largest_reply) {
        _cleanup_(world_done) World world = make_world(false, false, 100);
        _cleanup_free_ uint8_t *body = malloc(13 + 1020 + 1020);
        Peer peer = make_peer(true);
        Response response;

        memcpy(body, "x\x1b\x58\x4d\0\0\6\0\5\3\xfc", 11);
        for (size_t i = 0; i < 255; i++)
                memcpy(body + 11 + 4 * i, "\360\237\220\260", 4);
        memcpy(body + 1031, "\3\xfc", 2);
        memset(body + 1033, 'e', 1020);
        ck_assert_int_eq(handle(&world, &peer, (Bytes){(char *) body, 2053}, &response), 0);
        ck_assert_int_eq(response.verdict, VERDICT_REGISTERED);
        body[10] = 'z';
        ck_assert_int_eq(handle(&world, &peer, (Bytes){(char *) body + 10, 1021}, &response), 0);
        ck_assert_uint_eq(response.len, PROTO_PORT2_REPLY_MAX);
        ck_assert_mem_eq(response.data, "w\0\x1b\x58\x4d\0\0\6\0\5\3\xfc", 12);
        ck_assert_mem_eq(response.data + 12, body + 11, 2042);
}
END_TEST

START_TEST(full) {
        _cleanup_(world_done) World world = make_world(false, true, 1);
        Peer peer = make_peer(true);
        Response response;

        ck_assert_int_eq(handle(&world, &peer, (Bytes) ALIVE2("\6", "\4beta\0\0"), &response), 0);
        ck_assert_int_eq(response.verdict, VERDICT_REFUSED);
        ck_assert_int_eq(response.refusal, REFUSAL_FULL);
        ck_assert_ptr_null(response.node);
        ck_assert_uint_eq(response.len, 6);
        ck_assert_mem_eq(response.data, LONG_REFUSAL, 6);
        ck_assert_int_eq(handle(&world, &peer, (Bytes) ALIVE2("\5", "\4beta\0\0"), &response), 0);
        ck_assert_int_eq(response.refusal, REFUSAL_FULL);
        ck_assert_uint_eq(response.len, 4);
        ck_assert_mem_eq(response.data, SHORT_REFUSAL, 4);
        /* Of a name that is taken, that is said. */
        ck_assert_int_eq(handle(&world, &peer, (Bytes) ALIVE2("\6", "\5alpha\0\0"), &response), 0);
        ck_assert_int_eq(response.refusal, REFUSAL_TAKEN);
}
END_TEST

/* The way the daemon deals with a holder that is gone: remove it, ask again. */
START_TEST(taken_then_free) {
        _cleanup_(world_done) World world = make_world(false, true, 100);
        Peer peer = make_peer(true);
        Response response;
        uint32_t before = node_creation(world.alpha);

        ck_assert_int_eq(handle(&world, &peer, (Bytes) ALIVE2("\6", "\5alpha\0\0"), &response), 0);
        ck_assert_int_eq(response.refusal, REFUSAL_TAKEN);
        ck_assert_ptr_eq(response.node, world.alpha);
        ck_assert_ptr_eq(node_holder(response.node), alpha_holder);
        registry_remove(world.registry, response.node);
        ck_assert_int_eq(handle(&world, &peer, (Bytes) ALIVE2("\6", "\5alpha\0\0"), &response), 0);
        ck_assert_int_eq(response.verdict, VERDICT_REGISTERED);
        ck_assert_int_eq(response.refusal, REFUSAL_NONE);
        ck_assert_uint_ne(node_creation(response.node), before);
        ck_assert_ptr_eq(node_holder(response.node), other_holder);
}
END_TEST

typedef struct Reached {
        sa_family_t family;
        uint16_t port_reached;
        Bytes port; /* the four bytes in NAMES and DUMP */
} Reached;

static const Reached reached[] = {
        {AF_INET, 4369, BYTES_INIT("\0\0\x11\x11")}, {AF_INET, 1, BYTES_INIT("\0\0\0\1")},
        {AF_INET, 65535, BYTES_INIT("\0\0\377\377")}, {AF_INET6, 4370, BYTES_INIT("\0\0\x11\x12")},
        {AF_UNIX, 0, BYTES_INIT("\0\0\x11\x11")}, /* by no port at all: the daemon's own */
};

START_TEST(port_of_listings) {
        const Reached *row = &reached[_i];
        _cleanup_(world_done) World world = make_world(false, true, 100);
        Peer peer = {.address = {.family = (uint8_t) row->family}, .port_reached = row->port_reached, .local = true};
        Response response;

        ck_assert_int_eq(handle(&world, &peer, BYTES("n"), &response), 0);
        ck_assert_uint_eq(response.len, 4);
        ck_assert_mem_eq(response.data, row->port.data, 4);
        ck_assert_int_eq(handle(&world, &peer, BYTES("d"), &response), 0);
        ck_assert_uint_eq(response.len, 4);
        ck_assert_mem_eq(response.data, row->port.data, 4);
}
END_TEST

static Listing *ask(World *world, const char *tag) {
        Peer peer = make_peer(true);
        Response response;

        ck_assert_int_eq(handle(world, &peer, (Bytes){tag, 1}, &response), 0);
        ck_assert_ptr_nonnull(response.listing);
        return response.listing;
}

static const char *const listing_tags[] = {"n", "d"};

/* One text for all who ask, until something changes. */
START_TEST(listing_is_shared) {
        const char *tag = listing_tags[_i], *other = listing_tags[1 - _i];
        _cleanup_(world_done) World world = make_world(false, true, 100);
        _cleanup_(listing_unrefp) Listing *kept = listing_ref(ask(&world, tag));
        size_t size = listing_size(kept);
        Listing *again;

        ck_assert_ptr_eq(ask(&world, tag), kept);
        ck_assert_ptr_ne(ask(&world, other), kept);
        ck_assert_ptr_eq(ask(&world, tag), kept);
        registry_remove(world.registry, world.alpha);
        again = ask(&world, tag);
        ck_assert_ptr_ne(again, kept);
        ck_assert_uint_eq(listing_revision(again), registry_revision(world.registry));
        ck_assert_uint_eq(listing_size(kept), size);
        ck_assert_ptr_nonnull(memmem(listing_data(kept), size, "alpha", 5));
        ck_assert_int_eq(memmem(listing_data(again), listing_size(again), "alpha", 5) != NULL, *tag == 'd');
}
END_TEST

/* Someone who still sends an old text does not need the service for it. */
START_TEST(listing_outlives_service) {
        World world = make_world(false, true, 100);
        Listing *kept = listing_ref(ask(&world, "n"));

        world_done(&world);
        ck_assert_uint_eq(listing_size(kept), strlen(NAMES_TEXT));
        ck_assert_mem_eq(listing_data(kept), NAMES_TEXT, strlen(NAMES_TEXT));
        listing_unref(kept);
        ck_assert_ptr_null(service_free(NULL));
}
END_TEST

START_TEST(refusal_texts) {
        static const Refusal refusals[] = {REFUSAL_NONE, REFUSAL_INVALID, REFUSAL_TAKEN, REFUSAL_FULL,
                                           REFUSAL_NO_MEMORY};

        for (size_t i = 0; i < ARRAY_SIZE(refusals); i++) {
                ck_assert_uint_gt(strlen(refusal_text(refusals[i])), 0);
                for (size_t j = 0; j < i; j++)
                        ck_assert_str_ne(refusal_text(refusals[i]), refusal_text(refusals[j]));
        }
}
END_TEST

int main(void) {
        Suite *suite = suite_create("service");
        TCase *requests = unit_case(suite, "requests"), *rest = unit_case(suite, "rest");

        tcase_add_loop_test(requests, local, 0, ARRAY_SIZE(rows) * STATES);
        tcase_add_loop_test(requests, remote, 0, ARRAY_SIZE(rows) * STATES);
        tcase_add_test(requests, unknown_tags);
        tcase_add_loop_test(requests, truncated, 0, ARRAY_SIZE(rows));
        tcase_add_test(rest, largest_reply);
        tcase_add_test(rest, full);
        tcase_add_test(rest, taken_then_free);
        tcase_add_loop_test(rest, port_of_listings, 0, ARRAY_SIZE(reached));
        tcase_add_loop_test(rest, listing_is_shared, 0, ARRAY_SIZE(listing_tags));
        tcase_add_test(rest, listing_outlives_service);
        tcase_add_test(rest, refusal_texts);
        return unit_main(suite);
}
