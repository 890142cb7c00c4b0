/* Any bytes as foreign machine code: decoding, the little evaluator, the searches.
 * The first two bytes say where in the code to begin. */
#include "fuzz.h"

#include <errno.h>

#include "target/disasm.h"

#define CODE_AT 0x400000u

static FILE *sink;
static struct disasm *disasm;
static struct fuzz_in code;

/* Nothing outside the code may be asked for in vain: it is simply not there. */
static int read_code(void *ctx, raddr_t at, void *ret_buf, size_t len)
{
    const struct fuzz_in *c = ctx;

    if (at < CODE_AT || at - CODE_AT > c->left || len > c->left - (at - CODE_AT))
        return -EFAULT;
    memcpy(ret_buf, c->at + (at - CODE_AT), len);
    return 0;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    sink = fopen("/dev/null", "w");
    disasm = disasm_new(read_code, &code);
    FUZZ_HOLDS(sink && disasm);
    return 0;
}

static bool is_syscall(raddr_t at)
{
    uint8_t b[2];

    return read_code(&code, at, b, 2) == 0 && b[0] == 0x0f && b[1] == 0x05;
}

static void search(void)
{
    raddr_t lo = CODE_AT, hi = CODE_AT + code.left, at;
    uint8_t next;

    if (disasm_find_syscall_ret(disasm, lo, hi, &at) == 0)
        FUZZ_HOLDS(is_syscall(at) && read_code(&code, at + 2, &next, 1) == 0);
    if (disasm_find_sigreturn(disasm, lo, hi, &at) == 0)
        FUZZ_HOLDS(at >= lo && (is_syscall(at + 5) || is_syscall(at + 7)));
    if (disasm_find_exit_gadget(disasm, lo, hi, &at) == 0)
        FUZZ_HOLDS(is_syscall(at));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_in in = {data, size};
    struct disasm_insn insn;
    struct disasm_value value;
    raddr_t found[8], start;

    start = CODE_AT + fuzz_u16(&in) % (in.left + 1);
    code = in;
    for (raddr_t at = start; disasm_one(disasm, at, &insn) == 0; at += insn.len)
        FUZZ_HOLDS(insn.len > 0 && insn.len <= 15 && memchr(insn.text, 0, sizeof(insn.text)));
    disasm_print(disasm, sink, start, 16, start);
    (void)!disasm_eval(disasm, start, &value);
    FUZZ_HOLDS(disasm_addresses(disasm, start, 24, found, 8) <= 8);
    search();
    return 0;
}
