"""A launcher that runs out of memory, at each allocation in turn: whatever it says of the
target is true, and so is the cause. On the build with fault points (make FAULTS=1, src/base/fault.h)."""
import errno
import os
import signal

import harness
import procfs
from harness import check
from sessions import nothing_left

SESSION = ("-d", "1ms", "--timeout", "5s", "-o", os.devnull)
UNCHANGED = "nothing in the target was changed"
CLEAN = "nothing left behind"
NOTHING = "nothing of mempulse is there"
OUTPUT = 12
TRUE_CODES = (0, 9, 10, OUTPUT, 70, -signal.SIGSEGV, 127)  # done without; a step failed; can't be looked at; no memory; crashes are counted
NO_MEMORY = os.strerror(errno.ENOMEM)
FEW = 40  # a detach makes 90 to 270, by how often it has to look again; an inject more


def allocations(path):
    """How many a run has made."""
    with open(path) as file:
        count = [int(line.partition("#")[2]) for line in file if line.startswith("malloc-")][-1]
    check(count > FEW, "only %d allocations: the list is not whole", count)
    return count


def said_of_cause(result):
    """What is false in its exit code, or None: neither the target nor a policy is to blame, nor another mempulse."""
    if result.code not in TRUE_CODES:
        return "exit code %d" % result.code
    if result.code == OUTPUT and NO_MEMORY not in result.err:
        return "it was not the output"
    return None


def said_of_target(result, left):
    """What is false in it, or None."""
    if left and CLEAN in result.err:
        return "something is left"
    if left and UNCHANGED in result.err:
        return "the target was changed"
    if UNCHANGED in result.err and harness.Launcher.BANNER in result.err:
        return "it had been attached"
    if "LEFT BEHIND:" in result.err and not left:
        return "nothing is left"
    if "there is no process" in result.err or "exited" in result.err:
        return "the target is there"
    return None


def each_allocation(context, more):
    """One allocation fails, or that and all later ones."""
    crashed, faulty = [], harness.faulty()
    with harness.Target(context.python, "select") as target:
        path = context.file("passed")
        harness.run(faulty, "inject", "-p", target.pid, *SESSION, env=dict(os.environ, MEMPULSE_FAULT_LIST=path)).expect(0)
        for n in range(1, allocations(path) + 1, 8 if more else 1):
            fault = "malloc-0#%d%s:enomem" % (n, more)
            result = harness.run(faulty, "inject", "-p", target.pid, *SESSION, env=dict(os.environ, MEMPULSE_FAULT=fault))
            false = said_of_target(result, procfs.ours(target.pid)) or said_of_cause(result)
            check(not false, "%s: %s\n%s", fault, false, result)
            if result.code in (-signal.SIGSEGV, 127):
                crashed.append(n)
            nothing_left(target, 9)
        check(not crashed, "crashes at %s", crashed)
        target.check_untouched()


def said_by_detach(result, ended, left):
    """What is false in what a detach said, of a session that has ended since, or not."""
    text = result.out + result.err
    if NOTHING in text:
        return "something was there"
    if CLEAN in text and left:
        return "something is left"
    if UNCHANGED in text and ended:
        return "it ended the session"
    if "there is no process" in text or "exited" in text:
        return "the target is there"
    return None


def detach_each_allocation(context, more):
    """The same for a detach."""
    def detach(**env):
        return harness.run(faulty, "detach", "-p", target.pid, "--timeout", "2s", env=dict(os.environ, **env))

    def session():
        return harness.Launcher(context.binary, "inject", "-p", target.pid, "-o", os.devnull)

    faulty = harness.faulty()
    with harness.Target(context.python, "select") as target:
        path, crashed = context.file("passed"), []
        with session() as launcher:
            launcher.wait_attached()
            detach(MEMPULSE_FAULT_LIST=path).expect(0)
        for n in range(1, allocations(path) + 1, 4 if more else 2):
            nothing_left(target, 9)
            with session() as launcher:
                launcher.wait_attached()
                fault = "malloc-0#%d%s:enomem" % (n, more)
                result = detach(MEMPULSE_FAULT=fault)
                left = procfs.ours(target.pid)
                try:
                    launcher.result(0.2)
                    ended = True
                except harness.Failure:
                    ended = False
                false = said_by_detach(result, ended, left) or said_of_cause(result)
                check(not false, "%s: %s\n%s", fault, false, result)
                if result.code in (-signal.SIGSEGV, 127):
                    crashed.append(n)
                if not ended:
                    harness.run(context.binary, "detach", "-p", target.pid).expect(0)
                    launcher.result()
        nothing_left(target, 9)
        check(not crashed, "crashes at %s", crashed)
        target.check_untouched()


def tests(short):
    if not short:
        yield "memory: one allocation of detach fails", lambda context: detach_each_allocation(context, "")
        yield "memory: all allocations of detach fail from one on", lambda context: detach_each_allocation(context, "+")
        yield "memory: one allocation fails", lambda context: each_allocation(context, "")
        yield "memory: all allocations fail from one on", lambda context: each_allocation(context, "+")
