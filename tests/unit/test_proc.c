/* /proc/PID: parsers over text a kernel wrote and text a hostile process chose. */
#include <check.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "target/mem.h"
#include "skip.h"
#include "target/proc.h"

/* --- stat ------------------------------------------------------------------- */

#define STAT_TAIL " S 100 200 300 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 9 0 123456 8192 2048 18446744073709551615 1 2\n"

static const struct {
    const char *text, *comm;
} stats[] = {
    {"42 (python3)" STAT_TAIL, "python3"},
    {"42 (a b)" STAT_TAIL, "a b"},
    {"42 () R 1)" STAT_TAIL, ") R 1"},
    {"42 (a\n) Z 1 (b)" STAT_TAIL, "a\n) Z 1 (b"},
    {"42 ()" STAT_TAIL, ""},
};

START_TEST(test_stat)
{
    struct proc_stat s;
    ck_assert_int_eq(proc_stat_parse(&s, stats[_i].text, strlen(stats[_i].text)), 0);
    ck_assert_str_eq(s.comm, stats[_i].comm);
    ck_assert(s.pid == 42 && s.ppid == 100 && s.state == 'S');
    ck_assert_int_eq(s.core, -1);
    ck_assert(s.flags == 4194304 && s.threads == 9 && s.starttime == 123456 && s.rss_pages == 2048);
}
END_TEST

static const struct {
    struct proc_stat s;
    bool lives;
} lives[] = {
    {{.state = 'S', .flags = 4194304}, true}, {{.state = 'R', .flags = 4194308}, false}, {{.state = 'D', .flags = 4}, false},
    {{.state = 'T'}, true},                   {{.state = 'Z'}, false},                   {{.state = 'X'}, false},
};

START_TEST(test_stat_lives)
{
    ck_assert(proc_stat_lives(&lives[_i].s) == lives[_i].lives);
}
END_TEST

static const char *const bad_stats[] = {"", "42", "42 (x", "42 x) S", ") (", "42 (x) S 1", "(x)" STAT_TAIL, "-1 (x)" STAT_TAIL};

START_TEST(test_stat_bad)
{
    struct proc_stat s = {.pid = 7};
    ck_assert_int_eq(proc_stat_parse(&s, bad_stats[_i], strlen(bad_stats[_i])), -EINVAL);
    ck_assert_int_eq(s.pid, 7); /* untouched on failure */
}
END_TEST

/* --- status ----------------------------------------------------------------- */

static const char status_text[] =
    "Name:\tpy\\nTracerPid:\\t9\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t17944\nNgid:\t0\nPid:\t17944\nPPid:\t17901\n"
    "TracerPid:\t55\nUid:\t1000\t1001\t1002\t1003\nGid:\t1\t2\t3\t4\nNStgid:\t17944\t12\t1\nNSpid:\t17944\t12\t1\n"
    "VmRSS:\t    8152 kB\nVmData:\t    4000 kB\nThreads:\t3\nSigPnd:\t0000000000000001\nShdPnd:\t0000000000000002\n"
    "SigBlk:\t0000000000000400\nSigIgn:\t0000000001001000\nSigCgt:\t0000000000000002\nCapPrm:\t000001fffeffffff\n"
    "CapEff:\t0000000000080000\nCapBnd:\t000001ffffffffff\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n"
    "x86_Thread_features:\twrss shstk \n";

START_TEST(test_status)
{
    struct proc_status s;
    ck_assert_int_eq(proc_status_parse(&s, status_text, sizeof(status_text) - 1), 0);
    ck_assert(s.pid == 17944 && s.tgid == 17944 && s.ppid == 17901 && s.tracer == 55 && s.state == 'S');
    ck_assert(s.uid[0] == 1000 && s.uid[1] == 1001 && s.uid[2] == 1002 && s.uid[3] == 1003 && s.gid[3] == 4);
    ck_assert(s.ns_pid == 1 && s.ns_levels == 3);
    ck_assert(s.threads == 3 && s.rss_bytes == 8152 * 1024 && s.data_bytes == 4000 * 1024);
    ck_assert(s.sig_pending == 3 && s.sig_blocked == 0x400 && s.sig_ignored == 0x1001000 && s.sig_caught == 2);
    ck_assert(s.cap_effective == 0x80000 && s.cap_bounding == 0x1ffffffffffull);
    ck_assert(s.seccomp == 2 && s.seccomp_filters == 3 && s.no_new_privs && s.shadow_stack);
    ck_assert_str_eq(s.name, "py\\nTracerPid:\\t9");
}
END_TEST

