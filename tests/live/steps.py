"""Steps of the launcher that fail, or at which the target ends or becomes another program. On the
build with fault points (make FAULTS=1, src/base/fault.h); the campaign's fault table does
this at every step."""
import os
import signal

import harness
import procfs
from harness import check

SESSION = ("inject", "-d", "30ms", "--timeout", "5s", "-q", "-o", os.devnull)
RESUMES = 8  # PTRACE_SYSCALLs of an injection; the rest are not reached
PTRACE_SYSCALL, PTRACE_GETREGS = 24, 12
UNCHANGED = "nothing in the target was changed"
UNUSED = "ptrace-24#1:kill"  # leaves a region in which nothing has run


def faulty(context, target, fault, *words):
    return harness.run(harness.faulty(), *(words or SESSION), "-p", target.pid,
                       env=dict(os.environ, MEMPULSE_FAULT=fault, MEMPULSE_FAULT_TARGET=str(target.pid)))


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
    """The target executes something else while it is injected: that is the cause."""
    for fault in ("go-0#1:exec", "send-64#1:exec", "stop-2#1:exec"):
        with harness.Target(context.python, "execs_on_signal") as target:
            faulty(context, target, fault).expect(11)
            procfs.wait_until(lambda: procfs.read(target.pid, "comm") == "sleep\n", harness.PATIENCE, "it sleeps")
            check("TracerPid:\t0\n" in procfs.read(target.pid, "status") and not procfs.ours(target.pid), "it is not free")
            target.account = {}  # it has no last word


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


def tests(short):
    if not short:
        yield "step: resuming fails", resume_fails
        yield "step: the target execs", execs
        yield "step: the target dies in a sweep", dies_in_sweep
