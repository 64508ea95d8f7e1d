/* SPDX-License-Identifier: Apache-2.0 */
#include "frame.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util.h"

/* Frees what the frame owns; it is as new afterwards. */
void frame_done(Frame *frame) {
        free(frame->packet);
        *frame = (Frame){};
}

/* Says where the next bytes of the connection are to be read to, and how many may be.
 *
 * scratch: any buffer; it need not be the same from call to call, only between this and frame_filled().
 * While the length is not known, up to a whole packet is asked for, so that bytes behind a short packet are seen;
 * afterwards no more than what is missing. */
void frame_space(Frame *frame, uint8_t scratch[PROTO_PACKET_MAX], uint8_t **ret_space, size_t *ret_size) {
        if (frame->want > 0) {
                *ret_space = frame->packet + frame->got;
                *ret_size = (size_t) (frame->want - frame->got);
                return;
        }
        scratch[0] = frame->first;
        *ret_space = scratch + frame->got;
        *ret_size = (size_t) (PROTO_PACKET_MAX - frame->got);
}

static int start_packet(Frame *frame, const uint8_t *scratch, const uint8_t **ret_body, size_t *ret_n) {
        size_t body = (size_t) (scratch[0] << 8 | scratch[1]), want = PROTO_LENGTH_SIZE + body;

        if (body == 0 || body > PROTO_REQUEST_MAX)
                return FRAME_BAD_LENGTH;
        if (frame->got > want)
                return FRAME_TRAILING;
        if (frame->got == want) {
                *ret_body = scratch + PROTO_LENGTH_SIZE;
                *ret_n = body;
                return FRAME_COMPLETE;
        }
        frame->packet = malloc(want);
        if (!frame->packet)
                return -ENOMEM;
        memcpy(frame->packet, scratch, frame->got);
        frame->want = (uint16_t) want;
        return 0;
}

/* Takes note of n bytes read to where frame_space() said.
 *
 * Returns 0: more are needed; FRAME_COMPLETE: *ret_body and *ret_n are the request, in scratch or in the frame;
 * FRAME_BAD_LENGTH; FRAME_TRAILING; -ENOMEM. */
int frame_filled(Frame *frame, uint8_t scratch[PROTO_PACKET_MAX], size_t n, const uint8_t **ret_body, size_t *ret_n) {
        frame->got = (uint16_t) (frame->got + n);
        if (frame->want > 0) {
                if (frame->got < frame->want)
                        return 0;
                *ret_body = frame->packet + PROTO_LENGTH_SIZE;
                *ret_n = (size_t) (frame->want - PROTO_LENGTH_SIZE);
                return FRAME_COMPLETE;
        }
        if (frame->got < PROTO_LENGTH_SIZE) {
                frame->first = scratch[0];
                return 0;
        }
        return start_packet(frame, scratch, ret_body, ret_n);
}