START_TEST(test_status_little)
{
    struct proc_status s;
    ck_assert_int_eq(proc_status_parse(&s, "Pid:\t5", 6), 0);
    ck_assert(s.pid == 5 && s.seccomp == -1 && s.ns_pid == 0 && s.ns_levels == 1 && !s.shadow_stack);
    ck_assert_int_eq(proc_status_parse(&s, "Pid:\t5\nx86_Thread_features:\tnoshstkx\n", 36), 0);
    ck_assert(!s.shadow_stack);
}
END_TEST

static const char *const bad_status[] = {"", ":", ":::\n\n:", "Pid", "Pid:", "Pid:\tx", "Pid:\t-4\n", "pid:\t4\n"};

START_TEST(test_status_bad)
{
    struct proc_status s;
    ck_assert_int_eq(proc_status_parse(&s, bad_status[_i], strlen(bad_status[_i])), -EINVAL);
}
END_TEST

START_TEST(test_status_cut_anywhere)
{
    size_t n;
    for (n = 0; n < sizeof(status_text); n++) {
        struct proc_status s;
        char *exact = malloc(n ? n : 1);
        memcpy(exact, status_text, n);
        (void)!proc_status_parse(&s, exact, n);
        free(exact);
    }
}
END_TEST

/* --- syscall ---------------------------------------------------------------- */

START_TEST(test_syscall)
{
    struct proc_syscall s;
    const char *text = "232 0x3 0x7ffd1 0x2 0xffffffff 0x0 0x8 0x7ffd2 0x7f33\n";
    ck_assert_int_eq(proc_syscall_parse(&s, text, strlen(text)), 0);
    ck_assert(!s.running && s.nr == 232 && s.arg[0] == 3 && s.arg[5] == 8 && s.sp == 0x7ffd2 && s.pc == 0x7f33);
    ck_assert_int_eq(proc_syscall_parse(&s, "running\n", 8), 0);
    ck_assert(s.running);
    text = "-1 0x7ffd2 0x7f33\n";
    ck_assert_int_eq(proc_syscall_parse(&s, text, strlen(text)), 0);
    ck_assert(!s.running && s.nr == -1 && s.sp == 0x7ffd2 && s.pc == 0x7f33 && s.arg[0] == 0);
}
END_TEST

static const char *const bad_syscalls[] = {"", "x", "5", "5 0x1 0x2", "-2 0x1 0x2", "-1 0x1",
                                           "1 2 3 4 5 6 7 8", "-3 1 2 3 4 5 6 7 8"};

START_TEST(test_syscall_bad)
{
    struct proc_syscall s;
    ck_assert_int_eq(proc_syscall_parse(&s, bad_syscalls[_i], strlen(bad_syscalls[_i])), -EINVAL);
}
END_TEST

/* --- small ones -------------------------------------------------------------- */

START_TEST(test_environ)
{
    static const char env[] = "A=1\0MALLOC_ARENA_MAX=1\0B=MALLOC_ARENA_MAX=2\0";
    ck_assert(proc_environ_has(env, sizeof(env) - 1, "MALLOC_ARENA_MAX=1"));
    ck_assert(!proc_environ_has(env, sizeof(env) - 1, "MALLOC_ARENA_MAX=2"));
    ck_assert(!proc_environ_has(env, sizeof(env) - 1, "MALLOC_ARENA_MAX"));
    ck_assert(!proc_environ_has("", 0, "A=1"));
    ck_assert(proc_environ_has("A=1", 3, "A=1")); /* a process may overwrite its last NUL */
}
END_TEST

START_TEST(test_auxv)
{
    const uint64_t aux[] = {AT_PHDR, 0x400040, AT_BASE, 0x7f00, 0, 0, AT_ENTRY, 9};
    uint64_t v = 1;
    ck_assert(proc_auxv_get((const char *)aux, sizeof(aux), AT_BASE, &v));
    ck_assert_uint_eq(v, 0x7f00);
    ck_assert(!proc_auxv_get((const char *)aux, sizeof(aux), AT_ENTRY, &v)); /* behind AT_NULL */
    ck_assert(!proc_auxv_get((const char *)aux, 15, AT_PHDR, &v));
    ck_assert_uint_eq(v, 0x7f00);
}
END_TEST

/* --- readers, on ourselves ------------------------------------------------------ */

