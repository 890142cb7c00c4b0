"""States of a program that has never started a thread: CPython 3.6 has no GIL then. Nothing
here may import ctypes or threading."""
import signal
import time

import work
from work import account, checksum


def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


class Busy(work.State):
    plain = True

    def step(self, i):
        return checksum(fib(12 + i % work.PERIOD))


class Idle(work.State):
    plain = True

    def step(self, i):
        begin = time.monotonic()
        time.sleep(0.02)
        return checksum((i % work.PERIOD, time.monotonic() - begin >= 0.02))


class Alarms(work.State):
    """SIGALRM at 1 kHz, and its handler in Python: only the thread that minds signals runs it."""
    plain = True
    HZ, STEP = 1000, 0.02

    def on_alarm(self, number, frame):
        account.signals_seen += 1

    def setup(self, control):
        signal.signal(signal.SIGALRM, self.on_alarm)

    def step(self, i):
        seen = account.signals_seen
        signal.setitimer(signal.ITIMER_REAL, 1.0 / self.HZ, 1.0 / self.HZ)
        end = time.monotonic() + self.STEP
        while time.monotonic() < end or account.signals_seen == seen and time.monotonic() < end + 5:
            fib(5)
        self.quiet()
        return checksum((i % work.PERIOD, account.signals_seen > seen))

    def quiet(self):
        signal.setitimer(signal.ITIMER_REAL, 0)


STATES = {"lone_busy": Busy, "lone_idle": Idle, "lone_alarms": Alarms}
