/* SPDX-License-Identifier: Apache-2.0 */

/* Requests put together from what several connections send, answered by the service from the registry, which writes
 * its table and is brought back from it: all of the daemon but its sockets. The input is a sequence of operations;
 * after each the model must agree. */

#include "frame.h"
#include "fuzz.h"
#include "memory.h"
#include "model.h"
#include "script.h"
#include "service.h"

enum {
        NODES_MAX = 6,
        USER_NODES_MAX = 3,
        TABLE_SIZE = 256 * TABLE_BLOCK_SIZE,
        FIRST_FD = 100,
        OPERATIONS_MAX = 400,
        MEMORY_FAULTS = 8, /* one of the next so many allocations fails */
};

/* The daemon's idea of a connection. */
typedef struct Connection {
        bool open;
        Peer peer;
        Holder holder;
        Node *node;
        Frame frame;
        ModelStream stream;
        uint64_t cookie;
} Connection;

typedef struct World {
        Registry *registry;
        Service *service;
        Reserve reserve;
        Table table;
        void *memory;
        uint64_t cookies;
        bool relaxed;
        bool unstored; /* a node found no room in the table */
        Connection conns[SCRIPT_CONNS];
} World;

static const uint8_t seed[SIPHASH_KEY_SIZE];
static Model model;
static ModelAnswer answer;

static bool no_user(const char *user, size_t n, uint32_t *ret) {
        (void) user;
        (void) n;
        (void) ret;
        return false;
}

static void start(World *world, uint32_t counter) {
        const ServiceConfig config = {
                .relaxed = world->relaxed,
                .default_port = 4369,
                .own_uid = MODEL_SELF,
                .user_nodes_max = USER_NODES_MAX,
                .reserve = &world->reserve,
        };

        /* Without memory there is none; asked again, there is. */
        if (registry_new(seed, counter, NODES_MAX, &world->table, &world->registry) != 0) {
                EXPECT(memory_failed && !world->registry);
                EXPECT(registry_new(seed, counter, NODES_MAX, &world->table, &world->registry) == 0);
        }
        if (service_new(world->registry, &config, &world->service) != 0) {
                EXPECT(memory_failed && !world->service);
                EXPECT(service_new(world->registry, &config, &world->service) == 0);
        }
}

static void stop(World *world) {
        world->service = service_free(world->service);
        world->registry = registry_free(world->registry);
}

static ModelPeer model_peer(const World *world, int number) {
        const Connection *conn = &world->conns[number];

        return (ModelPeer){
                .conn = number,
                .fd = conn->holder.fd,
                .local = conn->peer.local,
                .port = conn->peer.address.family == AF_UNIX ? 4369 : conn->peer.port_reached,
                .uid_known = conn->holder.owner.known,
                .uid = conn->holder.owner.uid,
        };
}

/* The name is remembered, unless there is no memory for that. */
static void release(World *world, int number) {
        Node *node = world->conns[number].node;
        size_t n = registry_released_count(world->registry), name_len = node_info(node).name_len;
        uint8_t name[PROTO_NAME_BYTES_MAX];

        memcpy(name, node_info(node).name, name_len);
        registry_remove(world->registry, node);
        model_end(&model, number);
        if (registry_released_count(world->registry) > n)
                return;
        EXPECT(memory_failed);
        model_forget(&model, name, name_len);
}

static void end_connection(World *world, int number) {
        Connection *conn = &world->conns[number];

        if (conn->node)
                release(world, number);
        frame_done(&conn->frame);
        *conn = (Connection){};
}

static int number_of(const World *world, const Node *node) {
        return (int) ((const Connection *) node_holder(node) - world->conns);
}

/* ---- Requests ---- */

static void check_answer(const Response *response) {
        size_t more = response->listing ? listing_size(response->listing) : 0;

        EXPECT(response->len + more == answer.n);
        EXPECT(memcmp(response->data, answer.data, size_min(response->len, answer.creation_at)) == 0);
        if (more > 0)
                EXPECT(memcmp(listing_data(response->listing), answer.data + response->len, more) == 0);
}

static void end_all_nodes(World *world) {
        for (int i = 0; i < SCRIPT_CONNS; i++)
                if (world->conns[i].node)
                        end_connection(world, i);
}

