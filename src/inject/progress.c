/* A thread's progress. See progress.h. */
#include "inject/progress.h"

#include <sched.h>
#include <string.h>
#include <sys/syscall.h>

#include "target/proc.h"

void progress_begin(struct progress *p, pid_t pid, pid_t tid)
{
    *p = (struct progress){.pid = pid, .tid = tid};
    if (proc_task_ran(pid, tid, &p->ran_ns) < 0 || p->ran_ns == 0) /* 0: nothing is counted here */
        p->ran_ns = UINT64_MAX;
}

/* Whether what it waits for, by its state, may be within a malloc, or within a fork, which keeps
 * in mind whether there were threads when it began. For a page it waits in no system call; as S
 * if userfaultfd gives it the page, and so does a thread that its cgroup has frozen. */
static bool progress_may_be_within(const struct progress *p, char state)
{
    struct proc_syscall sc;
    int ret = proc_syscall_read(&sc, p->pid, p->tid);
    if (ret < 0)
        return state == 'D';
    switch (sc.running ? -1 : sc.nr) { /* a wait that has ended is looked at anew */
    case -1:
        return true;
    case SYS_clone:
        return !(sc.arg[0] & CLONE_VFORK);
    case SYS_fork:
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
    if (p->ran_ns == UINT64_MAX || !proc_task_lives(p->pid, p->tid, &st))
        return true;
    if (strchr("SD", st.state) && !progress_may_be_within(p, st.state))
        return true;
    if (proc_task_ran(p->pid, p->tid, &ran) < 0)
        return true;
    if (p->moved)
        return ran - p->ran_ns >= PROGRESS_NS;
    p->moved = ran != p->ran_ns;
    p->ran_ns = ran;
    return false;
}
