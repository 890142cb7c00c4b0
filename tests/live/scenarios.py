"""Each state of a target under one session: growth is found where it is, and the
target does not notice. The table is the issue's list."""
import os

import harness
import procfs
from harness import check

CALLS, PAGES = 64, 100
STEPS = 6  # of work while hooked, before and after the growth
PAGE = 4096
RSS_BATCH = 64  # pages: TASK_RSS_EVENTS_THRESH (mm/memory.c, up to 6.1)
EXACT = 0.75  # share of the calls that must be exact to a page


class Row:
    """state; options of inject; and what may be expected:
    lone    nothing else in the process touches memory: rss is right too
    slack   pages per call that `own` may be above the truth: after a fork, what is touched is copied (a gc run touches all)
    still   nothing but leak_pages grows: no other function may be blamed"""

    def __init__(self, state, options=(), lone=True, slack=1, still=True):
        self.state, self.options = state, options
        self.lone, self.slack, self.still = lone, slack, still


GROWING = (
    Row("select"),
    Row("epoll"),
    Row("sleep"),
    Row("event"),
    Row("read", still=False),  # rss is the process's: the thread that feeds sees the growth too
    Row("fib"),
    Row("alloc", lone=False, still=False),
    # Without --min-bytes a flood, which may lose records. A page or two of the interpreter's own may fall into a call.
    Row("threads", slack=4, lone=False, still=False, options=("--min-bytes", "64K")),
    Row("asyncio", lone=False, still=False, options=("--depth", "2")),
    Row("asyncio_forever", lone=False, still=False, options=("--depth", "5", "--min-bytes", "64K")),
    Row("generators", still=False, options=("--depth", "2")),
    Row("recursion", still=False),  # its frames come from a heap that is trimmed in each step
    Row("stacks", still=False, lone=False),
    Row("fork", slack=1024, lone=False, still=False),
    Row("fork_thread", slack=1024, lone=False, still=False),
    Row("multiprocessing", slack=1024, lone=False, still=False),
    Row("spawn", slack=1024, lone=False, still=False),
    Row("c_extensions", lone=False, still=False),
    Row("traced", slack=4),  # 3.9: two pages of the interpreter's own fall into the first call
    Row("profiled"),
    Row("covered", slack=16, lone=False, still=False),  # coverage's tracer notes the lines in memory of its own
    Row("sigalrm"),
    Row("queued"),
)

# Calls straight through ctypes: an EINTR that reaches the program would be counted.
RAW = ("raw_epoll", "raw_poll", "raw_nanosleep", "raw_recv", "raw_semtimedop", "raw_sigtimedwait", "raw_futex")  # the campaign has all
RAW_SESSIONS = 4


def growing(context, row):
    """One session over one state, the target looked at before and after. It is ended by
    `detach`, when all has happened: no length of time could promise that."""
    path = context.file("%s.ndjson" % row.state)
    with harness.Target(context.python, row.state) as target:
        with harness.Launcher(context.binary, "inject", "-p", target.pid, "-d", "60s", "--json", "-o", path,
                              "--timeout", "25s", "--max-overhead", "0", *row.options) as launcher:
            launcher.wait_attached()
            target.work(STEPS)
            target.grow(CALLS, PAGES)
            target.work(STEPS)
            harness.run(context.binary, "detach", "-p", target.pid).expect(0)
            result = launcher.result()
        result.expect(0)
        target.check_untouched(result)
        check_stream(context, row, target, harness.stream_of(path))


def check_stream(context, row, target, stream):
    check(stream.meta["pid"] == target.pid, "meta has another pid: %s", stream.meta)
    check(stream.meta["python"] == target.hello["version"], "meta has another version: %s", stream.meta)
    check(stream.end["clean"] is True and stream.end["reason"] == "detached", "the end is not clean: %s", stream.end)
    context.pauses.append(stream.meta["pause_ns"])
    leaks = stream.of("call", "leak_pages")
    check(len(leaks) == CALLS, "%d records of leak_pages, %d were expected; end: %s", len(leaks), CALLS, stream.end)
    check_own(row, leaks)
    if row.lone:
        told = stream.meta["selftest"]
        check_rss(leaks, abs(told["statm_error_pages"]), row.slack, RSS_BATCH if told.get("statm_synced") else 0)
    check_rank(row, stream)


