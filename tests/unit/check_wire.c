/* SPDX-License-Identifier: Apache-2.0 */
#include "wire.h"

#include "unit.h"

/* More than any integer has, so that each is tried with too little, enough and too much room. */
enum { ROOM_MAX = 6 };

typedef struct Value {
        size_t width;
        uint32_t value;
        uint8_t bytes[4];
} Value;

static const Value values[] = {
        {1, 0, {0}},
        {1, 0x7f, {0x7f}},
        {1, 0x80, {0x80}},
        {1, 0xff, {0xff}},
        {2, 0, {0, 0}},
        {2, 1, {0, 1}},
        {2, 0xff, {0, 0xff}},
        {2, 0x100, {1, 0}},
        {2, 0x1234, {0x12, 0x34}},
        {2, 0x8000, {0x80, 0}},
        {2, 0xffff, {0xff, 0xff}},
        {4, 0, {0, 0, 0, 0}},
        {4, 0x12345678, {0x12, 0x34, 0x56, 0x78}},
        {4, 0xffff, {0, 0, 0xff, 0xff}},
        {4, 0x10000, {0, 1, 0, 0}},
        {4, 0x80000000, {0x80, 0, 0, 0}},
        {4, 0xffffffff, {0xff, 0xff, 0xff, 0xff}},
};

static const size_t widths[] = {1, 2, 4};

static uint32_t read_width(WireReader *r, size_t width) {
        switch (width) {
        case 1:
                return wire_u8(r);
        case 2:
                return wire_u16(r);
        default:
                return wire_u32(r);
        }
}

static void write_width(WireWriter *w, size_t width, uint32_t value) {
        switch (width) {
        case 1:
                wire_put_u8(w, (uint8_t) value);
                break;
        case 2:
                wire_put_u16(w, (uint16_t) value);
                break;
        default:
                wire_put_u32(w, value);
        }
}

START_TEST(value_is_big_endian) {
        const Value *row = &values[_i];
        _cleanup_free_ uint8_t *in = unit_copy(row->bytes, row->width), *out = malloc(row->width);
        WireReader r = wire_reader(in, row->width);
        WireWriter w = wire_writer(out, row->width);

        ck_assert_uint_eq(read_width(&r, row->width), row->value);
        ck_assert(!r.failed);
        ck_assert_uint_eq(wire_left(&r), 0);
        write_width(&w, row->width, row->value);
        ck_assert(!w.failed);
        ck_assert_uint_eq(w.len, row->width);
        ck_assert_mem_eq(out, row->bytes, row->width);
}
END_TEST

START_TEST(read_at_every_size) {
        static const uint8_t ones[ROOM_MAX] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
        const size_t width = widths[_i];

        for (size_t size = 0; size <= ROOM_MAX; size++) {
                _cleanup_free_ uint8_t *data = unit_copy(ones, size);
                WireReader r = wire_reader(data, size);
                uint32_t value = read_width(&r, width);

                ck_assert_int_eq(r.failed, size < width);
                ck_assert_uint_eq(wire_left(&r), size < width ? size : size - width);
                ck_assert_uint_eq(value, size < width ? 0 : UINT32_MAX >> (32 - 8 * width));
        }
}
END_TEST

START_TEST(failed_read_is_sticky) {
        _cleanup_free_ uint8_t *data = unit_copy("\1\2\3", 3);
        WireReader r = wire_reader(data, 3);

        ck_assert_uint_eq(wire_u8(&r), 1);
        ck_assert_uint_eq(wire_u32(&r), 0);
        ck_assert(r.failed);
        ck_assert_uint_eq(wire_u8(&r), 0);
        ck_assert_uint_eq(wire_u16(&r), 0);
        ck_assert_ptr_null(wire_bytes(&r, 1));
        ck_assert_ptr_null(wire_bytes(&r, 0));
        ck_assert_uint_eq(wire_left(&r), 2);
        ck_assert(r.failed);
}
END_TEST

START_TEST(read_bytes) {
        _cleanup_free_ uint8_t *data = unit_copy("abc", 3);
        WireReader r = wire_reader(data, 3);

        ck_assert_ptr_eq(wire_bytes(&r, 2), data);
        ck_assert_ptr_eq(wire_bytes(&r, 1), data + 2);
        ck_assert_ptr_eq(wire_bytes(&r, 0), data + 3);
        ck_assert(!r.failed);
        ck_assert_ptr_null(wire_bytes(&r, 1));
        ck_assert(r.failed);
}
END_TEST

