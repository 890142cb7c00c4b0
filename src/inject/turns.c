/* Who has the core. See turns.h. */
#include "inject/turns.h"

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "target/proc.h"
#include "target/tracee.h"

#define TURNS_LEND_NS 400000   /* so long the core is lent before it is taken back */
#define TURNS_POKE_NS 1000000  /* between two looks for what no stop tells of, where each stop is slept for */
#define TURNS_NAP_NS 20000
#define TURNS_NAPS 2           /* one could end with a tick, which gives us a turn */
#define TURNS_LOOKS 4          /* at how many threads run */
#define TURNS_LOOK_NS 100000   /* between two of them */
#define TURNS_QUIET_NS 300000  /* who has its core back within that, after a nap, had it for itself */

enum turns_state {
    TURNS_APART,
    TURNS_SHARED,
    TURNS_LENT,
    TURNS_OVER,
    TURNS_STATES
};

static _Thread_local struct turns *mine;

static enum turns_state turns_kind(uint32_t state)
{
    return (enum turns_state)(state % TURNS_STATES);
}

/* Another state than any before, of that kind. */
static uint32_t turns_next(const struct turns *t, enum turns_state kind)
{
    uint32_t state = atomic_load(&t->state);
    return state - turns_kind(state) + TURNS_STATES + kind;
}

