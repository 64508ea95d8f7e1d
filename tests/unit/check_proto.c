/* SPDX-License-Identifier: Apache-2.0 */
#include "proto.h"

#include "unit.h"

/* A text of one unit many times over, so that the longest names fit in a table. */
typedef struct Text {
        const char *unit;
        size_t unit_len;
        size_t times;
} Text;

#define TIMES(n, literal) {.unit = (literal), .unit_len = sizeof(literal) - 1, .times = (n)}
#define TEXT(literal) TIMES(1, literal)
#define NO_TEXT {.unit = "", .unit_len = 0, .times = 0}

static size_t text_len(const Text *text) {
        return text->unit_len * text->times;
}

static void put_text(WireWriter *w, const Text *text) {
        for (size_t i = 0; i < text->times; i++)
                wire_put_bytes(w, text->unit, text->unit_len);
}

static bool text_equals(const Text *text, const uint8_t *data, size_t n) {
        if (n != text_len(text))
                return false;
        for (size_t i = 0; i < text->times; i++)
                if (memcmp(data + i * text->unit_len, text->unit, text->unit_len) != 0)
                        return false;
        return true;
}

static bool is_inside(const uint8_t *p, size_t n, const uint8_t *data, size_t size) {
        return p >= data && n <= size && p <= data + size - n;
}

/* ---- ALIVE2_REQ ---- */

enum { ALIVE2_FIXED = 13 }; /* tag, port, type, protocol, versions, both lengths */

typedef struct Alive2 {
        const char *label;
        int want;
        Text name, extra, tail;
        int name_lie, extra_lie; /* added to the true lengths */
} Alive2;

static const Alive2 alive2_rows[] = {
        {"plain", 0, TEXT("rabbit"), NO_TEXT, NO_TEXT, 0, 0},
        {"one byte of name", 0, TEXT("a"), NO_TEXT, NO_TEXT, 0, 0},
        {"extra", 0, TEXT("a"), TEXT("\0\1\377 any"), NO_TEXT, 0, 0},
        {"bytes behind extra", 0, TEXT("a"), TEXT("ex"), TEXT("behind"), 0, 0},
        {"space", 0, TEXT(" a b "), NO_TEXT, NO_TEXT, 0, 0},
        {"at sign, hyphen, tilde", 0, TEXT("a-b@c~"), NO_TEXT, NO_TEXT, 0, 0},
        {"a forged line, but for the newline", 0, TEXT("a at port 1 name b"), NO_TEXT, NO_TEXT, 0, 0},
        /* Limits of the name: 255 characters, 1020 bytes. */
        {"255 of one byte", 0, TIMES(255, "a"), NO_TEXT, NO_TEXT, 0, 0},
        {"256 of one byte", PROTO_UNACCEPTABLE, TIMES(256, "a"), NO_TEXT, NO_TEXT, 0, 0},
        {"255 of two bytes", 0, TIMES(255, "\303\270"), NO_TEXT, NO_TEXT, 0, 0},
        {"256 of two bytes", PROTO_UNACCEPTABLE, TIMES(256, "\303\270"), NO_TEXT, NO_TEXT, 0, 0},
        {"255 of four bytes", 0, TIMES(255, "\360\237\220\260"), NO_TEXT, NO_TEXT, 0, 0},
        {"256 of four bytes", PROTO_UNACCEPTABLE, TIMES(256, "\360\237\220\260"), NO_TEXT, NO_TEXT, 0, 0},
        {"1020 bytes, too many characters", PROTO_UNACCEPTABLE, TIMES(1020, "a"), NO_TEXT, NO_TEXT, 0, 0},
        {"1021 bytes", PROTO_UNACCEPTABLE, TIMES(1021, "a"), NO_TEXT, NO_TEXT, 0, 0},
        {"as long as a request", PROTO_UNACCEPTABLE, TIMES(PROTO_REQUEST_MAX - ALIVE2_FIXED, "a"), NO_TEXT, NO_TEXT,
         0, 0},
        /* Limit of Extra: 1020 bytes. */
        {"extra of 1020", 0, TEXT("a"), TIMES(1020, "e"), NO_TEXT, 0, 0},
        {"extra of 1021", PROTO_UNACCEPTABLE, TEXT("a"), TIMES(1021, "e"), NO_TEXT, 0, 0},
        {"longest of all", 0, TIMES(255, "\360\237\220\260"), TIMES(1020, "\377"), NO_TEXT, 0, 0},
        {"longest of all, and more", 0, TIMES(255, "\360\237\220\260"), TIMES(1020, "\377"),
         TIMES(PROTO_REQUEST_MAX - ALIVE2_FIXED - 2040, "t"), 0, 0},
        /* UTF-8: the last of each length and what is just not any more. */
        {"U+0080", 0, TEXT("\302\200"), NO_TEXT, NO_TEXT, 0, 0},
        {"U+07FF", 0, TEXT("\337\277"), NO_TEXT, NO_TEXT, 0, 0},
        {"U+0800", 0, TEXT("\340\240\200"), NO_TEXT, NO_TEXT, 0, 0},
        {"U+D7FF", 0, TEXT("\355\237\277"), NO_TEXT, NO_TEXT, 0, 0},
        {"U+E000", 0, TEXT("\356\200\200"), NO_TEXT, NO_TEXT, 0, 0},
        {"U+10000", 0, TEXT("\360\220\200\200"), NO_TEXT, NO_TEXT, 0, 0},
        {"U+10FFFF", 0, TEXT("\364\217\277\277"), NO_TEXT, NO_TEXT, 0, 0},
        {"overlong NUL", PROTO_UNACCEPTABLE, TEXT("\300\200"), NO_TEXT, NO_TEXT, 0, 0},
        {"overlong U+007F", PROTO_UNACCEPTABLE, TEXT("\301\277"), NO_TEXT, NO_TEXT, 0, 0},
        {"overlong U+07FF", PROTO_UNACCEPTABLE, TEXT("\340\237\277"), NO_TEXT, NO_TEXT, 0, 0},
        {"overlong U+FFFF", PROTO_UNACCEPTABLE, TEXT("\360\217\277\277"), NO_TEXT, NO_TEXT, 0, 0},
        {"surrogate U+D800", PROTO_UNACCEPTABLE, TEXT("\355\240\200"), NO_TEXT, NO_TEXT, 0, 0},
        {"surrogate U+DFFF", PROTO_UNACCEPTABLE, TEXT("\355\277\277"), NO_TEXT, NO_TEXT, 0, 0},
        {"U+110000", PROTO_UNACCEPTABLE, TEXT("\364\220\200\200"), NO_TEXT, NO_TEXT, 0, 0},
        {"five bytes", PROTO_UNACCEPTABLE, TEXT("\370\210\200\200\200"), NO_TEXT, NO_TEXT, 0, 0},
        {"stray continuation", PROTO_UNACCEPTABLE, TEXT("a\200"), NO_TEXT, NO_TEXT, 0, 0},
        {"Latin-1", PROTO_UNACCEPTABLE, TEXT("n\370d"), NO_TEXT, NO_TEXT, 0, 0},
        {"byte 255", PROTO_UNACCEPTABLE, TEXT("\377"), NO_TEXT, NO_TEXT, 0, 0},
        {"cut after one of two", PROTO_UNACCEPTABLE, TEXT("a\303"), NO_TEXT, NO_TEXT, 0, 0},
        {"cut after two of three", PROTO_UNACCEPTABLE, TEXT("a\342\202"), NO_TEXT, NO_TEXT, 0, 0},
        /* Extra completes no character of the name. */
        {"continued in extra", PROTO_UNACCEPTABLE, TEXT("a\303"), TEXT("\270"), NO_TEXT, 0, 0},
        /* An empty name is refused; with nothing behind it, it is as short as upstream's broken one. */
        {"empty, 13 bytes", PROTO_MALFORMED, NO_TEXT, NO_TEXT, NO_TEXT, 0, 0},
        {"empty, extra", PROTO_UNACCEPTABLE, NO_TEXT, TEXT("e"), NO_TEXT, 0, 0},
        {"empty, bytes behind", PROTO_UNACCEPTABLE, NO_TEXT, NO_TEXT, TEXT("t"), 0, 0},
        /* A NUL is a broken request, whatever else is wrong. */
        {"NUL alone", PROTO_MALFORMED, TEXT("\0"), NO_TEXT, NO_TEXT, 0, 0},
        {"NUL first", PROTO_MALFORMED, TEXT("\0a"), NO_TEXT, NO_TEXT, 0, 0},
        {"NUL inside", PROTO_MALFORMED, TEXT("a\0b"), NO_TEXT, NO_TEXT, 0, 0},
        {"NUL last", PROTO_MALFORMED, TEXT("a\0"), NO_TEXT, NO_TEXT, 0, 0},
        {"NUL and control", PROTO_MALFORMED, TEXT("\n\0"), NO_TEXT, NO_TEXT, 0, 0},
        {"NUL and not UTF-8", PROTO_MALFORMED, TEXT("\377\0"), NO_TEXT, NO_TEXT, 0, 0},
        {"NUL and too long", PROTO_MALFORMED, TIMES(600, "a\0"), NO_TEXT, NO_TEXT, 0, 0},
        {"NUL and extra too long", PROTO_MALFORMED, TEXT("a\0"), TIMES(1021, "e"), NO_TEXT, 0, 0},
        {"NUL in extra", 0, TEXT("a"), TEXT("\0"), NO_TEXT, 0, 0},
        {"newline in extra", 0, TEXT("a"), TEXT("\n"), NO_TEXT, 0, 0},
        /* Lengths that promise more than there is: broken, whatever else is wrong. */
        {"extra one too long", PROTO_MALFORMED, TEXT("a"), NO_TEXT, NO_TEXT, 0, 1},
        {"extra one longer than it is", PROTO_MALFORMED, TEXT("a"), TEXT("ex"), NO_TEXT, 0, 1},
        {"extra of 65535", PROTO_MALFORMED, TEXT("a"), NO_TEXT, NO_TEXT, 0, 65535},
        {"extra reaches into the tail", 0, TEXT("a"), TEXT("ex"), TEXT("tail"), 0, 4},
        {"extra reaches one past the tail", PROTO_MALFORMED, TEXT("a"), TEXT("ex"), TEXT("tail"), 0, 5},
        {"name one too long", PROTO_MALFORMED, TEXT("a"), NO_TEXT, NO_TEXT, 1, 0},
        {"name of 65535", PROTO_MALFORMED, TEXT("a"), NO_TEXT, NO_TEXT, 65534, 0},
        {"bad name, extra too long for the body", PROTO_MALFORMED, TEXT("\n"), NO_TEXT, NO_TEXT, 0, 1},
        {"long name, extra too long for the body", PROTO_MALFORMED, TIMES(1021, "a"), NO_TEXT, NO_TEXT, 0, 1},
};

