/* What the renderers share. */
#ifndef MP_RENDER_PRIV_H
#define MP_RENDER_PRIV_H

#include "base/io.h"
#include "base/time.h"
#include "render/render.h"

/* What one kind of output does. Each writes through r->io. */
struct render_ops {
    int (*begin)(struct render *r, const struct render_meta *meta);
    int (*event)(struct render *r, const struct model *m, const struct stream_event *ev);
    int (*finish)(struct render *r, const struct model *m, const struct render_end *end);
    void (*release)(struct render *r); /* frees `own`; NULL: there is none */
};

struct render {
    const struct render_ops *ops;
    struct io io;
    bool color, lines, rooted; /* rooted: --root is given, so that depth 0 exists */
    unsigned width;
    uint64_t page_size;
    int64_t realtime_offset_ns;
    uint64_t start_mono_ns;
    struct mp_options asked;
    struct time_cache clock;
    void *own; /* what one kind of output keeps besides; NULL at first */
};

/* A renderer with ops; NULL when memory ran out. */
struct render *render_new(const struct render_options *o, const struct render_ops *ops);

#define COLOR_RED "\x1b[31m"
#define COLOR_GREEN "\x1b[32m"
#define COLOR_BOLD "\x1b[1m"
#define COLOR_DIM "\x1b[2m"
#define COLOR_OFF "\x1b[0m"

/* Red for growth, green for shrinking, "" for neither. */
const char *render_color_of(int64_t bytes);

/* "ring full", ...: why records were lost. */
const char *render_lost_text(uint32_t reason);
/* "ring", ...: stable names of enum mp_lost_reason. */
const char *render_lost_name(uint32_t reason);

#endif
