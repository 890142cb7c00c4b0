/* Seccomp programs run here answer as the kernel would. */
#include <check.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/syscall.h>

#include "target/seccomp.h"

#define LD_NR BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))
#define LD_ARCH BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch))
#define RET(x) BPF_STMT(BPF_RET | BPF_K, x)
#define LD_ARG(n) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[n]))
#define LD_ARG_HIGH(n) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[n]) + 4)
#define WORST(prog, ...) seccomp_worst(prog, sizeof(prog) / sizeof *(prog), &(const struct seccomp_call){__VA_ARGS__})
#define EVAL(prog, call) WORST(prog, .nr = call)

START_TEST(test_typical)
{
    const struct sock_filter prog[] = {
        LD_ARCH,
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
        RET(SECCOMP_RET_KILL_PROCESS),
        LD_NR,
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1), /* x32 */
        RET(SECCOMP_RET_KILL_THREAD),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1),
        RET(SECCOMP_RET_ERRNO | 38),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 0, 1),
        RET(SECCOMP_RET_TRAP),
        RET(SECCOMP_RET_ALLOW),
    };
    ck_assert_uint_eq(EVAL(prog, SYS_read), SECCOMP_RET_ALLOW);
    ck_assert_uint_eq(EVAL(prog, SYS_clone3), SECCOMP_RET_ERRNO | 38);
    ck_assert_uint_eq(EVAL(prog, SYS_openat), SECCOMP_RET_TRAP);
    ck_assert_uint_eq(EVAL(prog, 0x40000000 + SYS_read), SECCOMP_RET_KILL_THREAD);
}
END_TEST

START_TEST(test_arithmetic)
{
    const struct sock_filter prog[] = {
        LD_NR,
        BPF_STMT(BPF_ALU | BPF_ADD | BPF_K, 5),
        BPF_STMT(BPF_ST, 3),
        BPF_STMT(BPF_LDX | BPF_W | BPF_MEM, 3),
        BPF_STMT(BPF_ALU | BPF_MUL | BPF_X, 0),
        BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 1),
        BPF_STMT(BPF_RET | BPF_A, 0),
    };
    ck_assert_uint_eq(EVAL(prog, 7), 12 * 12 / 2);
}
END_TEST

/* mmap kills with PROT_EXEC, fails when it is also writable; flags of 2^32 and more trap. */
START_TEST(test_arguments)
{
    const struct sock_filter prog[] = {
        LD_NR,
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 0, 7),
        LD_ARG_HIGH(3),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0),
        RET(SECCOMP_RET_TRAP),
        LD_ARG(2),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 2, 0, 1),
        RET(SECCOMP_RET_ERRNO | 1),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 4, 1, 0),
        RET(SECCOMP_RET_ALLOW),
        RET(SECCOMP_RET_KILL_PROCESS),
    };
    ck_assert_uint_eq(WORST(prog, .nr = SYS_read), SECCOMP_RET_ALLOW);
    ck_assert_uint_eq(WORST(prog, .nr = SYS_mmap, .known = 0x3f, .args = {[2] = 1}), SECCOMP_RET_ALLOW);
    ck_assert_uint_eq(WORST(prog, .nr = SYS_mmap, .known = 0x3f, .args = {[2] = 3}), SECCOMP_RET_ERRNO | 1);
    ck_assert_uint_eq(WORST(prog, .nr = SYS_mmap, .known = 0x3f, .args = {[2] = 5}), SECCOMP_RET_KILL_PROCESS);
    ck_assert_uint_eq(WORST(prog, .nr = SYS_mmap, .known = 0x3f, .args = {[2] = 1, [3] = 1ull << 32}), SECCOMP_RET_TRAP);
    ck_assert_uint_eq(WORST(prog, .nr = SYS_mmap, .known = 1 << 2, .args = {[2] = 1}), SECCOMP_RET_TRAP); /* flags unknown */
    ck_assert_uint_eq(WORST(prog, .nr = SYS_mmap, .known = 1 << 3), SECCOMP_RET_KILL_PROCESS);
}
END_TEST

/* What differs by the way that was taken is not known where the ways meet; what doesn't, is. */
START_TEST(test_joined)
{
    const struct sock_filter prog[] = {
        BPF_STMT(BPF_LDX | BPF_IMM, 9),
        LD_ARG(0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, 2),
        BPF_STMT(BPF_LD | BPF_IMM, 5),
        BPF_JUMP(BPF_JMP | BPF_JA, 1, 0, 0),
        BPF_STMT(BPF_LD | BPF_IMM, 6),
        BPF_STMT(BPF_ST, 0),
        BPF_STMT(BPF_MISC | BPF_TXA, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 9, 1, 0),
        RET(SECCOMP_RET_KILL_THREAD),
        BPF_STMT(BPF_LD | BPF_MEM, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 6, 0, 1),
        RET(SECCOMP_RET_ALLOW),
        RET(SECCOMP_RET_ERRNO | 7),
    };
    const struct sock_filter returned[] = {LD_ARG(5), BPF_STMT(BPF_RET | BPF_A, 0)};
    const struct sock_filter where[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1), RET(SECCOMP_RET_ALLOW), RET(SECCOMP_RET_TRAP),
    };
    ck_assert_uint_eq(WORST(prog, .known = 1, .args = {2}), SECCOMP_RET_ALLOW);
    ck_assert_uint_eq(WORST(prog, .known = 1, .args = {1}), SECCOMP_RET_ERRNO | 7);
    ck_assert_uint_eq(WORST(prog, .known = 0), SECCOMP_RET_ERRNO | 7);
    ck_assert_uint_eq(WORST(returned, .known = 0), SECCOMP_RET_KILL_PROCESS);
    ck_assert_uint_eq(WORST(returned, .known = 1 << 5, .args = {[5] = SECCOMP_RET_ALLOW}), SECCOMP_RET_ALLOW);
    ck_assert_uint_eq(WORST(where, .known = 0x3f), SECCOMP_RET_TRAP); /* nobody knows from where it is called */
}
END_TEST

START_TEST(test_broken)
{
    const struct sock_filter no_end[] = {LD_NR};
    const struct sock_filter beyond[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 64), RET(SECCOMP_RET_ALLOW)};
    const struct sock_filter far[] = {BPF_STMT(BPF_JMP | BPF_JA, 0xffffffff), RET(SECCOMP_RET_ALLOW)};
    const struct sock_filter zero[] = {BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 0), RET(SECCOMP_RET_ALLOW)};
    const struct sock_filter store[] = {BPF_STMT(BPF_ST, 16), RET(SECCOMP_RET_ALLOW)};
    ck_assert_uint_eq(EVAL(no_end, 1), SECCOMP_RET_KILL_PROCESS);
    ck_assert_uint_eq(EVAL(beyond, 1), SECCOMP_RET_KILL_PROCESS);
    ck_assert_uint_eq(EVAL(far, 1), SECCOMP_RET_KILL_PROCESS);
    ck_assert_uint_eq(EVAL(zero, 1), SECCOMP_RET_KILL_PROCESS);
    ck_assert_uint_eq(EVAL(store, 1), SECCOMP_RET_KILL_PROCESS);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("seccomp");
    TCase *t = tcase_create("seccomp");
    tcase_add_test(t, test_typical);
    tcase_add_test(t, test_arithmetic);
    tcase_add_test(t, test_arguments);
    tcase_add_test(t, test_joined);
    tcase_add_test(t, test_broken);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
