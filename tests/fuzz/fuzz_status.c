/* Any bytes as one of the small files of /proc/PID: the first byte says which. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "target/proc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data + 1;
    struct proc_stat stat;
    struct proc_status status;
    struct proc_syscall call;
    uint64_t value;
    if (!size)
        return 0;
    size--;
    switch (data[0] % 4) {
    case 0:
        if (proc_stat_parse(&stat, text, size) == 0 && (stat.pid <= 0 || !memchr(stat.comm, 0, sizeof(stat.comm))))
            abort();
        break;
    case 1:
        if (proc_status_parse(&status, text, size) == 0 && (status.pid <= 0 || !memchr(status.name, 0, sizeof(status.name))))
            abort();
        break;
    case 2:
        if (proc_syscall_parse(&call, text, size) == 0 && !call.running && call.nr < -1)
            abort();
        break;
    default:
        (void)proc_auxv_get(text, size, 3, &value);
        (void)proc_environ_has(text, size, "A=1");
    }
    return 0;
}
