"""The side of a benchmark that runs in the measured process: python target.py SOCKET LOAD [ARG]

A load is a unit of deterministic work (loads.py). The loop below runs units in
batches of about 20 ms and tells the driver after each one what it took; the driver
decides what is attached meanwhile. Every batch also grows the process by a known
amount in one known function, so that a tool's findings can be checked.

Lines to the driver, JSON:   {"hello": ...}   {"b": [units, t0, t1, cpu0, cpu1, grown, extra]}
                             {"w": [...]} the same for a window asked for with `tool`
Lines from the driver:       rest | run | tool NAME SECONDS DEPTH | quit
Times are CLOCK_MONOTONIC, which both sides share. Runs on CPython 3.6 and later."""
import itertools
import json
import mmap
import os
import select
import socket
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

BATCH = 0.02
GROW_PAGES = 8

clock = time.monotonic
cpu = time.process_time  # of all threads: a tool's own too
kept = []


def grow_known():
    """Grows the process by exactly GROW_PAGES pages, faulted in here."""
    size = GROW_PAGES * mmap.PAGESIZE
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for offset in range(0, size, mmap.PAGESIZE):
        block[offset] = 1
    kept.append(block)


class Nothing(object):
    def __enter__(self):
        pass

    def __exit__(self, *error):
        pass


NOTHING = Nothing()


def as_it_is(unit):
    return unit


class Driver(object):
    """The conversation. `batches` is what the loop asks for its next batch."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.lines = self.socket.makefile("r")
        self.poll = select.poll()
        self.poll.register(self.socket, select.POLLIN)
        self.each = 1          # units a batch, adapted to BATCH
        self.label = "b"
        self.batch = BATCH     # seconds; loads that a tool may slow a hundredfold take less
        self.grow = grow_known # for loads with a loop of their own
        self.extra = None      # a load's own number for the batch

    def say(self, **message):
        self.socket.sendall((json.dumps(message) + "\n").encode("utf-8"))

    def took(self, units, t0, t1, c0, c1, extra=None):
        self.say(**{self.label: [units, t0, t1, c0, c1, len(kept), extra]})
        if self.label == "b":
            self.each = max(1, int(units * min(4.0, self.batch / max(t1 - t0, 1e-6))))

    def command(self):
        """Waits for nothing; a closed socket ends the process."""
        while self.poll.poll(0):
            yield self.lines.readline().split() or ["quit"]

    def batches(self):
        while True:
            for words in self.command():
                while words[0] == "rest":
                    words = self.lines.readline().split() or ["quit"]
                if words[0] == "quit":
                    return
                if words[0] == "tool":
                    self.label = "w"
                    units = max(1, int(self.each * float(words[2]) / self.batch))
                    try:
                        tool = make_tool(words[1], int(words[3]))
                    except Exception as error:  # whatever a peer does wrong is a finding, not our end
                        self.say(failed="%s: %s" % (words[1], error))
                    else:
                        yield tool, units
                    self.label = "b"
            yield NOTHING, self.each


def make_tool(name, depth):
    if name == "nothing":
        return NOTHING
    import peers
    return peers.TOOLS[name](depth)


def loop(driver, unit):
    """The main loop that a tool finds. Its callees are at depth 1."""
    for tool, n in driver.batches():
        grow_known()
        call = getattr(tool, "wrap", as_it_is)(unit)
        with tool:
            t0, c0 = clock(), cpu()
            for _ in itertools.repeat(None, n):
                call()
            t1, c1 = clock(), cpu()
        driver.took(n, t0, t1, c0, c1, driver.extra and driver.extra())


def main():
    import loads

    driver = Driver(sys.argv[1])
    try:
        load = loads.LOADS[sys.argv[2]](driver, *sys.argv[3:])
    except ImportError as error:
        driver.say(skip="%s needs %s" % (sys.argv[2], error))
        return
    driver.say(hello=os.getpid(), version="%d.%d.%d" % sys.version_info[:3], page=mmap.PAGESIZE,
               grow=GROW_PAGES * mmap.PAGESIZE)
    if load.loop:
        load.loop(driver)
    else:
        loop(driver, load.unit)


if __name__ == "__main__":
    main()
