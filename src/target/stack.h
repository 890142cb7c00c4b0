/* Where the stack of a thread of glibc's begins and ends. A mapping may hold more than
 * one: stacks that a program cuts out of a block of its own, or that the kernel has merged
 * with what lies beside them. */
#ifndef MP_STACK_H
#define MP_STACK_H

#include <stdbool.h>
#include <sys/types.h>

#include "target/raddr.h"

struct stack {
    raddr_t lo, hi; /* with its guard pages, up to the thread's descriptor, in which keys of pthread's have values */
};

/* Finds the stack on which the thread with this stack pointer waits, by its descriptor, which
 * glibc puts at the upper end of the memory it has for it; end is that of the mapping. false: none was found, so
 * the program runs on memory of its own choice (a coroutine, a first thread), or it can't be read. */
bool stack_find(pid_t pid, raddr_t sp, raddr_t end, struct stack *ret);

#endif
