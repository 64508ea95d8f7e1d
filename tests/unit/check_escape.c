/* SPDX-License-Identifier: Apache-2.0 */
#include "escape.h"

#include <unistr.h>

#include "unit.h"

typedef struct Row {
        Bytes in;
        const char *out;
} Row;

static const Row rows[] = {
        {BYTES_INIT(""), ""},
        {BYTES_INIT("rabbit"), "rabbit"},
        {BYTES_INIT("a b"), "a b"},
        {BYTES_INIT("~!\"'%<>"), "~!\"'%<>"},
        {BYTES_INIT("\\"), "\\\\"},
        {BYTES_INIT("\\x0a"), "\\\\x0a"},
        {BYTES_INIT("a\nname b at port 1"), "a\\x0aname b at port 1"},
        {BYTES_INIT("\0"), "\\x00"},
        {BYTES_INIT("\t\r\n"), "\\x09\\x0d\\x0a"},
        {BYTES_INIT("\033[2J"), "\\x1b[2J"},
        {BYTES_INIT("\037 \176\177"), "\\x1f ~\\x7f"},
        /* The C1 controls, U+0080 to U+009F, which a terminal obeys, and the first character behind them. */
        {BYTES_INIT("\302\200"), "\\xc2\\x80"},
        {BYTES_INIT("\302\23331m"), "\\xc2\\x9b31m"},
        {BYTES_INIT("\302\237"), "\\xc2\\x9f"},
        {BYTES_INIT("\302\240"), "\302\240"},
        {BYTES_INIT("n\303\270d"), "n\303\270d"},
        /* Line and paragraph separators, embeddings, overrides and isolates, and the neighbours of each range. */
        {BYTES_INIT("\342\200\247"), "\342\200\247"},
        {BYTES_INIT("\342\200\250"), "\\xe2\\x80\\xa8"},
        {BYTES_INIT("\342\200\251"), "\\xe2\\x80\\xa9"},
        {BYTES_INIT("\342\200\252"), "\\xe2\\x80\\xaa"},
        {BYTES_INIT("\342\200\256"), "\\xe2\\x80\\xae"},
        {BYTES_INIT("\342\200\257"), "\342\200\257"},
        {BYTES_INIT("\342\201\245"), "\342\201\245"},
        {BYTES_INIT("\342\201\246"), "\\xe2\\x81\\xa6"},
        {BYTES_INIT("\342\201\251"), "\\xe2\\x81\\xa9"},
        {BYTES_INIT("\342\201\252"), "\342\201\252"},
        /* The marks of direction: of Arabic letters, left to right, right to left. */
        {BYTES_INIT("\330\233"), "\330\233"},
        {BYTES_INIT("\330\234"), "\\xd8\\x9c"},
        {BYTES_INIT("\330\235"), "\330\235"},
        {BYTES_INIT("\342\200\215"), "\342\200\215"},
        {BYTES_INIT("\342\200\216"), "\\xe2\\x80\\x8e"},
        {BYTES_INIT("\342\200\217"), "\\xe2\\x80\\x8f"},
        {BYTES_INIT("\342\200\220"), "\342\200\220"},
        {BYTES_INIT("\360\237\220\260"), "\360\237\220\260"},
        /* Not UTF-8: a stray continuation, a cut character, overlong, a surrogate, beyond U+10FFFF. */
        {BYTES_INIT("\200"), "\\x80"},
        {BYTES_INIT("\377a"), "\\xffa"},
        {BYTES_INIT("a\303"), "a\\xc3"},
        {BYTES_INIT("\342\202"), "\\xe2\\x82"},
        {BYTES_INIT("\300\200"), "\\xc0\\x80"},
        {BYTES_INIT("\340\200\212"), "\\xe0\\x80\\x8a"},
        {BYTES_INIT("\355\240\200"), "\\xed\\xa0\\x80"},
        {BYTES_INIT("\364\220\200\200"), "\\xf4\\x90\\x80\\x80"},
};

/* How many bytes of escaped text the token at p has. */
static size_t token_length(const char *p) {
        if (p[0] == '\\')
                return p[1] == 'x' ? 4 : 2;
        for (size_t n = 1; n <= 4; n++)
                if (u8_check((const uint8_t *) p, n) == NULL)
                        return n;
        ck_abort_msg("not UTF-8: %s", p);
        return 0;
}

static uint8_t hex_digit(char c) {
        return (uint8_t) (c >= 'a' ? c - 'a' + 10 : c - '0');
}

/* Turns escaped text back. Returns the number of bytes. */
static size_t unescape(const char *text, uint8_t *ret) {
        size_t out = 0;

        while (*text) {
                size_t n = token_length(text);

                if (n == 4 && text[0] == '\\')
                        ret[out++] = (uint8_t) (hex_digit(text[2]) * 16U + hex_digit(text[3]));
                else if (text[0] == '\\')
                        ret[out++] = '\\';
                else {
                        memcpy(ret + out, text, n);
                        out += n;
                }
                text += n;
        }
        return out;
}

/* What must hold for any input: the text is fit to print, and nothing of the input is lost. Check notes every
 * assertion in a file: here, only failures. */
static void check_properties(const uint8_t *data, size_t n) {
        char buffer[128];
        uint8_t back[sizeof buffer];

        if (escape_text(data, n, buffer, sizeof buffer) != buffer)
                ck_abort_msg("it does not return its buffer");
        for (const char *p = buffer; *p; p++)
                if ((unsigned char) *p < 0x20 || *p == 0x7f)
                        ck_abort_msg("the text has the control character %d", *p);
        if (u8_check((const uint8_t *) buffer, strlen(buffer)))
                ck_abort_msg("the text is not UTF-8: %s", buffer);
        if (unescape(buffer, back) != n || memcmp(back, data, n) != 0)
                ck_abort_msg("the text is not that of the input: %s", buffer);
}

