/* What a seccomp filter would do to a system call, found out by running its BPF
 * program here: a filter that kills must not be met by trying. */
#ifndef MP_SECCOMP_H
#define MP_SECCOMP_H

#include <linux/filter.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "target/tracee.h"

/* The action (SECCOMP_RET_*, data included) of one program for x86-64 system call
 * nr with these arguments. A program that is not understood, or doesn't end,
 * answers SECCOMP_RET_KILL_PROCESS. Pure. */
uint32_t seccomp_eval(const struct sock_filter *prog, size_t len, long nr, const uint64_t args[6]);

/* Checks the filters of a stopped thread for all system calls of the table, with
 * arguments 0. 0 when all are allowed; 1 when *ret_name is not; -errno (-EACCES:
 * PTRACE_SECCOMP_GET_FILTER needs CAP_SYS_ADMIN and a kernel with
 * CONFIG_CHECKPOINT_RESTORE; -EINVAL likewise). */
struct seccomp_call {
    long nr;
    const char *name;
    bool optional; /* an errno will do: there is another way, or it is no matter */
};
int seccomp_check(struct tracee *t, const struct seccomp_call *calls, size_t count, const char **ret_name) MP_MUST_CHECK;

#endif
