/* Any bytes as one of the small files of /proc/PID: the first byte says which. */
#include "fuzz.h"

#include "target/proc.h"

static void check_stat(const char *text, size_t size)
{
    struct proc_stat s;

    if (proc_stat_parse(&s, text, size) == 0)
        FUZZ_HOLDS(s.pid > 0 && memchr(s.comm, 0, sizeof(s.comm)));
}

static void check_status(const char *text, size_t size)
{
    struct proc_status s;

    if (proc_status_parse(&s, text, size) == 0)
        FUZZ_HOLDS(s.pid > 0 && s.ns_levels > 0 && memchr(s.name, 0, sizeof(s.name)));
}

static void check_syscall(const char *text, size_t size)
{
    struct proc_syscall c;

    if (proc_syscall_parse(&c, text, size) == 0)
        FUZZ_HOLDS(c.nr >= -1 && (!c.running || c.nr == -1));
}

static void check_limits(const char *text, size_t size)
{
    struct proc_limits l = {.as = {1, 2}}, before = l;

    if (proc_limits_parse(&l, text, size) < 0)
        FUZZ_HOLDS(!memcmp(&l, &before, sizeof(l)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data + 1;
    uint64_t value;

    if (!size)
        return 0;
    size--;
    switch (data[0] % 5) {
    case 0: check_stat(text, size); break;
    case 1: check_status(text, size); break;
    case 2: check_syscall(text, size); break;
    case 3: check_limits(text, size); break;
    default:
        (void)proc_auxv_get(text, size, 3, &value);
        (void)proc_environ_has(text, size, "A=1");
    }
    return 0;
}
