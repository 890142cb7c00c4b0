"""Other tools that work inside the process, as context managers over one window.
Each does what its documentation shows; what it found is thrown away."""
import os
import sys
import tempfile


class Ours(object):
    def __init__(self, depth):
        self.depth = depth


def original_c(depth):
    import mempulse
    return mempulse.cMemoryUsageTracer(lambda result: None, depth)


def original_python(depth):
    import mempulse
    return mempulse.MemoryUsageTracer(lambda result: None, depth)


class TraceMalloc(Ours):
    def __enter__(self):
        import tracemalloc
        tracemalloc.start()

    def __exit__(self, *error):
        import tracemalloc
        tracemalloc.stop()


class CProfile(Ours):
    def __enter__(self):
        import cProfile
        self.tool = cProfile.Profile()
        self.tool.enable()

    def __exit__(self, *error):
        self.tool.disable()


class Memray(Ours):
    def __enter__(self):
        import memray
        self.path = tempfile.mktemp(".memray")
        self.tool = memray.Tracker(self.path)
        self.tool.__enter__()

    def __exit__(self, *error):
        self.tool.__exit__(*error)
        os.unlink(self.path)


class MemoryProfiler(Ours):
    """Measures the lines of the functions it wraps: here the unit."""

    def __init__(self, depth):
        import memory_profiler
        self.wrap = memory_profiler.LineProfiler()

    def __enter__(self):
        pass

    def __exit__(self, *error):
        pass


class Pyinstrument(Ours):
    def __enter__(self):
        import pyinstrument
        self.tool = pyinstrument.Profiler()
        self.tool.start()

    def __exit__(self, *error):
        self.tool.stop()


TOOLS = {"original-c": original_c, "original-py": original_python, "tracemalloc": TraceMalloc,
         "cprofile": CProfile, "memray": Memray, "memory_profiler": MemoryProfiler,
         "pyinstrument": Pyinstrument}
