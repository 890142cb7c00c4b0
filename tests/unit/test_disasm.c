/* Small functions evaluated and gadgets found in bytes that are given. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "target/disasm.h"

/* A target of two pieces: code at CODE, data at DATA; all else faults. */
enum { CODE = 0x10000, DATA = 0x20000 };

struct fake {
    const char *code;
    size_t code_len;
    unsigned char data[64];
};

static int fake_read(void *ctx, raddr_t at, void *ret, size_t len)
{
    const struct fake *f = ctx;
    if (at >= CODE && at - CODE <= f->code_len && len <= f->code_len - (at - CODE)) {
        memcpy(ret, f->code + (at - CODE), len);
        return 0;
    }
    if (at >= DATA && at - DATA <= sizeof(f->data) && len <= sizeof(f->data) - (at - DATA)) {
        memcpy(ret, f->data + (at - DATA), len);
        return 0;
    }
    return -EFAULT;
}

/* Code is padded so that the last instruction can be read in whole. */
static char padded[4096];

static struct disasm *over(struct fake *f, const char *code, size_t len)
{
    memset(padded, 0xcc, sizeof(padded));
    memcpy(padded, code, len);
    *f = (struct fake){.code = padded, .code_len = sizeof(padded)};
    f->data[0] = 1;
    memset(f->data + 8, 0xff, 8); /* -1 */
    f->data[16] = 0x00; f->data[18] = 0x02; /* 0x20000: a pointer to DATA */
    return disasm_new(fake_read, f);
}

#define BYTES(s) s, sizeof(s) - 1
static const struct {
    const char *what, *code;
    size_t len;
    int err;
    uint64_t value;
    bool tp;
} evals[] = {
    {"lea; ret", BYTES("\x48\x8d\x05\xf9\xff\x00\x00\xc3"), 0, DATA, false},
    {"endbr64; lea; ret", BYTES("\xf3\x0f\x1e\xfa\x48\x8d\x05\xf5\xff\x00\x00\xc3"), 0, DATA, false},
    {"mov var(%rip),%eax", BYTES("\x8b\x05\xfa\xff\x00\x00\xc3"), 0, 1, false},
    {"through the GOT", BYTES("\x48\x8b\x05\x09\x00\x01\x00\x8b\x00\xc3"), 0, 1, false},
    {"errno", BYTES("\x48\x8b\x05\x01\x00\x01\x00\x64\x48\x03\x04\x25\x00\x00\x00\x00\xc3"), 0, ~0ull, true},
    {"errno, the other way", BYTES("\x64\x48\x8b\x04\x25\x00\x00\x00\x00\x48\x03\x05\xf8\xff\x00\x00\xc3"), 0, ~0ull, true},
    {"errno as a constant", BYTES("\x64\x48\x8b\x04\x25\x00\x00\x00\x00\x48\x05\x80\xff\xff\xff\xc3"), 0, (uint64_t)-128, true},
    {"frame pointer kept", BYTES("\x55\x48\x89\xe5\xb8\x07\x00\x00\x00\x5d\xc3"), 0, 7, false},
    {"cmpq $0,var; setne; movzbl", BYTES("\x48\x83\x3d\xf8\xff\x00\x00\x00\x0f\x95\xc0\x0f\xb6\xc0\xc3"), 0, 1, false},
    {"setne alone leaves the rest", BYTES("\x48\x83\x3d\xf8\xff\x00\x00\x00\x0f\x95\xc0\xc3"), -ENOTSUP, 0, false},
    {"xor; cmp; setne", BYTES("\x31\xc0\x48\x83\x3d\xf6\xff\x00\x00\x00\x0f\x95\xc0\xc3"), 0, 1, false},
    {"jump", BYTES("\xeb\x02\xcc\xcc\xb8\x05\x00\x00\x00\xc3"), 0, 5, false},
    {"jump to itself", BYTES("\xeb\xfe"), -ENOTSUP, 0, false},
    {"a call", BYTES("\xe8\x00\x00\x00\x00\xc3"), -ENOTSUP, 0, false},
    {"unmapped load", BYTES("\x48\x8b\x04\x25\x10\x00\x00\x00\xc3"), -ENOTSUP, 0, false},
    {"unknown register", BYTES("\x48\x89\xf8\xc3"), -ENOTSUP, 0, false},
    {"%fs:0x28 is not %fs:0", BYTES("\x64\x48\x8b\x04\x25\x28\x00\x00\x00\xc3"), -ENOTSUP, 0, false},
    {"no code", BYTES("\xff\xff\xff\xff"), -ENOTSUP, 0, false},
    {"store", BYTES("\xc7\x05\xf6\xff\x00\x00\x01\x00\x00\x00\xc3"), -ENOTSUP, 0, false},
};

