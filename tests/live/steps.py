"""Steps of the launcher that fail, or at which the target ends or becomes another program. On the
build with fault points (make FAULTS=1, src/base/fault.h); the campaign's fault table does
this at every step."""
import ctypes
import fcntl
import os
import re
import signal
import tempfile
import time

import harness
import procfs
from harness import check

EXPLAINED = r"thread [0-9]+ \(.+\), borrowed in .+, %s"
SESSION = ("inject", "-d", "30ms", "--timeout", "5s", "-q", "-o", os.devnull)
RESUMES = 8  # PTRACE_SYSCALLs of an injection; the rest are not reached
PTRACE_SYSCALL, PTRACE_GETREGS, PTRACE_SETREGS, PTRACE_DETACH, PTRACE_SEIZE = 24, 12, 13, 17, 0x4206
UNCHANGED = "nothing in the target was changed"
SAME_LOOKS = 20  # of 10 ms, in which nothing moves: it dozes
REGION_PLACE, REGION_MASK = 0x06d70000, 0x0fffffff  # include/boot.h
ONE_ARENA = ("env", "MALLOC_ARENA_MAX=1")
PLACES = 4  # PLAN_PLACES
ENDS = bytes.fromhex("b83c00000031ff0f05")  # exit(0)
ENDED_LOOKS = 3  # of 2 ms, of which a search for the cause has some 50
DOZE = 0.5
NOBODY = 65534
PIDFD_OPEN, PIDFD_GETFD = 434, 438
libc = ctypes.CDLL(None, use_errno=True)
CIRCLE = bytes.fromhex("b8270000000f05ebf7")  # getpid, for ever
UNUSED = "ptrace-24#1:kill"  # leaves a region in which nothing has run


def faulty(context, target, fault, *words):
    with start(target, fault, *words) as launcher:
        return launcher.result(2 * harness.PATIENCE)


def start(target, fault, *words, **variables):
    return harness.Launcher(harness.faulty(), *(words or SESSION), "-p", target.pid,
                            env=dict(os.environ, MEMPULSE_FAULT=fault, MEMPULSE_FAULT_TARGET=str(target.pid), **variables))


def stopped(context):
    """A launcher that is stopped while it holds a thread gives that back, and stands only then."""
    with harness.Target(context.python, "select") as target:
        for n in range(1, RESUMES + 1):
            with start(target, "ptrace-%d#%d:stop" % (PTRACE_SYSCALL, n)) as launcher:
                def stands():
                    return procfs.state(launcher.process.pid) == "T"
                # It stands twice, and runs in between to give the thread back.
                procfs.wait_until(lambda: stands() and not procfs.standing(target.pid) and stands(), harness.PATIENCE, "the target runs")
                check(target.ask("ping")["pong"] and stands(), "the launcher runs, too")
                launcher.signal(signal.SIGCONT)
                launcher.result().expect(0)
        target.check_untouched()


def resume_fails(context):
    """A thread that could not be resumed in the midst of a call of ours goes on with its own all the same."""
    for n in range(1, RESUMES + 1):
        with harness.Target(context.python, "raw_epoll") as target:
            result = faulty(context, target, "ptrace-%d#%d:fail" % (PTRACE_SYSCALL, n))
            check(result.code in (0, 9), "%s", result)
            target.work(3)
            check(not procfs.ours(target.pid) or UNCHANGED not in result.err, "something is left\n%s", result)
            harness.run(context.binary, "detach", "-p", target.pid, "--wait", "5s").expect(0)
            check(not procfs.ours(target.pid), "left: %s", procfs.ours(target.pid))


