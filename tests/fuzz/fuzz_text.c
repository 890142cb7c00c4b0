/* Any bytes as foreign text on its way to a terminal: sanitiser, cells of tables,
 * failures' messages. The first two bytes are sizes. */
#include "fuzz.h"

#include "base/err.h"
#include "base/text.h"
#include "base/time.h"

#define CELL_MAX 64

static void check_sanitised(const char *text, size_t len, size_t room)
{
    char *all = utf8_sanitise(text, len), cut[256];

    FUZZ_HOLDS(all);
    fuzz_shown(all, strlen(all), 0);
    FUZZ_HOLDS(!strchr(all, '\n') && strlen(all) <= 3 * len);
    FUZZ_HOLDS(utf8_count(all) <= strlen(all) && utf8_width(all) <= 2 * utf8_count(all));
    utf8_sanitise_into(cut, room, text, len);
    if (room)
        FUZZ_HOLDS(strlen(cut) < room && !strncmp(cut, all, strlen(cut)));
    free(all);
}

static void check_cells(const char *clean, size_t room, unsigned cols)
{
    char buf[CELL_MAX + 1] = "";

    for (enum text_keep keep = TEXT_KEEP_ENDS; keep <= TEXT_KEEP_TAIL; keep++) {
        text_fit(buf, room, clean, cols, keep);
        FUZZ_HOLDS(strlen(buf) < room && (!cols || utf8_width(buf) <= cols));
        fuzz_shown(buf, strlen(buf), 0);
    }
    text_append(buf, room, clean, cols);
    text_append_right(buf, room, clean, cols);
    FUZZ_HOLDS(strlen(buf) < room);
    fuzz_shown(buf, strlen(buf), 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_in in = {data, size};
    size_t room = 1 + fuzz_u8(&in) % CELL_MAX;
    unsigned cols = fuzz_u8(&in) % 40;
    struct mp_failure f = {0};
    struct time_cache clock = {0};
    const char *text = (const char *)in.at;
    char *clean, when[48];
    int64_t ns = 0;

    check_sanitised(text, in.left, room);
    clean = utf8_sanitise(text, in.left);
    FUZZ_HOLDS(clean);
    check_cells(clean, room, cols);
    free(clean);
    mp_fail(&f, MP_E_INJECT, 0, "process %d: %.*s", 1, (int)in.left, text);
    fuzz_shown(f.message, strlen(f.message), 0);
    fuzz_take(&in, &ns, sizeof(ns));
    time_local(&clock, when, sizeof(when), ns);
    fuzz_shown(when, strlen(when), 0);
    clock = (struct time_cache){0};
    time_rfc3339(&clock, when, sizeof(when), ns);
    fuzz_shown(when, strlen(when), 0);
    return 0;
}
