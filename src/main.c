/* SPDX-License-Identifier: Apache-2.0 */

/* epmd: wires the modules together, and decides when the process ends. */

#include <errno.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>

#include "background.h"
#include "command.h"
#include "config.h"
#include "endpoints.h"
#include "inherited.h"
#include "log.h"
#include "options.h"
#include "server.h"
#include "systemd.h"
#include "trim.h"

enum {
        EXIT_OWN_ACCORD = 77, /* idle or KILL_REQ under systemd: the units restart on any other status */
        OWN_DESCRIPTORS = 32,       /* for timers, the log, the store, and the usual listening sockets */
        USUAL_SOCKETS = 12,
        TRANSIENT_DESCRIPTORS = 32, /* for connections of those who only ask */
};

extern char **environ;

/* ---- The daemon ---- */

/* In numbers that a descriptor can have: no limit at all is more than a size_t of 32 bits. */
static size_t usable_limit(rlim_t limit) {
        return limit < INT32_MAX ? (size_t) limit : INT32_MAX;
}

/* Raises the soft limit of descriptors to the hard one. Returns what holds then. */
static size_t raise_descriptors(Log *log) {
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) < 0) {
                (void) log_failure(log, -errno, "Failed to read the limit of descriptors, assuming 1024");
                return 1024;
        }
        /* Under systemd both are the same, and the sandbox forbids the call. */
        if (limit.rlim_cur == limit.rlim_max)
                return usable_limit(limit.rlim_cur);
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0) {
                (void) log_failure(log, -errno, "Failed to raise the limit of descriptors");
                (void) getrlimit(RLIMIT_NOFILE, &limit);
        }
        return usable_limit(limit.rlim_cur);
}

/* Divides the descriptors among the daemon itself, which listens on so many sockets, those who only ask, and the nodes.
 * With very few, each part gets some. */
static void divide_descriptors(size_t all, size_t sockets, size_t *ret_connections, size_t *ret_nodes) {
        size_t own = OWN_DESCRIPTORS + (sockets > USUAL_SOCKETS ? sockets - USUAL_SOCKETS : 0);
        size_t connections = all - size_min(own, all / 2);

        *ret_connections = connections;
        *ret_nodes = connections - size_min(TRANSIENT_DESCRIPTORS, connections / 2);
}

/* What belongs to a running daemon. */
typedef struct Daemon {
        const Options *options;
        Log *log;
        char **argv;
        PassedSockets sockets; /* passed in and not yet taken */
        Reserve reserve;
        Identity *identity;
        Store *store;
        Registry *registry;
        Service *service;
        Server *server;
} Daemon;

static void daemon_done(Daemon *daemon) {
        server_free(daemon->server);
        service_free(daemon->service);
        registry_free(daemon->registry);
        store_free(daemon->store);
        identity_free(daemon->identity);
        reserve_done(&daemon->reserve);
        passed_sockets_done(&daemon->sockets);
}

/* SIGHUP: the program, which may be a newer one by now, goes on in this process. Returns only a negative errno. */
static int reload(void *userdata) {
        Daemon *daemon = userdata;
        const char *program = strchr(daemon->argv[0], '/') ? daemon->argv[0] : "/proc/self/exe";
        PassedSockets sockets = {};
        int r;

        /* What can be known to fail must fail before there is no way back. */
        if (access(program, X_OK) < 0)
                return -errno;
        r = server_pass_on(daemon->server, &sockets);
        if (r >= 0 && daemon->identity && identity_pass_on(daemon->identity) >= 0)
                r = passed_sockets_add_copy(&sockets, identity_pass_on(daemon->identity), "epmd-diag");
        if (r >= 0)
                r = store_pass_on(daemon->store, &sockets);
        if (r >= 0) {
                log_message(daemon->log, LOG_INFO, "Starting %s anew, with %zu nodes registered", program,
                            registry_count(daemon->registry));
                r = systemd_exec(program, daemon->argv, &sockets);
        }
        passed_sockets_done(&sockets);
        return r;
}

