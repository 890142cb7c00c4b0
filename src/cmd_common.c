/* What the subcommands share. */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/args.h"
#include "base/utf8.h"
#include "cmd.h"
#include "render/render.h"
#include "target/proc.h"

#define END_WAIT_MS 100
#define END_STEP_MS 5

void cmd_touched(pid_t pid, struct mp_failure *f)
{
    struct mp_failure ended = {.target_ended = true};

    for (int waited = 0; proc_live_task(pid) != -ESRCH; waited += END_STEP_MS) {
        if (waited >= END_WAIT_MS)
            return;
        poll(NULL, 0, END_STEP_MS); /* threads that are killed are there for a moment still, without an event for us */
    }
    f->target_ended = true;
    if (f->code == MP_E_TARGET_EXITED)
        return;
    (void)mp_fail(&ended, MP_E_TARGET_EXITED, f->sys_errno, "process %d has ended (%.200s)", (int)pid, f->message);
    *f = ended;
}

static const char *cmd_changes(const struct mp_failure *f)
{
    if (f->target_ended)
        return "the process has ended meanwhile";
    return f->changed_target ? "the target was changed: see above" : "nothing in the target was changed";
}

/* A hint that names a command for PID names it for this one. */
static void cmd_hint(pid_t pid, struct mp_failure *f)
{
    char rest[sizeof(f->hint)], *at = strstr(f->hint, "-p PID");

    if (pid <= 0 || !at)
        return;
    snprintf(rest, sizeof(rest), "%s", at + sizeof("-p PID") - 1);
    snprintf(at, sizeof(f->hint) - (size_t)(at - f->hint), "-p %d%s", (int)pid, rest);
}

int cmd_fail(const struct talk *t, pid_t pid, const struct mp_failure *failure)
{
    struct mp_failure told = *failure, *f = &told;

    cmd_hint(pid, f);
    if (t->json) {
        (void)!render_error_json(stderr, pid, f); /* where nobody listens on stderr the code still says it */
        return mp_failure_exit_code(f);
    }
    fprintf(stderr, "mempulse: %s\n", f->message);
    if (f->hint[0])
        fprintf(stderr, "  hint: %s\n", f->hint);
    if (f->code != MP_E_USAGE)
        fprintf(stderr, "  %s\n", cmd_changes(f));
    return mp_failure_exit_code(f);
}

int cmd_usage(const struct talk *t, const struct command *c, const char *fmt, ...)
{
    struct mp_failure f = {.code = MP_E_USAGE};
    va_list ap;

    va_start(ap, fmt);
    utf8_format_into(f.message, sizeof(f.message), fmt, ap);
    va_end(ap);
    snprintf(f.hint, sizeof(f.hint), "mempulse %s --help", c->name);
    return cmd_fail(t, 0, &f);
}

void cmd_help(const struct command *c, FILE *out)
{
    fprintf(out, "usage: mempulse %s %s\n\n%s.\n\n%s", c->name, c->synopsis, c->summary, c->help);
}

pid_t cmd_target(const struct talk *t, const struct command *c, const char *value, int argc, char **argv)
{
    long pid;

    if (!value && argc > 0) {
        value = argv[0];
        argc--;
        argv++;
    }
    if (!value) {
        cmd_usage(t, c, "which process? -p PID is missing");
        return -1;
    }
    if (argc > 0) {
        cmd_usage(t, c, "one process at a time: '%s' is left over", argv[0]);
        return -1;
    }
    if (args_number(value, 1, 1 << 30, &pid)) {
        cmd_usage(t, c, "'%s' is not a process id", value);
        return -1;
    }
    return (pid_t)pid;
}

void cmd_say(const struct talk *t, const char *fmt, ...)
{
    va_list ap;

    if (t->quiet)
        return;
    fputs("mempulse: ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
}