START_TEST(test_eval)
{
    struct fake f;
    struct disasm *d = over(&f, evals[_i].code, evals[_i].len);
    struct disasm_value v = {0};
    int r = disasm_eval(d, CODE, &v);
    ck_assert_msg(r == evals[_i].err, "%s: %d", evals[_i].what, r);
    if (r == 0) {
        ck_assert_msg(v.value == evals[_i].value, "%s: %lx", evals[_i].what, (unsigned long)v.value);
        ck_assert_msg(v.tp_relative == evals[_i].tp, "%s", evals[_i].what);
    }
    disasm_free(d);
}
END_TEST

START_TEST(test_addresses)
{
    struct fake f;
    /* lea DATA(%rip),%rdi; mov $0x20008,%esi; mov $5,%edx; call */
    struct disasm *d = over(&f, BYTES("\x48\x8d\x3d\xf9\xff\x00\x00\xbe\x08\x00\x02\x00\xba\x05\x00\x00\x00\xe8\0\0\0\0"));
    raddr_t at[4];
    ck_assert_uint_eq(disasm_addresses(d, CODE, 10, at, 4), 2);
    ck_assert(at[0] == DATA && at[1] == DATA + 8);
    ck_assert_uint_eq(disasm_addresses(d, CODE, 10, at, 1), 1);
    disasm_free(d);
}
END_TEST

typedef int (*search_fn)(struct disasm *d, raddr_t lo, raddr_t hi, raddr_t *ret);

static const struct {
    const char *what;
    search_fn search;
    const char *code;
    size_t len;
    int err;
    uint64_t off;
} searches[] = {
    {"syscall; ret", disasm_find_syscall_ret, BYTES("\x0f\x05\x90\x0f\x05\xc3"), 0, 3},
    {"no syscall; ret", disasm_find_syscall_ret, BYTES("\x0f\x05\x90\xc3"), -ENOENT, 0},
    {"sigreturn, long", disasm_find_sigreturn, BYTES("\x90\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05"), 0, 1},
    {"sigreturn, short", disasm_find_sigreturn, BYTES("\x90\x90\x90\xb8\x0f\x00\x00\x00\x0f\x05"), 0, 3},
    {"another number", disasm_find_sigreturn, BYTES("\x90\x48\xc7\xc0\x0e\x00\x00\x00\x0f\x05"), -ENOENT, 0},
    /* glibc 2.36: xor %edi,%edi; mov %edx,%eax; syscall; jmp -8 */
    {"exit loop", disasm_find_exit_gadget, BYTES("\x31\xff\x89\xd0\x0f\x05\xeb\xf8"), 0, 4},
    {"exit loop, constant", disasm_find_exit_gadget, BYTES("\xb8\x3c\x00\x00\x00\x0f\x05\xeb\xf7"), 0, 5},
    {"exit loop, r9d", disasm_find_exit_gadget, BYTES("\x31\xff\x44\x89\xc8\x0f\x05\x0f\x1f\x00\xeb\xf4"), 0, 5},
    {"exit_group is not exit", disasm_find_exit_gadget, BYTES("\xb8\xe7\x00\x00\x00\x0f\x05\xeb\xf7"), -ENOENT, 0},
    {"a register that holds nothing", disasm_find_exit_gadget, BYTES("\x89\xf0\x0f\x05\xeb\xfa"), -ENOENT, 0},
    {"rcx is lost in the first call", disasm_find_exit_gadget, BYTES("\x89\xc8\x0f\x05\xeb\xfa"), -ENOENT, 0},
    {"memory on the way", disasm_find_exit_gadget, BYTES("\x89\xd0\x0f\x05\x48\x8b\x3f\xeb\xf7"), -ENOENT, 0},
    {"memory that could be read", disasm_find_exit_gadget, BYTES("\x89\xd0\x0f\x05\x48\x8b\x3d\xf5\xff\x00\x00\xeb\xf3"), -ENOENT, 0},
    {"a push on the way", disasm_find_exit_gadget, BYTES("\x89\xd0\x0f\x05\x50\xeb\xf9"), -ENOENT, 0},
    {"a conditional jump", disasm_find_exit_gadget, BYTES("\x89\xd0\x0f\x05\x74\xfa"), -ENOENT, 0},
    {"rax unchanged", disasm_find_exit_gadget, BYTES("\x0f\x05\x0f\x05"), -ENOENT, 0},
};