START_TEST(test_self)
{
    struct proc_stat st;
    struct proc_status status;
    char *cmdline;
    ck_assert_int_eq(proc_stat_read(&st, getpid(), 0), 0);
    ck_assert(st.pid == getpid() && st.ppid == getppid() && st.state == 'R' && st.starttime > 0 && st.core >= 0);
    ck_assert_int_eq(proc_status_read(&status, getpid(), 0), 0);
    ck_assert(status.tgid == getpid() && status.uid[1] == geteuid() && status.threads == 1);
    ck_assert_int_eq(proc_status_read(&status, getpid(), getpid()), 0);
    ck_assert_int_eq(proc_stat_read(&st, 0x7ffffffe, 0), -ESRCH);
    ck_assert_int_eq(proc_stat_read(&st, getpid(), 0x7ffffffe), -ESRCH);
    cmdline = proc_cmdline(getpid(), 100);
    ck_assert_ptr_nonnull(cmdline);
    ck_assert_ptr_nonnull(strstr(cmdline, "test_proc"));
    ck_assert_uint_gt(strlen(cmdline), 4);
    free(cmdline);
    cmdline = proc_cmdline(getpid(), 4); /* no more is read than is wanted */
    ck_assert_uint_le(strlen(cmdline), 4);
    free(cmdline);
    ck_assert_int_eq(proc_same_ns(getpid(), getppid(), "pid"), 1);
}
END_TEST

/* An environment of 64 MiB, as prctl(PR_SET_MM) lets a process with CAP_SYS_RESOURCE name one. */
START_TEST(test_large_environ)
{
    enum { LARGE = 64 << 20, WANTED = 1 << 20 };
    char *at = mmap(NULL, LARGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *text;
    size_t len;
    ck_assert_ptr_ne(at, MAP_FAILED);
    memset(at, 'x', LARGE);
    if (prctl(PR_SET_MM, PR_SET_MM_ENV_START, at, 0, 0) || prctl(PR_SET_MM, PR_SET_MM_ENV_END, at + LARGE, 0, 0)) {
        skip("test_large_environ", "not root, or a kernel without CONFIG_CHECKPOINT_RESTORE");
        return;
    }
    ck_assert_int_eq(proc_read_head(getpid(), "environ", WANTED, &text, &len), 0);
    ck_assert_uint_eq(len, WANTED);
    ck_assert(text[0] == 'x' && text[WANTED - 1] == 'x' && text[WANTED] == 0);
    free(text);
    munmap(at, LARGE);
}
END_TEST

/* A thread by what clone(2) told its parent: here both numbers are the same. */
START_TEST(test_task_of_ns)
{
    pid_t tid;
    ck_assert_int_eq(proc_task_of_ns(getpid(), getpid(), &tid), 0);
    ck_assert_int_eq(tid, getpid());
    ck_assert_int_eq(proc_task_of_ns(getpid(), 0x7fffffff, &tid), 0);
    ck_assert_int_eq(tid, 0);
    ck_assert_int_lt(proc_task_of_ns(0x7fffffff, 1, &tid), 0);
}
END_TEST

START_TEST(test_limits)
{
    static const char text[] =
        "Limit                     Soft Limit           Hard Limit           Units     \n"
        "Max cpu time              unlimited            unlimited            seconds   \n"
        "Max processes             7809                 unlimited            processes \n"
        "Max open files            1024                 524288               files     \n"
        "Max address space         unlimited            unlimited            bytes     \n"
        "Max data size             67108864             unlimited            bytes     \n";
    struct proc_limits l = {0};
    struct rlimit r;
    uint64_t n = 0, all = 0;

    ck_assert_int_eq(proc_limits_parse(&l, text, sizeof(text) - 1), 0);
    ck_assert(l.nofile.soft == 1024 && l.nofile.hard == 524288);
    ck_assert(l.nproc.soft == 7809 && l.nproc.hard == PROC_UNLIMITED && l.as.soft == PROC_UNLIMITED && l.data.soft == 64 << 20);
    for (size_t len = 0; len < sizeof(text) - 60; len++) /* cut anywhere: refused or whole, never read beyond */
        (void)!proc_limits_parse(&l, text, len);
    ck_assert_int_eq(proc_limits_parse(&l, text, 300), -EINVAL);
    ck_assert_int_eq(proc_limits_parse(&l, "Max open files x y", 18), -EINVAL);
    ck_assert_int_eq(proc_limits_read(&l, getpid()), 0);
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &r), 0);
    ck_assert_uint_eq(l.nofile.soft, r.rlim_cur);
    ck_assert_int_eq(proc_fd_count(getpid(), 3, &n), 0);
    ck_assert_uint_le(n, 3);
    ck_assert_int_eq(proc_vm_bytes(getpid(), &n), 0);
    ck_assert_uint_gt(n, 1 << 20);
    ck_assert_int_eq(proc_user_tasks(getuid(), &n), 0);
    ck_assert_uint_gt(n, 0);
    ck_assert_int_eq(proc_system_tasks(&all), 0);
    ck_assert_uint_gt(all, 0);
}
END_TEST

