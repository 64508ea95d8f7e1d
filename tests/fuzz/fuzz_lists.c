/* SPDX-License-Identifier: Apache-2.0 */

/* The small languages: allow and reserve lists, addresses; and text made fit for the log and for JSON. The first byte
 * of the input says which, the rest is the text. */

#include <arpa/inet.h>

#include "address.h"
#include "allow.h"
#include "base64.h"
#include "escape.h"
#include "fuzz.h"
#include "reserve.h"

/* ---- Who is answered ---- */

static bool has_word(const char *list, const char *word) {
        size_t n = strlen(word);

        for (const char *p = list; (p = strstr(p, word)); p++)
                if ((p == list || strchr(", \t", p[-1])) && (p[n] == 0 || strchr(", \t", p[n])))
                        return true;
        return false;
}

static Address address_of(const char *text) {
        Address address = {};

        EXPECT(address_parse(text, strlen(text), &address));
        return address;
}

static void check_allow(const char *list, const Allow *allow) {
        const Address mine = address_of("10.1.2.3"), link = address_of("fe80::1"), other = address_of("192.0.2.1");
        const Address unknown = {};
        bool any = has_word(list, "any");

        EXPECT(allow->any == any);
        EXPECT(allow_admits(allow, &other, true) && allow_admits(allow, &unknown, true));
        EXPECT(allow_admits(allow, &unknown, false) == any);
        if (has_word(list, "private"))
                EXPECT(allow_admits(allow, &mine, false) && allow_admits(allow, &link, false));
        /* Each net admits its own address. */
        for (size_t i = 0; i < allow->n_nets; i++) {
                EXPECT(allow->nets[i].bits <= (allow->nets[i].address.family == AF_INET ? 32 : 128));
                EXPECT(allow_admits(allow, &allow->nets[i].address, false));
        }
        if (!any && allow->n_nets == 0)
                EXPECT(!allow_admits(allow, &other, false) && !allow_admits(allow, &mine, false));
}

static void try_allow(const char *text) {
        const char *bad = NULL;
        size_t bad_len = 0;
        Allow allow;
        int r = allow_parse(text, &allow, &bad, &bad_len);

        EXPECT(r == 0 || r == -EINVAL);
        if (r < 0) {
                EXPECT(bad >= text && bad_len > 0 && bad + bad_len <= text + strlen(text));
                return;
        }
        check_allow(text, &allow);
        allow_done(&allow);
}

/* ---- Whose name ---- */

static bool find_user(const char *user, size_t n, uint32_t *ret) {
        if (n != 4 || memcmp(user, "user", 4) != 0)
                return false;
        *ret = 1000;
        return true;
}

/* The name of each reservation is found, and what is found is right for it. */
static void check_reservation(const Reserve *reserve, const Reservation *one, const char *text) {
        const char *end = text + strlen(text);
        const Owner root = {.known = true}, nobody = {}, owner = {.known = true, .uid = one->uid};
        const Reservation *found = reserve_find(reserve, (const uint8_t *) one->name, one->name_len);

        EXPECT(one->name >= text && one->name + one->name_len <= end);
        EXPECT(one->user > one->name && one->user_len > 0 && one->user + one->user_len <= end);
        EXPECT(found && memcmp(found->name, one->name, found->name_len) == 0 && found->name_len == one->name_len);
        EXPECT(one->prefix || !found->prefix);
        EXPECT(reservation_permits(one, &root) && !reservation_permits(one, &nobody));
        EXPECT(reservation_permits(one, &owner) == (one->resolved || one->uid == 0));
}

static void try_reserve(const char *text) {
        const char *bad = NULL;
        size_t bad_len = 0;
        Reserve reserve;
        int r = reserve_parse(text, find_user, &reserve, &bad, &bad_len);

        EXPECT(r == 0 || r == -EINVAL);
        if (r < 0) {
                EXPECT(bad >= text && bad_len > 0 && bad + bad_len <= text + strlen(text));
                return;
        }
        for (size_t i = 0; i < reserve.n; i++)
                check_reservation(&reserve, &reserve.items[i], text);
        reserve_done(&reserve);
}

