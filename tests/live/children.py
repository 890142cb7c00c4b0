"""Forked children of an injected process: they work on, `detach -p CHILD` takes away
all that they were born with, they can be injected themselves, and the parent's session
notices nothing of it. On every interpreter."""
import os
import re
import subprocess
import tempfile
import time

import harness
import procfs
from harness import check

GENERATIONS = 3
WORK = 50  # calls that a process must make to count as working


class Family:
    """targets/family.py, a process a generation."""

    def __init__(self, python):
        self.ends, theirs = [], []
        for _ in range(GENERATIONS):
            (to_read, to_write), (from_read, from_write) = os.pipe(), os.pipe()
            theirs += [to_read, from_write]
            self.ends.append((to_write, harness.LineReader(from_read)))
        self.stdio = tempfile.TemporaryFile()
        # From 3.12 on os.fork warns of any thread that it does not know, which ours is.
        argv = [python, "-B", "-W", "ignore::DeprecationWarning", os.path.join(harness.TARGETS, "family.py")]
        self.process = harness.spawn(argv + [str(fd) for fd in theirs], pass_fds=theirs, stdin=subprocess.DEVNULL,
                                     stdout=self.stdio, stderr=self.stdio, env=harness.target_environment())
        for fd in theirs:
            os.close(fd)
        self.pids = [self.process.pid]
        check(self.ends[0][1].line(harness.PATIENCE) == "ready", "the family does not start")
        self.links = procfs.links(self.process.pid)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        for pid in reversed(self.pids):
            harness.kill_group(pid)
        harness.reap(self.process)
        for to, reader in self.ends:
            os.close(to)
            os.close(reader.fd)
        self.stdio.seek(0)
        said = self.stdio.read()
        self.stdio.close()
        if not kind:
            check(said == b"", "somebody wrote to stdio: %r", said)

    def tell(self, number, command):
        os.write(self.ends[number][0], (command + "\n").encode())

    def ask(self, number, command):
        self.tell(number, command)
        return self.answer(number)

    def answer(self, number):
        answer = self.ends[number][1].line(harness.PATIENCE)
        check(answer is not None, "process %d has ended", number)
        return answer

    def fork(self, number, how="plain"):
        self.pids[number + 1:] = [int(self.ask(number, "fork " + how))]
        return self.pids[number + 1]

    def works(self, number):
        """It makes calls, and its garbage collector finds no object that leads nowhere."""
        def calls():
            return int(self.ask(number, "count").split()[0])
        target = calls() + WORK
        procfs.wait_until(lambda: calls() >= target, harness.PATIENCE, "process %d works" % number, step=0.02)

    def stop(self):
        for number in reversed(range(len(self.pids))):
            check(self.ask(number, "stop") == "stopped 0", "process %d or its child ended badly", number)
        check(self.process.wait(harness.PATIENCE) == 0, "the parent ended badly")

    def nothing_left(self, number):
        pid = self.pids[number]
        check(not procfs.ours(pid), "left in process %d: %s", number, procfs.ours(pid))
        check(procfs.links(pid) == self.links, "descriptors of process %d: %s, at first %s", number, procfs.links(pid),
              self.links)
        check("mempulse" not in self.ask(number, "tools"), "a monitoring tool is left in process %d", number)


def session(context, family, number, *options):
    return harness.Launcher(context.binary, "inject", "-p", family.pids[number], "-d", "60s", "--json", "-o", os.devnull,
                            "--max-overhead", "0", *options)


def detach(context, family, number, code=0, *options):
    result = harness.run(context.binary, "detach", "-p", family.pids[number], *options).expect(code)
    if code == 0:
        check("nothing left behind" in result.out, "it does not say so\n%s", result)
        family.nothing_left(number)
    return result


def end(context, family, launcher, number=0):
    """Of a session, by detach; the session is clean as well."""
    detach(context, family, number)
    launcher.result().expect(0)
    family.nothing_left(number)
    family.works(number)


def child(context, options=()):
    """Detach, inject, detach again; the parent's session goes on, and ends clean."""
    with Family(context.python) as family:
        with session(context, family, 0, *options) as parents:
            parents.wait_attached()
            family.works(0)
            family.fork(0)
            family.works(1)
            detach(context, family, 1)
            family.works(1)
            with session(context, family, 1, *options) as childs:
                childs.wait_attached()
                family.works(1)
                end(context, family, childs, 1)
            family.works(0)
            check(parents.process.poll() is None, "the parent's session has ended")
            end(context, family, parents)
        family.stop()


def child_injected_at_once(context):
    """No detach before: what the child was born with goes with the first injection."""
    with Family(context.python) as family:
        with session(context, family, 0) as parents:
            parents.wait_attached()
            family.fork(0)
            harness.run(context.binary, "inject", "-p", family.pids[1], "-d", "200ms", "-o", os.devnull).expect(0)
            family.nothing_left(1)
            family.works(1)
            end(context, family, parents)
        family.stop()


def unused_child(context):
    """A child that has run no Python yet: its descriptors are found and closed by detach."""
    with Family(context.python) as family:
        with session(context, family, 0) as parents:
            parents.wait_attached()
            family.fork(0)
            detach(context, family, 1)
            end(context, family, parents)
        family.works(1)
        family.stop()