static const NodeInfo sample = {
        .port = 0x1234, .type = 77, .protocol = 3, .highest_version = 6, .lowest_version = 0x0105};

static size_t build_alive2(const Alive2 *row, uint8_t *body, size_t size) {
        WireWriter w = wire_writer(body, size);

        wire_put_u8(&w, 'x');
        wire_put_u16(&w, sample.port);
        wire_put_u8(&w, sample.type);
        wire_put_u8(&w, sample.protocol);
        wire_put_u16(&w, sample.highest_version);
        wire_put_u16(&w, sample.lowest_version);
        wire_put_u16(&w, (uint16_t) (text_len(&row->name) + (size_t) row->name_lie));
        put_text(&w, &row->name);
        wire_put_u16(&w, (uint16_t) (text_len(&row->extra) + (size_t) row->extra_lie));
        put_text(&w, &row->extra);
        put_text(&w, &row->tail);
        ck_assert(!w.failed);
        return w.len;
}

/* A request that no parser makes, to see whether it is touched. */
static const Request untouched = {.tag = 0xa5, .node = {.name_len = 0xa5a5, .port = 0x5a5a}};

static bool is_untouched(const Request *request) {
        /* NOLINTNEXTLINE(bugprone-suspicious-memory-comparison,cert-exp42-c,cert-flp37-c): also the bytes between members. */
        return memcmp(request, &untouched, sizeof untouched) == 0;
}

static bool has_sample_numbers(const NodeInfo *node) {
        return node->port == sample.port && node->type == sample.type && node->protocol == sample.protocol &&
               node->highest_version == sample.highest_version && node->lowest_version == sample.lowest_version;
}

