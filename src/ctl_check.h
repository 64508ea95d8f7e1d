/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the parts of "epmdctl check" share: the facts found so far, and how a finding is printed. */

#include <jansson.h>
#include <stdbool.h>

#include "ctl_ask.h"
#include "ctl_options.h"
#include "listening.h"
#include "nodelist.h"
#include "resolve.h"
#include "util.h"

typedef enum Severity {
        SEVERITY_OK,
        SEVERITY_NOTE,    /* good to know; not counted */
        SEVERITY_WARNING, /* works, but not for everyone or not for long */
        SEVERITY_PROBLEM,
} Severity;

typedef struct Check {
        CtlOptions options;
        const char *host; /* NULL: this one */
        Severity worst;
        json_t *findings;      /* owned; NULL: they are printed one by one */
        AddressList own;       /* of this host's interfaces */
        AddressList addresses; /* where an epmd should answer */
        bool answered;
        Address from;            /* which of them has answered */
        NodeList nodes;          /* that it listed */
        bool ours;               /* it is the one that speaks Varlink */
        pid_t varlink_listener;  /* who opened that socket, or 0 */
        ListeningList listening; /* of this host, all ports */
} Check;

void check_say(Check *check, Severity severity, const char *what, const char *cure, const char *format, ...)
        _printf_(5, 6);
bool check_is_public(const Address *address);
const char *check_addresses_text(const ListeningList *list, uint16_t port, char *buffer, size_t size);

void check_environment(Check *check);
void check_name(Check *check);
void check_ports(Check *check);
void check_listener(Check *check);
void check_exposure(Check *check);
void check_nodes(Check *check);
