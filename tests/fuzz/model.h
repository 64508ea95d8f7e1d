/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What an epmd does, said a second time and as plainly as can be: arrays, linear searches, the rules of
 * epmd-protocol(7) in their order. Shares no code with the daemon, whose every answer is compared with its own. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "registry.h"

enum {
        MODEL_NODES_MAX = 16,
        MODEL_OLD_MAX = 512,
        MODEL_GIVEN_MAX = 1024,
        MODEL_ANSWER_MAX = 1024 * 1024,
        MODEL_ROOT = 0,
        MODEL_SELF = 999, /* the user that the daemon is */
};

/* The reservations that the model knows; for the daemon as its option. */
#define MODEL_RESERVE "r:1000 p*:1001"

/* What a request is by itself. */
enum {
        MODEL_SILENT = 1,
        MODEL_REFUSE,
        MODEL_FINE,
};

typedef struct ModelRequest {
        uint8_t tag;
        const uint8_t *name, *extra;
        size_t name_len, extra_len;
        uint16_t port, highest, lowest;
        uint8_t type, protocol;
} ModelRequest;

typedef struct ModelNode {
        int conn;
        int fd;
        size_t serial; /* the order of registration */
        uint8_t name[1020], extra[1020];
        size_t name_len, extra_len;
        uint16_t port, highest, lowest;
        uint8_t type, protocol;
        bool uid_known;
        uint32_t uid;
        uint32_t creation;
} ModelNode;

/* Who asks. */
typedef struct ModelPeer {
        int conn;
        int fd; /* that DUMP shows for the connection */
        bool local;
        uint16_t port; /* that listings say */
        bool uid_known;
        uint32_t uid;
} ModelPeer;

typedef enum ModelVerdict {
        MODEL_CLOSE, /* after the answer, if there is one */
        MODEL_REGISTERED,
        MODEL_STOP,
        MODEL_EXIT,
} ModelVerdict;

typedef struct ModelAnswer {
        ModelVerdict verdict;
        int stopped; /* MODEL_STOP: the connection that ends */
        size_t n;
        size_t creation_at; /* from here to the end it may be any; n: none */
        uint8_t data[MODEL_ANSWER_MAX];
} ModelAnswer;

typedef struct Model {
        bool relaxed;
        size_t nodes_max, user_nodes_max;
        size_t n, n_old, n_given, serial;
        ModelNode nodes[MODEL_NODES_MAX]; /* the oldest first */
        ModelNode old[MODEL_OLD_MAX];     /* the one released first */
        uint32_t given[MODEL_GIVEN_MAX];  /* creations */
} Model;

/* What has been read of a connection. */
typedef struct ModelStream {
        size_t n, want; /* want: 0 while the length is not known */
        size_t behind;  /* bytes that came with the end of the packet, and are not read yet */
        uint8_t data[PROTO_PACKET_MAX];
} ModelStream;

/* What a connection is after reading. */
enum {
        MODEL_INCOMPLETE,
        MODEL_COMPLETE,
        MODEL_BROKEN,
};

int model_read(ModelStream *stream, const uint8_t *data, size_t n);

void model_init(Model *model, bool relaxed, size_t nodes_max, size_t user_nodes_max);
int model_parse(const uint8_t *body, size_t n, ModelRequest *ret);
void model_ask(Model *model, const ModelPeer *peer, const uint8_t *body, size_t n, ModelAnswer *ret);
void model_register(Model *model, const ModelPeer *peer, const uint8_t *body, size_t n, const ModelAnswer *answer,
                    const uint8_t *told);
void model_end(Model *model, int conn);
void model_forget(Model *model, const uint8_t *name, size_t n);
void model_adopt(Model *model, const Registry *registry);
void model_restart(Model *model);
void model_compare(const Model *model, const Registry *registry, void *(*connection)(void *userdata, int conn),
                   void *userdata);
