"""Several mempulses at one target at the same moment: one is at work, the others wait or
give way, and the target notices nothing. And what is said when the target dies of
something else meanwhile."""
import fcntl
import os
import signal
import subprocess

import harness
import procfs
from harness import check

ROUNDS = 4
UNTOUCHED = "nothing in the target was changed"
# A mount of proc has its own inodes, so that a lock on one of its files is not seen
# through another one: only what stands in the target's memory keeps these two apart.
OTHER_PROC = ("unshare", "-m", "sh", "-c", 'mount -t proc proc /proc && exec "$@"', "sh")
CLAIMED = 124  # offsetof(struct thunk, claimed)
HOLDS_GIL = "import ctypes, os; os.write(1, b'ready\\n'); ctypes.PyDLL(None).sleep(60)"


def inject(context, target, *options, **more):
    return harness.Launcher(context.binary, "inject", "-p", target.pid, "--summary", "-o", os.devnull, *options, **more)


def end_all(launchers):
    results = [launcher.result() for launcher in launchers]
    for launcher in launchers:
        launcher.__exit__()
    return results


def lives(target, results):
    check(target.process.poll() is None, "the target has died: status %s\n%s", target.process.poll(),
          "\n".join(map(str, results)))


def three_at_once(context):
    """One session, and two launchers that are told of it."""
    with harness.Target(context.python, "fib") as target:
        for _ in range(ROUNDS):
            results = end_all([inject(context, target, "-d", "1s") for _ in range(3)])
            lives(target, results)
            said = "\n".join(map(str, results))
            check([result.code for result in results] == [0, 0, 0], "not all exit with 0:\n%s", said)
            attached = [result for result in results if "attached to" in result.err]
            check(len(attached) == 1, "%d sessions, not one:\n%s", len(attached), said)
            check(sum("already injected with these options" in result.err for result in results) == 2,
                  "the others do not say so:\n%s", said)
            check("nothing left behind" in attached[0].err, "something is left:\n%s", said)
        target.check_untouched()


def inject_and_detach(context):
    """Whoever comes first: both end well, and nothing is left."""
    with harness.Target(context.python, "fib") as target:
        for i in range(2 * ROUNDS):
            detach = [harness.Launcher(context.binary, "detach", "-p", target.pid)] if i % 2 else []
            session = inject(context, target, "-d", "400ms")
            detach = detach or [harness.Launcher(context.binary, "detach", "-p", target.pid)]
            results = end_all([session] + detach)
            lives(target, results)
            check([result.code for result in results] == [0, 0], "not both exit with 0:\n%s", "\n".join(map(str, results)))
            check(not procfs.ours(target.pid), "left: %s", procfs.ours(target.pid))
        target.check_untouched()


def end_and_inject(context):
    """A session that ends while the next one comes does not take that for its own remains."""
    with harness.Target(context.python, "fib") as target:
        for i in range(ROUNDS):
            with inject(context, target, "--depth", str(2 + i)) as first:
                first.wait_attached()
                first.signal(signal.SIGINT)
                with inject(context, target, "--depth", "9", "-d", "300ms", "--replace") as second:
                    ended, after = first.result(), second.result()
            lives(target, [ended, after])
            ended.expect((0, 130))
            after.expect(0)
            check("nothing left behind" in ended.err, "it takes the next session for its own\n%s\n%s", ended, after)
        target.check_untouched()


def killed_before(context):
    """A thread that a launcher told to mmap, before it was killed, does so when it next runs:
    in the middle of the next session, which takes the region away."""
    with harness.Target(context.python, "forger") as target:
        with inject(context, target, "-d", "400ms") as session:
            session.wait_attached()
            target.ask("stray")
            result = session.result().expect(0)
        check("took away what a mempulse that was killed had left" in result.err and "nothing left behind" in result.err,
              "not told\n%s", result)
        target.check_untouched()


