/* SPDX-License-Identifier: Apache-2.0 */
#include "frame.h"

#include "unit.h"

/* What came of feeding bytes to a frame. */
typedef struct Fed {
        int outcome;
        size_t taken;   /* bytes that it took */
        uint8_t *body;  /* of FRAME_COMPLETE: a copy */
        size_t body_n;
} Fed;

static void fed_done(Fed *fed) {
        free(fed->body);
}

/* Gives the frame n bytes as one recv() would: no more than it asks for, into a scratch that is new each time, as
 * that of a daemon that serves others in between. */
static int feed_once(Frame *frame, const uint8_t *data, size_t n, Fed *fed) {
        _cleanup_free_ uint8_t *scratch = malloc(PROTO_PACKET_MAX);
        const uint8_t *body = NULL;
        uint8_t *space = NULL;
        size_t size = 0, body_n = 0;

        memset(scratch, 0xee, PROTO_PACKET_MAX);
        frame_space(frame, scratch, &space, &size);
        if (size == 0)
                ck_abort_msg("a frame that is not complete asks for nothing");
        n = size_min(n, size);
        memcpy(space, data, n);
        fed->taken += n;
        fed->outcome = frame_filled(frame, scratch, n, &body, &body_n);
        if (fed->outcome == FRAME_COMPLETE) {
                fed->body = unit_copy(body, body_n);
                fed->body_n = body_n;
        }
        return fed->outcome;
}

/* Gives the frame a piece of the stream, in as many turns as it asks for. */
static int feed(Frame *frame, const uint8_t *data, size_t n, Fed *fed) {
        size_t before = fed->taken;

        while (fed->taken - before < n && fed->outcome == 0)
                (void) feed_once(frame, data + (fed->taken - before), n - (fed->taken - before), fed);
        return fed->outcome;
}

static uint8_t *make_packet(size_t length, size_t more) {
        size_t n = PROTO_LENGTH_SIZE + length + more;
        uint8_t *packet = malloc(n);

        packet[0] = (uint8_t) (length >> 8);
        packet[1] = (uint8_t) (length & 0xff);
        for (size_t i = PROTO_LENGTH_SIZE; i < n; i++)
                packet[i] = (uint8_t) (i * 7 + 1);
        return packet;
}

static void check_complete(const Fed *fed, const uint8_t *packet, size_t length, size_t split) {
        if (fed->outcome != FRAME_COMPLETE || fed->body_n != length ||
            memcmp(fed->body, packet + PROTO_LENGTH_SIZE, length) != 0)
                ck_abort_msg("length %zu, split at %zu: outcome %d, %zu bytes", length, split, fed->outcome,
                             fed->body_n);
        if (fed->taken != PROTO_LENGTH_SIZE + length)
                ck_abort_msg("length %zu, split at %zu: %zu bytes taken", length, split, fed->taken);
}

static const size_t lengths[] = {1, 2, 3, 13, 255, 256, 257, PROTO_REQUEST_MAX - 1, PROTO_REQUEST_MAX};

START_TEST(in_one_piece) {
        const size_t length = lengths[_i];
        _cleanup_free_ uint8_t *packet = make_packet(length, 0);
        _cleanup_(fed_done) Fed fed = {};
        Frame frame = {};

        (void) feed_once(&frame, packet, PROTO_LENGTH_SIZE + length, &fed);
        check_complete(&fed, packet, length, 0);
        /* What comes whole costs no memory. */
        ck_assert_ptr_null(frame.packet);
        frame_done(&frame);
}
END_TEST

START_TEST(split_at_each_byte) {
        const size_t length = lengths[_i], n = PROTO_LENGTH_SIZE + length;
        _cleanup_free_ uint8_t *packet = make_packet(length, 0);

        for (size_t split = 1; split < n; split++) {
                _cleanup_(fed_done) Fed fed = {};
                Frame frame = {};

                if (feed(&frame, packet, split, &fed) != 0)
                        ck_abort_msg("length %zu, split at %zu: complete too early", length, split);
                (void) feed(&frame, packet + split, n - split, &fed);
                check_complete(&fed, packet, length, split);
                frame_done(&frame);
        }
}
END_TEST

