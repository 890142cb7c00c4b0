/* The undo stack. See undo.h. */
#include "target/undo.h"

#include <assert.h>

void undo_push(struct undo *u, const char *what, undo_fn fn, void *arg)
{
    assert(u->count < UNDO_MAX);
    u->entry[u->count++] = (struct undo_entry){fn, arg, what};
}

void undo_pop(struct undo *u)
{
    assert(u->count > 0);
    u->count--;
}

void undo_clear(struct undo *u)
{
    u->count = 0;
}

int undo_run(struct undo *u, const char **ret_what)
{
    int first = 0;
    while (u->count > 0) {
        struct undo_entry *e = &u->entry[--u->count];
        int r = e->fn(e->arg);
        if (r < 0 && first == 0) {
            first = r;
            if (ret_what)
                *ret_what = e->what;
        }
    }
    return first;
}