static void handle(World *world, int number, const uint8_t *body, size_t n) {
        static const ModelVerdict verdicts[] = {MODEL_CLOSE, MODEL_REGISTERED, MODEL_CLOSE, MODEL_STOP, MODEL_EXIT};
        Connection *conn = &world->conns[number];
        ModelPeer peer = model_peer(world, number);
        Response response;
        int r;

        model_ask(&model, &peer, body, n, &answer);
        r = service_handle(world->service, &conn->peer, body, n, &conn->holder, 1, &response);
        if (r < 0 || response.refusal == REFUSAL_NO_MEMORY) {
                EXPECT(memory_failed && (r == 0 || r == -ENOMEM));
                EXPECT(r < 0 || (response.len == answer.n && response.data[1] == 1));
                end_connection(world, number);
                return;
        }
        EXPECT(verdicts[response.verdict] == answer.verdict);
        EXPECT((response.verdict == VERDICT_REFUSED) == (response.refusal != REFUSAL_NONE));
        EXPECT(refusal_text(response.refusal));
        check_answer(&response);
        switch (response.verdict) {
        case VERDICT_REGISTERED:
                conn->node = response.node;
                world->unstored |= node_slot(conn->node) == TABLE_NO_SLOT;
                model_register(&model, &peer, body, n, &answer, response.data);
                frame_done(&conn->frame);
                registry_tell(world->registry, response.node);
                return;
        case VERDICT_STOP:
                EXPECT(number_of(world, response.node) == answer.stopped);
                end_connection(world, number_of(world, response.node));
                break;
        case VERDICT_EXIT:
                end_all_nodes(world);
                break;
        default:
                break;
        }
        end_connection(world, number);
}

/* ---- Operations ---- */

static void open_connection(World *world, const ScriptOperation *op) {
        Connection *conn = &world->conns[op->conn];
        const ScriptPeer *peer = &op->peer;

        if (conn->open)
                end_connection(world, op->conn);
        conn->open = true;
        conn->peer = (Peer){
                .address = {.family = peer->unix_socket ? AF_UNIX : AF_INET},
                .port_reached = peer->unix_socket ? 0 : 4370,
                .local = peer->local,
        };
        conn->cookie = ++world->cookies;
        conn->holder = (Holder){
                .connection = conn,
                .fd = FIRST_FD + op->conn,
                .cookie = conn->cookie,
                .owner = {.known = peer->uid_known, .uid = peer->uid, .unit = (const uint8_t *) "unit", .unit_len = 4},
        };
}

/* Bytes come together; the daemon reads them as the frame asks. */
static void receive(World *world, int number, const uint8_t *data, size_t n) {
        Connection *conn = &world->conns[number];
        int want = model_read(&conn->stream, data, n), r = 0;
        uint8_t *scratch = __real_malloc(PROTO_PACKET_MAX), *space;
        const uint8_t *body = NULL;
        size_t size, body_n = 0;

        EXPECT(scratch);
        while (n > 0 && r == 0) {
                frame_space(&conn->frame, scratch, &space, &size);
                EXPECT(size > 0);
                size = size_min(size, n);
                memcpy(space, data, size);
                data += size;
                n -= size;
                r = frame_filled(&conn->frame, scratch, size, &body, &body_n);
        }
        EXPECT(r == 0 || r == FRAME_COMPLETE || r == FRAME_BAD_LENGTH || r == FRAME_TRAILING || r == -ENOMEM);
        EXPECT(r == -ENOMEM ? memory_failed
                            : want == (r == 0                ? MODEL_INCOMPLETE
                                       : r == FRAME_COMPLETE ? MODEL_COMPLETE
                                                             : MODEL_BROKEN));
        if (r == FRAME_COMPLETE) {
                EXPECT(body_n == conn->stream.n - 2 && memcmp(body, conn->stream.data + 2, body_n) == 0);
                EXPECT(conn->stream.behind == n);
                handle(world, number, body, body_n);
                /* A registered node says nothing. */
                if (conn->node && n > 0)
                        end_connection(world, number);
        } else if (r != 0)
                end_connection(world, number);
        free(scratch);
}

static void send_to(World *world, const ScriptOperation *op) {
        size_t step = op->piece > 0 ? op->piece : op->n;

        if (!world->conns[op->conn].open)
                open_connection(world, op);
        for (size_t at = 0; at < op->n && world->conns[op->conn].open; at += step) {
                if (world->conns[op->conn].node) {
                        end_connection(world, op->conn);
                        return;
                }
                receive(world, op->conn, op->data + at, size_min(step, op->n - at));
        }
}

