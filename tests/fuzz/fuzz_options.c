/* SPDX-License-Identifier: Apache-2.0 */

/* The command line and the environment. The input is words divided by newlines; the first ones, up to an empty one,
 * are the environment. */

#include "fuzz.h"
#include "options.h"

enum {
        WORDS_MAX = 24,
        SECONDS_MAX = 365 * 86400,
};

typedef struct Words {
        char *items[WORDS_MAX + 1];
        size_t n;
} Words;

static void words_done(Words *words) {
        for (size_t i = 0; i < words->n; i++)
                free(words->items[i]);
}

static void add_word(Words *words, const uint8_t *data, size_t n) {
        words->items[words->n++] = fuzz_text(data, n);
}

/* Takes words up to an empty one or the end. */
static void take_words(Input *input, Words *words) {
        while (input_left(input) > 0 && words->n < WORDS_MAX) {
                const uint8_t *newline = memchr(input->at, '\n', input_left(input));
                size_t n = newline ? (size_t) (newline - input->at) : input_left(input);
                const uint8_t *word = input_bytes(input, n, &n);

                (void) input_u8(input);
                if (n == 0)
                        break;
                add_word(words, word, n);
        }
}

static void check_options(const Options *options) {
        EXPECT(options->command >= COMMAND_SERVE && options->command <= COMMAND_VERSION);
        EXPECT(options->port >= 1 && options->verbosity >= 0 && options->verbosity <= WORDS_MAX * 64 * 1024);
        EXPECT(!(options->systemd && options->daemon) || options->command != COMMAND_SERVE);
        EXPECT((options->stop_name != NULL) || options->command != COMMAND_STOP);
        EXPECT(options->packet_timeout >= USEC_PER_SEC && options->packet_timeout <= SECONDS_MAX * USEC_PER_SEC);
        EXPECT(options->idle_timeout <= SECONDS_MAX * USEC_PER_SEC &&
               (options->systemd || options->idle_timeout == 0));
        EXPECT(options->delay_accept <= SECONDS_MAX && options->delay_write <= SECONDS_MAX);
        EXPECT((options->reserve && options->allow_text) || options->command != COMMAND_SERVE);
        EXPECT(options->user_nodes_max <= INT32_MAX);
        for (size_t i = 0; i < options->n_addresses; i++) {
                EXPECT(options->addresses[i].family == AF_INET || options->addresses[i].family == AF_INET6);
                EXPECT(options->addresses[i].port == options->port);
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        Input input = input_of(data, size);
        Words environment = {}, arguments = {};
        char error[OPTIONS_ERROR_MAX] = "";
        Options options = {};
        int r;

        take_words(&input, &environment);
        add_word(&arguments, (const uint8_t *) "epmd", 4);
        take_words(&input, &arguments);
        r = options_parse((int) arguments.n, arguments.items, environment.items, &options, error);
        EXPECT(r == 0 || r == -EINVAL);
        EXPECT((r == 0) == (error[0] == 0) && memchr(error, 0, sizeof error));
        if (r == 0) {
                check_options(&options);
                options_done(&options);
        }
        words_done(&arguments);
        words_done(&environment);
        return 0;
}
