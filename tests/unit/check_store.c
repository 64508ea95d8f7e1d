/* SPDX-License-Identifier: Apache-2.0 */
#include "store.h"

#include <fcntl.h>
#include <ftw.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#include "fds.h"
#include "lot.h"

enum {
        ENDS = 4, /* descriptors that the service manager holds: two lots of two ends each */
        HELD_MAX = 16,
        MEMBERS_MAX = 2000,
        DEAD_SLACK = 512, /* as in parking.c: more dead ones than live ones by so many are not left in the lots */
        SMALLEST_BUFFER = 1, /* the kernel makes a few kilobytes of it, some messages */
        MANY = 20000,
};

/* Of the whole program: the directories of all tests are in it, and go with it. */
static char base[256];

/* ---- A service manager, as far as its store of descriptors goes ---- */

typedef struct Manager {
        int socket;
        char directory[300]; /* the runtime directory */
        struct {
                char name[64];
                int fd;
        } held[HELD_MAX];
        size_t n;
        size_t removed; /* messages that asked to let go of something */
} Manager;

static void manager_init(Manager *manager) {
        static unsigned number;
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        int n = snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "epmd-check-store-%d-%u", (int) getpid(),
                         number++);

        *manager = (Manager){.socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
        ck_assert_int_ge(manager->socket, 0);
        ck_assert_int_eq(bind(manager->socket, (struct sockaddr *) &address,
                              (socklen_t) (offsetof(struct sockaddr_un, sun_path) + 1 + (size_t) n)),
                         0);
        address.sun_path[0] = '@';
        ck_assert_int_eq(setenv("NOTIFY_SOCKET", address.sun_path, true), 0);
        (void) snprintf(manager->directory, sizeof manager->directory, "%s/XXXXXX", base);
        ck_assert_ptr_nonnull(mkdtemp(manager->directory));
}

static void manager_let_go(Manager *manager, const char *name) {
        size_t kept = 0;

        for (size_t i = 0; i < manager->n; i++)
                if (strcmp(manager->held[i].name, name) == 0)
                        safe_close(manager->held[i].fd);
                else
                        manager->held[kept++] = manager->held[i];
        manager->n = kept;
        manager->removed++;
}

static void manager_obey(Manager *manager, const char *text, int fd) {
        const char *name = strstr(text, "FDNAME=");
        char copy[64];

        if (!name)
                ck_abort_msg("a message without FDNAME: %s", text);
        name += strlen("FDNAME=");
        (void) snprintf(copy, sizeof copy, "%.*s", (int) strcspn(name, "\n"), name);
        if (strstr(text, "FDSTOREREMOVE=1")) {
                ck_assert_int_lt(fd, 0);
                manager_let_go(manager, copy);
                return;
        }
        /* Else it would be dropped by the manager as soon as its other end is. */
        if (!strstr(text, "FDSTORE=1\n") || !strstr(text, "FDPOLL=0") || fd < 0 || manager->n == HELD_MAX)
                ck_abort_msg("descriptor %d with %s", fd, text);
        manager->held[manager->n].fd = fd;
        memcpy(manager->held[manager->n++].name, copy, sizeof copy);
}

/* Reads what the store has said. */
static void manager_hear(Manager *manager) {
        for (;;) {
                union {
                        struct cmsghdr header;
                        uint8_t space[CMSG_SPACE(sizeof(int))];
                } control;
                char text[512];
                struct iovec iov = {.iov_base = text, .iov_len = sizeof text - 1};
                struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
                                         .msg_controllen = sizeof control};
                ssize_t n = recvmsg(manager->socket, &message, MSG_CMSG_CLOEXEC);
                int fd = -1;

                if (n < 0 && errno == EAGAIN)
                        return;
                ck_assert_int_gt(n, 0);
                text[n] = 0;
                if (CMSG_FIRSTHDR(&message))
                        memcpy(&fd, CMSG_DATA(&control.header), sizeof fd);
                manager_obey(manager, text, fd);
        }
}

/* What a process that is started now gets. */
static void manager_pass(Manager *manager, PassedSockets *sockets) {
        manager_hear(manager);
        for (size_t i = 0; i < manager->n; i++)
                ck_assert_int_eq(passed_sockets_add_copy(sockets, manager->held[i].fd, manager->held[i].name), 0);
}

static void manager_done(Manager *manager) {
        for (size_t i = 0; i < manager->n; i++)
                safe_close(manager->held[i].fd);
        manager->n = 0;
        manager->socket = safe_close(manager->socket);
}

static int held_fd(const Manager *manager, const char *name) {
        for (size_t i = 0; i < manager->n; i++)
                if (strcmp(manager->held[i].name, name) == 0)
                        return manager->held[i].fd;
        ck_abort_msg("%s is not held", name);
}

/* A lot as the manager holds it; not to be closed. */
static Lot held_lot(const Manager *manager, int index) {
        return index == 0 ? (Lot){.in = held_fd(manager, "epmd-lot-0-in"), .out = held_fd(manager, "epmd-lot-0-out")}
                          : (Lot){.in = held_fd(manager, "epmd-lot-1-in"), .out = held_fd(manager, "epmd-lot-1-out")};
}

static void limit_buffers(const Manager *manager, int size) {
        for (int i = 0; i < 2; i++)
                ck_assert_int_eq(setsockopt(held_lot(manager, i).in, SOL_SOCKET, SO_SNDBUF, &size, sizeof size), 0);
}

/* How many descriptors are parked in a lot. */
static size_t count_in_lot(const Manager *manager, int index) {
        Lot lot = held_lot(manager, index);
        LotMessage message;
        size_t n = 0;
        int r;

        if (lot_rewind(&lot) < 0)
                ck_abort_msg("lot %d cannot be looked at", index);
        while ((r = lot_look_at_tags(&lot, &message)) != LOT_END)
                n += r == 0 ? message.n : 1;
        return n;
}

static size_t count_in_flight(const Manager *manager) {
        return count_in_lot(manager, 0) + count_in_lot(manager, 1);
}

/* ---- Nodes, and a daemon that keeps them ---- */