def execs(context):
    """The target executes something else while it is injected: that is the cause. An exec of another thread kills
    the one that is held, and goes on only when its tracer has taken note of it."""
    cases = [("execs_on_signal", fault) for fault in ("go-0#1:exec", "send-64#1:exec", "stop-2#1:exec")]
    cases += [("execs_in_thread", "ptrace-%d#1:exec" % request) for request in (PTRACE_GETREGS, PTRACE_SETREGS, PTRACE_DETACH)]
    # The first thread and the raw one are killed, both traced: the first is told of when the other has been waited for.
    cases += [("execs_in_thread", "late-0#5:exec"), ("execs_in_thread", "ptrace-%d#5:exec" % PTRACE_SYSCALL)] * 4
    for state, fault in cases:
        with harness.Target(context.python, state) as target:
            result = faulty(context, target, fault)
            check(result.code == 11 and "replaced its program" in result.err, "%s:\n%s", fault, result)
            procfs.wait_until(lambda: procfs.read(target.pid, "comm") == "sleep\n", harness.PATIENCE, "it sleeps")
            check("TracerPid:\t0\n" in procfs.read(target.pid, "status") and not procfs.ours(target.pid), "it is not free")
            target.account = {}  # it has no last word


def child_with_copy(context, target):
    """Its pid; it was forked while an agent was at work, which is gone from the parent by now."""
    with harness.Launcher(context.binary, "inject", "-p", target.pid, "-o", os.devnull) as launcher:
        launcher.wait_attached()
        child = target.ask("fork")["child"]
        launcher.signal(signal.SIGINT)
        launcher.result()
    check(procfs.ours(child), "nothing was copied")
    return child


def execs_in_cure(context):
    """What an exec takes away while a cure is on its way needs none, though its program has no Python."""
    with harness.Target(context.python, "kin_execs") as target:
        child = child_with_copy(context, target)
        with harness.Launcher(harness.faulty(), "detach", "-p", child, env=dict(os.environ, MEMPULSE_FAULT="cure-0#1:stop")) as launcher:
            procfs.wait_until(lambda: procfs.state(launcher.process.pid) == "T", harness.PATIENCE, "the cure begins")
            os.kill(child, signal.SIGUSR2)
            procfs.wait_until(lambda: procfs.read(child, "comm") == "sleep\n", harness.PATIENCE, "it sleeps")
            launcher.signal(signal.SIGCONT)
            result = launcher.result().expect(0)
        check("nothing left behind" in result.out, "%s", result)
        os.kill(child, signal.SIGKILL)
        target.check_untouched()


def unlock(process, name):
    """Takes back what another process has locked: the lock belongs to what it has opened, not to it."""
    pidfd = libc.syscall(PIDFD_OPEN, process.pid, 0)
    for fd, link in procfs.links(process.pid).items():
        if link == name:
            copy = libc.syscall(PIDFD_GETFD, pidfd, fd, 0)
            check(copy >= 0, "pidfd_getfd(2) fails: %s", os.strerror(ctypes.get_errno()))
            fcntl.flock(copy, fcntl.LOCK_UN)
            os.close(copy)
    os.close(pidfd)


def left_in_cure(context):
    """An agent that was to cure a fork's child leaves because its launcher died, while somebody asks it to. What stays
    is a fork's copy, which is cured, and not waited for."""
    with harness.Target(context.python, "kin") as target:
        child = child_with_copy(context, target)

        def detach(fault):
            return harness.Launcher(harness.faulty(), "detach", "-p", child, env=dict(os.environ, MEMPULSE_FAULT=fault))

        with detach("got-1#1:stop") as first:  # the agent has said hello
            procfs.wait_until(lambda: procfs.state(first.process.pid) == "T", harness.PATIENCE, "the first one stops")
            unlock(first.process, "/proc/%d/mem" % child)
            with detach("leave-0#1:stop") as second:  # and is about to be told
                procfs.wait_until(lambda: procfs.state(second.process.pid) == "T", harness.PATIENCE, "the second one stops")
                first.signal(signal.SIGKILL)
                procfs.wait_until(lambda: len(procfs.tasks(child)) == 1, harness.PATIENCE, "the agent leaves")
                check(procfs.ours(child), "it took the copy with it")
                second.signal(signal.SIGCONT)
                result = second.result().expect(0)
        check("nothing left behind" in result.out and not procfs.ours(child), "%s", result)
        os.kill(child, signal.SIGKILL)
        target.check_untouched()


