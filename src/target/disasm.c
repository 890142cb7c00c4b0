/* Decoding with capstone; a small machine that follows straight-line code.
 *
 * The machine knows a value for a register or it does not. Whatever it has not
 * been taught ends the walk: a wrong guess about foreign code is worse than none. */
#include "target/disasm.h"

#include <capstone/capstone.h>
#include <errno.h>
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>

#include "target/mem.h"

enum {
    INSN_MAX = 15,      /* longest x86 instruction */
    EVAL_STEPS = 64,    /* accessors are far shorter */
    GADGET_STEPS = 8,
    TEXT_CHUNK = 1 << 20,
    /* A libc has some 600 system calls in 2 MiB. One made up of nothing else must not keep us for hours. */
    TEXT_MAX = 64 << 20,
    SYSCALLS_MAX = 1 << 14,
    SPARE_SIZE = 64 << 10 /* capstone 4.0.2 takes 20 KiB in all */
};

struct disasm {
    csh cs;
    cs_insn *insn; /* reused */
    disasm_read_fn read;
    void *ctx;
};

/* --- capstone's memory ------------------------------------------------------ *
 * It writes to what malloc gives it without a look, in cs_open and in its first decoding
 * (4.0.2: X86_global_init, make_id2insn). Where malloc gives nothing it has some of ours,
 * and what was made of that is given up, but for its table of instructions, which stays where it
 * is: there is room for three such ends, and a launcher's first is its last. One thread uses capstone. */

static struct {
    alignas(max_align_t) char room[SPARE_SIZE];
    size_t used;
    unsigned blocks; /* not given back */
    bool lent;
} spare;

static void *spare_lend(size_t size)
{
    void *p = spare.room + spare.used;
    size = (size + alignof(max_align_t) - 1) / alignof(max_align_t) * alignof(max_align_t);
    spare.lent = true;
    if (size > SPARE_SIZE - spare.used)
        return NULL;
    spare.used += size;
    spare.blocks++;
    return p;
}

static bool is_spare(const void *p)
{
    return (uintptr_t)p - (uintptr_t)spare.room < SPARE_SIZE;
}

static void *capstone_malloc(size_t size)
{
    void *p = malloc(size);
    return p ? p : spare_lend(size);
}

static void *capstone_calloc(size_t n, size_t size)
{
    void *p = calloc(n, size);
    if (!p && (p = spare_lend(n * size)))
        memset(p, 0, n * size);
    return p;
}

static void *capstone_realloc(void *p, size_t size)
{
    return is_spare(p) ? NULL : realloc(p, size);
}

static void capstone_free(void *p)
{
    if (!is_spare(p))
        free(p);
    else if (--spare.blocks == 0)
        spare.used = 0;
}

/* Has all made that is made only once, by decoding something. */
static int capstone_open(struct disasm *d)
{
    static const cs_opt_mem memory = {capstone_malloc, capstone_calloc, capstone_realloc, capstone_free, vsnprintf};
    static const uint8_t nop = 0x90;
    const uint8_t *code = &nop;
    size_t size = sizeof(nop);
    uint64_t at = 0;
    spare.lent = false;
    cs_option(0, CS_OPT_MEM, (size_t)&memory);
    if (cs_open(CS_ARCH_X86, CS_MODE_64, &d->cs) != CS_ERR_OK)
        return -ENOMEM;
    cs_option(d->cs, CS_OPT_DETAIL, CS_OPT_ON);
    d->insn = cs_malloc(d->cs);
    if (!d->insn || !cs_disasm_iter(d->cs, &code, &size, &at, d->insn))
        return -ENOMEM;
    return spare.lent ? -ENOMEM : 0;
}

struct disasm *disasm_new(disasm_read_fn read, void *ctx)
{
    struct disasm *d = calloc(1, sizeof(*d));
    if (!d)
        return NULL;
    d->read = read;
    d->ctx = ctx;
    if (capstone_open(d) < 0) {
        disasm_free(d);
        return NULL;
    }
    return d;
}

void disasm_free(struct disasm *d)
{
    if (!d)
        return;
    if (d->insn)
        cs_free(d->insn, 1);
    if (d->cs)
        cs_close(&d->cs);
    free(d);
}

int disasm_read_pid(void *pid, raddr_t at, void *ret_buf, size_t len)
{
    return mem_read(*(const pid_t *)pid, at, ret_buf, len);
}

