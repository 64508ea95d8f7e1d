/* SPDX-License-Identifier: Apache-2.0 */
#include "model.h"

#include "fuzz.h"

void model_init(Model *model, bool relaxed, size_t nodes_max, size_t user_nodes_max) {
        model->relaxed = relaxed;
        model->nodes_max = nodes_max;
        model->user_nodes_max = user_nodes_max;
        model->n = model->n_old = model->n_given = model->serial = 0;
}

/* ---- Packets ---- */

/* The daemon reads n bytes that have come together. What is behind a packet is seen only if it comes with its length.
 */
int model_read(ModelStream *stream, const uint8_t *data, size_t n) {
        while (n > 0) {
                size_t asked = stream->want > 0 ? stream->want - stream->n : sizeof stream->data - stream->n;
                size_t got = asked < n ? asked : n;

                memcpy(stream->data + stream->n, data, got);
                stream->n += got;
                data += got;
                n -= got;
                if (stream->n >= 2 && stream->want == 0) {
                        stream->want = 2U + (size_t) (stream->data[0] << 8 | stream->data[1]);
                        if (stream->want == 2 || stream->want > 2 + 3057 || stream->n > stream->want)
                                return MODEL_BROKEN;
                }
                stream->behind = n;
                if (stream->n == stream->want)
                        return MODEL_COMPLETE;
        }
        return MODEL_INCOMPLETE;
}

/* ---- Names ---- */

/* The length of the UTF-8 character at p, of which n bytes are there; 0: it is none. */
static size_t character(const uint8_t *p, size_t n) {
        uint32_t c;
        size_t len;

        if (p[0] < 0x80)
                return 1;
        if (p[0] >= 0xc0 && p[0] < 0xe0)
                len = 2, c = p[0] & 0x1f;
        else if (p[0] >= 0xe0 && p[0] < 0xf0)
                len = 3, c = p[0] & 0x0f;
        else if (p[0] >= 0xf0 && p[0] < 0xf8)
                len = 4, c = p[0] & 0x07;
        else
                return 0;
        if (len > n)
                return 0;
        for (size_t i = 1; i < len; i++) {
                if (p[i] < 0x80 || p[i] > 0xbf)
                        return 0;
                c = c << 6 | (p[i] & 0x3f);
        }
        if ((len == 2 && c < 0x80) || (len == 3 && c < 0x800) || (len == 4 && c < 0x10000))
                return 0;
        return c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff) ? 0 : len;
}

static bool is_name(const uint8_t *name, size_t n) {
        size_t characters = 0;

        for (size_t i = 0, len; i < n; i += len, characters++) {
                len = character(name + i, n - i);
                if (len == 0)
                        return false;
        }
        return n > 0 && n <= 1020 && characters <= 255;
}

static bool has_below(const uint8_t *name, size_t n, uint8_t least) {
        for (size_t i = 0; i < n; i++)
                if (name[i] < least)
                        return true;
        return false;
}

/* ---- Requests ---- */

static uint16_t number_at(const uint8_t *body, size_t at) {
        return (uint16_t) (body[at] << 8 | body[at + 1]);
}

static int parse_alive2(const uint8_t *body, size_t n, ModelRequest *ret) {
        if (n <= 13)
                return MODEL_SILENT;
        ret->port = number_at(body, 1);
        ret->type = body[3];
        ret->protocol = body[4];
        ret->highest = number_at(body, 5);
        ret->lowest = number_at(body, 7);
        ret->name_len = number_at(body, 9);
        ret->name = body + 11;
        if (ret->name_len + 13 > n)
                return MODEL_SILENT;
        ret->extra_len = number_at(body, 11 + ret->name_len);
        ret->extra = body + 13 + ret->name_len;
        if (ret->name_len + ret->extra_len + 13 > n || has_below(ret->name, ret->name_len, 1))
                return MODEL_SILENT;
        if (!is_name(ret->name, ret->name_len) || has_below(ret->name, ret->name_len, 32) ||
            memchr(ret->name, 127, ret->name_len) || ret->extra_len > 1020)
                return MODEL_REFUSE;
        return MODEL_FINE;
}

/* Returns what the request is by itself, whoever sends it. */
int model_parse(const uint8_t *body, size_t n, ModelRequest *ret) {
        *ret = (ModelRequest){};
        if (n == 0 || n > 3057)
                return MODEL_SILENT;
        ret->tag = body[0];
        switch (body[0]) {
        case 120:
                return parse_alive2(body, n, ret);
        case 122:
                ret->name = body + 1;
                ret->name_len = n - 1;
                ret->name_len -= ret->name_len > 0 && ret->name[ret->name_len - 1] == 0;
                return is_name(ret->name, ret->name_len) && !has_below(ret->name, ret->name_len, 1) ? MODEL_FINE
                                                                                                    : MODEL_SILENT;
        case 115:
                ret->name = body + 1;
                while (ret->name_len < n - 1 && ret->name[ret->name_len] != 0)
                        ret->name_len++;
                return n > 1 ? MODEL_FINE : MODEL_SILENT;
        case 110:
        case 100:
        case 107:
                return MODEL_FINE;
        default:
                return MODEL_SILENT;
        }
}

