/* A result stream that can be given up: a reader that does not read must not
 * keep the launcher from detaching. Rendered bytes go through a stdio FILE whose
 * writes wait for room with poll(2) and notice the wake descriptor; stdout itself
 * is never made non-blocking, since the shell shares it. */
#ifndef MP_OUTPUT_H
#define MP_OUTPUT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"

/* Must not move between open and close: the FILE points at it. */
struct output {
    int fd;
    bool owned;          /* fd was opened here */
    bool plain;          /* a regular file: has room at all times, as poll(2) says of it */
    bool chunked;        /* there is no writing without waiting here (RWF_NOWAIT) */
    FILE *file;          /* what renderers write to */
    int wake_fd;         /* readable: somebody wants us to end; -1 none */
    uint64_t end_ns;     /* CLOCK_MONOTONIC: waiting for room beyond this is pointless; 0 none */
    uint64_t give_up_ns; /* set at the first wake or at end_ns: when to stop waiting */
    uint64_t dropped;    /* bytes not written */
    int err;             /* first error of a write, positive errno; 0 none */
};

/* Opens path ("-" or NULL: stdout) for writing, truncated, CLOEXEC. A FIFO's reader is
 * waited for. Returns 0 or -errno: -EXDEV when what is there lies in a folder where others
 * may write and belongs to one of them, -EINTR when woken. The output borrows wake_fd. */
int output_open(struct output *o, const char *path, int wake_fd) MP_MUST_CHECK;

/* Pushes what stdio holds. 0 or -errno of the first write that failed (-EPIPE:
 * the reader left; -ETIMEDOUT: given up). */
int output_flush(struct output *o);

/* Flushes, closes what was opened. 0 or -errno as output_flush. Harmless on a
 * zeroed struct with fd -1 and on one closed before. */
int output_close(struct output *o);

#endif