/* Decodes at `at` into d->insn. Text may end within 15 bytes, so fewer are tried. */
static int decode(struct disasm *d, raddr_t at)
{
    uint8_t bytes[INSN_MAX];
    const uint8_t *code = bytes;
    size_t size = INSN_MAX, left;
    uint64_t addr = at;
    int r = d->read(d->ctx, at, bytes, size);
    if (r == -EFAULT) { /* the page ends: take what is on it */
        left = 4096 - at % 4096;
        if (left >= INSN_MAX)
            return r;
        size = left;
        r = d->read(d->ctx, at, bytes, size);
    }
    if (r < 0)
        return r;
    return cs_disasm_iter(d->cs, &code, &size, &addr, d->insn) ? 0 : -EILSEQ;
}

static bool in_group(const struct disasm *d, uint8_t group)
{
    return cs_insn_group(d->cs, d->insn, group);
}

int disasm_one(struct disasm *d, raddr_t at, struct disasm_insn *ret)
{
    int r = decode(d, at);
    if (r < 0)
        return r;
    *ret = (struct disasm_insn){
        .len = d->insn->size,
        .is_syscall = d->insn->id == X86_INS_SYSCALL,
        .is_ret = in_group(d, CS_GRP_RET),
        .is_call = in_group(d, CS_GRP_CALL),
        .is_jump = in_group(d, CS_GRP_JUMP),
    };
    snprintf(ret->text, sizeof(ret->text), "%s %s", d->insn->mnemonic, d->insn->op_str);
    return 0;
}

void disasm_print(struct disasm *d, FILE *out, raddr_t at, unsigned count, raddr_t pc)
{
    struct disasm_insn in;
    while (count--) {
        bool known = disasm_one(d, at, &in) == 0;
        fprintf(out, "  %s %#14lx  %s\n", at == pc ? "=>" : "  ", (unsigned long)at, known ? in.text : "(not decoded)");
        if (!known)
            break;
        at += in.len;
    }
}

raddr_t disasm_before(struct disasm *d, raddr_t pc, unsigned back)
{
    struct disasm_insn in;
    for (raddr_t from = pc > back ? pc - back : 0; from < pc; from++) {
        raddr_t at = from;
        while (at < pc && disasm_one(d, at, &in) == 0)
            at += in.len;
        if (at == pc)
            return from;
    }
    return pc;
}

/* --- the machine ---------------------------------------------------------- */

enum { REG_COUNT = 16, REG_NONE = -1 };

/* Names of one register by width: 8, 4, 2, 1 bytes. */
static const x86_reg reg_names[REG_COUNT][4] = {
    {X86_REG_RAX, X86_REG_EAX, X86_REG_AX, X86_REG_AL},     {X86_REG_RCX, X86_REG_ECX, X86_REG_CX, X86_REG_CL},
    {X86_REG_RDX, X86_REG_EDX, X86_REG_DX, X86_REG_DL},     {X86_REG_RBX, X86_REG_EBX, X86_REG_BX, X86_REG_BL},
    {X86_REG_RSP, X86_REG_ESP, X86_REG_SP, X86_REG_SPL},    {X86_REG_RBP, X86_REG_EBP, X86_REG_BP, X86_REG_BPL},
    {X86_REG_RSI, X86_REG_ESI, X86_REG_SI, X86_REG_SIL},    {X86_REG_RDI, X86_REG_EDI, X86_REG_DI, X86_REG_DIL},
    {X86_REG_R8, X86_REG_R8D, X86_REG_R8W, X86_REG_R8B},    {X86_REG_R9, X86_REG_R9D, X86_REG_R9W, X86_REG_R9B},
    {X86_REG_R10, X86_REG_R10D, X86_REG_R10W, X86_REG_R10B}, {X86_REG_R11, X86_REG_R11D, X86_REG_R11W, X86_REG_R11B},
    {X86_REG_R12, X86_REG_R12D, X86_REG_R12W, X86_REG_R12B}, {X86_REG_R13, X86_REG_R13D, X86_REG_R13W, X86_REG_R13B},
    {X86_REG_R14, X86_REG_R14D, X86_REG_R14W, X86_REG_R14B}, {X86_REG_R15, X86_REG_R15D, X86_REG_R15W, X86_REG_R15B},
};
enum { RAX = 0, RCX = 1, RDX = 2, RBX = 3, RBP = 5, R8 = 8, R9 = 9, R10 = 10, R12 = 12, R15 = 15 };

struct cell {
    bool known, tp;   /* tp: relative to the thread pointer */
    unsigned low;     /* when not known: this many low bytes of v are */
    uint64_t v;
};

struct machine {
    struct cell reg[REG_COUNT];
    bool zf_known, zf;
    bool may_load;      /* memory may be read */
    raddr_t next;       /* where execution goes on */
    raddr_t loaded_from;
};

