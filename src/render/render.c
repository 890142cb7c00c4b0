/* One output, whatever its kind (see render.h). */
#include "render/render.h"

#include <errno.h>
#include <stdlib.h>

#include "render/render_priv.h"

#define PAGE_DEFAULT 4096u
#define PAGE_LARGEST (1u << 20)

struct render *render_new(const struct render_options *o, const struct render_ops *ops)
{
    struct render *r = calloc(1, sizeof(*r));

    if (!r)
        return NULL;
    r->ops = ops;
    r->io.file = o->out;
    r->color = o->color;
    r->lines = o->lines;
    r->width = o->width;
    r->page_size = PAGE_DEFAULT;
    return r;
}

void render_free(struct render *r)
{
    if (r && r->ops->release)
        r->ops->release(r);
    free(r);
}

int render_begin(struct render *r, const struct render_meta *meta)
{
    if (meta->page_size >= PAGE_DEFAULT && meta->page_size <= PAGE_LARGEST)
        r->page_size = meta->page_size;
    r->realtime_offset_ns = meta->realtime_offset_ns;
    r->start_mono_ns = meta->start_mono_ns;
    r->asked = meta->options;
    r->rooted = meta->options.root.count > 0;
    return r->ops->begin(r, meta);
}

int render_event(struct render *r, const struct model *m, const struct stream_event *ev)
{
    return r->ops->event(r, m, ev);
}

int render_finish(struct render *r, const struct model *m, const struct render_end *end)
{
    return r->ops->finish(r, m, end);
}

const char *render_color_of(int64_t bytes)
{
    return bytes > 0 ? COLOR_RED : bytes < 0 ? COLOR_GREEN : "";
}

static const struct {
    const char *name, *text;
} lost_rows[] = {
    {"unknown", "reason unknown"},
    [MP_LOST_RING] = {"ring", "ring full"},
    [MP_LOST_THREADS] = {"threads", "too many threads"},
    [MP_LOST_DEPTH] = {"depth", "nested too deeply"},
};

static size_t lost_row(uint32_t reason)
{
    return reason < sizeof(lost_rows) / sizeof(lost_rows[0]) ? reason : 0;
}

const char *render_lost_text(uint32_t reason)
{
    return lost_rows[lost_row(reason)].text;
}

const char *render_lost_name(uint32_t reason)
{
    return lost_rows[lost_row(reason)].name;
}