def within(value, pages, slack):
    return pages * PAGE <= value <= (pages + slack) * PAGE


def check_own(row, leaks):
    for record in leaks:
        check(within(record["own_bytes"], PAGES, row.slack), "own is off: %s", record)
    exact = sum(within(record["own_bytes"], PAGES, 1) for record in leaks)
    check(exact >= EXACT * len(leaks), "own is exact in %d of %d calls only", exact, len(leaks))


def check_rss(leaks, error, more, batch):
    """Exact to what the kernel's counters allow (`error` pages) and to what the interpreter
    may take for itself (`more`), but for pages of files that the kernel takes back meanwhile
    when memory is short; and for the agent's own, which a kernel that counts for each thread tells
    of all at once (`batch`, before 6.2)."""
    off = [record["rss_delta_bytes"] - PAGES * PAGE for record in leaks]
    slack = (more + error) * PAGE
    check(max(off) <= slack + batch * PAGE, "rss is above the truth by %d bytes", max(off))
    exact = sum(abs(bytes_off) <= slack for bytes_off in off)
    check(exact >= EXACT * len(off), "rss is exact in %d of %d calls only: %s", exact, len(off), off)


def check_rank(row, stream):
    rank = stream.rank("leak_pages")
    check(rank["calls"] == CALLS, "calls: %s", rank)
    check(within(rank["own_self_bytes"], CALLS * PAGES, CALLS + 2 * row.slack), "own in the ranking is off: %s", rank)
    if row.lone:
        check(rank["rss_net_bytes"] >= EXACT * CALLS * PAGES * PAGE, "rss in the ranking is off: %s", rank)
    if not row.still:
        return
    check(rank["rank"] == 1, "another function is ranked first: %s", stream.of("rank")[0])
    for other in stream.of("rank"):
        check(other is rank or abs(other["rss_self_bytes"]) <= PAGES * PAGE, "blamed without cause: %s", other)


def culprit(context, threads):
    """A leak of 100 KiB a request beside a local of 4 MiB: the leak leads, the local is nowhere."""
    path = context.file("culprit.ndjson")
    requests = 100
    with harness.Target(context.python, "culprit") as target:
        with harness.Launcher(context.binary, "inject", "-p", target.pid, "-d", "60s", "--json", "-o", path,
                              "--max-overhead", "0", "--depth", "5") as launcher:
            launcher.wait_attached()
            check(target.ask("serve %d %d" % (threads, requests)).get("served"), "it does not serve")
            harness.run(context.binary, "detach", "-p", target.pid).expect(0)
            launcher.result().expect(0)
        target.check_untouched()
    stream = harness.stream_of(path)
    leaked = threads * requests * 25 * PAGE
    rank = stream.rank("leak_pages")
    check(rank["rank"] == 1, "another function is ranked first: %s", stream.of("rank")[:3])
    check(abs(rank["rss_self_bytes"] - leaked) <= leaked // (8 if threads == 1 else 2), "%d were leaked: %s", leaked, rank)
    held = stream.rank("hold_for_a_while")
    check(held["rss_net_bytes"] > 10 * leaked, "the local is not seen: %s", held)
    for other in stream.of("rank"):
        check(other is rank or abs(other["rss_self_bytes"]) <= leaked // 2, "blamed without cause: %s", other)


def raw(context, state):
    """Some short sessions over one blocking call."""
    with harness.Target(context.python, state) as target:
        for _ in range(RAW_SESSIONS):
            harness.run(context.binary, "inject", "-p", target.pid, "-d", "60ms", "--json", "-o", os.devnull).expect(0)
        differences = procfs.compare_strictly(target.before, target.pause())
        check(not differences, "the target is not as before:\n%s", "\n".join(differences))


def tests(short):
    for row in GROWING:
        if not short or row.state in ("select", "fib"):
            yield "scenario " + row.state, lambda context, row=row: growing(context, row)
    for threads in (1, 3):
        yield "culprit among %d threads" % threads, lambda context, threads=threads: culprit(context, threads)
    for state in () if short else RAW:
        yield "scenario " + state, lambda context, state=state: raw(context, state)
