/* Checked writes on stdio (see io.h). */
#include "base/io.h"

#include <errno.h>
#include <stdarg.h>

static int io_result(struct io *io, int n)
{
    if (n < 0 && !io->err)
        io->err = errno ? -errno : -EIO;
    return io->err;
}

int io_puts(struct io *io, const char *s)
{
    if (io->err)
        return io->err;
    errno = 0;
    return io_result(io, fputs(s, io->file));
}

int io_write(struct io *io, const char *s, size_t n)
{
    if (io->err)
        return io->err;
    errno = 0;
    return io_result(io, fwrite(s, 1, n, io->file) == n ? 0 : -1);
}

int io_printf(struct io *io, const char *fmt, ...)
{
    va_list ap;
    int n;

    if (io->err)
        return io->err;
    errno = 0;
    va_start(ap, fmt);
    n = vfprintf(io->file, fmt, ap);
    va_end(ap);
    return io_result(io, n);
}
