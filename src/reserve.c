/* SPDX-License-Identifier: Apache-2.0 */
#include "reserve.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util.h"

static bool parse_uid(const char *text, size_t n, uint32_t *ret) {
        uint64_t uid = 0;

        if (n == 0 || n > 10)
                return false;
        for (size_t i = 0; i < n; i++) {
                if (text[i] < '0' || text[i] > '9')
                        return false;
                uid = uid * 10 + (uint64_t) (text[i] - '0');
        }
        /* The last one means "no user" everywhere. */
        if (uid >= UINT32_MAX)
                return false;
        *ret = (uint32_t) uid;
        return true;
}

/* "name:user" or "prefix*:user"; the last colon counts, a user's name has none. */
static bool parse_item(const char *item, size_t n, ReserveUserFunction find_user, Reservation *ret) {
        const char *colon = memrchr(item, ':', n);
        Reservation r = {.name = item};

        if (!colon || colon == item || colon == item + n - 1)
                return false;
        r.name_len = (size_t) (colon - item);
        r.user = colon + 1;
        r.user_len = n - r.name_len - 1;
        if (r.name[r.name_len - 1] == '*') {
                r.prefix = true;
                r.name_len--;
        }
        if (memchr(r.name, '*', r.name_len))
                return false;
        r.resolved = parse_uid(r.user, r.user_len, &r.uid) || find_user(r.user, r.user_len, &r.uid);
        *ret = r;
        return true;
}

/* Parses a list of reservations separated by blanks: "rabbit:rabbitmq couch*:couchdb db:1001".
 *
 * find_user: called for every user that is not a number. The list must live as long as *ret, which is to be freed
 * with reserve_done(). Returns 0; -EINVAL with the bad item in *ret_bad; -ENOMEM. */
int reserve_parse(const char *list, ReserveUserFunction find_user, Reserve *ret, const char **ret_bad,
                  size_t *ret_bad_len) {
        static const char blanks[] = " \t\n";
        Reserve reserve = {};

        for (const char *p = list + strspn(list, blanks); *p; p += strspn(p, blanks)) {
                size_t n = strcspn(p, blanks);
                Reservation *items = reallocarray(reserve.items, reserve.n + 1, sizeof *items);

                if (items)
                        reserve.items = items;
                if (!items || !parse_item(p, n, find_user, &items[reserve.n])) {
                        reserve_done(&reserve);
                        *ret_bad = p;
                        *ret_bad_len = n;
                        return items ? -EINVAL : -ENOMEM;
                }
                reserve.n++;
                p += n;
        }
        *ret = reserve;
        return 0;
}

/* Frees what the list owns. */
void reserve_done(Reserve *reserve) {
        free(reserve->items);
        *reserve = (Reserve){};
}

static bool matches(const Reservation *r, const uint8_t *name, size_t n) {
        return (r->prefix ? n >= r->name_len : n == r->name_len) && memcmp(r->name, name, r->name_len) == 0;
}

/* The reservation of a name, or NULL. The whole name counts before a prefix, a longer prefix before a shorter. */
const Reservation *reserve_find(const Reserve *reserve, const uint8_t *name, size_t n) {
        const Reservation *best = NULL;

        for (size_t i = 0; i < reserve->n; i++) {
                const Reservation *r = &reserve->items[i];

                if (matches(r, name, n) && (!best || !r->prefix || (best->prefix && r->name_len > best->name_len)))
                        best = r;
        }
        return best;
}

/* Whether a process may register a reserved name: one of root or of the user. Whoever is not known may not. */
bool reservation_permits(const Reservation *reservation, const Owner *owner) {
        return owner->known && (owner->uid == 0 || (reservation->resolved && owner->uid == reservation->uid));
}