START_TEST(byte_by_byte) {
        const size_t length = lengths[_i], n = PROTO_LENGTH_SIZE + length;
        _cleanup_free_ uint8_t *packet = make_packet(length, 0);
        _cleanup_(fed_done) Fed fed = {};
        Frame frame = {};

        for (size_t i = 0; i < n; i++)
                if (feed_once(&frame, packet + i, 1, &fed) != (i + 1 < n ? 0 : FRAME_COMPLETE))
                        ck_abort_msg("length %zu: outcome %d of byte %zu", length, fed.outcome, i);
        check_complete(&fed, packet, length, 1);
        frame_done(&frame);
}
END_TEST

/* Every way at all to cut eight bytes into pieces. */
START_TEST(every_split) {
        const size_t length = 6, n = PROTO_LENGTH_SIZE + length;
        _cleanup_free_ uint8_t *packet = make_packet(length, 0);

        for (unsigned cuts = 0; cuts < 1U << (n - 1); cuts++) {
                _cleanup_(fed_done) Fed fed = {};
                Frame frame = {};
                size_t from = 0;

                for (size_t i = 1; i <= n; i++)
                        if (i == n || cuts & 1U << (i - 1)) {
                                (void) feed(&frame, packet + from, i - from, &fed);
                                from = i;
                        }
                check_complete(&fed, packet, length, cuts);
                frame_done(&frame);
        }
}
END_TEST

typedef struct BadLength {
        uint8_t length[2];
        int outcome;
} BadLength;

static const BadLength bad_lengths[] = {
        {{0, 0}, FRAME_BAD_LENGTH},
        {{0, 1}, 0},
        {{PROTO_REQUEST_MAX >> 8, PROTO_REQUEST_MAX & 0xff}, 0},
        {{PROTO_REQUEST_MAX >> 8, (PROTO_REQUEST_MAX & 0xff) + 1}, FRAME_BAD_LENGTH},
        {{0x10, 0}, FRAME_BAD_LENGTH},
        {{0x80, 0}, FRAME_BAD_LENGTH},
        {{0xff, 0xff}, FRAME_BAD_LENGTH},
};

START_TEST(length_in_one_piece) {
        _cleanup_(fed_done) Fed fed = {};
        Frame frame = {};

        ck_assert_int_eq(feed_once(&frame, bad_lengths[_i].length, 2, &fed), bad_lengths[_i].outcome);
        frame_done(&frame);
}
END_TEST

START_TEST(length_in_two_pieces) {
        _cleanup_(fed_done) Fed fed = {};
        Frame frame = {};

        ck_assert_int_eq(feed_once(&frame, bad_lengths[_i].length, 1, &fed), 0);
        ck_assert_int_eq(feed_once(&frame, bad_lengths[_i].length + 1, 1, &fed), bad_lengths[_i].outcome);
        frame_done(&frame);
}
END_TEST

/* A bad length is bad whatever follows it. */
START_TEST(length_and_more) {
        _cleanup_free_ uint8_t *packet = make_packet(0, 20);
        _cleanup_(fed_done) Fed fed = {};
        Frame frame = {};

        memcpy(packet, bad_lengths[_i].length, 2);
        ck_assert_int_eq(feed_once(&frame, packet, 22, &fed),
                         bad_lengths[_i].length[0] == 0 && bad_lengths[_i].length[1] == 1 ? FRAME_TRAILING
                                                                                          : bad_lengths[_i].outcome);
        frame_done(&frame);
}
END_TEST

static const size_t trailing_lengths[] = {1, 2, 13, 256, PROTO_REQUEST_MAX - 1};

/* One byte behind the packet, there when the length becomes known, be it with its first or its second byte. */
START_TEST(trailing) {
        const size_t length = trailing_lengths[_i], n = PROTO_LENGTH_SIZE + length + 1;
        _cleanup_free_ uint8_t *packet = make_packet(length, 1);

        for (size_t first = 0; first <= 1; first++) {
                _cleanup_(fed_done) Fed fed = {};
                Frame frame = {};

                ck_assert_int_eq(feed(&frame, packet, first, &fed), 0);
                ck_assert_int_eq(feed(&frame, packet + first, n - first, &fed), FRAME_TRAILING);
                frame_done(&frame);
        }
}
END_TEST

