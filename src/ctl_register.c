/* SPDX-License-Identifier: Apache-2.0 */

/* epmdctl register: holds a name for as long as a command runs, or this process. As a node does, it registers again
 * when it loses its epmd. */

#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "client.h"
#include "ctl_print.h"
#include "ctl_verbs.h"
#include "inherited.h"
#include "waiting.h"

enum {
        RETRY = 2,              /* seconds, as Erlang's nodes do */
        STATUS_NOT_FOUND = 127, /* the shell's, for a command that is not there */
        STATUS_NOT_RUN = 126,
};

extern char **environ;

typedef struct Hold {
        const CtlOptions *options;
        const char *name;
        char *shown;       /* owned; the name, escaped */
        int fd;            /* the registration, or -1 */
        Address address;   /* where it is, or was */
        uint32_t creation; /* that it has got */
        uint64_t retry_at; /* by the monotonic clock */
        int last;          /* how the last attempt ended; the same is said once */
        int signals;       /* signalfd */
        sigset_t mask;     /* of signals, before they went to the descriptor; the command gets it back */
        bool pipe_ignored; /* SIGPIPE, before; the same */
        pid_t child;       /* the command, or 0 */
} Hold;

static void hold_done(Hold *hold) {
        hold->fd = safe_close(hold->fd);
        hold->signals = safe_close(hold->signals);
        free(hold->shown);
}

static const char *register_problem(int r) {
        switch (r) {
        case CLIENT_TIMEOUT:
                return "no answer in time";
        case CLIENT_CLOSED:
                return "closed the connection without an answer; it is no epmd, or does not take this host for its "
                       "own";
        case CLIENT_MALFORMED:
                return "what listens there is no epmd";
        case CLIENT_REFUSED:
                return "refused: the name is taken, not valid, or reserved for somebody else, or there is no room; "
                       "see: epmdctl list, journalctl -u epmd";
        default:
                return ERR_TEXT(r);
        }
}

/* Registers at one address. Returns as client_register(). */
static int try_address(Hold *hold, const Address *address, int *ret_error) {
        const NodeInfo node = {
                .name = (const uint8_t *) hold->name,
                .name_len = (uint16_t) strlen(hold->name),
                .port = hold->options->node_port,
                .highest_version = PROTO_VERSION_LONG_CREATION,
                .lowest_version = PROTO_VERSION_LONG_CREATION - 1,
                .type = hold->options->type,
        };

        const WaitLimit limit = waiting_limit(hold->options->timeout, hold->signals);

        hold->address = *address;
        return client_register(address, &node, &limit, &hold->fd, &hold->creation, ret_error);
}

static void say_registered(const Hold *hold) {
        char text[ADDRESS_TEXT_MAX];

        if (!hold->options->quiet)
                ctl_say("%s is registered with %s, port %u, creation %" PRIu32, hold->shown,
                        address_format(&hold->address, text), (unsigned) hold->options->node_port, hold->creation);
}

/* Says why it failed, but not again and again. */
static void say_failure(Hold *hold, int r, int error) {
        char text[ADDRESS_TEXT_MAX];

        if (r == hold->last)
                return;
        if (r == CLIENT_NO_SERVER)
                ctl_say("no epmd at [::1]:%u or 127.0.0.1:%u: %s", (unsigned) hold->options->port,
                        (unsigned) hold->options->port, ERR_TEXT(error));
        else
                ctl_say("%s: %s", address_format(&hold->address, text), register_problem(r));
}

/* Registers at the first loopback address where there is an epmd. Returns 0, an outcome or a negative errno; -ECANCELED:
 * a signal has come. */
static int try_register(Hold *hold) {
        const Address ipv6 = client_loopback(AF_INET6, hold->options->port);
        const Address ipv4 = client_loopback(AF_INET, hold->options->port);
        int error = 0, r;

        r = try_address(hold, &ipv6, &error);
        if (r == CLIENT_NO_SERVER)
                r = try_address(hold, &ipv4, &error);
        hold->retry_at = waiting_now() + RETRY * USEC_PER_SEC;
        if (r == -ECANCELED)
                return r;
        if (r != 0)
                say_failure(hold, r, error);
        hold->last = r;
        return r;
}

/* Signals become readable, so that they and the connection are waited for together. Those that are ignored, as nohup(1)
 * has it, stay so; SIGCHLD may not, for then nobody learns how the command ended. */
static int take_signals(Hold *hold) {
        static const int ends[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM};
        sigset_t set;

        (void) signal(SIGCHLD, SIG_DFL);
        /* The name is not to go because nobody reads what is said of it. */
        hold->pipe_ignored = inherited_ignores(SIGPIPE);
        (void) signal(SIGPIPE, SIG_IGN);
        (void) sigemptyset(&set);
        (void) sigaddset(&set, SIGCHLD);
        for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
                if (!inherited_ignores(ends[i]))
                        (void) sigaddset(&set, ends[i]);
        if (sigprocmask(SIG_BLOCK, &set, &hold->mask) < 0)
                return -errno;
        hold->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        return hold->signals < 0 ? -errno : 0;
}