START_TEST(alive2) {
        const Alive2 *row = &alive2_rows[_i];
        uint8_t bytes[PROTO_REQUEST_MAX];
        size_t n = build_alive2(row, bytes, sizeof bytes);
        _cleanup_free_ uint8_t *body = unit_copy(bytes, n);
        Request request;

        memcpy(&request, &untouched, sizeof request);
        ck_assert_msg(proto_parse_request(body, n, &request) == row->want, "%s", row->label);
        if (row->want == PROTO_MALFORMED) {
                ck_assert_msg(is_untouched(&request), "%s", row->label);
                return;
        }
        ck_assert_uint_eq(request.tag, TAG_ALIVE2_REQ);
        ck_assert(has_sample_numbers(&request.node));
        ck_assert_msg(text_equals(&row->name, request.node.name, request.node.name_len), "%s", row->label);
        ck_assert(is_inside(request.node.name, request.node.name_len, body, n));
        ck_assert(is_inside(request.node.extra, request.node.extra_len, body, n));
        ck_assert_uint_eq(request.node.extra_len, text_len(&row->extra) + (size_t) row->extra_lie);
        ck_assert_ptr_eq(request.node.extra, request.node.name + request.node.name_len + 2);
}
END_TEST

/* Whatever is cut off before the end of Extra makes the request broken; what is behind Extra may go. */
START_TEST(alive2_truncated) {
        const Alive2 *row = &alive2_rows[_i];
        uint8_t bytes[PROTO_REQUEST_MAX];
        size_t n = build_alive2(row, bytes, sizeof bytes);
        size_t least = ALIVE2_FIXED + text_len(&row->name) + text_len(&row->extra) + (size_t) row->extra_lie;

        for (size_t cut = 0; cut < n; cut++) {
                _cleanup_free_ uint8_t *body = unit_copy(bytes, cut);
                Request request;
                int r, want = cut < least ? PROTO_MALFORMED : row->want;

                memcpy(&request, &untouched, sizeof request);
                r = proto_parse_request(body, cut, &request);
                /* An empty name with nothing left behind it. */
                if (cut == ALIVE2_FIXED && text_len(&row->name) == 0)
                        want = PROTO_MALFORMED;
                if (r != want || (r == PROTO_MALFORMED && !is_untouched(&request)))
                        ck_abort_msg("%s cut to %zu bytes: %d", row->label, cut, r);
        }
}
END_TEST

/* Every byte, alone and in the middle of a name. */
START_TEST(alive2_each_byte) {
        for (unsigned byte = 0; byte <= 0xff; byte++) {
                const char alone[] = {(char) byte}, middle[] = {'a', (char) byte, 'b'};
                const Alive2 rows[] = {
                        {.name = {alone, 1, 1}},
                        {.name = {middle, 3, 1}},
                };
                int want = byte < 0x20 || byte >= 0x7f ? PROTO_UNACCEPTABLE : 0;

                for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                        uint8_t bytes[32];
                        size_t n = build_alive2(&rows[i], bytes, sizeof bytes);
                        _cleanup_free_ uint8_t *body = unit_copy(bytes, n);
                        Request request;

                        if (proto_parse_request(body, n, &request) != (byte == 0 ? PROTO_MALFORMED : want))
                                ck_abort_msg("byte %u", byte);
                }
        }
}
END_TEST

/* Nothing is checked of the numbers. */
START_TEST(alive2_any_number) {
        static const uint16_t numbers[] = {0, 1, 5, 6, 7, 255, 256, 65535};

        for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
                Request in = {.tag = TAG_ALIVE2_REQ}, out;
                _cleanup_free_ uint8_t *packet = malloc(16);
                WireWriter w = wire_writer(packet, 16);

                in.node = (NodeInfo){.name = (const uint8_t *) "a",
                                     .name_len = 1,
                                     .port = numbers[i],
                                     .type = (uint8_t) (numbers[i] & 0xff),
                                     .protocol = (uint8_t) (numbers[i] >> 8),
                                     .highest_version = numbers[i],
                                     .lowest_version = (uint16_t) (65535 - numbers[i])};
                proto_put_request(&w, &in);
                ck_assert_uint_eq(w.len, 16);
                ck_assert_int_eq(proto_parse_request(packet + PROTO_LENGTH_SIZE, 14, &out), 0);
                ck_assert_uint_eq(out.node.port, in.node.port);
                ck_assert_uint_eq(out.node.type, in.node.type);
                ck_assert_uint_eq(out.node.protocol, in.node.protocol);
                ck_assert_uint_eq(out.node.highest_version, in.node.highest_version);
                ck_assert_uint_eq(out.node.lowest_version, in.node.lowest_version);
                ck_assert_uint_eq(out.node.extra_len, 0);
        }
}
END_TEST

/* ---- Requests of a name, and of nothing ---- */

typedef struct Named {
        const char *label;
        Text body;      /* behind the tag */
        int port2;      /* what PORT2_REQ makes of it */
        size_t dropped; /* bytes at the end that are not of the name */
} Named;

static const Named named_rows[] = {
        {"plain", TEXT("rabbit"), 0, 0},
        {"one byte", TEXT("a"), 0, 0},
        {"one NUL behind", TEXT("rabbit\0"), 0, 1},
        {"space", TEXT("a b"), 0, 0},
        {"control characters can be asked for", TEXT("a\nb"), 0, 0},
        {"empty", NO_TEXT, PROTO_MALFORMED, 0},
        {"NUL alone", TEXT("\0"), PROTO_MALFORMED, 1},
        {"two NULs behind", TEXT("a\0\0"), PROTO_MALFORMED, 1},
        {"NUL first", TEXT("\0a"), PROTO_MALFORMED, 0},
        {"NUL inside", TEXT("a\0b"), PROTO_MALFORMED, 0},
        {"255 of one byte", TIMES(255, "a"), 0, 0},
        {"256 of one byte", TIMES(256, "a"), PROTO_MALFORMED, 0},
        {"255 of two bytes", TIMES(255, "\303\270"), 0, 0},
        {"256 of two bytes", TIMES(256, "\303\270"), PROTO_MALFORMED, 0},
        {"255 of four bytes", TIMES(255, "\360\237\220\260"), 0, 0},
        {"256 of four bytes", TIMES(256, "\360\237\220\260"), PROTO_MALFORMED, 0},
        {"1021 bytes", TIMES(1021, "a"), PROTO_MALFORMED, 0},
        {"as long as a request", TIMES(PROTO_REQUEST_MAX - 1, "a"), PROTO_MALFORMED, 0},
        {"Latin-1", TEXT("n\370d"), PROTO_MALFORMED, 0},
        {"overlong", TEXT("\300\200"), PROTO_MALFORMED, 0},
        {"surrogate", TEXT("\355\240\200"), PROTO_MALFORMED, 0},
        {"cut character", TEXT("a\303"), PROTO_MALFORMED, 0},
        {"cut character and NUL", TEXT("a\303\0"), PROTO_MALFORMED, 1},
};

