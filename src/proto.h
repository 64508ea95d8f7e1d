/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The EPMD protocol: bytes to requests and replies to bytes, in both directions. Pure: no descriptor, no memory of
 * its own, no clock, no log. The wire is described in the COMPATIBILITY section of epmd(1) and in the Erlang
 * distribution protocol. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wire.h"

enum {
        PROTO_LENGTH_SIZE = 2,    /* the length that precedes a request */
        PROTO_REQUEST_MAX = 3057, /* bytes of a request, tag included, without the length */
        PROTO_PACKET_MAX = PROTO_LENGTH_SIZE + PROTO_REQUEST_MAX,
        PROTO_NAME_BYTES_MAX = 1020,
        PROTO_NAME_CHARS_MAX = 255,
        PROTO_EXTRA_MAX = 1020,
        PROTO_PORT2_REPLY_MAX = 14 + PROTO_NAME_BYTES_MAX + PROTO_EXTRA_MAX, /* the largest fixed-size reply */
        PROTO_LISTING_HEAD = 4, /* bytes before the lines of a reply to NAMES_REQ or DUMP_REQ: the port of the epmd */
        PROTO_NAMES_LINE_MAX = 5 + PROTO_NAME_BYTES_MAX + 9 + 5 + 1,
        PROTO_DUMP_LINE_MAX = 17 + PROTO_NAME_BYTES_MAX + 10 + 5 + 7 + 11 + 3,
        PROTO_VERSION_LONG_CREATION = 6, /* from this HighestVersion on, creations have 32 bits */
        PROTO_REFUSED_CREATION = 99,     /* what the reply of a refused registration carries */
};

/* Tags of requests and replies. */
enum {
        TAG_ALIVE2_REQ = 'x',
        TAG_PORT2_REQ = 'z',
        TAG_NAMES_REQ = 'n',
        TAG_DUMP_REQ = 'd',
        TAG_KILL_REQ = 'k',
        TAG_STOP_REQ = 's',
        TAG_ALIVE2_X_RESP = 118,
        TAG_PORT2_RESP = 119,
        TAG_ALIVE2_RESP = 121,
};

/* What a node says of itself when it registers. The bytes belong to whoever made the struct. */
typedef struct NodeInfo {
        const uint8_t *name;
        const uint8_t *extra;
        uint16_t name_len;
        uint16_t extra_len;
        uint16_t port; /* distribution port */
        uint16_t highest_version;
        uint16_t lowest_version;
        uint8_t type;
        uint8_t protocol;
} NodeInfo;

typedef struct Request {
        uint8_t tag;
        NodeInfo node; /* ALIVE2_REQ: all of it; PORT2_REQ and STOP_REQ: the name; else empty */
} Request;

/* Outcomes of parsing. */
enum {
        PROTO_MALFORMED = 1, /* close without a reply */
        PROTO_UNACCEPTABLE,  /* ALIVE2_REQ only: well framed, but its name or Extra is not; gets the error reply */
};

int proto_parse_request(const uint8_t *body, size_t n, Request *ret);
void proto_put_request(WireWriter *w, const Request *request);

void proto_put_alive2_reply(WireWriter *w, uint16_t highest_version, uint8_t result, uint32_t creation);
void proto_put_port2_reply(WireWriter *w, const NodeInfo *node);
void proto_put_names_line(WireWriter *w, const NodeInfo *node);
void proto_put_dump_line(WireWriter *w, const NodeInfo *node, bool active, int fd);

int proto_parse_alive2_reply(const uint8_t *data, size_t n, uint8_t *ret_result, uint32_t *ret_creation);
int proto_parse_port2_reply(const uint8_t *data, size_t n, uint8_t *ret_result, NodeInfo *ret);
int proto_parse_listing(const uint8_t *data, size_t n, uint16_t *ret_port);
int proto_parse_names_line(const uint8_t **at, const uint8_t *end, NodeInfo *ret);

uint32_t proto_wire_creation(uint16_t highest_version, uint32_t counter);
const char *proto_tag_name(uint8_t tag);