enum step { STEP_NEXT, STEP_RET, STEP_SYSCALL, STEP_UNKNOWN };

static int reg_index(x86_reg reg)
{
    int i, w;
    for (i = 0; i < REG_COUNT; i++)
        for (w = 0; w < 4; w++)
            if (reg_names[i][w] == reg)
                return i;
    return REG_NONE;
}

static struct cell truncate_to(struct cell c, unsigned size)
{
    if (size < 8) {
        if (c.tp)
            c.known = c.tp = false;
        c.v &= (1ull << (8 * size)) - 1;
    }
    return c;
}

/* A write of 4 bytes clears the upper half, one of 1 or 2 keeps the rest. */
static bool reg_set(struct machine *m, const cs_x86_op *op, struct cell c)
{
    int i = reg_index(op->reg);
    uint64_t low;
    if (i == REG_NONE)
        return false;
    c = truncate_to(c, op->size);
    if (op->size < 4) {
        low = (1ull << (8 * op->size)) - 1;
        c.low = c.known ? op->size : 0;
        c.known = c.known && m->reg[i].known && !m->reg[i].tp;
        c.v = (m->reg[i].v & ~low) | c.v;
    }
    m->reg[i] = c;
    return true;
}

static struct cell constant(uint64_t v) { return (struct cell){.known = true, .v = v}; }

static struct cell add(struct cell a, struct cell b)
{
    struct cell c = {.known = a.known && b.known && !(a.tp && b.tp), .tp = a.tp || b.tp, .v = a.v + b.v};
    return c;
}

/* Address of a memory operand as base + index * scale + disp, segment apart. */
static struct cell mem_address(const struct machine *m, const cs_x86_op *op)
{
    struct cell a = constant((uint64_t)op->mem.disp);
    int i;
    if (op->mem.base == X86_REG_RIP)
        a = add(a, constant(m->next));
    else if (op->mem.base != X86_REG_INVALID)
        a = (i = reg_index(op->mem.base)) == REG_NONE ? (struct cell){0} : add(a, m->reg[i]);
    if (op->mem.index != X86_REG_INVALID) {
        i = reg_index(op->mem.index);
        if (i == REG_NONE || m->reg[i].tp)
            return (struct cell){0};
        a = add(a, (struct cell){.known = m->reg[i].known, .v = m->reg[i].v * (uint64_t)op->mem.scale});
    }
    return a;
}

/* The value of an operand. false: not to be had, the walk ends. */
static bool op_get(struct disasm *d, struct machine *m, const cs_x86_op *op, struct cell *ret)
{
    struct cell at;
    uint64_t v = 0;
    int i;
    switch (op->type) {
    case X86_OP_IMM:
        *ret = constant((uint64_t)op->imm);
        return true;
    case X86_OP_REG:
        i = reg_index(op->reg);
        if (i == REG_NONE)
            return false;
        *ret = truncate_to(m->reg[i], op->size);
        ret->known |= m->reg[i].low >= op->size;
        return true;
    case X86_OP_MEM:
        at = mem_address(m, op);
        if (!m->may_load || !at.known || at.tp || op->size > 8 || !op->size)
            return false;
        if (op->mem.segment == X86_REG_FS) { /* %fs:0 holds its own address (x86-64 ABI, TLS variant II) */
            *ret = (struct cell){.known = true, .tp = true};
            return at.v == 0 && op->size == 8;
        }
        if (op->mem.segment != X86_REG_INVALID || d->read(d->ctx, at.v, &v, op->size) < 0)
            return false;
        m->loaded_from = at.v;
        *ret = constant(v);
        return true;
    default:
        return false;
    }
}

static uint64_t sign_extend(uint64_t v, unsigned size)
{
    unsigned shift = 64 - 8 * size;
    return size < 8 ? (uint64_t)((int64_t)(v << shift) >> shift) : v;
}

static bool do_move(struct disasm *d, struct machine *m, const cs_x86 *x, bool sign)
{
    struct cell c;
    if (x->op_count != 2 || x->operands[0].type != X86_OP_REG || !op_get(d, m, &x->operands[1], &c))
        return false;
    if (sign && c.known)
        c.v = sign_extend(c.v, x->operands[1].size);
    return reg_set(m, &x->operands[0], c);
}

static bool do_lea(struct machine *m, const cs_x86 *x)
{
    return x->op_count == 2 && x->operands[0].type == X86_OP_REG && x->operands[1].type == X86_OP_MEM &&
           reg_set(m, &x->operands[0], mem_address(m, &x->operands[1]));
}

