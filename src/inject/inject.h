/* Injection as the commands see it: plan, run, verify. Knows no socket protocol
 * beyond the first byte and no output format. */
#ifndef MP_INJECT_H
#define MP_INJECT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "base/err.h"
#include "control.h"

struct maps;
struct inject_plan; /* everything that can be known before the target is touched */

/* Finds out all that injecting into pid needs, without stopping or changing it:
 * process, namespaces, permissions, libc, Python, symbols, addresses, images.
 * Returns 0 and a plan that the caller frees, or a negative enum mp_err with
 * *f filled and the target untouched. log (may be NULL) gets -v text. */
int inject_plan_make(struct inject_plan **ret_plan, pid_t pid, FILE *log, struct mp_failure *f) MP_MUST_CHECK;
void inject_plan_free(struct inject_plan *p);

/* What the plan found, for banners and the meta record. Strings live as long as the plan. */
struct inject_facts {
    pid_t pid;
    uint64_t starttime;      /* clock ticks since boot, field 22 of /proc/PID/stat */
    const char *exe;         /* target's executable, as the link says */
    const char *cmdline;     /* arguments joined by spaces, control characters replaced */
    uint32_t py_version;     /* 0x030b0700 */
    bool py_static;
    const char *py_file;     /* libpython or the executable */
    uint32_t glibc_major, glibc_minor;
    unsigned threads;
    uint64_t rss_bytes;
    int pidfd;               /* owned by the plan; -1 where the kernel lacks pidfd_open */
};
const struct inject_facts *inject_plan_facts(const struct inject_plan *p);

/* What one injection did; times measured with CLOCK_MONOTONIC in the launcher. */
struct inject_result {
    int fd;              /* the launcher's end of the channel, to be read; non-blocking, CLOEXEC; caller closes */
    int out;             /* to be written: fd itself (a socket), or a pipe that the caller closes too */
    uint64_t pause_ns;   /* of the stop in which the region was made, from the moment the thread is seen stopped to
                            that when it is told to go on; cmd_session.c adds those of inject_standstill to all three */
    uint64_t attach_ns;  /* from PTRACE_SEIZE to release: upper bound of the pause */
    uint64_t total_ns;   /* from the start of inject_run to the loader's rendezvous */
    unsigned attempts;   /* stops of a thread until one was found at a safe point, that one included */
    uint64_t pause_ns_sum; /* of all of them; those before looked at the thread and let it go */
    pid_t thread;        /* the thread that was borrowed */
    uint64_t region_base; /* where the boot region lies in the target */
};

/* Injects. deadline_ms bounds the search for a safe point, and wake_fd, when it becomes
 * readable, ends it (MP_E_INTERRUPTED; -1: nothing does). On failure everything
 * is undone (or f->changed_target says otherwise), and ret_result is untouched. */
int inject_run(struct inject_plan *p, unsigned deadline_ms, int wake_fd, FILE *log, struct inject_result *ret_result,
               struct mp_failure *f) MP_MUST_CHECK;

/* Reads the boot block of a region, to explain why nothing came over the socket
 * (loader's error_text). Returns 0, or -errno when it is not there any more. */
int inject_read_boot(pid_t pid, uint64_t region_base, struct mp_boot *ret_boot) MP_MUST_CHECK;

/* An agent that is in a process now, found without its cooperation. */
struct inject_agent {
    struct mp_control control;
    uint64_t control_addr;
    bool alive; /* its thread exists and belongs to this process */
};
/* 1 and *ret filled when there is one, 0 when there is none, negative enum mp_err otherwise
 * (MP_E_ABI: one of another version; control holds what could be read). */
int inject_find_agent(pid_t pid, struct inject_agent *ret, struct mp_failure *f) MP_MUST_CHECK;

/* A living agent other than that of agent_tid (as the target numbers its threads) that
 * has not left the interpreter yet: 1 and *ret filled, 0 when there is none or it can't
 * be looked for, -ENOMEM. */
int inject_find_other(pid_t pid, int32_t agent_tid, struct inject_agent *ret) MP_MUST_CHECK;

/* Whether the mappings m of pid, of which live is a thread, hold an agent that is being
 * loaded, or lives and has not left the interpreter yet: one that may take a thunk. */
bool inject_agent_at_work(pid_t pid, pid_t live, const struct maps *m);

/* Whether the session with this region and this agent's thread has gone from pid, agent,
 * thread and region, whatever else of ours is there. */
bool inject_session_gone(pid_t pid, uint64_t region_base, int32_t agent_tid);