/* ---- Answers ---- */

static void put(ModelAnswer *answer, const void *data, size_t n) {
        EXPECT(answer->n + n <= sizeof answer->data);
        if (n > 0)
                memcpy(answer->data + answer->n, data, n);
        answer->n += n;
        answer->creation_at = answer->n;
}

static void put_number(ModelAnswer *answer, size_t bytes, uint64_t number) {
        while (bytes-- > 0) {
                uint8_t byte = (uint8_t) (number >> 8 * bytes);

                put(answer, &byte, 1);
        }
}

static void put_text(ModelAnswer *answer, const char *text) {
        put(answer, text, strlen(text));
}

static ModelNode *find(Model *model, const uint8_t *name, size_t n) {
        for (size_t i = 0; i < model->n; i++)
                if (model->nodes[i].name_len == n && memcmp(model->nodes[i].name, name, n) == 0)
                        return &model->nodes[i];
        return NULL;
}

static size_t count_of(const Model *model, uint32_t uid) {
        size_t n = 0;

        for (size_t i = 0; i < model->n; i++)
                n += model->nodes[i].uid_known && model->nodes[i].uid == uid;
        return n;
}

static bool is_reserved_for_another(const ModelRequest *request, const ModelPeer *peer) {
        if (peer->uid_known && peer->uid == MODEL_ROOT)
                return false;
        if (request->name_len == 1 && request->name[0] == 'r')
                return !peer->uid_known || peer->uid != 1000;
        return request->name[0] == 'p' && (!peer->uid_known || peer->uid != 1001);
}

static void answer_alive2(Model *model, const ModelPeer *peer, const ModelRequest *request, bool acceptable,
                          ModelAnswer *ret) {
        bool refused =
                !acceptable || is_reserved_for_another(request, peer) ||
                (peer->uid_known && peer->uid != MODEL_ROOT && count_of(model, peer->uid) >= model->user_nodes_max) ||
                find(model, request->name, request->name_len) || model->n >= model->nodes_max;
        size_t size = request->highest >= 6 ? 4 : 2;

        put_number(ret, 1, request->highest >= 6 ? 118 : 121);
        put_number(ret, 1, refused);
        put_number(ret, size, 99);
        if (!refused) {
                ret->verdict = MODEL_REGISTERED;
                ret->creation_at = ret->n - size;
        }
}

static void answer_port2(Model *model, const ModelRequest *request, ModelAnswer *ret) {
        const ModelNode *node = find(model, request->name, request->name_len);

        put_number(ret, 1, 119);
        put_number(ret, 1, !node);
        if (!node)
                return;
        put_number(ret, 2, node->port);
        put_number(ret, 1, node->type);
        put_number(ret, 1, node->protocol);
        put_number(ret, 2, node->highest);
        put_number(ret, 2, node->lowest);
        put_number(ret, 2, node->name_len);
        put(ret, node->name, node->name_len);
        put_number(ret, 2, node->extra_len);
        put(ret, node->extra, node->extra_len);
}

static void put_name_and_port(ModelAnswer *ret, const char *before, const ModelNode *node, const char *between) {
        char port[16];

        (void) snprintf(port, sizeof port, "%u", node->port);
        put_text(ret, before);
        put(ret, node->name, node->name_len);
        put_text(ret, between);
        put_text(ret, port);
}

/* The end of a line of DUMP has a NUL. */
static void put_descriptor(ModelAnswer *ret, const ModelNode *node, const char *end) {
        char fd[32];

        (void) snprintf(fd, sizeof fd, ", fd = %d", node->fd);
        put_text(ret, fd);
        put(ret, end, strlen(end) + 1);
}

static void answer_names(const Model *model, const ModelPeer *peer, ModelAnswer *ret) {
        put_number(ret, 4, peer->port);
        for (size_t i = model->n; i > 0; i--) {
                put_name_and_port(ret, "name ", &model->nodes[i - 1], " at port ");
                put_text(ret, "\n");
        }
}

static void answer_dump(const Model *model, const ModelPeer *peer, ModelAnswer *ret) {
        put_number(ret, 4, peer->port);
        for (size_t i = model->n; i > 0; i--) {
                put_name_and_port(ret, "active name     <", &model->nodes[i - 1], "> at port ");
                put_descriptor(ret, &model->nodes[i - 1], "\n");
        }
        for (size_t i = 0; i < model->n_old; i++) {
                put_name_and_port(ret, "old/unused name <", &model->old[i], ">, port = ");
                put_descriptor(ret, &model->old[i], " \n");
        }
}

