"""The state for --lines: one workload, run on request, and two references for
the rows that it should give: a tracer of our own with the original's rule, and
the original itself where it is installed."""
import select
import sys

import work
from work import checksum

TICK = 0.02


class Thing(object):
    def __init__(self, size):
        self.data = bytearray(size)

    def size(self):
        total = 0
        for byte in self.data[:3]:
            total += byte
        return total + len(self.data)


def produce(n):
    for k in range(n):
        yield k * k


def deeper(n):
    if n == 0:
        return 0
    return deeper(n - 1) + 1


def fails():
    raise ValueError("on purpose")


def make_things():
    """From 3.12 a comprehension is no frame, and whether each of its rounds is a visit
    of its line depends on whom one asks: kept away from the lines that are counted."""
    return [Thing(1 << k) for k in range(4)]


def workload():
    things = make_things()
    total = 0
    for thing in things:
        total += thing.size()
    total += sum(produce(3))
    try:
        fails()
    except ValueError:
        total += 1
    total += deeper(4)
    big = bytearray(1 << 20)
    total += len(big)
    del big
    return total


def application():
    """What is wrapped: --root application."""
    return workload()


HEADER = "{:64s} {:24s} {:>16s} {:>16s} {:>16s}".format("Callsite", "Method Name", "USS", "Swap", "Peak RSS")


def as_table(rows):
    out = [HEADER, "-" * 140]
    for site, method in rows:
        site = site if len(site) <= 64 else "..." + site[-61:]
        method = method if len(method) <= 24 else "..." + method[-21:]
        out.append("{:64s} {:24s} {:>16s} {:>16s} {:>16s}".format(site, method, "0", "0", "0"))
    return "\n".join(out) + "\n\n"


class Tracer(object):
    """Lines of the calls within `depth` of the wrapped function, first visits in
    order, and how often each line of `workload` was visited."""

    def __init__(self, depth):
        self.depth, self.now = depth, 0
        self.rows, self.seen, self.visits = [], set(), {}

    def call(self, frame, event, arg):
        if self.now >= self.depth:
            return None
        self.now += 1
        return self.local

    def local(self, frame, event, arg):
        if event == "return":
            self.now -= 1
        elif event == "line":
            self.line(frame.f_code, frame.f_lineno)
        return self.local

    def line(self, code, number):
        if code is workload.__code__:
            self.visits[str(number)] = self.visits.get(str(number), 0) + 1
        if (code, number) not in self.seen:
            self.seen.add((code, number))
            self.rows.append(("%s:%d" % (code.co_filename, number), code.co_name))


def traced(depth):
    """The wrapped function is not an event of the tracer: it is where it starts."""
    tracer = Tracer(depth)
    sys.settrace(tracer.call)
    workload()
    sys.settrace(None)
    return tracer


def original_table(depth):
    """The original's own table, its own lines and those of the wrapped function left out."""
    import mempulse
    kept = []
    maker = getattr(mempulse, "cMemoryUsageTracer", None) or mempulse.MemoryUsageTracer
    with maker(kept.extend, depth):
        workload()
    ours = [row for row in kept if "/mempulse/" not in row[0] and row[2] != "original_table"]
    return mempulse.format_trace_result(ours)


class Lines(work.State):
    def setup(self, control):
        self.fd = control.fd
        workload()  # what is only done once is done
        self.visits = traced(1).visits

    def step(self, i):
        select.select([self.fd], [], [], TICK)
        return checksum(i % work.PERIOD)

    def command(self, words, control):
        if words[0] == "once":
            application()
            control.tell(done=True, visits=self.visits)
        elif words[0] == "reference":
            control.tell(table=as_table(traced(int(words[1])).rows))
        elif words[0] == "original":
            self.original(int(words[1]), control)
        else:
            return False
        return True

    def original(self, depth, control):
        try:
            control.tell(table=original_table(depth))
        except ImportError:
            control.tell(skip="package mempulse is not installed here")


STATES = {"lines": Lines}
