/* /proc/PID/maps: the kernel's lines, and lines that no kernel wrote. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "target/maps.h"

static const char sample[] =
    "00400000-0041f000 r--p 00000000 fe:00 247702                             /usr/bin/python3.11\n"
    "0041f000-006d2000 r-xp 0001f000 fe:00 247702                             /usr/bin/python3.11\n"
    "00a85000-00aca000 rw-p 00000000 00:00 0 \n"
    "3bc94000-3bd38000 rw-p 00000000 00:00 0                                  [heap]\n"
    "7f0000000000-7f0000001000 r-xs 00001000 00:01 17                         /memfd:mempulse-agent (deleted)\n"
    "7f0000002000-7f0000003000 r-xp 00000000 fe:00 99                         /tmp/a b\\012c (deleted)\n"
    "7f0000004000-7f0000005000 r-xp 00005000 fe:00 99                         /tmp/a b\\012c (deleted)\n"
    "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";

static struct maps parsed;

static void setup(void) { ck_assert_int_eq(maps_parse(&parsed, sample, sizeof(sample) - 1), 0); }
static void teardown(void) { maps_release(&parsed); }

START_TEST(test_fields)
{
    const struct maps_entry *e = parsed.entry;
    ck_assert_uint_eq(parsed.count, 8);
    ck_assert_uint_eq(parsed.skipped, 0);
    ck_assert(e[1].lo == 0x41f000 && e[1].hi == 0x6d2000 && e[1].offset == 0x1f000);
    ck_assert(e[1].read && !e[1].write && e[1].exec && !e[1].shared);
    ck_assert(e[1].dev_major == 0xfe && e[1].dev_minor == 0 && e[1].inode == 247702);
    ck_assert_str_eq(e[1].name, "/usr/bin/python3.11");
    ck_assert_str_eq(e[2].name, "");
    ck_assert_str_eq(e[3].name, "[heap]");
    ck_assert(e[7].lo == 0xffffffffff600000ull && !e[7].read && e[7].exec);
}
END_TEST

START_TEST(test_names)
{
    const struct maps_entry *e = parsed.entry;
    ck_assert(e[4].deleted && e[4].shared);
    ck_assert_str_eq(e[4].name, "/memfd:mempulse-agent");
    ck_assert(e[5].deleted);
    ck_assert_str_eq(e[5].name, "/tmp/a b\nc");
    ck_assert_str_eq(maps_basename(&e[0]), "python3.11");
    ck_assert_str_eq(maps_basename(&e[2]), "");
}
END_TEST

START_TEST(test_lookup)
{
    ck_assert_ptr_eq(maps_at(&parsed, 0x400000), &parsed.entry[0]);
    ck_assert_ptr_eq(maps_at(&parsed, 0x41efff), &parsed.entry[0]);
    ck_assert_ptr_eq(maps_at(&parsed, 0x41f000), &parsed.entry[1]);
    ck_assert_ptr_null(maps_at(&parsed, 0x3fffff));
    ck_assert_ptr_null(maps_at(&parsed, 0x6d2000));
    ck_assert_ptr_eq(maps_at(&parsed, 0xffffffffff600fffull), &parsed.entry[7]);
    ck_assert_ptr_null(maps_at(&parsed, ~0ull));
    ck_assert(maps_same_file(&parsed.entry[0], &parsed.entry[1]));
    ck_assert(!maps_same_file(&parsed.entry[2], &parsed.entry[3])); /* inode 0 is no file */
    ck_assert_ptr_eq(maps_next_named(&parsed, NULL, "[heap]"), &parsed.entry[3]);
    ck_assert_ptr_null(maps_next_named(&parsed, &parsed.entry[3], "[heap]"));
}
END_TEST

START_TEST(test_modules)
{
    const struct maps_entry *e = maps_next_module(&parsed, NULL);
    ck_assert_ptr_eq(e, &parsed.entry[1]);
    e = maps_next_module(&parsed, e);
    ck_assert_ptr_eq(e, &parsed.entry[4]);
    e = maps_next_module(&parsed, e);
    ck_assert_ptr_eq(e, &parsed.entry[5]);
    ck_assert_ptr_null(maps_next_module(&parsed, e)); /* its second mapping is no module, nor is vsyscall */
}
END_TEST

static const struct {
    const char *text;
    size_t count, skipped;
} hostile[] = {
    {"", 0, 0},
    {"\n\n\n", 0, 3},
    {"00400000-0041f000", 0, 1},
    {"00400000-0041f000 r--p 00000000 fe:00 247702 ", 1, 0},           /* cut before the name */
    {"00400000-0041f000 r--p 00000000 fe:00 247702 x (deleted)", 1, 0}, /* no newline at the end */
    {"0041f000-00400000 r--p 00000000 fe:00 1 x\n", 0, 1},              /* backwards */
    {"00400000-00400000 r--p 00000000 fe:00 1 x\n", 0, 1},              /* empty */
    {"00400000-0041f000 rwzp 00000000 fe:00 1 x\n", 0, 1},
    {"00400000-1ffffffffffffffff r--p 00000000 fe:00 1 x\n", 0, 1},     /* 65 bits */
    {"-1-5 r--p 0 0:0 0\n", 0, 1},
    {"2000-3000 r--p 0 0:0 0 b\n1000-2000 r--p 0 0:0 0 a\n", 1, 1},     /* not rising */
    {"2000-4000 r--p 0 0:0 0 b\n2800-4000 r--p 0 0:0 0 a\n", 1, 1},     /* in the one before */
    {"2000-3000 r--p 0 0:0 0 b\n2000-4000 r--p 0 0:0 0 a\n", 2, 0},     /* has grown while it was told */
    {"1000-2000 r--p 0 0:0 0 \\01\n", 1, 0},                            /* half an escape */
    {"1000-2000 r--p 0 0:0 0 \\012\n", 1, 0},
    {"1000-2000 r--p 0 0:0 0 \xff\xfe\x01\n", 1, 0},
};

