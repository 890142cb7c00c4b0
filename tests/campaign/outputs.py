"""Faults of the output, for the fault table: a full disk, a pipe that nobody holds, a reader
that never reads, and a launcher that is stopped for half a minute while it is hooked. The
target goes on working meanwhile; the session ends as it should, and leaves nothing."""
import json
import os
import signal
import time

import harness
import lap

STOPPED_SECONDS, UNREAD_SECONDS = 30, 2
PIPE = 1 << 16       # bytes that a pipe takes
GAP_NS = 500000000 * harness.SLOW  # of a heartbeat, beyond the machine's own: one with too much to do makes it 120 ms in half a minute


class OutputLap(lap.Lap):
    """Each fault once: in `registers`, which tells the largest gap in its time; in `fib`, of which a stopped
    launcher can't have had all records."""
    FAULTS = (("full", (12,)), ("closed", (0,)), ("unread", (0, 12)), ("stopped", (128 + signal.SIGINT,)))

    turn, points = 0, []  # none is left when it ends

    def session(self):
        action, codes = self.FAULTS[self.turn]
        self.turn += 1
        self.doing = action
        self.sessions = len(self.FAULTS)
        self.largest_gap()
        self.target.work(lap.NOISE_STEPS)
        noise = self.largest_gap()
        result, lost = getattr(self, "do_" + action)()
        row = self.row("fault", point="output", n="1", action=action, code=result.code, fired=True, lost=lost,
                       gap_ns=self.largest_gap(), noise_ns=noise)
        if result.code not in codes:
            row["failure"] = "%s: %s" % (action, result)
        elif noise is not None and row["gap_ns"] > noise + GAP_NS:
            row["failure"] = "%s: the target stood for %d ms" % (action, row["gap_ns"] // 1000000)
        elif action == "stopped" and noise is None and not lost:
            row["failure"] = "%s: nobody says that records were lost" % action
        self.look(row)
        return [row]

    def largest_gap(self):
        """In ns; None of a target that does not watch the time."""
        return self.target.ask("gap")["gap"] if self.state.name == "registers" else None

    def injected(self, *options, **more):
        return harness.Launcher(self.binary, "inject", "-p", self.target.pid, "--json", *options, **more)

    def do_full(self):
        with self.injected("-d", "1s", "-o", "/dev/full") as launcher:
            return launcher.result(lap.ANSWER), None

    def do_closed(self):
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "wb", 0) as pipe, self.injected("-d", "1s", stdout=pipe) as launcher:
            return launcher.result(lap.ANSWER), None

    def do_unread(self):
        """The pipe is full from the beginning. The session ends in time, or when the reader leaves."""
        reader, writer = os.pipe()
        os.write(writer, b" " * PIPE)
        with os.fdopen(writer, "wb", 0) as pipe, self.injected("-d", "1s", "--depth", "0", stdout=pipe) as launcher:
            end = time.monotonic() + UNREAD_SECONDS
            while time.monotonic() < end:
                self.target.work(1)  # which fails when it does not answer
            os.close(reader)
            return launcher.result(lap.ANSWER), None

    def do_stopped(self):
        """No end of the channel closes, so the agent stays, and drops what finds no room."""
        path = os.path.join(self.folder, "stopped-%d" % self.number)
        with self.injected("--depth", "0", "--max-overhead", "0", "-o", path) as launcher:
            launcher.wait_attached(lap.ANSWER)
            launcher.signal(signal.SIGSTOP)
            end = time.monotonic() + STOPPED_SECONDS
            while time.monotonic() < end:
                self.target.work(1)
            launcher.signal(signal.SIGCONT)
            self.target.work(lap.NOISE_STEPS)
            launcher.signal(signal.SIGINT)
            result = launcher.result(lap.ANSWER)
        with open(path, "rb") as file:
            lost = json.loads(file.read().splitlines()[-1].decode()).get("lost")
        lap.remove(path)
        return result, lost


class OutputSlice(OutputLap):
    """But for the last, which takes long."""
    FAULTS = OutputLap.FAULTS[:-1]
