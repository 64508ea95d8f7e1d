/* SPDX-License-Identifier: Apache-2.0 */
#include "nodelist.h"

#include <stdio.h>

#include "unit.h"

#define PORT "\0\0\021\021"

typedef struct Row {
        Bytes reply;
        int result;
        const char *nodes; /* "name:port " for each */
        size_t unreadable;
} Row;

static const Row rows[] = {
        {BYTES_INIT(PORT), 0, "", 0},
        {BYTES_INIT(PORT "name b at port 2\nname a at port 1\n"), 0, "b:2 a:1 ", 0},
        {BYTES_INIT(PORT "name x at port 1 at port 65535\n"), 0, "x at port 1:65535 ", 0},
        {BYTES_INIT(PORT "name n\303\270d at port 0\n"), 0, "n\303\270d:0 ", 0},
        /* What a name with a line break makes of the list of the upstream daemon. */
        {BYTES_INIT(PORT "name a\nname b at port 2\nb at port 1\n"), 0, "b:2 ", 2},
        {BYTES_INIT(PORT "name a at port 1"), 0, "", 1},
        {BYTES_INIT(PORT "name a at port 65536\n"), 0, "", 1},
        {BYTES_INIT(""), NODELIST_MALFORMED, "", 0},
        {BYTES_INIT("\0\0\021"), NODELIST_MALFORMED, "", 0},
        {BYTES_INIT("\0\0\0\0name a at port 1\n"), NODELIST_MALFORMED, "", 0},
        {BYTES_INIT("HTTP/1.0 400 Bad Request\r\n"), NODELIST_MALFORMED, "", 0},
};

static void format(const NodeList *list, char text[256]) {
        size_t n = 0;

        text[0] = 0;
        for (size_t i = 0; i < list->n; i++)
                n += (size_t) snprintf(text + n, 256 - n, "%s:%u ", list->items[i].name, list->items[i].port);
}

START_TEST(parse) {
        const Row *row = &rows[_i];
        _cleanup_free_ uint8_t *reply = unit_copy(row->reply.data, row->reply.n);
        NodeList list = {};
        char text[256];

        ck_assert_int_eq(nodelist_from_names(reply, row->reply.n, &list), row->result);
        format(&list, text);
        ck_assert_str_eq(text, row->nodes);
        ck_assert_uint_eq(list.unreadable, row->unreadable);
        ck_assert_uint_eq(list.epmd_port, row->result == 0 ? 0x1111 : 0);
        nodelist_done(&list);
}
END_TEST

/* A list with details of the nodes of a reply; the creation says which they are. */
static NodeList detailed_list(const char *reply, size_t n) {
        NodeList list;

        ck_assert_int_eq(nodelist_from_names((const uint8_t *) reply, n, &list), 0);
        for (size_t i = 0; i < list.n; i++) {
                list.items[i].detailed = true;
                list.items[i].creation = (uint32_t) (i + 1);
        }
        return list;
}

typedef struct DetailsRow {
        Bytes names, detailed;
        const char *creations; /* of the names, 0: no details */
} DetailsRow;

static const DetailsRow details_rows[] = {
        {BYTES_INIT(PORT), BYTES_INIT(PORT), ""},
        {BYTES_INIT(PORT), BYTES_INIT(PORT "name a at port 1\n"), ""},
        {BYTES_INIT(PORT "name a at port 1\n"), BYTES_INIT(PORT), "0"},
        {BYTES_INIT(PORT "name a at port 1\n"), BYTES_INIT(PORT "name a at port 2\n"), "0"},
        {BYTES_INIT(PORT "name a at port 1\n"), BYTES_INIT(PORT "name b at port 1\n"), "0"},
        {BYTES_INIT(PORT "name a at port 1\n"), BYTES_INIT(PORT "name ab at port 1\n"), "0"},
        {BYTES_INIT(PORT "name b at port 1\nname a at port 1\nname ab at port 3\n"),
         BYTES_INIT(PORT "name a at port 1\nname ab at port 3\nname b at port 1\n"), "312"},
        {BYTES_INIT(PORT "name b at port 1\nname a at port 1\n"),
         BYTES_INIT(PORT "name c at port 1\nname a at port 1\n"), "02"},
        /* An epmd that tells a name twice gets the details once. */
        {BYTES_INIT(PORT "name a at port 1\nname a at port 1\n"), BYTES_INIT(PORT "name a at port 1\n"), "10"},
};

START_TEST(details) {
        const DetailsRow *row = &details_rows[_i];
        NodeList names, detailed = detailed_list(row->detailed.data, row->detailed.n);
        size_t found = 0;

        ck_assert_int_eq(nodelist_from_names((const uint8_t *) row->names.data, row->names.n, &names), 0);
        for (const char *p = row->creations; *p; p++)
                found += *p != '0';
        ck_assert_uint_eq(nodelist_add_details(&names, &detailed), found);
        ck_assert_uint_eq(names.n, strlen(row->creations));
        for (size_t i = 0; i < names.n; i++) {
                ck_assert_uint_eq(names.items[i].creation, (uint32_t) (row->creations[i] - '0'));
                ck_assert_int_eq(names.items[i].detailed, row->creations[i] != '0');
        }
        nodelist_done(&names);
        nodelist_done(&detailed);
}
END_TEST

START_TEST(many) {
        NodeList list = {};

        for (unsigned i = 0; i < 1000; i++) {
                ListedNode node = {.name = strdup("x"), .name_len = 1, .port = (uint16_t) i};

                ck_assert_int_eq(nodelist_add(&list, &node), 0);
                ck_assert_ptr_null(node.name);
        }
        ck_assert_uint_eq(list.n, 1000);
        ck_assert_uint_eq(list.items[999].port, 999);
        nodelist_done(&list);
        ck_assert_uint_eq(list.n, 0);
}
END_TEST

int main(void) {
        Suite *suite = suite_create("nodelist");
        TCase *tcase = unit_case(suite, "nodelist");

        tcase_add_loop_test(tcase, parse, 0, ARRAY_SIZE(rows));
        tcase_add_loop_test(tcase, details, 0, ARRAY_SIZE(details_rows));
        tcase_add_test(tcase, many);
        return unit_main(suite);
}
