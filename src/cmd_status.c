/* mempulse status: who is injected, since when, by whom, at what cost. Reads the
 * agent's control block; asks the agent nothing. */
#include <ctype.h>
#include <dirent.h>
#include <getopt.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/utf8.h"
#include "cmd.h"
#include "cmd_look.h"
#include "inject/inject.h"
#include "render/render.h"

static int run(int argc, char **argv);

const struct command cmd_status = {
    .name = "status",
    .synopsis = "[-p PID] [--json]",
    .summary = "tell whether a process (or any process) is injected, since when and by whom",
    .help = "  -p, --pid PID   the process (also accepted as the only argument); default: all that can be read\n"
            "      --strict    exit 7 when there is no agent\n"
            "      --json      one JSON object a line\n",
    .run = run,
};

static const struct option long_options[] = {
    {"pid", 1, NULL, 'p'}, {"json", 0, NULL, 'j'}, {"strict", 0, NULL, 's'}, {"help", 0, NULL, 'h'}, {NULL, 0, NULL, 0},
};

static const char *const state_names[] = {
    [MP_STATE_NEW] = "starting",        [MP_STATE_HOOKING] = "waiting for the GIL to hook",
    [MP_STATE_HOOKED] = "hooked",       [MP_STATE_UNHOOKING] = "unhooking",
    [MP_STATE_GONE] = "leaving",        [MP_STATE_RESIDUE] = "left, residue stays",
};

static const char *state_name(const struct inject_agent *a)
{
    uint32_t s = a->control.state;

    if (!a->alive)
        return "hooks without an agent (inherited by fork, or the agent died)";
    return s < sizeof(state_names) / sizeof(state_names[0]) ? state_names[s] : "unknown";
}

/* Of one CPU. */
static double cost_pct(const struct mp_control *c)
{
    uint64_t now = clock_real_ns();

    return now > c->start_realtime_ns ? 100.0 * (double)c->hook_ns / (double)(now - c->start_realtime_ns) : 0;
}

/* The control block is the target's memory: the words may be anything. */
static void print_cost(const struct mp_control *c)
{
    char now[32], goal[32], words[RENDER_WORDS], cost[96];

    fputs(render_cost(cost, sizeof(cost), c->hook_ns, c->account.work_ns, cost_pct(c)), stdout);
    if (!c->options.max_overhead_ppm)
        return;
    if (c->govern.work_ns < RENDER_WORK_MIN_NS) /* of the last window; with less work a percentage says nothing */
        snprintf(now, sizeof(now), "next to nothing");
    else
        render_ppm(now, sizeof(now), c->govern.cost_ppm);
    printf(", %s now (--max-overhead %s); stage %s: %s", now, render_ppm(goal, sizeof(goal), c->options.max_overhead_ppm),
           render_stage_name(c->govern.stage), render_in_force(words, sizeof(words), &c->govern, &c->options));
}

static void print_text(pid_t pid, const struct inject_agent *a)
{
    const struct mp_control *c = &a->control;
    time_t since = (time_t)(c->start_realtime_ns / 1000000000u);
    char when[32] = "-";
    struct tm tm;

    if (since && localtime_r(&since, &tm))
        strftime(when, sizeof(when), "%F %T", &tm);
    printf("%d: %s, since %s, by launcher %d; depth %u%s; %" PRIu64 " records, %" PRIu64
           " lost, %" PRIu64 " threads, %" PRIu64 " functions; ",
           (int)pid, state_name(a), when, c->launcher_pid, c->options.depth,
           c->options.flags & MP_OPT_LINES ? ", lines" : "", c->records, c->lost, c->threads, c->codes);
    print_cost(c);
    printf("\n");
}

static struct json_object *globs(const struct mp_patterns *p)
{
    struct json_object *a = json_object_new_array();
    char text[3 * MP_PATTERN_MAX];

    for (uint32_t i = 0; i < p->count && i < MP_PATTERNS_MAX; i++) {
        utf8_sanitise_into(text, sizeof(text), p->glob[i], strnlen(p->glob[i], MP_PATTERN_MAX));
        json_object_array_add(a, json_object_new_string(text));
    }
    return a;
}

static struct json_object *options_json(const struct mp_options *op)
{
    struct json_object *o = json_object_new_object();

    json_object_object_add(o, "depth", json_object_new_int64(op->depth));
    json_object_object_add(o, "lines", json_object_new_boolean(op->flags & MP_OPT_LINES));
    json_object_object_add(o, "max_overhead_ppm", json_object_new_int64(op->max_overhead_ppm));
    json_object_object_add(o, "min_bytes", json_object_new_int64((int64_t)op->min_bytes));
    json_object_object_add(o, "min_time_ns", json_object_new_int64((int64_t)op->min_time_ns));
    json_object_object_add(o, "thread", json_object_new_int(op->thread));
    json_object_object_add(o, "root", globs(&op->root));
    json_object_object_add(o, "function", globs(&op->function));
    json_object_object_add(o, "module", globs(&op->module));
    json_object_object_add(o, "exclude", globs(&op->exclude));
    return o;
}

static struct json_object *governor_json(const struct mp_control *c)
{
    struct json_object *o = json_object_new_object(), *stages = json_object_new_object();

