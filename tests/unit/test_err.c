/* Named failures and their JSON. */
#include <signal.h>

#include "wire_gen.h"

START_TEST(test_table)
{
    ck_assert_str_eq(mp_err_name(MP_E_EPERM_YAMA), "EPERM_YAMA");
    ck_assert_int_eq(mp_err_exit_code(MP_E_USAGE), 2);
    ck_assert_int_eq(mp_err_exit_code(MP_E_EPERM_YAMA), 5);
    ck_assert_int_eq(mp_err_exit_code(MP_E_INTERNAL), 70);
    ck_assert_str_eq(mp_err_name((enum mp_err)0), "?");
    ck_assert_str_eq(mp_err_name(MP_ERR_END), "?");
    ck_assert_int_eq(mp_err_exit_code(MP_ERR_END), 70);
    ck_assert_str_eq(mp_err_hint(MP_ERR_BASE), "");
    ck_assert_int_eq(mp_failure_exit_code(&(struct mp_failure){.code = MP_E_INTERRUPTED, .signo = SIGTERM}), 143);
    ck_assert_int_eq(mp_failure_exit_code(&(struct mp_failure){.code = MP_E_RESIDUE, .signo = SIGTERM}), 10);
    for (int e = MP_ERR_BASE + 1; e < MP_ERR_END; e++) {
        ck_assert_int_ge(mp_err_exit_code((enum mp_err)e), 2);
        ck_assert(*mp_err_hint((enum mp_err)e));
    }
}
END_TEST

START_TEST(test_first_wins)
{
    struct mp_failure f = {0};

    ck_assert_int_eq(mp_fail(&f, MP_E_ESRCH, ESRCH, "no %s", "such"), -MP_E_ESRCH);
    ck_assert_int_eq(mp_fail(&f, MP_E_INTERNAL, 0, "second"), -MP_E_INTERNAL);
    ck_assert_int_eq(f.code, MP_E_ESRCH);
    ck_assert_int_eq(f.sys_errno, ESRCH);
    ck_assert_str_eq(f.message, "no such");
    ck_assert_str_eq(f.hint, mp_err_hint(MP_E_ESRCH));
    mp_fail_hint(&f, "do %d", 7);
    ck_assert_str_eq(f.hint, "do 7");
    ck_assert_int_eq(mp_fail(NULL, MP_E_ABI, 0, "x"), -MP_E_ABI);
}
END_TEST

/* A terminal gets no escape of anybody's: file names and the agent's words are foreign. */
START_TEST(test_foreign)
{
    struct mp_failure f = {0};

    (void)mp_fail(&f, MP_E_INJECT, 0, "in %s: %s", "lib\x1b]0;x\x07.so", "a\nmempulse: all is well\xff");
    ck_assert_str_eq(f.message, "in lib\xef\xbf\xbd]0;x\xef\xbf\xbd.so: a\xef\xbf\xbdmempulse: all is well\xef\xbf\xbd");
    mp_fail_hint(&f, "see %s", "\xc2\x9b[31m");
    ck_assert_str_eq(f.hint, "see \xef\xbf\xbd[31m");
}
END_TEST

START_TEST(test_json)
{
    struct mp_failure f = {0};
    struct capture c;

    (void)mp_fail(&f, MP_E_EPERM_YAMA, EPERM, "yama says \"no\"\x1b[0m to %d", 12);
    capture_open(&c);
    ck_assert_int_eq(render_error_json(c.file, 12, &f), 0);
    capture_close(&c);
    ck_assert_str_eq(c.text, "{\"type\":\"error\",\"code\":\"EPERM_YAMA\",\"exit\":5,\"errno\":1,\"pid\":12,"
                             "\"message\":\"yama says \\\"no\\\"\xef\xbf\xbd[0m to 12\","
                             "\"hint\":\"sysctl kernel.yama.ptrace_scope=0, or run as root\","
                             "\"changed_target\":false}\n");
    free(c.text);
    f.target_ended = true; /* of a dead target nothing is said about changes */
    capture_open(&c);
    ck_assert_int_eq(render_error_json(c.file, 12, &f), 0);
    capture_close(&c);
    ck_assert_ptr_nonnull(strstr(c.text, ",\"target_ended\":true}\n"));
    ck_assert_ptr_null(strstr(c.text, "changed_target"));
    free(c.text);
    f = (struct mp_failure){0};
    (void)mp_fail(&f, MP_E_USAGE, 0, "bad");
    f.changed_target = true;
    capture_open(&c);
    ck_assert_int_eq(render_error_json(c.file, -1, &f), 0);
    capture_close(&c);
    ck_assert_str_eq(c.text, "{\"type\":\"error\",\"code\":\"USAGE\",\"exit\":2,\"message\":\"bad\","
                             "\"hint\":\"see mempulse --help\",\"changed_target\":true}\n");
    free(c.text);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("err");

    tcase_add_test(tc, test_table);
    tcase_add_test(tc, test_first_wins);
    tcase_add_test(tc, test_foreign);
    tcase_add_test(tc, test_json);
    return gen_run(tc);
}
