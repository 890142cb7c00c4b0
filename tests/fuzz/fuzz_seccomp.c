/* Any bytes as a seccomp program, for a call of which some arguments are known: whatever
 * the others are, the program's answer is no worse than what was foretold. */
#include "fuzz.h"

#include <linux/seccomp.h>

#include "target/seccomp.h"

#define TRIES 4

static int badness(uint32_t action)
{
    action &= SECCOMP_RET_ACTION_FULL;
    return action == SECCOMP_RET_ALLOW || action == SECCOMP_RET_LOG ? 0 : action == SECCOMP_RET_ERRNO ? 1 : 2;
}

/* Bytes of the fuzzer's are seldom an instruction: so some of each are made one. */
static void likely(struct sock_filter *f)
{
    static const uint16_t codes[] = {
        BPF_LD | BPF_W | BPF_ABS, BPF_LD | BPF_IMM, BPF_LD | BPF_MEM, BPF_ST, BPF_STX, BPF_LDX | BPF_MEM, BPF_MISC | BPF_TAX,
        BPF_MISC | BPF_TXA, BPF_ALU | BPF_AND | BPF_K, BPF_ALU | BPF_ADD | BPF_X, BPF_ALU | BPF_RSH | BPF_K, BPF_JMP | BPF_JEQ | BPF_K,
        BPF_JMP | BPF_JSET | BPF_K, BPF_JMP | BPF_JGT | BPF_X, BPF_JMP | BPF_JGE | BPF_K, BPF_JMP | BPF_JA, BPF_RET | BPF_K,
        BPF_RET | BPF_A,
    };

    if (!(f->code & 0x8000))
        return;
    f->code = codes[f->code % (sizeof(codes) / sizeof(codes[0]))];
    if (f->code == (BPF_LD | BPF_W | BPF_ABS))
        f->k = f->k % 16 * 4;
    else if (BPF_MODE(f->code) == BPF_MEM || BPF_CLASS(f->code) == BPF_ST || BPF_CLASS(f->code) == BPF_STX)
        f->k %= BPF_MEMWORDS;
    else if (f->code == (BPF_JMP | BPF_JA))
        f->k %= 4;
    else if (f->code == (BPF_RET | BPF_K))
        f->k = (const uint32_t[]){SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_TRAP, SECCOMP_RET_LOG}[f->k % 4];
    f->jt %= 8;
    f->jf %= 8;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct sock_filter prog[256];
    struct fuzz_in in = {data, size};
    struct seccomp_call c = {.nr = fuzz_u8(&in), .known = fuzz_u8(&in) & 0x3f}, exact;
    uint64_t other[TRIES][6];
    size_t n;
    int worst;

    fuzz_take(&in, c.args, sizeof(c.args));
    fuzz_take(&in, other, sizeof(other));
    n = fuzz_take(&in, prog, sizeof(prog)) / sizeof(prog[0]);
    for (size_t i = 0; i < n; i++)
        likely(&prog[i]);
    worst = badness(seccomp_worst(prog, n, &c));
    for (int t = 0; t < TRIES; t++) {
        exact = c;
        exact.known = 0x3f;
        for (int i = 0; i < 6; i++)
            if (!(c.known & 1 << i))
                exact.args[i] = other[t][i];
        FUZZ_HOLDS(badness(seccomp_worst(prog, n, &exact)) <= worst);
    }
    return 0;
}
