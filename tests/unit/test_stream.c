/* The decoder against a peer that lies: every truncation, every corruption,
 * every order that is not the protocol's. */
#include "wire_gen.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* Decodes g to the end. Returns the number of events, or -EPROTO. */
static int decode(const struct gen *g)
{
    struct stream *s = stream_new();
    struct stream_event ev;
    size_t at = 0;
    int n, count = 0;

    do {
        at += stream_feed(s, g->bytes + at, g->len - at);
        while ((n = stream_next(s, &ev)) > 0)
            count++;
    } while (n == 0 && at < g->len);
    if (n < 0) {
        ck_assert_int_eq(n, -EPROTO);
        ck_assert_int_eq(stream_next(s, &ev), -EPROTO); /* sticky */
    }
    stream_free(s);
    return n < 0 ? n : count;
}

START_TEST(test_valid)
{
    struct gen g;

    gen_service(&g);
    ck_assert_int_eq(decode(&g), GEN_SERVICE_EVENTS);
    gen_free(&g);
}
END_TEST

/* Byte by byte: the same events, with aligned records. */
START_TEST(test_dribble)
{
    struct stream *s = stream_new();
    struct stream_event ev;
    int n, count = 0;
    struct gen g;

    gen_service(&g);
    for (size_t i = 0; i < g.len; i++) {
        ck_assert_uint_eq(stream_feed(s, g.bytes + i, 1), 1);
        while ((n = stream_next(s, &ev)) > 0) {
            count++;
            if (ev.type == MP_MSG_RECORDS)
                ck_assert_uint_eq((uintptr_t)ev.records.rec % 8, 0);
        }
        ck_assert_int_eq(n, 0);
    }
    ck_assert_int_eq(count, GEN_SERVICE_EVENTS);
    stream_free(s);
    gen_free(&g);
}
END_TEST

START_TEST(test_contents)
{
    struct stream *s = stream_new();
    struct stream_event ev;
    struct gen g;

    gen_open(&g);
    gen_code(&g, 9, 41, "name", "file.py", "mod");
    gen_call1(&g, gen_call(9, 3, 2, 100, 50, -7, 8, 1000));
    ck_assert_uint_eq(stream_feed(s, g.bytes, g.len), g.len);
    ck_assert_int_eq(stream_next(s, &ev), 1);
    ck_assert_int_eq(ev.type, MP_MSG_HELLO);
    ck_assert_int_eq(ev.hello.pid, 4242);
    ck_assert_int_eq(stream_next(s, &ev), 1);
    ck_assert_int_eq(ev.type, MP_MSG_HOOKED);
    ck_assert_uint_eq(ev.slots.hook, MP_HOOK_THUNK);
    ck_assert_int_eq(stream_next(s, &ev), 1);
    ck_assert_int_eq(memcmp(ev.code.name, "namefile.pymod", 14), 0);
    ck_assert_ptr_eq(ev.code.file, ev.code.name + 4);
    ck_assert_ptr_eq(ev.code.module, ev.code.file + 7);
    ck_assert_int_eq(stream_next(s, &ev), 1);
    ck_assert_uint_eq(ev.records.count, 1);
    ck_assert_int_eq(ev.records.rec[0].rss_delta_pages, -7);
    ck_assert_uint_eq(ev.records.rec[0].dur_ns, 50000);
    ck_assert_int_eq(stream_next(s, &ev), 0);
    stream_free(s);
    gen_free(&g);
}
END_TEST

/* A stream that ends anywhere never yields more than the whole one, nor an error. */
START_TEST(test_truncation)
{
    struct gen g;
    size_t whole;
    int last = 0;

    gen_service(&g);
    whole = g.len;
    for (g.len = 0; g.len <= whole; g.len++) {
        int n = decode(&g);

        ck_assert_int_ge(n, last);
        last = n;
    }
    ck_assert_int_eq(last, GEN_SERVICE_EVENTS);
    gen_free(&g);
}
END_TEST

