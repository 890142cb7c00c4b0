"""--max-overhead on a running process: a flood of calls takes it through every stage,
in order; calm takes it back. Waits for what the stream announces, never for a time."""
import json
import signal
import subprocess

import harness
import procfs
from harness import check

STAGES = ("full", "rollup", "depth", "sampled", "quiet")
TINY = "0.01%"  # a goal that no flood of traced calls can meet, on a machine of any speed


class Rows:
    """The rows of a launcher as they come."""

    def __init__(self, launcher):
        self.reader = harness.LineReader(launcher.process.stdout.fileno())
        self.rows = []

    def next(self):
        line = self.reader.line(harness.PATIENCE)
        if line is not None:
            self.rows.append(harness.parse_row(line))
        return line is not None

    def of(self, kind):
        return [row for row in self.rows if row["type"] == kind]

    def until_stage(self, stage):
        while not self.of("govern") or self.of("govern")[-1]["stage"] != stage:
            check(self.next(), "the stream ended before the stage was %s", stage)

    def rest(self):
        while self.next():
            pass


def launch(context, target, overhead, *options):
    return harness.Launcher(context.binary, "inject", "-p", target.pid, "--json", "--summary", "--max-overhead", overhead,
                            *options, stdout=subprocess.PIPE)


def status(context, target):
    return json.loads(harness.run(context.binary, "status", "-p", target.pid, "--json").expect(0).out)


def check_order(rows):
    told = ["full"] + [row["stage"] for row in rows]
    numbers = [STAGES.index(stage) for stage in told]
    check(all(abs(a - b) <= 1 for a, b in zip(numbers, numbers[1:])), "a stage was left out: %s", told)
    firsts = sorted(set(numbers), key=numbers.index)
    check(firsts == list(range(5)), "the stages came in another order: %s", told)


def all_stages(context):
    with harness.Target(context.python, "flood") as target:
        with launch(context, target, TINY) as launcher:
            rows = Rows(launcher)
            rows.until_stage("quiet")
            found = status(context, target)
            check(found["governor"]["deepest_stage"] == "quiet" and found["overhead_percent"] > 0.01, "status: %s", found)
            text = harness.run(context.binary, "status", "-p", target.pid).expect(0).out
            check("--max-overhead 0.01%" in text and "; stage " in text, "status: %s", text)
            target.pause()
            rows.until_stage("full")
            launcher.signal(signal.SIGTERM)
            rows.rest()
            result = launcher.result()
        check_order(rows.of("govern"))
        end = rows.rows[-1]
        # The pause may begin in a moment that is not quiet: then it stands in a frame of the thunk's.
        stays = result.code == 10 and not context.interpreter.monitoring and "has not returned yet" in result.err
        if not stays:
            result.expect(143)
        check(end["type"] == "end" and end["clean"] == (not stays), "the end is %s\n%s", end, result)
        target.resume()
        harness.run(context.binary, "detach", "-p", target.pid, "--wait", "10s").expect(0)
        check(not procfs.ours(target.pid), "left: %s", procfs.ours(target.pid))
        check(end["governor"]["deepest_stage"] == "quiet" and all(end["governor"]["stage_ns"].values()), "the end is %s", end)
        check("given up for --max-overhead 0.01%" in result.err and "nothing traced for" in result.err,
              "the last line does not tell what was given up\n%s", result)
        target.check_untouched(result)


def while_quiet(context):
    """The session ends while the hook is out: nothing stays, and the next one works."""
    with harness.Target(context.python, "flood") as target:
        with launch(context, target, TINY) as launcher:
            rows = Rows(launcher)
            rows.until_stage("quiet")
            harness.run(context.binary, "detach", "-p", target.pid).expect(0)
            rows.rest()
            result = launcher.result().expect(0)
        check(rows.rows[-1]["clean"], "the end is %s\n%s", rows.rows[-1], result)
        with launch(context, target, "0", "-n", "1000") as launcher:
            rows = Rows(launcher)
            rows.rest()
            launcher.result().expect(0)
        check(rows.rows[-1]["calls"] == 1000, "the next session: %s", rows.rows[-1])
        target.check_untouched(result)


def off(context):
    """0: whatever it costs, nothing is given up."""
    with harness.Target(context.python, "flood") as target:
        with launch(context, target, "0") as launcher:
            rows = Rows(launcher)
            while len(rows.of("stats")) < 3:
                check(rows.next(), "the stream ended")
            check("governor" not in status(context, target), "status tells of a governor that is off")
            launcher.signal(signal.SIGINT)
            rows.rest()
            result = launcher.result().expect(130)
        check(not rows.of("govern") and "governor" not in rows.rows[-1] and "given up" not in result.err, "%s", result)
        check(rows.of("stats")[-1]["cost_ppm"] > 0 and rows.rows[-1]["overhead_percent"] > 0, "no cost was measured")


TESTS = (("every stage and back", all_stages), ("detached while quiet", while_quiet), ("off", off))


def tests(short):
    for name, function in TESTS if not short else TESTS[:1]:
        yield "governor " + name, function
