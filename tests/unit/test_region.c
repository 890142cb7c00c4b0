/* src/inject/region.c: where a region may be. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "boot.h"
#include "inject/region.h"

#define STEP (MP_REGION_PLACE_MASK + 1)
#define LIBC 0x7f1234567000ull
#define GAP 0x100000

static raddr_t place[PLAN_PLACES];

static void look(const char *text, raddr_t below)
{
    struct maps m;
    ck_assert_int_eq(maps_parse(&m, text, strlen(text)), 0);
    ck_assert_uint_eq(m.skipped, 0);
    region_places(place, &m, below);
    maps_release(&m);
}

static const char *mapped(raddr_t lo, raddr_t hi)
{
    static char text[128];
    snprintf(text, sizeof text, "%llx-%llx rw-p 00000000 00:00 0 \n", (unsigned long long)lo, (unsigned long long)hi);
    return text;
}

START_TEST(test_free)
{
    look("7f1234567000-7f1234568000 r-xp 00000000 00:00 0 \n", LIBC);
    for (unsigned i = 0; i < PLAN_PLACES; i++)
        ck_assert_uint_eq(place[i], 0x7f1226d70000ull - i * STEP);
}
END_TEST

/* What is in the way leaves a place out, and no more. */
START_TEST(test_in_the_way)
{
    const raddr_t first = 0x7f1226d70000ull, ends[][2] = {
        {first + MP_REGION_SIZE, first + MP_REGION_SIZE + MP_PAGE}, /* right behind it */
        {first + MP_REGION_SIZE + GAP - MP_PAGE, first + MP_REGION_SIZE + GAP}, /* a stack that grows, perhaps */
        {first - MP_PAGE, first},                                   /* right before it */
        {first + MP_PAGE, first + 2 * MP_PAGE},
        {first - MP_PAGE, first + MP_REGION_SIZE + MP_PAGE},
    };
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        look(mapped(ends[i][0], ends[i][1]), LIBC);
        ck_assert_uint_eq(place[0], first - STEP);
        ck_assert_uint_eq(place[1], first - 2 * STEP);
    }
    look(mapped(first + MP_REGION_SIZE + GAP, first + MP_REGION_SIZE + GAP + MP_PAGE), LIBC);
    ck_assert_uint_eq(place[0], first);
}
END_TEST

/* Terabytes of it cost no more than one look. */
START_TEST(test_far)
{
    look(mapped(0x7f1000000000ull, LIBC), LIBC);
    ck_assert_uint_eq(place[0], 0x7f0ff6d70000ull);
    look(mapped(0x1000, LIBC), LIBC);
    ck_assert_uint_eq(place[0], 0);
}
END_TEST

START_TEST(test_low)
{
    look("", 0x406d00000ull);
    ck_assert_uint_eq(place[0], 0x3f6d70000ull);
    look("", 0x120000000ull);
    ck_assert_uint_eq(place[0], 0x116d70000ull);
    ck_assert_uint_eq(place[1], 0x106d70000ull);
    ck_assert_uint_eq(place[2], 0);
    look("", 0x401000);
    ck_assert_uint_eq(place[0], 0);
    look("", 0);
    ck_assert_uint_eq(place[0], 0);
}
END_TEST

/* A region ends at the address at most. */
START_TEST(test_just_below)
{
    look("", 0x7f1226d70000ull + MP_REGION_SIZE);
    ck_assert_uint_eq(place[0], 0x7f1226d70000ull);
    look("", 0x7f1226d70000ull + MP_REGION_SIZE - 1);
    ck_assert_uint_eq(place[0], 0x7f1216d70000ull);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("region");
    TCase *t = tcase_create("region");
    tcase_add_test(t, test_free);
    tcase_add_test(t, test_in_the_way);
    tcase_add_test(t, test_far);
    tcase_add_test(t, test_low);
    tcase_add_test(t, test_just_below);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
