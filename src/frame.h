/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Puts one request together from however many pieces it arrives in. A request that arrives whole is used where it
 * was read; memory is spent only on one that did not, and only as much as its length says. Pure. */

#include <stddef.h>
#include <stdint.h>

#include "proto.h"

typedef struct Frame {
        uint8_t *packet; /* owned; what has arrived, once the length is known; room for want bytes */
        uint16_t got;    /* bytes that have arrived, the length's two included */
        uint16_t want;   /* bytes of the whole packet; 0 while the length is not known */
        uint8_t first;   /* the first byte of the length, when it came alone */
} Frame;

/* Outcomes. */
enum {
        FRAME_COMPLETE = 1, /* the request is there */
        FRAME_BAD_LENGTH,   /* 0, or more than PROTO_REQUEST_MAX */
        FRAME_TRAILING,     /* more bytes than the packet has, known together with its length */
};

void frame_done(Frame *frame);
void frame_space(Frame *frame, uint8_t scratch[PROTO_PACKET_MAX], uint8_t **ret_space, size_t *ret_size);
int frame_filled(Frame *frame, uint8_t scratch[PROTO_PACKET_MAX], size_t n, const uint8_t **ret_body, size_t *ret_n);