static void check_named(const Named *row, uint8_t tag, size_t name_len, int want) {
        uint8_t bytes[PROTO_REQUEST_MAX];
        WireWriter w = wire_writer(bytes, sizeof bytes);
        _cleanup_free_ uint8_t *body = NULL;
        Request request;

        memcpy(&request, &untouched, sizeof request);
        wire_put_u8(&w, tag);
        put_text(&w, &row->body);
        ck_assert(!w.failed);
        body = unit_copy(bytes, w.len);
        ck_assert_msg(proto_parse_request(body, w.len, &request) == want, "%s, tag %c", row->label, tag);
        if (want == PROTO_MALFORMED) {
                ck_assert(is_untouched(&request));
                return;
        }
        ck_assert_uint_eq(request.tag, tag);
        ck_assert_uint_eq(request.node.name_len, name_len);
        ck_assert_ptr_eq(request.node.name, body + 1);
        ck_assert_uint_eq(request.node.extra_len, 0);
        ck_assert_uint_eq(request.node.port, 0);
}

START_TEST(port2) {
        const Named *row = &named_rows[_i];

        check_named(row, TAG_PORT2_REQ, text_len(&row->body) - row->dropped, row->port2);
}
END_TEST

/* STOP_REQ only looks its name up: any bytes will do, up to a NUL. */
START_TEST(stop) {
        const Named *row = &named_rows[_i];
        uint8_t bytes[PROTO_REQUEST_MAX];
        WireWriter w = wire_writer(bytes, sizeof bytes);

        put_text(&w, &row->body);
        ck_assert(!w.failed);
        check_named(row, TAG_STOP_REQ, strnlen((const char *) bytes, w.len), w.len == 0 ? PROTO_MALFORMED : 0);
}
END_TEST

/* A name that is cut is another name, until nothing is left of it or half a character. */
START_TEST(port2_truncated) {
        static const uint8_t whole[] = "z\303\270abc\360\237\220\260";
        static const int want[] = {PROTO_MALFORMED, PROTO_MALFORMED, PROTO_MALFORMED, 0, 0, 0, 0,
                                   PROTO_MALFORMED, PROTO_MALFORMED, PROTO_MALFORMED, 0};

        ck_assert_uint_eq(ARRAY_SIZE(want), sizeof whole);
        for (size_t n = 0; n < sizeof whole; n++) {
                _cleanup_free_ uint8_t *body = unit_copy(whole, n);
                Request request;

                ck_assert_msg(proto_parse_request(body, n, &request) == want[n], "cut to %zu bytes", n);
        }
}
END_TEST

static const uint8_t bare_tags[] = {TAG_NAMES_REQ, TAG_DUMP_REQ, TAG_KILL_REQ};

/* Bytes behind the tag are ignored. */
START_TEST(bare) {
        static const size_t sizes[] = {1, 2, 100, PROTO_REQUEST_MAX};

        for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
                _cleanup_free_ uint8_t *body = malloc(sizes[i]);
                Request request;

                memset(body, 0xff, sizes[i]);
                body[0] = bare_tags[_i];
                ck_assert_int_eq(proto_parse_request(body, sizes[i], &request), 0);
                ck_assert_uint_eq(request.tag, bare_tags[_i]);
                ck_assert_uint_eq(request.node.name_len, 0);
        }
}
END_TEST

START_TEST(any_other_tag) {
        for (unsigned tag = 0; tag <= 0xff; tag++) {
                _cleanup_free_ uint8_t *body = unit_copy("?name", 5);
                Request request;

                body[0] = (uint8_t) tag;
                memcpy(&request, &untouched, sizeof request);
                if (strchr("zndks", (int) tag) && tag != 0)
                        ck_assert_int_eq(proto_parse_request(body, 5, &request), 0);
                else {
                        ck_assert_int_eq(proto_parse_request(body, 5, &request), PROTO_MALFORMED);
                        ck_assert(is_untouched(&request));
                }
        }
}
END_TEST

START_TEST(request_of_no_size) {
        Request request;

        memcpy(&request, &untouched, sizeof request);
        ck_assert_int_eq(proto_parse_request((const uint8_t *) "", 0, &request), PROTO_MALFORMED);
        ck_assert(is_untouched(&request));
}
END_TEST

START_TEST(request_too_large) {
        _cleanup_free_ uint8_t *body = calloc(1, PROTO_REQUEST_MAX + 1);
        Request request;

        body[0] = TAG_NAMES_REQ;
        ck_assert_int_eq(proto_parse_request(body, PROTO_REQUEST_MAX, &request), 0);
        ck_assert_int_eq(proto_parse_request(body, PROTO_REQUEST_MAX + 1, &request), PROTO_MALFORMED);
}
END_TEST

/* ---- Writing requests ---- */

typedef struct Packet {
        uint8_t tag;
        const char *name, *extra;
        Bytes packet;
} Packet;

static const Packet packets[] = {
        {'n', "", "", BYTES_INIT("\0\1n")},
        {'d', "ignored", "", BYTES_INIT("\0\1d")},
        {'k', "", "ignored", BYTES_INIT("\0\1k")},
        {'z', "rabbit", "", BYTES_INIT("\0\7zrabbit")},
        {'s', "rabbit", "ignored", BYTES_INIT("\0\7srabbit")},
        {'x', "ab", "", BYTES_INIT("\0\17x\022\064\115\003\0\006\001\005\0\002ab\0\0")},
        {'x', "ab", "xyz", BYTES_INIT("\0\22x\022\064\115\003\0\006\001\005\0\002ab\0\003xyz")},
};

static Request packet_request(const Packet *row) {
        Request request = {.tag = row->tag, .node = sample};

        request.node.name = (const uint8_t *) row->name;
        request.node.name_len = (uint16_t) strlen(row->name);
        request.node.extra = (const uint8_t *) row->extra;
        request.node.extra_len = (uint16_t) strlen(row->extra);
        return request;
}

START_TEST(put_request) {
        const Packet *row = &packets[_i];
        Request request = packet_request(row);

        for (size_t room = 0; room <= row->packet.n; room++) {
                _cleanup_free_ uint8_t *packet = malloc(room);
                WireWriter w = wire_writer(packet, room);

                proto_put_request(&w, &request);
                ck_assert_int_eq(w.failed, room < row->packet.n);
                if (w.failed)
                        continue;
                ck_assert_uint_eq(w.len, row->packet.n);
                ck_assert_mem_eq(packet, row->packet.data, row->packet.n);
        }
}
END_TEST

