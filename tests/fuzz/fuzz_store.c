/* SPDX-License-Identifier: Apache-2.0 */

/* What outlives the daemon, damaged while it does not run: the file of the table and the parked connections. The input
 * is what nodes do, when the daemon is killed, what happens to its things meanwhile, and when the next one starts. No
 * name may come back on a connection that did not register it, and no node may be left waiting for a daemon that does
 * not know it. Where nothing was damaged, nothing may be lost.
 *
 * The file is one in memory, and the service manager's store of descriptors an array. */

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "fuzz.h"
#include "lot.h"
#include "registry.h"
#include "store.h"

enum {
        MEMBERS = 8,
        HELD_MAX = 8,
        RECORDS_MAX = 64,
        IN_FLIGHT_MAX = 200,
        STEPS_MAX = 120,
        HISTORY_MAX = 256,
        NAME_MAX_LEN = 300,
};

typedef enum Step {
        STEP_REGISTER,  /* member, name */
        STEP_END,       /* member */
        STEP_KILL,      /* and until the next of these the daemon does not run */
        STEP_FLIP,      /* place, bits */
        STEP_WORD,      /* place, four bytes */
        STEP_COPY,      /* block, block */
        STEP_TRUNCATE,  /* size */
        STEP_FOREIGN,   /* lot, member, bytes: a message that is none */
        STEP_DUPLICATE, /* lot, member, slot, counter: a connection parked once more */
        STEP_LOSE,      /* end: the manager closes an end of a lot */
        STEP_TAKE_OUT,  /* lot, messages */
        STEP_SMALL,     /* lot: has room for some messages only */
        STEPS,
} Step;

/* A node and its connection. */
typedef struct Member {
        int fd;   /* the daemon's; -1 */
        int peer; /* its own; -1: there is no such node now */
        uint64_t cookie;
        Node *node;
        uint8_t name;
        size_t name_len;
} Member;

/* Which connection has registered what. */
typedef struct Registered {
        uint64_t cookie;
        uint8_t name;
        size_t name_len;
} Registered;

typedef struct World {
        int file;
        size_t n_opened;
        struct {
                const char *name;
                int fd;
        } held[HELD_MAX];
        Registry *registry;
        Store *store;
        StoreReport report;
        bool damaged;     /* since the daemon was killed */
        bool was_damaged; /* ever */
        bool dropped;     /* a node was not kept, or its name was registered twice */
        Member members[MEMBERS];
        Registered history[HISTORY_MAX];
        size_t n_history;
} World;

static World world;
static const uint8_t seed[SIPHASH_KEY_SIZE];

/* ---- The file, and the service manager ---- */

/* The linker gives these names (ld(1), --wrap). NOLINTBEGIN(bugprone-reserved-identifier) */
int __wrap_openat(int dir, const char *path, int flags, ...);
int __wrap_openat64(int dir, const char *path, int flags, ...);
int __wrap_systemd_store(const char *name, int fd);
void __wrap_systemd_unstore(const char *name);
/* NOLINTEND(bugprone-reserved-identifier) */

static int duplicate(int fd) {
        int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

        EXPECT(copy >= 0);
        return copy;
}

int __wrap_openat(int dir, const char *path, int flags, ...) {
        EXPECT(dir >= 0 && strcmp(path, "table") == 0 && (flags & O_NOFOLLOW));
        world.n_opened++;
        return duplicate(world.file);
}

/* The name that it has where files may be large. */
int __wrap_openat64(int dir, const char *path, int flags, ...) {
        return __wrap_openat(dir, path, flags);
}

int __wrap_systemd_store(const char *name, int fd) {
        size_t i = 0;

        while (i < HELD_MAX && world.held[i].name)
                i++;
        EXPECT(i < HELD_MAX);
        world.held[i].name = name;
        world.held[i].fd = duplicate(fd);
        return 0;
}

static void let_go(size_t i) {
        if (!world.held[i].name)
                return;
        world.held[i].name = NULL;
        world.held[i].fd = safe_close(world.held[i].fd);
}

