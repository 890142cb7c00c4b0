/* What the subcommands share: the table's row, how a failure is told, a target
 * named on the command line. */
#ifndef MP_CMD_H
#define MP_CMD_H

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

#include "base/err.h"

struct command {
    const char *name;
    const char *synopsis;            /* after "mempulse NAME " */
    const char *summary;             /* one line */
    const char *help;                /* options, one a line */
    int (*run)(int argc, char **argv); /* argv[0] is the subcommand; returns the exit code */
};

extern const struct command cmd_inject, cmd_detach, cmd_status;

/* How a command talks. Filled while its options are read. */
struct talk {
    bool json;    /* errors as one JSON object on stderr */
    bool quiet;   /* no banners, no summaries */
    FILE *log;    /* -v: stderr; otherwise NULL */
};

/* Tells f on stderr (text or JSON) and returns its exit code. */
int cmd_fail(const struct talk *t, pid_t pid, const struct mp_failure *f);

/* To be called with a failure that came after the target had been touched: where the process
 * has died since, that is the cause (MP_E_TARGET_EXITED), and nobody may read that nothing was
 * changed in it. */
void cmd_touched(pid_t pid, struct mp_failure *f);

/* A usage error: message, how to get help; returns 2. */
int cmd_usage(const struct talk *t, const struct command *c, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Prints a command's help on out. */
void cmd_help(const struct command *c, FILE *out);

/* The target of a command: -p VALUE (may be NULL) and what stands after the
 * options. Returns the pid, or -1 after a usage error was told (exit code 2). */
pid_t cmd_target(const struct talk *t, const struct command *c, const char *value, int argc, char **argv);

/* A banner or summary on stderr, unless -q. */
void cmd_say(const struct talk *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
