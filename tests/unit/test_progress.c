/* src/inject/progress.c, on children of ours. */
#include <check.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "inject/progress.h"
#include "target/proc.h"

#define PATIENCE_MS 5000
#define LOOKS 100
#define PAGE 4096

static const struct timespec step = {0, 1000000};

static pid_t start(void (*fn)(void))
{
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        fn();
        _exit(0);
    }
    ck_assert_int_gt(pid, 0);
    return pid;
}

static void end(pid_t pid)
{
    kill(pid, SIGKILL);
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
}

static void comes_to(pid_t pid, char state)
{
    struct proc_stat st = {0};
    for (int ms = 0; ms < PATIENCE_MS && (proc_stat_read(&st, pid, 0) < 0 || st.state != state); ms++)
        nanosleep(&step, NULL);
    ck_assert_int_eq(st.state, state);
}

static void sleeps(void)
{
    pause();
}

static void ends(void) {}

static void computes(void)
{
    for (;;)
        __asm__ volatile("" : : : "memory");
}

/* In state D, as after a vfork, whose child shares its memory, too. */
static void waits(void)
{
    if (syscall(SYS_clone, CLONE_VFORK | SIGCHLD, NULL, NULL, NULL, NULL) == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pause();
    }
}

/* For a page that nobody gives it; in no system call, and in state S all the same. */
static void faults(void)
{
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register all = {.mode = UFFDIO_REGISTER_MODE_MISSING};
    int fd = (int)syscall(SYS_userfaultfd, UFFD_USER_MODE_ONLY);
    volatile char *page = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    all.range = (struct uffdio_range){(uintptr_t)page, PAGE};
    if (fd >= 0 && page != MAP_FAILED && ioctl(fd, UFFDIO_API, &api) == 0 && ioctl(fd, UFFDIO_REGISTER, &all) == 0)
        (void)*page;
}

static void is_made_at_once(void (*fn)(void), char state)
{
    pid_t pid = start(fn);
    struct progress p;
    comes_to(pid, state);
    progress_begin(&p, pid, pid);
    ck_assert(progress_made(&p));
    end(pid);
}

static void stands_still(struct progress *p)
{
    for (int i = 0; i < LOOKS; i++) {
        ck_assert(!progress_made(p));
        nanosleep(&step, NULL);
    }
}

START_TEST(test_sleeps)
{
    pid_t pid = start(sleeps);
    struct progress p;
    comes_to(pid, 'S');
    progress_begin(&p, pid, pid);
    ck_assert(p.ran_ns > 0 && progress_made(&p));
    end(pid);
    ck_assert(progress_made(&p));
}
END_TEST

START_TEST(test_computes)
{
    pid_t pid = start(computes);
    struct progress p;
    bool made = false;
    comes_to(pid, 'R');
    progress_begin(&p, pid, pid);
    for (int ms = 0; ms < PATIENCE_MS && !made; ms++) {
        made = progress_made(&p);
        nanosleep(&step, NULL);
    }
    ck_assert(made);
    end(pid);
}
END_TEST

/* No signal wakes it, but it is in no malloc. */
START_TEST(test_waits)
{
    is_made_at_once(waits, 'D');
}
END_TEST

/* It may have been stopped anywhere. */
START_TEST(test_stands)
{
    pid_t pid = start(computes);
    struct progress p;
    kill(pid, SIGSTOP);
    comes_to(pid, 'T');
    progress_begin(&p, pid, pid);
    if (p.ran_ns != UINT64_MAX) /* a kernel that counts */
        stands_still(&p);
    end(pid);
}
END_TEST

/* It may be within malloc. */
START_TEST(test_faults)
{
    pid_t pid = start(faults);
    struct progress p;
    struct proc_stat st = {0};
    for (int ms = 0; ms < PATIENCE_MS && st.state != 'S' && st.state != 'Z'; ms++) {
        nanosleep(&step, NULL);
        ck_assert_int_eq(proc_stat_read(&st, pid, 0), 0);
    }
    progress_begin(&p, pid, pid);
    if (st.state == 'S' && p.ran_ns != UINT64_MAX)
        stands_still(&p);
    else
        puts("not looked at: no userfaultfd here"); /* the policy's, or the kernel's */
    end(pid);
}
END_TEST

/* Nobody has asked for its exit code yet. */
START_TEST(test_zombie)
{
    is_made_at_once(ends, 'Z');
}
END_TEST

/* It is neither waited for where nothing is counted, nor when it has gone. */
START_TEST(test_unknown)
{
    struct progress p = {.pid = getpid(), .tid = getpid(), .ran_ns = UINT64_MAX};
    ck_assert(progress_made(&p));
    progress_begin(&p, getpid(), 0x7fffffff);
    ck_assert(p.ran_ns == UINT64_MAX && progress_made(&p));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("progress");
    TCase *t = tcase_create("progress");
    tcase_set_timeout(t, 30);
    tcase_add_test(t, test_sleeps);
    tcase_add_test(t, test_computes);
    tcase_add_test(t, test_waits);
    tcase_add_test(t, test_stands);
    tcase_add_test(t, test_faults);
    tcase_add_test(t, test_zombie);
    tcase_add_test(t, test_unknown);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
