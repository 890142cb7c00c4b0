/* src/inject/hurry.c on this process: a control block, a boot block and an interval of its own. */
#include <check.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "inject/inject.h"
#include "target/mem.h"
#include "target/proc.h"

#define DEFAULT_US 5000u

static struct mp_control control;
static _Alignas(64) char region[MP_BOOT_OFF + MP_BOOT_SIZE];
static volatile uint64_t interval;
static pid_t forked;

/* An agent that waits since `ms` ago. */
static struct inject_agent waiting(unsigned ms)
{
    struct mp_boot *b = (struct mp_boot *)(void *)(region + MP_BOOT_OFF);
    *b = (struct mp_boot){.magic = MP_BOOT_MAGIC, .abi = MP_ABI, .size = sizeof(*b),
                          .switch_interval = (uint64_t)(uintptr_t)&interval};
    control = (struct mp_control){.magic = MP_CONTROL_MAGIC, .abi = MP_ABI, .size = sizeof(control), .pid = getpid(),
                                  .agent_tid = 77, .state = MP_STATE_HOOKING,
                                  .region_base = (uint64_t)(uintptr_t)region,
                                  .gil_since_ns = clock_mono_ns() - ms * 1000000ull};
    interval = DEFAULT_US;
    return (struct inject_agent){.control = control, .control_addr = (uint64_t)(uintptr_t)&control, .alive = true};
}

static void wait_for_hurry(void)
{
    while (interval != MP_HURRY_US)
        usleep(100);
}

static void *fork_meanwhile(void *unused)
{
    wait_for_hurry();
    forked = fork();
    if (forked == 0)
        for (;;)
            pause();
    return unused;
}

static void *take_gil(void *unused)
{
    wait_for_hurry();
    control.gil_since_ns = clock_mono_ns();
    interval = control.interval_was;
    control.interval_was = 0;
    return unused;
}

static uint64_t interval_of(pid_t pid)
{
    uint64_t us = 0;
    ck_assert_int_eq(mem_read(pid, (uint64_t)(uintptr_t)&interval, &us, sizeof(us)), 0);
    return us;
}

/* In vain: the launcher brings it back, in a child that was forked meanwhile as well. */
START_TEST(test_in_vain)
{
    struct inject_agent a = waiting(60);
    uint64_t next = 0;
    pthread_t t;
    ck_assert_int_eq(pthread_create(&t, NULL, fork_meanwhile, NULL), 0);
    ck_assert(inject_hurry(getpid(), &a, &next));
    pthread_join(t, NULL);
    ck_assert_uint_eq(interval, DEFAULT_US);
    ck_assert_uint_eq(control.interval_was, 0);
    ck_assert_int_gt(forked, 0);
    ck_assert_uint_eq(interval_of(forked), DEFAULT_US);
    kill(forked, SIGKILL);
    waitpid(forked, NULL, 0);
    ck_assert(!inject_hurry(getpid(), &a, &next)); /* not again at once */
    ck_assert_uint_gt(next, clock_mono_ns());
}
END_TEST

START_TEST(test_helped)
{
    struct inject_agent a = waiting(60);
    uint64_t next = 0;
    pthread_t t;
    ck_assert_int_eq(pthread_create(&t, NULL, take_gil, NULL), 0);
    ck_assert(inject_hurry(getpid(), &a, &next));
    pthread_join(t, NULL);
    ck_assert_uint_eq(interval, DEFAULT_US);
    ck_assert_uint_eq(next, 0); /* the next wait of this agent is another one */
}
END_TEST

START_TEST(test_not_to_be_helped)
{
    struct inject_agent a = waiting(10);
    uint64_t next = 0;
    ck_assert_msg(!inject_hurry(getpid(), &a, &next), "it waits for 10 ms only");
    a = waiting(60);
    control.gil_since_ns = 0;
    ck_assert_msg(!inject_hurry(getpid(), &a, &next), "it does not wait");
    a = waiting(60);
    control.agent_tid = 78;
    ck_assert_msg(!inject_hurry(getpid(), &a, &next), "another agent");
    a = waiting(60);
    interval = MP_HURRY_US;
    ck_assert_msg(!inject_hurry(getpid(), &a, &next), "the target's own interval is that short");
    ck_assert_uint_eq(interval, MP_HURRY_US);
}
END_TEST

static pid_t child_that_waits(void)
{
    pid_t pid = fork();
    if (pid == 0)
        for (;;)
            pause();
    return pid;
}

START_TEST(test_children)
{
    pid_t a = child_that_waits(), b = child_that_waits(), *pids;
    size_t n;
    ck_assert_int_eq(proc_children(getpid(), &pids, &n), 0);
    ck_assert_uint_eq(n, 2);
    ck_assert(pids[0] + pids[1] == a + b);
    free(pids);
    kill(a, SIGKILL);
    kill(b, SIGKILL);
    while (wait(NULL) > 0)
        ;
    ck_assert_int_eq(proc_children(getpid(), &pids, &n), 0);
    ck_assert_uint_eq(n, 0);
    free(pids);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("hurry");
    TCase *t = tcase_create("hurry");
    tcase_add_test(t, test_in_vain);
    tcase_add_test(t, test_helped);
    tcase_add_test(t, test_not_to_be_helped);
    tcase_add_test(t, test_children);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
