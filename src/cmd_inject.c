/* mempulse inject: the options. What happens with them is in cmd_live.c. */
#include "cmd_inject.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/args.h"

enum { /* long options without a letter */
    O_DEPTH = 256, O_ROOT, O_FUNCTION, O_MODULE, O_EXCLUDE, O_MIN_BYTES, O_MIN_TIME, O_THREAD, O_JSON,
    O_SUMMARY, O_COLOR, O_LINES, O_REPORT, O_REPLACE, O_TIMEOUT, O_MAX_LOSS, O_FAIL_ON, O_NO_ROLLUP, O_BUDGET,
    O_MAX_OVERHEAD
};

static const struct option long_options[] = {
    {"pid", 1, NULL, 'p'},          {"duration", 1, NULL, 'd'},    {"count", 1, NULL, 'n'},
    {"depth", 1, NULL, O_DEPTH},    {"root", 1, NULL, O_ROOT},     {"function", 1, NULL, O_FUNCTION},
    {"module", 1, NULL, O_MODULE},  {"exclude", 1, NULL, O_EXCLUDE}, {"min-bytes", 1, NULL, O_MIN_BYTES},
    {"min-time", 1, NULL, O_MIN_TIME}, {"thread", 1, NULL, O_THREAD}, {"output", 1, NULL, 'o'},
    {"format", 1, NULL, 'f'},       {"json", 0, NULL, O_JSON},     {"summary", 0, NULL, O_SUMMARY},
    {"quiet", 0, NULL, 'q'},        {"verbose", 0, NULL, 'v'},     {"color", 1, NULL, O_COLOR},
    {"lines", 0, NULL, O_LINES},    {"report", 1, NULL, O_REPORT}, {"replace", 0, NULL, O_REPLACE},
    {"timeout", 1, NULL, O_TIMEOUT}, {"max-loss", 1, NULL, O_MAX_LOSS}, {"fail-on", 1, NULL, O_FAIL_ON},
    {"no-uss", 0, NULL, O_NO_ROLLUP}, {"uss-budget", 1, NULL, O_BUDGET}, {"max-overhead", 1, NULL, O_MAX_OVERHEAD},
    {"help", 0, NULL, 'h'},         {NULL, 0, NULL, 0},
};

static const char help[] =
    "Target and time:\n"
    "  -p, --pid PID          the process (also accepted as the only argument)\n"
    "  -d, --duration TIME    detach after TIME: 500ms, 30s, 5m, 2h (default: Ctrl-C)\n"
    "  -n, --count N          detach after N call records\n"
    "      --timeout TIME     give up attaching after TIME (default 10s)\n"
    "      --replace          detach a session that is there, then inject\n"
    "What is traced:\n"
    "      --depth N          levels of calls below the base (default 3; 0: all, up to 128)\n"
    "      --root GLOB        functions that are the base; default: settles on each thread's main loop\n"
    "      --function GLOB    only functions with this (qualified) name; repeatable\n"
    "      --module GLOB      only functions of this module; repeatable\n"
    "      --exclude GLOB     not these functions or modules; repeatable\n"
    "      --thread TID       only this thread\n"
    "      --min-bytes SIZE   only calls that change memory by at least SIZE (64K, 1M)\n"
    "      --min-time TIME    only calls that last at least TIME\n"
    "      --lines            memory at every executed line of the traced functions\n"
    "      --no-uss           never read smaps_rollup (no uss and swap)\n"
    "      --uss-budget PCT   share of time that smaps_rollup may take (default 0.5)\n"
    "      --max-overhead PCT give up detail while hooks cost more than this of the target's own\n"
    "                         CPU time (default 2; 0: never): smaps_rollup, depth, every call, all\n"
    "Output:\n"
    "  -o, --output FILE      write there; %p is the pid, %t the time, - is stdout\n"
    "  -f, --format FORMAT    text or ndjson (default: by FILE's name, else text)\n"
    "      --json             the same as -f ndjson, and errors as JSON\n"
    "      --summary          no stream, only the ranking\n"
    "      --report mempulse  at the end the table of the original mempulse (with --lines)\n"
    "      --color WHEN       auto, always or never\n"
    "  -q, --quiet            no banners\n"
    "  -v, --verbose          say how the injection goes\n"
    "For scripts:\n"
    "      --max-loss PCT     exit 14 when more records than this are lost\n"
    "      --fail-on WHAT     exit 15 on rss>SIZE (growth of the process) or self>SIZE (of a function)\n";

static int run(int argc, char **argv);

