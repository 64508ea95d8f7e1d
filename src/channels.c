/* SPDX-License-Identifier: Apache-2.0 */
#include "channels.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
        CHANNELS_MAX = 32,
        UNSENT_MAX = 32 * 1024 * 1024, /* bytes of all replies that nobody reads; the list of 19,000 nodes is a seventh */
};

typedef struct Channel {
        Channels *channels;
        struct Channel *next, *previous;
        Watch watch;
        Timer deadline;
        int fd;
        char *in; /* what has arrived of messages, message_max bytes at most */
        size_t in_len;
        char *out; /* what is still to be sent of a reply */
        size_t out_len, out_at;
} Channel;

struct Channels {
        Loop *loop; /* not ours */
        size_t message_max;
        uint64_t timeout;
        ChannelFunction on_message;
        void *userdata;
        Channel *newest, *oldest;
        size_t count;
        size_t unsent; /* bytes of replies, until each is sent whole */
};

static void channel_free(Channel *channel) {
        Channels *channels = channel->channels;

        if (channel->next)
                channel->next->previous = channel->previous;
        else
                channels->newest = channel->previous;
        if (channel->previous)
                channel->previous->next = channel->next;
        else
                channels->oldest = channel->next;
        channels->count--;
        channels->unsent -= channel->out_len;
        loop_forget(channels->loop, &channel->watch, channel->fd);
        timer_done(&channel->deadline);
        safe_close(channel->fd);
        free(channel->in);
        free(channel->out);
        free(channel);
}

/* message_max: bytes of a message; timeout: µs of a connection's life. *ret is the caller's. Returns 0 or -ENOMEM. */
int channels_new(Loop *loop, size_t message_max, uint64_t timeout, ChannelFunction on_message, void *userdata,
                 Channels **ret) {
        Channels *channels = malloc(sizeof *channels);

        if (!channels)
                return -ENOMEM;
        *channels = (Channels){
                .loop = loop,
                .message_max = message_max,
                .timeout = timeout,
                .on_message = on_message,
                .userdata = userdata,
        };
        *ret = channels;
        return 0;
}

/* Closes all connections. Always returns NULL. */
Channels *channels_free(Channels *channels) {
        if (!channels)
                return NULL;
        while (channels->oldest)
                channel_free(channels->oldest);
        free(channels);
        return NULL;
}

/* Sends what the kernel takes. Returns 0: all sent; 1: not all; a negative errno. */
static int send_reply(Channel *channel) {
        while (channel->out_at < channel->out_len) {
                ssize_t n = send(channel->fd, channel->out + channel->out_at, channel->out_len - channel->out_at,
                                 MSG_DONTWAIT | MSG_NOSIGNAL);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return errno == EAGAIN ? 1 : -errno;
                channel->out_at += (size_t) n;
        }
        free(channel->out);
        channel->out = NULL;
        channel->channels->unsent -= channel->out_len;
        channel->out_len = channel->out_at = 0;
        return 0;
}

/* Those who have a reply and do not read it, the oldest first, give way to a client that has got one now. */
static void bound_unsent(Channels *channels, const Channel *newest) {
        for (Channel *channel = channels->oldest, *next; channel && channels->unsent > UNSENT_MAX; channel = next) {
                next = channel->next;
                if (channel != newest && channel->out)
                        channel_free(channel);
        }
}

/* Takes the first message off what has arrived and has it answered. Returns 0: done, more may be there; 1: no whole
 * message is there; a negative errno: close the connection. */
static int handle_message(Channel *channel) {
        Channels *channels = channel->channels;
        char *end = memchr(channel->in, 0, channel->in_len);
        bool go_on = false;
        size_t n;
        int r;

        if (!end)
                return channel->in_len < channels->message_max ? 1 : -EMSGSIZE;
        n = (size_t) (end - channel->in);
        r = channels->on_message(channels->userdata, channel->in, n, &channel->out, &channel->out_len, &go_on);
        channels->unsent += channel->out_len;
        bound_unsent(channels, channel);
        if (r < 0 || (r > 0 && !go_on))
                return r < 0 ? r : -EBADMSG;
        channel->in_len -= n + 1;
        memmove(channel->in, end + 1, channel->in_len);
        return 0;
}

static int receive(Channel *channel) {
        ssize_t n;

        do
                n = recv(channel->fd, channel->in + channel->in_len, channel->channels->message_max - channel->in_len,
                         MSG_DONTWAIT);
        while (n < 0 && errno == EINTR);
        if (n == 0)
                return -ECONNRESET;
        if (n < 0)
                return errno == EAGAIN ? 0 : -errno;
        channel->in_len += (size_t) n;
        return 0;
}

static void on_ready(Watch *watch, uint32_t events);

static int wait_for(Channel *channel, uint32_t events) {
        return loop_watch(channel->channels->loop, &channel->watch, channel->fd, events, on_ready);
}

/* Answers what can be answered now, one reply after the other: no message is looked at before the reply to the one
 * before is sent. Returns 0, or a negative errno: close the connection. */
static int go_on(Channel *channel) {
        for (;;) {
                int r = send_reply(channel);

                if (r > 0)
                        return wait_for(channel, EPOLLOUT);
                if (r == 0)
                        r = handle_message(channel);
                if (r > 0)
                        return wait_for(channel, EPOLLIN);
                if (r < 0)
                        return r;
        }
}

static void on_ready(Watch *watch, uint32_t events) {
        Channel *channel = CONTAINER_OF(watch, Channel, watch);
        int r = 0;

        if (!channel->out)
                r = receive(channel);
        else if (events & (EPOLLERR | EPOLLHUP))
                r = -ECONNRESET;
        if (r >= 0)
                r = go_on(channel);
        if (r < 0)
                channel_free(channel);
}

static void on_deadline(void *userdata) {
        channel_free(userdata);
}

static int start(Channel *channel) {
        Channels *channels = channel->channels;
        int r = loop_add_timer(channels->loop, 0, on_deadline, channel, &channel->deadline);

        if (r < 0)
                return r;
        timer_start(&channel->deadline, loop_now(channels->loop) + channels->timeout);
        return wait_for(channel, EPOLLIN);
}

/* Serves a connection, which is the channels' from here on. When there are too many the oldest gives way. */
void channels_add(Channels *channels, int fd) {
        _cleanup_close_ int owned = fd;
        _cleanup_free_ char *in = malloc(channels->message_max);
        Channel *channel = calloc(1, sizeof *channel);

        if (!in || !channel) {
                free(channel);
                return;
        }
        if (channels->count >= CHANNELS_MAX)
                channel_free(channels->oldest);
        channel->channels = channels;
        channel->fd = TAKE_FD(owned);
        channel->in = TAKE_PTR(in);
        channel->previous = channels->newest;
        if (channels->newest)
                channels->newest->next = channel;
        else
                channels->oldest = channel;
        channels->newest = channel;
        channels->count++;
        if (start(channel) < 0)
                channel_free(channel);
}

size_t channels_count(const Channels *channels) {
        return channels->count;
}
