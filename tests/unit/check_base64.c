/* SPDX-License-Identifier: Apache-2.0 */
#include "base64.h"

#include "unit.h"

typedef struct Row {
        Bytes in;
        const char *out;
} Row;

/* The test vectors of RFC 4648, and the bytes that give the last two digits. */
static const Row rows[] = {
        {BYTES_INIT(""), ""},
        {BYTES_INIT("f"), "Zg=="},
        {BYTES_INIT("fo"), "Zm8="},
        {BYTES_INIT("foo"), "Zm9v"},
        {BYTES_INIT("foob"), "Zm9vYg=="},
        {BYTES_INIT("fooba"), "Zm9vYmE="},
        {BYTES_INIT("foobar"), "Zm9vYmFy"},
        {BYTES_INIT("\373\377\277"), "+/+/"},
        {BYTES_INIT("\0\0\0\0"), "AAAAAA=="},
};

START_TEST(encode) {
        const Row *row = &rows[_i];
        _cleanup_free_ uint8_t *in = unit_copy(row->in.data, row->in.n);
        _cleanup_free_ char *out = malloc(BASE64_SIZE(row->in.n));

        ck_assert_str_eq(base64_encode(in, row->in.n, out), row->out);
}
END_TEST

int main(void) {
        Suite *suite = suite_create("base64");
        TCase *tcase = unit_case(suite, "base64_encode");

        tcase_add_loop_test(tcase, encode, 0, ARRAY_SIZE(rows));
        return unit_main(suite);
}