/* Any byte changed to anything: an answer within the promises, never a crash. */
START_TEST(test_corruption)
{
    static const unsigned char masks[] = {0x01, 0x80, 0xff};
    struct gen g;

    gen_service(&g);
    for (size_t i = 0; i < g.len; i++) {
        g.bytes[i] ^= masks[_i];
        ck_assert_int_le(decode(&g), GEN_SERVICE_EVENTS);
        g.bytes[i] ^= masks[_i];
    }
    gen_free(&g);
}
END_TEST

static void expect_refused(struct gen *g)
{
    ck_assert_int_eq(decode(g), -EPROTO);
    gen_free(g);
}

START_TEST(test_lengths)
{
    static const uint32_t lens[] = {0, 1, 7, MP_FRAME_MAX + 1, 0x7fffffff, 0xffffffff};
    struct mp_frame f = {.len = lens[_i], .type = MP_MSG_HELLO};
    struct gen g;

    gen_init(&g);
    gen_bytes(&g, &f, sizeof(f));
    expect_refused(&g);
}
END_TEST

/* Frames that are not what their type says; each after HELLO and HOOKED. */
enum bad {
    BAD_TYPE_0, BAD_TYPE_RESERVED, BAD_TYPE_GO, BAD_TYPE_HIGH, BAD_SHORT_STATS, BAD_LONG_STATS, BAD_COUNT_STATS,
    BAD_CODE_ID_0, BAD_CODE_ID_HIGH, BAD_CODE_NAME_LEN, BAD_CODE_FILE_LEN, BAD_CODE_MODULE_LEN, BAD_CODE_SHORT,
    BAD_CODE_LONG, BAD_THREAD_ID, BAD_THREAD_TID, BAD_THREAD_NAME, BAD_NOTE_LEN, BAD_RECORDS_COUNT,
    BAD_RECORDS_LEN, BAD_SECOND_HELLO, BAD_SECOND_HOOKED, BAD_LATE_SELFTEST, BAD_AFTER_BYE, BAD_STATS_RSS,
    BAD_STATS_TIME, BAD_STATS_HOOK, BAD_STATS_STAGE, BADS
};

static void bad_code(struct gen *g, enum bad what)
{
    struct mp_code h = {.id = 1, .name_len = 2, .file_len = 2, .module_len = 2};
    static const char text[MP_PATH_MAX + 8];
    size_t len;

    h.id = what == BAD_CODE_ID_0 ? 0 : what == BAD_CODE_ID_HIGH ? MP_CODES_MAX + 1 : 1;
    h.name_len = what == BAD_CODE_NAME_LEN ? MP_NAME_MAX + 1 : 2;
    h.file_len = what == BAD_CODE_FILE_LEN ? MP_PATH_MAX + 1 : 2;
    h.module_len = what == BAD_CODE_MODULE_LEN ? MP_NAME_MAX + 1 : 2;
    len = (size_t)h.name_len + h.file_len + h.module_len;
    len = what == BAD_CODE_SHORT ? len - 1 : what == BAD_CODE_LONG ? len + 1 : len;
    gen_head(g, MP_MSG_CODE, 1, sizeof(h) + len);
    gen_bytes(g, &h, sizeof(h));
    for (; len > sizeof(text); len -= sizeof(text))
        gen_bytes(g, text, sizeof(text));
    gen_bytes(g, text, len);
}

static void bad_thread(struct gen *g, enum bad what)
{
    struct mp_thread h = {.id = 1, .tid = 5, .name_len = 3};

    h.id = what != BAD_THREAD_ID;
    h.tid = what == BAD_THREAD_TID ? -5 : 5;
    h.name_len = what == BAD_THREAD_NAME ? MP_THREAD_NAME_MAX + 1 : 3;
    gen_head(g, MP_MSG_THREAD, 1, sizeof(h) + h.name_len);
    gen_bytes(g, &h, sizeof(h));
    for (unsigned i = 0; i < h.name_len; i++)
        gen_bytes(g, "x", 1);
}

static void bad_records(struct gen *g, enum bad what)
{
    struct mp_record r[2] = {gen_call(1, 1, 1, 10, 5, 1, 1, 10), gen_call(1, 1, 1, 20, 5, 1, 1, 10)};

    gen_head(g, MP_MSG_RECORDS, what == BAD_RECORDS_COUNT ? 3 : 2, sizeof(r) - (what == BAD_RECORDS_LEN));
    gen_bytes(g, r, sizeof(r) - (what == BAD_RECORDS_LEN));
}

