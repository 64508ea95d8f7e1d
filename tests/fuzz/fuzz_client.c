/* SPDX-License-Identifier: Apache-2.0 */

/* The clients, of epmd and of Varlink, against a peer that does what it likes. The input says which call it is, and
 * then what comes of each system call. */

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "client.h"
#include "fuzz.h"
#include "varlink_client.h"
#include "waiting.h"

/* What comes of recv(2), by the byte that decides; below RECEIVE_INTERRUPTED it is so many bytes. */
enum {
        RECEIVE_INTERRUPTED = 0xe0,
        RECEIVE_NOTHING = 0xe8,
        RECEIVE_RESET = 0xf0,
        RECEIVE_ERROR = 0xf4,
        RECEIVE_MANY = 0xf8, /* a number of two bytes follows */
        RECEIVE_END = 0xfc,
};

static Input input;
static uint8_t delivered[64 * 1024]; /* all that recv(2) gave */
static size_t n_delivered;

static int fail_with(int error) {
        errno = error;
        return -1;
}

/* The linker gives these names (ld(1), --wrap). NOLINTBEGIN(bugprone-reserved-identifier) */
int __wrap_socket(int domain, int type, int protocol);
int __wrap_connect(int fd, const struct sockaddr *address, socklen_t len);
int __wrap_getsockopt(int fd, int level, int option, void *value, socklen_t *len);
ssize_t __wrap_send(int fd, const void *data, size_t n, int flags);
ssize_t __wrap_recv(int fd, void *data, size_t n, int flags);
uint64_t __wrap_waiting_now(void);
int __wrap_waiting_until(int fd, short events, const WaitLimit *limit);
/* NOLINTEND(bugprone-reserved-identifier) */

int __wrap_socket(int domain, int type, int protocol) {
        (void) domain;
        (void) type;
        (void) protocol;
        return input_u8(&input) == 0xff ? fail_with(EMFILE) : open("/dev/null", O_RDWR | O_CLOEXEC);
}

int __wrap_connect(int fd, const struct sockaddr *address, socklen_t len) {
        static const int errors[] = {0, EINPROGRESS, ECONNREFUSED, EAGAIN, ENOENT, 0, 0, 0};
        int error = errors[input_u8(&input) % 8];

        (void) fd;
        (void) len;
        EXPECT(address->sa_family == AF_INET || address->sa_family == AF_INET6 || address->sa_family == AF_UNIX);
        return error == 0 ? 0 : fail_with(error);
}

/* SO_ERROR and SO_PEERCRED. */
int __wrap_getsockopt(int fd, int level, int option, void *value, socklen_t *len) {
        static const int errors[] = {0, 0, 0, 0, 0, ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH};

        (void) fd;
        (void) level;
        memset(value, 0, *len);
        if (option == SO_ERROR)
                memcpy(value, &errors[input_u8(&input) % 8], sizeof(int));
        return 0;
}

ssize_t __wrap_send(int fd, const void *data, size_t n, int flags) {
        uint8_t byte = input_u8(&input);

        (void) fd;
        (void) data;
        EXPECT(flags & MSG_NOSIGNAL);
        switch (byte) {
        case 0xff:
                return fail_with(EPIPE);
        case 0xfe:
                return fail_with(EINTR);
        case 0xfd:
                return fail_with(EAGAIN);
        case 0xfc:
                return fail_with(ENOBUFS);
        default:
                return (ssize_t) (byte == 0 ? n : size_min(n, byte));
        }
}

static ssize_t deliver(void *data, size_t size, size_t n) {
        const uint8_t *bytes = input_bytes(&input, size_min(n, size), &n);

        if (n > 0) {
                memcpy(data, bytes, n);
                memcpy(delivered + n_delivered, bytes, n);
        }
        n_delivered += n;
        return (ssize_t) n;
}

ssize_t __wrap_recv(int fd, void *data, size_t n, int flags) {
        uint8_t byte = input_u8(&input);

        (void) fd;
        (void) flags;
        EXPECT(n > 0);
        if (byte < RECEIVE_INTERRUPTED)
                return deliver(data, n, byte);
        if (byte < RECEIVE_NOTHING)
                return fail_with(EINTR);
        if (byte < RECEIVE_RESET)
                return fail_with(EAGAIN);
        if (byte < RECEIVE_ERROR)
                return fail_with(ECONNRESET);
        if (byte < RECEIVE_MANY)
                return fail_with(ENOMEM);
        return byte < RECEIVE_END ? deliver(data, n, input_u16(&input)) : 0;
}

uint64_t __wrap_waiting_now(void) {
        return 1;
}