    json_object_object_add(o, "stage", json_object_new_string(render_stage_name(c->govern.stage)));
    json_object_object_add(o, "depth", json_object_new_int64(c->govern.depth));
    json_object_object_add(o, "weight", json_object_new_int64((int64_t)1 << (c->govern.sample_log2 & 31)));
    json_object_object_add(o, "rollup_budget_ppm", json_object_new_int64(c->govern.rollup_ppm));
    json_object_object_add(o, "cost_ppm", json_object_new_int64(c->govern.cost_ppm));
    json_object_object_add(o, "floor_ppm", json_object_new_int64(c->govern.floor_ppm));
    json_object_object_add(o, "deepest_stage", json_object_new_string(render_stage_name(c->account.deepest)));
    for (uint32_t i = 0; i < MP_STAGES; i++)
        json_object_object_add(stages, render_stage_name(i), json_object_new_int64((int64_t)c->account.stage_ns[i]));
    json_object_object_add(o, "stage_ns", stages);
    return o;
}

static void print_json(pid_t pid, const struct inject_agent *a)
{
    struct json_object *o = json_object_new_object();
    const struct mp_control *c = a ? &a->control : NULL;

    json_object_object_add(o, "type", json_object_new_string("status"));
    json_object_object_add(o, "v", json_object_new_int(1));
    json_object_object_add(o, "pid", json_object_new_int(pid));
    json_object_object_add(o, "injected", json_object_new_boolean(a != NULL));
    if (c) {
        json_object_object_add(o, "state", json_object_new_string(state_name(a)));
        json_object_object_add(o, "alive", json_object_new_boolean(a->alive));
        json_object_object_add(o, "since_ns", json_object_new_int64((int64_t)c->start_realtime_ns));
        json_object_object_add(o, "launcher_pid", json_object_new_int(c->launcher_pid));
        json_object_object_add(o, "records", json_object_new_int64((int64_t)c->records));
        json_object_object_add(o, "lost", json_object_new_int64((int64_t)c->lost));
        json_object_object_add(o, "hook_ns", json_object_new_int64((int64_t)c->hook_ns));
        json_object_object_add(o, "work_ns", json_object_new_int64((int64_t)c->account.work_ns));
        json_object_object_add(o, "agent_ns", json_object_new_int64((int64_t)c->account.agent_ns));
        json_object_object_add(o, "blind_ns", json_object_new_int64((int64_t)c->account.blind_ns));
        json_object_object_add(o, "rest_ns", json_object_new_int64((int64_t)c->account.rest_ns));
        if (c->account.work_ns)
            json_object_object_add(o, "overhead_percent",
                                   json_object_new_double(render_overhead_pct(c->hook_ns, c->account.work_ns)));
        if (c->options.max_overhead_ppm)
            json_object_object_add(o, "governor", governor_json(c));
        json_object_object_add(o, "threads", json_object_new_int64((int64_t)c->threads));
        json_object_object_add(o, "functions", json_object_new_int64((int64_t)c->codes));
        json_object_object_add(o, "options", options_json(&c->options));
    }
    printf("%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(o);
}

/* 1 an agent was shown, 0 none, negative enum mp_err. */
static int status_one(const struct talk *t, pid_t pid, bool all, struct mp_failure *f)
{
    struct inject_agent a;
    int n = cmd_look(pid, &a, f);

    if (n < 0)
        return n;
    if (n == 0 && all)
        return 0;
    if (t->json)
        print_json(pid, n ? &a : NULL);
    else if (n)
        print_text(pid, &a);
    else
        printf("%d: not injected\n", (int)pid);
    return n;
}

/* Whether one that can't be looked at is told of. Not those that are not ours to look at. */
static bool is_told(const struct mp_failure *f)
{
    return f->code == MP_E_STALLED || f->code == MP_E_INTERNAL;
}

/* Every process that can be read. *ret_code: the exit code for the first that can't and is
 * told of, or 0. Another user may have made it so: the others are listed all the same. */
static int status_all(const struct talk *t, int *ret_code)
{
    DIR *d = opendir("/proc");
    struct dirent *e;
    int found = 0, code = 0;

    while (d && (e = readdir(d))) {
        struct mp_failure f = {0};
        pid_t pid = (pid_t)atoi(e->d_name);
        int n = isdigit((unsigned char)e->d_name[0]) ? status_one(t, pid, true, &f) : 0;

        found += n > 0;
        if (n < 0 && is_told(&f)) {
            n = cmd_fail(t, pid, &f);
            code = code ? code : n;
        }
    }
    *ret_code = code;
    if (d)
        closedir(d);
    if (!found && !t->json)
        puts("no process is injected (as far as this user can see)");
    return found;
}

static int run(int argc, char **argv)
{
    struct talk talk = {0};
    struct mp_failure f = {0};
    const char *value = NULL;
    bool strict = false;
    pid_t pid;
    int c, n, code = 0;

    for (int i = 1; i < argc; i++)
        talk.json |= !strcmp(argv[i], "--json");
    opterr = 0;
    optind = 1;
    while ((c = getopt_long(argc, argv, "p:h", long_options, NULL)) != -1) {
        if (c == 'h') {
            cmd_help(&cmd_status, stdout);
            return 0;
        }
        if (c == '?')
            return cmd_usage(&talk, &cmd_status, "'%s' is no option, or lacks its value", argv[optind - 1]);
        if (c == 'p')
            value = optarg;
        strict |= c == 's';
    }
    if (!value && optind == argc) {
        n = status_all(&talk, &code);
    } else {
        pid = cmd_target(&talk, &cmd_status, value, argc - optind, argv + optind);
        if (pid < 0)
            return 2;
        n = status_one(&talk, pid, false, &f);
        if (n < 0)
            return cmd_fail(&talk, pid, &f);
    }
    if (fflush(stdout))
        return mp_err_exit_code(MP_E_OUTPUT);
    if (code)
        return code;
    return !n && strict ? mp_err_exit_code(MP_E_NOT_INJECTED) : 0;
}
