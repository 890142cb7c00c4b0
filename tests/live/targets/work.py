"""What every target shares: the conversation with the driver, the account it
keeps of its own work, and a function whose growth is known.

A target never writes to stdio: the driver checks that stdout and stderr stay
empty. They talk over two pipes, one JSON object or one command a line:

    driver                          target
                              <---  {"ready": true, "state": .., "reference": [..]}
    run                       --->                            works from here on
    ping                      --->  {"pong": true, "eintr": ..}   after at least one more step
    grow CALLS PAGES          --->  {"grown": CALLS}          leak_pages, CALLS times
    pause                     --->  {"paused": true}          nothing moves until `run`
    stop                      --->  {"report": {..}}          and exits with 0

A closed pipe means `stop`: a target never outlives its driver.

Runs on CPython 3.6 to 3.13. Reused by the campaign (tests/campaign)."""
import errno
import json
import mmap
import os
import select
import sys
import time
import zlib

PAGE = mmap.PAGESIZE
PERIOD = 8  # step(i) depends on i % PERIOD only, so that any number of steps has a known checksum
PR_SET_THP_DISABLE = 41
TICK = 0.02  # seconds that an idle state blocks at a time
TICK_NS = int(TICK * 1e9)
TICK_MS = int(TICK * 1e3)


class Libc(object):
    """Loaded when first used: ctypes has CPython 3.6 make its GIL, and some states are to have none."""

    def __getattr__(self, name):
        import ctypes
        lib = ctypes.CDLL(None, use_errno=True)
        self.__class__.__getattr__ = lambda self, name: getattr(lib, name)
        return getattr(lib, name)


libc = Libc()

pid = None  # of the process that does the work, where it is another one
kept = []  # what leak_pages keeps


def leak_pages(count):
    """Grows the process by exactly `count` pages, each faulted in by this thread."""
    block = mmap.mmap(-1, count * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for offset in range(0, count * PAGE, PAGE):
        block[offset] = 1
    kept.append(block)


def settle(count):
    """join returns a little before the kernel's thread is gone."""
    deadline = time.perf_counter() + 2
    while len(os.listdir("/proc/self/task")) > count and time.perf_counter() < deadline:
        time.sleep(0.001)


def checksum(value, seed=0):
    """A number for any value with a stable repr, the same on every version."""
    return zlib.crc32(repr(value).encode("utf-8"), seed) & 0xFFFFFFFF


class Account(object):
    """The target's own record of what it did and of what disturbed it."""

    def __init__(self):
        self.steps = 0
        self.checksum = 0
        self.wrong = 0        # steps with another value than the undisturbed run's
        self.eintr = 0        # EINTR from calls made straight through ctypes
        self.errors = 0       # any other errno that is not the expected one
        self.signals_sent = 0
        self.signals_seen = 0
        self.longest_step_ns = 0
        self.extra = {}       # of the state

    def took(self, value, expected, duration_ns):
        self.steps += 1
        self.wrong += value != expected
        self.checksum = checksum(value, self.checksum)
        self.longest_step_ns = max(self.longest_step_ns, duration_ns)

    def as_dict(self):
        return dict(vars(self))


account = Account()


def raw_call(function, *args, **expected):
    """Calls libc; a result of -1 must come with the errno `expect` (default: none)."""
    import ctypes
    ctypes.set_errno(0)
    result = function(*args)
    if result != -1:
        return result
    err = ctypes.get_errno()
    if err == errno.EINTR:
        account.eintr += 1
    elif err != expected.get("expect"):
        account.errors += 1
        account.extra["errno"] = err
    return result


class Control(object):
    """The target's end of the conversation."""

    def __init__(self, fd_in, fd_out):
        self.fd = fd_in
        self.fd_out = fd_out
        self.pending = b""

    def tell(self, **fields):
        os.write(self.fd_out, (json.dumps(fields, sort_keys=True) + "\n").encode())

    def ready(self, timeout=0):
        return b"\n" in self.pending or bool(select.select([self.fd], [], [], timeout)[0])

    def command(self):
        """The next command as a list of words; waits for it. A closed pipe is `stop`."""
        while b"\n" not in self.pending:
            chunk = os.read(self.fd, 4096)
            if not chunk:
                return ["stop"]
            self.pending += chunk
        line, _, self.pending = self.pending.partition(b"\n")
        return line.decode().split()


class State(object):
    """What a target does. A subclass is one row of the table in states.py."""
    plain = False  # must not import ctypes

    def setup(self, control):
        """Once, before `ready`. May return a reason to be skipped."""

    def step(self, i):
        """One unit of work, at most some tens of ms; its value depends on i % PERIOD."""
        raise NotImplementedError

    def quiet(self):
        """Before a pause: nothing of this state may move until the next step."""

    def command(self, words, control):
        """A command of its own. True when it was one."""
        return False

    def serve(self, control, reference):
        """The loop; returns at `stop`."""
        serve(self, control, reference)

    def close(self):
        """Before the report."""


def pause(state, control):
    """Says so and stands still until `run` (True) or `stop` (False)."""
    state.quiet()
    words = ["pause"]
    while words[0] not in ("run", "stop"):
        control.tell(**{"paused" if words[0] == "pause" else "unknown": True})
        words = control.command()
    return words[0] == "run"


def handle(state, control, words):
    """Obeys one command. False: stop."""
    if words[0] == "stop":
        return False
    if words[0] == "pause":
        return pause(state, control)
    if words[0] == "grow":
        for _ in range(int(words[1])):
            leak_pages(int(words[2]))
        control.tell(grown=int(words[1]))
    elif words[0] == "ping":
        control.tell(pong=True, eintr=account.eintr)
    elif words[0] == "exit":
        os._exit(int(words[1]))
    elif words[0] == "exec":
        os.execv("/bin/sleep", ["sleep", "60"])
    elif not state.command(words, control):
        control.tell(unknown=words)
    return True


def take_step(state, reference):
    start = time.perf_counter()
    value = state.step(account.steps)
    took_ns = int((time.perf_counter() - start) * 1e9)
    account.took(value, reference[account.steps % PERIOD], took_ns)


def serve(state, control, reference):
    """The main loop: the frame on which the base of a session settles."""
    while True:
        take_step(state, reference)
        if control.ready() and not handle(state, control, control.command()):
            return


def main(states):
    name, fd_in, fd_out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    control = Control(fd_in, fd_out)
    state = states[name]()
    if not state.plain:
        libc.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)  # a huge page would be one fault for 512 pages
    reason = state.setup(control)
    if reason:
        control.tell(skip=reason)
        return
    reference = [state.step(i) for i in range(PERIOD)]
    vars(account).update(vars(Account()))
    state.quiet()
    control.tell(ready=True, state=name, pid=pid or os.getpid(), version=sys.version.split()[0], reference=reference)
    if control.command()[0] == "run":
        control.tell(running=True)
        state.serve(control, reference)
    state.close()
    control.tell(report=account.as_dict())
