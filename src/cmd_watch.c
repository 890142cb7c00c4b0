/* An end to waits that have none (see cmd_watch.h). */
#include "cmd_watch.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#define TICK_NS 100000000ull

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool running; /* the thread has been made */
    bool on;
    uint64_t left_ns;
    const struct talk *talk;
    pid_t pid;
    bool touched;
} watch = {.lock = PTHREAD_MUTEX_INITIALIZER};

int cmd_watch_stalled(pid_t pid, struct mp_failure *f)
{
    return mp_fail(f, MP_E_STALLED, ETIMEDOUT, "a page of process %d's memory or files does not come: who provides it (FUSE, NFS, "
                                               "userfaultfd) does not answer", (int)pid);
}

static __attribute__((noreturn)) void watch_over(void)
{
    struct mp_failure f = {0};

    (void)cmd_watch_stalled(watch.pid, &f);
    f.changed_target = watch.touched;
    if (watch.touched)
        mp_fail_hint(&f, "what was begun in the target ends by itself, now that this program has; to be sure: mempulse detach -p %d",
                     (int)watch.pid);
    _exit(cmd_fail(watch.talk, watch.pid, &f));
}

static void watch_tick(void)
{
    struct timespec at;

    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_nsec += (long)TICK_NS;
    if (at.tv_nsec >= 1000000000) {
        at.tv_nsec -= 1000000000;
        at.tv_sec++;
    }
    if (pthread_cond_timedwait(&watch.changed, &watch.lock, &at) != ETIMEDOUT)
        return;
    watch.left_ns -= watch.left_ns < TICK_NS ? watch.left_ns : TICK_NS;
    if (watch.on && !watch.left_ns)
        watch_over();
}

/* No signal is its own: the kernel would wake it for each SIGCHLD that other threads block (a stop of the target). */
static void *watch_thread(void *unused)
{
    sigset_t all;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    pthread_mutex_lock(&watch.lock);
    for (;;) {
        if (watch.on)
            watch_tick();
        else
            pthread_cond_wait(&watch.changed, &watch.lock);
    }
    return unused;
}

/* Without a thread there is no watch: better than no command. */
static void watch_start(void)
{
    pthread_condattr_t attr;
    pthread_t thread;

    if (watch.running || pthread_condattr_init(&attr))
        return;
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    if (!pthread_cond_init(&watch.changed, &attr) && !pthread_create(&thread, NULL, watch_thread, NULL)) {
        pthread_detach(thread);
        watch.running = true;
    }
    pthread_condattr_destroy(&attr);
}

static void watch_set(bool on, uint64_t ns)
{
    watch.on = on;
    watch.left_ns = ns;
    if (watch.running)
        pthread_cond_signal(&watch.changed);
}

void cmd_watch(const struct talk *t, pid_t pid, uint64_t ns, bool touched)
{
    pthread_mutex_lock(&watch.lock);
    watch_start();
    watch.talk = t;
    watch.pid = pid;
    watch.touched = touched;
    watch_set(true, ns);
    pthread_mutex_unlock(&watch.lock);
}

void cmd_watch_off(void)
{
    pthread_mutex_lock(&watch.lock);
    watch_set(false, 0);
    pthread_mutex_unlock(&watch.lock);
}