def at_work_then(context):
    """The region of another one that is at work: not swept, and not told as left."""
    with harness.Target(context.python, "forger") as target:
        with open("/proc/%d/mem" % target.pid, "rb", 0) as file, inject(context, target, "-d", "400ms") as session:
            session.wait_attached()
            fcntl.flock(file, fcntl.LOCK_EX)
            target.ask("stray")
            while "another mempulse is at work" not in (session.reader.line(harness.PATIENCE) or ""):
                check(session.process.poll() is None, "it does not wait")
            target.ask("unstray")
            fcntl.flock(file, fcntl.LOCK_UN)
            result = session.result().expect(0)
        check("took away" not in result.err and "nothing left behind" in result.err, "not told\n%s", result)
        target.check_untouched()


def two_mounts(context):
    """Launchers that can't see each other's lock."""
    if os.getuid() != 0 or subprocess.call(OTHER_PROC + ("true",), stderr=subprocess.DEVNULL) != 0:
        raise harness.Skip("proc can't be mounted here")
    with harness.Target(context.python, "fib") as target:
        for i in range(2 * ROUNDS):
            launchers = [inject(context, target, "-d", "500ms", prefix=OTHER_PROC if k else ()) for k in range(2)]
            results = end_all(launchers if i % 2 else launchers[::-1])
            lives(target, results)
            said = "\n".join(map(str, results))
            for result in results:
                check(result.code in (0, 6), "exit %s:\n%s", result.code, said)
                check(result.code == 0 or UNTOUCHED in result.err, "a refusal does not say so:\n%s", said)
            check(sum("attached to" in result.err for result in results) == 1, "not one session:\n%s", said)
            procfs.wait_until(lambda: not procfs.ours(target.pid), 6, "nothing of ours")
        target.check_untouched()


def thunks(target):
    """The writable pages of those in the target (include/thunk_page.h)."""
    with open("/proc/%d/mem" % target.pid, "rb", 0) as memory:
        pages = [m.low for m in procfs.mappings(target.pid) if m.perms == "rw-p"]
        return [page for page in pages if os.pread(memory.fileno(), 8, page) == b"MPTHUNK\1"]


def leave_thunk(context, target):
    """A session that ends while a frame is inside, which then returns."""
    if context.interpreter.monitoring:
        raise harness.Skip("there are no thunks from 3.12 on")
    with inject(context, target, "-d", "400ms") as launcher:
        launcher.wait_attached()
        check(target.ask("stand").get("standing"), "it does not stand")
        launcher.result().expect(10)
    check(target.ask("return").get("returned"), "it does not return")
    check(len(thunks(target)) == 1, "thunks: %s", thunks(target))


def swept_and_taken(context):
    """A launcher has found an idle thunk to sweep; by the time that a thread stands for it, an agent
    that it can't see coming has taken the pages. A stale word somewhere in the target that looks like a
    pointer to the thunk keeps the sweeper away: that is rare."""
    if os.getuid() != 0 or subprocess.call(OTHER_PROC + ("true",), stderr=subprocess.DEVNULL) != 0:
        raise harness.Skip("proc can't be mounted here")
    check(any(taken_from_sweeper(context) for _ in range(3)), "no sweeper ever found a thunk that nothing leads to")


def taken_from_sweeper(context):
    """False: an agent was sent for the thunk, and none swept it."""
    with harness.Target(context.python, "menu") as target:
        leave_thunk(context, target)
        with harness.Launcher(harness.faulty(), "detach", "-v", "-p", target.pid,
                              env=dict(os.environ, MEMPULSE_FAULT="sweep-0#1:stop")) as sweeper:
            procfs.wait_until(lambda: sweeper.process.poll() is not None or procfs.state(sweeper.process.pid) == "T", harness.PATIENCE,
                              "the sweeper stands")
            if sweeper.process.poll() is not None:
                swept = sweeper.result().expect(0)
                check("may still be reached" in swept.err, "it did not stand\n%s", swept)
                return False
            with inject(context, target, "-d", "2s", prefix=OTHER_PROC) as session:
                session.wait_attached()
                sweeper.signal(signal.SIGCONT)
                swept = sweeper.result()
                lives(target, [swept])
                check("is unreachable" in swept.err, "it had found nothing\n%s", swept)
                session.result().expect(0)
        harness.run(context.binary, "detach", "-p", target.pid).expect(0)
        check(not procfs.ours(target.pid), "left: %s", procfs.ours(target.pid))
        target.check_untouched()
        return True


