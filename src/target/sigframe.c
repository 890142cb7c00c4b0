/* rt_sigframe by hand. Layouts: arch/x86/include/uapi/asm/sigcontext.h and
 * ucontext.h; the checks that the kernel makes on the way back:
 * arch/x86/kernel/fpu/signal.c, check_xstate_in_sigframe. */
#include "target/sigframe.h"

#include <assert.h>
#include <cpuid.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#define SIGFRAME_RED_ZONE 128u

#define SIGFRAME_FXSAVE 512u
#define SIGFRAME_XHEADER 64u
#define SIGFRAME_SW 464u /* struct _fpx_sw_bytes, the last 48 bytes of the fxsave area */
#define SIGFRAME_MAGIC1 0x46505853u
#define SIGFRAME_MAGIC2 0x46505845u
#define SIGFRAME_XTILEDATA (1ull << 18) /* AMX: state that a task must ask for (5.16) */

#define SIGFRAME_UC_FP_XSTATE 1u
#define SIGFRAME_UC_SIGCONTEXT_SS 2u
#define SIGFRAME_UC_STRICT_RESTORE_SS 4u

/* do_sigaltstack refuses this mode with EINVAL, which restore_altstack drops:
 * the thread's alternate stack, which ptrace can't read, stays as it is. */
#define SIGFRAME_ALTSTACK_KEEP 4

struct sigframe_sw {
    uint32_t magic1, extended_size;
    uint64_t xfeatures;
    uint32_t xstate_size, padding[7];
};
_Static_assert(sizeof(struct sigframe_sw) == 48, "struct _fpx_sw_bytes");

struct sigframe_uc {
    uint64_t flags, link;
    struct {
        uint64_t sp;
        int32_t flags, pad;
        uint64_t size;
    } altstack;
    uint64_t r8, r9, r10, r11, r12, r13, r14, r15, di, si, bp, bx, dx, ax, cx, sp, ip, eflags;
    uint16_t cs, gs, fs, ss;
    uint64_t err, trapno, oldmask, cr2, fpstate, reserved[8];
    uint64_t sigmask;
};
_Static_assert(offsetof(struct sigframe_uc, r8) == 40, "struct ucontext");
_Static_assert(offsetof(struct sigframe_uc, sigmask) == 296, "struct sigcontext");

struct sigframe_rt {
    uint64_t pretcode;
    struct sigframe_uc uc;
    unsigned char siginfo[128];
};

/* Where each feature ends in the standard format. Asked once, since under a
 * hypervisor every CPUID is a trap of microseconds. */
static uint32_t sigframe_end[63];
static uint64_t sigframe_features; /* those in force here (XCR0) */
static pthread_once_t sigframe_once = PTHREAD_ONCE_INIT;

static void sigframe_ask(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid_count(0xd, 0, &a, &b, &c, &d))
        return;
    sigframe_features = (uint64_t)d << 32 | a;
    for (unsigned i = 2; i < 63; i++)
        if ((sigframe_features >> i & 1) && __get_cpuid_count(0xd, i, &a, &b, &c, &d))
            sigframe_end[i] = a + b;
}

/* Bytes of the standard format up to the end of the last of these features. */
static size_t sigframe_xsize(uint64_t features)
{
    size_t size = SIGFRAME_FXSAVE + SIGFRAME_XHEADER;
    pthread_once(&sigframe_once, sigframe_ask);
    for (unsigned i = 2; i < 63; i++)
        if ((features >> i & 1) && sigframe_end[i] > size)
            size = sigframe_end[i];
    return size;
}

size_t sigframe_room(void)
{
    pthread_once(&sigframe_once, sigframe_ask);
    return SIGFRAME_RED_ZONE + sigframe_xsize(sigframe_features & ~SIGFRAME_XTILEDATA) + 4 + 64 +
           sizeof(struct sigframe_rt) + 16;
}

/* Copies the state into the frame's fpstate. Tile data that is in its initial
 * state is left out: a task without the permission has no room for it, and the
 * kernel then takes a frame that has it for a broken one. */
static int sigframe_put_xstate(unsigned char *to, size_t room, const unsigned char *xstate, size_t len,
                               size_t *ret_size)
{
    uint64_t features, present;
    if (len < SIGFRAME_FXSAVE + SIGFRAME_XHEADER)
        return -EINVAL;
    memcpy(&features, xstate + SIGFRAME_SW, sizeof features); /* USER_XSTATE_XCR0_WORD */
    memcpy(&present, xstate + SIGFRAME_FXSAVE, sizeof present);
    if (!(present & SIGFRAME_XTILEDATA))
        features &= ~SIGFRAME_XTILEDATA;
    size_t size = sigframe_xsize(features);
    if ((features & 3) != 3 || size > len || size + 4 > room)
        return -EINVAL;
    memcpy(to, xstate, size);
    struct sigframe_sw sw = {
        .magic1 = SIGFRAME_MAGIC1,
        .extended_size = (uint32_t)size + 4,
        .xfeatures = features,
        .xstate_size = (uint32_t)size,
    };
    memcpy(to + SIGFRAME_SW, &sw, sizeof sw);
    uint32_t magic2 = SIGFRAME_MAGIC2;
    memcpy(to + size, &magic2, sizeof magic2);
    *ret_size = size + 4;
    return 0;
}

static void sigframe_put_regs(struct sigframe_uc *uc, const struct user_regs_struct *r, uint64_t mask,
                              raddr_t fpstate)
{
    *uc = (struct sigframe_uc){
        .flags = SIGFRAME_UC_FP_XSTATE | SIGFRAME_UC_SIGCONTEXT_SS | SIGFRAME_UC_STRICT_RESTORE_SS,
        .altstack = {.flags = SIGFRAME_ALTSTACK_KEEP},
        .r8 = r->r8, .r9 = r->r9, .r10 = r->r10, .r11 = r->r11,
        .r12 = r->r12, .r13 = r->r13, .r14 = r->r14, .r15 = r->r15,
        .di = r->rdi, .si = r->rsi, .bp = r->rbp, .bx = r->rbx, .dx = r->rdx, .ax = r->rax,
        .cx = r->rcx, .sp = r->rsp, .ip = r->rip, .eflags = r->eflags,
        .cs = (uint16_t)r->cs, .ss = (uint16_t)r->ss,
        .fpstate = fpstate,
        .sigmask = mask,
    };
}

int sigframe_build(struct sigframe *f, const struct user_regs_struct *regs, uint64_t mask,
                   const void *xstate, size_t xstate_len, raddr_t restore_rt)
{
    unsigned char fp[SIGFRAME_XSTATE_MAX + 8];
    size_t fp_len;
    int r = sigframe_put_xstate(fp, sizeof fp, xstate, xstate_len, &fp_len);
    if (r < 0)
        return r;
    if (regs->rsp < SIGFRAME_RED_ZONE + sizeof f->bytes)
        return -EFAULT;

    raddr_t top = regs->rsp - SIGFRAME_RED_ZONE;
    raddr_t fp_at = (top - fp_len) & ~63ull;
    struct sigframe_rt rt = {.pretcode = restore_rt};
    f->at = ((fp_at - sizeof rt) & ~15ull) - 8; /* as the kernel aligns: (frame + 8) % 16 == 0 */
    f->len = (size_t)(fp_at + fp_len - f->at);
    assert(f->len <= sizeof f->bytes);
    sigframe_put_regs(&rt.uc, regs, mask, fp_at);
    memset(f->bytes, 0, f->len);
    memcpy(f->bytes, &rt, sizeof rt);
    memcpy(f->bytes + (fp_at - f->at), fp, fp_len);
    return 0;
}