START_TEST(whole_row) {
        const Row *row = &rows[_i];
        _cleanup_free_ uint8_t *in = unit_copy(row->in.data, row->in.n);
        _cleanup_free_ char *out = malloc(strlen(row->out) + 1);

        ck_assert_ptr_eq(escape_text(in, row->in.n, out, strlen(row->out) + 1), out);
        ck_assert_str_eq(out, row->out);
}
END_TEST

/* The bytes of text that the next character of the input takes, all of which are written or none. */
static size_t text_of_character(const char *text, const uint8_t *in, size_t n) {
        int len = u8_mblen(in, n);

        return text[0] == '\\' && text[1] == 'x' && len > 0 ? (size_t) len * ESCAPED_BYTE_MAX : token_length(text);
}

START_TEST(row_in_every_size) {
        const Row *row = &rows[_i];
        _cleanup_free_ uint8_t *in = unit_copy(row->in.data, row->in.n);
        size_t fits = 0, used = 0;

        for (size_t size = 1; size <= strlen(row->out) + 2; size++) {
                _cleanup_free_ char *out = malloc(size);
                size_t next = row->out[fits] ? text_of_character(row->out + fits, in + used, row->in.n - used) : 0;

                (void) escape_text(in, row->in.n, out, size);
                if (next > 0 && fits + next < size) {
                        int len = u8_mblen(in + used, row->in.n - used);

                        fits += next;
                        used += len > 0 ? (size_t) len : 1;
                }
                ck_assert_uint_eq(strlen(out), fits);
                ck_assert_mem_eq(out, row->out, fits);
        }
        ck_assert_uint_eq(fits, strlen(row->out));
}
END_TEST

/* Input cut off at each byte: a character that is not complete is hexadecimal. */
START_TEST(row_truncated) {
        const Row *row = &rows[_i];

        for (size_t n = 0; n <= row->in.n; n++) {
                _cleanup_free_ uint8_t *in = unit_copy(row->in.data, n);

                check_properties(in, n);
        }
}
END_TEST

START_TEST(every_two_bytes) {
        for (unsigned pair = 0; pair <= UINT16_MAX; pair++) {
                _cleanup_free_ uint8_t *in = malloc(2);

                in[0] = (uint8_t) (pair >> 8);
                in[1] = (uint8_t) (pair & 0xff);
                check_properties(in, 2);
        }
}
END_TEST

START_TEST(random_bytes) {
        /* Few values, those that begin, continue and end characters, so that whole ones come about. */
        static const uint8_t choice[] = {0,    'a',  '\\', 'x',  0x7f, 0x80, 0x8f,
                                         0x90, 0xbf, 0xc2, 0xe2, 0xed, 0xf0, 0xf4};
        uint64_t state = 42;

        for (unsigned round = 0; round < 50000; round++) {
                size_t n = unit_random(&state) % 15;
                _cleanup_free_ uint8_t *in = malloc(n);

                for (size_t i = 0; i < n; i++)
                        in[i] = choice[unit_random(&state) % sizeof choice];
                check_properties(in, n);
        }
}
END_TEST

START_TEST(longest_name_fits) {
        _cleanup_free_ uint8_t *in = malloc(PROTO_NAME_BYTES_MAX);
        _cleanup_free_ char *out = malloc(ESCAPED_NAME_MAX);

        for (size_t i = 0; i < PROTO_NAME_BYTES_MAX; i++)
                in[i] = 0xff;
        (void) escape_text(in, PROTO_NAME_BYTES_MAX, out, ESCAPED_NAME_MAX);
        ck_assert_uint_eq(strlen(out), ESCAPED_NAME_MAX - 1);
        (void) escape_text(in, PROTO_NAME_BYTES_MAX, out, ESCAPED_NAME_MAX - 1);
        ck_assert_uint_eq(strlen(out), ESCAPED_NAME_MAX - 1 - ESCAPED_BYTE_MAX);
}
END_TEST

/* The backslash stays, so that what is escaped already is not changed. */
START_TEST(line) {
        static const char *const lines[][2] = {
                {"", ""},
                {"n\303\270d \\x1b\\\\", "n\303\270d \\x1b\\\\"},
                {"a\nb\033[2J\302\233\377", "a\\x0ab\\x1b[2J\\xc2\\x9b\\xff"},
        };
        char buffer[64];

        for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
                ck_assert_str_eq(escape_line(lines[i][0], buffer, sizeof buffer), lines[i][1]);
                ck_assert_str_eq(escape_line(lines[i][1], buffer, 64), lines[i][1]);
        }
        ck_assert_str_eq(escape_line("ab\nc", buffer, 6), "ab");
}
END_TEST

int main(void) {
        Suite *suite = suite_create("escape");
        TCase *tcase = unit_case(suite, "escape_text");

        tcase_add_loop_test(tcase, whole_row, 0, ARRAY_SIZE(rows));
        tcase_add_loop_test(tcase, row_in_every_size, 0, ARRAY_SIZE(rows));
        tcase_add_loop_test(tcase, row_truncated, 0, ARRAY_SIZE(rows));
        tcase_add_test(tcase, line);
        tcase_add_test(tcase, every_two_bytes);
        tcase_add_test(tcase, random_bytes);
        tcase_add_test(tcase, longest_name_fits);
        return unit_main(suite);
}
