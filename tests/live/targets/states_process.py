"""States that make processes."""
import ctypes
import multiprocessing
import os
import signal
import subprocess
import threading
import time

import work
from work import checksum
from states_busy import Fib, fib


class Fork(work.State):
    """fork in a loop; the child works a little and tells by its exit status."""

    def step(self, i):
        pid = os.fork()
        if pid == 0:
            os._exit(fib(10 + i % work.PERIOD) % 100)
        status = os.waitpid(pid, 0)[1]
        return checksum((os.WIFEXITED(status), os.WEXITSTATUS(status)))


class ForkThread(Fork):
    """A child whose only thread outlives many calls: hooks without an agent."""

    def step(self, i):
        pid = os.fork()
        if pid == 0:
            results = []
            thread = threading.Thread(target=lambda: results.append(fib(10 + i % work.PERIOD)))
            thread.start()
            thread.join()
            os._exit(results[0] % 100)
        status = os.waitpid(pid, 0)[1]
        return checksum((os.WIFEXITED(status), os.WEXITSTATUS(status)))


def child_work(pipe, n):
    pipe.send(fib(n))
    pipe.close()


class ForkStorm(Fork):
    """Eight children at a time."""
    CHILDREN = 8

    def step(self, i):
        pids, sum = [], 0
        for k in range(self.CHILDREN):
            pids.append(os.fork())
            if pids[-1] == 0:
                os._exit(fib(8 + k % work.PERIOD) % 100)
        for pid in pids:
            sum += os.waitpid(pid, 0)[1]
        return checksum((i % work.PERIOD, sum))


class Multiprocessing(work.State):
    def setup(self, control):
        self.context = multiprocessing.get_context("fork")

    def step(self, i):
        ours, theirs = self.context.Pipe(duplex=False)
        process = self.context.Process(target=child_work, args=(theirs, 10 + i % work.PERIOD))
        process.start()
        theirs.close()
        value = ours.recv()
        process.join()
        ours.close()
        return checksum((value, process.exitcode))


class SpawnVfork(work.State):
    """vfork and exec, as posix_spawn does them: the child runs in our memory, and the thread waits for it."""

    def setup(self, control):
        self.words = (ctypes.c_char_p * 4)(b"sh", b"-c", b"exit 3", None)
        self.environment = (ctypes.c_char_p * 1)(None)

    def step(self, i):
        pid = ctypes.c_int()
        failed = work.libc.posix_spawn(ctypes.byref(pid), b"/bin/sh", None, None, self.words, self.environment)
        return checksum((i % work.PERIOD, failed, os.waitpid(pid.value, 0)[1] if not failed else 0))


class Spawn(work.State):
    """fork and exec, as subprocess does them; vfork from 3.10 on."""

    def step(self, i):
        out = subprocess.check_output(["/bin/echo", str(i % work.PERIOD)])
        return checksum(out)


def execute(number, frame):
    os.execv("/bin/sleep", ["sleep", "60"])


class Kin(work.State):
    """Forks on command. The child works on, for as long as this process lives, and is told nothing."""

    def step(self, i):
        return checksum(fib(12 + i % work.PERIOD))

    def command(self, words, control):
        if words[0] != "fork":
            return False
        pid = os.fork()
        if pid:
            control.tell(child=pid)
        else:
            work.libc.prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL
            control.fd = os.pipe()[0]
        return True


class KinExecs(Kin):
    """SIGUSR2 has it, or a child, execute another program."""

    def setup(self, control):
        signal.signal(signal.SIGUSR2, execute)


class ExecsOnSignal(Fib):
    """SIGUSR2 has it execute another program."""

    def setup(self, control):
        signal.signal(signal.SIGUSR2, execute)


class ExecsInThread(work.State):
    """SIGUSR2 has one of its threads execute another program; the others wait."""

    def setup(self, control):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        for target in [self.execute] + [threading.Event().wait] * 4:
            threading.Thread(target=target, daemon=True).start()

    def execute(self):
        signal.sigwait([signal.SIGUSR2])
        os.execv("/bin/sleep", ["sleep", "60"])

    def step(self, i):
        time.sleep(0.2)
        return checksum(i % work.PERIOD)


class MainEndsOnSignal(work.State):
    """SIGUSR1 has its first thread end; another one stays."""

    def setup(self, control):
        work.libc.getpid()  # what the handler needs is there
        signal.signal(signal.SIGUSR1, lambda number, frame: work.libc.syscall(60, 0))  # exit
        threading.Thread(target=threading.Event().wait, daemon=True).start()

    def step(self, i):
        time.sleep(0.2)
        return checksum(i % work.PERIOD)


STATES = {"kin": Kin, "kin_execs": KinExecs, "main_ends_on_signal": MainEndsOnSignal, "execs_on_signal": ExecsOnSignal, "execs_in_thread": ExecsInThread, "fork": Fork, "fork_thread": ForkThread, "multiprocessing": Multiprocessing, "spawn": Spawn, "spawn_vfork": SpawnVfork,
          "fork_storm": ForkStorm}
