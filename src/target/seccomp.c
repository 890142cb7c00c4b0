/* Classic BPF as seccomp runs it (kernel/seccomp.c, seccomp_check_filter says which
 * instructions there are; net/core/filter.c what they mean). */
#include "target/seccomp.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>

#define SECCOMP_FILTERS_MAX 256
#define SECCOMP_GET_FILTER 0x420c /* PTRACE_SECCOMP_GET_FILTER, 4.4 */

struct bpf {
    uint32_t a, x, mem[BPF_MEMWORDS];
};

/* One arithmetic instruction; false when it is none. */
static bool bpf_alu(struct bpf *m, const struct sock_filter *f)
{
    uint32_t v = BPF_SRC(f->code) == BPF_X ? m->x : f->k;
    switch (BPF_OP(f->code)) {
    case BPF_ADD: m->a += v; return true;
    case BPF_SUB: m->a -= v; return true;
    case BPF_MUL: m->a *= v; return true;
    case BPF_DIV: m->a = v ? m->a / v : 0; return v != 0;
    case BPF_AND: m->a &= v; return true;
    case BPF_OR: m->a |= v; return true;
    case BPF_XOR: m->a ^= v; return true;
    case BPF_LSH: m->a = v < 32 ? m->a << v : 0; return true;
    case BPF_RSH: m->a = v < 32 ? m->a >> v : 0; return true;
    case BPF_NEG: m->a = 0u - m->a; return true;
    default: return false;
    }
}

/* How far a jump goes, or -1. */
static long bpf_jump(const struct bpf *m, const struct sock_filter *f)
{
    uint32_t v = BPF_SRC(f->code) == BPF_X ? m->x : f->k;
    switch (BPF_OP(f->code)) {
    case BPF_JA: return (long)f->k;
    case BPF_JEQ: return m->a == v ? f->jt : f->jf;
    case BPF_JGT: return m->a > v ? f->jt : f->jf;
    case BPF_JGE: return m->a >= v ? f->jt : f->jf;
    case BPF_JSET: return m->a & v ? f->jt : f->jf;
    default: return -1;
    }
}

/* A load into a or x; false when it is out of bounds or of no known kind. */
static bool bpf_load(struct bpf *m, const struct sock_filter *f, const struct seccomp_data *d)
{
    uint32_t *to = BPF_CLASS(f->code) == BPF_LD ? &m->a : &m->x;
    switch (BPF_MODE(f->code)) {
    case BPF_IMM: *to = f->k; return true;
    case BPF_LEN: *to = sizeof *d; return true;
    case BPF_MEM: *to = f->k < BPF_MEMWORDS ? m->mem[f->k] : 0; return f->k < BPF_MEMWORDS;
    case BPF_ABS:
        if (f->k > sizeof *d - 4 || f->k % 4)
            return false;
        memcpy(to, (const char *)d + f->k, 4);
        return true;
    default: return false;
    }
}

uint32_t seccomp_eval(const struct sock_filter *prog, size_t len, long nr, const uint64_t args[6])
{
    struct bpf m = {0};
    struct seccomp_data d = {.nr = (int)nr, .arch = AUDIT_ARCH_X86_64};
    memcpy(d.args, args, sizeof d.args);
    for (size_t pc = 0; pc < len; pc++) {
        const struct sock_filter *f = &prog[pc];
        bool ok = true;
        long by = 0;
        switch (BPF_CLASS(f->code)) {
        case BPF_RET: return BPF_RVAL(f->code) == BPF_A ? m.a : f->k;
        case BPF_ALU: ok = bpf_alu(&m, f); break;
        case BPF_JMP: by = bpf_jump(&m, f); break;
        case BPF_LD:
        case BPF_LDX: ok = bpf_load(&m, f, &d); break;
        case BPF_ST:
        case BPF_STX:
            ok = f->k < BPF_MEMWORDS;
            if (ok)
                m.mem[f->k] = BPF_CLASS(f->code) == BPF_ST ? m.a : m.x;
            break;
        default: /* BPF_MISC */
            if (BPF_MISCOP(f->code) == BPF_TAX)
                m.x = m.a;
            else
                m.a = m.x;
        }
        if (!ok || by < 0)
            break;
        pc += (size_t)by; /* only forward: it ends */
    }
    return SECCOMP_RET_KILL_PROCESS;
}

static bool seccomp_allows(const struct sock_filter *prog, size_t len, const struct seccomp_call *c)
{
    static const uint64_t none[6];
    switch (seccomp_eval(prog, len, c->nr, none) & SECCOMP_RET_ACTION_FULL) {
    case SECCOMP_RET_ALLOW:
    case SECCOMP_RET_LOG: return true;
    case SECCOMP_RET_ERRNO: return c->optional;
    default: return false;
    }
}

int seccomp_check(struct tracee *t, const struct seccomp_call *calls, size_t count, const char **ret_name)
{
    static struct sock_filter prog[BPF_MAXINSNS];
    for (uintptr_t i = 0; i < SECCOMP_FILTERS_MAX; i++) {
        long n = ptrace((enum __ptrace_request)SECCOMP_GET_FILTER, t->tid, (void *)i, NULL);
        if (n < 0)
            return errno == ENOENT ? 0 : -errno; /* no such filter: all were seen */
        if (n > BPF_MAXINSNS || ptrace((enum __ptrace_request)SECCOMP_GET_FILTER, t->tid, (void *)i, prog) != n)
            return -EIO;
        for (size_t c = 0; c < count; c++)
            if (!seccomp_allows(prog, (size_t)n, &calls[c])) {
                *ret_name = calls[c].name;
                return 1;
            }
    }
    return -E2BIG;
}