void __wrap_systemd_unstore(const char *name) {
        for (size_t i = 0; i < HELD_MAX; i++)
                if (world.held[i].name && strcmp(world.held[i].name, name) == 0)
                        let_go(i);
}

/* A lot as the manager holds it; its ends are not the caller's. */
static Lot held_lot(uint8_t number) {
        Lot lot = LOT_NONE;

        for (size_t i = 0; i < HELD_MAX; i++) {
                if (!world.held[i].name || world.held[i].name[9] != "01"[number & 1])
                        continue;
                if (strstr(world.held[i].name, "-in"))
                        lot.in = world.held[i].fd;
                else
                        lot.out = world.held[i].fd;
        }
        return lot;
}

/* ---- Nodes ---- */

static uint64_t cookie_of(int fd) {
        uint64_t cookie = 0;
        socklen_t len = sizeof cookie;

        EXPECT(getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &len) == 0);
        return cookie;
}

static bool has_ended(int peer) {
        char byte;
        ssize_t n = recv(peer, &byte, 1, MSG_DONTWAIT);

        EXPECT(n <= 0);
        return n == 0 || errno != EAGAIN;
}

static Member *member_of(uint64_t cookie) {
        for (size_t i = 0; i < MEMBERS; i++)
                if (world.members[i].peer >= 0 && world.members[i].cookie == cookie)
                        return &world.members[i];
        return NULL;
}

/* The connection has ended. */
static void end_member(Member *member) {
        if (member->node) {
                uint32_t slot = node_slot(member->node);

                registry_remove(world.registry, TAKE_PTR(member->node));
                store_drop(world.store, slot);
                (void) shutdown(member->fd, SHUT_RDWR);
        }
        member->fd = safe_close(member->fd);
        member->peer = safe_close(member->peer);
}

static void connect_member(Member *member) {
        int pair[2];

        EXPECT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
        member->fd = pair[0];
        member->peer = pair[1];
        member->cookie = cookie_of(pair[0]);
}

static void register_member(Member *member, uint8_t byte) {
        uint8_t text[NAME_MAX_LEN];
        NodeInfo info = {.name = text, .name_len = (uint16_t) (1 + (byte >> 4) * 18), .highest_version = 6};
        Holder holder;

        end_member(member);
        if (world.n_history == HISTORY_MAX)
                return;
        connect_member(member);
        member->name = (uint8_t) ('a' + (byte & 7));
        member->name_len = info.name_len;
        memset(text, member->name, sizeof text);
        holder = (Holder){.connection = member, .fd = member->fd, .cookie = member->cookie};
        world.history[world.n_history++] =
                (Registered){.cookie = member->cookie, .name = member->name, .name_len = member->name_len};
        if (registry_add(world.registry, &info, &holder, 1, &member->node) != 0) {
                end_member(member);
                return;
        }
        if (store_keep(world.store, node_slot(member->node), node_counter(member->node), member->fd) != 0)
                world.dropped = true;
        else if (byte & 8)
                registry_tell(world.registry, member->node);
}

/* ---- A new daemon ---- */

/* Whether the connection with that cookie has registered the name of the record, ever. */
static bool is_true(const TableRecord *record, uint64_t cookie) {
        for (size_t i = 0; i < world.n_history; i++) {
                const Registered *one = &world.history[i];

                if (one->cookie != cookie || one->name_len != record->info.name_len)
                        continue;
                for (size_t at = 0; at < one->name_len; at++)
                        if (record->info.name[at] != one->name)
                                return false;
                return true;
        }
        return false;
}

/* As the server does it. */
static int on_record(void *userdata, uint32_t slot, const TableRecord *record, int fd) {
        Holder holder = {.fd = fd, .cookie = record->cookie};
        Member *member;

        EXPECT(userdata == &world);
        if (fd < 0) {
                (void) registry_restore(world.registry, slot, record, NULL, NULL);
                return 0;
        }
        EXPECT(record->live && cookie_of(fd) == record->cookie && is_true(record, record->cookie));
        member = member_of(record->cookie);
        /* Without a member its peer has closed while no daemon was there. */
        holder.connection = member ? (void *) member : (void *) &world;
        if (!member || member->node || registry_restore(world.registry, slot, record, &holder, &member->node) != 0) {
                (void) shutdown(fd, SHUT_RDWR);
                safe_close(fd);
                if (!member || member->node)
                        (void) registry_restore(world.registry, slot, record, NULL, NULL);
                return 0;
        }
        EXPECT(member->fd < 0);
        member->fd = fd;
        return 1;
}

