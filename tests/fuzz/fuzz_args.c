/* Any bytes as the value of an option, as a version in a foreign string or file name, or
 * (one argument a line) as the arguments of `mempulse inject`. The first byte says which. */
#include "fuzz.h"

#include <errno.h>
#include <getopt.h>

#include "base/args.h"
#include "cmd_inject.h"
#include "inject/libc.h"
#include "inject/python.h"

#define ARGS_MAX 40

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    stderr = fopen("/dev/null", "w"); /* libFuzzer itself writes to the descriptor */
    stdout = fopen("/dev/null", "w");
    FUZZ_HOLDS(stderr && stdout);
    return 0;
}

static void check_values(const char *s)
{
    uint64_t u = 7;
    double pct = -1;
    long n = -1;
    char *path = args_expand_path(s, 123);

    FUZZ_HOLDS(path || errno == EINVAL);
    free(path);
    if (args_duration(s, &u))
        FUZZ_HOLDS(u == 7);
    else
        FUZZ_HOLDS(u <= 366ull * 86400 * 1000000000);
    (void)!args_size(s, &u);
    if (args_number(s, -5, 5000, &n) == 0)
        FUZZ_HOLDS(n >= -5 && n <= 5000);
    if (args_percent(s, &pct) == 0)
        FUZZ_HOLDS(pct >= 0 && pct <= 100);
}

static void check_versions(const char *s, size_t len)
{
    unsigned major = 0, minor = 0;
    uint32_t v = python_version_parse(s), offset;
    unsigned char bytes[12] = {0};
    bool threaded = false;

    if (v)
        FUZZ_HOLDS(v >> 24 >= 1 && !(v & 0xff));
    (void)python_name_parse(s, &threaded);
    if (libc_version_parse(s, &major, &minor))
        FUZZ_HOLDS(major <= 99 && minor <= 999);
    memcpy(bytes, s, len < sizeof(bytes) ? len : sizeof(bytes));
    if (libc_descriptor_parse(bytes, 64, &offset))
        FUZZ_HOLDS(offset <= 65536 && offset % 8 == 0);
}

static void check_options(char *text)
{
    static char name[] = "inject";
    char *argv[ARGS_MAX + 1] = {name}, *save = NULL, *arg;
    struct inject_options o;
    int argc = 1;

    for (arg = strtok_r(text, "\n", &save); arg && argc < ARGS_MAX; arg = strtok_r(NULL, "\n", &save))
        argv[argc++] = arg;
    optind = 0; /* getopt must not remember the last input, which is freed */
    (void)getopt(1, argv, "");
    if (inject_options_parse(&o, argc, argv) == 0) {
        FUZZ_HOLDS(o.pid > 0 && o.agent.depth >= 1 && o.agent.depth <= MP_DEPTH_MAX);
        FUZZ_HOLDS(o.agent.max_overhead_ppm <= 1000000 && o.agent.rollup_budget_ppm <= 1000000);
        FUZZ_HOLDS(o.agent.root.count <= MP_PATTERNS_MAX && o.agent.exclude.count <= MP_PATTERNS_MAX);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text;

    if (!size)
        return 0;
    text = strndup((const char *)data + 1, size - 1);
    FUZZ_HOLDS(text);
    switch (data[0] % 3) {
    case 0: check_values(text); break;
    case 1: check_versions(text, strlen(text)); break;
    default: check_options(text);
    }
    free(text);
    return 0;
}
