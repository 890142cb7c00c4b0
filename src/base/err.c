/* The table of named failures. */
#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/utf8.h"

struct err_row {
    const char *name;
    int exit_code;
    const char *hint;
};

static const struct err_row rows[] = {
#define MP_ERR_ROW(name, code, hint) {#name, code, hint},
    MP_ERRORS(MP_ERR_ROW)
#undef MP_ERR_ROW
};

static const struct err_row *err_find(enum mp_err code)
{
    if (code <= MP_ERR_BASE || code >= MP_ERR_END)
        return NULL;
    return &rows[code - MP_ERR_BASE - 1];
}

const char *mp_err_name(enum mp_err code)
{
    const struct err_row *r = err_find(code);
    return r ? r->name : "?";
}

int mp_err_exit_code(enum mp_err code)
{
    const struct err_row *r = err_find(code);
    return r ? r->exit_code : 70;
}

int mp_failure_exit_code(const struct mp_failure *f)
{
    return f->code == MP_E_INTERRUPTED && f->signo ? 128 + f->signo : mp_err_exit_code(f->code);
}

const char *mp_err_hint(enum mp_err code)
{
    const struct err_row *r = err_find(code);
    return r ? r->hint : "";
}

int mp_fail(struct mp_failure *f, enum mp_err code, int sys_errno, const char *fmt, ...)
{
    if (f && !f->code) {
        va_list ap;
        f->code = code;
        f->sys_errno = sys_errno;
        va_start(ap, fmt);
        /* Names of files, of functions, the agent's own words: it may all be foreign. */
        utf8_format_into(f->message, sizeof(f->message), fmt, ap);
        va_end(ap);
        snprintf(f->hint, sizeof(f->hint), "%s",
                 code == MP_E_INTERNAL && sys_errno == ENOMEM ? "let this program have more memory, and try again" : mp_err_hint(code));
    }
    return -(int)code;
}

void mp_fail_hint(struct mp_failure *f, const char *fmt, ...)
{
    va_list ap;
    if (!f)
        return;
    va_start(ap, fmt);
    utf8_format_into(f->hint, sizeof(f->hint), fmt, ap);
    va_end(ap);
}