static void pass_sockets(PassedSockets *sockets) {
        for (size_t i = 0; i < HELD_MAX; i++)
                if (world.held[i].name)
                        EXPECT(passed_sockets_add_copy(sockets, world.held[i].fd, world.held[i].name) == 0);
}

static void start(void) {
        PassedSockets sockets = {};
        uint32_t counter = 4;
        int r;

        pass_sockets(&sockets);
        r = store_new("/", &sockets, RECORDS_MAX, IN_FLIGHT_MAX, &world.report, &world.store);
        if (r < 0)
                (void) fprintf(stderr, "store_new(): %s\n", ERR_TEXT(r));
        EXPECT(r == 0 && world.n_opened-- == 1);
        passed_sockets_done(&sockets);
        (void) table_get_counter(store_table(world.store), &counter);
        EXPECT(registry_new(seed, counter, MEMBERS, store_table(world.store), &world.registry) == 0);
        EXPECT(store_restore(world.store, on_record, &world, &world.report) == 0);
}

/* The daemon is gone: what it had open is closed, and nothing else happens. */
static void kill_daemon(void) {
        for (size_t i = 0; i < MEMBERS; i++) {
                world.members[i].fd = safe_close(world.members[i].fd);
                world.members[i].node = NULL;
        }
        world.registry = registry_free(world.registry);
        world.store = store_free(world.store);
        world.damaged = false;
}

/* Every node is registered, or knows that it is not. */
static void check_members(const bool *was_registered) {
        size_t n = 0;

        for (size_t i = 0; i < MEMBERS; i++) {
                Member *member = &world.members[i];

                n += member->node != NULL;
                if (member->peer < 0)
                        continue;
                if (!world.damaged && !world.dropped)
                        EXPECT(!was_registered[i] || member->node);
                if (!member->node) {
                        EXPECT(has_ended(member->peer));
                        end_member(member);
                }
        }
        EXPECT(n == registry_count(world.registry) && world.report.restored == n);
        EXPECT(world.damaged || (world.report.damaged == 0 && !world.report.foreign));
        /* A table that begins anew gives counters a second time. */
        EXPECT(world.was_damaged || world.report.mismatched == 0);
}

/* ---- Damage ---- */

static size_t file_size(void) {
        struct stat st;

        EXPECT(fstat(world.file, &st) == 0);
        return (size_t) st.st_size;
}

/* Most of what can be hit is at the beginning. */
static off_t place_in_file(Input *input) {
        size_t size = file_size(), place = input_u16(input);

        return size == 0 ? 0 : (off_t) (place % size_min(size, (size_t) 16 * 1024));
}

static void write_file(const void *data, size_t n, off_t at) {
        EXPECT(pwrite(world.file, data, n, at) == (ssize_t) n);
}

static void flip(Input *input) {
        off_t at = place_in_file(input);
        uint8_t byte = 0;

        EXPECT(pread(world.file, &byte, 1, at) >= 0);
        byte ^= input_u8(input);
        write_file(&byte, 1, at);
}

static void copy_block(Input *input) {
        uint8_t block[TABLE_BLOCK_SIZE] = {};
        off_t from = input_u8(input) % 64 * TABLE_BLOCK_SIZE, to = input_u8(input) % 64 * TABLE_BLOCK_SIZE;

        EXPECT(pread(world.file, block, sizeof block, from) >= 0);
        write_file(block, sizeof block, to);
}

