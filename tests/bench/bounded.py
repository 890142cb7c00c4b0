"""Nothing here waits for ever, and nothing outlives the harness.

A *child* leads a session of its own, is killed by the kernel when the harness dies
(PR_SET_PDEATHSIG) or when its alarm rings (alarm(2) survives execve), and by `reap`
with all of its process group. A *point* is one measurement: an interval timer
interrupts whatever it waits in, and its children are reaped when it ends.

One point at a time, from the main thread: signals arrive there."""
import atexit
import contextlib
import ctypes
import os
import signal
import subprocess
import time

PR_SET_PDEATHSIG = 1
LIFETIME = 900  # seconds: the last resort, should everything else fail
AGAIN = 10      # seconds: a clean-up that hangs is interrupted as well

libc = ctypes.CDLL(None)
children = []
starting = False  # between fork and the note of it, the timer must wait


class Skip(Exception):
    """Why something can't be measured here."""


class TooLong(Skip):
    pass


class Stopped(BaseException):
    """SIGTERM or SIGINT: end what runs, write what there is."""


def spawn(argv, lifetime=LIFETIME, **options):
    """Popen with a bound; raises what Popen raises."""
    global starting

    def before_exec():
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.alarm(int(lifetime))
        if os.getppid() != parent:
            os._exit(127)

    parent = os.getpid()
    starting = True
    try:
        child = subprocess.Popen(argv, start_new_session=True, preexec_fn=before_exec, **options)
        children.append(child)
    finally:
        starting = False
    return child


def kill(child):
    """The whole group, although its leader may have ended. The group's id is ours until
    the leader is waited for."""
    if child.returncode is None:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except OSError:
            pass
        try:
            child.wait(AGAIN)
        except subprocess.TimeoutExpired:
            pass  # in the kernel for good: nothing more can be done from here
    if child in children:
        children.remove(child)


def reap(mark=0):
    """Ends all children that were started since `mark` of them were there."""
    for child in reversed(children[mark:]):
        kill(child)


def run(argv, seconds, **options):
    """subprocess.run, stdin closed; Skip when it takes longer, and then all of its group is gone."""
    child = spawn(argv, seconds + 60, stdin=subprocess.DEVNULL, **options)
    try:
        out, err = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise TooLong("%s did not finish in %d s" % (os.path.basename(str(argv[0])), seconds))
    finally:
        kill(child)
    return subprocess.CompletedProcess(argv, child.returncode, out, err)


@contextlib.contextmanager
def point(seconds):
    """At most so long; then TooLong, in whatever the main thread waits."""
    def ring(*_):
        if starting:
            signal.setitimer(signal.ITIMER_REAL, 0.1, AGAIN)
            return
        raise TooLong("did not finish in %d s" % round(seconds))

    mark = len(children)
    old = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(1, seconds), AGAIN)
    try:
        try:
            yield
        finally:
            reap(mark)
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def stop_on_signals():
    """The first one stops the run in order; a later one is not in a hurry either."""
    def stop(number, _):
        for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(signal.Signals(number).name)

    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(each, stop)
    atexit.register(reap)


class Budget(object):
    def __init__(self, minutes):
        self.end = time.monotonic() + 60 * minutes
        self.minutes = minutes

    def left(self):
        return self.end - time.monotonic()
