/* A failure as one JSON object (docs/exit-codes.md). */
#include "render/render.h"
#include "render/jline.h"

int render_error_json(FILE *out, pid_t pid, const struct mp_failure *f)
{
    struct io io = {.file = out};
    struct jline j;

    jline_begin(&j, "error");
    jline_text(&j, "code", mp_err_name(f->code));
    jline_int(&j, "exit", mp_failure_exit_code(f));
    if (f->sys_errno)
        jline_int(&j, "errno", f->sys_errno);
    if (pid > 0)
        jline_int(&j, "pid", pid);
    jline_foreign(&j, "message", f->message);
    jline_foreign(&j, "hint", f->hint);
    if (f->target_ended)
        jline_bool(&j, "target_ended", true);
    else
        jline_bool(&j, "changed_target", f->changed_target);
    return jline_write(&j, &io);
}
