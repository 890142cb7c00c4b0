/* The head of the region, the raw thread's first steps, and the last ones. */
#include "loader/offsets.h"

/* MP_REGION_MAGIC, the entry's offset, our length (src/inject/region.c). */
        .section .head, "ax", @progbits
        .globl  loader_head
        .hidden loader_head
loader_head:
        .byte   0x6d, 'P', 'U', 'L', 'S', 'E', 1, 0
        .long   loader_start - loader_head
        .long   loader_end - loader_head

/* Entry of the raw thread, from the `ret` behind libc's `syscall`. Its stack can
 * be read but not yet written: the whole region is r-x. */
        .p2align 4
loader_start:
        leaq    loader_head(%rip), %rbx
        leaq    LOADER_BOOT_OFF(%rbx), %rdi
        movl    $(LOADER_REGION_SIZE - LOADER_BOOT_OFF), %esi
        movl    $3, %edx                        /* PROT_READ | PROT_WRITE */
        movl    $LOADER_SYS_MPROTECT, %eax
        syscall
        leaq    LOADER_BOOT_OFF(%rbx), %rdi     /* struct mp_boot */
        xorl    %ebp, %ebp
        andq    $-16, %rsp
        testq   %rax, %rax
        jns     1f
        /* Nothing can be written, so nothing can be done: leave. */
        movq    LOADER_BOOT_EXIT_GADGET(%rdi), %rdx
        movq    %rbx, %rdi
        jmp     loader_leave
1:      call    loader_raw
        ud2

        .text
/* void loader_leave(region, len, gadget): unmaps the region, this code and the
 * stack included, and ends the thread. The system call is made by libc's
 * `syscall`; what follows it there is exit(2), for which rdx and its like hold
 * the number. Without such a place in libc only the thread ends. */
        .globl  loader_leave
        .hidden loader_leave
loader_leave:
        movl    $LOADER_REGION_SIZE, %esi
        movq    %rdx, %rcx
        movl    $LOADER_SYS_EXIT, %edx
        movq    %rdx, %r8
        movq    %rdx, %r9
        movq    %rdx, %r10
        movq    %rdx, %rbx
        movq    %rdx, %rbp
        movq    %rdx, %r12
        movq    %rdx, %r13
        movq    %rdx, %r14
        movq    %rdx, %r15
        testq   %rcx, %rcx
        jz      2f
        movl    $LOADER_SYS_MUNMAP, %eax
        jmpq    *%rcx
2:      xorl    %edi, %edi
        movl    $LOADER_SYS_EXIT, %eax
        syscall
        ud2

/* long loader_clone(flags, stack, fn, arg): a thread that libc never hears of;
 * it runs fn(arg), which must not return. */
        .globl  loader_clone
        .hidden loader_clone
loader_clone:
        movq    %rcx, %r9
        movq    %rdx, %r8
        andq    $-16, %rsi
        pushq   %rbx
        pushq   %rbp
        movq    %r8, %rbx                       /* the child gets both with its registers */
        movq    %r9, %rbp
        xorl    %edx, %edx
        xorl    %r10d, %r10d
        xorl    %r8d, %r8d
        movl    $LOADER_SYS_CLONE, %eax
        syscall
        testq   %rax, %rax
        jz      3f
        popq    %rbp
        popq    %rbx
        ret
3:      movq    %rbp, %rdi
        xorl    %ebp, %ebp
        call    *%rbx
        ud2

        .section .note.GNU-stack, "", @progbits
