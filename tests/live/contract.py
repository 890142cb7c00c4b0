"""What mempulse owes a target that is not what it expects: its descriptors stay its own,
its audit hooks are heard, its limits and its root are looked at before it is touched."""
import os
import re
import shutil
import signal
import subprocess

import channel
import cli
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


def left_is_ours(context):
    """What stays is listed; what the target itself opened meanwhile is not."""
    path = context.file("left.ndjson")
    with harness.Target(context.python, "descriptors") as target:
        with sessions.inject(context, target, "-d", "600ms", "--json", "-o", path) as launcher:
            launcher.wait_attached()
            check(target.ask("stand")["standing"], "it does not stand")
            launcher.result().expect(0 if context.interpreter.monitoring else 10)
        left = harness.stream_of(path).end["left"]
        check(bool(left) != context.interpreter.monitoring, "left: %s", left)
        check(not any("descriptor" in line for line in left), "left: %s", left)
        check(target.ask("return")["returned"], "it does not return")
        harness.run(context.binary, "detach", "-p", target.pid, "--wait", "10s").expect(0)
        target.check_untouched()


# --- our own standard descriptors ------------------------------------------------------

CLOSED = ('<&-', '>&-', '2>&-', '>&- 2>&-', '<&- >&- 2>&-')


def standard_closed(context):
    """A standard descriptor that is closed is /dev/null, and no number for our own."""
    with harness.Target(context.python, "descriptors") as target:
        for closed in CLOSED:
            prefix = ["/bin/sh", "-c", 'exec "$@" ' + closed, "sh"]
            result = harness.run(context.binary, "inject", "-p", target.pid, "-d", "300ms", prefix=prefix)
            check(result.code == 0, "%s: %s", closed, result)
            check("failed" not in result.err, "%s: %s", closed, result)
        with harness.Launcher(context.binary, "inject", "-p", target.pid, prefix=prefix) as launcher:
            links = procfs.wait_until(lambda: held_open(launcher.process.pid), harness.PATIENCE, "the session begins")
            check({links.get(fd) for fd in range(3)} == {"/dev/null"}, "0, 1, 2 are %s", links)
            launcher.signal(signal.SIGTERM)
            launcher.result().expect((143, 8))  # 8: before the hook
        target.check_untouched()


def held_open(pid):
    """Its descriptors, once it is the launcher (no shell any more) and takes signals."""
    links = procfs.links(pid)
    return links if "anon_inode:[signalfd]" in links.values() else None


# --- what stands in the way, told before the target is touched -------------------------

def jailed(context):
    """A chroot without /proc is refused by name; with one it is injected."""
    with harness.Target(context.python, "jailed") as target:
        error = cli.refused(context, target.pid, 4, "NO_PROC")
        root = os.readlink("/proc/%d/root" % target.pid)
        check("/proc/self" in error["message"] and "mount --bind /proc %s/proc" % root in error["hint"], "%s", error)
        target.ask("mkdir")
        cli.refused(context, target.pid, 4, "NO_PROC")  # a folder is no procfs
        if subprocess.call(["mount", "--bind", "/proc", root + "/proc"], stderr=subprocess.DEVNULL) == 0:
            try:
                harness.run(context.binary, "inject", "-p", target.pid, "-d", "200ms", "-o", os.devnull).expect(0)
            finally:
                subprocess.call(["umount", "-l", root + "/proc"])
        target.stop()
    shutil.rmtree(root, ignore_errors=True)


def limited(context, name, limit, room, enough):
    """Refused by the limit's name; with just enough room it is injected."""
    with harness.Target(context.python, "limited") as target:
        before = set(procfs.links(target.pid))
        target.ask("limit %s %d" % (name, room))
        error = cli.refused(context, target.pid, 8, "LIMIT")
        check(limit in error["message"] and "prlimit --pid %d --%s=" % (target.pid, name) in error["hint"], "%s", error)
        check(set(procfs.links(target.pid)) == before, "it was touched")
        target.ask("limit %s %d" % (name, enough))
        harness.run(context.binary, "inject", "-p", target.pid, "-d", "200ms", "-o", os.devnull).expect(0)
        target.ask("unlimit " + name)
        target.check_untouched()


UNUSED_UIDS = 200000  # and so many more: a user of its own for each test


