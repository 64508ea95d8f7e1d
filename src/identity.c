/* SPDX-License-Identifier: Apache-2.0 */
#include "identity.h"

#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <linux/magic.h>
#include <sys/vfs.h>

#include "units.h"

#define CGROUP_ROOT "/sys/fs/cgroup"

enum {
        BUFFER_SIZE = 4096,
        NO_USER = -1,
        OVERFLOW_UID = 65534, /* of the kernel, where /proc/sys is not to be seen */
};

struct Identity {
        int fd;
        bool passed_in;
        int64_t anyone;    /* the user id that this process is told for all that it has no number for, or NO_USER */
        uint32_t sequence; /* of the last request */
        Units *units; /* NULL: the tree is not one of cgroup v2; inodes of others mean something else */
};

/* Whether a descriptor that was passed in is a netlink socket. */
bool identity_is_netlink(int fd) {
        int domain = 0;
        socklen_t len = sizeof domain;

        return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_NETLINK;
}

/* Reads the first n numbers of a file of the kernel's. Returns whether there are so many. */
static bool read_numbers(const char *path, uint64_t *numbers, size_t n) {
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        char text[256], *p = text, *end;
        ssize_t len = fd < 0 ? -1 : read(fd, text, sizeof text - 1);

        text[len < 0 ? 0 : len] = 0;
        for (size_t i = 0; i < n; i++, p = end) {
                numbers[i] = strtoull(p, &end, 10);
                if (end == p)
                        return false;
        }
        return true;
}

/* In a user namespace, as PrivateUsers= makes one, most users have no number, and the kernel tells the same one for all
 * of them. Which that is; NO_USER: everyone has a number here. */
static int64_t find_anyone(void) {
        uint64_t map[3], uid;

        if (read_numbers("/proc/self/uid_map", map, ARRAY_SIZE(map)) && map[0] == 0 && map[1] == 0 &&
            map[2] == UINT32_MAX)
                return NO_USER;
        return read_numbers("/proc/sys/kernel/overflowuid", &uid, 1) ? (int64_t) uid : OVERFLOW_UID;
}

/* The owner with a user id that was told to this process. */
static Owner owner_by_uid(uint32_t uid, int64_t anyone) {
        if (uid == anyone)
                return (Owner){.hidden = true};
        return (Owner){.known = true, .uid = uid};
}

/* An earlier process may have left replies behind. */
static void drain(int fd) {
        uint8_t byte;

        while (recv(fd, &byte, sizeof byte, MSG_DONTWAIT | MSG_TRUNC) >= 0 || errno == EINTR)
                ;
}

/* netlink_fd: a sock_diag socket that the service manager opened in the host's network namespace, the identity's from
 * here on, or -1: one of its own. *ret is the caller's. Returns 0 or a negative errno. */
int identity_new(int netlink_fd, Identity **ret) {
        _cleanup_close_ int fd = netlink_fd;
        _cleanup_(identity_freep) Identity *identity = NULL;
        struct statfs fs;
        int r;

        if (fd < 0)
                fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);
        if (fd < 0)
                return -errno;
        identity = calloc(1, sizeof *identity);
        if (!identity)
                return -ENOMEM;
        identity->fd = TAKE_FD(fd);
        if (statfs(CGROUP_ROOT, &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC) {
                r = units_new(CGROUP_ROOT, &identity->units);
                if (r < 0)
                        return r;
        }
        identity->passed_in = netlink_fd >= 0;
        identity->anyone = find_anyone();
        drain(identity->fd);
        *ret = TAKE_PTR(identity);
        return 0;
}

Identity *identity_free(Identity *identity) {
        if (!identity)
                return NULL;
        safe_close(identity->fd);
        units_free(identity->units);
        free(identity);
        return NULL;
}

/* The socket, for a successor; -1: it can open one as this process did. It is not to take that for one of the service
 * manager's, which tells user ids as they are on the host. */
int identity_pass_on(const Identity *identity) {
        return identity->passed_in ? identity->fd : -1;
}

/* ---- sock_diag ---- */

static void put_ip(__be32 *to, const Address *address) {
        memcpy(to, address->ip, 16);
}

/* Asks for exactly one socket: the end of a connection that has the address source. interface: that the socket is bound
 * to; 0: one that is bound to none. */