/* The same on each look; another one after exec. */
START_TEST(test_image_id)
{
    uint8_t a[16], b[16];
    int ends[2], status;
    char byte;
    pid_t child;

    ck_assert_int_eq(proc_image_id(getpid(), a), 0);
    ck_assert_int_eq(memcmp(a, (void *)getauxval(AT_RANDOM), sizeof(a)), 0);
    ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
    child = fork();
    if (child == 0) {
        execl("/bin/sleep", "sleep", "60", (char *)NULL);
        _exit(1);
    }
    close(ends[1]);
    ck_assert_int_eq(read(ends[0], &byte, 1), 0); /* the exec closed it */
    close(ends[0]);
    ck_assert_int_eq(proc_image_id(child, b), 0);
    ck_assert_int_ne(memcmp(a, b, sizeof(a)), 0);
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    ck_assert_int_eq(proc_image_id(child, b), -ESRCH);
}
END_TEST

START_TEST(test_fds)
{
    struct proc_fd *fds;
    size_t i, n;
    bool found = false;
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    ck_assert_int_eq(proc_fds(getpid(), &fds, &n), 0);
    for (i = 0; i < n; i++) {
        found |= fds[i].fd == fd && !strcmp(fds[i].target, "/dev/null");
        if (i)
            ck_assert_int_gt(fds[i].fd, fds[i - 1].fd);
    }
    ck_assert(found);
    proc_fds_free(fds, n);
    close(fd);
}
END_TEST

__attribute__((noreturn)) static void *wait_for_byte(void *fd)
{
    char c;
    _exit(read(*(int *)fd, &c, 1) == 1 ? 0 : 1);
}

/* A process whose leader has left: alive, but its own /proc files are empty. */
START_TEST(test_zombie_leader)
{
    int to_child[2], from_child[2];
    pid_t child, live;
    char ready;
    ck_assert_int_eq(pipe(to_child), 0);
    ck_assert_int_eq(pipe(from_child), 0);
    child = fork();
    if (child == 0) {
        pthread_t t;
        pthread_create(&t, NULL, wait_for_byte, &to_child[0]);
        ready = 'r';
        if (write(from_child[1], &ready, 1) == 1)
            pthread_exit(NULL);
        _exit(1);
    }
    ck_assert_int_eq(read(from_child[0], &ready, 1), 1);
    do { /* until the leader has left, which nothing announces */
        live = proc_live_task(child);
    } while (live == child);
    ck_assert_int_gt(live, 0);
    ck_assert_int_ne(live, child);
    ck_assert(proc_task_lost(child, child)); /* what it is asked for is empty */
    ck_assert(!proc_task_lost(child, live));
    ck_assert(!proc_kill_pending(child));
    ck_assert_int_eq(write(to_child[1], "x", 1), 1);
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
    ck_assert_int_eq(proc_live_task(child), -ESRCH);
    ck_assert(!proc_task_lost(child, live)); /* nothing lives on */
}
END_TEST

/* Ids of threads begin anew at the end of their range: the next one is made low. */
static bool next_tid_low(void)
{
    FILE *f = fopen("/proc/sys/kernel/ns_last_pid", "w");
    bool done = f && fprintf(f, "300") > 0;
    if (f)
        done = fclose(f) == 0 && done;
    return done;
}

