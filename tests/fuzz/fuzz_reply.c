/* SPDX-License-Identifier: Apache-2.0 */

/* The client's side of the codec. The input is a reply, of whatever kind. */

#include "escape.h"
#include "fuzz.h"
#include "nodelist.h"
#include "proto.h"

static void try_alive2(const uint8_t *data, size_t size) {
        uint32_t creation = 0;
        uint8_t result = 0, again[6];
        WireWriter w = wire_writer(again, sizeof again);
        int r = proto_parse_alive2_reply(data, size, &result, &creation);

        EXPECT(r == 0 || r == PROTO_MALFORMED);
        EXPECT((r == 0) == ((size >= 6 && data[0] == TAG_ALIVE2_X_RESP) || (size >= 4 && data[0] == TAG_ALIVE2_RESP)));
        if (r != 0)
                return;
        proto_put_alive2_reply(&w, data[0] == TAG_ALIVE2_X_RESP ? 6 : 5, result, creation);
        EXPECT(!w.failed && memcmp(again, data, w.len) == 0);
}

static void try_port2(const uint8_t *data, size_t size) {
        uint8_t result = 0, again[16 + 2 * UINT16_MAX];
        WireWriter w = wire_writer(again, sizeof again);
        NodeInfo node = {};
        int r = proto_parse_port2_reply(data, size, &result, &node);

        EXPECT(r == 0 || r == PROTO_MALFORMED);
        if (r != 0)
                return;
        proto_put_port2_reply(&w, result == 0 ? &node : NULL);
        EXPECT(!w.failed && w.len <= size);
        EXPECT(result == 0 ? memcmp(again, data, w.len) == 0 : data[1] == result);
}

static void check_listed(const ListedNode *node) {
        char escaped[ESCAPED_NAME_MAX];

        EXPECT(node->name_len > 0 && node->name_len <= PROTO_NAME_BYTES_MAX && node->name[node->name_len] == 0);
        EXPECT(!memchr(node->name, '\n', node->name_len) && !node->detailed && !node->extra && !node->unit);
        (void) escape_text((const uint8_t *) node->name, node->name_len, escaped, sizeof escaped);
        EXPECT(strlen(escaped) >= node->name_len);
}

/* Details of every second node find their place, and nothing is lost or freed twice on the way. */
static void add_details(NodeList *names, const uint8_t *data, size_t size) {
        NodeList detailed = {};
        size_t found;

        EXPECT(nodelist_from_names(data, size, &detailed) == 0 && detailed.n == names->n);
        for (size_t i = 0; i < detailed.n; i += 2) {
                detailed.items[i].detailed = true;
                detailed.items[i].unit = fuzz_text("unit", 4);
        }
        found = nodelist_add_details(names, &detailed);
        EXPECT(found <= (names->n + 1) / 2 && detailed.n == names->n);
        for (size_t i = 0; i < names->n; i++) {
                found -= names->items[i].detailed;
                EXPECT(!names->items[i].detailed == !names->items[i].unit);
                EXPECT(names->items[i].name);
        }
        EXPECT(found == 0);
        nodelist_done(&detailed);
}

static void try_names(const uint8_t *data, size_t size) {
        size_t lines = 0;
        NodeList list;
        int r = nodelist_from_names(data, size, &list);

        EXPECT(r == 0 || r == NODELIST_MALFORMED);
        if (r != 0)
                return;
        for (size_t i = 4; i < size; i++)
                lines += data[i] == '\n' || i == size - 1;
        EXPECT(list.n + list.unreadable == lines && list.epmd_port > 0);
        for (size_t i = 0; i < list.n; i++)
                check_listed(&list.items[i]);
        add_details(&list, data, size);
        nodelist_done(&list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        try_alive2(data, size);
        try_port2(data, size);
        try_names(data, size);
        return 0;
}