/* Starts the command. Returns 0 or the exit status. */
static int start_command(Hold *hold, char **argv) {
        posix_spawnattr_t attributes;
        sigset_t defaults;
        int error = posix_spawnattr_init(&attributes);

        (void) sigemptyset(&defaults);
        if (!hold->pipe_ignored)
                (void) sigaddset(&defaults, SIGPIPE);
        if (error == 0) {
                (void) posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
                (void) posix_spawnattr_setsigdefault(&attributes, &defaults);
                (void) posix_spawnattr_setsigmask(&attributes, &hold->mask);
                error = posix_spawnp(&hold->child, argv[0], NULL, &attributes, argv, environ);
                (void) posix_spawnattr_destroy(&attributes);
        }
        if (error == 0)
                return 0;
        hold->child = 0;
        ctl_say("failed to run %s: %s", argv[0], strerror(error));
        return error == ENOENT ? STATUS_NOT_FOUND : STATUS_NOT_RUN;
}

/* Whether the command has ended, and with which status, or minus which signal. */
static bool reap(const Hold *hold, int *ret_status) {
        int status;
        pid_t pid;

        if (hold->child <= 0)
                return false;
        pid = waitpid(hold->child, &status, WNOHANG);
        if (pid < 0) {
                /* It is nowhere: waiting for it would never end. */
                ctl_say("failed to learn how the command ended: %s", strerror(errno));
                *ret_status = CTL_FAILED;
                return true;
        }
        if (pid == 0)
                return false;
        *ret_status = WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
        return true;
}

/* Handles one signal. Returns whether it is the end, with the exit status. */
static bool handle_signal(const Hold *hold, const struct signalfd_siginfo *info, int *ret_status) {
        if (info->ssi_signo == SIGCHLD)
                return reap(hold, ret_status);
        if (hold->child <= 0) {
                *ret_status = CTL_OK;
                return true;
        }
        /* What the terminal sends, the command has got as well. It decides when it ends. */
        if (info->ssi_code != SI_KERNEL)
                (void) kill(hold->child, (int) info->ssi_signo);
        return false;
}

static bool handle_signals(const Hold *hold, int *ret_status) {
        struct signalfd_siginfo info;

        while (read(hold->signals, &info, sizeof info) == sizeof info)
                if (handle_signal(hold, &info, ret_status))
                        return true;
        return false;
}

/* Behind its reply an epmd sends nothing but the end. */
static void handle_connection(Hold *hold) {
        char text[ADDRESS_TEXT_MAX];
        uint8_t dropped[256];
        ssize_t n = recv(hold->fd, dropped, sizeof dropped, 0);

        if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)))
                return;
        hold->fd = safe_close(hold->fd);
        if (!hold->options->quiet)
                ctl_say("lost the epmd at %s; registering again", address_format(&hold->address, text));
}

static int poll_timeout(const Hold *hold) {
        uint64_t now = waiting_now();

        if (hold->fd >= 0)
                return -1;
        return now >= hold->retry_at ? 0 : (int) ((hold->retry_at - now) / USEC_PER_MSEC + 1);
}

/* Holds the name until the end. Returns as ctl_register(). */
static int hold_name(Hold *hold) {
        int status;

        for (;;) {
                struct pollfd polls[] = {{.fd = hold->signals, .events = POLLIN}, {.fd = hold->fd, .events = POLLIN}};
                int r = poll(polls, ARRAY_SIZE(polls), poll_timeout(hold));

                if (r < 0 && errno != EINTR) {
                        ctl_say("failed to wait: %s", strerror(errno));
                        return CTL_FAILED;
                }
                if (handle_signals(hold, &status))
                        return status;
                if (hold->fd >= 0 && r > 0 && polls[1].revents != 0)
                        handle_connection(hold);
                if (hold->fd < 0 && waiting_now() >= hold->retry_at && try_register(hold) == 0)
                        say_registered(hold);
        }
}

static bool is_name(const char *name) {
        size_t n = strlen(name);

        return n > 0 && n <= PROTO_NAME_BYTES_MAX && !strchr(name, '@');
}

/* Registers a name and holds it while the command, if there is one, runs, or until a signal. Returns the exit status,
 * or minus the signal by which the command ended. */
int ctl_register(const CtlOptions *options) {
        _cleanup_(hold_done) Hold hold = {.options = options, .name = options->arguments[0], .fd = -1, .signals = -1};
        int r, status;

        if (!is_name(hold.name)) {
                ctl_say("\"%s\" is not the name of a node: give 1 to %d bytes without @, the host is this one",
                        hold.name, PROTO_NAME_BYTES_MAX);
                return CTL_USAGE;
        }
        hold.shown = ctl_escape(hold.name, strlen(hold.name));
        if (!hold.shown)
                return CTL_FAILED;
        r = try_register(&hold);
        if (r != 0)
                return r == CLIENT_REFUSED ? CTL_NO : CTL_NO_EPMD;
        /* Only now: Ctrl-C is not to wait for an epmd that does not answer. */
        r = take_signals(&hold);
        if (r < 0) {
                ctl_say("failed to wait for signals: %s", ERR_TEXT(r));
                return CTL_FAILED;
        }
        say_registered(&hold);
        if (options->n_arguments > 2) {
                status = start_command(&hold, options->arguments + 2);
                if (status != 0)
                        return status;
        }
        return hold_name(&hold);
}
