/* SPDX-License-Identifier: Apache-2.0 */
#include "varlink.h"

#include "unit.h"

static const uint8_t seed[SIPHASH_KEY_SIZE];

typedef struct Row {
        Bytes call;
        int outcome;
        const char *reply; /* what it contains; NULL: nothing is replied */
} Row;

static const Row rows[] = {
        {BYTES_INIT("{\"method\":\"org.erlang.epmd.List\"}"), 0, "\"nodes\":[]"},
        {BYTES_INIT("{\"method\":\"org.erlang.epmd.List\",\"oneway\":true}"), VARLINK_NO_REPLY, NULL},
        {BYTES_INIT("{\"method\":\"org.erlang.epmd.List\",\"oneway\":false}"), 0, "\"nodes\":[]"},
        {BYTES_INIT("{\"method\":\"org.erlang.epmd.Nothing\",\"oneway\":true}"), VARLINK_NO_REPLY, NULL},
        {BYTES_INIT("{\"method\":\"org.erlang.epmd.Nothing\"}"), 0, "MethodNotFound"},
        {BYTES_INIT("{\"method\":\"List\"}"), 0, "MethodNotFound"},
        {BYTES_INIT("{\"method\":\"org.varlink.service.List\"}"), 0, "MethodNotFound"},
        {BYTES_INIT("{\"method\":\"org.erlang.List\"}"), 0,
         "InterfaceNotFound\",\"parameters\":{\"interface\":\"org.erlang\"}"},
        {BYTES_INIT("{\"method\":\"org.erlang.epmd.x.List\"}"), 0, "InterfaceNotFound"},
        {BYTES_INIT("{\"method\":\"org.erlang.epmd.Lookup\"}"), 0, "InvalidParameter"},
        {BYTES_INIT("{\"method\":\"org.erlang.epmd.Lookup\",\"parameters\":{\"name\":\"a\"}}"), 0, "NotRegistered"},
        {BYTES_INIT("{\"method\":\"org.erlang.epmd.List\",\"parameters\":[]}"), VARLINK_MALFORMED, NULL},
        {BYTES_INIT("{\"oneway\":true}"), VARLINK_MALFORMED, NULL},
        {BYTES_INIT("[]"), VARLINK_MALFORMED, NULL},
        {BYTES_INIT(""), VARLINK_MALFORMED, NULL},
};

/* Whoever gets no reply must not find one to send or to free. */
START_TEST(call) {
        const Row *row = &rows[_i];
        const Stats stats = {};
        const VarlinkFacts facts = {.stats = &stats};
        _cleanup_(registry_freep) Registry *registry = NULL;
        _cleanup_(varlink_freep) Varlink *varlink = NULL;
        _cleanup_free_ uint8_t *message = unit_copy(row->call.data, row->call.n);
        char *reply = NULL;
        size_t n = 0;

        ck_assert_int_eq(registry_new(seed, 0, 10, NULL, &registry), 0);
        ck_assert_int_eq(varlink_new(registry, &varlink), 0);
        ck_assert_int_eq(varlink_handle(varlink, &facts, (const char *) message, row->call.n, &reply, &n),
                         row->outcome);
        if (row->reply) {
                ck_assert_uint_eq(n, strlen(reply) + 1);
                ck_assert_ptr_nonnull(strstr(reply, row->reply));
                free(reply);
                return;
        }
        ck_assert_ptr_null(reply);
        ck_assert_uint_eq(n, 0);
}
END_TEST

int main(void) {
        Suite *suite = suite_create("varlink");
        TCase *tcase = unit_case(suite, "calls");

        tcase_add_loop_test(tcase, call, 0, ARRAY_SIZE(rows));
        return unit_main(suite);
}