/* Opens the store, where there is one: a service with a runtime directory. A daemon that cannot use it serves
 * nevertheless, unless another process could a moment later, and lose no node.
 * Returns 0 or a negative errno, explained. */
static int open_store(Daemon *daemon, size_t nodes_max, size_t connections_max, StoreReport *report) {
        const char *directories = getenv("RUNTIME_DIRECTORY");
        _cleanup_free_ char *directory = NULL;
        int r;

        if (!directories || !*directories || *directories == ':') {
                store_abandon(&daemon->sockets, true);
                return 0;
        }
        /* A drop-in may add others behind that of the unit. */
        directory = strndup(directories, strcspn(directories, ":"));
        r = directory ? store_new(directory, &daemon->sockets, nodes_max + REGISTRY_RELEASED_MAX + 1, connections_max,
                                  report, &daemon->store)
                      : -ENOMEM;
        if (r >= 0)
                return 0;
        if (is_passing_error(r))
                return log_failure(daemon->log, r, "Failed to open %s, ending so that the next process does; if that "
                                                   "happens again and again, look at MemoryMax= and LimitNOFILE= of "
                                                   "the service", directories);
        log_message(daemon->log, LOG_WARNING, "Registrations will be lost when epmd restarts, failed to open %s: %s",
                    directories, ERR_TEXT(r));
        store_abandon(&daemon->sockets, r != -EBUSY);
        return 0;
}

/* Opens what tells who a local peer is: the socket that the unit passes, or one of its own. Without it everything
 * works but reservations. */
static void open_identity(Daemon *daemon) {
        int fd = -1, r;

        for (size_t i = 0; i < daemon->sockets.n && fd < 0; i++)
                if (identity_is_netlink(daemon->sockets.items[i].fd))
                        fd = TAKE_FD(daemon->sockets.items[i].fd);
        r = identity_new(fd, &daemon->identity);
        if (r < 0)
                log_message(daemon->log, daemon->reserve.n > 0 ? LOG_WARNING : LOG_DEBUG,
                            "Who registers will not be known, so reserved names will be refused to everyone: failed to "
                            "open a sock_diag socket: %s",
                            ERR_TEXT(r));
}

static bool find_user(const char *user, size_t n, uint32_t *ret) {
        _cleanup_free_ char *name = strndup(user, n);
        const struct passwd *entry = name ? getpwnam(name) : NULL;

        if (!entry)
                return false;
        *ret = entry->pw_uid;
        return true;
}

/* Reads the reservations. Returns 0 or a negative errno, explained. */
static int open_reserve(Daemon *daemon) {
        const char *bad = "";
        size_t bad_len = 0;
        int r = reserve_parse(daemon->options->reserve, find_user, &daemon->reserve, &bad, &bad_len);

        if (r == -ENOMEM)
                return log_failure(daemon->log, r, "Failed to read the reservations");
        if (r < 0) {
                log_message(daemon->log, LOG_ERR,
                            "EPMD_RESERVE or -reserve: \"%.*s\" is no reservation: give NAME:USER or PREFIX*:USER, "
                            "separated by blanks",
                            (int) size_min(bad_len, 100), bad);
                return r;
        }
        for (size_t i = 0; i < daemon->reserve.n; i++) {
                const Reservation *item = &daemon->reserve.items[i];

                if (!item->resolved)
                        log_message(daemon->log, LOG_WARNING,
                                    "EPMD_RESERVE: there is no user %.*s; only root can register %.*s%s until there is "
                                    "one and epmd is restarted",
                                    (int) item->user_len, item->user, (int) item->name_len, item->name,
                                    item->prefix ? "*" : "");
        }
        return 0;
}

/* Where creations go on: behind the last one given, if that is known. Else a random start makes it as good as sure
 * that none comes back, whatever the clock says. */
static int first_counter(Store *store, uint32_t *ret) {
        if (store && table_get_counter(store_table(store), ret) && *ret != 0)
                return 0;
        return getrandom(ret, sizeof *ret, 0) == sizeof *ret ? 0 : -errno;
}