def left_by_thread(context):
    """What could not be taken back is told, though the thread that it was done in ends right after."""
    told = 0
    for _ in range(4):
        with harness.Target(context.python, "main_ends_on_signal") as target:
            result = faulty(context, target, "ptrace-%d#3+:fail,undone-0#1:exit" % PTRACE_SYSCALL)
            told += "could not be taken back" in result.err
            check(result.code == 9 and UNCHANGED not in result.err, "%s", result)
            target.account = {}  # who would write it has ended
    check(told, "no step failed: %s", result)


def dies_in_sweep(context):
    """The target is killed while a leftover is swept: that is the cause, whatever step met it."""
    for point in ("ptrace-%d#1" % PTRACE_GETREGS, "ptrace-16900#1", "stop-0#1", "write-0#1"):
        for action in ("slay", "bury"):
            with harness.Target(context.python, "fib") as target:
                faulty(context, target, UNUSED).expect(-signal.SIGKILL)
                procfs.wait_until(lambda: procfs.ours(target.pid), harness.PATIENCE, "a region is there")
                result = faulty(context, target, "%s:%s" % (point, action), "detach", "--wait", "1s")
                check(result.code in (0, 3, 11), "%s %s:\n%s", point, action, result)
                check(target.process.wait(harness.PATIENCE) == -signal.SIGKILL or result.code == 0, "it lives")
                target.account = {}


def with_loader(context, target, codes):
    """A launcher that dozes, and whose loader has a thread that has yet to run its first instruction.
    codes: of those that doze elsewhere."""
    for n in range(1, RESUMES + 1):
        launcher = start(target, "ptrace-%d#%d:doze" % (PTRACE_SYSCALL, n))
        end, looks = time.monotonic() + harness.PATIENCE, 0
        while launcher.process.poll() is None and looks < SAME_LOOKS and time.monotonic() < end:
            time.sleep(0.01)
            looks = looks + 1 if set(procfs.standing(target.pid)) - {target.pid} else 0
        if looks == SAME_LOOKS:
            return launcher
        result = launcher.result()
        check(result.code in codes, "%s", result)
        launcher.__exit__()
    raise harness.Failure("no resume is the loader's")


def libc_notes():
    """Where libc notes that there is one thread, from the beginning of its image on; before 2.36 each thread has a note of its own."""
    libc = ctypes.CDLL(None)
    libc.gnu_get_libc_version.restype = ctypes.c_char_p
    if int(libc.gnu_get_libc_version().split(b".")[1]) < 36:
        raise harness.Skip("glibc before 2.36")
    at = ctypes.addressof(ctypes.c_char.in_dll(libc, "__libc_single_threaded"))
    return at - libc_image(os.getpid())


def libc_image(pid):
    return min(m.low for m in procfs.mappings(pid) if "/libc.so.6" in m.name or "/libc-2" in m.name)


def one_arena(context):
    """Where malloc takes no locks for a single thread, and all threads share its arena, libc knows of the second
    one before the first one goes on: what that then allocates is locked."""
    offset = libc_notes()

    def known():
        """False: the thread stood at no safe point."""
        with tempfile.TemporaryDirectory() as folder, harness.Target(context.python, "select", prefix=ONE_ARENA) as target, \
                open("/proc/%d/mem" % target.pid, "rb", 0) as memory:
            def note():
                memory.seek(libc_image(target.pid) + offset)
                return memory.read(1)
            check(note() == b"\1", "libc notes that it has threads")
            fired = os.path.join(folder, "fired")
            with start(target, "go-0#1:doze", *SESSION, MEMPULSE_FAULT_FIRED=fired) as launcher:
                procfs.wait_until(lambda: os.path.exists(fired), harness.PATIENCE, "the loader waits, and the target runs")
                found = note()
                code = launcher.result().code
            target.check_untouched()
            check(code in (0, 8), "exit code %d", code)
            check(code or found == b"\0", "libc does not know of the loader's thread yet")
            return code == 0
    procfs.wait_until(known, harness.PATIENCE, "it stands at a safe point")


