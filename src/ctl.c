/* SPDX-License-Identifier: Apache-2.0 */

/* epmdctl: the tool for people. Here is its beginning and its end; each command is in its own file. */

#include <langinfo.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "config.h"
#include "ctl_options.h"
#include "ctl_print.h"
#include "ctl_verbs.h"
#include "inherited.h"

extern char **environ;

/* Names are UTF-8 whatever the locale says, and the widths of columns depend on it. Numbers have a point in every
 * language, as the page says. */
static void set_locale(void) {
        (void) setlocale(LC_ALL, "");
        (void) setlocale(LC_NUMERIC, "C");
        if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
                (void) setlocale(LC_CTYPE, "C.UTF-8");
}

static int run(const CtlOptions *options) {
        switch (options->verb) {
        case VERB_LIST:
                return ctl_list(options);
        case VERB_LOOKUP:
                return ctl_lookup(options);
        case VERB_REGISTER:
                return ctl_register(options);
        case VERB_CHECK:
                return ctl_check(options);
        case VERB_STATS:
                return ctl_stats(options);
        case VERB_HELP:
                (void) fputs(ctl_options_help(), stdout);
                return CTL_OK;
        case VERB_VERSION:
                (void) puts("epmdctl (" PACKAGE_NAME ") " PACKAGE_VERSION);
                return CTL_OK;
        }
        return CTL_FAILED;
}

/* Ends as the command that was run did, so that a service manager does not take a SIGTERM that was passed on for a
 * failure. Its core, not ours, is the one to look at. */
static int end_by_signal(int number) {
        sigset_t set;

        (void) setrlimit(RLIMIT_CORE, &(const struct rlimit){});
        (void) signal(number, SIG_DFL);
        (void) sigemptyset(&set);
        (void) sigaddset(&set, number);
        (void) sigprocmask(SIG_UNBLOCK, &set, NULL);
        (void) raise(number);
        return 128 + number;
}

int main(int argc, char **argv) {
        char error[VALUE_ERROR_MAX];
        CtlOptions options;
        int status, r;

        if (inherited_complete() < 0)
                return CTL_FAILED;
        set_locale();
        if (ctl_options_parse(argc, argv, environ, &options, error) < 0) {
                ctl_say("%s", error);
                return CTL_USAGE;
        }
        status = run(&options);
        r = ctl_flush();
        if (r < 0) {
                ctl_say("failed to write the output: %s", ERR_TEXT(r));
                status = CTL_FAILED;
        }
        return status < 0 ? end_by_signal(-status) : status;
}
