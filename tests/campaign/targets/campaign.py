"""target: campaign.py STATE FD_IN FD_OUT. The states of tests/live/targets/states.py and
those that only the campaign puts a process in. See work.py there for the conversation.
$CAMPAIGN_HELPERS names the folder of the libraries that setup.py built."""
import os
import sys

MAP_POPULATE = 0x8000  # mmap has a name for it from 3.10 on
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.environ.get("CAMPAIGN_TARGETS") or os.path.join(HERE, "..", "..", "live", "targets"))
sys.path.insert(0, HERE)

import work
if sys.argv[1].startswith("lone_"):
    import lone
    work.main(lone.STATES)
    sys.exit(0)

import atexit
import ctypes
import gc
import importlib
import mmap
import resource
import select
import signal
import threading
import time

import states
import states_busy
import states_raw
from states_busy import churn, fib
from work import account, checksum, libc, raw_call, settle

import campaign_limits
import campaign_servers
import campaign_tools
from campaign_helper import helper_lib, helper_path


class Mixed(work.State):
    """A little of all: what a state of the process's surroundings is tried with."""

    def step(self, i):
        i %= work.PERIOD
        slept = raw_call(libc.nanosleep, ctypes.byref(states_raw.Timespec(0, 2000000)), None)
        return checksum((fib(8 + i), churn(i, 60), slept))


class Registers(work.State):
    """Known values in vector and float registers, and the gaps in a clock that is read
    all the time: a pause, seen from inside. `gap` tells the largest and forgets it."""
    TURNS, COMPUTE, WATCH_NS = 1500000, 300000, 2000000

    def setup(self, control):
        self.lib = helper_lib()
        self.largest = 0

    def step(self, i):
        i %= work.PERIOD
        wrong = self.lib.helper_hold_vectors(self.TURNS, i)
        self.largest = max(self.largest, self.lib.helper_largest_gap(self.WATCH_NS))
        return checksum((i, wrong, self.lib.helper_compute(self.COMPUTE)))

    def command(self, words, control):
        if words[0] != "gap":
            return False
        control.tell(gap=self.largest)
        self.largest = 0
        return True


class Malloc(work.State):
    threads, rounds = 1, 20000

    def setup(self, control):
        self.lib = helper_lib()

    def step(self, i):
        i %= work.PERIOD
        return checksum((i, self.lib.helper_malloc_storm(self.threads, self.rounds, i)))


class Malloc2(Malloc):
    threads, rounds = 2, 20000


class Malloc16(Malloc):
    threads, rounds = 16, 1000


class Rseq(work.State):
    """Threads that are in restartable sequences nearly all the time: what one loses is counted."""
    ROUNDS = 1000

    def setup(self, control):
        self.lib = helper_lib()
        self.lib.helper_rseq_storm.restype = ctypes.c_int64
        if self.lib.helper_rseq_storm(1) < 0:
            return "no restartable sequences in this libc"

    def step(self, i):
        return checksum((i % work.PERIOD, self.lib.helper_rseq_storm(self.ROUNDS)))

    def quiet(self):
        settle(1)


class Coroutine(work.State):
    """Waits on a small stack of its own making, with other data right below."""

    def setup(self, control):
        self.lib = helper_lib()

    def step(self, i):
        return checksum((i % work.PERIOD, [self.lib.helper_on_small_stack() for _ in range(3)]))


class EpollPwait2(work.State):
    """Straight through syscall(2): a wait that a bare stop ends with EINTR."""
    NUMBER = 441

    def setup(self, control):
        self.fd = select.epoll()
        self.room = ctypes.create_string_buffer(16)
        self.time = states_raw.Timespec(0, 20000000)
        libc.syscall.argtypes = None
        if raw_call(self.wait) == -1:
            return "no epoll_pwait2 here"

    def wait(self):
        long = ctypes.c_long
        return libc.syscall(long(self.NUMBER), long(self.fd.fileno()), ctypes.byref(self.room), long(1), ctypes.byref(self.time),
                            None, long(0))

    def step(self, i):
        return checksum((i % work.PERIOD, raw_call(self.wait)))


class Imports(work.State):
    """dlopen and import without end."""
    MODULES = ("colorsys", "keyword", "stat", "bisect")

    def setup(self, control):
        self.lib = helper_lib()
        self.path = helper_path("small.so").encode()

    def step(self, i):
        names = 0
        for name in self.MODULES:
            sys.modules.pop(name, None)
            names += len(importlib.import_module(name).__name__)
        return checksum((i % work.PERIOD, names, self.lib.helper_dlopen_storm(self.path, 100)))


class Sigprof(states_busy.Fib):
    """SIGPROF at 1 kHz of CPU time."""

    def setup(self, control):
        signal.signal(signal.SIGPROF, self.tick)
        signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)

    def tick(self, number, frame):
        account.signals_seen += 1

    def close(self):
        signal.setitimer(signal.ITIMER_PROF, 0)


