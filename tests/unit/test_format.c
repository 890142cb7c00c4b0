/* Human sizes, durations, thousands, times: tables. */
#include "wire_gen.h"

#include <inttypes.h>

#include "base/digits.h"
#include "base/text.h"
#include "base/time.h"

static const struct {
    int64_t bytes;
    bool sign;
    const char *want;
} sizes[] = {
    {0, true, "0 B"},           {1, true, "+1 B"},           {-1, true, "-1 B"},         {1023, false, "1023 B"},
    {1024, false, "1 KiB"},     {4096, true, "+4 KiB"},      {-12288, true, "-12 KiB"},  {1536, true, "+1.5 KiB"},
    {1048576, true, "+1.0 MiB"}, {1572864, false, "1.5 MiB"}, {1048575, true, "+1.0 MiB"}, {1047552, true, "+1023 KiB"},
    {104857600, true, "+100 MiB"}, {104805172, true, "+100 MiB"}, {104752742, false, "99.9 MiB"},
    {1072693248, true, "+1023 MiB"}, {1073741823, true, "+1.0 GiB"}, {-1649267441664, true, "-1.5 TiB"},
    {INT64_MAX, true, "+8.0 EiB"}, {INT64_MIN, true, "-8.0 EiB"},
};

START_TEST(test_size)
{
    char b[24];

    ck_assert_str_eq(render_size(b, sizeof(b), sizes[_i].bytes, sizes[_i].sign), sizes[_i].want);
    ck_assert_uint_le(strlen(b), 9);
}
END_TEST

static const struct {
    uint64_t ns;
    const char *want;
} durations[] = {
    {0, "0 ns"},          {999, "999 ns"},      {1000, "1.00 us"},     {9994, "9.99 us"},   {9996, "10.0 us"},
    {99960, "100 us"},    {999499, "999 us"},   {999500, "1.00 ms"},   {1230000, "1.23 ms"}, {45600000000ull, "45.6 s"},
    {999400000000ull, "999 s"}, {1000000000000ull, "16m40s"}, {11100000000000ull, "3h05m"},
    {360000000000000ull, "4d04h"}, {UINT64_MAX, "213503d23h"},
};

START_TEST(test_duration)
{
    char b[24];

    ck_assert_str_eq(render_duration(b, sizeof(b), durations[_i].ns), durations[_i].want);
}
END_TEST

START_TEST(test_thousands)
{
    char b[28];

    ck_assert_str_eq(text_thousands(b, sizeof(b), 0), "0");
    ck_assert_str_eq(text_thousands(b, sizeof(b), 999), "999");
    ck_assert_str_eq(text_thousands(b, sizeof(b), 1000), "1,000");
    ck_assert_str_eq(text_thousands(b, sizeof(b), 123456), "123,456");
    ck_assert_str_eq(text_thousands(b, sizeof(b), UINT64_MAX), "18,446,744,073,709,551,615");
}
END_TEST

START_TEST(test_time)
{
    struct time_cache utc = {0}, local = {0};
    char b[48];

    ck_assert_str_eq(time_rfc3339(&utc, b, sizeof(b), 1767323045123456789ll), "2026-01-02T03:04:05.123456789Z");
    ck_assert_str_eq(time_rfc3339(&utc, b, sizeof(b), 1767323045000000001ll), "2026-01-02T03:04:05.000000001Z");
    ck_assert_str_eq(time_rfc3339(&utc, b, sizeof(b), 0), "1970-01-01T00:00:00.000000000Z");
    ck_assert_str_eq(time_rfc3339(&utc, b, sizeof(b), -1), "");
    ck_assert_str_eq(time_rfc3339(&utc, b, sizeof(b), INT64_MAX), "2262-04-11T23:47:16.854775807Z");
    ck_assert_str_eq(time_local(&local, b, sizeof(b), 1767323045123456789ll), "03:04:05.123");
    ck_assert_str_eq(time_local(&local, b, sizeof(b), 1767323045999999999ll), "03:04:05.999");
    ck_assert_str_eq(time_local(&local, b, sizeof(b), -5), "--:--:--.---");
}
END_TEST

START_TEST(test_digits)
{
    char got[DIGITS_MAX + 1], want[32];
    uint64_t power = 1;

    for (int i = 0; i < 20; i++, power *= 10)
        for (int d = -1; d < 12; d++) {
            uint64_t v = power + (uint64_t)(int64_t)d;

            *digits_put(got, v) = 0;
            snprintf(want, sizeof(want), "%" PRIu64, v);
            ck_assert_str_eq(got, want);
            ck_assert_uint_eq(digits_count(v), strlen(want));
        }
    for (unsigned bit = 0; bit <= 64; bit++) {
        uint64_t v = bit < 64 ? 1ull << bit : UINT64_MAX;

        *digits_put(got, v) = 0;
        snprintf(want, sizeof(want), "%" PRIu64, v);
        ck_assert_str_eq(got, want);
    }
    for (uint32_t v = 0; v < 1000000000; v = v * 3 + 1) {
        *digits_put_nine(got, v) = 0;
        snprintf(want, sizeof(want), "%09" PRIu32, v);
        ck_assert_str_eq(got, want);
        if (v > 300000000)
            break;
    }
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("format");

    tcase_add_loop_test(tc, test_size, 0, sizeof(sizes) / sizeof(sizes[0]));
    tcase_add_loop_test(tc, test_duration, 0, sizeof(durations) / sizeof(durations[0]));
    tcase_add_test(tc, test_digits);
    tcase_add_test(tc, test_thousands);
    tcase_add_test(tc, test_time);
    return gen_run(tc);
}
