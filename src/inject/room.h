/* What an injection takes from the target's own account (descriptors, threads, address
 * space, its /proc), and whether there is room for it. Read from outside, so that a
 * refusal has touched nothing; what can't be read is left for the kernel to refuse. */
#ifndef MP_ROOM_H
#define MP_ROOM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "target/proc.h"

struct room_limit {
    bool known; /* and in force */
    uint64_t used;
    struct proc_limit limit;
};

struct room {
    struct room_limit nofile; /* used: numbers below the limit */
    struct room_limit nproc;  /* used: threads of the user that we can see */
    struct room_limit as;     /* bytes */
    struct room_limit data;   /* bytes */
    bool no_proc;             /* the target's root has no /proc of its own or another's */
    char root[128];           /* of the target, as its mount namespace names it; "" not known */
};

/* Fills *ret for a process whose status is *s; live: a thread of it that has memory. */
void room_gather(struct room *ret, pid_t pid, pid_t live, const struct proc_status *s);

/* Pure. 0, or a negative enum mp_err (MP_E_NO_PROC, MP_E_LIMIT) with cause and remedy in *f. */
int room_check(const struct room *r, pid_t pid, struct mp_failure *f) MP_MUST_CHECK;

/* A step failed in the target with err (positive): MP_E_LIMIT with the limit's name where
 * the errno is that of one, else 0 and nothing is said. */
int room_explain(const char *step, pid_t pid, int err, struct mp_failure *f) MP_MUST_CHECK;

#endif
