/* Classic BPF as seccomp runs it (kernel/seccomp.c, seccomp_check_filter says which
 * instructions there are; net/core/filter.c what they mean), over values of which some
 * are not known. Jumps only go forward, so one pass over the program is enough: each
 * instruction has the state in which it is reached, joined from all that lead there. */
#include "target/seccomp.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>

#define SECCOMP_FILTERS_MAX 256
#define SECCOMP_GET_FILTER 0x420c /* PTRACE_SECCOMP_GET_FILTER, 4.4 */

struct value {
    uint32_t v;
    bool known;
};

struct bpf {
    bool reached;
    struct value a, x, mem[BPF_MEMWORDS];
};

/* Where a jump may lead. */
struct jump {
    uint32_t to[2];
    int ways; /* 0: it is none */
};

static const struct value anything = {0, false};

static struct value literal(uint32_t v)
{
    return (struct value){v, true};
}

static struct value either(struct value p, struct value q)
{
    return p.known && q.known && p.v == q.v ? p : anything;
}

static struct value bpf_operand(const struct bpf *m, const struct sock_filter *f)
{
    return BPF_SRC(f->code) == BPF_X ? m->x : literal(f->k);
}

/* One arithmetic instruction; false when it is none, or may divide by 0. */
static bool bpf_alu(struct bpf *m, const struct sock_filter *f)
{
    struct value by = bpf_operand(m, f);
    uint32_t v = by.v, *a = &m->a.v;

    if (BPF_OP(f->code) == BPF_DIV && (!by.known || !v))
        return false;
    if (BPF_OP(f->code) != BPF_NEG)
        m->a.known = (m->a.known && by.known) || (BPF_OP(f->code) == BPF_AND && ((by.known && !v) || (m->a.known && !*a)));
    switch (BPF_OP(f->code)) {
    case BPF_ADD: *a += v; return true;
    case BPF_SUB: *a -= v; return true;
    case BPF_MUL: *a *= v; return true;
    case BPF_DIV: *a /= v; return true;
    case BPF_AND: *a &= v; return true;
    case BPF_OR: *a |= v; return true;
    case BPF_XOR: *a ^= v; return true;
    case BPF_LSH: *a = v < 32 ? *a << v : 0; return true;
    case BPF_RSH: *a = v < 32 ? *a >> v : 0; return true;
    case BPF_NEG: *a = 0u - *a; return true;
    default: return false;
    }
}

static struct jump bpf_jump(const struct bpf *m, const struct sock_filter *f)
{
    struct value v = bpf_operand(m, f);
    bool yes;

    switch (BPF_OP(f->code)) {
    case BPF_JA: return (struct jump){{f->k}, 1};
    case BPF_JEQ: yes = m->a.v == v.v; break;
    case BPF_JGT: yes = m->a.v > v.v; break;
    case BPF_JGE: yes = m->a.v >= v.v; break;
    case BPF_JSET: yes = m->a.v & v.v; break;
    default: return (struct jump){{0}, 0};
    }
    if (m->a.known && v.known)
        return (struct jump){{yes ? f->jt : f->jf}, 1};
    return (struct jump){{f->jt, f->jf}, 2};
}

/* The word of struct seccomp_data at this offset. */
static struct value data_word(const struct seccomp_call *c, uint32_t at)
{
    uint32_t arg = (at - offsetof(struct seccomp_data, args)) / 8;

    if (at == offsetof(struct seccomp_data, nr))
        return literal((uint32_t)c->nr);
    if (at == offsetof(struct seccomp_data, arch))
        return literal(AUDIT_ARCH_X86_64);
    if (at < offsetof(struct seccomp_data, args) || !(c->known & 1u << arg))
        return anything;
    return literal((uint32_t)(c->args[arg] >> (at % 8 ? 32 : 0)));
}

