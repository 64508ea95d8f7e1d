/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Asking the epmd of a host at each of its addresses in turn, with what happened on each. */

#include "client.h"
#include "ctl_options.h"
#include "resolve.h"
#include "util.h"

enum { ATTEMPT_TEXT_MAX = 160 };

typedef enum AskResult {
        ASK_ANSWERED,
        ASK_NO_SERVER,   /* nothing accepts connections; see error */
        ASK_UNREACHABLE, /* not even a refusal came back */
        ASK_SILENT,      /* accepts, and does not answer */
        ASK_CLOSED,      /* accepts, and closes without an answer */
        ASK_NOT_EPMD,    /* answers something else */
        ASK_FAILED,      /* this side failed; see error */
} AskResult;

typedef struct Attempt {
        Address address;
        AskResult result;
        int error; /* a negative errno */
} Attempt;

/* All addresses that were tried, in order; the last has answered, if one has. */
typedef struct Asked {
        Attempt *attempts; /* owned */
        size_t n;
        ClientReply reply;
        const char *unresolved; /* why the host has no address, or NULL */
} Asked;

bool ask_is_local(const char *host);
AskResult ask_address(const Address *address, const Request *request, uint64_t timeout, Attempt *ret,
                      ClientReply *ret_reply);
int ask_host(const char *host, const Request *request, const CtlOptions *options, Asked *ret);
bool ask_answered(const Asked *asked);
const char *attempt_text(const Attempt *attempt, const CtlOptions *options, char buffer[ATTEMPT_TEXT_MAX]);
void ask_explain(const Asked *asked, const char *host, const CtlOptions *options);
void asked_done(Asked *asked);
