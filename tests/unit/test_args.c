/* Command-line values: every unit, every refusal. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/args.h"

struct value_case {
    const char *text;
    int err;
    uint64_t value;
};

static const struct value_case durations[] = {
    {"30", 0, 30000000000ull},    {"30s", 0, 30000000000ull},   {"500ms", 0, 500000000ull}, {"20us", 0, 20000ull},
    {"1.5m", 0, 90000000000ull},  {"2h", 0, 7200000000000ull},  {"2H", 0, 7200000000000ull}, {"0", 0, 0},
    {"", -EINVAL, 0},             {"s", -EINVAL, 0},            {"-1s", -EINVAL, 0},        {"1x", -EINVAL, 0},
    {"0x10", -EINVAL, 0},         {"inf", -EINVAL, 0},          {"1e3000", -ERANGE, 0},     {"9000000h", -ERANGE, 0},
    {"5 s", -EINVAL, 0},          {"5s ", -EINVAL, 0},
};

static const struct value_case sizes[] = {
    {"4096", 0, 4096},      {"64K", 0, 65536},       {"64KiB", 0, 65536},     {"1.5M", 0, 1572864},
    {"2G", 0, 2147483648u}, {"7b", 0, 7},            {"1T", -EINVAL, 0},      {"", -EINVAL, 0},
    {"-4K", -EINVAL, 0},    {"9999999999999G", -ERANGE, 0}, {"K", -EINVAL, 0},
};

START_TEST(test_duration)
{
    uint64_t v = 77;
    ck_assert_int_eq(args_duration(durations[_i].text, &v), durations[_i].err);
    ck_assert_uint_eq(v, durations[_i].err ? 77 : durations[_i].value);
}
END_TEST

START_TEST(test_size)
{
    uint64_t v = 77;
    ck_assert_int_eq(args_size(sizes[_i].text, &v), sizes[_i].err);
    ck_assert_uint_eq(v, sizes[_i].err ? 77 : sizes[_i].value);
}
END_TEST

START_TEST(test_number)
{
    long v = 77;
    ck_assert_int_eq(args_number(" 12\n", 1, 20, &v), 0);
    ck_assert_int_eq(v, 12);
    ck_assert_int_eq(args_number("21", 1, 20, &v), -ERANGE);
    ck_assert_int_eq(args_number("-1", 0, 20, &v), -ERANGE);
    ck_assert_int_eq(args_number("99999999999999999999", 0, 20, &v), -ERANGE);
    ck_assert_int_eq(args_number("1,2", 0, 20, &v), -EINVAL);
    ck_assert_int_eq(args_number("", 0, 20, &v), -EINVAL);
    ck_assert_int_eq(args_number("x", 0, 20, &v), -EINVAL);
    ck_assert_int_eq(v, 12);
}
END_TEST

START_TEST(test_percent)
{
    double v = 7;
    ck_assert_int_eq(args_percent("2.5%", &v), 0);
    ck_assert(v == 2.5);
    ck_assert_int_eq(args_percent("0", &v), 0);
    ck_assert_int_eq(args_percent("101", &v), -ERANGE);
    ck_assert_int_eq(args_percent("-1", &v), -EINVAL);
    ck_assert_int_eq(args_percent("5%%", &v), -EINVAL);
}
END_TEST

START_TEST(test_expand_path)
{
    char *s = args_expand_path("/tmp/a-%p-%%.txt", 42);
    ck_assert_str_eq(s, "/tmp/a-42-%.txt");
    free(s);
    s = args_expand_path("%t", 42);
    ck_assert_uint_eq(strlen(s), strlen("20261121-060102"));
    free(s);
    errno = 0;
    ck_assert_ptr_null(args_expand_path("%q", 42));
    ck_assert_int_eq(errno, EINVAL);
    ck_assert_ptr_null(args_expand_path("x%", 42));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("args");
    TCase *t = tcase_create("values");
    SRunner *r = srunner_create(s);
    int failed;

    tcase_add_loop_test(t, test_duration, 0, (int)(sizeof(durations) / sizeof(durations[0])));
    tcase_add_loop_test(t, test_size, 0, (int)(sizeof(sizes) / sizeof(sizes[0])));
    tcase_add_test(t, test_number);
    tcase_add_test(t, test_percent);
    tcase_add_test(t, test_expand_path);
    suite_add_tcase(s, t);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
