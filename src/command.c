/* SPDX-License-Identifier: Apache-2.0 */
#include "command.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "client.h"

enum {
        TIMEOUT_SECONDS = 5,
        UNEXPECTED_MAX = 100, /* bytes shown of a reply that is none */
};

static int explain_call(const Options *options, int r) {
        switch (r) {
        case CLIENT_NO_SERVER:
                (void) fprintf(stderr, "epmd: Cannot connect to local epmd\n");
                break;
        case CLIENT_TIMEOUT:
                (void) fprintf(stderr, "epmd: what listens on port %u of this host did not answer within %d seconds; "
                                       "see who it is with: ss -ltnp sport = :%u\n",
                               options->port, TIMEOUT_SECONDS, options->port);
                break;
        case CLIENT_TOO_LONG:
                (void) fprintf(stderr, "epmd: what listens on port %u of this host answers without end, it is no epmd\n",
                               options->port);
                break;
        default:
                (void) fprintf(stderr, "epmd: failed to ask the epmd on port %u of this host: %s\n", options->port,
                               ERR_TEXT(r));
        }
        return EXIT_FAILURE;
}

/* Whether this is an epmd's answer to NAMES_REQ or DUMP_REQ. */
static bool is_listing(const ClientReply *reply) {
        uint16_t port;

        return proto_parse_listing(reply->data, reply->n, &port) == 0;
}

/* The lines as they came, but for control characters of ASCII and of Latin-1, which would speak to the terminal. DUMP
 * has a NUL behind every line. */
static void print_lines(const uint8_t *data, size_t n) {
        for (size_t i = 0; i < n; i++)
                if (i + 1 < n && data[i] == 0xc2 && data[i + 1] >= 0x80 && data[i + 1] < 0xa0) {
                        /* U+009B is ESC [ to a terminal. */
                        (void) printf("\\x%02x\\x%02x", data[i], data[i + 1]);
                        i++;
                } else if ((data[i] < 0x20 && data[i] != '\n' && data[i] != 0) || data[i] == 0x7f)
                        (void) printf("\\x%02x", data[i]);
                else
                        (void) putchar(data[i]);
}

static int print_unexpected(const ClientReply *reply) {
        (void) printf("epmd: local epmd responded with <");
        print_lines(reply->data, size_min(reply->n, UNEXPECTED_MAX));
        (void) printf(">\n");
        return EXIT_FAILURE;
}

static int print_listing(const ClientReply *reply) {
        uint16_t port;

        if (reply->n < PROTO_LISTING_HEAD) {
                (void) printf("epmd: no response from local epmd\n");
                return EXIT_FAILURE;
        }
        if (proto_parse_listing(reply->data, reply->n, &port) != 0)
                return print_unexpected(reply);
        (void) printf("epmd: up and running on port %u with data:\n", (unsigned) port);
        print_lines(reply->data + PROTO_LISTING_HEAD, reply->n - PROTO_LISTING_HEAD);
        return EXIT_SUCCESS;
}

static bool reply_begins(const ClientReply *reply, const char *text) {
        return reply->n >= strlen(text) && memcmp(reply->data, text, strlen(text)) == 0;
}

/* What a reply of one word means: what to print, and the exit status. */
typedef struct Word {
        const char *word, *line;
        int status;
} Word;

static const Word kill_words[] = {
        {"OK", "Killed", EXIT_SUCCESS},
        {"NO", "Killing not allowed - living nodes in database.", EXIT_FAILURE},
};

/* Upstream sends NOEXISTSTOPPED for an unknown name: the first word counts. */
static const Word stop_words[] = {
        {"STOPPED", "STOPPED", EXIT_SUCCESS},
        {"NOEXIST", "NOEXIST", EXIT_FAILURE},
};

static int print_word(const ClientReply *reply, const Word words[], size_t n) {
        for (size_t i = 0; i < n; i++)
                if (reply_begins(reply, words[i].word)) {
                        (void) puts(words[i].line);
                        return words[i].status;
                }
        return print_unexpected(reply);
}

static int make_request(const Options *options, Request *ret) {
        static const uint8_t tags[] = {
                [COMMAND_NAMES] = TAG_NAMES_REQ,
                [COMMAND_STARTED] = TAG_NAMES_REQ,
                [COMMAND_DUMP] = TAG_DUMP_REQ,
                [COMMAND_KILL] = TAG_KILL_REQ,
                [COMMAND_STOP] = TAG_STOP_REQ,
        };

        *ret = (Request){.tag = tags[options->command]};
        if (options->command != COMMAND_STOP)
                return 0;
        if (strlen(options->stop_name) == 0 || strlen(options->stop_name) > PROTO_NAME_BYTES_MAX)
                return -EINVAL;
        ret->node.name = (const uint8_t *) options->stop_name;
        ret->node.name_len = (uint16_t) strlen(options->stop_name);
        return 0;
}

/* Asks the epmd of this host and prints what it says, as upstream's does. Returns the exit status. */
int command_run(const Options *options) {
        ClientReply reply;
        Request request;
        int r, status;

        if (make_request(options, &request) < 0) {
                (void) fprintf(stderr, "epmd: -stop needs the name of a node, of 1 to %d bytes\n", PROTO_NAME_BYTES_MAX);
                return EXIT_FAILURE;
        }
        r = client_call_local(options->port, &request, TIMEOUT_SECONDS * USEC_PER_SEC, &reply);
        if (options->command == COMMAND_STARTED)
                status = r == 0 && is_listing(&reply) ? EXIT_SUCCESS : EXIT_FAILURE;
        else if (r != 0)
                status = explain_call(options, r);
        else if (options->command == COMMAND_KILL)
                status = print_word(&reply, kill_words, ARRAY_SIZE(kill_words));
        else if (options->command == COMMAND_STOP)
                status = print_word(&reply, stop_words, ARRAY_SIZE(stop_words));
        else
                status = print_listing(&reply);
        client_reply_done(&reply);
        return status;
}