static int make_parts(Daemon *daemon, ServerConfig *config, size_t nodes_max) {
        const Options *options = daemon->options;
        const ServiceConfig service_config = {
                .relaxed = options->relaxed,
                .default_port = options->port,
                .own_uid = getuid(),
                .user_nodes_max = options->user_nodes_max > 0 ? options->user_nodes_max : nodes_max / 2,
                .reserve = &daemon->reserve,
        };
        Table *table = daemon->store ? store_table(daemon->store) : NULL;
        ServerParts parts = {.store = daemon->store, .identity = daemon->identity, .log = daemon->log};
        uint32_t counter;
        int r;

        r = getrandom(config->seed, sizeof config->seed, 0) == sizeof config->seed ? 0 : -errno;
        if (r >= 0)
                r = first_counter(daemon->store, &counter);
        if (r >= 0)
                r = registry_new(config->seed, counter, nodes_max, table, &daemon->registry);
        if (r >= 0)
                r = service_new(daemon->registry, &service_config, &daemon->service);
        if (r >= 0) {
                parts.registry = daemon->registry;
                parts.service = daemon->service;
                r = server_new(config, &parts, &daemon->server);
        }
        return r < 0 ? log_failure(daemon->log, r, "Failed to set up the daemon") : 0;
}

static ServerConfig server_config(Daemon *daemon) {
        const Options *options = daemon->options;

        return (ServerConfig){
                .allow = &options->allow,
                .allow_text = options->allow_text,
                .allow_option = options->allow_option,
                .packet_timeout = options->packet_timeout,
                .idle_timeout = options->idle_timeout,
                .end_delay = options->systemd ? USEC_PER_SEC : 0,
                .delay_accept = options->delay_accept,
                .delay_write = options->delay_write,
                .reload = options->systemd ? reload : NULL,
                .reload_userdata = daemon,
        };
}

/* Has the server take over the nodes of an earlier process. Returns 0 or a negative errno, explained. */
static int take_over(Daemon *daemon, StoreReport *report) {
        int r = server_restore(daemon->server, report);

        if (is_passing_error(r))
                return log_failure(daemon->log, r, "Failed to take over the registered nodes, ending so that the next "
                                                   "process does; if that happens again and again, look at MemoryMax= "
                                                   "and LimitNOFILE= of the service");
        if (r < 0)
                (void) log_failure(daemon->log, r, "Failed to restore all nodes; the others will have to register "
                                                   "again");
        return 0;
}

/* All but listening sockets. Returns 0 or a negative errno, explained. */
static int daemon_init(Daemon *daemon) {
        ServerConfig config = server_config(daemon);
        size_t descriptors = raise_descriptors(daemon->log), nodes_max;
        StoreReport report = {};
        int r = 0;

        if (daemon->options->systemd)
                r = endpoints_take(&daemon->sockets, daemon->log);
        divide_descriptors(descriptors, endpoints_count(&daemon->sockets) + daemon->options->n_addresses,
                           &config.connections_max, &nodes_max);
        if (r >= 0)
                r = open_reserve(daemon);
        if (r < 0)
                return r;
        open_identity(daemon);
        if (daemon->options->systemd)
                r = open_store(daemon, nodes_max, config.connections_max, &report);
        if (r < 0)
                return r;
        if (daemon->store)
                nodes_max = size_min(nodes_max, store_capacity(daemon->store));
        r = make_parts(daemon, &config, nodes_max);
        return r < 0 || !daemon->store ? r : take_over(daemon, &report);
}

static int exit_status(const Options *options, ServerEnd end) {
        return options->systemd && end != SERVER_END_SIGNAL ? EXIT_OWN_ACCORD : EXIT_SUCCESS;
}

/* The unit restarts without a pause, as a daemon that was killed must; one that cannot run is no reason to keep the machine
 * busy. */
static void wait_before_restart(void) {
        (void) sleep(1);
}