int __wrap_waiting_until(int fd, short events, const WaitLimit *limit) {
        uint8_t byte = input_left(&input) > 0 ? input_u8(&input) : 0xff;

        (void) fd;
        EXPECT(events != 0 && limit->deadline == 1 + USEC_PER_SEC);
        return byte == 0xff ? -ETIMEDOUT : byte == 0xfe ? -EINVAL : byte == 0xfd ? -ECANCELED : 0;
}

/* ---- The calls ---- */

static void call(const Request *request) {
        const Address address = client_loopback(AF_INET, 4369);
        ClientReply reply;
        int r = client_call(&address, request, USEC_PER_SEC, &reply);

        EXPECT(r <= CLIENT_TIMEOUT && (r == 0 || r != -ETIMEDOUT));
        EXPECT(reply.n == n_delivered && (reply.n == 0 || memcmp(reply.data, delivered, n_delivered) == 0));
        EXPECT(r != 0 || reply.connected);
        EXPECT((r == CLIENT_NO_SERVER) == (reply.error < 0 && r > 0 && reply.error != -ETIMEDOUT));
        if (r == 0 && request->tag == TAG_NAMES_REQ) {
                NodeList list;

                if (nodelist_from_names(reply.data, reply.n, &list) == 0)
                        nodelist_done(&list);
        }
        client_reply_done(&reply);
}

static void call_local(void) {
        ClientReply reply;
        int r = client_call_local(4369, &(Request){.tag = TAG_DUMP_REQ}, USEC_PER_SEC, &reply);

        EXPECT(r <= CLIENT_TIMEOUT && reply.n == n_delivered);
        client_reply_done(&reply);
}

static void register_node(uint16_t name_len) {
        uint8_t *name = fuzz_copy(delivered, name_len);
        const NodeInfo node = {.name = name, .name_len = name_len, .highest_version = 6};
        const Address address = client_loopback(AF_INET6, 4369);
        const WaitLimit limit = {.deadline = 1 + USEC_PER_SEC, .cancel_fd = -1};
        uint32_t creation = 0;
        int fd = -1, error = 0;
        int r = client_register(&address, &node, &limit, &fd, &creation, &error);

        EXPECT((r == 0) == (fd >= 0) && r != CLIENT_TOO_LONG);
        /* No byte more is read than the reply has: what follows is for whoever holds the connection. */
        EXPECT(n_delivered <= (n_delivered > 0 && delivered[0] == TAG_ALIVE2_X_RESP ? 6 : 4));
        if (r == 0)
                EXPECT(delivered[1] == 0 &&
                       creation == (n_delivered == 6 ? (uint32_t) delivered[2] << 24 | (uint32_t) delivered[3] << 16 |
                                                               (uint32_t) delivered[4] << 8 | delivered[5]
                                                     : (uint32_t) delivered[2] << 8 | delivered[3]));
        safe_close(fd);
        free(name);
}

static void check_listed(const ListedNode *node) {
        EXPECT(node->detailed && node->name && node->extra && node->name[node->name_len] == 0);
}

static void call_varlink(uint8_t method) {
        VarlinkClient client = {.path = "/run/org.erlang.epmd", .timeout = USEC_PER_SEC};
        VarlinkStatistics statistics = {};
        ListedNode node = {};
        NodeList list = {};
        int r;

        switch (method) {
        case 0:
                r = varlink_client_list(&client, &list);
                EXPECT(r == 0 || !list.items);
                for (size_t i = 0; i < list.n; i++)
                        check_listed(&list.items[i]);
                nodelist_done(&list);
                break;
        case 1:
                r = varlink_client_lookup(&client, "n\xc3\xa9", &node);
                if (r == 0)
                        check_listed(&node);
                listed_node_done(&node);
                break;
        default:
                r = varlink_client_statistics(&client, &statistics);
                EXPECT((r == 0) == (statistics.counters != NULL));
                varlink_statistics_done(&statistics);
        }
        EXPECT(r <= VARLINK_CLIENT_NOT_REGISTERED && varlink_client_problem(&client, r));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        uint8_t which;

        if (size > sizeof delivered)
                return 0;
        input = input_of(data, size);
        n_delivered = 0;
        which = input_u8(&input) % 8;
        switch (which) {
        case 0:
                call(&(Request){.tag = TAG_NAMES_REQ});
                break;
        case 1:
                call(&(Request){.tag = TAG_PORT2_REQ,
                                .node = {.name = delivered, .name_len = input_u16(&input) % 4096}});
                break;
        case 2:
                call_local();
                break;
        case 3:
        case 4:
                register_node(input_u16(&input) % 4096);
                break;
        default:
                call_varlink(which - 5);
        }
        return 0;
}