START_TEST(test_hostile)
{
    struct maps m;
    ck_assert_int_eq(maps_parse(&m, hostile[_i].text, strlen(hostile[_i].text)), 0);
    ck_assert_uint_eq(m.count, hostile[_i].count);
    ck_assert_uint_eq(m.skipped, hostile[_i].skipped);
    maps_release(&m);
    maps_release(&m);
}
END_TEST

/* Of a mapping that grew between two pieces of the file, what is new is an entry of its own. */
START_TEST(test_grown)
{
    static const char text[] = "1000-3000 r--p 0 0:0 7 a\n1000-6000 r--p 0 0:0 7 a\n7000-8000 r--p 0 0:0 0 b\n";
    struct maps m;
    ck_assert_int_eq(maps_parse(&m, text, sizeof(text) - 1), 0);
    ck_assert_uint_eq(m.count, 3);
    const struct maps_entry *e = maps_at(&m, 0x5000);
    ck_assert_ptr_nonnull(e);
    ck_assert_uint_eq(e->lo, 0x3000);
    ck_assert_uint_eq(e->hi, 0x6000);
    ck_assert_uint_eq(e->offset, 0x2000);
    maps_release(&m);
}
END_TEST

START_TEST(test_nul_bytes)
{
    static const char text[] = "1000-2000 r--p 0 0:0 0 a\0b\n2000-3000 r--p 0 0:0 0 c\n";
    struct maps m;
    ck_assert_int_eq(maps_parse(&m, text, sizeof(text) - 1), 0);
    ck_assert_uint_eq(m.count, 2);
    ck_assert_str_eq(m.entry[0].name, "a");
    maps_release(&m);
}
END_TEST

/* Every prefix of a good text parses without harm. */
START_TEST(test_cut_anywhere)
{
    size_t n;
    for (n = 0; n < sizeof(sample); n++) {
        struct maps m;
        char *exact = malloc(n ? n : 1); /* for the address sanitizer: not a byte more */
        memcpy(exact, sample, n);
        ck_assert_int_eq(maps_parse(&m, exact, n), 0);
        ck_assert_uint_le(m.count, 8);
        maps_release(&m);
        free(exact);
    }
}
END_TEST

START_TEST(test_huge)
{
    enum { LINES = 70000 };
    char *text = malloc(LINES * 80), *at = text;
    struct maps m;
    unsigned long i;
    for (i = 0; i < LINES; i++)
        at += sprintf(at, "%lx-%lx rw-p 00000000 00:00 0 \n", 0x10000 + i * 0x2000, 0x11000 + i * 0x2000);
    ck_assert_int_eq(maps_parse(&m, text, (size_t)(at - text)), 0);
    ck_assert_uint_eq(m.count, LINES);
    ck_assert_ptr_eq(maps_at(&m, 0x10000 + 0x2000ul * 12345), &m.entry[12345]);
    ck_assert_ptr_null(maps_at(&m, 0x11000 + 0x2000ul * 12345));
    maps_release(&m);
    free(text);
}
END_TEST

START_TEST(test_own_process)
{
    struct maps m;
    const struct maps_entry *e;
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert_int_eq(maps_read(&m, getpid()), 0);
    ck_assert_uint_eq(m.skipped, 0);
    e = maps_at(&m, (raddr_t)(uintptr_t)page);
    ck_assert_ptr_nonnull(e);
    ck_assert(e->read && e->write && !e->exec);
    e = maps_at(&m, (raddr_t)(uintptr_t)&setup);
    ck_assert(e && e->exec && e->inode);
    maps_release(&m);
    munmap(page, 4096);
    ck_assert_int_eq(maps_read(&m, 0x7ffffffe), -ESRCH);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("maps");
    TCase *t = tcase_create("maps");
    SRunner *r = srunner_create(s);
    int failed;
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_fields);
    tcase_add_test(t, test_names);
    tcase_add_test(t, test_lookup);
    tcase_add_test(t, test_modules);
    tcase_add_loop_test(t, test_hostile, 0, sizeof(hostile) / sizeof(hostile[0]));
    tcase_add_test(t, test_grown);
    tcase_add_test(t, test_nul_bytes);
    tcase_add_test(t, test_cut_anywhere);
    tcase_add_test(t, test_huge);
    tcase_add_test(t, test_own_process);
    suite_add_tcase(s, t);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