static void turns_tell(struct turns *t, enum turns_state kind)
{
    atomic_store(&t->state, turns_next(t, kind));
    syscall(SYS_futex, &t->state, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void turns_begin(struct turns *t, bool may_lend)
{
    t->tid = (pid_t)syscall(SYS_gettid);
    t->may_lend = may_lend && sched_getscheduler(0) == SCHED_OTHER /* what it is to become again */
                  && proc_kernel_from(5, 4);                       /* before, no such core counts as idle */
    if (sched_getaffinity(0, sizeof t->cores, &t->cores) < 0) /* more cores than a cpu_set_t has */
        CPU_ZERO(&t->cores);
    mine = t;
}

void turns_end(struct turns *t)
{
    turns_apart();
    mine = NULL;
    turns_tell(t, TURNS_OVER);
}

static void turns_set_policy(pid_t tid, int policy)
{
    const struct sched_param none = {0};
    (void)!sched_setscheduler(tid, policy, &none);
}

/* Whether *t remained in that state for so long. */
static bool turns_last(struct turns *t, uint32_t state, uint64_t ns)
{
    uint64_t end = clock_mono_ns() + ns;
    const struct timespec until = {(time_t)(end / 1000000000u), (long)(end % 1000000000u)};
    long r;
    do
        r = syscall(SYS_futex, &t->state, FUTEX_WAIT_BITSET_PRIVATE, state,
                    turns_kind(state) == TURNS_APART ? NULL : &until, NULL, FUTEX_BITSET_MATCH_ANY);
    while (r < 0 && errno == EINTR);
    return r < 0 && errno == ETIMEDOUT && atomic_load(&t->state) == state;
}

/* From the core that it lent: who had that before us has it until its slice ends. */
static void turns_leave(struct turns *t, uint32_t state)
{
    cpu_set_t others = t->cores;
    CPU_CLR((size_t)t->core, &others);
    if (CPU_COUNT(&others) == 0)
        return;
    (void)!sched_setaffinity(t->tid, sizeof others, &others);
    if (atomic_load(&t->state) != state) /* it has taken itself apart meanwhile */
        (void)!sched_setaffinity(t->tid, sizeof t->cores, &t->cores);
}

void turns_watch(struct turns *t)
{
    uint32_t state, lent = 0;
    unsigned late = 0; /* for how many spans its core has been lent */
    while (turns_kind(state = atomic_load(&t->state)) != TURNS_OVER) {
        bool lends = turns_kind(state) == TURNS_LENT;
        if (state != lent)
            late = 0;
        lent = state;
        if (!turns_last(t, state, lends ? TURNS_LEND_NS : TURNS_POKE_NS))
            continue;
        if (lends) {
            turns_set_policy(t->tid, SCHED_OTHER);
            if (++late == 2)
                turns_leave(t, state);
        }
        syscall(SYS_tgkill, getpid(), t->tid, SIGCHLD);
    }
}

static bool turns_go_to(int core)
{
    cpu_set_t one;
    if (core < 0 || core >= CPU_SETSIZE || !CPU_ISSET((size_t)core, &mine->both))
        return false;
    mine->core = core;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    return sched_setaffinity(0, sizeof one, &one) == 0;
}

/* Whether nobody else wanted the core when it was lent: else an idle thread that has slept mostly gets no turn. (sched_yield
 * does not tell: it may give us the next one, whoever waits.) */
static bool turns_lend_quiet(void)
{
    const struct timespec nap = {0, TURNS_NAP_NS};
    bool quiet = true;
    turns_set_policy(0, SCHED_IDLE);
    for (int i = 0; i < TURNS_NAPS && quiet; i++) {
        uint64_t begin = clock_mono_ns();
        nanosleep(&nap, NULL);
        quiet = clock_mono_ns() - begin < TURNS_QUIET_NS;
    }
    return quiet;
}

static void turns_lend(void)
{
    turns_tell(mine, TURNS_LENT);
    tracee_sleep_for_stops(true);
}

/* Lends a core where nobody runs; that is tried out where somebody does somewhere. */
static bool turns_lend_core(int core, bool alone)
{
    if (!turns_go_to(core))
        return false;
    turns_lend();
    if (alone || turns_lend_quiet()) {
        turns_lend(); /* from here on, if it was not taken back already */
        turns_set_policy(0, SCHED_IDLE);
        return true;
    }
    turns_apart();
    return false;
}

/* To a thread that waits, and ran on `core` last: it is woken there if that is idle, else where we are. */
static void turns_lend_to_sleeper(int core, bool alone)
{
    int here = sched_getcpu();
    if (!turns_lend_core(core, alone) && here != core)
        (void)turns_lend_core(here, alone);
}

static void turns_share(int core)
{
    if (!turns_go_to(core))
        return;
    turns_tell(mine, TURNS_SHARED);
    tracee_sleep_for_stops(true);
}

/* The fewest of a few looks: threads of our own that come and go for a moment don't make a crowd. */
static long turns_running(void)
{
    const struct timespec nap = {0, TURNS_LOOK_NS};
    long fewest = proc_running();
    for (int i = 1; i < TURNS_LOOKS && fewest > 1; i++) {
        nanosleep(&nap, NULL);
        long now = proc_running();
        fewest = now < fewest ? now : fewest;
    }
    return fewest;
}

/* Whom we can outrun: one of real time would keep us from its core. */
static bool turns_is_fair(pid_t tid)
{
    int policy = sched_getscheduler(tid);
    if (policy >= 0)
        policy &= ~SCHED_RESET_ON_FORK;
    return policy == SCHED_OTHER || policy == SCHED_BATCH || policy == SCHED_IDLE;
}

void turns_near(pid_t pid, pid_t tid)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN), running;
    struct proc_stat st;
    cpu_set_t theirs;
    if (!mine)
        return;
    turns_back();
    tracee_sleep_for_stops(false);
    atomic_store(&mine->state, turns_next(mine, TURNS_APART)); /* nor shared any more */
    turns_apart();
    running = turns_running();
    if (proc_stat_read(&st, pid, tid) < 0 || sched_getaffinity(tid, sizeof theirs, &theirs) < 0 || !turns_is_fair(tid))
        return;
    CPU_AND(&mine->both, &mine->cores, &theirs);
    bool runs = st.state == 'R';
    long others = running - 1 - runs; /* as many as there are cores: each may have one of them */
    if (running > cores + 1) {
        turns_share(st.core);
    } else if (!mine->may_lend || others >= cores || (runs && others > 0 && CPU_COUNT(&mine->both) == 1)) {
        return;
    } else if (!runs) {
        turns_lend_to_sleeper(st.core, running == 1);
    } else if (turns_go_to(st.core)) {
        turns_lend();
        mine->when_asked = true; /* now, that thread would not let us ask it */
    }
}

void turns_asked(void)
{
    if (!mine || !mine->when_asked)
        return;
    mine->when_asked = false;
    turns_set_policy(0, SCHED_IDLE);
}

void turns_back(void)
{
    if (!mine)
        return;
    mine->when_asked = false;
    if (turns_kind(atomic_load(&mine->state)) != TURNS_LENT)
        return;
    turns_set_policy(0, SCHED_OTHER); /* first: nobody watches who is apart */
    atomic_store(&mine->state, turns_next(mine, TURNS_APART));
    tracee_sleep_for_stops(false);
}

void turns_apart(void)
{
    turns_back();
    if (mine && turns_kind(atomic_load(&mine->state)) == TURNS_APART)
        (void)!sched_setaffinity(0, sizeof mine->cores, &mine->cores);
}