/* ---- A new daemon ---- */

static Connection *holder_of(World *world, const TableRecord *record) {
        for (size_t i = 0; i < SCRIPT_CONNS; i++)
                if (world->conns[i].node && world->conns[i].cookie == record->cookie)
                        return &world->conns[i];
        return NULL;
}

/* Returns false when there was no memory, and all is stored as it was. */
static bool restore_record(World *world, uint32_t slot, const TableRecord *record) {
        Connection *conn = record->live ? holder_of(world, record) : NULL;
        Holder holder;
        int r;

        EXPECT(!record->live == !conn);
        if (conn) {
                EXPECT(record->told);
                holder = (Holder){.connection = conn, .fd = conn->holder.fd, .cookie = conn->cookie};
        }
        r = registry_restore(world->registry, slot, record, conn ? &holder : NULL, conn ? &conn->node : NULL);
        EXPECT(r == 0 || (r == -ENOMEM && memory_failed));
        return r == 0;
}

/* The next slot in the order of registration, behind a serial; 0: none is left. */
static uint32_t next_slot(const World *world, uint64_t *serial) {
        uint64_t best = UINT64_MAX, one;
        uint32_t found = 0;

        for (uint32_t slot = 1; slot < world->table.n_blocks; slot++)
                if (table_serial(&world->table, slot, &one) && one > *serial && one < best) {
                        best = one;
                        found = slot;
                }
        *serial = best;
        return found;
}

static bool restart(World *world) {
        uint8_t payload[TABLE_PAYLOAD_MAX];
        uint64_t serial = 0;
        uint32_t slot, counter;
        size_t damaged = 1;
        TableRecord record;

        stop(world);
        if (table_open(&world->table, world->memory, TABLE_SIZE, &damaged) != 0) {
                EXPECT(memory_failed);
                EXPECT(table_open(&world->table, world->memory, TABLE_SIZE, &damaged) == 0);
        }
        EXPECT(damaged == 0);
        EXPECT(table_get_counter(&world->table, &counter));
        start(world, counter);
        while ((slot = next_slot(world, &serial)) != 0) {
                EXPECT(table_get(&world->table, slot, payload, &record) == 0);
                if (!restore_record(world, slot, &record))
                        return false;
        }
        return true;
}

/* ---- The whole ---- */

static void *connection_of(void *userdata, int conn) {
        World *world = userdata;

        EXPECT(world->conns[conn].node && node_holder(world->conns[conn].node) == &world->conns[conn]);
        return &world->conns[conn];
}

static void perform(World *world, const ScriptOperation *op) {
        switch (op->kind) {
        case SCRIPT_OPEN:
                open_connection(world, op);
                break;
        case SCRIPT_SEND:
                send_to(world, op);
                break;
        case SCRIPT_RESTART:
                if (world->unstored)
                        break;
                if (!restart(world))
                        EXPECT(restart(world));
                model_restart(&model);
                break;
        case SCRIPT_FAULT:
                memory_fail(1 + op->fault % MEMORY_FAULTS);
                break;
        default:
                if (world->conns[op->conn].open)
                        end_connection(world, op->conn);
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        Input input = input_of(data, size);
        const char *bad;
        ScriptOperation op;
        World world = {.relaxed = input_u8(&input) & 1, .memory = __real_malloc(TABLE_SIZE)};
        size_t len;

        memory_fail(0);
        EXPECT(world.memory && reserve_parse(MODEL_RESERVE, no_user, &world.reserve, &bad, &len) == 0);
        table_format(&world.table, world.memory, TABLE_SIZE);
        model_init(&model, world.relaxed, NODES_MAX, USER_NODES_MAX);
        start(&world, 4);
        for (size_t i = 0; i < OPERATIONS_MAX && script_next(&input, &op); i++) {
                perform(&world, &op);
                model_compare(&model, world.registry, connection_of, &world);
        }
        memory_fail(0);
        for (int i = 0; i < SCRIPT_CONNS; i++)
                frame_done(&world.conns[i].frame);
        stop(&world);
        reserve_done(&world.reserve);
        free(world.memory);
        return 0;
}
