/* Between monitoring.c and hook_monitor.c. */
#ifndef AGENT_MONITOR_H
#define AGENT_MONITOR_H

#include "agent/python.h"

#define METH_FASTCALL 0x80

typedef PyObj *(*fastcall_fn)(PyObj *self, PyObj *const *args, int64_t nargs);
struct method_def { /* PyMethodDef, Include/methodobject.h */
    const char *name;
    fastcall_fn function;
    int flags;
    const char *doc;
};

enum { MONITOR_LINE = 6, MONITOR_ROWS = 7 }; /* the last one is set on single code objects only */
struct monitor_row {
    const char *event;
    struct method_def def;
};
extern const struct monitor_row monitor_rows[MONITOR_ROWS];

/* What callbacks return: go on; switch this event off at this place. */
extern PyObj *monitor_none, *monitor_disable;

#endif