const struct command cmd_inject = {
    .name = "inject",
    .synopsis = "-p PID [OPTIONS]",
    .summary = "attach to a running Python process and stream what its functions do to memory",
    .help = help,
    .run = run,
};

static bool color_auto(void)
{
    const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

    return isatty(STDOUT_FILENO) && !(no && *no) && !(term && !strcmp(term, "dumb"));
}

static int usage(struct inject_options *o, const char *option, const char *value)
{
    cmd_usage(&o->talk, &cmd_inject, "%s does not take '%s'", option, value);
    return 2;
}

static int add_pattern(struct inject_options *o, struct mp_patterns *p, const char *option, const char *glob)
{
    if (!*glob || strlen(glob) >= MP_PATTERN_MAX)
        return usage(o, option, glob);
    if (p->count == MP_PATTERNS_MAX) {
        cmd_usage(&o->talk, &cmd_inject, "%s: at most %d patterns", option, MP_PATTERNS_MAX);
        return 2;
    }
    strcpy(p->glob[p->count++], glob);
    return 0;
}

static int parse_fail_on(struct inject_options *o, const char *v)
{
    uint64_t *ret = NULL;
    const char *gt = strchr(v, '>');

    if (!strncmp(v, "rss>", 4))
        ret = &o->fail_on.rss;
    else if (!strncmp(v, "self>", 5))
        ret = &o->fail_on.self;
    if (!ret || args_size(gt + 1, ret) || !*ret)
        return usage(o, "--fail-on", v);
    return 0;
}

/* 0 is off; what is too small to be told from it is no goal but a mistake. */
static int parse_max_overhead(struct inject_options *o, const char *v)
{
    double pct;

    if (args_percent(v, &pct))
        return usage(o, "--max-overhead", v);
    o->agent.max_overhead_ppm = (uint32_t)(pct * 10000.0 + 0.5);
    return pct > 0 && !o->agent.max_overhead_ppm ? usage(o, "--max-overhead", v) : 0;
}

static int parse_color(struct inject_options *o, const char *v)
{
    if (!strcmp(v, "always"))
        o->color = o->color_file = true;
    else if (!strcmp(v, "never"))
        o->color = o->color_file = false;
    else if (strcmp(v, "auto"))
        return usage(o, "--color", v);
    return 0;
}

static int parse_format(struct inject_options *o, const char *v, bool *ret_given)
{
    if (!strcmp(v, "text"))
        o->format = FORMAT_TEXT;
    else if (!strcmp(v, "ndjson"))
        o->format = FORMAT_NDJSON;
    else
        return usage(o, "--format", v);
    *ret_given = true;
    return 0;
}

/* Options that choose what is traced. 0, 2, or -1: not one of these. */
static int parse_scope(struct inject_options *o, int c, const char *v)
{
    long n;

    switch (c) {
    case O_DEPTH:
        if (args_number(v, 0, MP_DEPTH_MAX, &n))
            return usage(o, "--depth", v);
        o->agent.depth = n ? (uint32_t)n : MP_DEPTH_MAX;
        return 0;
    case O_ROOT:
        return add_pattern(o, &o->agent.root, "--root", v);
    case O_FUNCTION:
        return add_pattern(o, &o->agent.function, "--function", v);
    case O_MODULE:
        return add_pattern(o, &o->agent.module, "--module", v);
    case O_EXCLUDE:
        return add_pattern(o, &o->agent.exclude, "--exclude", v);
    case O_THREAD:
        return args_number(v, 1, 1 << 30, &o->thread) ? usage(o, "--thread", v) : 0;
    case O_MIN_BYTES:
        return args_size(v, &o->agent.min_bytes) ? usage(o, "--min-bytes", v) : 0;
    case O_MIN_TIME:
        return args_duration(v, &o->agent.min_time_ns) ? usage(o, "--min-time", v) : 0;
    case O_LINES:
        o->agent.flags |= MP_OPT_LINES;
        return 0;
    case O_NO_ROLLUP:
        o->agent.flags |= MP_OPT_NO_ROLLUP;
        return 0;
    default:
        return -1;
    }
}