/* Once the length is known, what comes behind the packet is not even asked for. */
START_TEST(later_bytes_are_left) {
        const size_t length = trailing_lengths[_i], n = PROTO_LENGTH_SIZE + length;
        _cleanup_free_ uint8_t *packet = make_packet(length, 1);

        for (size_t split = PROTO_LENGTH_SIZE; split < n; split++) {
                _cleanup_(fed_done) Fed fed = {};
                Frame frame = {};

                (void) feed(&frame, packet, split, &fed);
                (void) feed(&frame, packet + split, n + 1 - split, &fed);
                check_complete(&fed, packet, length, split);
                frame_done(&frame);
        }
}
END_TEST

/* The longest packet fills the scratch: no byte behind it can be seen. */
START_TEST(longest_leaves_no_space) {
        _cleanup_free_ uint8_t *packet = make_packet(PROTO_REQUEST_MAX, 1);
        _cleanup_(fed_done) Fed fed = {};
        Frame frame = {};

        (void) feed_once(&frame, packet, PROTO_PACKET_MAX + 1, &fed);
        check_complete(&fed, packet, PROTO_REQUEST_MAX, 0);
        frame_done(&frame);
}
END_TEST

/* What is asked for: a whole packet until the length is known, then what is missing of it. */
START_TEST(space) {
        const size_t length = lengths[_i];
        _cleanup_free_ uint8_t *packet = make_packet(length, 0), *scratch = malloc(PROTO_PACKET_MAX);
        _cleanup_(fed_done) Fed fed = {};
        uint8_t *at = NULL;
        size_t size = 0;
        Frame frame = {};

        frame_space(&frame, scratch, &at, &size);
        ck_assert_ptr_eq(at, scratch);
        ck_assert_uint_eq(size, PROTO_PACKET_MAX);
        (void) feed_once(&frame, packet, 1, &fed);
        frame_space(&frame, scratch, &at, &size);
        ck_assert_ptr_eq(at, scratch + 1);
        ck_assert_uint_eq(size, PROTO_PACKET_MAX - 1);
        for (size_t got = 2; got < PROTO_LENGTH_SIZE + length; got++) {
                (void) feed_once(&frame, packet + got - 1, 1, &fed);
                frame_space(&frame, scratch, &at, &size);
                if (size != PROTO_LENGTH_SIZE + length - got)
                        ck_abort_msg("length %zu, %zu there: %zu asked for", length, got, size);
        }
        frame_done(&frame);
}
END_TEST

START_TEST(as_new_when_done) {
        static const Frame fresh;
        _cleanup_free_ uint8_t *packet = make_packet(20, 0);
        Frame frame = {};

        for (size_t stop = 0; stop <= 22; stop++) {
                _cleanup_(fed_done) Fed fed = {};

                (void) feed(&frame, packet, stop, &fed);
                frame_done(&frame);
                ck_assert_ptr_eq(frame.packet, fresh.packet);
                ck_assert_uint_eq(frame.got, 0);
                ck_assert_uint_eq(frame.want, 0);
                ck_assert_uint_eq(frame.first, 0);
                frame_done(&frame);
        }
}
END_TEST

int main(void) {
        Suite *suite = suite_create("frame");
        TCase *tcase = unit_case(suite, "frame");

        tcase_add_loop_test(tcase, in_one_piece, 0, ARRAY_SIZE(lengths));
        tcase_add_loop_test(tcase, split_at_each_byte, 0, ARRAY_SIZE(lengths));
        tcase_add_loop_test(tcase, byte_by_byte, 0, ARRAY_SIZE(lengths));
        tcase_add_test(tcase, every_split);
        tcase_add_loop_test(tcase, length_in_one_piece, 0, ARRAY_SIZE(bad_lengths));
        tcase_add_loop_test(tcase, length_in_two_pieces, 0, ARRAY_SIZE(bad_lengths));
        tcase_add_loop_test(tcase, length_and_more, 0, ARRAY_SIZE(bad_lengths));
        tcase_add_loop_test(tcase, trailing, 0, ARRAY_SIZE(trailing_lengths));
        tcase_add_loop_test(tcase, later_bytes_are_left, 0, ARRAY_SIZE(trailing_lengths));
        tcase_add_test(tcase, longest_leaves_no_space);
        tcase_add_loop_test(tcase, space, 0, ARRAY_SIZE(lengths));
        tcase_add_test(tcase, as_new_when_done);
        return unit_main(suite);
}