typedef struct Member {
        Pair pair;
        uint64_t cookie;
        uint32_t slot;
        uint32_t counter;
        bool kept;     /* was kept and not dropped */
        size_t found;  /* times that it was restored, since the last restart */
        size_t absent; /* times that its record was, without a connection */
} Member;

typedef struct World {
        Manager manager;
        Store *store;
        StoreReport report;
        size_t records_max, in_flight_max;
        uint64_t serial;    /* the last one given, or seen */
        uint32_t counter;   /* the last one given */
        size_t name_len;    /* of each node, at least */
        Member members[MEMBERS_MAX];
        size_t n;
} World;

static World world;

static int open_store(void) {
        PassedSockets sockets = {};
        int r;

        manager_pass(&world.manager, &sockets);
        r = store_new(world.manager.directory, &sockets, world.records_max, world.in_flight_max, &world.report,
                      &world.store);
        passed_sockets_done(&sockets);
        manager_hear(&world.manager);
        return r;
}

static void world_init(void) {
        memset(&world, 0, sizeof world);
        world.records_max = world.in_flight_max = MANY;
        manager_init(&world.manager);
        ck_assert_int_eq(open_store(), 0);
        ck_assert_uint_eq(world.manager.n, ENDS);
}

/* The process ends, in whatever way: its descriptors are closed, and nothing else. */
static void stop(void) {
        for (size_t i = 0; i < world.n; i++)
                world.members[i].pair.fd = safe_close(world.members[i].pair.fd);
        world.store = store_free(world.store);
}

static void world_done(void) {
        stop();
        for (size_t i = 0; i < world.n; i++)
                pair_done(&world.members[i].pair);
        manager_done(&world.manager);
}

/* Gives a member another connection. */
static void renew(size_t i) {
        Member *member = &world.members[i];

        pair_done(&member->pair);
        *member = (Member){.pair = make_pair(), .counter = ++world.counter};
        member->cookie = cookie_of(member->pair.fd);
}

/* A connection that nothing has been done with. */
static size_t add_member(void) {
        if (world.n == MEMBERS_MAX)
                ck_abort_msg("too many members");
        world.members[world.n].pair = (Pair){.fd = -1, .peer = -1};
        renew(world.n);
        return world.n++;
}

/* As many as that, all with the connection of the first: for what costs too much with one each. */
static void copy_members(size_t n) {
        const Member *first = &world.members[0];

        for (; world.n < n; world.n++) {
                world.members[world.n] = (Member){
                        .pair = {.fd = fcntl(first->pair.fd, F_DUPFD_CLOEXEC, 0),
                                 .peer = fcntl(first->pair.peer, F_DUPFD_CLOEXEC, 0)},
                        .cookie = first->cookie,
                        .counter = ++world.counter,
                };
                if (world.members[world.n].pair.fd < 0 || world.members[world.n].pair.peer < 0)
                        ck_abort_msg("no descriptors for %zu members", n);
        }
}

static uint16_t member_name(size_t i, char buffer[PROTO_NAME_BYTES_MAX + 1]) {
        int n = snprintf(buffer, PROTO_NAME_BYTES_MAX + 1, "node%zu", i);

        for (; (size_t) n < world.name_len; n++)
                buffer[n] = '.';
        return (uint16_t) n;
}

static int put_record(size_t i, uint64_t cookie, bool live) {
        char name[PROTO_NAME_BYTES_MAX + 1];
        TableRecord record = {
                .cookie = cookie,
                .serial = ++world.serial,
                .since = NOW + i,
                .counter = world.members[i].counter,
                .live = live,
        };

        record.info = (NodeInfo){.name = (const uint8_t *) name, .name_len = member_name(i, name),
                                 .port = (uint16_t) i, .highest_version = 6};
        world.members[i].slot = TABLE_NO_SLOT;
        return table_put(store_table(world.store), &record, &world.members[i].slot);
}

/* What the daemon does with a registration. */
static int try_keep(size_t i) {
        Member *member = &world.members[i];
        int r;

        (void) put_record(i, member->cookie, true);
        r = store_keep(world.store, member->slot, member->counter, member->pair.fd);
        member->kept = r == 0;
        return r;
}

static void keep(size_t i) {
        int r = try_keep(i);

        if (r != 0)
                ck_abort_msg("node%zu is not kept: %d", i, r);
}

static size_t keep_new(void) {
        size_t i = add_member();

        keep(i);
        return i;
}

/* And when it ends. */
static void drop(size_t i) {
        Member *member = &world.members[i];

        table_erase(store_table(world.store), member->slot);
        store_drop(world.store, member->slot);
        (void) shutdown(member->pair.fd, SHUT_RDWR);
        member->pair.fd = safe_close(member->pair.fd);
        member->kept = false;
}

/* ---- Restoring ---- */

static int on_record(void *userdata, uint32_t slot, const TableRecord *record, int fd) {
        char name[PROTO_NAME_BYTES_MAX + 1], want[PROTO_NAME_BYTES_MAX + 1];
        size_t i;

        (void) snprintf(name, sizeof name, "%.*s", (int) record->info.name_len, (const char *) record->info.name);
        /* NOLINTNEXTLINE(cert-err34-c): a wrong number is found out by the name that it makes. */
        if (userdata != &world || sscanf(name, "node%zu", &i) != 1 || i >= world.n ||
            member_name(i, want) != record->info.name_len || memcmp(name, want, record->info.name_len) != 0 ||
            record->counter != world.members[i].counter || record->since != NOW + i || record->info.port != i)
                ck_abort_msg("%s has a record that nobody wrote", name);
        if (record->serial <= world.serial)
                ck_abort_msg("%s comes out of turn", name);
        world.serial = record->serial;
        if (fd < 0) {
                world.members[i].absent++;
                table_erase(store_table(world.store), slot);
                return false;
        }
        if (!record->live || cookie_of(fd) != world.members[i].cookie || fcntl(fd, F_GETFD) != FD_CLOEXEC)
                ck_abort_msg("%s has got a connection that is not its own", name);
        world.members[i].found++;
        world.members[i].slot = slot;
        world.members[i].pair.fd = fd;
        return true;
}