/* A length that no address space holds must not wrap around to a small one. */
/* The reply of a peer that closed at once is no bytes, at no address. */
START_TEST(read_nothing) {
        WireReader reader = wire_reader(NULL, 0);

        ck_assert_uint_eq(wire_left(&reader), 0);
        ck_assert_uint_eq(wire_u8(&reader), 0);
        ck_assert(reader.failed);
}
END_TEST

START_TEST(read_bytes_beyond_everything) {
        static const size_t sizes[] = {4, SIZE_MAX / 2, SIZE_MAX - 1, SIZE_MAX};

        for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
                _cleanup_free_ uint8_t *data = unit_copy("abc", 3);
                WireReader r = wire_reader(data, 3);

                ck_assert_ptr_null(wire_bytes(&r, sizes[i]));
                ck_assert(r.failed);
                ck_assert_uint_eq(wire_left(&r), 3);
        }
}
END_TEST

START_TEST(write_at_every_room) {
        const size_t width = widths[_i];

        for (size_t room = 0; room <= ROOM_MAX; room++) {
                _cleanup_free_ uint8_t *data = malloc(room);
                WireWriter w = wire_writer(data, room);

                for (size_t i = 0; i < room; i++)
                        data[i] = 0xaa;
                write_width(&w, width, 0);
                ck_assert_int_eq(w.failed, room < width);
                ck_assert_msg(w.len == (room < width ? 0 : width), "%zu bytes into a room of %zu: %zu are counted",
                              width, room, w.len);
                for (size_t i = 0; i < room; i++)
                        ck_assert_msg(data[i] == (i < w.len ? 0 : 0xaa), "%zu bytes into a room of %zu: byte %zu",
                                      width, room, i);
        }
}
END_TEST

START_TEST(failed_write_is_sticky) {
        uint8_t data[3] = {9, 9, 9};
        WireWriter w = wire_writer(data, sizeof data);

        wire_put_u8(&w, 1);
        wire_put_bytes(&w, "abc", 3);
        ck_assert(w.failed);
        wire_put_u8(&w, 2);
        wire_put_bytes(&w, NULL, 0);
        ck_assert(w.failed);
        ck_assert_uint_eq(w.len, 1);
        ck_assert_mem_eq(data, "\1\11\11", 3);
}
END_TEST

START_TEST(write_bytes) {
        uint8_t data[4] = {};
        WireWriter w = wire_writer(data, sizeof data);

        wire_put_bytes(&w, "ab", 2);
        wire_put_bytes(&w, NULL, 0);
        wire_put_bytes(&w, "cd", 2);
        wire_put_bytes(&w, "", 0);
        ck_assert(!w.failed);
        ck_assert_uint_eq(w.len, 4);
        ck_assert_mem_eq(data, "abcd", 4);
        wire_put_bytes(&w, "e", 1);
        ck_assert(w.failed);
        ck_assert_uint_eq(w.len, 4);
}
END_TEST

START_TEST(write_bytes_beyond_everything) {
        uint8_t data[4] = {};
        WireWriter w = wire_writer(data, sizeof data);

        wire_put_u8(&w, 1);
        wire_put_bytes(&w, "a", SIZE_MAX);
        ck_assert(w.failed);
        ck_assert_uint_eq(w.len, 1);
}
END_TEST

int main(void) {
        Suite *suite = suite_create("wire");
        TCase *tcase = unit_case(suite, "cursor");

        tcase_add_loop_test(tcase, value_is_big_endian, 0, ARRAY_SIZE(values));
        tcase_add_loop_test(tcase, read_at_every_size, 0, ARRAY_SIZE(widths));
        tcase_add_test(tcase, failed_read_is_sticky);
        tcase_add_test(tcase, read_bytes);
        tcase_add_test(tcase, read_nothing);
        tcase_add_test(tcase, read_bytes_beyond_everything);
        tcase_add_loop_test(tcase, write_at_every_room, 0, ARRAY_SIZE(widths));
        tcase_add_test(tcase, failed_write_is_sticky);
        tcase_add_test(tcase, write_bytes);
        tcase_add_test(tcase, write_bytes_beyond_everything);
        return unit_main(suite);
}