/* What is written can be read again: the longest one, and not one byte more. */
START_TEST(put_longest_request) {
        _cleanup_free_ uint8_t *bytes = malloc(PROTO_REQUEST_MAX), *packet = malloc(PROTO_PACKET_MAX + 1);
        const uint16_t left = PROTO_REQUEST_MAX - ALIVE2_FIXED - PROTO_NAME_CHARS_MAX;
        Request in = {.tag = TAG_ALIVE2_REQ, .node = sample}, out;
        WireWriter w = wire_writer(packet, PROTO_PACKET_MAX + 1);

        memset(bytes, 'a', PROTO_REQUEST_MAX);
        in.node.name = in.node.extra = bytes;
        in.node.name_len = PROTO_NAME_CHARS_MAX;
        in.node.extra_len = left;
        proto_put_request(&w, &in);
        ck_assert(!w.failed);
        ck_assert_uint_eq(w.len, PROTO_PACKET_MAX);
        ck_assert_int_eq(proto_parse_request(packet + PROTO_LENGTH_SIZE, PROTO_REQUEST_MAX, &out), PROTO_UNACCEPTABLE);
        ck_assert_uint_eq(out.node.extra_len, left);
        w = wire_writer(packet, PROTO_PACKET_MAX + 1);
        in.node.extra_len = left + 1;
        proto_put_request(&w, &in);
        ck_assert(w.failed);
        ck_assert_uint_eq(w.len, 0);
        w = wire_writer(packet, PROTO_PACKET_MAX + 1);
        in = (Request){.tag = TAG_STOP_REQ, .node = {.name = bytes, .name_len = PROTO_REQUEST_MAX}};
        proto_put_request(&w, &in);
        ck_assert(w.failed);
}
END_TEST

/* ---- Replies to ALIVE2_REQ ---- */

typedef struct Alive2Reply {
        uint16_t highest_version;
        uint8_t result;
        uint32_t creation;
        Bytes bytes;
} Alive2Reply;

static const Alive2Reply alive2_replies[] = {
        {6, 0, 0x01020304, BYTES_INIT("v\0\1\2\3\4")},
        {6, 0, 4, BYTES_INIT("v\0\0\0\0\4")},
        {6, 0, UINT32_MAX, BYTES_INIT("v\0\377\377\377\377")},
        {6, 1, PROTO_REFUSED_CREATION, BYTES_INIT("v\1\0\0\0\143")},
        {7, 0, 5, BYTES_INIT("v\0\0\0\0\5")},
        {65535, 0, 5, BYTES_INIT("v\0\0\0\0\5")},
        {5, 0, 1, BYTES_INIT("y\0\0\1")},
        {5, 0, 3, BYTES_INIT("y\0\0\3")},
        {5, 1, PROTO_REFUSED_CREATION, BYTES_INIT("y\1\0\143")},
        {1, 0, 2, BYTES_INIT("y\0\0\2")},
        {0, 0, 2, BYTES_INIT("y\0\0\2")},
};

START_TEST(alive2_reply) {
        const Alive2Reply *row = &alive2_replies[_i];

        for (size_t room = 0; room <= row->bytes.n + 1; room++) {
                _cleanup_free_ uint8_t *data = malloc(room);
                WireWriter w = wire_writer(data, room);

                proto_put_alive2_reply(&w, row->highest_version, row->result, row->creation);
                ck_assert_int_eq(w.failed, room < row->bytes.n);
                if (w.failed)
                        continue;
                ck_assert_uint_eq(w.len, row->bytes.n);
                ck_assert_mem_eq(data, row->bytes.data, row->bytes.n);
        }
}
END_TEST

START_TEST(alive2_reply_parsed) {
        const Alive2Reply *row = &alive2_replies[_i];

        for (size_t n = 0; n <= row->bytes.n; n++) {
                _cleanup_free_ uint8_t *data = unit_copy(row->bytes.data, n);
                uint8_t result = 0xa5;
                uint32_t creation = 0xa5a5a5a5;
                int r = proto_parse_alive2_reply(data, n, &result, &creation);
                bool whole = n == row->bytes.n;

                ck_assert_int_eq(r, whole ? 0 : PROTO_MALFORMED);
                ck_assert_uint_eq(result, whole ? row->result : 0xa5);
                ck_assert_uint_eq(creation, whole ? row->creation : 0xa5a5a5a5);
        }
}
END_TEST

START_TEST(alive2_reply_of_another_tag) {
        for (unsigned tag = 0; tag <= 0xff; tag++) {
                _cleanup_free_ uint8_t *data = unit_copy("?\0\0\0\0\4", 6);
                uint8_t result = 0xa5;
                uint32_t creation = 0xa5a5a5a5;

                if (tag == TAG_ALIVE2_X_RESP || tag == TAG_ALIVE2_RESP)
                        continue;
                data[0] = (uint8_t) tag;
                ck_assert_int_eq(proto_parse_alive2_reply(data, 6, &result, &creation), PROTO_MALFORMED);
                ck_assert_uint_eq(result, 0xa5);
                ck_assert_uint_eq(creation, 0xa5a5a5a5);
        }
}
END_TEST

/* ---- Replies to PORT2_REQ ---- */

typedef struct Port2Reply {
        Text name, extra;
} Port2Reply;

static const Port2Reply port2_replies[] = {
        {TEXT("a"), NO_TEXT},
        {TEXT("rabbit"), TEXT("\0ex\377")},
        {TIMES(255, "a"), NO_TEXT},
        {TIMES(255, "\360\237\220\260"), TIMES(1020, "\377")},
};

static size_t build_port2_reply(const Port2Reply *row, uint8_t *data, size_t size) {
        WireWriter w = wire_writer(data, size);

        wire_put_bytes(&w, "w\0\022\064\115\003\0\006\001\005", 10);
        wire_put_u16(&w, (uint16_t) text_len(&row->name));
        put_text(&w, &row->name);
        wire_put_u16(&w, (uint16_t) text_len(&row->extra));
        put_text(&w, &row->extra);
        ck_assert(!w.failed);
        return w.len;
}

