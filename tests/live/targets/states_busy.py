"""States that keep the interpreter busy."""
import json
import mmap
import os
import queue
import re
import sys
import threading
import time
import zlib

import work
from work import checksum, settle

try:
    import sqlite3
except ImportError:
    sqlite3 = None


def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


class Fib(work.State):
    def step(self, i):
        return checksum(fib(12 + i % work.PERIOD))


def drop(value):
    return value


def hold_for_a_while():
    local = mmap.mmap(-1, 4 << 20)
    for at in range(0, 4 << 20, 4096):
        local[at] = 1
    return len(local)


def request():
    """A temporary that dwarfs what is kept, and goes only after the call that made it."""
    hold_for_a_while()
    work.leak_pages(25)


class Culprit(work.State):
    """`serve N M`: M requests on each of N threads, from their main loops."""

    def step(self, i):
        time.sleep(0.002)
        return checksum(i % work.PERIOD)

    def command(self, words, control):
        if words[0] != "serve":
            return False
        threads = [threading.Thread(target=self.loop, args=(int(words[2]),)) for _ in range(int(words[1]))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        control.tell(served=True)
        return True

    def loop(self, count):
        for _ in range(count):
            request()
            time.sleep(0.002)


def sink(n, reached):
    reached[0] = n
    sink(n + 1, reached)


def sink_to_limit(limit, reached):
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(limit)
    try:
        sink(0, reached)
    except RecursionError:
        pass
    finally:
        sys.setrecursionlimit(before)


class Stacks(work.State):
    """Recursion to the limit on a stack that has just room for it: from 3.11 on Python
    calls need none, so that a small one does, or the main thread's for a great limit."""

    def setup(self, control):
        inlined = sys.version_info >= (3, 11)
        self.size, self.limit, self.main_limit = (131072, 900, 20000) if inlined else (524288, 700, 5000)

    def step(self, i):
        threading.stack_size(self.size)
        deep, deeper = [0], [0]
        thread = threading.Thread(target=sink_to_limit, args=(self.limit, deep))
        thread.start()
        thread.join()
        threading.stack_size(0)
        sink_to_limit(self.main_limit, deeper)
        return checksum((i % work.PERIOD, self.limit - deep[0] < 50, self.main_limit - deeper[0] < 50))

    def quiet(self):
        settle(1)


class LongTurns(work.State):
    """A thread with a small stack that holds the GIL for a second at a time: whoever asks for
    it waits that long, while calls stand deep now and then."""
    TURN, ROUND = 1.0, 0.01  # seconds

    def setup(self, control):
        self.limit = 900 if sys.version_info >= (3, 11) else 150
        sys.setswitchinterval(self.TURN)

    def step(self, i):
        threading.stack_size(131072 if sys.version_info >= (3, 11) else 524288)
        deep = [0]
        thread = threading.Thread(target=self.turns, args=(deep,))
        thread.start()
        threading.stack_size(0)
        thread.join()
        return checksum((i % work.PERIOD, deep[0] > 100))

    def quiet(self):
        settle(1)

    def turns(self, deep):
        end = time.monotonic() + 1.5 * self.TURN
        while time.monotonic() < end:
            shallow = time.monotonic() + self.ROUND
            while time.monotonic() < shallow:
                fib(5)
            sink_to_limit(self.limit, deep)


class SwitchInterval(work.State):
    """Gives the GIL away, unasked, only for a system call between two long steps; tells its
    switch interval."""

    def step(self, i):
        end = time.monotonic() + 0.05
        while time.monotonic() < end:
            fib(8)
        return checksum(fib(12 + i % work.PERIOD))

    def command(self, words, control):
        if words[0] != "interval":
            return False
        control.tell(interval=sys.getswitchinterval())
        return True


class Flood(work.State):
    """A thread that does nothing but call, straight from its main loop: whatever depth
    is traced, calls are many. It rests while the target is paused."""

    def setup(self, control):
        self.going, self.lock, self.held = threading.Event(), threading.Lock(), False
        thread = threading.Thread(target=self.flood, name="flood")
        thread.daemon = True
        thread.start()

    def flood(self):
        while True:
            self.going.wait()
            with self.lock:
                for _ in range(1000):
                    drop(1)

    def step(self, i):
        if self.held:
            self.lock.release()
            self.held = False
        self.going.set()
        time.sleep(0.002)
        return checksum(i % work.PERIOD)

    def quiet(self):
        self.going.clear()
        if not self.held:
            self.lock.acquire()
            self.held = True


def churn(seed, count=400):
    """Dicts, lists and strings of all sizes, made and dropped."""
    table = {}
    for i in range(count):
        key = "key-%d" % ((i * 7919 + seed) % 257)
        table.setdefault(key, []).append("v" * (i % 700))
        if i % 3 == 0:
            table.pop("key-%d" % ((i * 31 + seed) % 257), None)
    return sum(len(values) * len(key) + sum(map(len, values)) for key, values in table.items())


class Alloc(work.State):
    def step(self, i):
        return checksum([churn(i % work.PERIOD * 10 + k) for k in range(5)])


class Threads(work.State):
    """50 threads: 40 that stay and 10 new ones in every step."""
    STAYING, FRESH = 40, 10

    def setup(self, control):
        self.results = queue.Queue()
        self.inboxes = [queue.Queue() for _ in range(self.STAYING)]
        for inbox in self.inboxes:
            thread = threading.Thread(target=self.stay, args=(inbox,))
            thread.daemon = True
            thread.start()

    def stay(self, inbox):
        while True:
            self.once(inbox.get())

    def once(self, seed):
        self.results.put((seed, churn(seed, 60)))

    def step(self, i):
        base = i % work.PERIOD * 100
        for k, inbox in enumerate(self.inboxes):
            inbox.put(base + k)
        fresh = [threading.Thread(target=self.once, args=(base + self.STAYING + k,)) for k in range(self.FRESH)]
        for thread in fresh:
            thread.start()
        got = sorted(self.results.get() for _ in range(self.STAYING + self.FRESH))
        for thread in fresh:
            thread.join()
        return checksum(got)

    def quiet(self):
        settle(self.STAYING + 1)


class Recursion(work.State):
    """Down to near the recursion limit and back."""
    MARGIN = 120

    def down(self, n):
        return 0 if n == 0 else (self.down(n - 1) * 3 + n) % 65521

    def step(self, i):
        return checksum(self.down(sys.getrecursionlimit() - self.MARGIN - i % work.PERIOD) % 2 +
                        self.down(500 + i % work.PERIOD))


class CExtensions(work.State):
    """Most of the time is spent in C: json, re, zlib, sqlite3."""

    def setup(self, control):
        if sqlite3 is None:
            return "this interpreter has no sqlite3"
        self.db = sqlite3.connect(":memory:")
        self.db.execute("create table t (k integer primary key, v text)")

    def step(self, i):
        i %= work.PERIOD
        document = [{"id": k, "name": "n%d" % (k * i), "tags": ["a", "b", k]} for k in range(60)]
        text = json.dumps(json.loads(json.dumps(document, sort_keys=True)), sort_keys=True)
        words = re.sub(r"n(\d+)", lambda m: m.group(1)[::-1], text)
        self.db.execute("delete from t")
        self.db.executemany("insert into t values (?, ?)", [(k, words[k:k + 20]) for k in range(100)])
        rows = self.db.execute("select v, count(*) from t group by v order by v").fetchall()
        return checksum((rows, zlib.crc32(zlib.compress(words.encode(), 6))))


def traced_work(i):
    total = 0
    for k in range(20):
        total += fib(5 + (i + k) % 4)
    return total


class Traced(work.State):
    """Under a tracer in pure Python, as a debugger or a coverage tool would be."""

    def setup(self, control):
        self.lines = 0
        sys.settrace(self.trace)

    def trace(self, frame, event, arg):
        if frame.f_code.co_name not in ("fib", "traced_work"):
            return None
        self.lines += event == "line"
        return self.trace

    def step(self, i):
        before = self.lines
        return checksum((traced_work(i % work.PERIOD), self.lines - before))

    def close(self):
        work.account.extra["tracer_kept"] = sys.gettrace() == self.trace
        sys.settrace(None)


class TracedInside(work.State):
    """A tracer that comes and goes within each call. Mostly there is none."""

    def call(self, i):
        seen = []
        value = traced_work(i)
        sys.settrace(lambda *event: seen.append(event))
        value += traced_work(i)
        sys.settrace(None)
        time.sleep(0.005)
        return value + traced_work(i), len(seen)

    def step(self, i):
        return checksum(self.call(i % work.PERIOD))


class Profiled(work.State):
    """Under cProfile: its counts must not change."""

    def setup(self, control):
        import cProfile
        self.make = cProfile.Profile

    def step(self, i):
        profile = self.make()
        profile.enable()
        value = traced_work(i % work.PERIOD)
        profile.disable()
        calls = [row.callcount for row in profile.getstats()
                 if getattr(row.code, "co_name", None) in ("fib", "traced_work")]
        return checksum((value, sorted(calls)))


def called_last():
    return "by no step"


class Covered(work.State):
    """Under coverage.py, where it is installed: it must still trace at the end."""

    def setup(self, control):
        try:
            import coverage
        except ImportError:
            return "module coverage is missing"
        self.path = os.path.realpath(__file__)  # as coverage.py calls it
        self.coverage = coverage.Coverage(data_file=None, include=[self.path])
        self.coverage.start()

    def step(self, i):
        return checksum(traced_work(i % work.PERIOD))

    def close(self):
        called_last()
        self.coverage.stop()
        lines = self.coverage.get_data().lines(self.path) or []
        work.account.extra["lines_covered"] = called_last.__code__.co_firstlineno + 1 in lines


STATES = {
    "stacks": Stacks, "long_turns": LongTurns, "switch_interval": SwitchInterval, "culprit": Culprit,
    "fib": Fib, "alloc": Alloc, "threads": Threads, "recursion": Recursion, "c_extensions": CExtensions,
    "traced": Traced, "traced_inside": TracedInside, "profiled": Profiled, "covered": Covered, "flood": Flood,
}
