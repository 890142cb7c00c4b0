/* The undo stack: what was changed in a target, and how to take it back. An
 * entry is pushed BEFORE its change is made, so that a failure half-way is
 * covered too; an action must therefore be harmless when its change never
 * happened. */
#ifndef MP_UNDO_H
#define MP_UNDO_H

#include <stddef.h>

#include "base/err.h"

#define UNDO_MAX 16

/* Takes one change back. 0, or -errno when the target keeps it. */
typedef int (*undo_fn)(void *arg);

struct undo {
    struct undo_entry {
        undo_fn fn;
        void *arg;
        const char *what; /* in words, for the message: "a mapping in the target" */
    } entry[UNDO_MAX];
    size_t count;
};

/* Pushes an action. The caller never pushes more than UNDO_MAX (asserted). */
void undo_push(struct undo *u, const char *what, undo_fn fn, void *arg);

/* Forgets the newest entry: its change was taken back by other means. */
void undo_pop(struct undo *u);

/* Forgets all entries: the changes are to stay, or belong to somebody else now. */
void undo_clear(struct undo *u);

/* Runs all actions, newest first, whether earlier ones fail or not, and empties
 * the stack. 0, or the first failure with *ret_what (may be NULL) naming it. */
int undo_run(struct undo *u, const char **ret_what);

#endif
