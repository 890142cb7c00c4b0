"""The loads. Each is made with the driver and text arguments, and has either `unit`, a
function that does one unit of deterministic work, or a `loop` of its own.
Runs on CPython 3.6 and later; ImportError means: not on this interpreter."""
import functools
import json
import mmap
import os
import sys
import threading
import time
import uuid


class Load(object):
    loop = None

    def __init__(self, driver, *args):
        self.unit = self.prepare(driver, *args)


# --- everything below the traced depth: the worst case ----------------------------

def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def three_down(function):
    """Three levels that may be traced, and below them what never is."""
    def level_3():
        function()

    def level_2():
        level_3()

    def level_1():
        level_2()
    return level_1


class Fib(Load):
    def prepare(self, driver):
        return three_down(lambda: fib(17))


class FibThrough(Load):
    """The recursion begins at the first depth: three levels are traced, the rest is below."""

    def prepare(self, driver):
        return functools.partial(fib, 17)


class Point(object):
    __slots__ = ("x", "y")

    def __init__(self, x, y):
        self.x, self.y = x, y

    def plus(self, other):
        return Point(self.x + other.x, self.y + other.y)

    def norm(self):
        return self.x * self.x + self.y * self.y

    @property
    def swapped(self):
        return Point(self.y, self.x)


def small_methods():
    total = Point(0, 0)
    step = Point(1, 2)
    for _ in range(1000):
        total = total.plus(step).swapped
        if total.norm() < 0:
            raise ValueError


class Methods(Load):
    def prepare(self, driver):
        return three_down(small_methods)


def many_raises():
    def refuse():
        raise KeyError
    for _ in range(1000):
        try:
            refuse()
        except KeyError:
            pass


class Raises(Load):
    """Calls that end by an exception, below the traced depth: an event that sys.monitoring
    does not switch off for single functions."""

    def prepare(self, driver):
        return three_down(many_raises)


# --- Django ---------------------------------------------------------------------------

PAGE = """<html><head><title>{{ title|upper }}</title></head><body>
{% if user %}<p>Hello, {{ user.name }}!</p>{% else %}<p>Please log in</p>{% endif %}
<ul>{% for item in items %}
  <li class="{% if forloop.first %}first{% endif %}">{{ forloop.counter }}: {{ item.name }} - {{ item.price|floatformat:2 }}</li>
{% endfor %}</ul></body></html>"""


class Django(Load):
    def prepare(self, driver):
        import django
        from django.conf import settings
        settings.configure(TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}])
        django.setup()
        from django.template import Context, Template
        template = Template(PAGE)
        values = {"title": "Orders", "user": {"name": "Ada"},
                  "items": [{"name": "thing %d" % i, "price": i * 1.5} for i in range(3)]}
        render = template.render
        assert "thing 2" in render(Context(values))
        return lambda: render(Context(values))


# --- what the original's benchmark does: numpy, uuids, lists ----------------------------

class Examples(Load):
    """One unit is one pass over functions with the same kinds of allocation as the
    original's benchmark, each at about 1/30 of its size."""

    def prepare(self, driver):
        import numpy

        def small_list():
            return [1] * (3000)

        def large_lists():
            x = [1] * 3000
            y = [1] * 30000
            z = [1] * 300000
            return x, y, z

        def uuids():
            result = []
            for _ in range(1000):
                value = str(uuid.uuid4())
                result.append(value)
            return result

        def arrays():
            for _ in range(7):
                a = numpy.random.rand(10 ** 4)
                b = numpy.random.rand(10 ** 4)
                c = a * b
                numpy.sum(c)
                numpy.mean(c)

        def one_large_array():
            data = numpy.random.rand(30000, 4)
            return data.mean(axis=0)

        def levels():
            def level_1():
                data = [x for x in range(30000)]
                return level_2(data)

            def level_2(data):
                data.extend([x * 2 for x in range(3000)])
                return level_3(data[:300])

            def level_3(data):
                more = {i: i ** 2 for i in range(300)}
                return data, more
            return level_1()

        def unit():
            small_list()
            large_lists()
            uuids()
            arrays()
            one_large_array()
            levels()
        return unit