START_TEST(port2_reply) {
        const Port2Reply *row = &port2_replies[_i];
        _cleanup_free_ uint8_t *want = malloc(PROTO_PORT2_REPLY_MAX), *data = malloc(PROTO_PORT2_REPLY_MAX);
        size_t n = build_port2_reply(row, want, PROTO_PORT2_REPLY_MAX);
        NodeInfo node = sample;

        node.name = want + 12;
        node.name_len = (uint16_t) text_len(&row->name);
        node.extra = want + 14 + node.name_len;
        node.extra_len = (uint16_t) text_len(&row->extra);
        for (size_t room = 0; room <= n; room++) {
                WireWriter w = wire_writer(data, room);

                proto_put_port2_reply(&w, &node);
                if (w.failed != (room < n) || (!w.failed && (w.len != n || memcmp(data, want, n) != 0)))
                        ck_abort_msg("a room of %zu, of %zu bytes", room, n);
        }
}
END_TEST

START_TEST(port2_reply_parsed) {
        const Port2Reply *row = &port2_replies[_i];
        uint8_t bytes[PROTO_PORT2_REPLY_MAX];
        size_t whole = build_port2_reply(row, bytes, sizeof bytes);

        for (size_t n = 0; n <= whole; n++) {
                _cleanup_free_ uint8_t *data = unit_copy(bytes, n);
                uint8_t result = 0xa5;
                NodeInfo node = {.port = 0x5a5a};
                int r = proto_parse_port2_reply(data, n, &result, &node);

                if (n < whole) {
                        if (r != PROTO_MALFORMED || result != 0xa5 || node.port != 0x5a5a || node.name)
                                ck_abort_msg("cut to %zu of %zu bytes: %d", n, whole, r);
                        continue;
                }
                ck_assert_int_eq(r, 0);
                ck_assert_uint_eq(result, 0);
                ck_assert(has_sample_numbers(&node));
                ck_assert(text_equals(&row->name, node.name, node.name_len));
                ck_assert(text_equals(&row->extra, node.extra, node.extra_len));
        }
}
END_TEST

START_TEST(port2_reply_largest) {
        ck_assert_uint_eq(14 + text_len(&port2_replies[3].name) + text_len(&port2_replies[3].extra),
                          PROTO_PORT2_REPLY_MAX);
}
END_TEST

START_TEST(port2_reply_unknown) {
        uint8_t data[2];
        WireWriter w = wire_writer(data, sizeof data);

        proto_put_port2_reply(&w, NULL);
        ck_assert(!w.failed);
        ck_assert_uint_eq(w.len, 2);
        ck_assert_mem_eq(data, "w\1", 2);
}
END_TEST

typedef struct Port2Refusal {
        Bytes bytes;
        int want;
        uint8_t result;
} Port2Refusal;

static const Port2Refusal port2_refusals[] = {
        {BYTES_INIT("w\1"), 0, 1},
        {BYTES_INIT("w\377"), 0, 255},
        {BYTES_INIT("w\1more"), 0, 1},
        {BYTES_INIT(""), PROTO_MALFORMED, 0xa5},
        {BYTES_INIT("w"), PROTO_MALFORMED, 0xa5},
        {BYTES_INIT("w\0"), PROTO_MALFORMED, 0xa5},
        {BYTES_INIT("v\1"), PROTO_MALFORMED, 0xa5},
        {BYTES_INIT("\0\1"), PROTO_MALFORMED, 0xa5},
        /* Lengths that promise more than there is. */
        {BYTES_INIT("w\0\0\1\2\3\0\6\0\5\0\2a\0\0"), PROTO_MALFORMED, 0xa5},
        {BYTES_INIT("w\0\0\1\2\3\0\6\0\5\377\377a\0\0"), PROTO_MALFORMED, 0xa5},
        {BYTES_INIT("w\0\0\1\2\3\0\6\0\5\0\1a\0\1"), PROTO_MALFORMED, 0xa5},
        {BYTES_INIT("w\0\0\1\2\3\0\6\0\5\0\1a\377\377e"), PROTO_MALFORMED, 0xa5},
};

START_TEST(port2_reply_refused) {
        const Port2Refusal *row = &port2_refusals[_i];
        _cleanup_free_ uint8_t *data = unit_copy(row->bytes.data, row->bytes.n);
        uint8_t result = 0xa5;
        NodeInfo node = {.port = 0x5a5a};

        ck_assert_int_eq(proto_parse_port2_reply(data, row->bytes.n, &result, &node), row->want);
        ck_assert_uint_eq(result, row->result);
        ck_assert_uint_eq(node.port, 0x5a5a);
        ck_assert_ptr_null(node.name);
}
END_TEST

/* ---- Lines of NAMES and DUMP ---- */

typedef struct Line {
        const char *name;
        uint16_t port;
        int fd;
        const char *names, *active, *released; /* DUMP lines without their NUL */
} Line;

static const Line lines[] = {
        {"a", 0, 0, "name a at port 0\n", "active name     <a> at port 0, fd = 0\n",
         "old/unused name <a>, port = 0, fd = 0 \n"},
        {"rabbit", 25672, 7, "name rabbit at port 25672\n", "active name     <rabbit> at port 25672, fd = 7\n",
         "old/unused name <rabbit>, port = 25672, fd = 7 \n"},
        {"a b", 65535, INT32_MAX, "name a b at port 65535\n",
         "active name     <a b> at port 65535, fd = 2147483647\n",
         "old/unused name <a b>, port = 65535, fd = 2147483647 \n"},
        {"n\303\270d", 10, 100, "name n\303\270d at port 10\n", "active name     <n\303\270d> at port 10, fd = 100\n",
         "old/unused name <n\303\270d>, port = 10, fd = 100 \n"},
        {"x at port 5", 9, 1, "name x at port 5 at port 9\n", "active name     <x at port 5> at port 9, fd = 1\n",
         "old/unused name <x at port 5>, port = 9, fd = 1 \n"},
        {"a", 1, -1, "name a at port 1\n", "active name     <a> at port 1, fd = 0\n",
         "old/unused name <a>, port = 1, fd = 0 \n"},
};

static NodeInfo named_node(const char *name, uint16_t port) {
        return (NodeInfo){.name = (const uint8_t *) name, .name_len = (uint16_t) strlen(name), .port = port};
}

START_TEST(names_line) {
        const Line *row = &lines[_i];
        NodeInfo node = named_node(row->name, row->port);
        uint8_t data[PROTO_NAMES_LINE_MAX];
        WireWriter w = wire_writer(data, sizeof data);

        proto_put_names_line(&w, &node);
        ck_assert(!w.failed);
        ck_assert_uint_eq(w.len, strlen(row->names));
        ck_assert_mem_eq(data, row->names, w.len);
}
END_TEST

