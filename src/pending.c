/* SPDX-License-Identifier: Apache-2.0 */
#include "pending.h"

#include <stdlib.h>
#include <string.h>

#include "tally.h"

enum { SHARE_DIVISOR = 4 }; /* a remote address may have a quarter of the places */

/* How late a connection may be closed; leaves the kernel room to wake up once for many. */
#define ACCURACY_USEC (250 * USEC_PER_MSEC)

typedef struct Queue {
        Conn *first; /* the next to expire */
        Conn *last;
        size_t count;
        Timer timer; /* runs for the first, or for one that was before it */
        Pending *pending;
} Queue;

struct Pending {
        Loop *loop; /* not ours */
        void (*on_expired)(Conn *conn);
        Queue remote, local;
        Tally *per_address; /* of the remote ones */
};

static void on_timer(void *userdata) {
        Queue *queue = userdata;
        uint64_t now = loop_now(queue->pending->loop);

        while (queue->first && queue->first->deadline <= now)
                queue->pending->on_expired(queue->first);
        if (queue->first)
                timer_start(&queue->timer, queue->first->deadline);
}

static int queue_init(Queue *queue, Pending *pending) {
        *queue = (Queue){.pending = pending};
        return loop_add_timer(pending->loop, ACCURACY_USEC, on_timer, queue, &queue->timer);
}

/* seed: of a hash that peers cannot foresee; on_expired is called with each connection whose time is over, and must take
 * it out. *ret is the caller's. Returns 0 or a negative errno. */
int pending_new(Loop *loop, const uint8_t seed[SIPHASH_KEY_SIZE], void (*on_expired)(Conn *conn), Pending **ret) {
        _cleanup_(pending_freep) Pending *pending = calloc(1, sizeof *pending);
        int r;

        if (!pending)
                return -ENOMEM;
        pending->loop = loop;
        pending->on_expired = on_expired;
        r = queue_init(&pending->remote, pending);
        if (r >= 0)
                r = queue_init(&pending->local, pending);
        if (r >= 0)
                r = tally_new(seed, &pending->per_address);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(pending);
        return 0;
}

/* The connections stay the caller's. Always returns NULL. */
Pending *pending_free(Pending *pending) {
        if (!pending)
                return NULL;
        timer_done(&pending->remote.timer);
        timer_done(&pending->local.timer);
        tally_free(pending->per_address);
        free(pending);
        return NULL;
}

static Queue *queue_of(Pending *pending, const Conn *conn) {
        return conn->peer.local ? &pending->local : &pending->remote;
}

static bool is_queued(const Queue *queue, const Conn *conn) {
        return conn->earlier || conn->later || queue->first == conn;
}

/* By what the share of a remote peer is counted: its IPv4 address, or the network of its IPv6 address, of which each
 * host has as many addresses as it likes. */
static TallyKey share_key(const Conn *conn) {
        const Address *address = &conn->peer.address;
        uint8_t key[1 + sizeof address->ip] = {address->family};

        memcpy(key + 1, address->ip, address->family == AF_INET6 ? 8 : sizeof address->ip);
        return tally_key(key, sizeof key);
}

/* Puts a connection, whose deadline is no earlier than that of all others, at the end. The timer is set for the
 * first alone; when that one leaves early, the timer finds out at its time. */
static void append(Queue *queue, Conn *conn) {
        conn->earlier = queue->last;
        conn->later = NULL;
        if (queue->last)
                queue->last->later = conn;
        else
                queue->first = conn;
        queue->last = conn;
        queue->count++;
        if (!queue->timer.running)
                timer_start(&queue->timer, queue->first->deadline);
}

static void take_out(Queue *queue, Conn *conn) {
        if (conn->earlier)
                conn->earlier->later = conn->later;
        else
                queue->first = conn->later;
        if (conn->later)
                conn->later->earlier = conn->earlier;
        else
                queue->last = conn->earlier;
        conn->earlier = conn->later = NULL;
        queue->count--;
}

/* Puts a connection in, whose deadline is no earlier than that of all others, unless it is in. places: for all of them.
 * Returns 0; -EDQUOT: its address has its share; -ENOMEM. */
int pending_add(Pending *pending, Conn *conn, size_t places) {
        Queue *queue = queue_of(pending, conn);
        TallyKey key;

        if (is_queued(queue, conn))
                return 0;
        if (!conn->peer.local) {
                key = share_key(conn);
                if (tally_count(pending->per_address, &key) >= places / SHARE_DIVISOR)
                        return -EDQUOT;
                if (tally_add(pending->per_address, &key) < 0)
                        return -ENOMEM;
        }
        append(queue, conn);
        return 0;
}

/* Takes a connection out, if it is in. */
void pending_remove(Pending *pending, Conn *conn) {
        Queue *queue = queue_of(pending, conn);
        TallyKey key;

        if (!is_queued(queue, conn))
                return;
        take_out(queue, conn);
        if (conn->peer.local)
                return;
        key = share_key(conn);
        tally_remove(pending->per_address, &key);
}

size_t pending_count(const Pending *pending) {
        return pending->remote.count + pending->local.count;
}

/* Who gives way to a newcomer of this host, or to a remote one: the connection that has waited longest, of peers
 * elsewhere if there is one. But those of this host, anybody's, are not to take the places of all others: if they have
 * more than three quarters of them it is one of theirs. places: for all of them. NULL: nobody gives way. */
Conn *pending_victim(const Pending *pending, bool local, size_t places) {
        if (pending->local.count > places / 4 * 3)
                return pending->local.first;
        if (pending->remote.first || !local)
                return pending->remote.first;
        return pending->local.first;
}

/* All of them, each once, together with pending_next(); NULL: there is none. */
Conn *pending_first(const Pending *pending) {
        return pending->remote.first ? pending->remote.first : pending->local.first;
}

/* The connection after one that is in; NULL: there is no other. */
Conn *pending_next(const Pending *pending, const Conn *conn) {
        if (!conn->later && !conn->peer.local)
                return pending->local.first;
        return conn->later;
}