/* Options with a number or a word. 0, 2, or -1: not one of these. */
static int parse_value(struct inject_options *o, int c, const char *v)
{
    double pct;
    long n;

    switch (c) {
    case 'd':
        return args_duration(v, &o->duration_ns) || !o->duration_ns ? usage(o, "--duration", v) : 0;
    case O_TIMEOUT:
        return args_duration(v, &o->timeout_ns) ? usage(o, "--timeout", v) : 0;
    case 'n':
        if (args_number(v, 1, INT32_MAX, &n))
            return usage(o, "--count", v);
        o->count = (uint64_t)n;
        return 0;
    case O_BUDGET:
        if (args_percent(v, &pct))
            return usage(o, "--uss-budget", v);
        o->agent.rollup_budget_ppm = (uint32_t)(pct * 10000.0);
        return 0;
    case O_MAX_OVERHEAD:
        return parse_max_overhead(o, v);
    case O_MAX_LOSS:
        return args_percent(v, &o->max_loss_pct) ? usage(o, "--max-loss", v) : 0;
    case O_FAIL_ON:
        return parse_fail_on(o, v);
    case O_COLOR:
        return parse_color(o, v);
    case O_REPORT:
        o->report_mempulse = !strcmp(v, "mempulse");
        return o->report_mempulse ? 0 : usage(o, "--report", v);
    default:
        return -1;
    }
}

static int parse_flag(struct inject_options *o, int c)
{
    switch (c) {
    case O_SUMMARY:
        o->summary = true;
        return 0;
    case O_REPLACE:
        o->replace = true;
        return 0;
    case 'q':
        o->talk.quiet = true;
        return 0;
    case 'v':
        o->talk.log = stderr;
        return 0;
    default:
        return -1;
    }
}

/* A file name tells the format when -f does not. */
static enum inject_format format_of_name(const char *name)
{
    const char *dot = name ? strrchr(name, '.') : NULL;

    if (dot && (!strcasecmp(dot, ".ndjson") || !strcasecmp(dot, ".jsonl") || !strcasecmp(dot, ".json")))
        return FORMAT_NDJSON;
    return FORMAT_TEXT;
}

/* What can only be judged when all options are known. */
static int check_together(struct inject_options *o)
{
    if (o->report_mempulse && !(o->agent.flags & MP_OPT_LINES)) {
        cmd_usage(&o->talk, &cmd_inject, "--report mempulse needs --lines");
        return 2;
    }
    if (o->format == FORMAT_NDJSON && o->report_mempulse && !o->output) {
        cmd_usage(&o->talk, &cmd_inject, "--report mempulse is text: with NDJSON it needs -o FILE for the stream");
        return 2;
    }
    return 0;
}

static int parse_one(struct inject_options *o, int c, const char *v, const char **ret_pid, bool *ret_format)
{
    int err = parse_scope(o, c, v);

    if (err < 0)
        err = parse_value(o, c, v);
    if (err < 0)
        err = parse_flag(o, c);
    if (err >= 0)
        return err;
    switch (c) {
    case 'p':
        *ret_pid = v;
        return 0;
    case 'o':
        o->output = v;
        return 0;
    case 'f':
        return parse_format(o, v, ret_format);
    case O_JSON:
        o->talk.json = true;
        return parse_format(o, "ndjson", ret_format);
    case 'h':
        cmd_help(&cmd_inject, stdout);
        return 1;
    default: /* getopt's own complaint was silenced: the caller says it our way */
        return -1;
    }
}

int inject_options_parse(struct inject_options *o, int argc, char **argv)
{
    const char *pid = NULL;
    bool format = false;
    int c;

    *o = (struct inject_options){
        .agent = {.depth = MP_DEPTH_DEFAULT, .rollup_budget_ppm = 5000, .max_overhead_ppm = 20000},
        .timeout_ns = 10000000000ull,
        .color = color_auto(),
        .max_loss_pct = -1,
    };
    for (int i = 1; i < argc; i++) /* errors among the options are JSON too */
        o->talk.json |= !strcmp(argv[i], "--json");
    opterr = 0;
    optind = 1;
    while ((c = getopt_long(argc, argv, "p:d:n:o:f:qvh", long_options, NULL)) != -1) {
        int err = parse_one(o, c, optarg, &pid, &format);
        if (err < 0)
            return cmd_usage(&o->talk, &cmd_inject, "'%s' is no option, or lacks its value", argv[optind - 1]);
        if (err)
            return err;
    }
    if (!format)
        o->format = format_of_name(o->output);
    o->pid = cmd_target(&o->talk, &cmd_inject, pid, argc - optind, argv + optind);
    if (o->pid < 0)
        return 2;
    return check_together(o);
}

static int run(int argc, char **argv)
{
    struct inject_options o;
    int err = inject_options_parse(&o, argc, argv);

    if (err)
        return err == 1 ? 0 : 2;
    return inject_live(&o);
}
