/* The code page of the thunk (thunk.h draws it). Position independent: it knows
 * its data only as "the next page". Nothing here runs in place; it is copied.
 *
 *   eval2: (frame, throwflag)          3.6 - 3.8
 *   eval3: (tstate, frame, throwflag)  3.9, 3.10
 *   eval311: the same                  3.11, where the hook may rest: it counts calls
 *
 * Order matters: the quiet test comes first because it decides most calls, and
 * costs a load from the TCB, three compares and a count. `enter` and `exit` are loaded once
 * each, since the agent may zero them from a thread without the GIL. */
#include "agent/thunk.h"

#define D(off) mp_thunk_text + THUNK_PAGE + off(%rip)

/* Frame of a call that passed the quiet test; rbp is kept as frame pointer for
 * unwinders, which find no table for these pages.
 *   rbp-8, -16, -24   the three argument registers; later the result
 *   rbp-32-CALL_SIZE  struct call; its first word is gen */
#define CALLREC (-32 - THUNK_CALL_SIZE)

    .text
    .p2align 6
    .globl mp_thunk_text
    .hidden mp_thunk_text
mp_thunk_text:
    /* No entry where a mapping begins: ld.so's note of where one of its own ends looks like it. */
    .fill 64, 1, 0xcc

    .macro eval name frame tstate rests=0
    .p2align 6
    .globl \name
    .hidden \name
    .type \name, @function
\name:
    .cfi_startproc
    mov D(THUNK_TID_OFFSET), %rax
    mov %fs:(%rax), %eax
    cmp %eax, D(THUNK_QUIET_TID)
    jne 1f
    cmp %rsp, D(THUNK_QUIET_SP)
    jbe 1f
    cmp %rsp, D(THUNK_QUIET_FLOOR)
    ja 1f
    incq D(THUNK_QUIET_COUNT)
    .if \rests
    decl D(THUNK_QUIET_LEFT)
    js 1f
    .endif
    jmp *D(THUNK_ORIG)
1:  mov D(THUNK_ENTER), %rax
    test %rax, %rax
    jz 5f
    push %rbp
    .cfi_def_cfa_offset 16
    .cfi_offset %rbp, -16
    mov %rsp, %rbp
    .cfi_def_cfa_register %rbp
    sub $(32 + THUNK_CALL_SIZE), %rsp
    mov %rdi, -8(%rbp)
    mov %rsi, -16(%rbp)
    mov %rdx, -24(%rbp)
    .ifnc \tstate, rdx
    mov %rdi, %rdx
    .endif
    mov %\frame, %rdi
    mov %rsp, %rsi
    call *%rax
    mov -8(%rbp), %rdi
    mov -16(%rbp), %rsi
    mov -24(%rbp), %rdx
    test %eax, %eax
    jz 3f
    incq D(THUNK_INFLIGHT)
    call *D(THUNK_ORIG)
    decq D(THUNK_INFLIGHT)
    mov %rax, -8(%rbp)
    mov (%rsp), %rcx
    cmp D(THUNK_GEN), %rcx
    jne 4f
    mov D(THUNK_EXIT), %rcx
    test %rcx, %rcx
    jz 4f
    mov %rsp, %rdi
    mov %rax, %rsi
    call *%rcx
    mov -8(%rbp), %rax
4:  leave
    .cfi_remember_state
    .cfi_def_cfa %rsp, 8
    ret
    .cfi_restore_state
3:  leave
    .cfi_def_cfa %rsp, 8
    jmp *D(THUNK_ORIG)
5:  incq D(THUNK_IDLE)
    jmp *D(THUNK_ORIG)
    .cfi_endproc
    .size \name, . - \name
    .endm

    eval mp_thunk_eval2 rdi rdx /* there is no tstate: enter gets what is in rdx, and ignores it */
    eval mp_thunk_eval3 rsi rdi
    eval mp_thunk_eval311 rsi rdi 1

/* A Py_tracefunc: what threads get in c_tracefunc, so that one that is about to
 * call it when the agent goes (3.11's call_trace allocates first, which can run
 * a collection and hand over the GIL) lands here and not in unmapped memory. */
    .p2align 4
    .globl mp_thunk_trace
    .hidden mp_thunk_trace
    .type mp_thunk_trace, @function
mp_thunk_trace:
    .cfi_startproc
    mov D(THUNK_TRACE), %rax
    test %rax, %rax
    jz 5f
    jmp *%rax
5:  incq D(THUNK_IDLE)
    xor %eax, %eax
    ret
    .cfi_endproc
    .size mp_thunk_trace, . - mp_thunk_trace

    .globl mp_thunk_end
    .hidden mp_thunk_end
mp_thunk_end:
    .section .note.GNU-stack, "", @progbits
