"""Very many sessions in one target: what it has grown by after the first, and after the last."""
import concurrent.futures
import os

import harness
import procfs
from lap import NEWEST

STATES, DURATION = ("fib", "select"), "5ms"
FIRST = 2       # sessions after which nothing grows: one of each kind
RSS_ROOM = 32 << 10  # bytes: less than one small object for each of 1,000 sessions
KINDS = ((), ("--lines",))


def size(snapshot):
    return {"rss": snapshot.rss, "maps": len(snapshot.maps)}


def paused(target):
    now = target.pause()
    target.resume()
    return now


def cycle(binary, target, options):
    result = harness.run(binary, "inject", "-p", target.pid, "-d", DURATION, "-q", "-o", os.devnull, *options)
    harness.check(result.code == 0, "%s", result)


def one(binary, interpreter, state, count):
    """The row of one target."""
    row = {"t": "cycles", "state": state, "python": interpreter.name, "sessions": 0, "rss_room": RSS_ROOM, "harms": []}
    try:
        with harness.Target(interpreter.path, state) as target:
            for row["sessions"] in range(1, count + 1):
                cycle(binary, target, KINDS[row["sessions"] % len(KINDS)])
                if row["sessions"] == FIRST:
                    first = paused(target)
            last = paused(target)
            row.update(before=size(target.before), first=size(first), last=size(last))
            row["harms"] += procfs.compare_strictly(first, last)
            if last.rss - first.rss > RSS_ROOM:
                row["harms"].append("RSS grew by %d bytes" % (last.rss - first.rss))
    except AssertionError as failure:
        row["harms"].append(str(failure))
    return row


def rows(binary, interpreters, count):
    """Rows of the file of results, a target for each CPU at a time."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        running = [pool.submit(one, binary, interpreter, state, max(count, FIRST)) for interpreter in interpreters
                   if interpreter.kind is None and interpreter.version <= NEWEST for state in STATES]
        for done in concurrent.futures.as_completed(running):
            yield done.result()