static void park_foreign(Input *input) {
        Lot lot = held_lot(input_u8(input));
        const Member *member = &world.members[input_u8(input) % MEMBERS];
        size_t n;
        const uint8_t *bytes = input_bytes(input, input_u8(input), &n);
        struct iovec iov = {.iov_base = (void *) bytes, .iov_len = n};
        union {
                struct cmsghdr header;
                uint8_t space[CMSG_SPACE(sizeof(int))];
        } control = {.header = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))}};
        struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

        if (member->peer >= 0) {
                memcpy(CMSG_DATA(&control.header), &member->peer, sizeof(int));
                message.msg_control = &control;
                message.msg_controllen = sizeof control;
        }
        if (lot.in >= 0 && n > 0)
                (void) sendmsg(lot.in, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* The other end of a member's connection in the place of this one, under any tag. */
static void park_again(Input *input) {
        Lot lot = held_lot(input_u8(input));
        const Member *member = &world.members[input_u8(input) % MEMBERS];
        const LotTag tag = {.slot = input_u8(input), .counter = input_u8(input)};

        if (lot.in >= 0 && member->peer >= 0)
                (void) lot_park(&lot, &tag, &member->peer, 1);
}

static void limit(uint8_t number) {
        const int size = 1;
        Lot lot = held_lot(number);

        if (lot.in >= 0)
                (void) setsockopt(lot.in, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
}

static void damage(Step step, Input *input) {
        uint8_t word[4] = {};
        Lot lot;
        off_t at;

        world.damaged = world.was_damaged = true;
        switch (step) {
        case STEP_FLIP:
                flip(input);
                break;
        case STEP_WORD:
                at = place_in_file(input);
                for (size_t i = 0; i < sizeof word; i++)
                        word[i] = input_u8(input);
                write_file(word, sizeof word, at);
                break;
        case STEP_COPY:
                copy_block(input);
                break;
        case STEP_TRUNCATE:
                EXPECT(ftruncate(world.file, input_u16(input) * 5) == 0);
                break;
        case STEP_FOREIGN:
                park_foreign(input);
                break;
        case STEP_DUPLICATE:
                park_again(input);
                break;
        case STEP_LOSE:
                let_go(input_u8(input) % HELD_MAX);
                break;
        default:
                lot = held_lot(input_u8(input));
                if (lot.out >= 0)
                        lot_drop(&lot, input_u8(input) % 4);
        }
}

/* ---- The whole ---- */

static void go_on(Input *input) {
        bool was_registered[MEMBERS];
        size_t i = 0;

        for (size_t m = 0; m < MEMBERS; m++)
                was_registered[m] = world.members[m].node != NULL;
        kill_daemon();
        while (i++ < STEPS_MAX && input_left(input) > 0) {
                Step step = input_u8(input) % STEPS;

                if (step == STEP_KILL)
                        break;
                if (step == STEP_END)
                        end_member(&world.members[input_u8(input) % MEMBERS]);
                else if (step == STEP_SMALL)
                        limit(input_u8(input));
                else if (step != STEP_REGISTER)
                        damage(step, input);
        }
        start();
        check_members(was_registered);
}

static void perform(Input *input) {
        uint8_t byte = input_u8(input), which = input_u8(input);
        Member *member = &world.members[which % MEMBERS];

        switch (byte % STEPS) {
        case STEP_REGISTER:
                register_member(member, input_u8(input));
                break;
        case STEP_END:
                end_member(member);
                break;
        case STEP_SMALL:
                limit(which);
                break;
        default:
                go_on(input);
        }
}

static int lowest_free_fd(void) {
        int fd = dup(STDERR_FILENO);

        safe_close(fd);
        return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        Input input = input_of(data, size), nothing = {};
        int before = lowest_free_fd();

        memset(&world, 0, sizeof world);
        for (size_t i = 0; i < MEMBERS; i++)
                world.members[i].fd = world.members[i].peer = -1;
        world.file = memfd_create("table", MFD_CLOEXEC);
        EXPECT(world.file >= 0);
        start();
        for (size_t i = 0; i < STEPS_MAX && input_left(&input) > 0; i++)
                perform(&input);
        /* Twice without any damage: what there is stays. */
        go_on(&nothing);
        go_on(&nothing);
        kill_daemon();
        for (size_t i = 0; i < MEMBERS; i++)
                end_member(&world.members[i]);
        for (size_t i = 0; i < HELD_MAX; i++)
                let_go(i);
        safe_close(world.file);
        EXPECT(lowest_free_fd() == before);
        return 0;
}
