"""target: states.py STATE FD_IN FD_OUT. The table of what a target can be doing
when it is injected; see work.py for the conversation.

A state's step is deterministic, takes some tens of ms at most, and enters only
frames that return: so that, up to 3.11, no thunk has to stay behind. The one
exception, `stuck`, is there to show what happens then."""
import ctypes
import os
import select
import signal
import sys
import threading
import time

import states_async
import states_busy
import states_contract
import states_hostile
import states_lines
import states_process
import states_raw
import work
from work import TICK, account, checksum, libc

# --- idle, through Python -------------------------------------------------------

class IdleSelect(work.State):
    def setup(self, control):
        self.fd = control.fd

    def step(self, i):
        select.select([self.fd], [], [], TICK)
        return checksum(i % work.PERIOD)


class IdleEpoll(work.State):
    def setup(self, control):
        self.epoll = select.epoll()
        self.epoll.register(control.fd, select.EPOLLIN)

    def step(self, i):
        self.epoll.poll(TICK)
        return checksum(i % work.PERIOD)


class IdleSleep(work.State):
    def step(self, i):
        time.sleep(TICK)
        return checksum(i % work.PERIOD)


class IdleEvent(work.State):
    def setup(self, control):
        self.event = threading.Event()

    def step(self, i):
        self.event.wait(TICK)
        return checksum(i % work.PERIOD)


class IdleRead(work.State):
    """Blocks in read(2) on a pipe that another thread feeds, so that frames return."""

    def setup(self, control):
        self.out, self.into = os.pipe()
        self.asked = threading.Semaphore(0)
        feeder = threading.Thread(target=self.feed, name="feeder")
        feeder.daemon = True
        feeder.start()

    def feed(self):
        while True:
            self.asked.acquire()
            time.sleep(TICK)
            os.write(self.into, b"x")

    def step(self, i):
        self.asked.release()
        return checksum((i % work.PERIOD, os.read(self.out, 1)))


# --- signals ------------------------------------------------------------------------

class Sigalrm(states_busy.Fib):
    """SIGALRM at 1 kHz over CPU-bound work."""

    def setup(self, control):
        signal.signal(signal.SIGALRM, self.tick)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)

    def tick(self, number, frame):
        account.signals_seen += 1

    def close(self):
        account.extra["interval"] = signal.setitimer(signal.ITIMER_REAL, 0)[1]


class Queued(work.State):
    """Queued real-time signals to itself: as many must arrive as were sent."""
    COUNT = 16

    def setup(self, control):
        self.number = signal.SIGRTMIN + 3
        signal.pthread_sigmask(signal.SIG_BLOCK, [self.number])

    def step(self, i):
        for _ in range(self.COUNT):
            os.kill(os.getpid(), self.number)
        account.signals_sent += self.COUNT
        seen = 0
        while signal.sigtimedwait([self.number], 0):
            seen += 1
        account.signals_seen += seen
        return checksum((i % work.PERIOD, seen))


# --- for the tests of the command line --------------------------------------------------

def grow_small():
    work.leak_pages(1)


def grow_big():
    work.leak_pages(300)


def be_slow():
    time.sleep(0.08)


def inner():
    return 1


def middle():
    return inner() + 1


def outer():
    return middle() + 1


def burst():
    """Something for each filter; see test_filters in the driver."""
    grow_small()
    grow_big()
    be_slow()
    outer()


def stand(control, release):
    """A frame that does not return until it is told to."""
    while control.command()[0] != release:
        pass


def orphan(control):
    """A child with all descriptors of ours; it ends when the driver closes its pipe."""
    if os.fork() == 0:
        os.read(control.fd, 1)
        os._exit(0)
    control.tell(orphan=True)


class Menu(IdleSelect):
    """Idle in select; does what it is asked to."""

    def setup(self, control):
        IdleSelect.setup(self, control)
        self.start, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.tid = 0
        helper = threading.Thread(target=self.help, name="helper")
        helper.daemon = True
        helper.start()
        self.done.acquire()

    def help(self):
        self.tid = libc.syscall(ctypes.c_long(186))  # gettid
        while True:
            self.done.release()
            self.start.acquire()
            burst()

    def command(self, words, control):
        if words[0] == "burst":
            burst()
            control.tell(burst=True)
        elif words[0] == "burst_helper":
            self.start.release()
            self.done.acquire()
            control.tell(burst=True)
        elif words[0] == "helper_tid":
            control.tell(tid=self.tid)
        elif words[0] == "stand":
            control.tell(standing=True)
            stand(control, "return")
            control.tell(returned=True)
        elif words[0] == "orphan":
            orphan(control)
        else:
            return False
        return True


STATES = {
    "select": IdleSelect, "epoll": IdleEpoll, "sleep": IdleSleep, "event": IdleEvent, "read": IdleRead,
    "sigalrm": Sigalrm, "queued": Queued, "menu": Menu,
}
STATES.update(states_busy.STATES)
STATES.update(states_contract.STATES)
STATES.update(states_hostile.STATES)
STATES.update(states_async.STATES)
STATES.update(states_lines.STATES)
STATES.update(states_process.STATES)
STATES.update(states_raw.STATES)

if __name__ == "__main__":
    work.main(STATES)
