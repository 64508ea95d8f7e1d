/* SPDX-License-Identifier: Apache-2.0 */

/* Runs a fuzz target over the inputs in the tree, without libFuzzer: those that reach all that is known to be
 * reachable, and those that once failed. Prints TAP.
 *
 * The target is in the program's own name, replay_TARGET. Its inputs are the lines of corpus/TARGET and of
 * crashes/TARGET, where there is one: \xNN is a byte, what else there is stands for itself, and lines that begin with
 * # are comments. */

#include <signal.h>
#include <sys/types.h>

#include "fuzz.h"

static const char *file_name;
static char where[64];

/* Says which input it was, and lets the program die of it. */
static void on_death(int number) {
        const char end[] = " failed\n";

        (void) !write(STDOUT_FILENO, where, strlen(where));
        (void) !write(STDOUT_FILENO, end, sizeof end - 1);
        (void) signal(number, SIG_DFL);
        (void) raise(number);
}

static int hex(char c) {
        return c >= 'a' ? c - 'a' + 10 : c - '0';
}

/* Turns a line into the bytes that it stands for, in place. Returns how many. */
static size_t decode(char *line, size_t n) {
        size_t out = 0;

        for (size_t i = 0; i < n; i++) {
                if (line[i] == '\\' && i + 3 < n && line[i + 1] == 'x') {
                        line[out++] = (char) (hex(line[i + 2]) << 4 | hex(line[i + 3]));
                        i += 3;
                } else
                        line[out++] = line[i];
        }
        return out;
}

static void run(const void *data, size_t n) {
        uint8_t *copy = fuzz_copy(data, n);

        (void) LLVMFuzzerTestOneInput(copy, n);
        free(copy);
}

/* Returns how many inputs the file has; -1: there is no such file. */
static ssize_t replay(const char *path) {
        FILE *file = fopen(path, "re");
        char *line = NULL;
        size_t size = 0, number = 0;
        ssize_t n, count = 0;

        if (!file)
                return -1;
        while ((n = getline(&line, &size, file)) >= 0) {
                number++;
                n -= n > 0 && line[n - 1] == '\n';
                if (n == 0 || line[0] == '#')
                        continue;
                (void) snprintf(where, sizeof where, "# %s, line %zu", file_name, number);
                run(line, decode(line, (size_t) n));
                count++;
        }
        free(line);
        (void) fclose(file);
        return count;
}

int main(int argc, char **argv) {
        static const char *const folders[] = {"corpus", "crashes"};
        static const int deaths[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGALRM};
        const char *top = getenv("TOP_SRCDIR"), *target = argc > 0 ? strstr(argv[0], "replay_") : NULL;
        char path[4096];
        int points = 0;

        if (!target) {
                (void) puts("Bail out! The program is not called replay_TARGET");
                return EXIT_FAILURE;
        }
        target += strlen("replay_");
        (void) setvbuf(stdout, NULL, _IOLBF, 0);
        for (size_t i = 0; i < ARRAY_SIZE(deaths); i++)
                (void) signal(deaths[i], on_death);
        (void) alarm(120);
        run("", 0);
        for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
                ssize_t n;

                file_name = folders[i];
                (void) snprintf(path, sizeof path, "%s/tests/fuzz/%s/%s", top ? top : ".", folders[i], target);
                n = replay(path);
                if (n > 0)
                        (void) printf("ok %d - %s: %zd inputs of its %s\n", ++points, target, n, folders[i]);
                else if (n == 0 || i == 0)
                        (void) printf("not ok %d - %s: no inputs in %s\n", ++points, target, path);
        }
        (void) printf("1..%d\n", points);
        return EXIT_SUCCESS;
}
