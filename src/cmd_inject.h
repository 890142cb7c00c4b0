/* The options of `mempulse inject`, parsed; and its live part. */
#ifndef MP_CMD_INJECT_H
#define MP_CMD_INJECT_H

#include <stdbool.h>
#include <stdint.h>

#include "cmd.h"
#include "options.h"

enum inject_format { FORMAT_TEXT, FORMAT_NDJSON };

/* --fail-on conditions; 0 is off. Bytes. */
struct inject_fail_on {
    uint64_t rss;  /* growth of the process between attach and detach */
    uint64_t self; /* net self growth of any one function */
};

struct inject_options {
    struct talk talk;
    pid_t pid;
    struct mp_options agent;
    long thread;           /* --thread as given: a tid as this namespace sees it; 0 all */
    uint64_t duration_ns;  /* 0: until interrupted */
    uint64_t count;        /* stop after so many call records; 0: never */
    uint64_t timeout_ns;   /* to find a safe point and get the GIL */
    const char *output;    /* -o as given; NULL stdout */
    enum inject_format format;
    bool summary;          /* no stream, only the ranking */
    bool replace;
    bool color;      /* on the terminal */
    bool color_file; /* in a file of -o: only where --color always asks for it */
    bool report_mempulse;
    double max_loss_pct;   /* <0: off */
    struct inject_fail_on fail_on;
};

/* Parses argv. 0 go on; 1 help was printed (exit 0); 2 a usage error was told. */
int inject_options_parse(struct inject_options *o, int argc, char **argv);

/* Injects, streams, detaches, tells. Returns the exit code. */
int inject_live(const struct inject_options *o);

#endif
