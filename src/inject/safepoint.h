/* Where a thread may be borrowed: the choice of a thread without stopping any,
 * and the judgement of one that is stopped. The judging functions are pure.
 *
 * A borrowed thread runs no libc code, and what runs meanwhile on our own threads
 * waits for its locks like any other thread; so the rule guards against what no
 * lock guards: single-threaded malloc, ld.so's state, a stack without room. */
#ifndef MP_SAFEPOINT_H
#define MP_SAFEPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/user.h>

#include "inject/plan.h"
#include "target/maps.h"
#include "target/proc.h"

#define SAFEPOINT_STACK_WORDS 1024 /* of the live stack that are looked at */

/* What stood in the way, worst last in the sense of messages: it is printed. */
enum safepoint_verdict {
    SAFEPOINT_OK = 0,
    SAFEPOINT_CALL,   /* inside a system call that is not on the list */
    SAFEPOINT_TEXT,   /* running in libc, ld.so, an allocator or the vdso */
    SAFEPOINT_STACK,  /* a caller of its is in ld.so or an allocator */
    SAFEPOINT_LINKER, /* ld.so is changing the list of modules */
    SAFEPOINT_BUSY,   /* must wait in the kernel for this process, and does not */
    SAFEPOINT_FOREIGN, /* on a stack that is not its own */
    SAFEPOINT_ROOM,   /* its stack has no room for a signal frame */
    SAFEPOINT_MODE    /* runs 32-bit code */
};

/* A stopped thread, as far as the rule wants to know. */
struct safepoint_view {
    struct user_regs_struct regs;
    bool after_syscall; /* the two bytes before rip are `syscall` */
    int r_state;        /* r_debug.r_state, 0 (RT_CONSISTENT) when not known */
    bool unlocked;      /* malloc takes no locks: libc knows of one thread */
    const uint64_t *stack; /* words from rsp on */
    size_t stack_words;
};

struct safepoint_answer {
    enum safepoint_verdict verdict;
    const char *what; /* module's or system call's name; NULL when there is none */
    raddr_t word_at;  /* SAFEPOINT_STACK: address on the stack of the word in question */
    raddr_t word;
};

/* Judges; the first thing that stands in the way is told. The caller clears a
 * SAFEPOINT_STACK by finding that no call precedes `word`, and asks again with
 * the stack beyond it. */
struct safepoint_answer safepoint_judge(const struct inject_plan *p, const struct safepoint_view *v);

/* Whether the thread waits in epoll with a timeout that its caller, CPython, would
 * take up again after EINTR with what remains of it: then EINTR is exact and unseen,
 * where a restart would begin the timeout anew. */
bool safepoint_caller_retries(const struct inject_plan *p, const struct safepoint_view *v);

/* Whether the code that ends where addr begins may be a call: bytes are the 7
 * before addr. E8 rel32, or FF /2 in any length. */
bool safepoint_is_return(const unsigned char bytes[7]);

/* Whether the stack at sp lies in one writable mapping with room bytes below. */
bool safepoint_has_room(const struct maps *m, raddr_t sp, size_t room);

/* Whether that is the thread's own stack, below whose red zone nothing lives: the
 * process's first one, or the mapping in which glibc keeps its TCB, above sp (nptl,
 * allocate_stack). The stack of a coroutine may have other data right below. */
bool safepoint_own_stack(const struct maps *m, raddr_t sp, raddr_t tcb);

/* How good a thread looks from outside: the lower, the better. */
#define SAFEPOINT_PARKED 0   /* waits in a call that the kernel restarts by itself */
#define SAFEPOINT_RUNNING 1  /* on a CPU */
#define SAFEPOINT_EINTR 2    /* waits in a call that answers EINTR: restarted by us, or seen by it */
#define SAFEPOINT_UNLIKELY 3 /* in another call: perhaps elsewhere when stopped */
#define SAFEPOINT_NEVER 4    /* dead, stopped, uninterruptible */
int safepoint_rank(const struct proc_syscall *sc, char state);

/* A sentence fragment for messages: "running in libc.so.6", "in write". */
void safepoint_describe(const struct safepoint_answer *a, char *ret_buf, size_t size);

#endif