# --- calls that are all recorded -----------------------------------------------------------

def hundred_calls():
    """A unit of 101 calls, itself included."""
    def tiny():
        pass

    def unit():
        for _ in range(100):
            tiny()
    return unit


class Calls(Load):
    """Bursts of calls, and sleep between them, so that all can be delivered; only the bursts are timed."""
    burst = 20         # units: 2 to 4 ms with every call recorded
    sleep = 0.03

    def prepare(self, driver):
        return hundred_calls()

    def loop(self, driver):
        import target

        clock, cpu, unit = time.monotonic, target.cpu, self.unit
        for _ in driver.batches():
            driver.grow()
            start, c0 = clock(), cpu()
            wall = burst_cpu = 0.0
            for _ in range(3):
                time.sleep(self.sleep)
                t0, c1 = clock(), cpu()
                for _ in range(self.burst):
                    unit()
                wall += clock() - t0
                burst_cpu += cpu() - c1
            driver.took(3 * self.burst, start, start + wall, c0, c0 + burst_cpu)


class Chain(Load):
    """20 nested calls, each with 10 us of its own work: how cost grows with --depth."""

    def prepare(self, driver):
        def down(n):
            sum(range(400))
            if n:
                down(n - 1)

        return lambda: down(19)


class Spread(Load):
    """Small requests on `n` threads: three calls, 100 us each."""

    def prepare(self, driver, n="1"):
        self.threads = int(n)
        return None

    def loop(self, driver):
        sys.setswitchinterval(0.0005)  # or the main thread would wait 64 x 5 ms for its turn
        counts = [0] * self.threads

        def level_3():
            sum(range(4000))

        def level_2():
            level_3()

        def level_1():
            level_2()

        def work(i):
            while True:
                level_1()
                counts[i] += 1

        for i in range(self.threads):
            threading.Thread(target=work, args=(i,), daemon=True).start()
        before, t0, c0 = sum(counts), time.monotonic(), time.process_time()
        for _ in driver.batches():
            driver.grow()
            time.sleep(driver.batch)
            now, t1, c1 = sum(counts), time.monotonic(), time.process_time()
            driver.took(now - before, t0, t1, c0, c1)
            before, t0, c0 = now, t1, c1


class Flood(Load):
    """Calls on `n` threads, all recorded: what rings and stream sustain."""

    def prepare(self, driver, n="4"):
        self.threads = int(n)

    def loop(self, driver):
        sys.setswitchinterval(0.0005)
        unit = hundred_calls()
        driver.batch = 0.02
        counts = [0] * self.threads

        def work(i):
            while True:
                unit()
                counts[i] += 1

        for i in range(self.threads):
            threading.Thread(target=work, args=(i,), daemon=True).start()
        before, t0, c0 = sum(counts), time.monotonic(), time.process_time()
        for _ in driver.batches():
            driver.grow()
            time.sleep(driver.batch)
            now, t1, c1 = sum(counts), time.monotonic(), time.process_time()
            driver.took(now - before, t0, t1, c0, c1)
            before, t0, c0 = now, t1, c1


# --- big processes ------------------------------------------------------------------------