def claimed(context):
    """An agent takes no thunk that a launcher is about to unmap; a launcher that died over its
    claim leaves it to the next."""
    with harness.Target(context.python, "menu") as target:
        leave_thunk(context, target)
        page, = thunks(target)
        with open("/proc/%d/mem" % target.pid, "r+b", 0) as memory:
            os.pwrite(memory.fileno(), b"\1", page + CLAIMED)
        with inject(context, target, "-d", "400ms") as launcher:
            launcher.wait_attached()
            check(len(thunks(target)) == 2, "it was taken: %s", thunks(target))
            launcher.result()
        harness.run(context.binary, "detach", "-p", target.pid).expect(0)
        check(not procfs.ours(target.pid), "left: %s", procfs.ours(target.pid))
        target.check_untouched()


def locked(context):
    """Another one is at work and does not finish: refused in time, with its name."""
    with harness.Target(context.python, "fib") as target:
        with open("/proc/%d/mem" % target.pid, "rb", 0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            for command in ("inject", "detach"):
                result = harness.run(context.binary, command, "-p", target.pid, "--timeout", "700ms")
                result.expect(6)
                check("another mempulse" in result.err and str(os.getpid()) in result.err, "who?\n%s", result)
                check("waiting for it to finish" in result.err and UNTOUCHED in result.err, "not told:\n%s", result)
            error = harness.run(context.binary, "inject", "-p", target.pid, "--timeout", "50ms", "--json").expect(6).error()
            check(error["code"] == "BUSY_MEMPULSE" and not error["changed_target"], "%s", error)
            with inject(context, target, "-d", "100ms") as waiting:
                check("waiting" in (waiting.reader.line(harness.PATIENCE) or ""), "it does not wait")
                fcntl.flock(file, fcntl.LOCK_UN)
                waiting.result().expect(0)
        target.check_untouched()


def dies_while_waiting(context):
    """The target is killed while the agent waits for the GIL: nobody says that it is as it was."""
    process = harness.spawn([context.python, "-c", HOLDS_GIL], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    try:
        check(process.stdout.readline() == b"ready\n", "it is not ready")
        for options, said in (((), None), (("--json",), "target_ended")):
            with harness.Launcher(context.binary, "inject", "-p", process.pid, "-o", os.devnull, *options) as launcher:
                while "waiting for the target's interpreter lock" not in (launcher.reader.line(harness.PATIENCE) or ""):
                    check(launcher.process.poll() is None, "it does not wait for the GIL")
                process.kill()
                result = launcher.result().expect(11)
            check(UNTOUCHED not in result.err and "changed_target" not in result.err, "said of a dead target:\n%s", result)
            check(said is None or result.error()[said], "not told:\n%s", result)
            harness.reap(process)
            if said is None:
                process = harness.spawn([context.python, "-c", HOLDS_GIL], stdout=subprocess.PIPE,
                                        stdin=subprocess.DEVNULL)
                process.stdout.readline()
    finally:
        harness.reap(process)
        process.stdout.close()


TESTS = (
    ("three injects at once", three_at_once),
    ("inject and detach at once", inject_and_detach),
    ("one ends while the next begins", end_and_inject),
    ("killed before, seen later", killed_before),
    ("another's region", at_work_then),
    ("two mounts of proc", two_mounts),
    ("swept and taken", swept_and_taken),
    ("thunk that is claimed", claimed),
    ("another one is at work", locked),
    ("target dies while the agent waits", dies_while_waiting),
)


def tests(short):
    for name, function in TESTS:
        if not short or name == "three injects at once":
            yield "rivals " + name, function