/* Asks the agent to leave through its control block. 0 or negative enum mp_err. */
int inject_request_detach(pid_t pid, const struct inject_agent *a, struct mp_failure *f) MP_MUST_CHECK;

/* Helps an agent to the GIL that waits for it for long (50 ms), or has lost it again. A
 * waiter asks for the GIL only after a switch interval in which nobody gave it away; where
 * it is given away often and for microseconds, the waiter loses each race, and never asks.
 * So the interval is brought down for at most 30 ms, during which this call waits. Who brings
 * it back: struct mp_control. Does nothing where the interval's place is not known.
 * True when the interval was brought down. *next_ns (0 at first): not again before then,
 * a second later where it was in vain. */
bool inject_hurry(pid_t pid, const struct inject_agent *a, uint64_t *next_ns);

/* Where the agent asks for it (struct mp_control, standstill: CPython 3.6 without a GIL), stops
 * the thread that runs Python for as long as one is made; the thread is found at a safe point
 * within 100 ms, or not this time: to be called again. p: the plan of this injection. asked_ns:
 * CLOCK_MONOTONIC at the first call. Returns the pause in ns, all stops together, and adds their
 * number to *stops; 0 where nothing was asked for, or nothing stopped. */
uint64_t inject_standstill(const struct inject_plan *p, const struct inject_agent *a, uint64_t asked_ns, FILE *log,
                           unsigned *stops);

/* Tells an agent in state GONE or RESIDUE that its account has been read. 0, also when
 * it has left meanwhile; -MP_E_EPERM when the target's memory can't be written. */
int inject_ack_detach(pid_t pid, const struct inject_agent *a) MP_MUST_CHECK;

/* The target as seen from outside, for the comparison of before and after. */
struct inject_snapshot;
int inject_snapshot_take(struct inject_snapshot **ret, pid_t pid, struct mp_failure *f) MP_MUST_CHECK;
void inject_snapshot_free(struct inject_snapshot *s);

enum inject_kind {
    INJECT_MAPPINGS, INJECT_FDS, INJECT_THREADS, INJECT_SIGMASK, INJECT_SIGACTION, INJECT_KINDS
};
struct inject_diff {
    struct {
        size_t before, after; /* counts; for signals: bits set */
        size_t ours;          /* of ours still there now */
        size_t changed;       /* differences that are the target's own work or its libc's */
    } kind[INJECT_KINDS];
    bool clean;               /* nothing of ours is left */
    size_t thunks;            /* of what is ours still there: thunks, two mappings each */
    size_t regions;           /* and boot regions, empty ones too */
    size_t departing;         /* threads that came since `before` and have every signal blocked, as ours have */
    size_t libc_arenas;       /* malloc arenas that the target's libc made since `before`, and keeps for its next threads */
    char detail[1024];        /* what is left, then what differs, one item a line, escaped */
    size_t detail_left;       /* so many bytes of it are what is left, of ours */
};
/* Compares now with before; `before` may be NULL (only what is ours is then looked for). */
int inject_verify(pid_t pid, const struct inject_snapshot *before, struct inject_diff *ret,
                  struct mp_failure *f) MP_MUST_CHECK;

/* Waits until nothing of ours is left in pid, at most timeout_ms; polls with 1 ms
 * steps. The last thread of ours has no mark any more between its munmap and its exit:
 * threads that may be it (`departing`) are waited for 100 ms, and are the target's then.
 * Returns 1 clean, 0 not within the time (*ret says what is left), negative enum mp_err
 * otherwise (MP_E_TARGET_EXITED when the process went away). */
int inject_wait_clean(pid_t pid, const struct inject_snapshot *before, unsigned timeout_ms,
                      struct inject_diff *ret, struct mp_failure *f) MP_MUST_CHECK;

/* How many things are mapped in pid that only an agent with the GIL can judge (residue_cure):
 * inert thunks with nothing in flight, or with a count of calls that a fork made void;
 * 0 as well when it can't be looked at. Stops nothing. */
int inject_idle_thunks(pid_t pid);

/* The same for regions that a fork copied into pid, from a session in another process. */
int inject_copies(pid_t pid);

/* Unmaps inert leftovers that no thread can reach: thunk pages with nothing in
 * flight, orphaned regions. One short stop (its pause in *ret_pause_ns). Returns the
 * number of mappings removed, or negative enum mp_err. */
int inject_sweep(pid_t pid, FILE *log, uint64_t *ret_pause_ns, struct mp_failure *f) MP_MUST_CHECK;

#endif
