/* The agent's own source, natively: any bytes as /proc/self/maps, in pieces of any size (the
 * names in it are the target's choice). The first byte is the size of a piece. */
#include "agent/agent.h"

static int fuzz_open(const char *path);
static long fuzz_read(int fd, void *to, size_t len);
static void fuzz_close(int fd);

#define sys_open_read fuzz_open
#define sys_read fuzz_read
#define sys_close fuzz_close
#include "agent/maps.c"

#include "fuzz.h"

static struct fuzz_in in;
static size_t piece, lines, given;

static int fuzz_open(const char *path)
{
    FUZZ_HOLDS(!strcmp(path, "/proc/self/maps"));
    return 3;
}

static long fuzz_read(int fd, void *to, size_t len)
{
    size_t n = len < piece ? len : piece;

    FUZZ_HOLDS(fd == 3 && len > 0);
    n = n < in.left ? n : in.left;
    memcpy(to, in.at, n);
    in.at += n;
    in.left -= n;
    return (long)n;
}

static void fuzz_close(int fd)
{
    FUZZ_HOLDS(fd == 3);
}

static bool take(const struct maps_line *l, void *arg)
{
    (void)l;
    FUZZ_HOLDS(arg == &lines && ++given <= lines);
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    in = (struct fuzz_in){data + 1, size - 1};
    piece = data[0] ? (size_t)data[0] * 16 : 1;
    given = lines = 0;
    for (size_t i = 1; i < size; i++)
        lines += data[i] == '\n';
    FUZZ_HOLDS(!maps_each(take, &lines));
    return 0;
}
