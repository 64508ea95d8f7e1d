/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl_ask.h"

#include <stdio.h>
#include <string.h>

#include "ctl_print.h"
#include "nodelist.h"

/* Whether what the caller calls a host, NULL or a name, is this one; nobody is asked. */
bool ask_is_local(const char *host) {
        return !host || strcmp(host, "localhost") == 0;
}

/* Whether an epmd can have answered that. */
static bool is_answer(uint8_t tag, const ClientReply *reply) {
        NodeInfo info;
        uint8_t result;
        uint16_t port;

        if (tag == TAG_PORT2_REQ)
                return proto_parse_port2_reply(reply->data, reply->n, &result, &info) == 0;
        return proto_parse_listing(reply->data, reply->n, &port) == 0;
}

static AskResult judge(int r, const Request *request, const ClientReply *reply) {
        if (r < 0)
                return ASK_FAILED;
        switch (r) {
        case CLIENT_NO_SERVER:
                return ASK_NO_SERVER;
        case CLIENT_TIMEOUT:
                return reply->connected ? ASK_SILENT : ASK_UNREACHABLE;
        case CLIENT_TOO_LONG:
                return ASK_NOT_EPMD;
        default:
                break;
        }
        if (reply->n == 0)
                return ASK_CLOSED;
        return is_answer(request->tag, reply) ? ASK_ANSWERED : ASK_NOT_EPMD;
}

/* Asks at one address. timeout: µs for all of it. *ret is set in every case, as is *ret_reply, which is to be freed
 * with client_reply_done(). Returns what *ret says, too. */
AskResult ask_address(const Address *address, const Request *request, uint64_t timeout, Attempt *ret,
                      ClientReply *ret_reply) {
        int r = client_call(address, request, timeout, ret_reply);

        *ret = (Attempt){
                .address = *address,
                .result = judge(r, request, ret_reply),
                .error = r < 0 ? r : ret_reply->error,
        };
        return ret->result;
}

/* Where the epmd of a host may be: this host's at ::1 and 127.0.0.1, in the order of epmd -names. */
static int find_addresses(const char *host, const CtlOptions *options, AddressList *ret, const char **ret_why) {
        const Address loopbacks[] = {client_loopback(AF_INET6, options->port),
                                     client_loopback(AF_INET, options->port)};
        AddressList list = {};
        int r = 0;

        if (!ask_is_local(host))
                return resolve_host(host, options->port, options->timeout, ret, ret_why);
        for (size_t i = 0; i < ARRAY_SIZE(loopbacks) && r >= 0; i++)
                r = resolve_list_add(&list, &loopbacks[i]);
        if (r < 0)
                resolve_list_done(&list);
        else
                *ret = list;
        return r;
}

/* Asks at one address after the other until one answers.
 *
 * host: NULL for this one. *ret is to be freed with asked_done(). Returns 0, whether anyone answered or not, or a
 * negative errno. */
int ask_host(const char *host, const Request *request, const CtlOptions *options, Asked *ret) {
        AddressList addresses = {};
        Asked asked = {};
        int r;

        r = find_addresses(host, options, &addresses, &asked.unresolved);
        if (r < 0)
                return r;
        asked.attempts = calloc(addresses.n + 1, sizeof *asked.attempts);
        for (size_t i = 0; asked.attempts && i < addresses.n; i++) {
                client_reply_done(&asked.reply);
                if (ask_address(&addresses.items[i], request, options->timeout, &asked.attempts[asked.n++],
                                &asked.reply) == ASK_ANSWERED)
                        break;
        }
        resolve_list_done(&addresses);
        if (!asked.attempts)
                return -ENOMEM;
        *ret = asked;
        return 0;
}

/* Whether an epmd has answered; asked->reply is its answer then. */
bool ask_answered(const Asked *asked) {
        return asked->n > 0 && asked->attempts[asked->n - 1].result == ASK_ANSWERED;
}

/* What happened at an address, as the end of a sentence that begins with it. Always returns buffer. */
const char *attempt_text(const Attempt *attempt, const CtlOptions *options, char buffer[ATTEMPT_TEXT_MAX]) {
        uint64_t milliseconds = options->timeout / USEC_PER_MSEC;
        double seconds = (double) milliseconds / 1000;
        const char *text = "answered";

        switch (attempt->result) {
        case ASK_ANSWERED:
                break;
        case ASK_NO_SERVER:
        case ASK_FAILED:
                text = ERR_TEXT(attempt->error);
                break;
        case ASK_UNREACHABLE:
                (void) snprintf(buffer, ATTEMPT_TEXT_MAX, "no connection within %g s", seconds);
                return buffer;
        case ASK_SILENT:
                (void) snprintf(buffer, ATTEMPT_TEXT_MAX, "accepts connections, but did not answer within %g s",
                                seconds);
                return buffer;
        case ASK_CLOSED:
                text = "closed the connection without an answer";
                break;
        case ASK_NOT_EPMD:
                text = "what listens there is no epmd";
                break;
        }
        (void) snprintf(buffer, ATTEMPT_TEXT_MAX, "%s", text);
        return buffer;
}

/* Says on stderr what happened at each address, where none has answered, and what to do. host: as it was asked, NULL
 * for this one. */
void ask_explain(const Asked *asked, const char *host, const CtlOptions *options) {
        char address[ADDRESS_TEXT_MAX], text[ATTEMPT_TEXT_MAX];

        if (asked->unresolved)
                ctl_say("%s: %s; see what its name resolves to with: getent ahosts %s", host, asked->unresolved, host);
        for (size_t i = 0; i < asked->n; i++)
                ctl_say("%s: %s", address_format(&asked->attempts[i].address, address),
                        attempt_text(&asked->attempts[i], options, text));
        ctl_say("no epmd answers on port %u of %s; what is wrong is told by: epmdctl check%s%s",
                (unsigned) options->port, host ? host : "this host", host ? " " : "", host ? host : "");
}

/* Frees what the struct owns. */
void asked_done(Asked *asked) {
        free(asked->attempts);
        client_reply_done(&asked->reply);
        *asked = (Asked){};
}
