/* What a seccomp filter would do to a system call, found out by running its BPF
 * program here: a filter that kills must not be met by trying. */
#ifndef MP_SECCOMP_H
#define MP_SECCOMP_H

#include <linux/filter.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "target/tracee.h"

/* A system call as far as it is known beforehand. A program may look at what is not: then
 * whatever it could answer counts. */
struct seccomp_call {
    long nr;
    const char *name;
    bool optional;    /* an errno will do: there is another way, or it is no matter */
    uint8_t known;    /* bit N: args[N] is what it says; otherwise it can be anything */
    uint64_t args[6];
};

/* The worst action (SECCOMP_RET_*, data included) that one program can answer to such an
 * x86-64 call, wherever it is made: allowed (ALLOW, LOG) is better than an errno, and that
 * better than all else. A program that is not understood, or doesn't end, answers
 * SECCOMP_RET_KILL_PROCESS. Not reentrant. */
uint32_t seccomp_worst(const struct sock_filter *prog, size_t len, const struct seccomp_call *c);

/* Checks the filters of a stopped thread for all system calls of the table. 0 when all
 * are allowed; 1 when *ret_name is not; -errno (-EACCES: PTRACE_SECCOMP_GET_FILTER needs
 * CAP_SYS_ADMIN and a kernel with CONFIG_CHECKPOINT_RESTORE; -EINVAL likewise, or the
 * thread has no filter). */
int seccomp_check(struct tracee *t, const struct seccomp_call *calls, size_t count, const char **ret_name) MP_MUST_CHECK;

#endif
