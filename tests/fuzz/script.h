/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The language of the targets that fuzz several connections: bytes as operations. What can be said in few bytes is
 * what is worth trying; any request at all can be said in more. tests/fuzz/seeds writes it. */

#include "fuzz.h"
#include "proto.h"

enum {
        SCRIPT_CONNS = 8,
        SCRIPT_DATA_MAX = 2 * PROTO_PACKET_MAX,
};

typedef enum ScriptKind {
        SCRIPT_OPEN,
        SCRIPT_SEND,
        SCRIPT_CLOSE,
        SCRIPT_RESET,
        SCRIPT_HALF_CLOSE,
        SCRIPT_RESTART,
        SCRIPT_HOLD, /* the daemon does not see what comes before the next of these */
        SCRIPT_FAULT,
} ScriptKind;

/* Who is at the other end. */
typedef struct ScriptPeer {
        bool local;
        bool unix_socket;
        bool uid_known;
        uint32_t uid;
} ScriptPeer;

typedef struct ScriptOperation {
        ScriptKind kind;
        int conn;
        ScriptPeer peer; /* of SCRIPT_OPEN; else who it is that sends without it */
        size_t piece;    /* bytes that come together; 0: all */
        uint8_t fault;   /* of SCRIPT_FAULT */
        size_t n;        /* of SCRIPT_SEND */
        uint8_t data[SCRIPT_DATA_MAX];
} ScriptOperation;

/* The first byte of an operation: what, and on which connection. */
enum {
        SCRIPT_BYTE_OPEN,     /* flags */
        SCRIPT_BYTE_RAW,      /* n, bytes */
        SCRIPT_BYTE_PACKET,   /* piece, n of two bytes, body */
        SCRIPT_BYTE_REGISTER, /* name and version in one */
        SCRIPT_BYTE_ASK,      /* tag and name in one */
        SCRIPT_BYTE_END,      /* how */
        SCRIPT_BYTE_OTHER,    /* what */
        SCRIPT_BYTE_LONG,     /* name's length of two bytes, piece: a registration that is that long */
};

static inline ScriptPeer script_peer(uint8_t flags) {
        static const uint32_t uids[] = {0, 1000, 1001, 999};
        bool local = flags & 1;

        return (ScriptPeer){
                .local = local,
                .unix_socket = local && flags & 2,
                .uid_known = local && flags & 4,
                .uid = local && flags & 4 ? uids[flags >> 3 & 3] : 0,
        };
}

/* A packet around the body that was put behind its place. */
static inline void script_frame(ScriptOperation *op, size_t body) {
        op->data[0] = (uint8_t) (body >> 8);
        op->data[1] = (uint8_t) (body & 0xff);
        op->n = 2 + body;
}

/* A registration of a name of one letter, said n times. */
static inline void script_register(ScriptOperation *op, uint8_t letter, size_t n, uint8_t version, size_t extra) {
        Request request = {.tag = TAG_ALIVE2_REQ,
                           .node = {.port = letter, .type = 77, .highest_version = version, .lowest_version = 5}};
        uint8_t name[PROTO_NAME_BYTES_MAX + 8];
        WireWriter w = wire_writer(op->data, sizeof op->data);

        n = size_min(n, sizeof name);
        memset(name, letter, sizeof name);
        request.node.name = request.node.extra = name;
        request.node.name_len = (uint16_t) n;
        request.node.extra_len = (uint16_t) size_min(extra, sizeof name);
        proto_put_request(&w, &request);
        op->n = w.len;
}

static inline uint8_t script_letter(uint8_t byte) {
        return (uint8_t) "abcpqrst"[byte % 8];
}

static inline void script_ask(ScriptOperation *op, Input *input) {
        static const uint8_t tags[] = {'z', 'n', 'd', 'k', 's', 'x', 'z', 'n'};
        uint8_t byte = input_u8(input);

        op->data[2] = tags[byte % 8];
        op->data[3] = script_letter(byte >> 3);
        script_frame(op, op->data[2] == 'z' || op->data[2] == 's' ? 2 : 1);
}

static inline void script_take(ScriptOperation *op, size_t at, size_t n, Input *input) {
        const uint8_t *bytes = input_bytes(input, size_min(n, sizeof op->data - at), &n);

        if (n > 0)
                memcpy(op->data + at, bytes, n);
        op->n = at + n;
}

static inline void script_end(ScriptOperation *op, Input *input) {
        static const ScriptKind kinds[] = {SCRIPT_CLOSE, SCRIPT_RESET, SCRIPT_HALF_CLOSE};

        op->kind = kinds[input_u8(input) % 3];
}

static inline void script_other(ScriptOperation *op, Input *input) {
        static const ScriptKind kinds[] = {SCRIPT_RESTART, SCRIPT_HOLD, SCRIPT_FAULT};
        uint8_t byte = input_u8(input);

        op->kind = kinds[byte % 3];
        op->fault = byte / 3;
}

/* The next operation; false at the end of the input. */
static inline bool script_next(Input *input, ScriptOperation *op) {
        uint8_t byte = input_u8(input), number;
        size_t n;

        op->kind = SCRIPT_SEND;
        op->conn = byte >> 3 & 7;
        op->piece = op->n = 0;
        op->peer = script_peer(1);
        switch (byte & 7) {
        case SCRIPT_BYTE_OPEN:
                op->kind = SCRIPT_OPEN;
                op->peer = script_peer(input_u8(input));
                break;
        case SCRIPT_BYTE_RAW:
                script_take(op, 0, input_u8(input), input);
                break;
        case SCRIPT_BYTE_PACKET:
                op->piece = input_u8(input);
                script_take(op, 2, input_u16(input) % PROTO_PACKET_MAX, input);
                script_frame(op, op->n - 2);
                break;
        case SCRIPT_BYTE_REGISTER:
                number = input_u8(input);
                script_register(op, script_letter(number), 1U + (number >> 6), 4 + (number >> 3 & 3), number >> 5 & 1);
                break;
        case SCRIPT_BYTE_ASK:
                script_ask(op, input);
                break;
        case SCRIPT_BYTE_END:
                script_end(op, input);
                break;
        case SCRIPT_BYTE_OTHER:
                script_other(op, input);
                break;
        default:
                n = input_u16(input);
                number = input_u8(input);
                op->piece = number & 0xf8U;
                script_register(op, script_letter(number), n & 0x7ff, 6, n >> 11 << 6);
        }
        return byte != 0 || input_left(input) > 0;
}
