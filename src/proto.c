/* SPDX-License-Identifier: Apache-2.0 */
#include "proto.h"

#include <string.h>
#include <unistr.h>

/* Whether the bytes can be a node's name: not empty, within the limits, well-formed UTF-8. */
static bool name_is_text(const uint8_t *name, size_t n) {
        size_t ascii = 0, left;

        /* Most names are nothing else, and every look-up comes here. */
        while (ascii < n && name[ascii] < 0x80)
                ascii++;
        left = n - ascii;
        if (n == 0 || n > PROTO_NAME_BYTES_MAX || (left > 0 && u8_check(name + ascii, left)))
                return false;
        return ascii + (left > 0 ? u8_mbsnlen(name + ascii, left) : 0) <= PROTO_NAME_CHARS_MAX;
}

/* A control character in a registered name could forge lines of NAMES and of the log. */
static bool name_has_control(const uint8_t *name, size_t n) {
        for (size_t i = 0; i < n; i++)
                if (name[i] < 0x20 || name[i] == 0x7f)
                        return true;
        return false;
}

static int parse_alive2(WireReader *r, NodeInfo *ret) {
        NodeInfo node = {};
        size_t extra_len;

        node.port = wire_u16(r);
        node.type = wire_u8(r);
        node.protocol = wire_u8(r);
        node.highest_version = wire_u16(r);
        node.lowest_version = wire_u16(r);
        node.name_len = wire_u16(r);
        node.name = wire_bytes(r, node.name_len);
        extra_len = wire_u16(r);
        node.extra = wire_bytes(r, extra_len);
        /* What follows Extra is ignored, as upstream does. */
        if (r->failed || memchr(node.name, 0, node.name_len))
                return PROTO_MALFORMED;
        /* Upstream takes a body of 13 bytes, an empty name and nothing else, for a broken one. */
        if (node.name_len == 0 && extra_len == 0 && wire_left(r) == 0)
                return PROTO_MALFORMED;
        node.extra_len = (uint16_t) extra_len;
        *ret = node;
        if (!name_is_text(node.name, node.name_len) || name_has_control(node.name, node.name_len) ||
            extra_len > PROTO_EXTRA_MAX)
                return PROTO_UNACCEPTABLE;
        return 0;
}

/* The rest of the body is the name; older clients end it with a NUL. */
static void parse_rest_as_name(WireReader *r, NodeInfo *ret) {
        size_t n = wire_left(r);
        const uint8_t *name = wire_bytes(r, n);

        if (n > 0 && name[n - 1] == 0)
                n--;
        *ret = (NodeInfo){.name = name, .name_len = (uint16_t) n};
}

/* The name of STOP_REQ is all up to a NUL, as in a C string; what is behind it is ignored. */
static void parse_rest_as_string(WireReader *r, NodeInfo *ret) {
        size_t n = wire_left(r);
        const uint8_t *name = wire_bytes(r, n);

        *ret = (NodeInfo){.name = name, .name_len = (uint16_t) strnlen((const char *) name, n)};
}

/* Parses one request.
 *
 * body, n: the packet without its length, 1..PROTO_REQUEST_MAX bytes; *ret points into it.
 * Returns 0; PROTO_MALFORMED (an unknown tag too) with *ret untouched; PROTO_UNACCEPTABLE with *ret filled, for the
 * form of the error reply and for the log. */
int proto_parse_request(const uint8_t *body, size_t n, Request *ret) {
        WireReader reader = wire_reader(body, n);
        Request request = {.tag = wire_u8(&reader)};
        int r;

        if (reader.failed || n > PROTO_REQUEST_MAX)
                return PROTO_MALFORMED;
        switch (request.tag) {
        case TAG_ALIVE2_REQ:
                r = parse_alive2(&reader, &request.node);
                if (r == PROTO_MALFORMED)
                        return r;
                *ret = request;
                return r;
        case TAG_PORT2_REQ:
                parse_rest_as_name(&reader, &request.node);
                if (!name_is_text(request.node.name, request.node.name_len) ||
                    memchr(request.node.name, 0, request.node.name_len))
                        return PROTO_MALFORMED;
                break;
        case TAG_STOP_REQ:
                if (wire_left(&reader) == 0)
                        return PROTO_MALFORMED;
                parse_rest_as_string(&reader, &request.node);
                break;
        case TAG_NAMES_REQ:
        case TAG_DUMP_REQ:
        case TAG_KILL_REQ:
                break;
        default:
                return PROTO_MALFORMED;
        }
        *ret = request;
        return 0;
}

