"""Programs that have never started a thread, and import nothing that would (ctypes does).
CPython 3.6 has no GIL then: the launcher and the agent have one made (src/inject/standstill.c)."""
import os
import signal
import time

import harness
import procfs
from harness import check

SECONDS = 4  # of a target's life


def killed_in_standstill(context, target):
    """The launcher is SIGKILLed while it holds the one thread, for the agent to make a GIL."""
    with harness.Launcher(harness.faulty(), "inject", "-p", target.pid, "-q", "-o", os.devnull,
                          env=dict(os.environ, MEMPULSE_FAULT="standstill-1#1:kill")) as launcher:
        launcher.process.wait(harness.PATIENCE)
        check(launcher.process.returncode == -signal.SIGKILL, "the launcher was not killed: %s", launcher.process.returncode)


def bare(context, kind, command=False, options=(), seconds=SECONDS):
    """targets/bare.py. A script has a lock for its pending calls before it runs, a command (-c) has none."""
    path = os.path.join(harness.TARGETS, "bare.py")
    argv = ["-c", "exec(open(%r).read())" % path] if command else [path]
    return harness.spawn([context.python, *options, *argv, kind, str(seconds)],
                         stdout=harness.subprocess.PIPE, stderr=harness.subprocess.STDOUT)


def no_thread_ever(context, kind, killed=False, refused=False, **how):
    """A program that has never started a thread: CPython 3.6 has no GIL then, and gets one."""
    old = context.interpreter.version[:2] == (3, 6)
    target = bare(context, kind, **how)
    try:
        check(target.stdout.readline() == b"ready\n", "it does not start")
        if killed and old:
            killed_in_standstill(context, target)
        result = harness.run(context.binary, "inject", "-v", "-p", target.pid, "-d", "300ms", "-o", os.devnull)
        result.expect(4 if refused and old else 0)
        check(killed or old == ("for a GIL to be made" in result.err), "a GIL is made for 3.6, and for no other: %s", result)
        if not refused:
            harness.run(context.binary, "inject", "-p", target.pid, "-d", "100ms", "-o", os.devnull).expect(0)
        said = target.communicate(timeout=SECONDS + harness.PATIENCE)[0]
        check(target.returncode == 0 and not said, "%s: exit %d\n%s\n%s", kind, target.returncode, said.decode(), result)
    finally:
        harness.reap(target)


def forked_before(context):
    """A child forked while the agent waited for a GIL to be made has a copy of the agent, and no GIL."""
    target = bare(context, "forks", seconds=20 * SECONDS)
    try:
        check(target.stdout.readline() == b"ready\n", "it does not start")
        harness.run(context.binary, "inject", "-p", target.pid, "-d", "300ms", "-o", os.devnull).expect(0)
        children = [int(pid) for pid in procfs.read(target.pid, "task/%d/children" % target.pid).split()]
        check(len(children) == 6, "children: %s", children)
        for pid in children:
            result = harness.run(context.binary, "detach", "-p", pid, "--wait", "5s")
            if result.code == 10 and "was copied from the process" in result.out:
                continue  # forked in the midst of dlopen: what ld.so has of the agent is not known, and that is told
            result.expect(0)
            check(not procfs.ours(pid), "child %d still has something of ours", pid)
        time.sleep(0.2)  # not for readiness: a child that is harmed dies of it soon
        check(all(procfs.alive(pid) for pid in children + [target.pid]), "they do not live")
    finally:
        harness.reap(target)


BARE = (
    ("busy", {}), ("asleep", {}), ("waiting", {}), ("signals", {}), ("both", {}),
    ("busy", {"killed": True}), ("waiting", {"killed": True}),
    ("busy", {"command": True}), ("asleep", {"command": True, "options": ("-X", "tracemalloc")}),
    ("waiting", {"command": True, "options": ("-X", "tracemalloc")}), ("busy", {"refused": True, "options": ("-X", "tracemalloc")}),
)


def tests(old):
    """old: CPython 3.6. Others always have a GIL."""
    for kind, how in BARE if old else [row for row in BARE if row == ("both", {})]:
        name = " ".join([kind] + [key for key in ("killed", "command") if key in how] + list(how.get("options", ())))
        yield "no thread ever: " + name, lambda context, kind=kind, how=how: no_thread_ever(context, kind, **how)
    if old:
        yield "no thread ever: forks", forked_before