static int ask(Identity *identity, const Address *source, const Address *destination, uint32_t interface) {
        /* MNL_ALIGN() masks with an int, which is no mask of a size_t. */
        _Alignas(struct nlmsghdr) uint8_t
                buffer[MNL_ALIGN((int) sizeof(struct nlmsghdr)) + MNL_ALIGN((int) sizeof(struct inet_diag_req_v2))] = {};
        struct nlmsghdr *header = mnl_nlmsg_put_header(buffer);
        struct inet_diag_req_v2 *request = mnl_nlmsg_put_extra_header(header, sizeof *request);
        const struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};

        header->nlmsg_type = SOCK_DIAG_BY_FAMILY;
        header->nlmsg_flags = NLM_F_REQUEST;
        header->nlmsg_seq = ++identity->sequence;
        request->sdiag_family = source->family;
        request->sdiag_protocol = IPPROTO_TCP;
        request->idiag_states = UINT32_MAX;
        request->id.idiag_sport = htons(source->port);
        request->id.idiag_dport = htons(destination->port);
        put_ip(request->id.idiag_src, source);
        put_ip(request->id.idiag_dst, destination);
        request->id.idiag_if = interface;
        request->id.idiag_cookie[0] = request->id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
        if (sendto(identity->fd, buffer, header->nlmsg_len, MSG_DONTWAIT, (const struct sockaddr *) &kernel,
                   sizeof kernel) < 0)
                return -errno;
        return 0;
}

typedef struct Answer {
        bool found;    /* an end of a connection */
        bool believed; /* a socket that a process has, and that is connected */
        uint32_t uid;
        uint64_t cgroup; /* 0: not told */
} Answer;

static int on_attribute(const struct nlattr *attribute, void *userdata) {
        Answer *answer = userdata;

        if (mnl_attr_get_type(attribute) == INET_DIAG_CGROUP_ID &&
            mnl_attr_validate(attribute, MNL_TYPE_U64) >= 0)
                answer->cgroup = mnl_attr_get_u64(attribute);
        return MNL_CB_OK;
}

/* Whether there is a process at the other end. One that has said all that it has to say waits for the answer. */
static bool is_connected(uint8_t state) {
        return state == TCP_ESTABLISHED || state == TCP_FIN_WAIT1 || state == TCP_FIN_WAIT2;
}

/* A peer that has closed shows up as one of root's, without an inode. */
static void read_answer(const struct nlmsghdr *header, Answer *answer) {
        const struct inet_diag_msg *message = mnl_nlmsg_get_payload(header);

        if (header->nlmsg_type != SOCK_DIAG_BY_FAMILY || mnl_nlmsg_get_payload_len(header) < sizeof *message)
                return;
        /* Where there is no such connection the kernel looks for a listener. */
        answer->found = message->idiag_state != TCP_LISTEN;
        if (message->idiag_inode == 0 || !is_connected(message->idiag_state))
                return;
        answer->uid = message->idiag_uid;
        answer->believed = mnl_attr_parse(header, sizeof *message, on_attribute, answer) == MNL_CB_OK;
}

/* The kernel answers while the request is sent, so the reply is there or there is none. */
static void receive_answer(Identity *identity, Answer *answer) {
        uint8_t buffer[BUFFER_SIZE];

        for (;;) {
                struct sockaddr_nl from = {};
                socklen_t len = sizeof from;
                ssize_t n = recvfrom(identity->fd, buffer, sizeof buffer, MSG_DONTWAIT, (struct sockaddr *) &from, &len);
                const struct nlmsghdr *header = (const struct nlmsghdr *) buffer;
                int left = (int) n;

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return;
                if (from.nl_pid != 0 || !mnl_nlmsg_ok(header, left) || header->nlmsg_seq != identity->sequence)
                        continue;
                read_answer(header, answer);
                return;
        }
}

static Answer ask_for(Identity *identity, const Address *source, const Address *destination, uint32_t interface) {
        Answer answer = {};

        if (ask(identity, source, destination, interface) >= 0)
                receive_answer(identity, &answer);
        return answer;
}

/* ---- Connections ---- */

/* What the kernel keeps of how a connection came in is told to those who ask for more than this: nobody does. */
typedef struct Arrival {
        int level, want, get, type; /* options, and the type of what is got */
        size_t size, at;            /* of that, and where in it the interface is */
} Arrival;

static const Arrival arrival_v4 = {SOL_IP, IP_PKTINFO, IP_PKTOPTIONS, IP_PKTINFO, sizeof(struct in_pktinfo),
                                   offsetof(struct in_pktinfo, ipi_ifindex)};