static void bad_stats(struct gen *g, enum bad what)
{
    struct mp_stats s[2] = {{.rss_bytes = what == BAD_STATS_RSS ? STREAM_BYTES_MAX + 1 : 0,
                             .time_ns = what == BAD_STATS_TIME ? STREAM_TIME_MAX + 1 : 0,
                             .hook_ns = what == BAD_STATS_HOOK ? UINT64_MAX : 0,
                             .account.deepest = what == BAD_STATS_STAGE ? MP_STAGES : 0}};
    size_t len = sizeof(s[0]);

    len = what == BAD_SHORT_STATS ? len - 1 : what == BAD_LONG_STATS ? len + 1 : len;
    gen_head(g, MP_MSG_STATS, what == BAD_COUNT_STATS ? 2 : 1, len);
    gen_bytes(g, s, len);
}

static void bad_order(struct gen *g, enum bad what)
{
    struct mp_selftest t = {0};

    if (what == BAD_SECOND_HELLO)
        gen_hello(g);
    else if (what == BAD_SECOND_HOOKED)
        gen_hooked(g);
    else if (what == BAD_LATE_SELFTEST)
        gen_plain(g, MP_MSG_SELFTEST, &t, sizeof(t));
    else
        gen_bye(g);
    if (what == BAD_AFTER_BYE)
        gen_bytes(g, "", 1);
}

START_TEST(test_refused)
{
    static const unsigned types[] = {0, MP_MSG_LINE, MP_MSG_GO, 0xffff};
    enum bad what = (enum bad)_i;
    struct mp_note note = {.text_len = 9};
    struct gen g;

    gen_open(&g);
    if (what <= BAD_TYPE_HIGH)
        gen_plain(&g, types[what], "", 0);
    else if (what <= BAD_COUNT_STATS || what >= BAD_STATS_RSS)
        bad_stats(&g, what);
    else if (what <= BAD_CODE_LONG)
        bad_code(&g, what);
    else if (what <= BAD_THREAD_NAME)
        bad_thread(&g, what);
    else if (what == BAD_NOTE_LEN)
        gen_plain(&g, MP_MSG_NOTE, &note, sizeof(note));
    else if (what <= BAD_RECORDS_LEN)
        bad_records(&g, what);
    else
        bad_order(&g, what);
    expect_refused(&g);
}
END_TEST

START_TEST(test_bad_record_fields)
{
    struct mp_record r = gen_call(1, 1, 1, 10, 5, 1, 1, 10);
    struct gen g;

    r.flags = 0xffff;
    switch (_i) {
    case 0: r.type = 0; break;
    case 1: r.type = 3; break;
    case 2: r.code_id = MP_CODES_MAX + 1; break;
    case 3: r.thread_id = 0; break;
    case 4: r.depth = MP_DEPTH_MAX + 1; break;
    case 5: r.dur_ns = r.time_ns + 1; break;
    case 6: r.time_ns = STREAM_TIME_MAX + 1; break;
    case 7: r.uss_bytes = STREAM_BYTES_MAX + 1; break;
    case 8: r.swap_bytes = UINT64_MAX; break;
    case 9: r.uss_delta = INT64_MIN; break;
    case 10: r.peak_bytes = STREAM_BYTES_MAX + 1; break;
    case 11: r.line = 0x80000000u; break;
    case 12: r.weight_log2 = MP_SAMPLE_LOG2_MAX + 1; break;
    case 13: r.type = MP_REC_LINE, r.weight_log2 = 1; break;
    default: ck_abort();
    }
    gen_open(&g);
    gen_call1(&g, r);
    expect_refused(&g);
}
END_TEST

static struct mp_govern good_govern(void)
{
    return gen_govern(1000, MP_STAGE_QUIET, 1, MP_SAMPLE_LOG2_MAX, 0, MP_COST_MAX_PPM);
}