static void put_node(WireWriter *w, const NodeInfo *node) {
        wire_put_u16(w, node->port);
        wire_put_u8(w, node->type);
        wire_put_u8(w, node->protocol);
        wire_put_u16(w, node->highest_version);
        wire_put_u16(w, node->lowest_version);
        wire_put_u16(w, node->name_len);
        wire_put_bytes(w, node->name, node->name_len);
        wire_put_u16(w, node->extra_len);
        wire_put_bytes(w, node->extra, node->extra_len);
}

/* Writes a whole packet, length included. The writer fails when it does not fit. */
void proto_put_request(WireWriter *w, const Request *request) {
        const NodeInfo *node = &request->node;
        size_t n = 1;

        if (request->tag == TAG_ALIVE2_REQ)
                n += 12U + node->name_len + node->extra_len;
        else if (request->tag == TAG_PORT2_REQ || request->tag == TAG_STOP_REQ)
                n += node->name_len;
        if (n > PROTO_REQUEST_MAX) {
                w->failed = true;
                return;
        }
        wire_put_u16(w, (uint16_t) n);
        wire_put_u8(w, request->tag);
        if (request->tag == TAG_ALIVE2_REQ)
                put_node(w, node);
        else if (n > 1)
                wire_put_bytes(w, node->name, node->name_len);
}

/* The reply to ALIVE2_REQ. The node's highest version alone picks the form, for a refusal too.
 * creation: as proto_wire_creation() gives it, or PROTO_REFUSED_CREATION. */
void proto_put_alive2_reply(WireWriter *w, uint16_t highest_version, uint8_t result, uint32_t creation) {
        bool is_long = highest_version >= PROTO_VERSION_LONG_CREATION;

        wire_put_u8(w, is_long ? TAG_ALIVE2_X_RESP : TAG_ALIVE2_RESP);
        wire_put_u8(w, result);
        if (is_long)
                wire_put_u32(w, creation);
        else
                wire_put_u16(w, (uint16_t) creation);
}

/* The reply to PORT2_REQ; node is NULL when the name is not registered. */
void proto_put_port2_reply(WireWriter *w, const NodeInfo *node) {
        wire_put_u8(w, TAG_PORT2_RESP);
        wire_put_u8(w, node ? 0 : 1);
        if (!node)
                return;
        put_node(w, node);
}

static void put_text(WireWriter *w, const char *text) {
        wire_put_bytes(w, text, strlen(text));
}

/* Decimal without stdio: NAMES of 10,000 nodes is made of little else. */
static void put_decimal(WireWriter *w, unsigned v) {
        uint8_t digits[10];
        size_t at = sizeof digits;

        do {
                digits[--at] = (uint8_t) ('0' + v % 10);
                v /= 10;
        } while (v > 0);
        wire_put_bytes(w, digits + at, sizeof digits - at);
}

/* One line of the reply to NAMES_REQ, at most PROTO_NAMES_LINE_MAX bytes. */
void proto_put_names_line(WireWriter *w, const NodeInfo *node) {
        put_text(w, "name ");
        wire_put_bytes(w, node->name, node->name_len);
        put_text(w, " at port ");
        put_decimal(w, node->port);
        put_text(w, "\n");
}

/* One line of the reply to DUMP_REQ, at most PROTO_DUMP_LINE_MAX bytes, with the NUL that upstream sends.
 * active: registered now, else remembered; fd: the descriptor of its connection, now or then. */
void proto_put_dump_line(WireWriter *w, const NodeInfo *node, bool active, int fd) {
        put_text(w, active ? "active name     <" : "old/unused name <");
        wire_put_bytes(w, node->name, node->name_len);
        put_text(w, active ? "> at port " : ">, port = ");
        put_decimal(w, node->port);
        put_text(w, ", fd = ");
        put_decimal(w, fd < 0 ? 0 : (unsigned) fd);
        put_text(w, active ? "\n" : " \n");
        wire_put_u8(w, 0);
}

/* Reads the reply to ALIVE2_REQ, of either form. Returns 0, or PROTO_MALFORMED with the outputs untouched. */
int proto_parse_alive2_reply(const uint8_t *data, size_t n, uint8_t *ret_result, uint32_t *ret_creation) {
        WireReader reader = wire_reader(data, n);
        uint8_t tag = wire_u8(&reader), result = wire_u8(&reader);
        uint32_t creation = 0;

        if (tag == TAG_ALIVE2_X_RESP)
                creation = wire_u32(&reader);
        else if (tag == TAG_ALIVE2_RESP)
                creation = wire_u16(&reader);
        else
                return PROTO_MALFORMED;
        if (reader.failed)
                return PROTO_MALFORMED;
        *ret_result = result;
        *ret_creation = creation;
        return 0;
}

