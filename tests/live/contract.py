"""What mempulse owes a target that is not what it expects: its descriptors stay its own,
its audit hooks are heard, its limits and its root are looked at before it is touched."""
import os

import harness
import procfs
import sessions
from harness import check


# --- descriptors ----------------------------------------------------------------------

def descriptors(context, how):
    """The target closes our descriptors, or has files of its own under their numbers:
    nothing is written into those, none is closed, the agent leaves, the launcher says why."""
    path = context.file("clash.ndjson")
    with harness.Target(context.python, "descriptors") as target:
        with sessions.inject(context, target, "--json", "-o", path) as launcher:
            launcher.wait_attached()
            target.work(20)
            clashed = target.ask("clash " + how)["clashed"]
            check(clashed >= 3, "%s descriptors of ours were found", clashed)
            target.work(20)
            result = launcher.result()
        sessions.nothing_left(target)
        target.work(20)
        found = target.ask("look")
        check(found["got"] == 0, "%d bytes were written into the target's own", found["got"])
        check(found["alive"] == found["taken"], "of %d of the target's own %d are open", found["taken"], found["alive"])
        result.expect(9)
        check("closed or replaced the session's descriptors" in result.err, "the cause is not told\n%s", result)
        check("exec" not in result.err and "nothing left behind" in result.err, "%s", result)
        end = harness.stream_of(path).end
        check(end["reason"] == "descriptors_closed" and end["clean"], "the end is %s", end)
        harness.run(context.binary, "inject", "-p", target.pid, "-d", "100ms", "-o", os.devnull).expect(0)
        target.check_untouched(result)


TESTS = (
    ("descriptors closed", lambda context: descriptors(context, "close")),
    ("descriptors replaced", lambda context: descriptors(context, "replace")),
    ("descriptors replaced by sockets", lambda context: descriptors(context, "socket")),
)
SHORT = ("descriptors replaced",)


def tests(short):
    for name, function in TESTS:
        if not short or name in SHORT:
            yield "contract " + name, function