static bool do_add(struct disasm *d, struct machine *m, const cs_x86 *x)
{
    struct cell a, b;
    m->zf_known = false;
    return x->op_count == 2 && x->operands[0].type == X86_OP_REG && op_get(d, m, &x->operands[0], &a) &&
           op_get(d, m, &x->operands[1], &b) && reg_set(m, &x->operands[0], add(a, b));
}

/* Only the idiom that clears a register is worth knowing; else the value is lost. */
static bool do_xor(struct machine *m, const cs_x86 *x)
{
    const cs_x86_op *a = &x->operands[0], *b = &x->operands[1];
    bool same;
    if (x->op_count != 2 || a->type != X86_OP_REG || b->type != X86_OP_REG)
        return false;
    same = a->reg == b->reg;
    m->zf_known = m->zf = same;
    return reg_set(m, a, same ? constant(0) : (struct cell){0});
}

/* test a,b and cmp a,b: only the zero flag is kept. */
static bool do_compare(struct disasm *d, struct machine *m, const cs_x86 *x, bool is_test)
{
    struct cell a, b;
    uint64_t mask;
    if (x->op_count != 2 || !op_get(d, m, &x->operands[0], &a) || !op_get(d, m, &x->operands[1], &b))
        return false;
    mask = x->operands[0].size < 8 ? (1ull << (8 * x->operands[0].size)) - 1 : ~0ull;
    m->zf_known = a.known && b.known && !a.tp && !b.tp;
    m->zf = is_test ? !(a.v & b.v & mask) : !((a.v ^ b.v) & mask);
    return true;
}

static bool do_set(struct machine *m, const cs_x86 *x, bool on_zero)
{
    struct cell c = {.known = m->zf_known, .v = m->zf == on_zero};
    return x->op_count == 1 && x->operands[0].type == X86_OP_REG && reg_set(m, &x->operands[0], c);
}

static bool do_jump(struct machine *m, const cs_x86 *x)
{
    if (x->op_count != 1 || x->operands[0].type != X86_OP_IMM)
        return false;
    m->next = (raddr_t)x->operands[0].imm;
    return true;
}

/* push keeps nothing that matters; pop loses what the register held. */
static bool do_stack(struct machine *m, const cs_x86 *x, bool is_pop)
{
    if (!m->may_load || x->op_count != 1 || x->operands[0].type != X86_OP_REG)
        return false;
    return !is_pop || reg_set(m, &x->operands[0], (struct cell){0});
}

static enum step step(struct disasm *d, struct machine *m)
{
    const cs_x86 *x;
    bool ok;
    if (decode(d, m->next) < 0)
        return STEP_UNKNOWN;
    x = &d->insn->detail->x86;
    m->next += d->insn->size;
    switch (d->insn->id) {
    case X86_INS_NOP: case X86_INS_ENDBR64: ok = true; break;
    case X86_INS_MOV: case X86_INS_MOVABS: case X86_INS_MOVZX: ok = do_move(d, m, x, false); break;
    case X86_INS_MOVSX: case X86_INS_MOVSXD: ok = do_move(d, m, x, true); break;
    case X86_INS_LEA: ok = do_lea(m, x); break;
    case X86_INS_ADD: ok = do_add(d, m, x); break;
    case X86_INS_XOR: ok = do_xor(m, x); break;
    case X86_INS_TEST: ok = do_compare(d, m, x, true); break;
    case X86_INS_CMP: ok = do_compare(d, m, x, false); break;
    case X86_INS_SETE: ok = do_set(m, x, true); break;
    case X86_INS_SETNE: ok = do_set(m, x, false); break;
    case X86_INS_JMP: ok = do_jump(m, x); break;
    case X86_INS_PUSH: ok = do_stack(m, x, false); break;
    case X86_INS_POP: ok = do_stack(m, x, true); break;
    case X86_INS_RET: return STEP_RET;
    case X86_INS_SYSCALL: return STEP_SYSCALL;
    default: ok = false; break;
    }
    return ok ? STEP_NEXT : STEP_UNKNOWN;
}

int disasm_eval(struct disasm *d, raddr_t function, struct disasm_value *ret)
{
    struct machine m = {.may_load = true, .next = function};
    unsigned i;
    for (i = 0; i < EVAL_STEPS; i++) {
        enum step s = step(d, &m);
        if (s == STEP_NEXT)
            continue;
        if (s != STEP_RET || !m.reg[RAX].known)
            return -ENOTSUP;
        *ret = (struct disasm_value){m.reg[RAX].v, m.reg[RAX].tp, m.loaded_from};
        return 0;
    }
    return -ENOTSUP;
}