static void restore(void) {
        size_t found = 0;

        world.serial = 0;
        for (size_t i = 0; i < world.n; i++)
                world.members[i].found = world.members[i].absent = 0;
        ck_assert_int_eq(store_restore(world.store, on_record, &world, &world.report), 0);
        for (size_t i = 0; i < world.n; i++)
                found += world.members[i].found;
        ck_assert_uint_eq(world.report.restored, found);
}

static void start(void) {
        ck_assert_int_eq(open_store(), 0);
        restore();
}

/* All that is kept is back, once, and nothing else. */
static void check_restored(void) {
        for (size_t i = 0; i < world.n; i++) {
                const Member *member = &world.members[i];

                if (member->found != member->kept)
                        ck_abort_msg("node%zu, %s, is restored %zu times", i, member->kept ? "kept" : "not kept",
                                     member->found);
                if (member->kept && !is_connected(member->pair.peer))
                        ck_abort_msg("node%zu noticed it", i);
        }
        ck_assert_uint_eq(world.report.damaged, 0);
        ck_assert_uint_eq(world.report.mismatched, 0);
        ck_assert(!world.report.foreign);
}

static void restart(void) {
        stop();
        start();
        check_restored();
}

/* ---- The file of the table ---- */

static const char *table_path(void) {
        static char path[sizeof world.manager.directory + 8];

        (void) snprintf(path, sizeof path, "%s/table", world.manager.directory);
        return path;
}

static uint8_t *read_table(size_t *ret_size) {
        _cleanup_close_ int fd = open(table_path(), O_RDONLY | O_CLOEXEC);
        uint8_t *bytes;
        struct stat st;

        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(fstat(fd, &st), 0);
        bytes = malloc((size_t) st.st_size);
        ck_assert_int_eq(read(fd, bytes, (size_t) st.st_size), st.st_size);
        *ret_size = (size_t) st.st_size;
        return bytes;
}

