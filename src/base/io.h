/* Checked writes on stdio: the first failure is kept, later writes do nothing. */
#ifndef MP_IO_H
#define MP_IO_H

#include <stdio.h>

/* A FILE that remembers its first error. The FILE is borrowed. */
struct io {
    FILE *file;
    int err; /* 0 or -errno */
};

/* Each returns io->err: 0, or -errno of the first write that failed (-EPIPE: the reader left). */
int io_puts(struct io *io, const char *s);
int io_write(struct io *io, const char *s, size_t n);
int io_printf(struct io *io, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
