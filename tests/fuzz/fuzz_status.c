/* Any bytes as one of the small files of /proc/PID, or as /proc/locks: the first byte says which. */
#include "fuzz.h"

#include "target/lock.h"
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

static char *ended(const char *text, size_t size)
{
    char *copy = malloc(size + 1);

    if (copy) {
        memcpy(copy, text, size);
        copy[size] = '\0';
    }
    return copy;
}

static void check_children(const char *text, size_t size)
{
    char *copy = ended(text, size);
    size_t count = 0;
    pid_t *v = NULL;

    if (copy && proc_numbers_parse(&v, &count, copy) == 0)
        for (size_t i = 0; i < count; i++)
            FUZZ_HOLDS(v[i] > 0);
    free(v);
    free(copy);
}

static void check_locks(const char *text, size_t size)
{
    char *copy = ended(text, size);

    if (copy)
        FUZZ_HOLDS(lock_holder_parse(copy, 1871483) >= 0);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data + 1;
    uint64_t value;

    if (!size)
        return 0;
    size--;
    if (data[0] >= 250) { /* kinds that came later */
        (data[0] == 250 ? check_children : check_locks)(text, size);
        return 0;
    }
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
