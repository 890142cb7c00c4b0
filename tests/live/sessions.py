"""How sessions begin and end: many in a row, a launcher that dies, a target that
ends, a second launcher, a frame that does not return. On every interpreter."""
import os
import re
import shutil
import signal
import subprocess

import harness
import procfs
from harness import check

CYCLES = int(os.environ.get("CYCLES", 50))  # more with: CYCLES=1000 tests/live/run.py -k cycles
LEASE = 3.0          # seconds; MP_LEASE_MS and what a loaded machine adds
EARLY_LEASE = 9.0    # MP_GO_WAIT_MS: the loader waits 5 s for a launcher's first byte
CYCLES_RSS = 64 << 10  # what they may change the size by
NUMBER_TRIES = 500   # others take numbers, too


def inject(context, target, *options):
    return harness.Launcher(context.binary, "inject", "-p", target.pid, *options)


def nothing_left(target, seconds=LEASE):
    procfs.wait_until(lambda: not procfs.ours(target.pid), seconds, "no mapping and no descriptor of ours")


def cycles(context):
    """Many sessions in a row leave the target as the first one left it."""
    with harness.Target(context.python, "fib") as target:
        first = None
        for i in range(CYCLES):
            result = harness.run(context.binary, "inject", "-p", target.pid, "-d", "50ms", "--json", "-o", os.devnull)
            check(result.code == 0, "cycle %d: %s", i, result)
            if first is None:
                first = target.pause()
                target.resume()
        last = target.pause()
        differences = procfs.compare_strictly(first, last)
        check(not differences, "after %d cycles:\n%s", CYCLES, "\n".join(differences))
        target.check_untouched()
        check(last.rss - first.rss <= CYCLES_RSS, "%d cycles took %d bytes", CYCLES, last.rss - first.rss)


def waiting_target(context):
    """A target that waits, compared page by page."""
    with harness.Target(context.python, "select") as target:
        result = harness.run(context.binary, "inject", "-p", target.pid, "-d", "100ms", "--json", "-o", os.devnull)
        result.expect(0)
        differences = procfs.compare_strictly(target.before, target.pause())
        check(not differences, "the target is not as before:\n%s\n%s", "\n".join(differences), result)


def launcher_killed(context):
    """The lease: the agent leaves by itself, and the next injection works."""
    with harness.Target(context.python, "fib") as target:
        with inject(context, target, "--json", "-o", os.devnull) as launcher:
            launcher.wait_attached()
            launcher.signal(signal.SIGKILL)
            launcher.process.wait()
        nothing_left(target)
        harness.run(context.binary, "inject", "-p", target.pid, "-d", "100ms", "-o", os.devnull).expect(0)
        target.check_untouched()


def launcher_killed_early(context):
    """Killed at some moment of the injection itself, some times over."""
    with harness.Target(context.python, "fib") as target:
        for delay_ms in range(0, 36, 4):
            with inject(context, target, "-q", "-o", os.devnull) as launcher:
                try:
                    launcher.process.wait(delay_ms / 1000.0)  # not for readiness: the delay is the test
                except harness.subprocess.TimeoutExpired:
                    pass
                launcher.signal(signal.SIGKILL)
                launcher.process.wait()
            # A launcher killed in the microseconds after the kernel's mmap leaves an empty
            # mapping that nobody runs in: detach knows it by its place.
            harness.run(context.binary, "detach", "-p", target.pid, "--wait", "5s").expect(0)
            # On a busy machine the thread that was told to mmap may do so after detach looked.
            if procfs.ours(target.pid):
                harness.run(context.binary, "detach", "-p", target.pid, "--wait", "5s").expect(0)
            nothing_left(target, EARLY_LEASE)
        harness.run(context.binary, "inject", "-p", target.pid, "-d", "100ms", "-o", os.devnull).expect(0)
        target.check_untouched()


def target_ends(context, command, reason):
    """The target leaves in the middle of the stream: 11, and the stream has its end."""
    path = context.file("ends.ndjson")
    with harness.Target(context.python, "fib") as target:
        with inject(context, target, "--json", "-o", path) as launcher:
            launcher.wait_attached()
            if command == "kill":
                target.process.kill()
            else:
                target.send(command)
            result = launcher.result()
        result.expect(11)
        end = harness.stream_of(path).end
        check(end["reason"] == reason, "the reason is %s\n%s", end, result)
        check(end.get("tail_missing") is True, "it does not say that the end is missing: %s", end)
        check("last moments (up to 0.1 s) is not in" in result.err, "nor does the verdict\n%s", result)
        target.account = {}  # it has no last word


