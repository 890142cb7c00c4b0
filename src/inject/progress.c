/* A thread's progress. See progress.h. */
#include "inject/progress.h"

#include <sys/syscall.h>

#include "target/proc.h"

void progress_begin(struct progress *p, pid_t pid, pid_t tid)
{
    *p = (struct progress){.pid = pid, .tid = tid};
    if (proc_task_ran(pid, tid, &p->ran_ns) < 0 || p->ran_ns == 0) /* 0: nothing is counted here */
        p->ran_ns = UINT64_MAX;
}

/* For a page it waits in no system call. */
static bool progress_waits_for_memory(const struct progress *p)
{
    struct proc_syscall sc;
    if (proc_syscall_read(&sc, p->pid, p->tid) < 0 || sc.running)
        return true;
    switch (sc.nr) {
    case -1:
    case SYS_brk:
    case SYS_mmap:
    case SYS_munmap:
    case SYS_mremap:
    case SYS_mprotect:
    case SYS_madvise:
        return true;
    default:
        return false;
    }
}

bool progress_made(struct progress *p)
{
    struct proc_stat st;
    uint64_t ran;
    if (p->ran_ns == UINT64_MAX || proc_stat_read(&st, p->pid, p->tid) < 0 || st.state == 'S')
        return true;
    if (st.state == 'D' && !progress_waits_for_memory(p))
        return true;
    if (proc_task_ran(p->pid, p->tid, &ran) < 0)
        return true;
    if (p->moved)
        return ran - p->ran_ns >= PROGRESS_NS;
    p->moved = ran != p->ran_ns;
    p->ran_ns = ran;
    return false;
}
