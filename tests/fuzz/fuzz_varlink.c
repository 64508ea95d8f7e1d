/* SPDX-License-Identifier: Apache-2.0 */

/* Messages of clients of Varlink, whose JSON is theirs. The first byte of the input says how many nodes are
 * registered; the rest is messages, each ended by a NUL as on the wire. */

#include <jansson.h>

#include "fuzz.h"
#include "proto.h"
#include "varlink.h"

enum { NODES_MAX = 4 };

static const uint8_t seed[SIPHASH_KEY_SIZE];

/* A node with something of everything that has to be escaped or left out. */
static Node *add_node(Registry *registry, uint8_t number) {
        const uint8_t name[] = {'n', '"', '\\', 0xc3, 0xa9, (uint8_t) ('0' + number)};
        const uint8_t unit[] = {'u', number % 2 ? 0xff : 0x1b};
        const NodeInfo info = {.name = name,
                               .name_len = sizeof name,
                               .extra = name,
                               .extra_len = number,
                               .port = number,
                               .highest_version = 6};
        const Holder holder = {
                .fd = number,
                .owner = {.unit = unit, .unit_len = sizeof unit, .known = number % 2, .uid = UINT32_MAX - number}};
        Node *node = NULL;

        EXPECT(registry_add(registry, &info, &holder, UINT64_C(1700000000000000), &node) == 0);
        return node;
}

static const Address *peer_of(const Node *node) {
        static const Address peer = {.family = AF_INET6, .ip = {[15] = 1}};

        EXPECT(node_holder(node) == NULL);
        return &peer;
}

static void check_reply(const char *text, size_t n) {
        json_t *json;

        EXPECT(text && n > 1 && text[n - 1] == 0 && strlen(text) == n - 1);
        json = json_loadb(text, n - 1, JSON_REJECT_DUPLICATES, NULL);
        EXPECT(json_is_object(json) && json_is_object(json_object_get(json, "parameters")));
        if (json_object_get(json, "error"))
                EXPECT(json_is_string(json_object_get(json, "error")) && json_object_size(json) == 2);
        json_decref(json);
}

static void try_message(Varlink *varlink, const uint8_t *data, size_t n, uint64_t now) {
        static const Stats stats = {.lookups = UINT64_MAX};
        const VarlinkFacts facts = {
                .stats = &stats, .started = 1, .connections = 2, .now = now, .port = 4369, .peer_of = peer_of};
        char *copy = (char *) fuzz_copy(data, n), *reply = NULL;
        size_t reply_n = 0;
        int r = varlink_handle(varlink, &facts, copy, n, &reply, &reply_n);

        EXPECT(r == 0 || r == VARLINK_NO_REPLY || r == VARLINK_MALFORMED);
        EXPECT((r == 0) == (reply != NULL));
        if (r == 0)
                check_reply(reply, reply_n);
        free(reply);
        free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        Input input = input_of(data, size);
        Registry *registry = NULL;
        Varlink *varlink = NULL;
        uint64_t now = 0;
        uint8_t n;

        EXPECT(registry_new(seed, 0, NODES_MAX, NULL, &registry) == 0 && varlink_new(registry, &varlink) == 0);
        n = input_u8(&input) % NODES_MAX;
        for (uint8_t i = 0; i < n; i++)
                (void) add_node(registry, i);
        while (input_left(&input) > 0) {
                const uint8_t *end = memchr(input.at, 0, input_left(&input));
                size_t len = end ? (size_t) (end - input.at) : input_left(&input);

                try_message(varlink, input_bytes(&input, len, &len), len, now);
                (void) input_u8(&input);
                /* What is asked again is another registry each time, and at times late enough to be told so. */
                registry_remove(registry, add_node(registry, NODES_MAX));
                now += 20;
        }
        varlink_free(varlink);
        registry_free(registry);
        return 0;
}