START_TEST(test_search)
{
    struct fake f;
    struct disasm *d = over(&f, searches[_i].code, searches[_i].len);
    raddr_t at = 7;
    int r = searches[_i].search(d, CODE, CODE + sizeof(padded), &at);
    ck_assert_msg(r == searches[_i].err, "%s: %d", searches[_i].what, r);
    ck_assert_msg(at == (r ? 7 : CODE + searches[_i].off), "%s: %lx", searches[_i].what, (unsigned long)at);
    disasm_free(d);
}
END_TEST

START_TEST(test_search_edges)
{
    struct fake f;
    struct disasm *d = over(&f, BYTES("\x0f\x05\xc3"));
    raddr_t at;
    ck_assert_int_eq(disasm_find_syscall_ret(d, CODE, CODE + 1, &at), -ENOENT);
    ck_assert_int_eq(disasm_find_syscall_ret(d, CODE, CODE, &at), -ENOENT);
    ck_assert_int_eq(disasm_find_syscall_ret(d, CODE + 8, CODE, &at), -ENOENT);
    ck_assert_int_eq(disasm_find_syscall_ret(d, 0x999, 0x9999, &at), -EFAULT);
    disasm_free(d);
}
END_TEST

static unsigned reads;

static int counted_read(void *ctx, raddr_t at, void *ret, size_t len)
{
    reads++;
    return fake_read(ctx, at, ret, len);
}

/* Text is read in pieces of 1 MiB: what lies across two is found. One made up of system
 * calls and nothing else (a hostile libc) is given up. */
START_TEST(test_search_large)
{
    enum { LARGE = 3 << 20, PIECE = 1 << 20 };
    char *code = malloc(LARGE);
    struct fake f = {.code = code, .code_len = LARGE};
    struct disasm *d = disasm_new(counted_read, &f);
    raddr_t at = 0;

    memset(code, 0x90, LARGE);
    memcpy(code + PIECE - 1, "\x0f\x05\xc3", 3);
    ck_assert_int_eq(disasm_find_syscall_ret(d, CODE, CODE + LARGE, &at), 0);
    ck_assert_uint_eq(at, CODE + PIECE - 1);
    for (size_t i = 0; i < LARGE; i += 2)
        memcpy(code + i, "\x0f\x05", 2);
    reads = 0;
    ck_assert_int_eq(disasm_find_syscall_ret(d, CODE, CODE + LARGE, &at), -ENOENT);
    ck_assert_uint_lt(reads, 20000);
    disasm_free(d);
    free(code);
}
END_TEST