static bool may_kill(const Model *model, const ModelPeer *peer) {
        bool others = false, known = false;

        for (size_t i = 0; i < model->n; i++) {
                others |= !model->nodes[i].uid_known || !peer->uid_known || model->nodes[i].uid != peer->uid;
                known |= model->nodes[i].uid_known;
        }
        if (model->n == 0 || !model->relaxed)
                return model->n == 0;
        if (!peer->uid_known)
                return !known;
        return peer->uid == MODEL_ROOT || peer->uid == MODEL_SELF || !others;
}

static void answer_stop(Model *model, const ModelPeer *peer, const ModelRequest *request, ModelAnswer *ret) {
        const ModelNode *node = find(model, request->name, request->name_len);

        if (!node) {
                put_text(ret, "NOEXIST");
                return;
        }
        if (node->uid_known && !(peer->uid_known && (peer->uid == MODEL_ROOT || peer->uid == node->uid)))
                return;
        put_text(ret, "STOPPED");
        ret->verdict = MODEL_STOP;
        ret->stopped = node->conn;
}

/* What the request, body of n bytes, is answered. A registration changes the model only with model_register(). */
void model_ask(Model *model, const ModelPeer *peer, const uint8_t *body, size_t n, ModelAnswer *ret) {
        ModelRequest request;
        int r = model_parse(body, n, &request);

        ret->verdict = MODEL_CLOSE;
        ret->stopped = -1;
        ret->n = ret->creation_at = 0;
        if (r == MODEL_SILENT || (!peer->local && request.tag != 'z' && request.tag != 'n'))
                return;
        switch (request.tag) {
        case 'x':
                answer_alive2(model, peer, &request, r == MODEL_FINE, ret);
                return;
        case 'z':
                answer_port2(model, &request, ret);
                return;
        case 'n':
                answer_names(model, peer, ret);
                return;
        case 'd':
                answer_dump(model, peer, ret);
                return;
        case 'k':
                ret->verdict = may_kill(model, peer) ? MODEL_EXIT : MODEL_CLOSE;
                put_text(ret, may_kill(model, peer) ? "OK" : "NO");
                return;
        default:
                if (model->relaxed)
                        answer_stop(model, peer, &request, ret);
        }
}

/* ---- Who is registered ---- */

static void remove_at(ModelNode *nodes, size_t *n, size_t at) {
        memmove(nodes + at, nodes + at + 1, (*n - at - 1) * sizeof *nodes);
        (*n)--;
}

/* A creation comes back for no name, and in the short form, which has only three, not for the same name at once. */
static void check_creation(Model *model, const ModelNode *node, const ModelNode *previous) {
        EXPECT(!previous || previous->creation != node->creation);
        if (node->highest < 6) {
                EXPECT(node->creation >= 1 && node->creation <= 3);
                return;
        }
        EXPECT(node->creation > 3);
        for (size_t i = 0; i < model->n_given; i++)
                EXPECT(model->given[i] != node->creation);
        if (model->n_given < MODEL_GIVEN_MAX)
                model->given[model->n_given++] = node->creation;
}

/* The registration with that request and answer has taken place. told: the answer of the daemon. */
void model_register(Model *model, const ModelPeer *peer, const uint8_t *body, size_t n, const ModelAnswer *answer,
                    const uint8_t *told) {
        ModelNode *node = &model->nodes[model->n], *previous = NULL;
        ModelRequest request;

        EXPECT(model_parse(body, n, &request) == MODEL_FINE && model->n < MODEL_NODES_MAX);
        node->conn = peer->conn;
        node->fd = peer->fd;
        node->serial = model->serial++;
        memcpy(node->name, request.name, request.name_len);
        memcpy(node->extra, request.extra, request.extra_len);
        node->name_len = request.name_len;
        node->extra_len = request.extra_len;
        node->port = request.port;
        node->highest = request.highest;
        node->lowest = request.lowest;
        node->type = request.type;
        node->protocol = request.protocol;
        node->uid_known = peer->uid_known;
        node->uid = peer->uid;
        node->creation = 0;
        for (size_t i = answer->creation_at; i < answer->n; i++)
                node->creation = node->creation << 8 | told[i];
        for (size_t i = 0; i < model->n_old; i++)
                if (model->old[i].name_len == node->name_len &&
                    memcmp(model->old[i].name, node->name, node->name_len) == 0)
                        previous = &model->old[i];
        check_creation(model, node, previous);
        if (previous)
                remove_at(model->old, &model->n_old, (size_t) (previous - model->old));
        model->n++;
}