static const Arrival arrival_v6 = {SOL_IPV6, IPV6_RECVPKTINFO, IPV6_2292PKTOPTIONS, IPV6_PKTINFO, sizeof(struct in6_pktinfo),
                                   offsetof(struct in6_pktinfo, ipi6_ifindex)};

static uint32_t read_interface(const Arrival *arrival, struct msghdr *message) {
        uint32_t interface = 0;

        for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c))
                if (c->cmsg_level == arrival->level && c->cmsg_type == arrival->type &&
                    c->cmsg_len >= CMSG_LEN(arrival->size))
                        memcpy(&interface, CMSG_DATA(c) + arrival->at, sizeof interface);
        return interface;
}

/* The interface by which a connection came in; 0: not known. A peer on this host that is bound to an interface, as
 * every one is whose address is link-local, is bound to that: it would have got no answer otherwise. */
static uint32_t incoming_interface(int fd) {
        _Alignas(struct cmsghdr) uint8_t buffer[256];
        struct msghdr message = {.msg_control = buffer};
        const Arrival *arrival;
        int domain = 0, yes = 1, no = 0;
        socklen_t len = sizeof domain, n = sizeof buffer;
        bool told;

        if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0)
                return 0;
        arrival = domain == AF_INET6 ? &arrival_v6 : &arrival_v4;
        if (setsockopt(fd, arrival->level, arrival->want, &yes, sizeof yes) < 0)
                return 0;
        told = getsockopt(fd, arrival->level, arrival->get, buffer, &n) == 0;
        (void) setsockopt(fd, arrival->level, arrival->want, &no, sizeof no);
        message.msg_controllen = told ? n : 0;
        return read_interface(arrival, &message);
}

static bool get_own_address(int fd, Address *ret) {
        SocketAddress socket_address = {};
        socklen_t len = sizeof socket_address;

        if (getsockname(fd, &socket_address.any, &len) < 0)
                return false;
        *ret = address_from_socket(&socket_address);
        return true;
}

/* Whether our end is connected still. If it is, nobody else can have had the address of the peer meanwhile; after a reset
 * anybody can, while what the peer had sent before is still to be read. */
static bool is_still_connected(int fd) {
        SocketAddress socket_address = {};
        socklen_t len = sizeof socket_address;

        return getpeername(fd, &socket_address.any, &len) == 0;
}

static Owner owner_of_unix(int64_t anyone, int fd) {
        struct ucred credentials;
        socklen_t len = sizeof credentials;

        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &len) < 0)
                return (Owner){};
        return owner_by_uid(credentials.uid, anyone);
}

/* Whether the other end of a connection could be told, as this one is. */
static bool is_told(Identity *identity, const Address *own, const Address *peer, uint32_t interface) {
        return ask_for(identity, own, peer, 0).found ||
               (interface != 0 && ask_for(identity, own, peer, interface).found);
}

static Owner owner_of_tcp(Identity *identity, const Address *peer, const Address *own, int fd, uint64_t now) {
        Answer answer = ask_for(identity, peer, own, 0);
        uint32_t interface;
        const Unit *unit;
        Owner owner;

        if (!answer.believed) {
                interface = incoming_interface(fd);
                if (interface != 0)
                        answer = ask_for(identity, peer, own, interface);
                if (!answer.believed)
                        return (Owner){.hidden = is_told(identity, own, peer, interface)};
        }
        if (!is_still_connected(fd))
                return (Owner){.hidden = true};
        owner = owner_by_uid(answer.uid, identity->passed_in ? NO_USER : identity->anyone);
        unit = identity->units && answer.cgroup ? units_find(identity->units, answer.cgroup, now) : NULL;
        if (unit) {
                owner.unit = (const uint8_t *) unit->name;
                owner.unit_len = unit->len;
        }
        return owner;
}

/* Whose process is at the other end of a connection. Never fails: what cannot be known for sure is unknown.
 * peer: the address of that end; now: monotonic, µs. The unit's name is valid until the next call. */
Owner identity_of(Identity *identity, int fd, const Address *peer, uint64_t now) {
        Address own;

        if (peer->family == AF_UNIX)
                return owner_of_unix(identity ? identity->anyone : OVERFLOW_UID, fd);
        if (!identity || !get_own_address(fd, &own))
                return (Owner){};
        return owner_of_tcp(identity, peer, &own, fd, now);
}
