/* The target's C library: which it is, and everything of it that injection uses. */
#ifndef MP_LIBC_H
#define MP_LIBC_H

#include "base/err.h"
#include "inject/plan.h"
#include "inject/view.h"

enum libc_kind { LIBC_NONE, LIBC_GLIBC, LIBC_MUSL, LIBC_STATIC, LIBC_OTHER };

struct libc_id {
    enum libc_kind kind;
    unsigned major, minor;   /* glibc's; 0.0 when it could not be read */
    struct view_module *libc, *pthread, *dl; /* pthread and dl: NULL from glibc 2.34 on */
    const char *name;        /* file name, for messages; lives as long as the view; may be "" */
};

/* Tells which C library the target runs on. Never fails: kind says what was found. */
void libc_identify(struct view *v, struct libc_id *ret);

/* Reads "2.36" from the beginning of text. false when it is no version. */
bool libc_version_parse(const char *text, unsigned *ret_major, unsigned *ret_minor);

/* Fills the libc part of the plan: functions, gadgets, thread and TLS layout,
 * r_debug, unsafe text. ns_pid is the target's pid as it sees it. 0, or a
 * negative enum mp_err (MP_E_LIBC, MP_E_LIBC_LAYOUT) with *f filled. */
int libc_fill(struct view *v, const struct libc_id *id, struct inject_plan *p, struct mp_failure *f)
    MP_MUST_CHECK;

/* _thread_db_* descriptor: how wide a field is, how many there are, where it lies
 * (nptl_db/structs.def, DESC). Parsed from its 12 bytes. false when it is none. */
bool libc_descriptor_parse(const void *bytes, uint32_t bits, uint32_t *ret_offset);

/* Finds where struct pthread keeps its thread's id by looking for the main thread's
 * (tid: as the target numbers it). For a libc without descriptors. */
bool libc_scan_tid(struct view *v, pid_t tid, uint32_t *ret_offset);

#endif
