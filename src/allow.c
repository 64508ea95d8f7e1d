/* SPDX-License-Identifier: Apache-2.0 */
#include "allow.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util.h"

/* What "private" stands for: addresses that are not routed on the Internet. */
static const char *const private_nets[] = {
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", /* RFC 1918 */
        "100.64.0.0/10",                                 /* RFC 6598, behind a carrier's translation */
        "169.254.0.0/16", "fe80::/10",                   /* link-local */
        "fc00::/7",                                      /* RFC 4193 */
};

static bool parse_bits(const char *text, size_t n, unsigned max, uint8_t *ret) {
        unsigned bits = 0;

        if (n == 0 || n > 3)
                return false;
        for (size_t i = 0; i < n; i++) {
                if (text[i] < '0' || text[i] > '9')
                        return false;
                bits = bits * 10 + (unsigned) (text[i] - '0');
        }
        if (bits > max)
                return false;
        *ret = (uint8_t) bits;
        return true;
}

/* An address, or a network as address/bits. */
static bool parse_net(const char *text, size_t n, AllowNet *ret) {
        const char *slash = memchr(text, '/', n);
        size_t address_len = slash ? (size_t) (slash - text) : n;
        AllowNet net = {};
        unsigned max;

        if (!address_parse(text, address_len, &net.address))
                return false;
        max = net.address.family == AF_INET ? 32 : 128;
        net.bits = (uint8_t) max;
        if (slash && !parse_bits(slash + 1, n - address_len - 1, max, &net.bits))
                return false;
        /* Peers are never seen as ::ffff:192.0.2.1, so a network of such addresses means the IPv4 one. */
        if (net.address.family == AF_INET6 && address_unmap(&net.address)) {
                if (net.bits < 96)
                        return false;
                net.bits = (uint8_t) (net.bits - 96);
        }
        *ret = net;
        return true;
}

static int add_net(Allow *allow, const AllowNet *net) {
        AllowNet *nets = reallocarray(allow->nets, allow->n_nets + 1, sizeof *nets);

        if (!nets)
                return -ENOMEM;
        allow->nets = nets;
        nets[allow->n_nets++] = *net;
        return 0;
}

static bool is_word(const char *text, size_t n, const char *word) {
        return n == strlen(word) && memcmp(text, word, n) == 0;
}

static int add_item(Allow *allow, const char *item, size_t n) {
        AllowNet net;
        int r = 0;

        if (is_word(item, n, "local"))
                return 0;
        if (is_word(item, n, "any")) {
                allow->any = true;
                return 0;
        }
        if (!is_word(item, n, "private"))
                return parse_net(item, n, &net) ? add_net(allow, &net) : -EINVAL;
        for (size_t i = 0; i < ARRAY_SIZE(private_nets) && r >= 0; i++)
                r = parse_net(private_nets[i], strlen(private_nets[i]), &net) ? add_net(allow, &net) : -EINVAL;
        return r;
}

/* Parses a list: "local", "private", "any", addresses and networks (192.0.2.0/24, 2001:db8::/32), separated by commas
 * or blanks; what they allow adds up. *ret is to be freed with allow_done().
 * Returns 0; -EINVAL with the bad item, of the list, in *ret_bad; -ENOMEM. */
int allow_parse(const char *list, Allow *ret, const char **ret_bad, size_t *ret_bad_len) {
        static const char separators[] = ", \t";
        Allow allow = {};

        for (const char *p = list + strspn(list, separators); *p; p += strspn(p, separators)) {
                size_t n = strcspn(p, separators);
                int r = add_item(&allow, p, n);

                if (r < 0) {
                        allow_done(&allow);
                        *ret_bad = p;
                        *ret_bad_len = n;
                        return r;
                }
                p += n;
        }
        *ret = allow;
        return 0;
}

/* Frees what the list owns. */
void allow_done(Allow *allow) {
        free(allow->nets);
        *allow = (Allow){};
}

static bool net_has(const AllowNet *net, const Address *address) {
        unsigned whole = net->bits / 8, rest = net->bits % 8;
        uint8_t mask = (uint8_t) (0xff << (8 - rest));

        if (net->address.family != address->family || memcmp(net->address.ip, address->ip, whole) != 0)
                return false;
        return rest == 0 || ((net->address.ip[whole] ^ address->ip[whole]) & mask) == 0;
}

/* Whether a peer is to be answered; local: it is on this host. */
bool allow_admits(const Allow *allow, const Address *address, bool local) {
        if (local || allow->any)
                return true;
        for (size_t i = 0; i < allow->n_nets; i++)
                if (net_has(&allow->nets[i], address))
                        return true;
        return false;
}
