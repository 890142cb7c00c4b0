/* Any registers, stack and mappings of a stopped thread: the safe-point rule, and the
 * signal frame that would be made of them. */
#include "fuzz.h"

#include "inject/safepoint.h"
#include "target/remote.h"
#include "target/sigframe.h"

#define STACK_WORDS 64

static void judge(const struct inject_plan *p, struct fuzz_in *in)
{
    uint64_t stack[STACK_WORDS];
    struct safepoint_view v = {.stack = stack, .stack_words = fuzz_u8(in) % (STACK_WORDS + 1)};
    struct safepoint_answer a;
    unsigned char code[7];
    char words[64];

    v.after_syscall = fuzz_u8(in) & 1;
    v.r_state = fuzz_u8(in) & 3;
    v.unlocked = fuzz_u8(in) & 1;
    fuzz_take(in, stack, v.stack_words * sizeof(stack[0]));
    fuzz_take(in, &v.regs, sizeof(v.regs));
    a = safepoint_judge(p, &v);
    safepoint_describe(&a, words, sizeof(words));
    FUZZ_HOLDS(*words && memchr(words, 0, sizeof(words)));
    if (a.verdict == SAFEPOINT_STACK)
        FUZZ_HOLDS((a.word_at - v.regs.rsp) / 8 < v.stack_words && stack[(a.word_at - v.regs.rsp) / 8] == a.word);
    (void)safepoint_caller_retries(p, &v);
    (void)remote_restart_kind(&v.regs);
    fuzz_take(in, code, sizeof(code));
    (void)safepoint_is_return(code);
}

static void frame(struct fuzz_in *in)
{
    static struct sigframe f;
    struct user_regs_struct regs;
    uint8_t xstate[4096];
    uint16_t len = fuzz_u16(in) % (sizeof(xstate) + 1);

    fuzz_take(in, &regs, sizeof(regs));
    fuzz_take(in, xstate, len);
    if (sigframe_build(&f, &regs, 0, xstate, len, 0x1234) == 0)
        FUZZ_HOLDS(f.len <= sizeof(f.bytes) && f.at % 16 == 8 && f.at + f.len <= regs.rsp - 128);
}

static void rank(struct fuzz_in *in)
{
    struct proc_syscall sc = {.running = fuzz_u8(in) & 1, .nr = (int16_t)fuzz_u16(in)};
    struct maps m;
    raddr_t sp;
    int r = safepoint_rank(&sc, (char)fuzz_u8(in));

    FUZZ_HOLDS(r >= SAFEPOINT_PARKED && r <= SAFEPOINT_NEVER);
    fuzz_take(in, &sp, sizeof(sp));
    if (maps_parse(&m, (const char *)in->at, in->left) < 0)
        return;
    if (safepoint_own_stack(&m, sp, sp + 1))
        FUZZ_HOLDS(maps_at(&m, sp - 1) && maps_at(&m, sp - 1)->hi > sp - 1);
    if (safepoint_has_room(&m, sp, 4096))
        FUZZ_HOLDS(maps_at(&m, sp - 4096) && maps_at(&m, sp - 4096) == maps_at(&m, sp - 1));
    maps_release(&m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct inject_plan p;
    struct fuzz_in in = {data, size};
    unsigned kind = fuzz_u8(&in);

    p.unsafe_count = fuzz_u8(&in) % 5;
    p.retries_count = fuzz_u8(&in) % 3;
    p.single_arena = fuzz_u8(&in) & 1;
    for (unsigned i = 0; i < p.unsafe_count; i++) {
        p.unsafe[i] = (struct plan_range){.what = i & 1 ? "ld.so" : NULL, .stack_too = i & 1};
        fuzz_take(&in, &p.unsafe[i].lo, 8);
        fuzz_take(&in, &p.unsafe[i].hi, 8);
    }
    for (unsigned i = 0; i < p.retries_count; i++) {
        fuzz_take(&in, &p.retries[i].lo, 8);
        fuzz_take(&in, &p.retries[i].hi, 8);
    }
    if (kind % 3 == 0)
        judge(&p, &in);
    else if (kind % 3 == 1)
        frame(&in);
    else
        rank(&in);
    return 0;
}
