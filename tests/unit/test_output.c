/* The output that can be given up: a reader that left, one that never reads, a
 * full disk, a wake in the middle. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/output.h"

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
    tcase_add_test(t, test_full_disk);
    tcase_add_test(t, test_cannot_open);
    suite_add_tcase(s, t);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