def target_finishes(context):
    """The target's program comes to its natural end while it is traced."""
    path = context.file("finishes.ndjson")
    with harness.Target(context.python, "fib") as target:
        with inject(context, target, "--json", "-o", path) as launcher:
            launcher.wait_attached()
            target.stop()
            result = launcher.result()
        result.expect(11)
        end = harness.stream_of(path).end
        check(end["reason"] in ("target_exited", "target_finalizing"), "the reason is %s", end)


def frame_stays(context):
    """A frame entered while hooked that does not return. Up to 3.11 the thunk must
    stay for it: exit 10, named; later `detach` finds it free. From 3.12: nothing."""
    with harness.Target(context.python, "menu") as target:
        with inject(context, target, "-d", "600ms", "--json", "-o", os.devnull) as launcher:
            launcher.wait_attached()
            check(target.ask("stand").get("standing"), "it does not stand")
            result = launcher.result()
        result.expect(0 if context.interpreter.monitoring else 10)
        if not context.interpreter.monitoring:
            check("thunk" in result.err, "what stays is not named\n%s", result)
            harness.run(context.binary, "detach", "-p", target.pid).expect(10)
        check(target.ask("return").get("returned"), "it does not return")
        harness.run(context.binary, "detach", "-p", target.pid, "--wait", "10s").expect(0)
        check(not procfs.ours(target.pid), "left: %s", procfs.ours(target.pid))
        target.check_untouched()


def residue_reused(context):
    """The next injection works over a thunk that had to stay, and a clean end follows."""
    with harness.Target(context.python, "menu") as target:
        with inject(context, target, "-d", "400ms", "-o", os.devnull) as launcher:
            launcher.wait_attached()
            target.ask("stand")
            launcher.result()
        harness.run(context.binary, "inject", "-p", target.pid, "-d", "200ms", "-o", os.devnull).expect((0, 10))
        target.ask("return")
        harness.run(context.binary, "inject", "-p", target.pid, "-d", "200ms", "-o", os.devnull).expect(0)
        check(not procfs.ours(target.pid), "left: %s", procfs.ours(target.pid))


def detach_elsewhere(context):
    """`detach` from another terminal ends the session; its launcher says so and exits 0."""
    path = context.file("detached.ndjson")
    with harness.Target(context.python, "fib") as target:
        with inject(context, target, "--json", "-o", path) as launcher:
            launcher.wait_attached()
            detached = harness.run(context.binary, "detach", "-p", target.pid).expect(0)
            check("nothing left behind" in detached.out, "it does not say so\n%s", detached)
            launcher.result().expect(0)
        end = harness.stream_of(path).end
        check(end["reason"] == "detached" and end["clean"], "the end is %s", end)
        check("tail_missing" not in end, "all was received: %s", end)
        target.check_untouched()


def fork_note(context):
    """From 3.12 on fork() in a program with one thread warns: said at the attach, once."""
    words = "os.fork() warns of threads"
    for state, wanted in (("fib", context.interpreter.monitoring), ("threads", False)):
        path = context.file(state + ".ndjson")
        with harness.Target(context.python, state) as target:
            result = harness.run(context.binary, "inject", "-p", target.pid, "-d", "50ms", "--json", "-o", path).expect(0)
            notes = [row for row in harness.stream_of(path).of("note") if row["code"] == "fork"]
            check((words in result.err) == wanted and len(notes) == wanted, "%s: %s\n%s", state, notes, result)
            quiet = harness.run(context.binary, "inject", "-p", target.pid, "-d", "50ms", "-q", "-o", os.devnull).expect(0)
            check(words not in quiet.err, "-q is not quiet\n%s", quiet)


def little_work(context):
    """A percentage of next to no work says nothing: the cost is told in time."""
    with harness.Target(context.python, "sleep") as target:
        result = harness.run(context.binary, "inject", "-p", target.pid, "-d", "600ms", "-o", os.devnull).expect(0)
        check(re.search(r"hook cost ([0-9.]+ (ns|us|ms)|[0-9.]+% \([0-9.]+% of a CPU\)|[0-9.]+% of a CPU)[ ,]", result.err), "the cost\n%s", result)


def long_turns(context):
    """The agent waits for the GIL to take its hook out, for up to a second. Meanwhile calls go
    as deep on a small stack as they would without a hook."""
    if context.interpreter.version != (3, 11):
        raise harness.Skip("only 3.11 inlines calls without a hook and not with one")
    with harness.Target(context.python, "long_turns") as target:
        for _ in range(5):
            harness.run(context.binary, "inject", "-p", target.pid, "-d", "300ms", "-o", os.devnull).expect((0, 10))
        target.pause()
        harness.run(context.binary, "detach", "-p", target.pid, "--wait", "10s").expect(0)  # of frames that stood
        left = procfs.ours(target.pid)
        check(not left, "left:\n%s", "\n".join(left))


