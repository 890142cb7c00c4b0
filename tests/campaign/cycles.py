"""Very many sessions in one target, on each interpreter: what it has grown by after the first, and after the last."""
import os

import harness
import procfs
from lap import NEWEST

STATE, DURATION = "fib", "5ms"


def size(snapshot):
    return {"rss": snapshot.rss, "maps": len(snapshot.maps)}


def paused(target):
    now = target.pause()
    target.resume()
    return now


def cycle(binary, target):
    result = harness.run(binary, "inject", "-p", target.pid, "-d", DURATION, "-q", "-o", os.devnull)
    harness.check(result.code == 0, "%s", result)


def one(binary, interpreter, count):
    """The row of one interpreter."""
    row = {"t": "cycles", "state": STATE, "python": interpreter.name, "sessions": 0, "harms": []}
    try:
        with harness.Target(interpreter.path, STATE) as target:
            for row["sessions"] in range(1, count + 1):
                cycle(binary, target)
                if row["sessions"] == 1:
                    first = paused(target)
            last = paused(target)
            row.update(before=size(target.before), first=size(first), last=size(last))
            row["harms"] += procfs.compare_strictly(first, last)
    except AssertionError as failure:
        row["harms"].append(str(failure))
    return row


def rows(binary, interpreters, count):
    """Rows of the file of results."""
    for interpreter in interpreters:
        if interpreter.kind is None and interpreter.version <= NEWEST:
            yield one(binary, interpreter, count)
