/* SPDX-License-Identifier: Apache-2.0 */

/* The daemon's side of the codec. The input is a request without its length. */

#include "fuzz.h"
#include "model.h"
#include "proto.h"

static bool lies_within(const uint8_t *at, size_t n, const uint8_t *data, size_t size) {
        return n == 0 || (at >= data && at + n <= data + size);
}

static bool is_same_text(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len) {
        return a_len == b_len && (a_len == 0 || memcmp(a, b, a_len) == 0);
}

static void check_same(const NodeInfo *a, const NodeInfo *b) {
        EXPECT(is_same_text(a->name, a->name_len, b->name, b->name_len));
        EXPECT(is_same_text(a->extra, a->extra_len, b->extra, b->extra_len));
        EXPECT(a->port == b->port && a->type == b->type && a->protocol == b->protocol);
        EXPECT(a->highest_version == b->highest_version && a->lowest_version == b->lowest_version);
}

/* What was parsed is written as a packet that parses to the same. */
static void check_there_and_back(const Request *request, int outcome) {
        uint8_t packet[PROTO_PACKET_MAX];
        WireWriter w = wire_writer(packet, sizeof packet);
        Request again;

        proto_put_request(&w, request);
        EXPECT(!w.failed && w.len > PROTO_LENGTH_SIZE);
        EXPECT((size_t) (packet[0] << 8 | packet[1]) == w.len - PROTO_LENGTH_SIZE);
        /* An empty name is told from none by what is ignored behind it, which is not written. */
        if (request->node.name_len + request->node.extra_len == 0 &&
            (request->tag == TAG_STOP_REQ || request->tag == TAG_ALIVE2_REQ))
                return;
        EXPECT(proto_parse_request(packet + PROTO_LENGTH_SIZE, w.len - PROTO_LENGTH_SIZE, &again) == outcome);
        EXPECT(again.tag == request->tag);
        check_same(&again.node, &request->node);
}

/* The replies about a node that can be registered fit where the daemon puts them, and say what it said. */
static void check_replies(const NodeInfo *node) {
        uint8_t data[PROTO_PORT2_REPLY_MAX], line[PROTO_DUMP_LINE_MAX], result = 9;
        WireWriter w = wire_writer(data, sizeof data), names = wire_writer(line, PROTO_NAMES_LINE_MAX), dump;
        const uint8_t *at = line;
        NodeInfo again;

        proto_put_port2_reply(&w, node);
        EXPECT(!w.failed);
        EXPECT(proto_parse_port2_reply(data, w.len, &result, &again) == 0 && result == 0);
        check_same(&again, node);
        proto_put_names_line(&names, node);
        EXPECT(!names.failed);
        EXPECT(proto_parse_names_line(&at, line + names.len, &again) == 0 && at == line + names.len);
        EXPECT(is_same_text(again.name, again.name_len, node->name, node->name_len) && again.port == node->port);
        for (int active = 0; active <= 1; active++) {
                dump = wire_writer(line, sizeof line);
                proto_put_dump_line(&dump, node, active, INT32_MAX);
                EXPECT(!dump.failed && line[dump.len - 1] == 0);
        }
}

static void check_creation(uint16_t highest_version, uint32_t counter) {
        uint32_t told = proto_wire_creation(highest_version, counter), creation = 0;
        uint8_t data[6], result = 9;
        WireWriter w = wire_writer(data, sizeof data);

        proto_put_alive2_reply(&w, highest_version, 0, told);
        EXPECT(!w.failed && w.len == (highest_version >= 6 ? 6 : 4));
        EXPECT(proto_parse_alive2_reply(data, w.len, &result, &creation) == 0 && result == 0 && creation == told);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        Request request = {.tag = 1};
        ModelRequest model;
        int r = proto_parse_request(data, size, &request);

        EXPECT(r == 0 || r == PROTO_MALFORMED || r == PROTO_UNACCEPTABLE);
        EXPECT((r == PROTO_MALFORMED) == (request.tag == 1));
        EXPECT(model_parse(data, size, &model) == (r == 0                 ? MODEL_FINE
                                                   : r == PROTO_MALFORMED ? MODEL_SILENT
                                                                          : MODEL_REFUSE));
        EXPECT(proto_tag_name(size > 0 ? data[0] : 0));
        if (r == PROTO_MALFORMED)
                return 0;
        EXPECT(request.tag == data[0]);
        EXPECT(lies_within(request.node.name, request.node.name_len, data, size));
        EXPECT(lies_within(request.node.extra, request.node.extra_len, data, size));
        EXPECT(is_same_text(request.node.name, request.node.name_len, model.name, model.name_len));
        EXPECT(is_same_text(request.node.extra, request.node.extra_len, model.extra, model.extra_len));
        check_there_and_back(&request, r);
        if (request.tag == TAG_ALIVE2_REQ && r == 0) {
                check_replies(&request.node);
                check_creation(request.node.highest_version, (uint32_t) request.node.port << 16 | 4);
        }
        return 0;
}