/* Threads that come and go may have lower numbers than the one that stays. */
START_TEST(test_leader_gone_oldest)
{
    int to_child[2], from_child[2];
    pid_t child, old, live;
    ck_assert_int_eq(pipe(to_child), 0);
    ck_assert_int_eq(pipe(from_child), 0);
    child = fork();
    if (child == 0) {
        pthread_t t;
        old = -1;
        pthread_create(&t, NULL, wait_for_byte, &to_child[0]);
        usleep(50000); /* a thread's start is told in ticks of 10 ms */
        if (next_tid_low() && !pthread_create(&t, NULL, wait_for_byte, &to_child[0]))
            old = 1;
        if (write(from_child[1], &old, sizeof(old)) == sizeof(old))
            pthread_exit(NULL);
        _exit(1);
    }
    ck_assert_int_eq(read(from_child[0], &old, sizeof(old)), sizeof(old));
    do {
        live = proc_live_task(child);
    } while (live == child);
    if (old > 0) { /* else: not root, or no CONFIG_CHECKPOINT_RESTORE */
        pid_t *tids;
        size_t n;
        ck_assert_int_eq(proc_tasks(child, &tids, &n), 0);
        ck_assert_uint_eq(n, 3);
        ck_assert_int_lt(tids[0], child);
        ck_assert_int_eq(live, tids[2]);
        free(tids);
    }
    ck_assert_int_eq(write(to_child[1], "xx", 2), 2);
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
}
END_TEST

START_TEST(test_zombie)
{
    pid_t child = fork();
    siginfo_t info;
    if (child == 0)
        _exit(0);
    ck_assert_int_eq(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT), 0);
    ck_assert_int_eq(proc_live_task(child), -ESRCH);
    waitpid(child, NULL, 0);
}
END_TEST

START_TEST(test_memory)
{
    static const char text[] = "a string in this process";
    char buf[64];
    uint64_t word = 0;
    pid_t me = getpid();
    raddr_t at = (raddr_t)(uintptr_t)text;
    ck_assert_int_eq(mem_read(me, at, buf, sizeof(text)), 0);
    ck_assert_str_eq(buf, text);
    ck_assert_int_eq(mem_read_string(me, at, buf, sizeof(buf)), (int)strlen(text));
    ck_assert_str_eq(buf, text);
    ck_assert_int_eq(mem_read_string(me, at, buf, 4), -ENAMETOOLONG);
    ck_assert_str_eq(buf, "a s");
    ck_assert_int_eq(mem_read(me, 16, buf, 8), -EFAULT);
    ck_assert_int_eq(mem_read(me, ~0ull - 3, buf, 8), -EFAULT);
    ck_assert_int_eq(mem_read_string(me, 16, buf, sizeof(buf)), -EFAULT);
    ck_assert_int_eq(mem_read(0x7ffffffe, at, buf, 8), -ESRCH);
    ck_assert_int_eq(mem_write(me, (raddr_t)(uintptr_t)&word, "\1\2\3\4", 4), 0);
    ck_assert_uint_eq(word, 0x04030201);
}
END_TEST

START_TEST(test_kernel)
{
    ck_assert(proc_release_from("4.19.0-25-amd64", 4, 19) && proc_release_from("5.10.0", 4, 19) && proc_release_from("6.1", 4, 19));
    ck_assert(!proc_release_from("4.18.0-553.el8.x86_64", 4, 19) && !proc_release_from("3.20.0", 4, 19));
    ck_assert(!proc_release_from("", 0, 0) && !proc_release_from("next", 0, 0));
    ck_assert(proc_kernel_from(2, 6) && !proc_kernel_from(1000, 0));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("proc");
    TCase *t = tcase_create("proc");
    SRunner *r = srunner_create(s);
    int failed;
    tcase_add_loop_test(t, test_stat, 0, sizeof(stats) / sizeof(stats[0]));
    tcase_add_loop_test(t, test_stat_lives, 0, sizeof(lives) / sizeof(lives[0]));
    tcase_add_loop_test(t, test_stat_bad, 0, sizeof(bad_stats) / sizeof(bad_stats[0]));
    tcase_add_test(t, test_status);
    tcase_add_test(t, test_status_little);
    tcase_add_loop_test(t, test_status_bad, 0, sizeof(bad_status) / sizeof(bad_status[0]));
    tcase_add_test(t, test_status_cut_anywhere);
    tcase_add_test(t, test_syscall);
    tcase_add_test(t, test_task_of_ns);
    tcase_add_loop_test(t, test_syscall_bad, 0, sizeof(bad_syscalls) / sizeof(bad_syscalls[0]));
    tcase_add_test(t, test_environ);
    tcase_add_test(t, test_auxv);
    tcase_add_test(t, test_self);
    tcase_add_test(t, test_large_environ);
    tcase_add_test(t, test_image_id);
    tcase_add_test(t, test_limits);
    tcase_add_test(t, test_fds);
    tcase_add_test(t, test_zombie_leader);
    tcase_add_test(t, test_leader_gone_oldest);
    tcase_add_test(t, test_zombie);
    tcase_add_test(t, test_memory);
    tcase_add_test(t, test_kernel);
    suite_add_tcase(s, t);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