START_TEST(dump_line) {
        const Line *row = &lines[_i];
        NodeInfo node = named_node(row->name, row->port);

        for (int active = 0; active <= 1; active++) {
                const char *want = active ? row->active : row->released;
                uint8_t data[PROTO_DUMP_LINE_MAX];
                WireWriter w = wire_writer(data, sizeof data);

                proto_put_dump_line(&w, &node, active, row->fd);
                ck_assert(!w.failed);
                ck_assert_uint_eq(w.len, strlen(want) + 1);
                ck_assert_mem_eq(data, want, w.len);
        }
}
END_TEST

/* The constants of the header are exactly as large as they must be. */
START_TEST(longest_lines) {
        uint8_t name[PROTO_NAME_BYTES_MAX], data[PROTO_DUMP_LINE_MAX];
        NodeInfo node = {.name = name, .name_len = sizeof name, .port = UINT16_MAX};
        WireWriter w = wire_writer(data, PROTO_NAMES_LINE_MAX);

        memset(name, 'a', sizeof name);
        proto_put_names_line(&w, &node);
        ck_assert(!w.failed);
        ck_assert_uint_eq(w.len, PROTO_NAMES_LINE_MAX);
        w = wire_writer(data, PROTO_NAMES_LINE_MAX - 1);
        proto_put_names_line(&w, &node);
        ck_assert(w.failed);
        for (int active = 0; active <= 1; active++) {
                w = wire_writer(data, PROTO_DUMP_LINE_MAX);
                proto_put_dump_line(&w, &node, active, INT32_MAX);
                ck_assert(!w.failed);
                ck_assert_uint_le(w.len, PROTO_DUMP_LINE_MAX);
        }
}
END_TEST

static const char names_text[] = "name a at port 0\n"
                                 "name x at port 5 at port 9\n"
                                 "name n\303\270d b at port 65535\n";

/* The text as it arrives: at each byte, as many lines as are whole. */
START_TEST(names_text_at_every_size) {
        static const char *const names[] = {"a", "x at port 5", "n\303\270d b"};
        static const uint16_t ports[] = {0, 9, 65535};

        for (size_t n = 0; n < sizeof names_text; n++) {
                _cleanup_free_ uint8_t *text = unit_copy(names_text, n);
                const uint8_t *at = text, *end = text + n;
                size_t count = 0, newlines = 0;
                NodeInfo node;

                for (size_t i = 0; i < n; i++)
                        newlines += names_text[i] == '\n';
                while (proto_parse_names_line(&at, end, &node) == 0) {
                        ck_assert_uint_lt(count, ARRAY_SIZE(names));
                        ck_assert_uint_eq(node.name_len, strlen(names[count]));
                        ck_assert_mem_eq(node.name, names[count], node.name_len);
                        ck_assert_uint_eq(node.port, ports[count]);
                        count++;
                }
                ck_assert_uint_eq(count, newlines);
                ck_assert(at == text || at[-1] == '\n');
        }
}
END_TEST

static const Bytes bad_lines[] = {
        BYTES_INIT(""),
        BYTES_INIT("\n"),
        BYTES_INIT("name\n"),
        BYTES_INIT("name \n"),
        BYTES_INIT("name a\n"),
        BYTES_INIT("name a at port\n"),
        BYTES_INIT("name a at port \n"),
        BYTES_INIT("name a at port x\n"),
        BYTES_INIT("name a at port -1\n"),
        BYTES_INIT("name a at port +1\n"),
        BYTES_INIT("name a at port 1 \n"),
        BYTES_INIT("name a at port 1x\n"),
        BYTES_INIT("name a at port 65536\n"),
        BYTES_INIT("name a at port 4294967297\n"),
        BYTES_INIT("name a at port 99999999999999999999\n"),
        BYTES_INIT("name a at port 1"),
        BYTES_INIT("name  at port 1\n"),
        BYTES_INIT("name at port 1\n"),
        BYTES_INIT("Name a at port 1\n"),
        BYTES_INIT(" name a at port 1\n"),
        BYTES_INIT("active name     <a> at port 1, fd = 1\n"),
};

START_TEST(bad_line) {
        const Bytes *row = &bad_lines[_i];
        _cleanup_free_ uint8_t *text = unit_copy(row->data, row->n);
        const uint8_t *at = text;
        NodeInfo node = {.port = 0x5a5a};

        ck_assert_msg(proto_parse_names_line(&at, text + row->n, &node) == PROTO_MALFORMED, "%s", row->data);
        ck_assert_ptr_eq(at, text);
        ck_assert_uint_eq(node.port, 0x5a5a);
        ck_assert_ptr_null(node.name);
}
END_TEST

static const struct {
        Bytes data;
        uint16_t port; /* 0: none */
} listings[] = {
        {BYTES_INIT("\0\0\021\021"), 4369},
        {BYTES_INIT("\0\0\021\021name a at port 1\n"), 4369},
        {BYTES_INIT("\0\0\377\377"), 65535},
        {BYTES_INIT("\0\0\0\001"), 1},
        {BYTES_INIT("\0\0\0\0"), 0},
        {BYTES_INIT("\0\001\0\0"), 0},
        {BYTES_INIT("\0\0\021"), 0},
        {BYTES_INIT(""), 0},
        {BYTES_INIT("HTTP/1.0 400 Bad Request\r\n"), 0},
};

START_TEST(head_of_a_listing) {
        const Bytes *data = &listings[_i].data;
        _cleanup_free_ uint8_t *copy = unit_copy(data->data, data->n);
        uint16_t port = 0;

        ck_assert_int_eq(proto_parse_listing(copy, data->n, &port), listings[_i].port > 0 ? 0 : PROTO_MALFORMED);
        ck_assert_uint_eq(port, listings[_i].port);
}
END_TEST

/* At the longest name, and one past it. */
START_TEST(line_of_the_longest_name) {
        for (size_t extra = 0; extra <= 1; extra++) {
                size_t n = 5 + PROTO_NAME_BYTES_MAX + extra + 11;
                _cleanup_free_ uint8_t *text = malloc(n);
                const uint8_t *at = text;
                NodeInfo node;

                memset(text, 'a', n);
                memcpy(text, "name ", 5);
                memcpy(text + n - 11, " at port 1\n", 11);
                ck_assert_int_eq(proto_parse_names_line(&at, text + n, &node), extra ? PROTO_MALFORMED : 0);
                ck_assert_ptr_eq(at, extra ? text : text + n);
        }
}
END_TEST

