"""target: bare.py KIND SECONDS. A program that never starts a thread and imports nothing that
would: in CPython 3.6 it has no GIL. Exits with 0 when nothing disturbed it, and says what did
otherwise. Runs on 3.6 and later; ctypes, which the other targets import, has 3.6 make one.

    busy      computes
    asleep    waits 20 ms at a time
    waiting   waits in one read(2) till the end
    signals   computes, with SIGALRM at 1 kHz
    both      waits 1 ms at a time, with SIGALRM at 1 kHz
    forks     every 30 ms a child, 6 of them, which compute"""
import os
import signal
import sys
import time

HZ = 1000
kind, seconds = sys.argv[1], float(sys.argv[2])
seen = 0


def on_alarm(number, frame):
    global seen
    seen += 1


def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def step():
    if kind in ("busy", "signals", "forks"):
        return fib(12)
    begin = time.monotonic()
    time.sleep(0.001 if kind == "both" else 0.02)
    return 144 if time.monotonic() - begin >= 0.001 else -1


def wait():
    """A read that ends by itself: the other end is closed by a child that sleeps. Its image is its
    own from the start, for a forked child of ours would have threads to mind."""
    read, write = os.pipe()
    os.set_inheritable(write, True)
    child = os.spawnvp(os.P_NOWAIT, "sleep", ["sleep", str(seconds)])
    os.close(write)
    begin = time.monotonic()
    got = os.read(read, 1)
    os.waitpid(child, 0)
    return got == b"" and time.monotonic() - begin >= seconds * 0.5


def forks(seconds):
    """Children that end well; the parent minds them."""
    children = []
    for _ in range(6):
        child = os.fork()
        if not child:
            return
        children.append(child)
        time.sleep(0.03)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0, "a child died"
    sys.exit(0)


def main():
    if kind in ("signals", "both"):
        signal.signal(signal.SIGALRM, on_alarm)
        signal.setitimer(signal.ITIMER_REAL, 1 / HZ, 1 / HZ)
    print("ready", flush=True)
    if kind == "forks":
        forks(seconds)
    if kind == "waiting":
        assert wait(), "the read"
        return
    end = time.monotonic() + seconds
    late = 0
    while time.monotonic() < end:
        assert step() == 144, "the sum, or the sleep"
        if end - time.monotonic() < seconds / 4 and not late:
            late = seen + 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    # Those of the last quarter are seen, too: whoever made the GIL is not the thread that minds signals.
    assert kind not in ("signals", "both") or seen - late > seconds / 4 * HZ / 10, "signals: %d, then %d" % (late, seen)


main()
