/* The output that can be given up: a reader that left, one that never reads, a
 * full disk, a wake in the middle. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/output.h"
#include "skip.h"

static int saved_stdout;

/* Puts one end of a fresh pipe in stdout's place; returns the read end. */
static int pipe_as_stdout(void)
{
    int p[2];

    ck_assert_int_eq(pipe(p), 0);
    saved_stdout = dup(1);
    ck_assert_int_eq(dup2(p[1], 1), 1);
    close(p[1]);
    return p[0];
}

static void restore_stdout(void)
{
    dup2(saved_stdout, 1);
    close(saved_stdout);
}

static void fill(struct output *o, size_t bytes)
{
    char line[1024];

    memset(line, 'x', sizeof(line));
    for (size_t done = 0; done < bytes; done += sizeof(line))
        fwrite(line, 1, sizeof(line), o->file);
}

START_TEST(test_writes_all)
{
    char buf[16] = "";
    struct output o;
    int rd = pipe_as_stdout();

    ck_assert_int_eq(output_open(&o, "-", -1), 0);
    fputs("hello", o.file);
    ck_assert_int_eq(output_flush(&o), 0);
    ck_assert_int_eq(output_close(&o), 0);
    ck_assert_int_eq(output_close(&o), 0);
    restore_stdout();
    ck_assert_int_eq(read(rd, buf, sizeof(buf)), 5);
    ck_assert_str_eq(buf, "hello");
    close(rd);
}
END_TEST

START_TEST(test_reader_left)
{
    struct output o;

    signal(SIGPIPE, SIG_IGN);
    close(pipe_as_stdout());
    ck_assert_int_eq(output_open(&o, NULL, -1), 0);
    fill(&o, 4096);
    ck_assert_int_eq(output_flush(&o), -EPIPE);
    ck_assert_int_eq(output_close(&o), -EPIPE);
    restore_stdout();
    ck_assert_uint_eq(o.dropped, 4096);
}
END_TEST

/* Without a wake this would wait for ever; with one it ends after the grace. */
START_TEST(test_reader_never_reads)
{
    uint64_t begin = clock_mono_ns();
    int wake = eventfd(1, EFD_CLOEXEC), rd = pipe_as_stdout();
    struct output o;

    ck_assert_int_eq(output_open(&o, NULL, wake), 0);
    fill(&o, 1 << 20);
    ck_assert_int_eq(output_flush(&o), -ETIMEDOUT);
    output_close(&o);
    restore_stdout();
    close(rd);
    ck_assert_uint_gt(o.dropped, 0);
    ck_assert_uint_ge(clock_mono_ns() - begin, 900000000u);
}
END_TEST

START_TEST(test_deadline)
{
    int rd = pipe_as_stdout();
    struct output o;

    ck_assert_int_eq(output_open(&o, NULL, -1), 0);
    o.end_ns = clock_mono_ns() + 50000000u;
    fill(&o, 1 << 20);
    ck_assert_int_eq(output_flush(&o), -ETIMEDOUT);
    output_close(&o);
    restore_stdout();
    close(rd);
}
END_TEST

/* More than a pipe holds, to a reader that takes its time. */
static void check_all_arrives(struct output *o, FILE *from)
{
    enum { BYTES = 3 << 20 };
    pid_t pid = fork();
    int status, c;

    if (!pid) {
        long i = 0;

        close(1);
        for (; (c = getc(from)) != EOF; i++) {
            if (c != (int)(i / 7 % 251))
                _exit(1);
            if (i % 500000 == 0)
                usleep(20000);
        }
        _exit(i == BYTES ? 0 : 2);
    }
    for (long i = 0; i < BYTES; i++)
        putc((int)(i / 7 % 251), o->file);
    ck_assert_int_eq(output_close(o), 0);
    ck_assert_uint_eq(o->dropped, 0);
    restore_stdout();
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 0);
}

START_TEST(test_all_arrives)
{
    FILE *from = fdopen(pipe_as_stdout(), "r");
    struct output o;

    ck_assert_int_eq(output_open(&o, "-", -1), 0);
    o.chunked |= _i == 1; /* as on a kernel that can't write to a pipe without waiting */
    check_all_arrives(&o, from);
    fclose(from);
}
END_TEST

START_TEST(test_full_disk)
{
    struct output o;

    ck_assert_int_eq(output_open(&o, "/dev/full", -1), 0);
    fputs("x", o.file);
    ck_assert_int_eq(output_flush(&o), -ENOSPC);
    ck_assert_int_eq(output_close(&o), -ENOSPC);
}
END_TEST

START_TEST(test_cannot_open)
{
    struct output o = {.fd = -1};

    ck_assert_int_eq(output_open(&o, "/nonexistent/x", -1), -ENOENT);
    ck_assert_int_eq(output_close(&o), 0);
}
END_TEST

/* --- what lies there already ------------------------------------------------- */

static char folder[64], place[96], prey[96], none[96];