static void write_table(const uint8_t *bytes, size_t size) {
        _cleanup_close_ int fd = open(table_path(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(write(fd, bytes, size), (ssize_t) size);
}

/* ---- Opening ---- */

START_TEST(fresh) {
        struct stat st;

        world_init();
        ck_assert_int_eq(stat(table_path(), &st), 0);
        ck_assert_int_eq(st.st_mode & 07777, 0600);
        ck_assert_int_gt(st.st_size, 0);
        /* Blocks, not a hole. */
        ck_assert_int_ge(st.st_blocks * 512, st.st_size);
        restore();
        ck_assert_mem_eq(&world.report, &(StoreReport){}, sizeof world.report);
        restart();
        ck_assert_uint_eq(world.manager.n, ENDS);
        ck_assert_uint_eq(world.manager.removed, 0);
        world_done();
        ck_assert_ptr_null(store_free(NULL));
}
END_TEST

/* What a runtime directory must not be, or have in it. */
START_TEST(unusable_directories) {
        char directory[sizeof world.manager.directory];
        size_t before;

        world_init();
        stop();
        memcpy(directory, world.manager.directory, sizeof directory);
        before = count_fds();
        (void) snprintf(world.manager.directory, sizeof world.manager.directory, "%.250s/absent", directory);
        ck_assert_int_eq(open_store(), -ENOENT);
        (void) snprintf(world.manager.directory, sizeof world.manager.directory, "%.250s/table", directory);
        ck_assert_int_eq(open_store(), -ENOTDIR);
        memcpy(world.manager.directory, directory, sizeof directory);
        ck_assert_int_eq(unlink(table_path()), 0);
        ck_assert_int_eq(symlink("/dev/null", table_path()), 0);
        ck_assert_int_eq(open_store(), -ELOOP);
        ck_assert_int_eq(unlink(table_path()), 0);
        ck_assert_int_eq(mkdir(table_path(), 0700), 0);
        ck_assert_int_eq(open_store(), -EISDIR);
        ck_assert_int_eq(rmdir(table_path()), 0);
        ck_assert_int_eq(mkfifo(table_path(), 0600), 0);
        ck_assert_int_eq(open_store(), -EINVAL);
        ck_assert_int_eq(unlink(table_path()), 0);
        ck_assert_ptr_null(world.store);
        ck_assert_uint_eq(count_fds(), before);
        start();
        world_done();
}
END_TEST

/* Tells the parent that it has the store, and holds it until it is killed. */
static void hold_store(int pipe_fd) {
        bool held = open_store() == 0;

        (void) !write(pipe_fd, &held, sizeof held);
        for (;;)
                (void) pause();
}

static void kill_child(pid_t pid) {
        int status;

        ck_assert_int_eq(kill(pid, SIGKILL), 0);
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

START_TEST(busy) {
        PassedSockets sockets = {};
        bool held = false;
        size_t before, i;
        int pipes[2];
        pid_t pid;

        world_init();
        i = keep_new();
        stop();
        ck_assert_int_eq(pipe2(pipes, O_CLOEXEC), 0);
        pid = fork();
        ck_assert_int_ge(pid, 0);
        if (pid == 0)
                hold_store(pipes[1]);
        ck_assert_int_eq(read(pipes[0], &held, sizeof held), sizeof held);
        ck_assert(held);
        before = count_fds();
        manager_pass(&world.manager, &sockets);
        ck_assert_int_eq(store_new(world.manager.directory, &sockets, MANY, MANY, &world.report, &world.store), -EBUSY);
        /* What was passed is still there, for store_abandon(). */
        ck_assert_uint_eq(sockets.n, ENDS);
        for (size_t j = 0; j < ENDS; j++)
                ck_assert_int_ge(sockets.items[j].fd, 0);
        passed_sockets_done(&sockets);
        ck_assert_uint_eq(count_fds(), before);
        ck_assert(is_connected(world.members[i].pair.peer));
        kill_child(pid);
        start();
        check_restored();
        safe_close(pipes[0]);
        safe_close(pipes[1]);
        world_done();
}
END_TEST

/* Ends that are missing, or something else: the lot was never used and is made anew. */
START_TEST(incomplete_lots) {
        static const char *const names[] = {"epmd-lot-0-in", "epmd-lot-0-out", "epmd-lot-1-in", "epmd-lot-1-out"};

        size_t before = 0, i;

        world_init();
        for (size_t step = 0; step < 2 * ARRAY_SIZE(names); step++) {
                const char *name = names[step % ARRAY_SIZE(names)];
                size_t removed;

                stop();
                manager_let_go(&world.manager, name);
                if (step >= ARRAY_SIZE(names)) {
                        int null = open("/dev/null", O_RDWR | O_CLOEXEC);

                        ck_assert_int_ge(null, 0);
                        ck_assert_int_eq(systemd_store(name, null), 0);
                        safe_close(null);
                }
                removed = world.manager.removed;
                ck_assert_int_eq(open_store(), 0);
                /* All that is left of it goes before its names are given again. */
                ck_assert_uint_eq(world.manager.removed - removed, step < ARRAY_SIZE(names) ? 1 : 2);
                ck_assert_uint_eq(world.manager.n, ENDS);
                for (size_t j = 0; j < ARRAY_SIZE(names); j++)
                        (void) held_fd(&world.manager, names[j]);
                restore();
                i = keep_new();
                restart();
                drop(i);
                pair_done(&world.members[i].pair);
                if (step > 0)
                        ck_assert_uint_eq(count_fds(), before);
                before = count_fds();
        }
        world_done();
}
END_TEST

/* ---- Keeping and restoring ---- */

static void check_byte_arrives(size_t i) {
        struct pollfd poller = {.fd = world.members[i].pair.fd, .events = POLLIN};
        uint8_t byte = (uint8_t) i;

        if (send(world.members[i].pair.peer, &byte, 1, MSG_NOSIGNAL) != 1 ||
            poll(&poller, 1, FDS_TIMEOUT_MSEC) != 1 || recv(poller.fd, &byte, 1, MSG_DONTWAIT) != 1 ||
            byte != (uint8_t) i)
                ck_abort_msg("what node%zu sends does not arrive", i);
}

START_TEST(restarts) {
        world_init();
        for (unsigned generation = 0; generation < 5; generation++) {
                size_t first = world.n, n;

                for (size_t i = 0; i < 200; i++)
                        (void) keep_new();
                for (size_t i = generation; i < world.n; i += 3)
                        if (world.members[i].kept) {
                                drop(i);
                                check_ended(world.members[i].pair.peer, "dropped");
                        }
                restart();
                n = 0;
                for (size_t i = 0; i < world.n; i++)
                        n += world.members[i].kept;
                ck_assert_uint_eq(world.report.restored, n);
                ck_assert_uint_eq(world.report.released, 0);
                for (size_t i = first; i < world.n; i++)
                        if (world.members[i].kept)
                                check_byte_arrives(i);
        }
        world_done();
}
END_TEST

/* Records without a connection: a released name, and a node that was killed between its record and its parking. */
START_TEST(records_alone) {
        size_t released, untold, unparked, kept;

        world_init();
        released = add_member();
        ck_assert_int_eq(put_record(released, world.members[released].cookie, false), 0);
        unparked = add_member();
        ck_assert_int_eq(put_record(unparked, world.members[unparked].cookie, true), 0);
        table_tell(store_table(world.store), world.members[unparked].slot);
        /* Its process was killed before it could say so. */
        untold = add_member();
        ck_assert_int_eq(put_record(untold, world.members[untold].cookie, true), 0);
        kept = keep_new();
        restart();
        ck_assert_uint_eq(world.members[released].absent, 1);
        ck_assert_uint_eq(world.members[unparked].absent, 1);
        ck_assert_uint_eq(world.members[untold].absent, 1);
        ck_assert_uint_eq(world.members[kept].absent, 0);
        ck_assert_uint_eq(world.report.restored, 1);
        ck_assert_uint_eq(world.report.released, 1);
        ck_assert_uint_eq(world.report.lost, 1);
        world_done();
}
END_TEST

/* One that was released while it is still parked: its connection is ended, for nobody serves it. */
START_TEST(released_but_parked) {
        size_t i;

        world_init();
        i = keep_new();
        table_release(store_table(world.store), world.members[i].slot);
        world.members[i].kept = false;
        stop();
        start();
        ck_assert_uint_eq(world.members[i].absent, 1);
        ck_assert_uint_eq(world.members[i].found, 0);
        check_ended(world.members[i].pair.peer, "released");
        world_done();
}
END_TEST

/* A daemon that does not want any of them: they are dropped from the store. */
static int refuse(void *userdata, uint32_t slot, const TableRecord *record, int fd) {
        size_t *n = userdata;

        (void) record;
        (*n)++;
        table_erase(store_table(world.store), slot);
        (void) shutdown(fd, SHUT_RDWR);
        safe_close(fd);
        return false;
}

START_TEST(refused) {
        size_t n = 0, before;

        world_init();
        for (size_t i = 0; i < 40; i++)
                (void) keep_new();
        stop();
        before = count_fds();
        ck_assert_int_eq(open_store(), 0);
        ck_assert_int_eq(store_restore(world.store, refuse, &n, &world.report), 0);
        ck_assert_uint_eq(n, 40);
        ck_assert_uint_eq(world.report.restored, 0);
        ck_assert_uint_eq(world.report.released, 40);
        for (size_t i = 0; i < world.n; i++) {
                world.members[i].kept = false;
                check_ended(world.members[i].pair.peer, "refused");
        }
        /* They leave the lots with the other dead ones. */
        for (size_t i = 0, fewest = SIZE_MAX; fewest > 20; i++) {
                size_t other = keep_new();

                drop(other);
                pair_done(&world.members[other].pair);
                fewest = size_min(fewest, count_in_flight(&world.manager));
                if (i > 2 * DEAD_SLACK)
                        ck_abort_msg("%zu stay in the lots", fewest);
        }
        stop();
        ck_assert_uint_eq(count_fds(), before);
        start();
        check_restored();
        world_done();
}
END_TEST

/* Handing over without a service manager in between, while the former still has all. */
START_TEST(passed_on) {
        PassedSockets sockets = {};

        world_init();
        for (size_t i = 0; i < 50; i++)
                (void) keep_new();
        ck_assert_int_eq(store_pass_on(world.store, &sockets), 0);
        ck_assert_uint_eq(sockets.n, ENDS);
        stop();
        manager_done(&world.manager);
        ck_assert_int_eq(
                store_new(world.manager.directory, &sockets, MANY, MANY, &world.report, &world.store), 0);
        passed_sockets_done(&sockets);
        restore();
        check_restored();
        world_done();
}
END_TEST

/* A process that could not store a whole lot has left an end of it, and the service manager did not hear that the next
 * one does not want it: that end comes first, under the name of one that is in use. */
START_TEST(ends_of_nothing) {
        size_t before = 0;

        world_init();
        for (size_t i = 0; i < ENDS; i++) {
                PassedSockets sockets = {};
                const char *name = world.manager.held[i].name;
                Lot lot;

                (void) keep_new();
                stop();
                if (i > 0)
                        ck_assert_uint_eq(count_fds(), before + 1);
                before = count_fds();
                ck_assert_int_eq(lot_new(&lot), 0);
                ck_assert_int_eq(passed_sockets_add_copy(&sockets, i % 2 == 0 ? lot.in : lot.out, name), 0);
                lot_done(&lot);
                manager_pass(&world.manager, &sockets);
                ck_assert_int_eq(store_new(world.manager.directory, &sockets, MANY, MANY, &world.report, &world.store), 0);
                /* Nothing is left over that somebody could take for a socket to be served. */
                for (size_t j = 0; j < sockets.n; j++)
                        ck_assert_int_eq(sockets.items[j].fd, -1);
                passed_sockets_done(&sockets);
                restore();
                check_restored();
        }
        world_done();
}
END_TEST

/* Nodes that are given up notice, and can register again; also where the service manager has not heard of it yet. */
START_TEST(abandoned) {
        PassedSockets sockets = {};
        size_t before;

        world_init();
        for (size_t i = 0; i < 50; i++)
                (void) keep_new();
        stop();
        before = count_fds();
        manager_pass(&world.manager, &sockets);
        ck_assert_int_eq(passed_sockets_add_copy(&sockets, world.manager.socket, "epmd.socket"), 0);
        store_abandon(&sockets, true);
        /* What is not the store's is left alone. */
        ck_assert_int_ge(sockets.items[ENDS].fd, 0);
        passed_sockets_done(&sockets);
        ck_assert_uint_eq(count_fds(), before);
        for (size_t i = 0; i < world.n; i++)
                check_ended(world.members[i].pair.peer, "abandoned");
        ck_assert_uint_eq(world.manager.n, ENDS);
        manager_hear(&world.manager);
        ck_assert_uint_eq(world.manager.n, 0);
        world_done();
}
END_TEST

/* A store that cannot be opened has taken nothing: another process can open it, or it can be abandoned. Here the second
 * lot was lost, and for a new one there is no descriptor left. */
START_TEST(nothing_taken_in_vain) {
        enum { DESCRIPTORS = 256 };
        PassedSockets sockets = {};
        struct rlimit limit, low;
        int fds[DESCRIPTORS];
        size_t n = 0;

        world_init();
        (void) keep_new();
        stop();
        for (size_t i = 0; i < 2; i++)
                ck_assert_int_eq(
                        passed_sockets_add_copy(&sockets, world.manager.held[i].fd, world.manager.held[i].name), 0);
        ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
        low = limit;
        low.rlim_cur = DESCRIPTORS;
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &low), 0);
        while ((fds[n] = fcntl(world.manager.socket, F_DUPFD_CLOEXEC, 0)) >= 0)
                n++;
        /* For the directory and the table. */
        safe_close(fds[--n]);
        safe_close(fds[--n]);
        ck_assert_int_eq(store_new(world.manager.directory, &sockets, MANY, MANY, &world.report, &world.store), -EMFILE);
        while (n > 0)
                safe_close(fds[--n]);
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
        ck_assert(is_connected(world.members[0].pair.peer));
        store_abandon(&sockets, true);
        check_ended(world.members[0].pair.peer, "abandoned");
        passed_sockets_done(&sockets);
        world_done();
}
END_TEST

/* The table grows, by as many of the largest records as were promised room, and no further than that. */
START_TEST(table_grows) {
        enum { RECORDS = 300 };
        size_t n;
        struct stat st;

        world_init();
        stop();
        ck_assert_int_eq(unlink(table_path()), 0);
        world.records_max = RECORDS;
        world.name_len = PROTO_NAME_BYTES_MAX;
        ck_assert_int_eq(open_store(), 0);
        (void) add_member();
        copy_members(RECORDS);
        for (size_t i = 0; i < RECORDS; i++)
                keep(i);
        restart();
        ck_assert_uint_eq(world.report.restored, RECORDS);
        /* Half of the records' room is Extra, which these do not have. */
        for (n = world.n; world.n < MEMBERS_MAX && add_member() == n && try_keep(n) == 0; n++)
                continue;
        ck_assert_uint_gt(n, RECORDS);
        ck_assert_uint_lt(n, MEMBERS_MAX);
        ck_assert_int_eq(try_keep(n), STORE_NOT_KEPT);
        ck_assert_int_eq(stat(table_path(), &st), 0);
        ck_assert_int_le(st.st_size, (RECORDS + 1) * TABLE_RECORD_BLOCKS_MAX * TABLE_BLOCK_SIZE + 64 * 1024);
        restart();
        ck_assert_uint_eq(world.report.restored, n);
        drop(RECORDS);
        renew(n);
        keep(n);
        restart();
        world_done();
}
END_TEST

/* The limit was lowered, or the file system made smaller: who is registered stays, wherever his record is. */
START_TEST(limit_lowered) {
        enum { ALL = 200, LEFT = 5 };

        world_init();
        world.name_len = PROTO_NAME_BYTES_MAX;
        for (size_t i = 0; i < ALL; i++)
                (void) keep_new();
        for (size_t i = 0; i < ALL - LEFT; i++)
                drop(i);
        world.records_max = 2 * LEFT;
        restart();
        ck_assert_uint_eq(world.report.restored, LEFT);
        (void) keep_new();
        restart();
        ck_assert_uint_eq(world.report.restored, LEFT + 1);
        world_done();
}
END_TEST

/* ---- Killed at any moment ---- */

enum { KILL_MEMBERS = 60, SPARE = KILL_MEMBERS, KILLS = 120 };

enum { UNUSED, KEEPING, KEPT, DROPPING, DROPPED };

/* What the process says of itself before and after whatever it does, in memory that outlives it. */
typedef struct Diary {
        uint32_t count;
        uint32_t failed;
        uint32_t spare_counter; /* of the one that comes and goes */
        uint32_t states[KILL_MEMBERS];
} Diary;

static void say(uint32_t *what, uint32_t value) {
        __atomic_store_n(what, value, __ATOMIC_SEQ_CST);
}

/* One that comes and goes all the time, so that the lots are tidied up most of the time. */
static void hurry(Diary *diary) {
        Member *spare = &world.members[SPARE];

        for (unsigned n = 0; n < 4; n++) {
                say(&diary->spare_counter, ++spare->counter);
                if (try_keep(SPARE) != 0)
                        say(&diary->failed, 2);
                table_erase(store_table(world.store), spare->slot);
                store_drop(world.store, spare->slot);
        }
}

/* Takes over, then keeps and drops at random until it is killed. */
static void live_on(Diary *diary, uint64_t state) {
        int r = open_store();

        if (r < 0)
                say(&diary->failed, (uint32_t) r);
        else
                restore();
        for (unsigned step = 0; step < 8 * KILL_MEMBERS; step++) {
                size_t i = unit_random(&state) % KILL_MEMBERS;

                hurry(diary);

                if (diary->states[i] == UNUSED) {
                        say(&diary->states[i], KEEPING);
                        r = try_keep(i);
                        if (r != 0)
                                say(&diary->failed, (uint32_t) r);
                        say(&diary->states[i], KEPT);
                } else if (diary->states[i] == KEPT && unit_random(&state) % 4 == 0) {
                        say(&diary->states[i], DROPPING);
                        drop(i);
                        say(&diary->states[i], DROPPED);
                }
                __atomic_add_fetch(&diary->count, 1, __ATOMIC_SEQ_CST);
        }
        for (;;)
                (void) pause();
}

/* Nodes that are gone are replaced by others, under their names. */
static void renew_members(Diary *diary) {
        for (size_t i = 0; i < KILL_MEMBERS; i++) {
                if (diary->states[i] == KEPT)
                        continue;
                renew(i);
                diary->states[i] = UNUSED;
        }
        renew(SPARE);
        diary->spare_counter = world.members[SPARE].counter;
        world.counter += 100000;
}

static void check_states(Diary *diary, unsigned round) {
        for (size_t i = 0; i < KILL_MEMBERS; i++) {
                Member *member = &world.members[i];
                uint32_t state = diary->states[i];

                if (member->found > 1 || member->found + member->absent > 1 ||
                    (state == KEPT && member->found != 1) ||
                    ((state == UNUSED || state == DROPPED) && member->found + member->absent != 0))
                        ck_abort_msg("kill %u: node%zu, in state %u, is restored %zu times, without connection %zu "
                                     "times",
                                     round, i, state, member->found, member->absent);
                if (member->found == 1 && state != DROPPING && !is_connected(member->pair.peer))
                        ck_abort_msg("kill %u: node%zu noticed it", round, i);
                diary->states[i] = state != DROPPING && member->found == 1 ? KEPT : DROPPED;
                if (state == DROPPING && member->found == 1)
                        drop(i);
        }
}

static void wait_for_count(const Diary *diary, uint32_t n) {
        const time_t deadline = time(NULL) + UNIT_TIMEOUT / 2;

        while (__atomic_load_n(&diary->count, __ATOMIC_SEQ_CST) < n && time(NULL) < deadline)
                (void) sched_yield();
        if (__atomic_load_n(&diary->count, __ATOMIC_SEQ_CST) < n)
                ck_abort_msg("the process does nothing");
}

static void kill_round(Diary *diary, unsigned round, uint64_t *state) {
        uint32_t n = unit_random(state) % 4 == 0 ? 0 : unit_random(state) % (4 * KILL_MEMBERS);
        unsigned turns = unit_random(state) % (n == 0 ? 500000 : 5000);
        uint64_t seed = unit_random(state);
        pid_t pid;

        renew_members(diary);
        diary->count = 0;
        pid = fork();
        ck_assert_int_ge(pid, 0);
        if (pid == 0)
                live_on(diary, seed);
        for (size_t i = 0; i < world.n; i++)
                world.members[i].pair.fd = safe_close(world.members[i].pair.fd);
        wait_for_count(diary, n);
        for (volatile unsigned i = 0; i < turns; i++)
                continue;
        kill_child(pid);
        ck_assert_int_eq((int) diary->failed, 0);
        world.members[SPARE].counter = diary->spare_counter;
        start();
        ck_assert_uint_eq(world.report.damaged + world.report.mismatched + world.report.foreign, 0);
        check_states(diary, round);
        if (world.members[SPARE].found > 0)
                drop(SPARE);
        stop();
}

START_TEST(killed) {
        Diary *diary = mmap(NULL, sizeof *diary, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        uint64_t state = (uint64_t) _i;
        size_t before;

        ck_assert_ptr_ne(diary, MAP_FAILED);
        world_init();
        limit_buffers(&world.manager, SMALLEST_BUFFER);
        for (size_t i = 0; i <= SPARE; i++)
                (void) add_member();
        stop();
        renew_members(diary);
        before = count_fds();
        for (unsigned round = 0; round < KILLS; round++)
                kill_round(diary, round, &state);
        renew_members(diary);
        ck_assert_uint_le(count_fds(), before);
        ck_assert_uint_le(count_in_flight(&world.manager), 2 * KILL_MEMBERS + DEAD_SLACK + 1);
        world_done();
        ck_assert_int_eq(munmap(diary, sizeof *diary), 0);
}
END_TEST

/* Killed at its very first start: the manager may have got some of the ends. */
START_TEST(killed_at_first_start) {
        uint64_t state = 1;

        for (unsigned round = 0; round < 40; round++) {
                unsigned turns = unit_random(&state) % 100000;
                pid_t pid;

                memset(&world, 0, sizeof world);
                world.records_max = world.in_flight_max = MANY;
                manager_init(&world.manager);
                pid = fork();
                ck_assert_int_ge(pid, 0);
                if (pid == 0)
                        hold_store(-1);
                for (volatile unsigned i = 0; i < turns; i++)
                        continue;
                kill_child(pid);
                ck_assert_int_eq(open_store(), 0);
                ck_assert_uint_eq(world.manager.n, ENDS);
                ck_assert(!world.report.foreign);
                restore();
                (void) keep_new();
                restart();
                world_done();
        }
}
END_TEST

/* ---- Damage ---- */

/* Two connections that are parked under each other's records: neither gets the other's name. */
START_TEST(swapped) {
        size_t a, b, c, before;

        world_init();
        a = add_member();
        b = add_member();
        c = keep_new();
        ck_assert_int_eq(put_record(a, world.members[a].cookie, true), 0);
        ck_assert_int_eq(put_record(b, world.members[b].cookie, true), 0);
        ck_assert_int_eq(store_keep(world.store, world.members[a].slot, world.members[a].counter,
                                    world.members[b].pair.fd), 0);
        ck_assert_int_eq(store_keep(world.store, world.members[b].slot, world.members[b].counter,
                                    world.members[a].pair.fd), 0);
        stop();
        before = count_fds();
        start();
        ck_assert_uint_eq(world.report.mismatched, 2);
        ck_assert_uint_eq(world.report.restored, 1);
        ck_assert_uint_eq(world.report.released, 2);
        ck_assert_uint_eq(world.members[a].absent, 1);
        ck_assert_uint_eq(world.members[b].absent, 1);
        ck_assert_uint_eq(world.members[c].found, 1);
        check_ended(world.members[a].pair.peer, "swapped");
        check_ended(world.members[b].pair.peer, "swapped");
        stop();
        ck_assert_uint_eq(count_fds(), before);
        start();
        check_restored();
        world_done();
}
END_TEST

/* The nodes that are not restored have noticed it; those that are have not. Returns how many are. */
static size_t check_either(unsigned round) {
        size_t found = 0;

        for (size_t i = 0; i < world.n; i++) {
                Member *member = &world.members[i];

                if (!member->kept)
                        continue;
                if (member->found > 1)
                        ck_abort_msg("round %u: node%zu is restored twice", round, i);
                if (member->found == 0)
                        check_ended(member->pair.peer, "not restored");
                else if (!is_connected(member->pair.peer))
                        ck_abort_msg("round %u: node%zu noticed it", round, i);
                member->kept = member->found == 1;
                found += member->found;
        }
        return found;
}

static void damage_table(uint64_t *state) {
        size_t size, n = 1 + unit_random(state) % 8;
        _cleanup_free_ uint8_t *bytes = read_table(&size);
        /* Where the records are. */
        size_t used = size_min(size, 60 * TABLE_BLOCK_SIZE);

        for (size_t i = 0; i < n; i++)
                bytes[unit_random(state) % used] ^= (uint8_t) (1 + unit_random(state) % 255);
        if (unit_random(state) % 6 == 0)
                size = unit_random(state) % used;
        write_table(bytes, size);
}

START_TEST(damaged) {
        uint64_t state = (uint64_t) _i;
        size_t all = 0, found = 0, reported = 0;

        world_init();
        for (unsigned round = 0; round < 60; round++) {
                size_t n = 0;

                world.name_len = round % 3 == 0 ? 300 : 0;
                stop();
                write_table(NULL, 0);
                for (size_t i = 0; i < world.n; i++)
                        pair_done(&world.members[i].pair);
                world.n = 0;
                start();
                for (; n < 12; n++)
                        (void) keep_new();
                stop();
                damage_table(&state);
                start();
                all += n;
                found += check_either(round);
                reported += world.report.damaged;
                /* The table can be used again. */
                for (size_t i = 0; i < 20; i++)
                        (void) keep_new();
                restart();
        }
        /* What is sound is kept: of a few damaged bytes the most is. */
        ck_assert_uint_gt(found, all / 4);
        ck_assert_uint_lt(found, all);
        ck_assert_uint_gt(reported, 0);
        world_done();
}
END_TEST

typedef struct Strange {
        const char *label;
        size_t at;     /* the byte that is another; SIZE_MAX: none */
        size_t size;   /* 0: all */
        bool foreign;
} Strange;

static const Strange stranges[] = {
        {"another magic", 0, 0, true},
        {"another version", 8, 0, true},
        {"another size of blocks", 12, 0, true},
        {"not even one block", SIZE_MAX, TABLE_BLOCK_SIZE - 1, true},
        {"one byte", SIZE_MAX, 1, true},
        {"nothing", SIZE_MAX, 0, false},
};

START_TEST(foreign_table) {
        enum { OLD = 100, NEW = 30 };
        const Strange *row = &stranges[_i];
        size_t size, before;
        _cleanup_free_ uint8_t *bytes = NULL;

        world_init();
        /* So large that the new one is only a part of it. */
        world.name_len = PROTO_NAME_BYTES_MAX;
        for (size_t i = 0; i < OLD; i++)
                (void) keep_new();
        stop();
        bytes = read_table(&size);
        ck_assert_uint_gt(size, 64 * 1024);
        if (row->at != SIZE_MAX)
                bytes[row->at]++;
        write_table(bytes, row->at != SIZE_MAX ? size : row->size);
        before = count_fds();
        start();
        ck_assert_int_eq(world.report.foreign, row->foreign);
        ck_assert_uint_eq(world.report.restored + world.report.released + world.report.damaged, 0);
        for (size_t i = 0; i < world.n; i++) {
                check_ended(world.members[i].pair.peer, row->label);
                world.members[i].kept = false;
                ck_assert_uint_eq(world.members[i].absent, 0);
        }
        /* It serves, and what it keeps from now on is its own. */
        world.name_len = 0;
        for (size_t i = 0; i < NEW; i++)
                (void) keep_new();
        restart();
        ck_assert_uint_eq(world.report.restored, NEW);
        ck_assert_uint_eq(world.report.released, 0);
        stop();
        /* But for the peers of those. */
        ck_assert_uint_eq(count_fds(), before + NEW);
        world_done();
}
END_TEST

/* ---- A full file system ---- */

enum { DISK_SIZE = 320 * 1024 };

/* A small one in the runtime directory, for this process alone: it goes with it. */
static bool write_file(const char *path, const char *text) {
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

        return fd >= 0 && write(fd, text, strlen(text)) == (ssize_t) strlen(text);
}

/* A mount namespace; who is not root needs one of users for that, in which he is himself. */
static bool enter_mount_namespace(void) {
        uid_t uid = geteuid();
        gid_t gid = getegid();
        char uids[32], gids[32];

        if (uid == 0)
                return unshare(CLONE_NEWNS) == 0;
        (void) snprintf(uids, sizeof uids, "%u %u 1", uid, uid);
        (void) snprintf(gids, sizeof gids, "%u %u 1", gid, gid);
        return unshare(CLONE_NEWNS | CLONE_NEWUSER) == 0 && write_file("/proc/self/setgroups", "deny") &&
               write_file("/proc/self/uid_map", uids) && write_file("/proc/self/gid_map", gids);
}

static bool mount_disk(const char *directory) {
        char options[32];

        (void) snprintf(options, sizeof options, "size=%d", DISK_SIZE);
        return enter_mount_namespace() && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
               mount("tmpfs", directory, "tmpfs", 0, options) == 0;
}

static bool may_mount(void) {
        return mount_disk(base);
}

static void fill_disk(const char *path) {
        static const char bytes[4096];
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

        ck_assert_int_ge(fd, 0);
        while (write(fd, bytes, sizeof bytes) > 0)
                continue;
        ck_assert_int_eq(errno, ENOSPC);
}

START_TEST(disk_full) {
        char filler[sizeof world.manager.directory + 8];
        struct stat st;
        size_t kept = 0;

        world_init();
        stop();
        ck_assert(mount_disk(world.manager.directory));
        (void) snprintf(filler, sizeof filler, "%s/filler", world.manager.directory);
        /* Not even for an empty table. */
        fill_disk(filler);
        ck_assert_int_eq(open_store(), -ENOSPC);
        ck_assert_int_eq(unlink(filler), 0);
        start();
        fill_disk(filler);
        world.name_len = PROTO_NAME_BYTES_MAX;
        while (add_member() == kept && try_keep(kept) == 0)
                kept++;
        ck_assert_uint_gt(kept, 20);
        ck_assert_int_eq(try_keep(kept), STORE_NOT_KEPT);
        restart();
        ck_assert_uint_eq(world.report.restored, kept);
        /* There is room when another one has ended, */
        renew(kept);
        ck_assert_int_eq(try_keep(kept), STORE_NOT_KEPT);
        drop(3);
        keep(kept);
        /* and when the disk has. */
        ck_assert_int_eq(try_keep(add_member()), STORE_NOT_KEPT);
        ck_assert_int_eq(unlink(filler), 0);
        (void) try_keep(add_member());
        for (size_t i = 0; i < 100; i++)
                (void) keep_new();
        /* Half of it is for others. */
        while (try_keep(add_member()) == 0)
                ;
        ck_assert_int_eq(stat(table_path(), &st), 0);
        ck_assert_int_le(st.st_size, DISK_SIZE * 2 / 3);
        restart();
        world_done();
}
END_TEST

/* ---- All of them ---- */

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw) {
        (void) st;
        (void) type;
        (void) ftw;
        return remove(path);
}

static void add_tests(Suite *suite) {
        TCase *opening = unit_case(suite, "opening"), *keeping = unit_case(suite, "keeping"),
              *kills = unit_case(suite, "kills"), *damages = unit_case(suite, "damage"),
              *disk = unit_case(suite, "disk");
        static TTest skipped;

        tcase_add_test(opening, fresh);
        tcase_add_test(opening, unusable_directories);
        tcase_add_test(opening, busy);
        tcase_add_test(opening, incomplete_lots);
        tcase_add_test(opening, ends_of_nothing);
        tcase_add_test(keeping, restarts);
        tcase_add_test(keeping, records_alone);
        tcase_add_test(keeping, released_but_parked);
        tcase_add_test(keeping, refused);
        tcase_add_test(keeping, passed_on);
        tcase_add_test(keeping, abandoned);
        tcase_add_test(keeping, nothing_taken_in_vain);
        tcase_add_test(keeping, table_grows);
        tcase_add_test(keeping, limit_lowered);
        tcase_add_loop_test(kills, killed, 0, 2);
        tcase_add_test(kills, killed_at_first_start);
        tcase_add_test(damages, swapped);
        tcase_add_loop_test(damages, damaged, 0, 2);
        tcase_add_loop_test(damages, foreign_table, 0, ARRAY_SIZE(stranges));
        if (succeeds_in_child(may_mount))
                tcase_add_test(disk, disk_full);
        else
                add_skipped(disk, &skipped, "disk_full # SKIP this process may not mount a file system");
}

int main(void) {
        const char *parent = getenv("TMPDIR");
        Suite *suite = suite_create("store");
        int status;

        (void) snprintf(base, sizeof base, "%.200s/epmd-check-store.XXXXXX", parent && *parent ? parent : "/tmp");
        if (!mkdtemp(base)) {
                printf("Bail out! Failed to make a directory like %s: %s\n", base, strerror(errno));
                return EXIT_FAILURE;
        }
        add_tests(suite);
        status = unit_main(suite);
        (void) nftw(base, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
        return status;
}