size_t disasm_addresses(struct disasm *d, raddr_t function, unsigned insns, raddr_t *ret, size_t max)
{
    size_t n = 0;
    raddr_t at = function;
    while (insns-- && n < max && decode(d, at) == 0) {
        const cs_x86 *x = &d->insn->detail->x86;
        const cs_x86_op *src = &x->operands[1];
        at += d->insn->size;
        if (x->op_count != 2)
            continue;
        if (d->insn->id == X86_INS_LEA && src->mem.base == X86_REG_RIP)
            ret[n++] = at + (uint64_t)src->mem.disp;
        else if (d->insn->id == X86_INS_MOV && src->type == X86_OP_IMM && (uint64_t)src->imm >= 4096)
            ret[n++] = (raddr_t)src->imm; /* non-PIE code names its data by absolute address */
    }
    return n;
}

/* --- searches ------------------------------------------------------------- */

typedef bool (*accept_fn)(struct disasm *d, raddr_t at, raddr_t *ret);

/* Calls accept on every `syscall` (0f 05) in [lo, hi) until it takes one. */
static int each_syscall(struct disasm *d, raddr_t lo, raddr_t hi, accept_fn accept, raddr_t *ret)
{
    size_t chunk = lo < hi && hi - lo < TEXT_CHUNK ? (size_t)(hi - lo) : TEXT_CHUNK;
    uint8_t *buf = malloc(chunk);
    unsigned seen = 0;
    int r = -ENOENT;
    if (lo < hi && hi - lo > TEXT_MAX)
        hi = lo + TEXT_MAX;
    if (!buf)
        return -ENOMEM;
    while (r == -ENOENT && seen <= SYSCALLS_MAX && lo < hi && hi - lo >= 2) {
        size_t len = hi - lo < chunk ? (size_t)(hi - lo) : chunk;
        const uint8_t *at = buf, *end = buf + len;
        int err = d->read(d->ctx, lo, buf, len);
        if (err < 0) {
            r = err;
            break;
        }
        while (r < 0 && seen++ < SYSCALLS_MAX && (at = memmem(at, (size_t)(end - at), "\x0f\x05", 2))) {
            if (accept(d, lo + (raddr_t)(at - buf), ret))
                r = 0;
            at++;
        }
        if (lo + len == hi)
            break;
        lo += len - 1; /* one byte again, so that no pair is cut in two */
    }
    free(buf);
    return r;
}

static bool accept_syscall_ret(struct disasm *d, raddr_t at, raddr_t *ret)
{
    if (decode(d, at + 2) < 0 || d->insn->id != X86_INS_RET)
        return false;
    *ret = at;
    return true;
}

int disasm_find_syscall_ret(struct disasm *d, raddr_t lo, raddr_t hi, raddr_t *ret)
{
    return each_syscall(d, lo, hi, accept_syscall_ret, ret);
}

/* `mov $15` before the syscall is 7 bytes with a REX prefix, 5 without. */
static bool accept_sigreturn(struct disasm *d, raddr_t at, raddr_t *ret)
{
    static const unsigned lengths[] = {7, 5};
    unsigned i;
    for (i = 0; i < 2; i++) {
        struct machine m = {.next = at - lengths[i]};
        if (step(d, &m) != STEP_NEXT || m.next != at)
            continue;
        if (m.reg[RAX].known && m.reg[RAX].v == SYS_rt_sigreturn) {
            *ret = at - lengths[i];
            return true;
        }
    }
    return false;
}

int disasm_find_sigreturn(struct disasm *d, raddr_t lo, raddr_t hi, raddr_t *ret)
{
    return each_syscall(d, lo, hi, accept_sigreturn, ret);
}

static bool accept_exit_gadget(struct disasm *d, raddr_t at, raddr_t *ret)
{
    static const int holds_exit[] = {RDX, RBX, RBP, R8, R9, R10, R12, R12 + 1, R12 + 2, R15};
    struct machine m = {.next = at + 2};
    unsigned i;
    for (i = 0; i < sizeof(holds_exit) / sizeof(holds_exit[0]); i++)
        m.reg[holds_exit[i]] = constant(SYS_exit);
    for (i = 0; i < GADGET_STEPS; i++) {
        enum step s = step(d, &m);
        if (s == STEP_NEXT)
            continue;
        if (s != STEP_SYSCALL || !m.reg[RAX].known || m.reg[RAX].v != SYS_exit)
            return false;
        *ret = at;
        return true;
    }
    return false;
}

int disasm_find_exit_gadget(struct disasm *d, raddr_t lo, raddr_t hi, raddr_t *ret)
{
    return each_syscall(d, lo, hi, accept_exit_gadget, ret);
}