def descriptors(context):
    """A child gives its parent's descriptors back by itself, with its first calls."""
    with Family(context.python) as family:
        with session(context, family, 0) as parents:
            parents.wait_attached()
            family.works(0)
            family.fork(0)
            family.works(1)
            check(procfs.links(family.pids[1]) == family.links, "the child has %s, at first %s",
                  procfs.links(family.pids[1]), family.links)
            end(context, family, parents)
        detach(context, family, 1)
        family.stop()


def grandchild(context):
    """Each generation injected: the youngest carries two copies."""
    with Family(context.python) as family:
        with session(context, family, 0) as parents:
            parents.wait_attached()
            family.works(0)
            family.fork(0)
            family.works(1)
            with session(context, family, 1) as childs:
                childs.wait_attached()
                family.works(1)
                family.fork(1)
                family.works(2)
                detach(context, family, 2)
                family.works(2)
                end(context, family, childs, 1)
            end(context, family, parents)
        family.stop()


def sessions_before(context):
    """Several sessions come and go in the parent; each leaves a child. The grandchild of
    a child that nobody cleaned carries the same."""
    with Family(context.python) as family:
        for _ in range(3):
            with session(context, family, 0) as parents:
                parents.wait_attached()
                family.works(0)
                if len(family.pids) == 1:
                    family.fork(0)
                    family.works(1)
                    family.fork(1)
                end(context, family, parents)
        family.works(2)
        detach(context, family, 2)
        detach(context, family, 1)
        family.works(1)
        family.works(2)
        family.stop()


def threads_in_calls(context):
    """Other threads of the parent are inside of traced calls; in the child nobody is."""
    with Family(context.python) as family:
        with session(context, family, 0) as parents:
            parents.wait_attached()
            family.ask(0, "hold 3")
            time.sleep(0.1)  # not for readiness: any number of them in their calls is right
            family.fork(0)
            family.works(1)
            detach(context, family, 1)
            family.works(1)
            check(parents.process.poll() is None, "the parent's session has ended")
        family.works(0)
        family.works(1)


def only_the_thunk(context, family):
    """Up to 3.11 the thunk stays as long as a call is inside, and that is said; nothing else does."""
    family.works(1)
    result = detach(context, family, 1, 0 if context.interpreter.monitoring else 10)
    if not context.interpreter.monitoring:
        check("has not returned" in result.out, "what stays is not explained\n%s", result)
        check(not re.search("left .*memfd:mempulse|descriptor left", result.out), "more than the thunk stays\n%s", result)
        check(procfs.links(family.pids[1]) == family.links, "descriptors: %s", procfs.links(family.pids[1]))
    family.works(1)


def of_a_thread(context):
    """The child's only thread is that which forked, inside of a call that never ends."""
    with Family(context.python) as family:
        with session(context, family, 0) as parents:
            parents.wait_attached()
            family.works(0)
            family.fork(0, "thread")
            only_the_thunk(context, family)
            end(context, family, parents)
        family.stop()


def inside_a_call(context):
    """The child is still in the call that forked it; when that has ended nothing is left."""
    with Family(context.python) as family:
        with session(context, family, 0) as parents:
            parents.wait_attached()
            family.works(0)
            family.fork(0, "held")
            only_the_thunk(context, family)
            check(family.ask(1, "return") == "return", "the child does not return")
            family.works(1)
            if not context.interpreter.monitoring:
                detach(context, family, 1)
            end(context, family, parents)
        family.stop()


def forked_while_ld_so_opens(context):
    """The child has a descriptor that ld.so had open on the agent while the descriptors were
    copied; the memory, copied after that, says that all is loaded, and the memfd closed."""
    with Family(context.python) as family:
        family.tell(0, "open memfd:mempulse-agent")
        with harness.Launcher(harness.faulty(), "inject", "-p", family.pids[0], "-d", "60s", "--json", "-o", os.devnull,
                              "--max-overhead", "0", env=dict(os.environ, MEMPULSE_FAULT="go-0#1:doze")) as parents:
            fd = family.answer(0)
            parents.wait_attached()
            family.fork(0)
            family.ask(0, "close " + fd)
            family.works(1)
            detach(context, family, 1)
            end(context, family, parents)
        family.stop()


def child_execs(context):
    with Family(context.python) as family:
        with session(context, family, 0) as parents:
            parents.wait_attached()
            pid = family.fork(0)
            family.ask(1, "exec")
            procfs.wait_until(lambda: "sleep" in procfs.read(pid, "cmdline"), harness.PATIENCE, "it becomes sleep")
            check(not procfs.ours(pid), "left: %s", procfs.ours(pid))
            # It opens files of its own while it starts.
            procfs.wait_until(lambda: set(procfs.links(pid)) <= set(family.links), harness.PATIENCE, "no other descriptors")
            os.kill(pid, 9)
            family.works(0)
            end(context, family, parents)


TESTS = (
    ("child", child),
    ("of a thread", of_a_thread),
    ("child, --lines", lambda context: child(context, ("--lines",))),
    ("injected at once", child_injected_at_once),
    ("without a call", unused_child),
    ("descriptors", descriptors),
    ("grandchild", grandchild),
    ("after some sessions", sessions_before),
    ("other threads in calls", threads_in_calls),
    ("inside a call", inside_a_call),
    ("forked while ld.so opens", forked_while_ld_so_opens),
    ("exec", child_execs),
)
SHORT = ("child",)


def tests(short):
    for name, function in TESTS:
        if not short or name in SHORT:
            yield "children " + name, function