class ThreadChurn(work.State):
    """Threads that live for a moment, 30 in each step."""

    def step(self, i):
        i %= work.PERIOD
        results = []
        threads = [threading.Thread(target=lambda k=k: results.append(churn(k, 8))) for k in range(i, i + 30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return checksum(sorted(results))

    def quiet(self):
        settle(1)


class Looped:
    """Goes in a collection, and lets others have the GIL meanwhile."""

    def __init__(self):
        self.me = self

    def __del__(self):
        time.sleep(0.001)


class Outlasting(Exception):
    """Is made by C, when it is caught or traced, and lets others have the GIL meanwhile."""

    def __init__(self, number):
        time.sleep(0.001)
        self.number = number


class Handovers(work.State):
    """Three threads that hand over the GIL within collections and while C makes an exception: in CPython's tracing, too."""
    THREADS, TIMES = 3, 10

    def setup(self, control):
        gc.set_threshold(20)
        self.put = ctypes.pythonapi.PyErr_SetObject
        self.put.argtypes, self.put.restype = [ctypes.py_object] * 2, None

    def once(self, seed, results):
        got = 0
        for k in range(self.TIMES):
            Looped()
            try:
                self.put(Outlasting, seed + k)
            except Outlasting as e:
                got += e.number
            got += fib(6)
        results.append(got)

    def step(self, i):
        i %= work.PERIOD
        results = []
        threads = [threading.Thread(target=self.once, args=(i + k, results)) for k in range(self.THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return checksum(sorted(results))

    def quiet(self):
        settle(1)


class Threads500(Mixed):
    """500 threads that wait."""

    def setup(self, control):
        self.event = threading.Event()
        threading.stack_size(1 << 20)
        for _ in range(500):
            thread = threading.Thread(target=self.event.wait)
            thread.daemon = True
            thread.start()
        threading.stack_size(0)


class SmallStack(Mixed):
    """The work is done on a stack of 64 KiB."""

    def setup(self, control):
        self.asked, self.done, self.value = threading.Semaphore(0), threading.Semaphore(0), None
        threading.stack_size(65536)
        thread = threading.Thread(target=self.work)
        thread.daemon = True
        thread.start()
        threading.stack_size(0)

    def work(self):
        while True:
            self.asked.acquire()
            self.value = churn(self.i, 60)
            time.sleep(0.001)
            self.done.release()

    def step(self, i):
        self.i = i % work.PERIOD
        self.asked.release()
        self.done.acquire()
        return checksum((self.i, self.value))


class Resident(Mixed):
    """1 GiB of memory in use, in small pages."""
    SIZE = 1 << 30

    def setup(self, control):
        with open("/proc/meminfo") as file:
            free = next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable:"))
        if free < 2 * self.SIZE:
            return "%d MiB of memory are free" % (free >> 20)
        self.block = mmap.mmap(-1, self.SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_POPULATE)


class Resident8(Resident):
    SIZE = 8 << 30


class Mappings(Mixed):
    """20,000 mappings."""
    COUNT = 20000

    def setup(self, control):
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
        libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        base = libc.mmap(None, self.COUNT * work.PAGE, mmap.PROT_READ | mmap.PROT_WRITE, 0x22, -1, 0)
        for at in range(0, self.COUNT, 2):
            if libc.mprotect(base + at * work.PAGE, work.PAGE, mmap.PROT_READ):
                return "no %d mappings here" % self.COUNT


class Deep(work.State):
    """Stands at the recursion limit most of the time."""
    MARGIN, TIMES = 60, 3

    def down(self, n):
        if n == 0:
            time.sleep(0.002)
            return 1
        return (self.down(n - 1) * 3 + n) % 65521

    def step(self, i):
        depth = sys.getrecursionlimit() - self.MARGIN
        return checksum((i % work.PERIOD, [self.down(depth) for _ in range(self.TIMES)]))


STATES = dict(states.STATES)
STATES.update({
    "mixed": Mixed, "registers": Registers, "malloc_1": Malloc, "malloc_2": Malloc2, "malloc_16": Malloc16,
    "rseq": Rseq, "coroutine": Coroutine, "raw_epoll_pwait2": EpollPwait2, "imports": Imports, "sigprof": Sigprof, "thread_churn": ThreadChurn, "handovers": Handovers, "threads_500": Threads500,
    "small_stack": SmallStack, "resident": Resident, "resident_8": Resident8, "mappings": Mappings, "deep": Deep,
})
STATES.update(campaign_limits.states(Mixed))
STATES.update(campaign_tools.states(Mixed))


class Teardown:
    """The program within Py_Finalize, which begins by dropping what sys.argv and sys.last_value were."""

    def __init__(self):
        self.argv = sys.argv

    def __del__(self):
        sys.argv = self.argv
        if sys.is_finalizing():
            STATES["finalizing"] = Mixed
            work.main(STATES)


def at_exit():
    STATES["at_exit"] = Mixed
    atexit.register(work.main, STATES)


def main_ended():
    """The main thread is at its end and waits for the others."""
    STATES["main_ended"] = Mixed
    threading.Thread(target=work.main, args=(STATES,)).start()


def finalizing():
    sys.last_value = Teardown()


def without_leader():
    """The program on another thread, the leader gone from the kernel's view."""
    STATES["leader_gone"] = Mixed

    def run():
        work.main(STATES)
        os._exit(0)
    threading.Thread(target=run).start()
    libc.syscall(ctypes.c_long(60), ctypes.c_long(0))  # exit(2), of this thread; ctypes has let go of the GIL


WAYS = dict(campaign_servers.SERVERS, leader_gone=without_leader, at_exit=at_exit, main_ended=main_ended, finalizing=finalizing)

if __name__ == "__main__":
    WAYS.get(sys.argv[1], lambda: work.main(STATES))()
