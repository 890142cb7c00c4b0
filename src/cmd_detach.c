/* mempulse detach: gets rid of any agent and of what an earlier one left, and
 * shows the target before and after. Idempotent. */
#include <getopt.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/args.h"
#include "base/clock.h"
#include "cmd_lock.h"
#include "cmd_residue.h"
#include "cmd_watch.h"

#define CLEAN_WAIT_MS 2000u
#define RETRY_STEP_MS 100
#define SWEEPS_MAX 3           /* without --wait: a target could bring forth leftovers without end */
#define ROUND_NS 30000000000ull /* of a retry, beyond what the agent takes */
#define SLOTS 4        /* struct mp_slots has so many that can change */
#define SLOT_WORDS 96

struct detach {
    struct talk talk;
    pid_t pid;
    bool strict;
    bool json_result;
    uint64_t wait_ns;    /* --wait: how long to retry for what can't go yet */
    uint64_t timeout_ns; /* for the agent to unhook */
    /* found */
    bool found;          /* something of ours was there */
    bool cured;          /* an agent with the GIL has been there to take it out */
    bool changed;        /* by this detach: something has been taken out, or told to go */
    struct inject_agent agent;
    bool asked;          /* it lived and was asked to leave: its account is of this detach */
    struct inject_snapshot *before; /* as it was before this detach */
    struct inject_diff diff;
};

static int run(int argc, char **argv);

const struct command cmd_detach = {
    .name = "detach",
    .synopsis = "-p PID [OPTIONS]",
    .summary = "remove any mempulse agent and its hooks from a process, and prove it",
    .help = "  -p, --pid PID       the process (also accepted as the only argument)\n"
            "      --wait TIME     retry so long for what can't be removed at once (default 0)\n"
            "      --timeout TIME  wait so long for the agent to unhook (default 10s)\n"
            "      --strict        exit 7 when there is nothing to detach\n"
            "      --json          the result, and errors, as JSON\n"
            "  -q, --quiet         only the exit code\n"
            "  -v, --verbose       say how it goes\n",
    .run = run,
};

