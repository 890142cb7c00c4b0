/* Command-line values: durations, sizes, numbers. Each parser takes the whole
 * string or nothing. */
#ifndef MP_ARGS_H
#define MP_ARGS_H

#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

/* "30s", "500ms", "1.5m", "2h"; a bare number is seconds. Nanoseconds in *ret.
 * -EINVAL when it is none of these, -ERANGE above a year. */
int args_duration(const char *s, uint64_t *ret_ns) MP_MUST_CHECK;

/* "4096", "64K", "1.5M", "2G", also "64KiB"; powers of 1024. -EINVAL, -ERANGE. */
int args_size(const char *s, uint64_t *ret_bytes) MP_MUST_CHECK;

/* A decimal number in [min, max], blanks around it allowed. -EINVAL, -ERANGE. */
int args_number(const char *s, long min, long max, long *ret) MP_MUST_CHECK;

/* "5%" or "5" (per cent, 0 to 100). -EINVAL, -ERANGE. */
int args_percent(const char *s, double *ret) MP_MUST_CHECK;

/* Expands %p (pid), %t (local time as 20261121-060102) and %% in a file name.
 * Returns a string to free, or NULL (out of memory, or an unknown %x: errno EINVAL). */
char *args_expand_path(const char *s, pid_t pid);

#endif
