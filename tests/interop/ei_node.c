/* SPDX-License-Identifier: Apache-2.0 */

/* A C node on libei for the interop tests.
 *
 *   ei_node NAME COOKIE
 *
 * is the node NAME@127.0.0.1.  It obeys the commands on its standard input, one
 * to a line, and answers each with exactly one line, so that the test decides
 * the order of events between this node, the Erlang nodes and epmd:
 *
 *   publish        ei_publish: register with epmd
 *   close          close the connection of the registration
 *   unpublish      ei_unpublish: ask epmd to forget the name
 *   connect NODE   ei_connect: look NODE up and connect to it
 *   rpc            erlang:node() on the connected node
 *   accept         take a connection of a node that looked us up
 *   receive        the atom sent to us over it
 *
 * The answer is "ok", "ok ATOM" or "error ERRNO". */

#include <arpa/inet.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <ei.h>

/* Longer than any step takes, shorter than the test's own deadline. */
#define TIMEOUT_MS 10000U

typedef struct Node {
        ei_cnode cnode;
        const char *name;
        int listen_fd;
        int port;
        int epmd_fd;
        int peer_fd;
} Node;

static void answer(bool ok, const char *atom) {
        if (!ok)
                printf("error %d\n", erl_errno);
        else if (atom)
                printf("ok %s\n", atom);
        else
                printf("ok\n");
        (void) fflush(stdout);
}

/* Loopback only: ei_listen() would take every address of the host. */
static int node_init(Node *node, char *name, const char *cookie) {
        struct in_addr loopback = {.s_addr = htonl(INADDR_LOOPBACK)};
        char nodename[MAXNODELEN + 1];
        char host[] = "127.0.0.1";

        if (ei_init() != 0)
                return -1;
        (void) snprintf(nodename, sizeof(nodename), "%s@%s", name, host);
        if (ei_connect_xinit(&node->cnode, host, name, nodename, &loopback, cookie, 1) < 0)
                return -1;

        node->name = name;
        node->epmd_fd = -1;
        node->peer_fd = -1;
        node->port = 0;
        node->listen_fd = ei_xlisten(&node->cnode, &loopback, &node->port, 5);
        return node->listen_fd < 0 ? -1 : 0;
}

static void do_publish(Node *node) {
        node->epmd_fd = ei_publish_tmo(&node->cnode, node->port, TIMEOUT_MS);
        answer(node->epmd_fd >= 0, NULL);
}

static void do_close(Node *node) {
        answer(node->epmd_fd >= 0 && close(node->epmd_fd) == 0, NULL);
        node->epmd_fd = -1;
}

static void do_unpublish(Node *node) {
        answer(ei_unpublish_tmo(node->name, TIMEOUT_MS) >= 0, NULL);
}

static void set_peer(Node *node, int fd) {
        if (node->peer_fd >= 0)
                ei_close_connection(node->peer_fd);
        node->peer_fd = fd;
        answer(fd >= 0, NULL);
}

static void do_connect(Node *node, char *peer) {
        set_peer(node, ei_connect_tmo(&node->cnode, peer, TIMEOUT_MS));
}

static void do_accept(Node *node) {
        ErlConnect peer;

        set_peer(node, ei_accept_tmo(&node->cnode, node->listen_fd, &peer, TIMEOUT_MS));
}

static void do_rpc(Node *node) {
        char module[] = "erlang", function[] = "node", atom[MAXATOMLEN_UTF8];
        ei_x_buff arguments, result;
        int index = 0;
        bool ok;

        ei_x_new(&arguments);
        ei_x_encode_empty_list(&arguments);
        ei_x_new(&result);
        ok = ei_rpc(&node->cnode, node->peer_fd, module, function, arguments.buff, arguments.index, &result) >= 0 &&
             ei_decode_atom(result.buff, &index, atom) == 0;
        answer(ok, ok ? atom : NULL);
        ei_x_free(&arguments);
        ei_x_free(&result);
}

/* Skips the ticks that keep a distribution connection alive. */
static void do_receive(Node *node) {
        char atom[MAXATOMLEN_UTF8];
        int index = 0, version, r;
        erlang_msg message;
        ei_x_buff body;
        bool ok;

        ei_x_new(&body);
        do
                r = ei_xreceive_msg_tmo(node->peer_fd, &message, &body, TIMEOUT_MS);
        while (r == ERL_TICK);
        ok = r == ERL_MSG && ei_decode_version(body.buff, &index, &version) == 0 &&
             ei_decode_atom(body.buff, &index, atom) == 0;
        answer(ok, ok ? atom : NULL);
        ei_x_free(&body);
}

static int obey(Node *node, char *command) {
        static const struct {
                const char *word;
                void (*run)(Node *node);
        } commands[] = {
                {"publish", do_publish}, {"close", do_close},   {"unpublish", do_unpublish},
                {"rpc", do_rpc},         {"accept", do_accept}, {"receive", do_receive},
        };

        if (strncmp(command, "connect ", 8) == 0) {
                do_connect(node, command + 8);
                return 0;
        }
        for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
                if (strcmp(command, commands[i].word) == 0) {
                        commands[i].run(node);
                        return 0;
                }
        (void) fprintf(stderr, "ei_node: unknown command \"%s\": see the head of ei_node.c\n", command);
        return -EINVAL;
}

int main(int argc, char **argv) {
        char line[MAXNODELEN + 32];
        Node node = {};

        if (argc != 3) {
                (void) fprintf(stderr, "usage: ei_node NAME COOKIE\n");
                return EXIT_FAILURE;
        }
        if (node_init(&node, argv[1], argv[2]) < 0) {
                (void) fprintf(stderr, "ei_node: cannot become the node %s@127.0.0.1: erl_errno %d\n", argv[1], erl_errno);
                return EXIT_FAILURE;
        }
        while (fgets(line, sizeof(line), stdin)) {
                line[strcspn(line, "\n")] = '\0';
                if (obey(&node, line) < 0)
                        return EXIT_FAILURE;
        }
        return EXIT_SUCCESS;
}
