/* Who has the core while a thread of a child is stopped again and again (inject/turns.h). */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "inject/borrow.h"
#include "inject/turns.h"
#include "skip.h"
#include "target/proc.h"

#define STOPS 200
#define PATIENCE_NS 20000000000ull
#define SHORT_NS 5000000ull
#define SOON_NS 1000000000ull /* a thousand times as long as it may take */
#define TRIES 1000
#define NOBODY 65534

static long running; /* threads, as the code under test is told */

long __wrap_proc_running(void);
long __wrap_proc_running(void)
{
    return running;
}

static pid_t fork_child(bool busy)
{
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            if (!busy)
                pause();
    }
    return pid;
}

static void end_child(pid_t pid)
{
    kill(pid, SIGKILL);
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
}

static char state_of(pid_t pid)
{
    struct proc_stat st;
    ck_assert_int_eq(proc_stat_read(&st, pid, 0), 0);
    return st.state;
}

static pid_t fork_in_state(char state)
{
    pid_t pid = fork_child(state == 'R');
    while (state_of(pid) != state)
        sched_yield();
    return pid;
}

/* Allowed to lend: who may come back from SCHED_IDLE. */
static bool may_lend(const char *test)
{
    if (!proc_kernel_from(5, 4)) {
        skip(test, "Linux before 5.4");
        return false;
    }
    int nice = getpriority(PRIO_PROCESS, 0);
    if (sched_getscheduler(0) == SCHED_OTHER && setpriority(PRIO_PROCESS, 0, -20) == 0) {
        ck_assert_int_eq(setpriority(PRIO_PROCESS, 0, nice), 0);
        return true;
    }
    skip(test, "another class, or CAP_SYS_NICE is missing");
    return false;
}

static int cores_allowed(void)
{
    cpu_set_t set;
    ck_assert_int_eq(sched_getaffinity(0, sizeof set, &set), 0);
    return CPU_COUNT(&set);
}

struct job {
    pid_t pid;
    bool done;
};

static void stop_often(pid_t pid)
{
    struct tracee_stop stop = {.event = TRACEE_GONE};
    struct tracee t;
    tracee_init(&t, pid);
    ck_assert_int_eq(tracee_seize(&t, false), 0);
    for (int i = 0; i < STOPS; i++) {
        ck_assert_int_eq(tracee_interrupt(&t), 0);
        ck_assert_int_eq(tracee_wait(&t, clock_mono_ns() + PATIENCE_NS, &stop), 0);
        ck_assert_int_eq(stop.event, TRACEE_TRAP);
        ck_assert_int_eq(tracee_cont(&t, 0), 0);
    }
    ck_assert_int_eq(tracee_wait(&t, clock_mono_ns() + SHORT_NS, &stop), -ETIMEDOUT);
}

/* That it is lent; who loses his core meanwhile has it back and tries again. */
static void lend(pid_t pid, bool ask)
{
    for (int i = 0; i < TRIES; i++) {
        turns_near(pid, pid);
        if (ask) {
            ck_assert_int_eq(sched_getscheduler(0), SCHED_OTHER); /* it would not let us ask it */
            turns_asked();
        }
        if (sched_getscheduler(0) == SCHED_IDLE)
            return;
        turns_apart();
    }
    ck_abort_msg("the core is not lent");
}

static void check_apart(int cores)
{
    ck_assert_int_eq(sched_getscheduler(0), SCHED_OTHER);
    ck_assert_int_eq(cores_allowed(), cores);
}

static void lend_to_sleeper(void *arg)
{
    struct job *j = arg;
    int cores = cores_allowed();
    lend(j->pid, false);
    stop_often(j->pid);
    turns_back();
    ck_assert_int_eq(sched_getscheduler(0), SCHED_OTHER);
    turns_apart();
    check_apart(cores);
    j->done = true;
}

/* Alone on the machine, and beside another thread. */
START_TEST(test_lend_to_sleeper)
{
    struct job j = {.pid = fork_in_state('S')};
    running = 1 + (_i && sysconf(_SC_NPROCESSORS_ONLN) > 1);
    if (may_lend("test_lend_to_sleeper")) {
        ck_assert_int_eq(borrow_run(lend_to_sleeper, &j), 0);
        ck_assert(j.done);
    }
    end_child(j.pid);
}
END_TEST

static void lend_to_runner(void *arg)
{
    struct job *j = arg;
    int cores = cores_allowed();
    lend(j->pid, true);
    stop_often(j->pid);
    turns_apart();
    check_apart(cores);
    j->done = true;
}

START_TEST(test_lend_to_runner)
{
    struct job j = {.pid = fork_in_state('R')};
    running = 2;
    if (may_lend("test_lend_to_runner")) {
        ck_assert_int_eq(borrow_run(lend_to_runner, &j), 0);
        ck_assert(j.done);
    }
    end_child(j.pid);
}
END_TEST

static bool runs_in(const cpu_set_t *set)
{
    int core = sched_getcpu();
    return core >= 0 && CPU_ISSET((size_t)core, set);
}

static void be_deprived(void *arg)
{
    struct job *j = arg;
    int cores = cores_allowed();
    cpu_set_t lent;
    do {
        lend(j->pid, false);
        ck_assert_int_eq(sched_getaffinity(0, sizeof lent, &lent), 0);
    } while (sched_getscheduler(0) != SCHED_IDLE);
    pid_t rival = fork_child(true); /* on that core, until we leave it */
    ck_assert_int_eq(sched_setscheduler(rival, SCHED_OTHER, &(struct sched_param){0}), 0);
    uint64_t end = clock_mono_ns() + SOON_NS;
    while (clock_mono_ns() < end && (sched_getscheduler(0) == SCHED_IDLE || (cores > 1 && runs_in(&lent))))
        sched_yield();
    ck_assert_int_eq(sched_getscheduler(0), SCHED_OTHER);
    ck_assert(cores == 1 || !runs_in(&lent));
    turns_apart();
    check_apart(cores);
    end_child(rival);
    j->done = true;
}