/* Serves until the end. ready_fd: whom to tell when the sockets listen, or -1. Returns the exit status. */
static int serve(const Options *options, char **argv, Log *log, int ready_fd) {
        _cleanup_(daemon_done) Daemon daemon = {.options = options, .argv = argv, .log = log};
        _cleanup_close_ int ready = ready_fd;
        const bool is_service = options->systemd && getenv("NOTIFY_SOCKET");
        ServerEnd end;
        int r;

        r = daemon_init(&daemon);
        if (r >= 0)
                r = options->systemd ? endpoints_add_passed(daemon.server, &daemon.sockets, log)
                                     : endpoints_add_own(daemon.server, options, log);
        if (r >= 0 && ready >= 0) {
                int r2 = background_ready(TAKE_FD(ready));
                if (r2 < 0)
                        r = log_failure(log, r2, "Failed to go to the background");
                log_detach(log);
        }
        if (r == 0) {
                trim_code();
                r = server_run(daemon.server, &end);
                if (r >= 0)
                        return exit_status(options, end);
                (void) log_failure(log, r, "Failed to go on serving");
        }
        if (r > 0)
                return EXIT_SUCCESS;
        (void) systemd_notify(-1, "ERRNO=%d\nSTATUS=%s", -r, ERR_TEXT(r));
        if (is_service)
                wait_before_restart();
        return EXIT_FAILURE;
}

static int serve_in_background(const Options *options, char **argv, Log *log) {
        int ready_fd = -1, r;

        /* What the starter has open, a pipe of a shell's say, must not live as long as the daemon. */
        (void) close_range(STDERR_FILENO + 1, ~0U, 0);
        r = background_enter(&ready_fd);
        if (r == 0)
                return serve(options, argv, log, ready_fd);
        if (r > 0)
                r = background_wait(ready_fd);
        else
                (void) log_failure(log, r, "Failed to make a process for the background");
        return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int run_daemon(const Options *options, char **argv) {
        _cleanup_(log_freep) Log *log = NULL;

        if (log_new(options->verbosity, &log) < 0) {
                (void) fprintf(stderr, "epmd: out of memory\n");
                return EXIT_FAILURE;
        }
        (void) signal(SIGPIPE, SIG_IGN);
        /* In the foreground it ends with its terminal. */
        if (options->systemd || options->daemon)
                (void) signal(SIGHUP, SIG_IGN);
        if (!options->systemd)
                systemd_leave();
        return options->daemon ? serve_in_background(options, argv, log) : serve(options, argv, log, -1);
}

static int run(const Options *options, char **argv) {
        switch (options->command) {
        case COMMAND_SERVE:
                return run_daemon(options, argv);
        case COMMAND_HELP:
                (void) fputs(options_help(), stdout);
                return EXIT_SUCCESS;
        case COMMAND_VERSION:
                (void) puts("epmd (" PACKAGE_NAME ") " PACKAGE_VERSION);
                return EXIT_SUCCESS;
        default:
                return command_run(options);
        }
}

/* Whether it was started as one, although its options are wrong. */
static bool was_service(char **argv) {
        for (; *argv; argv++)
                if (strcmp(*argv, "-systemd") == 0 || strcmp(*argv, "--systemd") == 0)
                        return getenv("NOTIFY_SOCKET");
        return false;
}

/* What was printed may still have to be written. Returns the exit status. */
static int end_output(int status) {
        errno = 0;
        if (fflush(stdout) == 0 && !ferror(stdout))
                return status;
        (void) fprintf(stderr, "epmd: failed to write the output: %s\n", strerror(errno != 0 ? errno : EIO));
        return EXIT_FAILURE;
}

int main(int argc, char **argv) {
        char error[OPTIONS_ERROR_MAX];
        Options options;
        int status, r;

        r = inherited_complete();
        if (r < 0) {
                (void) fprintf(stderr, "epmd: failed to open /dev/null: %s\n", ERR_TEXT(r));
                return EXIT_FAILURE;
        }
        if (options_parse(argc, argv, environ, &options, error) < 0) {
                (void) fprintf(stderr, "epmd: %s\n", error);
                if (was_service(argv))
                        wait_before_restart();
                return EXIT_FAILURE;
        }
        status = run(&options, argv);
        options_done(&options);
        return end_output(status);
}