/* ---- The rest ---- */

typedef struct Creation {
        uint16_t highest_version;
        uint32_t counter, creation;
} Creation;

static const Creation creations[] = {
        {6, 4, 4}, {6, UINT32_MAX, UINT32_MAX}, {7, 99, 99}, {65535, 5, 5}, {5, 4, 2},
        {5, 5, 3}, {5, 6, 1}, {5, UINT32_MAX, 1}, {5, UINT32_MAX - 1, 3}, {0, 7, 2},
};

START_TEST(wire_creation) {
        const Creation *row = &creations[_i];

        ck_assert_uint_eq(proto_wire_creation(row->highest_version, row->counter), row->creation);
}
END_TEST

START_TEST(tag_names) {
        ck_assert_str_eq(proto_tag_name('x'), "ALIVE2_REQ");
        ck_assert_str_eq(proto_tag_name('z'), "PORT2_REQ");
        ck_assert_str_eq(proto_tag_name('n'), "NAMES_REQ");
        ck_assert_str_eq(proto_tag_name('d'), "DUMP_REQ");
        ck_assert_str_eq(proto_tag_name('k'), "KILL_REQ");
        ck_assert_str_eq(proto_tag_name('s'), "STOP_REQ");
        ck_assert_str_eq(proto_tag_name(0), "unknown request");
        ck_assert_str_eq(proto_tag_name('X'), "unknown request");
}
END_TEST

/* A request with a few bytes changed and cut off anywhere. What is accepted obeys the rules of a name. */
static void check_damaged(uint8_t *body, size_t n) {
        Request request;
        int r;

        memcpy(&request, &untouched, sizeof request);
        r = proto_parse_request(body, n, &request);
        if (r == PROTO_MALFORMED) {
                if (!is_untouched(&request))
                        ck_abort_msg("touched");
                return;
        }
        if (r != 0 && (r != PROTO_UNACCEPTABLE || request.tag != TAG_ALIVE2_REQ))
                ck_abort_msg("outcome %d, tag %u", r, request.tag);
        if (request.node.name_len > 0 && !is_inside(request.node.name, request.node.name_len, body, n))
                ck_abort_msg("the name is outside the body");
        if (request.node.extra_len > 0 && !is_inside(request.node.extra, request.node.extra_len, body, n))
                ck_abort_msg("extra is outside the body");
        if (r == 0 && request.tag == TAG_ALIVE2_REQ &&
            (request.node.name_len == 0 || request.node.name_len > PROTO_NAME_BYTES_MAX ||
             request.node.extra_len > PROTO_EXTRA_MAX || memchr(request.node.name, '\n', request.node.name_len)))
                ck_abort_msg("an illegal name is accepted");
}

START_TEST(damaged_requests) {
        uint64_t state = 7;

        for (unsigned round = 0; round < 100000; round++) {
                const Alive2 *row = &alive2_rows[unit_random(&state) % 8];
                uint8_t bytes[PROTO_REQUEST_MAX];
                size_t n = build_alive2(row, bytes, sizeof bytes);
                _cleanup_free_ uint8_t *body = NULL;

                if (unit_random(&state) % 4 == 0)
                        bytes[0] = (uint8_t) "zndks"[unit_random(&state) % 5];
                for (unsigned i = unit_random(&state) % 4; i > 0; i--)
                        bytes[unit_random(&state) % n] = (uint8_t) unit_random(&state);
                if (unit_random(&state) % 2 == 0)
                        n = unit_random(&state) % (n + 1);
                body = unit_copy(bytes, n);
                check_damaged(body, n);
        }
}
END_TEST

static void add_request_tests(Suite *suite) {
        TCase *tcase = unit_case(suite, "requests");

        tcase_add_loop_test(tcase, alive2, 0, ARRAY_SIZE(alive2_rows));
        tcase_add_loop_test(tcase, alive2_truncated, 0, ARRAY_SIZE(alive2_rows));
        tcase_add_test(tcase, alive2_each_byte);
        tcase_add_test(tcase, alive2_any_number);
        tcase_add_loop_test(tcase, port2, 0, ARRAY_SIZE(named_rows));
        tcase_add_loop_test(tcase, stop, 0, ARRAY_SIZE(named_rows));
        tcase_add_test(tcase, port2_truncated);
        tcase_add_loop_test(tcase, bare, 0, ARRAY_SIZE(bare_tags));
        tcase_add_test(tcase, any_other_tag);
        tcase_add_test(tcase, request_of_no_size);
        tcase_add_test(tcase, request_too_large);
        tcase_add_loop_test(tcase, put_request, 0, ARRAY_SIZE(packets));
        tcase_add_test(tcase, put_longest_request);
        tcase_add_test(tcase, damaged_requests);
}

static void add_reply_tests(Suite *suite) {
        TCase *tcase = unit_case(suite, "replies");

        tcase_add_loop_test(tcase, alive2_reply, 0, ARRAY_SIZE(alive2_replies));
        tcase_add_loop_test(tcase, alive2_reply_parsed, 0, ARRAY_SIZE(alive2_replies));
        tcase_add_test(tcase, alive2_reply_of_another_tag);
        tcase_add_loop_test(tcase, port2_reply, 0, ARRAY_SIZE(port2_replies));
        tcase_add_loop_test(tcase, port2_reply_parsed, 0, ARRAY_SIZE(port2_replies));
        tcase_add_test(tcase, port2_reply_largest);
        tcase_add_test(tcase, port2_reply_unknown);
        tcase_add_loop_test(tcase, port2_reply_refused, 0, ARRAY_SIZE(port2_refusals));
        tcase_add_loop_test(tcase, names_line, 0, ARRAY_SIZE(lines));
        tcase_add_loop_test(tcase, dump_line, 0, ARRAY_SIZE(lines));
        tcase_add_test(tcase, longest_lines);
        tcase_add_test(tcase, names_text_at_every_size);
        tcase_add_loop_test(tcase, bad_line, 0, ARRAY_SIZE(bad_lines));
        tcase_add_loop_test(tcase, head_of_a_listing, 0, ARRAY_SIZE(listings));
        tcase_add_test(tcase, line_of_the_longest_name);
        tcase_add_loop_test(tcase, wire_creation, 0, ARRAY_SIZE(creations));
        tcase_add_test(tcase, tag_names);
}

int main(void) {
        Suite *suite = suite_create("proto");

        add_request_tests(suite);
        add_reply_tests(suite);
        return unit_main(suite);
}