static const struct option long_options[] = {
    {"pid", 1, NULL, 'p'},     {"wait", 1, NULL, 'w'},  {"timeout", 1, NULL, 't'}, {"strict", 0, NULL, 's'},
    {"json", 0, NULL, 'j'},    {"quiet", 0, NULL, 'q'}, {"verbose", 0, NULL, 'v'}, {"help", 0, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static const char *const kind_names[INJECT_KINDS] = {
    [INJECT_MAPPINGS] = "mappings", [INJECT_FDS] = "file descriptors", [INJECT_THREADS] = "threads",
    [INJECT_SIGMASK] = "signal masks", [INJECT_SIGACTION] = "signal dispositions",
};
static const char *const kind_keys[INJECT_KINDS] = {
    [INJECT_MAPPINGS] = "mappings", [INJECT_FDS] = "fds", [INJECT_THREADS] = "threads",
    [INJECT_SIGMASK] = "signal_masks", [INJECT_SIGACTION] = "signal_dispositions",
};

/* 0 go on, 1 help printed, 2 told. */
static int parse(struct detach *d, int argc, char **argv)
{
    const char *pid = NULL;
    int c;

    *d = (struct detach){.timeout_ns = 10000000000ull};
    for (int i = 1; i < argc; i++)
        d->talk.json |= !strcmp(argv[i], "--json");
    opterr = 0;
    optind = 1;
    while ((c = getopt_long(argc, argv, "p:qvh", long_options, NULL)) != -1) {
        if (c == 'p') {
            pid = optarg;
        } else if (c == 'w' || c == 't') {
            if (args_duration(optarg, c == 'w' ? &d->wait_ns : &d->timeout_ns))
                return cmd_usage(&d->talk, &cmd_detach, "'%s' is not a duration", optarg);
        } else if (c == 's') {
            d->strict = true;
        } else if (c == 'q') {
            d->talk.quiet = true;
        } else if (c == 'v') {
            d->talk.log = stderr;
        } else if (c == 'h') {
            cmd_help(&cmd_detach, stdout);
            return 1;
        } else if (c != 'j') {
            return cmd_usage(&d->talk, &cmd_detach, "'%s' is no option, or lacks its value", argv[optind - 1]);
        }
    }
    d->json_result = d->talk.json;
    d->pid = cmd_target(&d->talk, &cmd_detach, pid, argc - optind, argv + optind);
    return d->pid < 0 ? 2 : 0;
}

/* No thread could be borrowed within the sweep's own time: another one may do later. */
static bool detach_busy(const struct mp_failure *f)
{
    return f->code == MP_E_NO_THREAD || f->code == MP_E_NO_SAFE_POINT;
}

/* What an exec took away meanwhile needs no cure, nor has its program an interpreter for one. */
static int detach_cure(struct detach *d, struct mp_failure *f)
{
    struct mp_failure cure = {0}, look = {0};
    struct inject_diff now;
    int n = residue_cure(&d->talk, d->pid, d->timeout_ns, &cure);

    if (n == -MP_E_NOT_PYTHON && inject_verify(d->pid, d->before, &now, &look) == 0 && now.clean)
        return 0;
    if (n < 0)
        *f = cure;
    return n;
}

/* Retries for what can't go at once: a frame that still runs through a thunk. A thunk
 * with nothing inside that the sweep does not dare to unmap, because some word in the
 * target looks like a pointer to it, is taken out by an agent that holds the GIL and
 * need not guess, unless another tracer may have kept its trace function; so is what a
 * fork has copied. What such an agent had to leave may have become free since. */
static int detach_retry(struct detach *d, struct mp_failure *f)
{
    uint64_t deadline = clock_mono_ns() + d->wait_ns, pause_ns;
    int n, sweeps = 0;

    for (;;) {
        cmd_watch(&d->talk, d->pid, ROUND_NS + d->timeout_ns, d->found);
        n = inject_wait_clean(d->pid, d->before, CLEAN_WAIT_MS, &d->diff, f);
        if (n)
            return n;
        /* Not before copies are cured: their regions tell which descriptors they have. */
        n = d->cured || !inject_copies(d->pid) ? inject_sweep(d->pid, d->talk.log, &pause_ns, f) : 0;
        d->changed |= n > 0;
        if (n < 0 && (!detach_busy(f) || clock_mono_ns() >= deadline))
            return n;
        if (n < 0) {
            *f = (struct mp_failure){0}; /* of several tries the last one counts */
            continue;
        }
        if (n > 0 && (++sweeps < SWEEPS_MAX || clock_mono_ns() < deadline))
            continue;
        if ((!d->cured || clock_mono_ns() < deadline) &&
            (inject_idle_thunks(d->pid) > 0 || inject_copies(d->pid) > 0)) {
            d->cured = true;
            n = detach_cure(d, f);
            if (n < 0)
                return n;
            d->changed = true;
            continue;
        }
        if (clock_mono_ns() >= deadline)
            return 0;
        poll(NULL, 0, RETRY_STEP_MS); /* bounded by --wait */
    }
}

/* 1 clean, 0 something stays, negative enum mp_err. */
static int detach_do(struct detach *d, struct mp_failure *f)
{
    int n;

    cmd_watch(&d->talk, d->pid, CMD_WATCH_LOOK_NS, false);
    n = inject_snapshot_take(&d->before, d->pid, f);
    if (n)
        return n;
    n = inject_find_agent(d->pid, &d->agent, f);
    if (n < 0)
        return n;
    if (n == 0) {
        n = inject_verify(d->pid, NULL, &d->diff, f);
        if (n < 0 || d->diff.clean)
            return n < 0 ? n : 1;
        d->found = true;
        return detach_retry(d, f);
    }
    d->found = true;
    d->cured = !d->agent.alive || d->agent.control.state >= MP_STATE_GONE;
    d->asked = !d->cured;
    cmd_watch(&d->talk, d->pid, ROUND_NS + d->timeout_ns, true);
    if (d->asked)
        n = residue_detach(&d->talk, d->pid, &d->agent, d->timeout_ns, f);
    else
        n = detach_cure(d, f);
    if (n)
        return n;
    d->changed = true;
    return detach_retry(d, f);
}

/* Of the interpreter's hook slots, those that differ from what the agent found before it
 * hooked, each in words. Functions of threads are compared by how many threads have one.
 * Their number; -1 when nothing is known. */
static int slots_changed(const struct detach *d, char words[SLOTS][SLOT_WORDS])
{
    const struct mp_slots *b = &d->agent.control.slots_before, *a = &d->agent.control.slots_after;
    int n = 0;

    if (!d->asked || a->hook == MP_HOOK_NONE)
        return -1;
    if (a->eval_frame != b->eval_frame)
        snprintf(words[n++], SLOT_WORDS, "eval frame %#" PRIx64 " now, %#" PRIx64 " then", a->eval_frame, b->eval_frame);
    if (a->profile_threads != b->profile_threads)
        snprintf(words[n++], SLOT_WORDS, "threads with a profile function: %u now, %u then", a->profile_threads, b->profile_threads);
    if (a->trace_threads != b->trace_threads)
        snprintf(words[n++], SLOT_WORDS, "threads with a trace function: %u now, %u then", a->trace_threads, b->trace_threads);
    if (a->monitoring_tools != b->monitoring_tools)
        snprintf(words[n++], SLOT_WORDS, "sys.monitoring tools: %#x now, %#x then", a->monitoring_tools, b->monitoring_tools);
    return n;
}

/* In state GONE nothing of ours is reachable from the interpreter: what differs is not ours. */
static const char *slots_line(const struct detach *d, int changed)
{
    if (changed == 0)
        return "as found at the injection";
    return d->agent.control.state == MP_STATE_GONE ? "changed since the injection, by the target" : "changed since the injection";
}

static void print_slots(const struct detach *d)
{
    char words[SLOTS][SLOT_WORDS];
    int n = slots_changed(d, words);

    if (n < 0)
        return;
    printf("%-22s %s%s", "interpreter's hooks", slots_line(d, n), n ? ": " : " (eval frame, profile, trace, sys.monitoring)");
    for (int i = 0; i < n; i++)
        printf("%s%s", i ? "; " : "", words[i]);
    putchar('\n');
}

/* Each cause has a sentence of its own: thunks, two mappings each; what a fork brought. */
static void print_residue(const struct detach *d)
{
    if (inject_copies(d->pid) > 0)
        puts("what is left was copied from the process that this one was forked from, and is inert: its interpreter could\n"
             "not be asked, or something in it may still reach the copy");
    if (d->diff.thunks)
        puts("what is left is inert code: a call that went through it has not returned yet, or another eval-frame\n"
             "user has its address, or another tracer may have kept its trace function (it goes with the next detach, or\n"
             "injection and detach, after that; --wait 10s tries so long)");
    printf("detached from %d, but something stays (see above)\n", (int)d->pid);
}

static void print_text(const struct detach *d)
{
    if (!d->found) {
        printf("process %d: nothing of mempulse is there\n", (int)d->pid);
        return;
    }
    /* Not the time before the injection, of which only the agent's account tells. */
    printf("%-22s %8s %8s %8s\n", "this detach:", "before", "after", "ours");
    for (int k = 0; k < INJECT_KINDS; k++)
        printf("%-22s %8zu %8zu %8zu\n", kind_names[k], d->diff.kind[k].before, d->diff.kind[k].after,
               d->diff.kind[k].ours);
    print_slots(d);
    if (d->diff.detail[0] && (d->talk.log || !d->diff.clean))
        printf("%s\n", d->diff.detail);
    if (d->diff.clean)
        printf("detached from %d: %" PRIu64 " records, %" PRIu64 " lost; nothing left behind\n", (int)d->pid,
               d->agent.control.records, d->agent.control.lost);
    else
        print_residue(d);
}

static int print_json(const struct detach *d)
{
    struct json_object *o = json_object_new_object();
    char words[SLOTS][SLOT_WORDS];
    int changed = slots_changed(d, words);

    json_object_object_add(o, "type", json_object_new_string("detach"));
    json_object_object_add(o, "v", json_object_new_int(1));
    json_object_object_add(o, "pid", json_object_new_int(d->pid));
    json_object_object_add(o, "was_injected", json_object_new_boolean(d->found));
    json_object_object_add(o, "clean", json_object_new_boolean(!d->found || d->diff.clean));
    for (int k = 0; d->found && k < INJECT_KINDS; k++) {
        struct json_object *row = json_object_new_object();

        json_object_object_add(row, "before", json_object_new_int64((int64_t)d->diff.kind[k].before));
        json_object_object_add(row, "after", json_object_new_int64((int64_t)d->diff.kind[k].after));
        json_object_object_add(row, "ours", json_object_new_int64((int64_t)d->diff.kind[k].ours));
        json_object_object_add(o, kind_keys[k], row);
    }
    if (changed >= 0) {
        struct json_object *list = json_object_new_array();

        for (int i = 0; i < changed; i++)
            json_object_array_add(list, json_object_new_string(words[i]));
        json_object_object_add(o, "interpreter_slots", json_object_new_string(slots_line(d, changed)));
        json_object_object_add(o, "interpreter_slots_changed", list);
    }
    if (d->found && d->diff.detail[0])
        json_object_object_add(o, "detail", json_object_new_string(d->diff.detail));
    printf("%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(o);
    return fflush(stdout) ? -1 : 0;
}

static int run(int argc, char **argv)
{
    struct detach d;
    struct mp_failure f = {0};
    int n = parse(&d, argc, argv), lock = -1;

    if (n)
        return n == 1 ? 0 : 2;
    signal(SIGTSTP, SIG_IGN); /* a suspended launcher would keep a thread standing */
    n = cmd_lock(&d.talk, d.pid, clock_mono_ns() + (d.wait_ns > d.timeout_ns ? d.wait_ns : d.timeout_ns), -1, &lock, &f);
    if (!n)
        n = detach_do(&d, &f);
    cmd_watch_off();
    cmd_unlock(&lock);
    inject_snapshot_free(d.before);
    f.changed_target |= d.changed;
    if (n < 0 && d.found)
        cmd_touched(d.pid, &f);
    if (n < 0)
        return cmd_fail(&d.talk, d.pid, &f);
    if (d.json_result)
        n = print_json(&d) ? mp_err_exit_code(MP_E_OUTPUT) : n;
    else if (!d.talk.quiet)
        print_text(&d);
    if (!d.found)
        return d.strict ? mp_err_exit_code(MP_E_NOT_INJECTED) : 0;
    return n == 1 ? 0 : n == 0 ? mp_err_exit_code(MP_E_RESIDUE) : n;
}