class Big(Load):
    """A request of 200 us that also maps and unmaps memory, in a process with `mib` MiB
    of 4 KiB pages resident and `maps` mappings more."""

    def prepare(self, driver, mib="0", maps="0"):
        self.ballast = [fill(64) for _ in range(int(mib) // 64)]
        if int(maps):
            self.holes = mmap.mmap(-1, 2 * int(maps) * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            split(self.holes, int(maps))
        document = [{"id": i, "tags": ["a", "b"], "value": i * 0.5} for i in range(30)]

        def decode(text):
            return json.loads(text)

        def encode(value):
            return json.dumps(value)

        def unit():
            bytearray(1 << 20)
            decode(encode(document))
        return unit


def fill(mib):
    block = mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(block, "madvise") and hasattr(mmap, "MADV_NOHUGEPAGE"):
        block.madvise(mmap.MADV_NOHUGEPAGE)
    for offset in range(0, mib << 20, mmap.PAGESIZE):
        block[offset] = 1
    return block


def split(block, count):
    """Every other page of the block read-only: one mapping becomes many."""
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    start = ctypes.addressof(ctypes.c_char.from_buffer(block))
    for i in range(count // 2):
        address = start + (2 * i + 1) * mmap.PAGESIZE
        block[(2 * i) * mmap.PAGESIZE] = 1
        if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), 1):
            raise OSError(ctypes.get_errno(), "mprotect")


# --- latency ----------------------------------------------------------------------------------

class Gap(Load):
    """The largest gap between two looks at the clock, inside the process."""

    def prepare(self, driver):
        worst = [0.0]
        clock = time.monotonic

        def unit():
            seen = worst[0]
            last = clock()
            for _ in range(2000):
                now = clock()
                if now - last > seen:
                    seen = now - last
                last = now
            worst[0] = seen

        def extra():
            seen, worst[0] = worst[0], 0.0
            return seen
        driver.extra = extra
        return unit


class Idle(Load):
    """Sleeps: what an agent costs where nothing happens. `n` more threads wait."""

    def prepare(self, driver, n="0"):
        for _ in range(int(n)):
            threading.Thread(target=self.doze, daemon=True).start()
        return lambda: time.sleep(0.005)

    @staticmethod
    def doze():
        while True:
            time.sleep(0.05)


# --- pyperformance's ----------------------------------------------------------------------------

class Captured(Exception):
    pass


class Runner(object):
    """What a pyperformance script sees of pyperf: its first benchmark is caught and not run."""
    metadata = {}

    def __init__(self, **options):
        import argparse
        self.metadata = {}
        self.argparser = argparse.ArgumentParser()
        self.args = None

    def parse_args(self, argv=None):
        self.args = self.argparser.parse_args(argv)
        return self.args

    def bench_func(self, name, function, *args, **options):
        raise Captured(functools.partial(function, *args))

    def bench_time_func(self, name, function, *args, **options):
        raise Captured(functools.partial(function, 1, *args))

    def bench_async_func(self, name, function, *args, **options):
        import asyncio
        loop = asyncio.new_event_loop()
        raise Captured(lambda: loop.run_until_complete(function(*args)))


class PyPerformance(Load):
    """One of its benchmarks, by name; arguments are the script's."""

    def prepare(self, driver, name, *args):
        import runpy
        import types
        import pyperformance
        pyperf = types.ModuleType("pyperf")
        pyperf.Runner, pyperf.perf_counter = Runner, time.perf_counter
        pyperf.python_implementation = lambda: "cpython"
        sys.modules["pyperf"] = pyperf
        folder = os.path.join(os.path.dirname(pyperformance.__file__), "data-files", "benchmarks", "bm_" + name)
        sys.path.insert(0, folder)
        sys.argv = ["run_benchmark.py"] + list(args)
        try:
            runpy.run_path(os.path.join(folder, "run_benchmark.py"), run_name="__main__")
        except Captured as caught:
            return caught.args[0]
        except OSError as error:
            raise ImportError(str(error))
        raise ImportError("a benchmark in %s" % name)


LOADS = {"fib": Fib, "fib-through": FibThrough, "pyperformance": PyPerformance, "methods": Methods, "raises": Raises, "django": Django, "examples": Examples, "calls": Calls, "chain": Chain,
         "spread": Spread, "flood": Flood, "big": Big, "gap": Gap, "idle": Idle}