START_TEST(test_bad_govern)
{
    struct mp_govern v = good_govern();
    struct gen g;

    switch (_i) {
    case 0: v.stage = MP_STAGES; break;
    case 1: v.depth = 0; break;
    case 2: v.depth = MP_DEPTH_MAX + 1; break;
    case 3: v.sample_log2 = MP_SAMPLE_LOG2_MAX + 1; break;
    case 4: v.cost_ppm = MP_COST_MAX_PPM + 1; break;
    case 5: v.floor_ppm = UINT32_MAX; break;
    case 6: v.time_ns = STREAM_TIME_MAX + 1; break;
    case 7: v.window_ns = UINT64_MAX; break;
    case 8: v.hook_ns = UINT64_MAX; break;
    case 9: v.work_ns = STREAM_TIME_MAX + 1; break;
    case 10: break; /* before the hook there is nothing to govern */
    default: ck_abort();
    }
    gen_init(&g);
    gen_hello(&g);
    if (_i != 10)
        gen_hooked(&g);
    gen_plain(&g, MP_MSG_GOVERN, &v, sizeof(v));
    expect_refused(&g);
}
END_TEST

START_TEST(test_bad_account)
{
    struct mp_bye bye = {.reason = MP_BYE_DETACH};
    struct mp_account *a = &bye.account;
    struct gen g;

    switch (_i) {
    case 0: a->work_ns = UINT64_MAX; break;
    case 1: a->agent_ns = UINT64_MAX; break;
    case 2: a->floor_ns = UINT64_MAX; break;
    case 3: a->stage_ns[MP_STAGE_QUIET] = STREAM_TIME_MAX + 1; break;
    case 4: a->cost_ppm = MP_COST_MAX_PPM + 1; break;
    case 5: a->deepest = MP_STAGES; break;
    case 6: a->least_depth = MP_DEPTH_MAX + 1; break;
    case 7: a->most_sample_log2 = MP_SAMPLE_LOG2_MAX + 1; break;
    case 8: bye.hook_ns = UINT64_MAX; break;
    default: ck_abort();
    }
    gen_open(&g);
    gen_plain(&g, MP_MSG_BYE, &bye, sizeof(bye));
    expect_refused(&g);
}
END_TEST

START_TEST(test_good_govern)
{
    struct mp_govern v = good_govern();
    struct stream *s = stream_new();
    struct stream_event ev;
    struct gen g;

    gen_open(&g);
    gen_plain(&g, MP_MSG_GOVERN, &v, sizeof(v));
    stream_feed(s, g.bytes, g.len);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(stream_next(s, &ev), 1);
    ck_assert_int_eq(ev.type, MP_MSG_GOVERN);
    ck_assert_int_eq(memcmp(&ev.govern, &v, sizeof(v)), 0);
    stream_free(s);
    gen_free(&g);
}
END_TEST

/* What was not measured may be anything. */
START_TEST(test_unmeasured_fields)
{
    struct mp_record r = gen_call(1, 1, 1, 10, 5, 1, 1, 10);
    struct gen g;

    r.flags = 0;
    r.uss_bytes = r.swap_bytes = r.peak_bytes = UINT64_MAX;
    r.uss_delta = INT64_MIN;
    gen_open(&g);
    gen_call1(&g, r);
    ck_assert_int_eq(decode(&g), 3);
    gen_free(&g);
}
END_TEST

/* Before HELLO nothing, before HOOKED no records; FAILED is followed by BYE. */
START_TEST(test_order)
{
    struct mp_failed failed = {.code = MP_FAIL_AUDIT};
    struct mp_selftest t = {0};
    struct gen g;

    gen_init(&g);
    gen_hooked(&g);
    expect_refused(&g);
    gen_init(&g);
    gen_hello(&g);
    gen_call1(&g, gen_call(1, 1, 1, 10, 5, 1, 1, 10));
    expect_refused(&g);
    gen_init(&g);
    gen_hello(&g);
    gen_plain(&g, MP_MSG_SELFTEST, &t, sizeof(t));
    gen_plain(&g, MP_MSG_SELFTEST, &t, sizeof(t));
    expect_refused(&g);
    gen_init(&g);
    gen_hello(&g);
    memset(failed.text, 'x', sizeof(failed.text));
    gen_plain(&g, MP_MSG_FAILED, &failed, sizeof(failed));
    gen_bye(&g);
    ck_assert_int_eq(decode(&g), 3);
    gen_free(&g);
    gen_init(&g);
    gen_hello(&g);
    gen_plain(&g, MP_MSG_FAILED, &failed, sizeof(failed));
    gen_hooked(&g);
    expect_refused(&g);
    gen_init(&g); /* MP_OPT_CURE: BYE without a hook */
    gen_hello(&g);
    gen_bye(&g);
    ck_assert_int_eq(decode(&g), 2);
    gen_free(&g);
}
END_TEST