/* A folder such as /tmp: anybody may put something there. */
static void shared_folder(void)
{
    strcpy(folder, "/tmp/mp-output-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    ck_assert_int_eq(chmod(folder, 01777), 0);
    snprintf(place, sizeof(place), "%s/out", folder);
    snprintf(prey, sizeof(prey), "%s/prey", folder);
    snprintf(none, sizeof(none), "%s/none", folder);
}

static void shared_remove(void)
{
    unlink(place);
    unlink(prey);
    unlink(none);
    ck_assert_int_eq(rmdir(folder), 0);
}

enum trap { TRAP_LINK, TRAP_DANGLING, TRAP_FIFO, TRAP_FILE, TRAPS };

static void trap_make(enum trap kind, uid_t owner)
{
    int fd = open(prey, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    ck_assert_int_eq(write(fd, "prey", 4), 4);
    close(fd);
    if (kind == TRAP_LINK)
        ck_assert_int_eq(symlink(prey, place), 0);
    else if (kind == TRAP_DANGLING)
        ck_assert_int_eq(symlink(none, place), 0);
    else if (kind == TRAP_FIFO)
        ck_assert_int_eq(mkfifo(place, 0666), 0);
    else
        ck_assert_int_eq(link(prey, place), 0);
    ck_assert_int_eq(lchown(place, owner, (gid_t)-1), 0);
}

static long prey_size(void)
{
    struct stat st;

    ck_assert_int_eq(stat(prey, &st), 0);
    return (long)st.st_size;
}

/* What another user has put under our name in a shared folder is neither written nor
 * waited for. */
START_TEST(test_trap)
{
    struct output o = {.fd = -1};

    if (geteuid() != 0) {
        skip("test_trap", "only root can play another user");
        return;
    }
    shared_folder();
    ck_assert_int_eq(chown(folder, 1, 1), 0); /* nor its owner: as with a link of root's in /tmp */
    trap_make((enum trap)_i, 65534);
    ck_assert_int_eq(output_open(&o, place, -1), -EXDEV);
    ck_assert_int_eq(o.fd, -1);
    ck_assert_int_eq(prey_size(), 4);
    ck_assert_int_ne(access(none, F_OK), 0);
    shared_remove();
}
END_TEST

/* Nobody can put a name into a folder of one's own: what is there is meant. */
START_TEST(test_own_folder)
{
    struct output o;

    if (geteuid() != 0) {
        skip("test_own_folder", "only root can play another user");
        return;
    }
    shared_folder();
    ck_assert_int_eq(chmod(folder, 0755), 0);
    trap_make(TRAP_LINK, 65534);
    ck_assert_int_eq(output_open(&o, place, -1), 0);
    fputs("x", o.file);
    ck_assert_int_eq(output_close(&o), 0);
    ck_assert_int_eq(prey_size(), 1);
    shared_remove();
}
END_TEST

START_TEST(test_own_link)
{
    struct output o;

    shared_folder();
    trap_make(TRAP_LINK, geteuid());
    ck_assert_int_eq(output_open(&o, place, -1), 0);
    fputs("xy", o.file);
    ck_assert_int_eq(output_close(&o), 0);
    ck_assert_int_eq(prey_size(), 2);
    shared_remove();
}
END_TEST

START_TEST(test_new_and_again)
{
    struct output o;
    struct stat st;

    shared_folder();
    for (int i = 3; i > 0; i--) { /* new, then truncated */
        ck_assert_int_eq(output_open(&o, place, -1), 0);
        ck_assert_int_eq(fcntl(o.fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
        for (int k = 0; k < i; k++)
            fputs("x", o.file);
        ck_assert_int_eq(output_close(&o), 0);
        ck_assert_int_eq(stat(place, &st), 0);
        ck_assert_int_eq(st.st_size, i);
    }
    shared_remove();
}
END_TEST

/* Signals are blocked while a FIFO's reader is waited for: a wake must end it. */
START_TEST(test_fifo)
{
    struct output o = {.fd = -1};
    char buf[4] = "";
    int wake = eventfd(1, EFD_CLOEXEC), rd;

    shared_folder();
    ck_assert_int_eq(mkfifo(place, 0600), 0);
    ck_assert_int_eq(output_open(&o, place, wake), -EINTR);
    rd = open(place, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    ck_assert_int_eq(output_open(&o, place, wake), 0);
    fputs("hi", o.file);
    ck_assert_int_eq(output_close(&o), 0);
    ck_assert_int_eq(read(rd, buf, sizeof(buf)), 2);
    close(rd);
    close(wake);
    shared_remove();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("output");
    TCase *t = tcase_create("output");
    SRunner *r = srunner_create(s);
    int failed;

    tcase_set_timeout(t, 30);
    tcase_add_test(t, test_writes_all);
    tcase_add_test(t, test_reader_left);
    tcase_add_test(t, test_reader_never_reads);
    tcase_add_test(t, test_deadline);
    tcase_add_loop_test(t, test_all_arrives, 0, 2);
    tcase_add_test(t, test_full_disk);
    tcase_add_test(t, test_cannot_open);
    tcase_add_loop_test(t, test_trap, 0, TRAPS);
    tcase_add_test(t, test_own_folder);
    tcase_add_test(t, test_own_link);
    tcase_add_test(t, test_new_and_again);
    tcase_add_test(t, test_fifo);
    suite_add_tcase(s, t);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