/* ---- Addresses ---- */

static void try_address(const char *text) {
        char formatted[ADDRESS_TEXT_MAX], with_port[ADDRESS_TEXT_MAX];
        Address address = {}, again = {}, back, plain;
        SocketAddress socket;
        bool ok = address_parse(text, strlen(text), &address);

        EXPECT(ok == (inet_pton(AF_INET, text, socket.storage.__ss_padding) == 1 ||
                      inet_pton(AF_INET6, text, socket.storage.__ss_padding) == 1));
        if (!ok)
                return;
        address.port = 4369;
        (void) address_format_ip(&address, formatted);
        EXPECT(address_parse(formatted, strlen(formatted), &again));
        EXPECT(address_same_host(&address, &again));
        EXPECT(strstr(address_format(&address, with_port), formatted));
        (void) address_to_socket(&address, &socket);
        back = address_from_socket(&socket);
        plain = address;
        (void) address_unmap(&plain);
        EXPECT(back.family == plain.family && back.port == plain.port);
        EXPECT(memcmp(back.ip, plain.ip, sizeof back.ip) == 0);
        EXPECT(!(address_is_loopback(&plain) && address_is_any(&plain)));
}

/* ---- Text for people ---- */

/* What escaped text stands for. Returns how many bytes. */
static size_t unescape(const char *text, uint8_t *out) {
        static const char digits[] = "0123456789abcdef";
        size_t n = 0;

        while (*text)
                if (text[0] == '\\' && text[1] == '\\') {
                        out[n++] = '\\';
                        text += 2;
                } else if (text[0] == '\\') {
                        EXPECT(text[1] == 'x' && text[2] && text[3] && strchr(digits, text[2]) &&
                               strchr(digits, text[3]));
                        out[n++] = (uint8_t) ((strchr(digits, text[2]) - digits) << 4 |
                                              (strchr(digits, text[3]) - digits));
                        text += 4;
                } else
                        out[n++] = (uint8_t) *text++;
        return n;
}

static void try_escape(const uint8_t *data, size_t n) {
        const size_t sizes[] = {1, 2, 5, 17, 4 * n + 1};

        for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
                char *buffer = malloc(sizes[i]);
                uint8_t *back = malloc(4 * n + 1);
                size_t len;

                EXPECT(buffer && back);
                EXPECT(escape_text(data, n, buffer, sizes[i]) == buffer && strlen(buffer) < sizes[i]);
                for (const char *p = buffer; *p; p++)
                        EXPECT((uint8_t) *p >= 0x20 && *p != 0x7f);
                len = unescape(buffer, back);
                EXPECT(len <= n && memcmp(back, data, len) == 0);
                EXPECT(len == n || i + 1 < ARRAY_SIZE(sizes));
                free(back);
                free(buffer);
        }
}

static void try_base64(const uint8_t *data, size_t n) {
        static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        char *text = malloc(BASE64_SIZE(n));
        uint32_t bits = 0;
        size_t done = 0;

        EXPECT(text && base64_encode(data, n, text) == text);
        EXPECT(strlen(text) + 1 == BASE64_SIZE(n));
        for (size_t i = 0; text[i] && text[i] != '='; i++) {
                const char *digit = strchr(digits, text[i]);

                EXPECT(digit);
                bits = bits << 6 | (uint32_t) (digit - digits);
                if (i % 4 > 0)
                        EXPECT(done < n && data[done++] == (uint8_t) (bits >> (6 - 2 * (i % 4))));
        }
        EXPECT(done == n);
        free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        char *text;

        if (size == 0)
                return 0;
        text = fuzz_text(data + 1, size - 1);
        switch (data[0] % 5) {
        case 0:
                try_allow(text);
                break;
        case 1:
                try_reserve(text);
                break;
        case 2:
                try_address(text);
                break;
        case 3:
                try_escape(data + 1, size - 1);
                break;
        default:
                try_base64(data + 1, size - 1);
        }
        free(text);
        return 0;
}