/* The connection has ended, and with it what it held. */
void model_end(Model *model, int conn) {
        for (size_t i = 0; i < model->n; i++)
                if (model->nodes[i].conn == conn) {
                        EXPECT(model->n_old < MODEL_OLD_MAX);
                        model->old[model->n_old++] = model->nodes[i];
                        remove_at(model->nodes, &model->n, i);
                        return;
                }
}

static void adopt_node(Model *model, ModelNode *ret, const Node *node) {
        const NodeInfo info = node_info(node);
        const Owner owner = node_owner(node);

        ret->conn = -1;
        ret->fd = node_fd(node);
        ret->serial = model->serial++;
        memcpy(ret->name, info.name, info.name_len);
        memcpy(ret->extra, info.extra, info.extra_len);
        ret->name_len = info.name_len;
        ret->extra_len = info.extra_len;
        ret->port = info.port;
        ret->highest = info.highest_version;
        ret->lowest = info.lowest_version;
        ret->type = info.type;
        ret->protocol = info.protocol;
        ret->uid_known = owner.known;
        ret->uid = owner.uid;
        ret->creation = node_creation(node);
}

/* Takes over what the registry has, where it cannot be known what it should have. The connections are the caller's to
 * fill in. */
void model_adopt(Model *model, const Registry *registry) {
        model->n = registry_count(registry);
        model->n_old = 0;
        EXPECT(model->n <= model->nodes_max && registry_released_count(registry) <= MODEL_OLD_MAX);
        for (const Node *node = registry_oldest_released(registry); node; node = registry_newer_released(node))
                adopt_node(model, &model->old[model->n_old++], node);
        model->n = 0;
        for (const Node *node = registry_newest(registry); node; node = registry_older(node))
                model->n++;
        EXPECT(model->n == registry_count(registry));
        for (const Node *node = registry_newest(registry), *next; node; node = next) {
                next = registry_older(node);
                adopt_node(model, &model->nodes[--model->n], node);
        }
        model->n = registry_count(registry);
}

/* A new daemon has taken over. It knows the connections of those that are registered, and remembers the other names in
 * the order in which they were registered. */
void model_restart(Model *model) {
        static ModelNode moved;

        for (size_t i = 0; i < model->n_old; i++) {
                size_t at = i;

                model->old[i].fd = 0;
                moved = model->old[i];
                for (; at > 0 && model->old[at - 1].serial > moved.serial; at--)
                        model->old[at] = model->old[at - 1];
                model->old[at] = moved;
        }
}

/* A released name is not remembered: there was no memory for that. */
void model_forget(Model *model, const uint8_t *name, size_t n) {
        for (size_t i = 0; i < model->n_old; i++)
                if (model->old[i].name_len == n && memcmp(model->old[i].name, name, n) == 0) {
                        remove_at(model->old, &model->n_old, i);
                        return;
                }
        fuzz_failed("the name is remembered", __FILE__, __LINE__);
}

static void compare_node(const ModelNode *want, const Node *node) {
        NodeInfo info = node_info(node);
        Owner owner = node_owner(node);

        EXPECT(info.name_len == want->name_len && memcmp(info.name, want->name, want->name_len) == 0);
        EXPECT(info.extra_len == want->extra_len && memcmp(info.extra, want->extra, want->extra_len) == 0);
        EXPECT(info.port == want->port && info.type == want->type && info.protocol == want->protocol);
        EXPECT(info.highest_version == want->highest && info.lowest_version == want->lowest);
        EXPECT(owner.known == want->uid_known && (!owner.known || owner.uid == want->uid));
        EXPECT(node_creation(node) == want->creation);
}

/* Checks that the registry holds what the model does, in its order, each node under its name and with its connection,
 * and that its counts are those of what it holds. connection: the holder that a connection of the model is. */
void model_compare(const Model *model, const Registry *registry, void *(*connection)(void *userdata, int conn),
                   void *userdata) {
        const Node *node = registry_newest(registry);
        size_t known = 0;

        EXPECT(registry_count(registry) == model->n && registry_released_count(registry) == model->n_old);
        for (size_t i = model->n; i > 0; i--, node = registry_older(node)) {
                const ModelNode *want = &model->nodes[i - 1];
                const Owner owner = {.known = true, .uid = want->uid};

                EXPECT(node);
                compare_node(want, node);
                EXPECT(registry_find(registry, want->name, want->name_len) == node);
                EXPECT(node_holder(node) == connection(userdata, want->conn));
                EXPECT(registry_count_of(registry, &owner) == count_of(model, want->uid));
                known += want->uid_known;
        }
        EXPECT(!node && registry_count_known(registry) == known);
        node = registry_oldest_released(registry);
        for (size_t i = 0; i < model->n_old; i++, node = registry_newer_released(node)) {
                EXPECT(node && !node_holder(node));
                compare_node(&model->old[i], node);
        }
        EXPECT(!node);
}