START_TEST(test_one)
{
    struct fake f;
    struct disasm *d = over(&f, BYTES("\x0f\x05\xc3\xe8\0\0\0\0\xff\xff"));
    struct disasm_insn in;
    ck_assert_int_eq(disasm_one(d, CODE, &in), 0);
    ck_assert(in.is_syscall && in.len == 2);
    ck_assert_int_eq(disasm_one(d, CODE + 2, &in), 0);
    ck_assert(in.is_ret && !in.is_call);
    ck_assert_int_eq(disasm_one(d, CODE + 3, &in), 0);
    ck_assert(in.is_call && in.len == 5);
    ck_assert_int_eq(disasm_one(d, CODE + 8, &in), -EILSEQ);
    ck_assert_int_eq(disasm_one(d, 0x999, &in), -EFAULT);
    ck_assert_int_eq(disasm_one(d, CODE + sizeof(padded) - 1, &in), 0); /* the last byte of the page: int3 */
    disasm_free(d);
}
END_TEST

START_TEST(test_before)
{
    struct fake f;
    /* nop; nop; lea 0xfff9(%rip), %rax; ret */
    struct disasm *d = over(&f, BYTES("\x90\x90\x48\x8d\x05\xf9\xff\x00\x00\xc3"));
    ck_assert_uint_eq(disasm_before(d, CODE + 9, 9), CODE);
    ck_assert_uint_eq(disasm_before(d, CODE + 9, 24), CODE); /* what can't be read is no beginning */
    ck_assert_uint_eq(disasm_before(d, CODE + 2, 1), CODE + 1);
    ck_assert_uint_eq(disasm_before(d, CODE, 24), CODE);
    disasm_free(d);
}
END_TEST

/* The Makefile has disasm.o's malloc and calloc come here. */
void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
static unsigned allocations, refused_from, refused_to;

static bool is_refused(void)
{
    allocations++;
    return refused_from <= allocations && allocations <= refused_to;
}

void *__wrap_malloc(size_t size)
{
    return is_refused() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return is_refused() ? NULL : __real_calloc(n, size);
}

/* How many allocations a new one made, with some of them refused; ret: it came to be. */
static unsigned count_refusing(unsigned from, unsigned to, bool *ret)
{
    struct fake f;
    struct disasm *d;
    struct disasm_value v = {0};
    unsigned made;
    int r = 0;
    allocations = 0;
    refused_from = from;
    refused_to = to;
    d = over(&f, BYTES("\x48\x8d\x05\xf9\xff\x00\x00\xc3"));
    made = allocations;
    if (d)
        r = disasm_eval(d, CODE, &v);
    *ret = d != NULL;
    refused_to = 0;
    disasm_free(d);
    ck_assert_uint_eq(allocations, made); /* what is made at the first use was there */
    ck_assert(!*ret || (r == 0 && v.value == DATA));
    return made;
}

/* capstone writes to what it gets without a look. */
START_TEST(test_no_memory)
{
    bool made;
    unsigned n, round, all = count_refusing(0, 0, &made);
    ck_assert(made && all > 3);
    for (round = 0; round < 20; round++)
        for (n = 1; n <= all; n++) {
            count_refusing(n, n, &made);
            ck_assert_msg(!made, "made without allocation %u", n);
            count_refusing(n, ~0u, &made);
            ck_assert_msg(!made, "made without those from %u on", n);
        }
    count_refusing(0, 0, &made);
    ck_assert(made);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("disasm");
    TCase *t = tcase_create("disasm");
    SRunner *r = srunner_create(s);
    int failed;
    tcase_add_loop_test(t, test_eval, 0, sizeof(evals) / sizeof(evals[0]));
    tcase_add_test(t, test_addresses);
    tcase_add_loop_test(t, test_search, 0, sizeof(searches) / sizeof(searches[0]));
    tcase_add_test(t, test_search_edges);
    tcase_add_test(t, test_search_large);
    tcase_add_test(t, test_one);
    tcase_add_test(t, test_before);
    tcase_add_test(t, test_no_memory);
    suite_add_tcase(s, t);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