START_TEST(test_failed_text_ends)
{
    struct mp_failed failed = {.code = MP_FAIL_AUDIT};
    struct stream *s = stream_new();
    struct stream_event ev;
    struct gen g;

    gen_init(&g);
    gen_hello(&g);
    memset(failed.text, 'x', sizeof(failed.text));
    gen_plain(&g, MP_MSG_FAILED, &failed, sizeof(failed));
    stream_feed(s, g.bytes, g.len);
    ck_assert_int_eq(stream_next(s, &ev), 1);
    ck_assert_int_eq(stream_next(s, &ev), 1);
    ck_assert_uint_eq(strlen(ev.failed.text), sizeof(failed.text) - 1);
    stream_free(s);
    gen_free(&g);
}
END_TEST

/* Another version: its HELLO is told, whatever its size; nothing more is read. */
START_TEST(test_other_abi)
{
    uint32_t hello[3] = {MP_ABI + 1, 7, 8};
    struct stream *s = stream_new();
    struct stream_event ev;
    struct gen g;

    gen_init(&g);
    gen_plain(&g, MP_MSG_HELLO, hello, sizeof(hello));
    gen_hooked(&g);
    stream_feed(s, g.bytes, g.len);
    ck_assert_int_eq(stream_next(s, &ev), 1);
    ck_assert_uint_eq(ev.hello.abi, MP_ABI + 1);
    ck_assert_int_eq(stream_next(s, &ev), -EPROTO);
    stream_free(s);
    gen_free(&g);
}
END_TEST

START_TEST(test_bounded)
{
    struct mp_frame f = {.len = MP_FRAME_MAX, .type = MP_MSG_HELLO};
    static unsigned char junk[2 * MP_FRAME_MAX];
    struct stream *s = stream_new();
    struct stream_event ev;

    ck_assert_uint_eq(stream_feed(s, &f, sizeof(f)), sizeof(f));
    ck_assert_int_eq(stream_next(s, &ev), 0);
    ck_assert_uint_eq(stream_feed(s, junk, sizeof(junk)), MP_FRAME_MAX - sizeof(f));
    ck_assert_uint_eq(stream_feed(s, junk, 1), 0);
    ck_assert_int_eq(stream_fill(s, 0), -ENOBUFS);
    ck_assert_int_eq(stream_next(s, &ev), -EPROTO);
    stream_free(s);
}
END_TEST

START_TEST(test_socket)
{
    struct mp_options o = {.depth = 3};
    struct stream *s = stream_new();
    struct stream_event ev;
    struct mp_frame f;
    int fd[2], n, sent = 0;
    struct gen g;

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
    ck_assert_int_eq(stream_fill(s, fd[0]), -EAGAIN);
    gen_service(&g);
    ck_assert_int_eq(write(fd[1], g.bytes, g.len), (ssize_t)g.len);
    ck_assert_int_eq(stream_fill(s, fd[0]), (int)g.len);
    while ((n = stream_next(s, &ev)) > 0)
        sent++;
    ck_assert_int_eq(sent, GEN_SERVICE_EVENTS);
    ck_assert_int_eq(stream_send(fd[0], MP_MSG_GO, &o, sizeof(o)), 0);
    ck_assert_int_eq(stream_send(fd[0], MP_MSG_DETACH, NULL, 0), 0);
    ck_assert_int_eq(read(fd[1], &f, sizeof(f)), sizeof(f));
    ck_assert_uint_eq(f.len, sizeof(f) + sizeof(o));
    ck_assert_uint_eq(f.type, MP_MSG_GO);
    do
        n = stream_send(fd[0], MP_MSG_GO, &o, sizeof(o));
    while (n == 0);
    ck_assert(n == -EAGAIN || n == -EIO);
    ck_assert_int_eq(stream_send(fd[0], MP_MSG_GO, &o, MP_FRAME_MAX), -EMSGSIZE);
    close(fd[1]);
    ck_assert_int_eq(stream_send(fd[0], MP_MSG_DETACH, NULL, 0), -EPIPE);
    close(fd[0]);
    stream_free(s);
    gen_free(&g);
}
END_TEST