def one_arena_uncounted(context):
    """A second thread that libc did not make is none to malloc: its locks are what counts."""
    with harness.Target(context.python, "forger", prefix=ONE_ARENA) as target:
        if not target.ask("uncounted")["uncounted"] or len(os.listdir("/proc/%d/task" % target.pid)) < 2:
            raise harness.Skip("no io_uring here, or none with a thread of its own")
        target.ask("compute 2")
        result = harness.run(context.binary, "inject", "-p", target.pid, "-d", "100ms", "--timeout", "500ms", "-o", os.devnull)
        result.expect(8)
        check("malloc" in result.err and UNCHANGED in result.err, "%s", result)


def told(tid, what, text):
    """A refusal names the thread, what it was in and how long it took; -v shows the code, with the place marked."""
    code = r"thread %d stood at .*\n(     0x.*\n)*  => 0x" % tid
    return re.search(EXPLAINED % what, text) and "thread %d (" % tid in text and re.search(code, text)


def no_progress(context):
    """A thread that was let go, and does not get to run when the loader is to load, may be in the midst of
    a malloc without locks."""
    libc_notes()
    if procfs.read(os.getpid(), "schedstat").startswith("0 "):
        raise harness.Skip("this kernel does not count what a thread runs")

    def waited():
        with tempfile.TemporaryDirectory() as folder, harness.Target(context.python, "select") as target:
            fired = os.path.join(folder, "fired")
            with start(target, "image-0#1:doze", *SESSION, "-v", MEMPULSE_FAULT_FIRED=fired) as launcher:
                procfs.wait_until(lambda: os.path.exists(fired), harness.PATIENCE, "it dozes")
                target.process.send_signal(signal.SIGSTOP)
                quick = time.time() - os.stat(fired).st_mtime < DOZE / 2
                result = launcher.result(2 * harness.PATIENCE)
                target.process.send_signal(signal.SIGCONT)
            check(not quick or result.code == 8 and told(target.pid, "hardly got to run for [0-9]+ ms", result.err), "%s", result)
            check(target.ask("ping")["pong"], "it does not answer")
            procfs.wait_until(lambda: not procfs.ours(target.pid), harness.PATIENCE, "the loader leaves")
            target.check_untouched()
            return quick
    procfs.wait_until(waited, harness.PATIENCE, "the target is stopped before the launcher goes on")


def changes_user(context):
    """A program that drops its privileges when the loader's thread has them already: libc, which knows nothing
    of that one, would end the process when the next change does not succeed for all."""
    if os.geteuid() != 0:
        raise harness.Skip("only root can change its user")
    for state in ("limited", "limited_threads"):
        with tempfile.TemporaryDirectory() as folder, harness.Target(context.python, state) as target:
            fired = os.path.join(folder, "fired")
            with start(target, "image-0#1:doze", MEMPULSE_FAULT_FIRED=fired) as launcher:
                procfs.wait_until(lambda: os.path.exists(fired), harness.PATIENCE, "it dozes")
                target.ask("become %d" % NOBODY)
                result = launcher.result(2 * harness.PATIENCE)
            result.expect(8)
            check("changed its user" in result.err and UNCHANGED in result.err, "%s", result)
            check(not procfs.ours(target.pid), "left: %s", procfs.ours(target.pid))
            check(not target.ask("regain")["done"], "it has its privileges back")
            harness.run(context.binary, *SESSION, "-p", target.pid).expect(0)


def loader_in_circles(context):
    """A loader that the target makes run for ever is let go in bounded time, and told of."""
    stops = {9: "does not come to where it is waited for"}
    circles(context, (), (0,), stops)
    circles(context, ONE_ARENA, (0, 8), {**stops, 8: EXPLAINED % "could not be held .+ needed: [0-9]+ ms"})  # what is reached first


def rewrite(target, code):
    """What its loader's first instructions are."""
    with open("/proc/%d/mem" % target.pid, "r+b", 0) as memory:
        base = regions(target)[0]
        memory.seek(base + 8)
        entry = int.from_bytes(memory.read(4), "little")
        memory.seek(base + entry)
        memory.write(code)