def never_asked(context):
    """A waiter for the GIL that is woken in vain again and again, as by a target that gives it
    away often and for microseconds, never asks for it. The launcher has it ask."""
    library = preloaded(context, "woken")
    with harness.Target(context.python, "switch_interval", prefix=("env", "LD_PRELOAD=" + library)) as target:
        for _ in range(3):
            harness.run(context.binary, "inject", "-p", target.pid, "-d", "50ms", "-o", os.devnull).expect(0)
        with inject(context, target, "-o", os.devnull) as launcher:
            launcher.wait_attached()
            harness.run(context.binary, "detach", "-p", target.pid).expect(0)
            launcher.result().expect(0)
        differences = procfs.compare(target.before, target.pause())
        check(not differences, "left:\n%s", "\n".join(differences))
        target.resume()
        interval = target.ask("interval")["interval"]
        check(interval == 0.005, "the switch interval is %s s now", interval)


THREADS = """
import ctypes, sys, threading
gettid = ctypes.CDLL(None).syscall
def stay():
    tids.append(gettid(186))
    began.set()
    ends.wait()
print("ready", flush=True)
for line in sys.stdin:
    tids, began, ends = [], threading.Event(), threading.Event()
    thread = threading.Thread(target=stay, daemon=True)
    thread.start()
    began.wait()
    print(tids[0], flush=True)
    if tids[0] != int(line):
        ends.set()
        thread.join()
"""


def number_again(context):
    """The loader's first thread ends at once; a thread of the target gets its number. The region goes all the same."""
    target = harness.spawn([context.python, "-c", THREADS], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        check(target.stdout.readline() == b"ready\n", "it does not start")
        with harness.Launcher(context.binary, "inject", "-v", "-p", target.pid, "--thread", target.pid, "-o", os.devnull) as launcher:
            launcher.wait_attached()
            raw = int(re.search(r"raw thread (\d+)", "\n".join(launcher.err)).group(1))
            procfs.wait_until(lambda: raw not in procfs.tasks(target.pid), harness.PATIENCE, "the raw thread has ended")
            for _ in range(NUMBER_TRIES):
                try:
                    with open("/proc/sys/kernel/ns_last_pid", "w") as file:
                        file.write(str(raw - 1))
                except OSError:
                    raise harness.Skip("the next number can't be chosen here")
                target.stdin.write(b"%d\n" % raw)
                target.stdin.flush()
                if int(target.stdout.readline()) == raw:
                    break
            else:
                raise harness.Skip("others took the number")
            launcher.signal(signal.SIGINT)
            launcher.result().expect(130)
        check(not procfs.ours(target.pid), "left: %s", procfs.ours(target.pid))
    finally:
        harness.reap(target)
        target.stdin.close()
        target.stdout.close()


def preloaded(context, name):
    """tests/live/targets/NAME.c as a library."""
    if not shutil.which("cc"):
        raise harness.Skip("no compiler")
    library = context.file(name + ".so")
    source = os.path.join(harness.TARGETS, name + ".c")
    harness.subprocess.check_call(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl", "-lpthread"])
    return library


def listed_threads(context):
    """A preloaded malloc that keeps every thread on a list: none of ours is on it afterwards."""
    library = preloaded(context, "listed")
    with harness.Target(context.python, "threads", prefix=("env", "LD_PRELOAD=" + library)) as target:
        for _ in range(3):
            harness.run(context.binary, "inject", "-p", target.pid, "-d", "100ms", "-o", os.devnull).expect(0)
        differences = procfs.compare(target.before, target.pause())
        check(not differences, "left:\n%s", "\n".join(differences))


TESTS = (
    ("malloc with a list of threads", listed_threads),
    ("the GIL is held for long", long_turns),
    ("the GIL is never asked for", never_asked),
    ("os.fork() will warn", fork_note),
    ("cost of little work", little_work),
    ("waiting target, exactly as before", waiting_target),
    ("%d cycles" % CYCLES, cycles),
    ("launcher killed in mid-stream", launcher_killed),
    ("launcher killed while it injects", launcher_killed_early),
    ("target exits", lambda context: target_ends(context, "exit 3", "target_exited")),
    ("target execs", lambda context: target_ends(context, "exec", "target_execed")),
    ("target is killed", lambda context: target_ends(context, "kill", "target_exited")),
    ("target finishes", target_finishes),
    ("frame that stays", frame_stays),
    ("residue is reused", residue_reused),
    ("detach from elsewhere", detach_elsewhere),
    ("the raw thread's number again", number_again),
)
SHORT = ("waiting target, exactly as before", "launcher killed in mid-stream", "target exits")


def tests(short):
    for name, function in TESTS:
        if not short or name in SHORT:
            yield "session " + name, function
