"""States of programs that live with other people's tools; each is skipped where its
package is not installed."""
import asyncio
import importlib
import os
import subprocess
import sys
import tracemalloc

import work
from campaign_helper import helper_path
from states_async import Asyncio, AsyncioForever
from states_busy import churn, fib
from work import checksum


def missing(name):
    try:
        importlib.import_module(name)
        return None
    except ImportError:
        return "module %s is missing" % name


class Uvloop(AsyncioForever):
    """Commands are obeyed outside of the loop, whose own sockets are there only while it runs."""

    def on_command(self, control):
        self.loop.stop()

    def serve(self, control, reference):
        self.stopping = False
        self.loop.add_reader(control.fd, self.on_command, control)
        os.set_blocking(control.fd, True)  # libuv has made it otherwise
        steps = self.loop.create_task(self.steps(reference))
        while not self.stopping:
            self.loop.run_forever()
            self.stopping = not work.handle(self, control, control.command())
        steps.add_done_callback(lambda _: self.loop.stop())
        while not steps.done():  # a stop of before may come late
            self.loop.run_forever()

    def setup(self, control):
        if missing("uvloop"):
            return missing("uvloop")
        import uvloop
        self.loop = uvloop.new_event_loop()
        asyncio.set_event_loop(self.loop)


class Gevent(work.State):
    """Greenlets that switch in the midst of their calls."""

    def setup(self, control):
        if missing("gevent"):
            return missing("gevent")
        import gevent
        self.gevent = gevent

    def one(self, k):
        self.gevent.sleep(0)
        value = fib(5 + k % 5)
        self.gevent.sleep(0.0005)
        return value + churn(k, 20)

    def step(self, i):
        jobs = [self.gevent.spawn(self.one, i % work.PERIOD + k) for k in range(20)]
        self.gevent.joinall(jobs)
        return checksum([job.value for job in jobs])


def traced_memory(base):
    class Tracemalloc(base):
        def setup(self, control):
            tracemalloc.start(3)
            return None

        def close(self):
            work.account.extra["tracemalloc"] = tracemalloc.is_tracing()
    return Tracemalloc


def frame_hook(base):
    class Framehook(base):
        """Another user of the eval-frame slot. Its function must be there at the end."""

        def setup(self, control):
            sys.path.insert(0, helper_path("framehook-%d.%d" % sys.version_info[:2]))
            if missing("framehook"):
                return missing("framehook")
            import framehook
            self.hook = framehook
            framehook.install()

        def step(self, i):
            before = self.hook.look()[0]
            value = base.step(self, i)
            return checksum((value, self.hook.look()[0] > before))

        def close(self):
            work.account.extra["in_place"] = self.hook.look()[1]
            if not self.hook.look()[1]:
                work.account.errors += 1
    return Framehook


def frame_hook_toggles(base):
    class FramehookToggles(frame_hook(base)):
        """Its function comes and goes at run time, as torch's does around what it compiles."""

        def step(self, i):
            value = super().step(i)
            self.hook.remove()
            between = base.step(self, i)
            self.hook.install()
            return checksum((value, between))
    return FramehookToggles


def debugged(base):
    class Debugpy(base):
        """Listening for a debugger that never comes."""

        def setup(self, control):
            if missing("debugpy"):
                return missing("debugpy")
            import debugpy
            debugpy.configure(subProcess=False)  # the debugger itself is none of its targets
            self.address = debugpy.listen(("127.0.0.1", 0))
    return Debugpy


def debugged_indeed(base):
    class DebugpyAttached(debugged(base)):
        """A debugger has come, and watches a line of ours."""

        def setup(self, control):
            why = super().setup(control)
            if why:
                return why
            import debugpy
            client = os.path.join(os.path.dirname(os.path.abspath(__file__)), "debugger.py")
            subprocess.Popen([sys.executable, client, str(self.address[1]), work.__file__], stdin=subprocess.DEVNULL)
            debugpy.wait_for_client()
    return DebugpyAttached


def numeric(base):
    class Numpy(base):
        def setup(self, control):
            if missing("numpy"):
                return missing("numpy")
            import numpy
            self.numpy = numpy

        def step(self, i):
            a = self.numpy.arange(90000, dtype=float).reshape(300, 300) % (i % work.PERIOD + 3)
            return checksum(float((a @ a).sum()))
    return Numpy


def states(base):
    return {"uvloop": Uvloop, "gevent": Gevent, "tracemalloc": traced_memory(base), "framehook": frame_hook(base),
            "framehook_toggles": frame_hook_toggles(base),
            "debugpy": debugged(base), "debugpy_attached": debugged_indeed(base), "numpy": numeric(base)}