/* A load into a or x; false when it is out of bounds or of no known kind. */
static bool bpf_load(struct bpf *m, const struct sock_filter *f, const struct seccomp_call *c)
{
    struct value *to = BPF_CLASS(f->code) == BPF_LD ? &m->a : &m->x;

    switch (BPF_MODE(f->code)) {
    case BPF_IMM: *to = literal(f->k); return true;
    case BPF_LEN: *to = literal(sizeof(struct seccomp_data)); return true;
    case BPF_MEM: *to = f->k < BPF_MEMWORDS ? m->mem[f->k] : anything; return f->k < BPF_MEMWORDS;
    case BPF_ABS:
        if (f->k > sizeof(struct seccomp_data) - 4 || f->k % 4)
            return false;
        *to = data_word(c, f->k);
        return true;
    default: return false;
    }
}

/* What is neither a jump nor a return. */
static bool bpf_step(struct bpf *m, const struct sock_filter *f, const struct seccomp_call *c)
{
    switch (BPF_CLASS(f->code)) {
    case BPF_ALU: return bpf_alu(m, f);
    case BPF_LD:
    case BPF_LDX: return bpf_load(m, f, c);
    case BPF_ST:
    case BPF_STX:
        if (f->k < BPF_MEMWORDS)
            m->mem[f->k] = BPF_CLASS(f->code) == BPF_ST ? m->a : m->x;
        return f->k < BPF_MEMWORDS;
    default: /* BPF_MISC */
        if (BPF_MISCOP(f->code) == BPF_TAX)
            m->x = m->a;
        else
            m->a = m->x;
        return true;
    }
}

static void bpf_join(struct bpf *to, const struct bpf *m)
{
    if (!to->reached) {
        *to = *m;
        return;
    }
    to->a = either(to->a, m->a);
    to->x = either(to->x, m->x);
    for (int i = 0; i < BPF_MEMWORDS; i++)
        to->mem[i] = either(to->mem[i], m->mem[i]);
}

static int severity(uint32_t action)
{
    switch (action & SECCOMP_RET_ACTION_FULL) {
    case SECCOMP_RET_ALLOW:
    case SECCOMP_RET_LOG: return 0;
    case SECCOMP_RET_ERRNO: return 1;
    default: return 2;
    }
}

uint32_t seccomp_worst(const struct sock_filter *prog, size_t len, const struct seccomp_call *c)
{
    static struct bpf at[BPF_MAXINSNS];
    uint32_t worst = SECCOMP_RET_ALLOW;

    if (len == 0 || len > BPF_MAXINSNS)
        return SECCOMP_RET_KILL_PROCESS;
    for (size_t pc = 0; pc < len; pc++)
        at[pc].reached = false;
    at[0] = (struct bpf){.reached = true, .a = literal(0), .x = literal(0)};
    for (size_t pc = 0; pc < len; pc++) {
        const struct sock_filter *f = &prog[pc];
        struct jump next = {{0}, 1};

        if (!at[pc].reached)
            continue;
        if (BPF_CLASS(f->code) == BPF_RET) {
            struct value v = BPF_RVAL(f->code) == BPF_A ? at[pc].a : literal(f->k);
            uint32_t action = v.known ? v.v : SECCOMP_RET_KILL_PROCESS;

            if (severity(action) >= severity(worst))
                worst = action;
            continue;
        }
        if (BPF_CLASS(f->code) == BPF_JMP)
            next = bpf_jump(&at[pc], f);
        else if (!bpf_step(&at[pc], f, c))
            next.ways = 0;
        if (!next.ways)
            return SECCOMP_RET_KILL_PROCESS;
        for (int way = 0; way < next.ways; way++) {
            if (next.to[way] >= len - pc - 1)
                return SECCOMP_RET_KILL_PROCESS;
            bpf_join(&at[pc + 1 + next.to[way]], &at[pc]);
        }
    }
    return worst;
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
            if (severity(seccomp_worst(prog, (size_t)n, &calls[c])) > calls[c].optional) {
                *ret_name = calls[c].name;
                return 1;
            }
    }
    return -E2BIG;
}
