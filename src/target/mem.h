/* Reading a process's memory from outside, without stopping it. pid may be any
 * live thread of the process (a zombie leader has no memory left). Both ways
 * need the right that PTRACE_ATTACH needs (ptrace(2), "Ptrace access mode
 * checking"). */
#ifndef MP_MEM_H
#define MP_MEM_H

#include <stddef.h>
#include <sys/types.h>

#include "base/err.h"
#include "target/raddr.h"

/* Reads exactly len bytes. 0; -EFAULT when a part is not mapped or not readable
 * (buf then holds what came before); -EPERM, -ESRCH, another -errno. */
int mem_read(pid_t pid, raddr_t at, void *ret_buf, size_t len) MP_MUST_CHECK;

/* Reads up to len bytes and stops at the first byte that cannot be read.
 * Returns the number read, or -errno when there is none. */
ssize_t mem_read_some(pid_t pid, raddr_t at, void *ret_buf, size_t len) MP_MUST_CHECK;

/* Reads a NUL terminated string into buf[size]. Returns its length;
 * -ENAMETOOLONG when no NUL comes within size bytes; -EFAULT and others as
 * mem_read. buf is always terminated unless size is 0. */
ssize_t mem_read_string(pid_t pid, raddr_t at, char *ret_buf, size_t size) MP_MUST_CHECK;

/* Writes exactly len bytes (the mapping must be writable unless /proc/PID/mem
 * has to serve). 0 or -errno. */
int mem_write(pid_t pid, raddr_t at, const void *buf, size_t len) MP_MUST_CHECK;

#endif