/* Whoever comes to the core has it for some 400 us beside us, then we leave it. */
START_TEST(test_taken_back)
{
    struct job j = {.pid = fork_in_state('S')};
    running = 1;
    if (may_lend("test_taken_back")) {
        ck_assert_int_eq(borrow_run(be_deprived, &j), 0);
        ck_assert(j.done);
    }
    end_child(j.pid);
}
END_TEST

static void share(void *arg)
{
    struct job *j = arg;
    int cores = cores_allowed();
    turns_near(j->pid, j->pid);
    ck_assert_int_eq(sched_getscheduler(0), SCHED_OTHER);
    ck_assert_int_eq(cores_allowed(), 1);
    turns_asked(); /* changes nothing: it is asked of one whose core it has */
    ck_assert_int_eq(sched_getscheduler(0), SCHED_OTHER);
    stop_often(j->pid);
    turns_apart();
    ck_assert_int_eq(cores_allowed(), 1); /* as long as it is crowded */
    running = 0;
    turns_near(getpid(), getpid());
    turns_apart();
    check_apart(cores);
    j->done = true;
}

/* Stops are told to a thread that sleeps for them, whatever the program does with SIGCHLD, and deadlines end its sleep. */
START_TEST(test_share)
{
    struct job j = {.pid = fork_in_state('S')};
    struct sigaction was;
    sigset_t set;
    running = sysconf(_SC_NPROCESSORS_ONLN) + 2;
    signal(SIGCHLD, _i ? SIG_IGN : SIG_DFL);
    ck_assert_int_eq(borrow_run(share, &j), 0);
    ck_assert(j.done);
    ck_assert_int_eq(sigaction(SIGCHLD, NULL, &was), 0);
    ck_assert(was.sa_handler == (_i ? SIG_IGN : SIG_DFL));
    ck_assert_int_eq(pthread_sigmask(SIG_SETMASK, NULL, &set), 0);
    ck_assert(!sigismember(&set, SIGCHLD));
    signal(SIGCHLD, SIG_DFL);
    end_child(j.pid);
}
END_TEST

static void stay(void *arg)
{
    struct job *j = arg;
    int cores = cores_allowed();
    turns_near(j->pid, j->pid);
    turns_asked();
    check_apart(cores);
    turns_apart();
    check_apart(cores);
    j->done = true;
}

/* Who could not take its core back does not lend it: who has no right to more, and who has it all but not the right to it. */
START_TEST(test_not_allowed)
{
    struct job j = {.pid = fork_in_state(_i & 1 ? 'R' : 'S')};
    running = 2;
    bool most = _i & 2 && setpriority(PRIO_PROCESS, 0, -20) == 0;
    if (geteuid() != 0 || (_i & 2 && !most) || seteuid(NOBODY) < 0) {
        skip("test_not_allowed", "not root, or not with all that root may");
    } else {
        ck_assert_int_eq(borrow_run(stay, &j), 0);
        ck_assert(j.done);
        ck_assert_int_eq(seteuid(0), 0);
    }
    end_child(j.pid);
}
END_TEST

static void lend_after_stay(void *arg)
{
    struct job *j = arg;
    int cores = cores_allowed();
    turns_near(j->pid, j->pid); /* to be asked, and never is */
    turns_apart();
    turns_asked();
    check_apart(cores);
    j->done = true;
}

/* A thread that ends before it is asked leaves nothing to be done for the next one. */
START_TEST(test_never_asked)
{
    struct job j = {.pid = fork_in_state('R')};
    running = 2;
    if (may_lend("test_never_asked")) {
        ck_assert_int_eq(borrow_run(lend_after_stay, &j), 0);
        ck_assert(j.done);
    }
    end_child(j.pid);
}
END_TEST

/* One of real time would keep us from its core. */
START_TEST(test_real_time)
{
    struct job j = {.pid = fork_in_state('S')};
    running = 1;
    if (sched_setscheduler(j.pid, SCHED_RR, &(struct sched_param){.sched_priority = 1}) < 0) {
        skip("test_real_time", "no thread of real time is allowed");
    } else if (may_lend("test_real_time")) {
        ck_assert_int_eq(borrow_run(stay, &j), 0);
        ck_assert(j.done);
    }
    end_child(j.pid);
}
END_TEST

/* Where as many run as there are cores each may have a rival on it, ours as well as the other one's; nobody is one too many yet. */
START_TEST(test_all_cores_wanted)
{
    struct job j = {.pid = fork_in_state('S')};
    running = 1 + sysconf(_SC_NPROCESSORS_ONLN); /* we, and the rivals */
    if (may_lend("test_all_cores_wanted")) {
        ck_assert_int_eq(borrow_run(stay, &j), 0);
        ck_assert(j.done);
    }
    end_child(j.pid);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("turns");
    TCase *t = tcase_create("turns");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, test_lend_to_sleeper, 0, 2);
    tcase_add_test(t, test_lend_to_runner);
    tcase_add_test(t, test_taken_back);
    tcase_add_loop_test(t, test_share, 0, 2);
    tcase_add_loop_test(t, test_not_allowed, 0, 4);
    tcase_add_test(t, test_never_asked);
    tcase_add_test(t, test_real_time);
    tcase_add_test(t, test_all_cores_wanted);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
