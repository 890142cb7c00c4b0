"""--lines against the original's view: the same rows in the same order."""
import os
import re
import signal

import harness
import procfs
from harness import check, Skip

DEPTHS = (1, 2, 3)
ROOT = "application"
TRIES = 50


def session(context, target, depth):
    """The table that --report mempulse prints for one run of the workload."""
    path = context.file("lines%d.txt" % depth)
    with harness.Launcher(context.binary, "inject", "-p", target.pid, "--lines", "--max-overhead", "0", "--report", "mempulse",
                          "--root", ROOT, "--depth", depth, "-o", path) as launcher:
        launcher.wait_attached()
        check(target.ask("once").get("done"), "the workload did not run")
        launcher.signal(signal.SIGINT)
        result = launcher.result()
    result.expect(128 + signal.SIGINT)
    with open(path, encoding="utf-8") as file:
        return table(file.read(), result)


HEADER = "{:64s} {:24s} {:>16s} {:>16s} {:>16s}".format("Callsite", "Method Name", "USS", "Swap", "Peak RSS")
ROW = re.compile(r"^(?P<site>.{64}) (?P<method>.{24}) (?P<uss>.{16}) (?P<swap>.{16}) (?P<peak>.{16})$")


def table(text, result):
    """The rows (callsite, method) of the last table in a text, the root's own left out:
    the wrapped function itself is not what the depth is about."""
    check(HEADER in text, "no table in the output\n%s\n%s", result, text[-2000:])
    after = text[text.rindex(HEADER):].splitlines()
    check(after[1] == "-" * 140, "the rule below the header: %r", after[1])
    rows = []
    for line in after[2:]:
        if not line:
            break
        match = ROW.match(line)
        check(match, "not a row of the table: %r", line)
        rows.append((match.group("site").rstrip(), match.group("method").rstrip()))
    return [row for row in rows if row[1] != ROOT]


def compare(context, reference_command):
    with harness.Target(context.python, "lines") as target:
        for depth in DEPTHS:
            answer = target.ask("%s %d" % (reference_command, depth))
            if "skip" in answer:
                raise Skip(answer["skip"])
            wanted = table("%s\n%s" % ("", answer["table"]), "the reference")
            check(wanted, "the reference is empty")
            got = session(context, target, depth)
            check(got == wanted, "depth %d: the rows differ\n--- wanted\n%s\n--- got\n%s", depth, show(wanted), show(got))
        target.check_untouched()


def show(rows):
    return "\n".join("%s %s" % row for row in rows)


def every_visit(context):
    """A row of NDJSON for each visit, not only the first."""
    path = context.file("visits.ndjson")
    with harness.Target(context.python, "lines") as target:
        with harness.Launcher(context.binary, "inject", "-p", target.pid, "--lines", "--max-overhead", "0", "--json",
                              "--root", ROOT, "--depth", 1, "-o", path) as launcher:
            launcher.wait_attached()
            visits = target.ask("once")["visits"]
            launcher.signal(signal.SIGINT)
            launcher.result().expect(128 + signal.SIGINT)
    rows = harness.stream_of(path).of("line", "workload")
    counts = {}
    for row in rows:
        counts[str(row["line"])] = counts.get(str(row["line"]), 0) + 1
    check(counts == visits, "visits per line of workload: %s, counted %s", counts, visits)


def tracer_kept(context):
    """Where another tool holds the trace slot it is refused (6) or left alone, never displaced."""
    with harness.Target(context.python, "traced") as target:
        result = harness.run(context.binary, "inject", "-p", target.pid, "-d", "300ms", "--lines", "--max-overhead", "0", "--json",
                             "-o", os.devnull)
        if context.interpreter.monitoring:
            result.expect(0)
        else:
            result.expect(6)
            check(result.error()["code"] == "BUSY_TRACE_SLOT", "%s", result)
        target.stop()
        check(target.account["extra"]["tracer_kept"], "the tracer was displaced")


def tracer_inside(context):
    """One that takes the slot inside a traced call might have kept our function, and put it back when we are gone."""
    with harness.Target(context.python, "traced_inside") as target:
        for _ in range(TRIES):
            result = harness.run(context.binary, "inject", "-p", target.pid, "-d", "300ms", "--lines", "--max-overhead", "0", "--json",
                                 "-o", os.devnull)
            if result.code != 6:  # its tracer was not there just then
                break
        result.expect(0)
        if not context.interpreter.monitoring:
            check("took away the thunk that another tracer might have led to (paused " in result.err, "%s", result)
        target.check_untouched()


TESTS = (
    ("table against a tracer", lambda context: compare(context, "reference")),
    ("table against the original", lambda context: compare(context, "original")),
    ("every visit", every_visit),
    ("another tool's tracer", tracer_kept),
    ("another tool's tracer inside traced calls", tracer_inside),
)


def tests(short):
    for name, function in () if short else TESTS:
        yield "lines " + name, function