def loader_ends(context):
    """A loader whose thread ends: the thread that stood for its sake goes on before the cause is looked for."""
    def ended():
        """False: it was held for too long already when the launcher had dozed."""
        stands = []
        with harness.Target(context.python, "select", prefix=ONE_ARENA) as target:
            with with_loader(context, target, (0, 8)) as launcher:
                rewrite(target, ENDS)
                procfs.wait_until(lambda: len(os.listdir("/proc/%d/task" % target.pid)) == 1, harness.PATIENCE, "it ends")
                while launcher.process.poll() is None:
                    stands.append(bool(procfs.standing(target.pid)))
                    time.sleep(0.002)
                result = launcher.result()
            check(result.code in (8, 9) and UNCHANGED not in result.err, "%s", result)
            harness.run(context.binary, "detach", "-p", target.pid, "--wait", "5s").expect(0)
            check(not procfs.ours(target.pid), "left: %s", procfs.ours(target.pid))
            target.check_untouched()
        if result.code == 8 or len(stands) < ENDED_LOOKS:
            return False
        check("ended in the middle" in result.err, "%s", result)
        check(2 * sum(stands) < len(stands), "the target stands while the cause is looked for: %s", stands)
        return True
    procfs.wait_until(ended, harness.PATIENCE, "a loader ends while it is waited for")


def channel_closed(context):
    """The loader's end of the channel is gone when it is to go on: it leaves, which is waited for."""
    with harness.Target(context.python, "select") as target:
        result = faulty(context, target, "go-0#1:fail")
        left = procfs.ours(target.pid)
        check(result.code == 9 and "closed or replaced the session's descriptors" in result.err, "%s", result)
        check(not left and UNCHANGED in result.err, "left: %s\n%s", left, result)
        target.check_untouched()


def circles(context, prefix, codes, texts):
    with harness.Target(context.python, "select", prefix=prefix) as target:
        with with_loader(context, target, codes) as launcher:
            rewrite(target, CIRCLE)
            result = launcher.result()
        check(result.code in texts and re.search(texts[result.code], result.err) and UNCHANGED not in result.err, "%s", result)
        check(target.ask("ping")["pong"], "it does not answer")
        target.account = {}  # it has a thread for good that runs in circles


def regions(target):
    """At places by which they are known without a mark."""
    return [m.low for m in procfs.mappings(target.pid) if m.perms == "r-xp" and not m.inode and m.low & REGION_MASK == REGION_PLACE]


def displaced(context, count):
    """The target maps something where the region was to be, between the launcher's look and its mmap.
    Whether the target was quick enough."""
    with tempfile.TemporaryDirectory() as folder, harness.Target(context.python, "forger") as target:
        fired = os.path.join(folder, "fired")
        with start(target, "ptrace-%d#1:doze" % PTRACE_SEIZE, "inject", "-o", os.devnull, MEMPULSE_FAULT_FIRED=fired) as launcher:
            procfs.wait_until(lambda: os.path.exists(fired), harness.PATIENCE, "it dozes")
            quick = target.ask("occupy %d" % count)["occupied"]
            launcher.wait_attached()
            known = len(regions(target))
            launcher.signal(signal.SIGINT)
            launcher.result().expect(130)
        check(not quick or known == (count < PLACES), "%d places of the region's are used, and it lies at %d of them", count, known)
        target.check_untouched()
    return quick


def displaced_region(context):
    """It goes to another of its places; where all are used, elsewhere."""
    for count in (1, PLACES - 1, PLACES):
        procfs.wait_until(lambda: displaced(context, count), harness.PATIENCE, "the target maps before the launcher does")


def tests(short):
    if not short:
        yield "step: resuming fails", resume_fails
        yield "step: the launcher is stopped", stopped
        yield "step: the target execs", execs
        yield "step: the target execs when it is to be cured", execs_in_cure
        yield "step: an agent that is asked to leave has left copies", left_in_cure
        yield "step: the thread that could not be cleaned ends", left_by_thread
        yield "step: the region's place is used", displaced_region
        yield "step: malloc has one arena", one_arena
        yield "step: one arena, a thread that libc does not know", one_arena_uncounted
        yield "step: the thread does not run", no_progress
        yield "step: the target changes its user", changes_user
        yield "step: the loader ends", loader_ends
        yield "step: the channel is closed", channel_closed
        yield "step: the loader runs in circles", loader_in_circles
        yield "step: the target dies in a sweep", dies_in_sweep