/* The peer may clear O_NONBLOCK, and take with a copy of our end what poll(2) saw: a wait
 * here would be for ever, signals and all. Without the flags this test hangs. */
START_TEST(test_socket_blocking)
{
    struct stream *s = stream_new();
    int fd[2];

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
    ck_assert_int_eq(stream_fill(s, fd[0]), -EAGAIN);
    while (stream_send(fd[0], MP_MSG_DETACH, NULL, 0) == 0)
        ;
    ck_assert_int_eq(write(fd[1], "x", 1), 1);
    ck_assert_int_eq(stream_fill(s, fd[0]), 1);
    close(fd[0]);
    close(fd[1]);
    stream_free(s);
}
END_TEST

/* A pipe of one page, which a user of many pipes gets: GO is longer. */
START_TEST(test_pipe)
{
    static struct mp_options o;
    static char got[2 * sizeof(struct mp_options)];
    size_t want = sizeof(struct mp_frame) + sizeof(o), have = 0;
    int fd[2], status = -1;
    pid_t child;

    memset(&o, 0x5a, sizeof(o));
    signal(SIGPIPE, SIG_IGN);
    ck_assert_int_eq(pipe2(fd, O_CLOEXEC), 0);
    ck_assert_int_eq(fcntl(fd[1], F_SETPIPE_SZ, 4096), 4096);
    ck_assert_int_eq(fcntl(fd[1], F_SETFL, O_NONBLOCK), 0);
    child = fork();
    if (child == 0)
        _exit(stream_send(fd[1], MP_MSG_GO, &o, sizeof(o)) ? 1 : 0);
    close(fd[1]);
    for (ssize_t n = 1; n > 0; have += (size_t)n) {
        n = read(fd[0], got + have, sizeof(got) - have);
        ck_assert_int_ge(n, 0);
    }
    ck_assert_uint_eq(have, want);
    ck_assert_int_eq(memcmp(got + sizeof(struct mp_frame), &o, sizeof(o)), 0);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    close(fd[0]);
}
END_TEST

/* Full: nothing is written. Without a reader: an error. */
START_TEST(test_pipe_full)
{
    int fd[2], n;

    signal(SIGPIPE, SIG_IGN);
    ck_assert_int_eq(pipe2(fd, O_CLOEXEC | O_NONBLOCK), 0);
    do
        n = stream_send(fd[1], MP_MSG_DETACH, NULL, 0);
    while (n == 0);
    ck_assert_int_eq(n, -EAGAIN);
    close(fd[0]);
    ck_assert_int_eq(stream_send(fd[1], MP_MSG_DETACH, NULL, 0), -EPIPE);
    close(fd[1]);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("stream");

    tcase_add_test(tc, test_valid);
    tcase_add_test(tc, test_dribble);
    tcase_add_test(tc, test_contents);
    tcase_add_test(tc, test_truncation);
    tcase_add_loop_test(tc, test_corruption, 0, 3);
    tcase_add_loop_test(tc, test_lengths, 0, 6);
    tcase_add_loop_test(tc, test_refused, 0, BADS);
    tcase_add_loop_test(tc, test_bad_record_fields, 0, 14);
    tcase_add_loop_test(tc, test_bad_govern, 0, 11);
    tcase_add_loop_test(tc, test_bad_account, 0, 9);
    tcase_add_test(tc, test_good_govern);
    tcase_add_test(tc, test_unmeasured_fields);
    tcase_add_test(tc, test_order);
    tcase_add_test(tc, test_failed_text_ends);
    tcase_add_test(tc, test_other_abi);
    tcase_add_test(tc, test_bounded);
    tcase_add_test(tc, test_socket);
    tcase_add_test(tc, test_socket_blocking);
    tcase_add_test(tc, test_pipe);
    tcase_add_test(tc, test_pipe_full);
    return gen_run(tc);
}
