/* The undo stack: reverse order, first failure wins, nothing is skipped. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "target/undo.h"

static char order[16];
static size_t order_len;

struct step {
    char name;
    int answer;
};

static int step_undo(void *arg)
{
    struct step *s = arg;
    order[order_len++] = s->name;
    return s->answer;
}

static void reset(void)
{
    memset(order, 0, sizeof order);
    order_len = 0;
}

START_TEST(test_reverse)
{
    struct undo u = {0};
    struct step a = {'a', 0}, b = {'b', 0}, c = {'c', 0};
    const char *what = "untouched";
    reset();
    undo_push(&u, "a", step_undo, &a);
    undo_push(&u, "b", step_undo, &b);
    undo_push(&u, "c", step_undo, &c);
    ck_assert_int_eq(undo_run(&u, &what), 0);
    ck_assert_str_eq(order, "cba");
    ck_assert_str_eq(what, "untouched");
    ck_assert_int_eq(undo_run(&u, &what), 0); /* emptied */
    ck_assert_str_eq(order, "cba");
}
END_TEST

START_TEST(test_first_failure)
{
    struct undo u = {0};
    struct step a = {'a', -3}, b = {'b', 0}, c = {'c', -5};
    const char *what = NULL;
    reset();
    undo_push(&u, "the mapping", step_undo, &a);
    undo_push(&u, "b", step_undo, &b);
    undo_push(&u, "the thread", step_undo, &c);
    ck_assert_int_eq(undo_run(&u, &what), -5);
    ck_assert_str_eq(what, "the thread");
    ck_assert_str_eq(order, "cba"); /* a failure stops nothing */
}
END_TEST

START_TEST(test_pop_and_clear)
{
    struct undo u = {0};
    struct step a = {'a', 0}, b = {'b', 0};
    reset();
    undo_push(&u, "a", step_undo, &a);
    undo_push(&u, "b", step_undo, &b);
    undo_pop(&u);
    ck_assert_int_eq(undo_run(&u, NULL), 0);
    ck_assert_str_eq(order, "a");
    undo_push(&u, "a", step_undo, &a);
    undo_clear(&u);
    ck_assert_int_eq(undo_run(&u, NULL), 0);
    ck_assert_str_eq(order, "a");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("undo");
    TCase *t = tcase_create("undo");
    tcase_add_test(t, test_reverse);
    tcase_add_test(t, test_first_failure);
    tcase_add_test(t, test_pop_and_clear);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
