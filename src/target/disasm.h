/* Looking at machine code of a process that we do not run: small functions are
 * evaluated, stubs and gadgets are found. x86-64, by capstone. */
#ifndef MP_DISASM_H
#define MP_DISASM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"
#include "target/raddr.h"

/* Reads exactly len bytes at an address of the target; 0 or -errno. */
typedef int (*disasm_read_fn)(void *ctx, raddr_t at, void *ret_buf, size_t len);

struct disasm;

/* ctx must outlive the result. NULL when capstone or memory fails. */
struct disasm *disasm_new(disasm_read_fn read, void *ctx);
void disasm_free(struct disasm *d); /* NULL is fine */

/* A disasm_read_fn over a process: ctx is a pid_t *. */
int disasm_read_pid(void *pid, raddr_t at, void *ret_buf, size_t len);

struct disasm_insn {
    unsigned len;
    bool is_syscall, is_ret, is_call, is_jump;
    char text[208]; /* "mov rax, qword ptr [rip + 0x10]" */
};
/* Decodes the instruction at `at`. 0; -EILSEQ when it is none; -EFAULT. */
int disasm_one(struct disasm *d, raddr_t at, struct disasm_insn *ret) MP_MUST_CHECK;

/* Prints up to count instructions from `at` on, the one at pc marked. For -v. */
void disasm_print(struct disasm *d, FILE *out, raddr_t at, unsigned count, raddr_t pc);

/* Where to begin so that instructions before pc are seen: the first address, at most
 * `back` bytes before it, from which decoding arrives at pc. A guess: pc when there is none. */
raddr_t disasm_before(struct disasm *d, raddr_t pc, unsigned back);

/* What a function would return, found by following its straight-line code over the
 * target's memory: constants, loads, lea, additions, comparisons with setcc,
 * direct jumps. Good for accessors such as __errno_location (value is then
 * relative to the thread pointer), gnu_get_libc_version, Py_IsInitialized. */
struct disasm_value {
    uint64_t value;
    bool tp_relative; /* value is an offset from %fs:0 */
    raddr_t loaded_from; /* address of the last word loaded (a GOT slot, a variable), or 0 */
};
/* 0; -ENOTSUP when the code does something else; -EFAULT, -EILSEQ. */
int disasm_eval(struct disasm *d, raddr_t function, struct disasm_value *ret) MP_MUST_CHECK;

/* Addresses that the first `insns` instructions of a function form (lea off(%rip),
 * mov $imm32): where its string constants are. Returns how many were put in ret. */
size_t disasm_addresses(struct disasm *d, raddr_t function, unsigned insns, raddr_t *ret, size_t max);

/* Each of the following searches [lo, hi), but no more than 64 MiB and 16384 system
 * calls of it. 0 and *ret, -ENOENT, or -errno. */

/* `syscall; ret` */
int disasm_find_syscall_ret(struct disasm *d, raddr_t lo, raddr_t hi, raddr_t *ret) MP_MUST_CHECK;

/* `mov $15, %eax or %rax; syscall`: rt_sigreturn, as libc's __restore_rt is. */
int disasm_find_sigreturn(struct disasm *d, raddr_t lo, raddr_t hi, raddr_t *ret) MP_MUST_CHECK;

/* A `syscall` from which, without any access to memory, another `syscall` is
 * reached with rax = SYS_exit, when rdx, r8, r9, r10, rbx, rbp and r12 to r15 hold
 * SYS_exit before and nothing is known of the rest. In glibc: the loop around
 * exit(2) at the end of start_thread and __libc_start_call_main
 * (sysdeps/unix/sysv/linux/exit-thread.h). */
int disasm_find_exit_gadget(struct disasm *d, raddr_t lo, raddr_t hi, raddr_t *ret) MP_MUST_CHECK;

#endif
