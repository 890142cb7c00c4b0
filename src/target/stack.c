/* Stacks of threads. A descriptor (struct pthread, glibc's nptl/descr.h) begins with the
 * thread control block, whose first and third word point to itself (tcbhead_t,
 * sysdeps/x86_64/nptl/tls.h). Where in it `stackblock` and `stackblock_size` stand depends
 * on the release; that they stand in a row, and name the memory that all this lies in, does not. */
#include "target/stack.h"

#include <stdint.h>

#include "target/mem.h"

#define STACK_LOOK (16u << 20)       /* bytes above the stack pointer that are looked through */
#define STACK_WORDS 4096u            /* at a time */
#define STACK_DESCRIPTOR_WORDS 512u  /* of which some 290 are in use */
#define STACK_TOP_MAX (64u << 10)    /* bytes from the descriptor to the stack's end */
#define STACK_TRIES 256u             /* words that point to themselves, and are no descriptor */
#define STACK_LOWEST (64u << 10)     /* no address is below it: a number */

/* Whether a thread's descriptor is at `at`, of a stack that holds sp. */
static bool stack_described(pid_t pid, raddr_t at, raddr_t sp, raddr_t end, struct stack *ret)
{
    uint64_t d[STACK_DESCRIPTOR_WORDS];
    ssize_t got = mem_read_some(pid, at, d, sizeof d);
    size_t n = got < 0 ? 0 : (size_t)got / sizeof *d;
    if (n < 4 || d[0] != at || d[2] != at)
        return false;
    for (size_t i = 3; i + 1 < n; i++) {
        uint64_t lo = d[i], size = d[i + 1];
        if (lo >= STACK_LOWEST && lo <= sp && size > at - lo && size - (at - lo) <= STACK_TOP_MAX && size <= end - lo) {
            *ret = (struct stack){(lo + 7) & ~(raddr_t)7, at};
            return true;
        }
    }
    return false;
}

bool stack_find(pid_t pid, raddr_t sp, raddr_t end, struct stack *ret)
{
    uint64_t word[STACK_WORDS];
    raddr_t at = (sp + 7) & ~(raddr_t)7, last = end;
    unsigned tries = 0;
    if (end > at && end - at > STACK_LOOK)
        last = at + STACK_LOOK;
    while (at < last) {
        size_t len = last - at < sizeof word ? (size_t)(last - at) : sizeof word;
        ssize_t got = mem_read_some(pid, at, word, len);
        for (size_t i = 0; got > 0 && i < (size_t)got / sizeof *word; i++)
            if (word[i] == at + i * sizeof *word && tries++ < STACK_TRIES && stack_described(pid, word[i], sp, end, ret))
                return true;
        if (got != (ssize_t)len || tries > STACK_TRIES)
            return false;
        at += len;
    }
    return false;
}