def limited_threads(context):
    """The limit on a user's threads: told from outside."""
    if os.geteuid() != 0:
        raise harness.Skip("only root can become another user")
    with harness.Target(context.python, "limited") as target:
        target.ask("become %d" % (UNUSED_UIDS + target.pid))
        target.ask("limit nproc 1")
        error = cli.refused(context, target.pid, 8, "LIMIT")
        check("RLIMIT_NPROC" in error["message"] and "--nproc=" in error["hint"], "%s", error)
        target.ask("limit nproc 2")
        harness.run(context.binary, "inject", "-p", target.pid, "-d", "200ms", "-o", os.devnull).expect(0)


# --- the account of a detach --------------------------------------------------------------

def hooks_told(context):
    """detach tells of each hook slot whether it is as the agent found it; where not, which."""
    with harness.Target(context.python, "tampering") as target:
        for command, word in ((None, None), ("profile", "profile function: 1 now, 0 then"), ("trace", "trace function: 1 now, 0 then")):
            with sessions.inject(context, target, "-o", os.devnull) as launcher:
                launcher.wait_attached()
                if command:
                    target.ask("tamper " + command)
                result = harness.run(context.binary, "detach", "-p", target.pid).expect(0)
                launcher.result().expect(0)
            check("this detach:" in result.out, "%s", result)
            if command:
                check("changed since the injection, by the target: threads with a " + word in result.out, "%s", result)
            else:
                check("as found at the injection (eval frame, profile, trace" in result.out, "%s", result)
            target.ask("untamper")
        target.check_untouched()


def hooks_told_json(context):
    with harness.Target(context.python, "tampering") as target:
        with sessions.inject(context, target, "-o", os.devnull) as launcher:
            launcher.wait_attached()
            target.ask("tamper profile")
            result = harness.run(context.binary, "detach", "-p", target.pid, "--json").expect(0)
            launcher.result().expect(0)
        row = harness.parse_row(result.out)
        check(row["interpreter_slots_changed"] == ["threads with a profile function: 1 now, 0 then"], "%s", row)
        target.ask("untamper")


# --- refusals ------------------------------------------------------------------------

def refusal_explained(context):
    """A thread that does not leave libc is not borrowed."""
    with harness.Target(context.python, "scanning") as target:
        for _ in range(5):  # it may be met in the moment between two calls
            result = harness.run(context.binary, "inject", "-p", target.pid, "--timeout", "300ms", "-d", "100ms", "-v", "-o", os.devnull)
            if result.expect((0, 8)).code == 8:
                break
        check(re.search(r"no safe point in \d+ ms and \d+ stops; last seen: thread %d \(\S+\) running in libc" % target.pid, result.err),
              "thread, place and time are not told\n%s", result)
        check(re.search(r"^ +=> +0x\w+ ", result.err, re.M), "-v shows no code\n%s", result)
        check("nothing in the target was changed" in result.err, "%s", result)
        target.check_untouched(result)


TESTS = (
    ("no safe point is explained", refusal_explained),
    ("hooks of the target's own are told", hooks_told),
    ("hooks of the target's own are told, JSON", hooks_told_json),
    ("chroot without /proc", jailed),
    ("limit on descriptors", lambda context: limited(context, "nofile", "RLIMIT_NOFILE", 5, 6)),
    ("limit on data", lambda context: limited(context, "data", "RLIMIT_DATA", 3 << 20, 5 << 20)),
    ("limit on address space", lambda context: limited(context, "as", "RLIMIT_AS", 3 << 20, 5 << 20)),
    ("limit on threads", limited_threads),
    ("standard descriptors closed", standard_closed),
    ("descriptors closed", lambda context: descriptors(context, "close")),
    ("descriptors replaced", lambda context: descriptors(context, "replace")),
    ("descriptors replaced by sockets", lambda context: descriptors(context, "socket")),
    ("descriptors closed, pipes", lambda context: descriptors(channel.Context(context), "close")),
    ("descriptors replaced, pipes", lambda context: descriptors(channel.Context(context), "replace")),
    ("left is what is ours", left_is_ours),
)
SHORT = ("descriptors replaced",)


def tests(short):
    for name, function in TESTS:
        if not short or name in SHORT:
            yield "contract " + name, function