/* Reads the reply to PORT2_REQ. Returns 0 with *ret_result 0 and *ret pointing into data, or with another result
 * (not registered) and *ret untouched; PROTO_MALFORMED with both untouched. */
int proto_parse_port2_reply(const uint8_t *data, size_t n, uint8_t *ret_result, NodeInfo *ret) {
        WireReader reader = wire_reader(data, n);
        uint8_t tag = wire_u8(&reader), result = wire_u8(&reader);
        NodeInfo node = {};

        if (reader.failed || tag != TAG_PORT2_RESP)
                return PROTO_MALFORMED;
        if (result != 0) {
                *ret_result = result;
                return 0;
        }
        node.port = wire_u16(&reader);
        node.type = wire_u8(&reader);
        node.protocol = wire_u8(&reader);
        node.highest_version = wire_u16(&reader);
        node.lowest_version = wire_u16(&reader);
        node.name_len = wire_u16(&reader);
        node.name = wire_bytes(&reader, node.name_len);
        node.extra_len = wire_u16(&reader);
        node.extra = wire_bytes(&reader, node.extra_len);
        if (reader.failed)
                return PROTO_MALFORMED;
        *ret_result = result;
        *ret = node;
        return 0;
}

/* Reads the head of the reply to NAMES_REQ or DUMP_REQ, behind which there are lines: the port of the epmd. Another
 * protocol's greeting is no number of a port. Returns 0, or PROTO_MALFORMED with *ret_port untouched. */
int proto_parse_listing(const uint8_t *data, size_t n, uint16_t *ret_port) {
        WireReader reader = wire_reader(data, n);
        uint32_t port = wire_u32(&reader);

        if (reader.failed || port == 0 || port > UINT16_MAX)
                return PROTO_MALFORMED;
        *ret_port = (uint16_t) port;
        return 0;
}

/* Finds the last " at port " of a line: the name may contain the same words. */
static const uint8_t *find_port_words(const uint8_t *line, const uint8_t *end) {
        static const char words[] = " at port ";
        const size_t n = sizeof words - 1;

        if ((size_t) (end - line) < n)
                return NULL;
        for (const uint8_t *p = end - n; p >= line; p--)
                if (memcmp(p, words, n) == 0)
                        return p;
        return NULL;
}

/* Takes one line off the text of a NAMES reply (behind its four bytes of port).
 * at: where to read, moved behind the line; ret: name and port, pointing into the text.
 * Returns 0; PROTO_MALFORMED when no whole line is left or it is not of the form, with both untouched. */
int proto_parse_names_line(const uint8_t **at, const uint8_t *end, NodeInfo *ret) {
        static const char prefix[] = "name ";
        const size_t prefix_len = sizeof prefix - 1;
        const uint8_t *newline = memchr(*at, '\n', (size_t) (end - *at)), *name, *words;
        unsigned port = 0;

        if (!newline || (size_t) (newline - *at) < prefix_len || memcmp(*at, prefix, prefix_len) != 0)
                return PROTO_MALFORMED;
        name = *at + prefix_len;
        words = find_port_words(name, newline);
        if (!words || words == name || words - name > PROTO_NAME_BYTES_MAX)
                return PROTO_MALFORMED;
        if (words + strlen(" at port ") == newline)
                return PROTO_MALFORMED;
        for (const uint8_t *p = words + strlen(" at port "); p < newline; p++) {
                if (*p < '0' || *p > '9')
                        return PROTO_MALFORMED;
                port = port * 10 + (unsigned) (*p - '0');
                if (port > UINT16_MAX)
                        return PROTO_MALFORMED;
        }
        *ret = (NodeInfo){.name = name, .name_len = (uint16_t) (words - name), .port = (uint16_t) port};
        *at = newline + 1;
        return 0;
}

/* The creation that a node of this version gets for a value of the counter (never 0..3): the counter itself, or
 * 1..3 for nodes from before OTP 23, which know two bits. */
uint32_t proto_wire_creation(uint16_t highest_version, uint32_t counter) {
        return highest_version >= PROTO_VERSION_LONG_CREATION ? counter : counter % 3 + 1;
}

/* The protocol's own name of a request, for the log. */
const char *proto_tag_name(uint8_t tag) {
        switch (tag) {
        case TAG_ALIVE2_REQ:
                return "ALIVE2_REQ";
        case TAG_PORT2_REQ:
                return "PORT2_REQ";
        case TAG_NAMES_REQ:
                return "NAMES_REQ";
        case TAG_DUMP_REQ:
                return "DUMP_REQ";
        case TAG_KILL_REQ:
                return "KILL_REQ";
        case TAG_STOP_REQ:
                return "STOP_REQ";
        default:
                return "unknown request";
        }
}
