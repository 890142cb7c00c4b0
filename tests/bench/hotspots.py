"""Where an injected target's time goes: perf samples (the clock's: virtual machines
have no counters), with the agent's own functions named from agent.debug.so, which
perf can't do for a mapping without a file.

    hotspots.py PYTHON LOAD [mempulse's options]       with $BUILD"""
import bisect
import collections
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

import bounded
import measure

KERNEL_OF = (  # a system call that the samples stand in, by any of its kernel functions
    ("statm", r"proc_pid_statm|task_statm|proc_tgid_statm|seq_put_decimal"),
    ("smaps_rollup", r"smaps|pagewalk|walk_p.d_range|walk_page|smap_"),
    ("getrusage", r"getrusage"),
)


def agent_symbols(build):
    out = bounded.run(["nm", "-n", os.path.join(build, "agent.debug.so")], 30, stdout=subprocess.PIPE, text=True).stdout
    rows = [line.split() for line in out.splitlines()]
    return [(int(r[0], 16), r[2]) for r in rows if len(r) == 3 and r[1] in "tT"]


def profile(build, python, load, options, seconds=2.0, args=()):
    """How many of the main thread's samples fell where, and how many there were."""
    if not shutil.which("perf"):
        raise measure.Skip("perf is not installed")
    symbols = agent_symbols(build)
    starts = [s[0] for s in symbols]
    tool = measure.Attached(os.path.join(build, "mempulse"), options)
    with measure.Target(python, load, args) as target, tempfile.TemporaryDirectory() as folder:
        target.settle()
        tool.begin(target)
        time.sleep(measure.SETTLE)
        data = os.path.join(folder, "perf.data")
        bounded.run(["perf", "record", "-q", "-g", "-e", "cpu-clock", "-F", "4000", "-p", str(target.pid), "-o", data,
                     "--", "sleep", str(seconds)], seconds + 30, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        tool.end(target)
        text = bounded.run(["perf", "script", "-i", data, "-F", "tid,ip,sym,dso", "--no-inline"], 60,
                           stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace").stdout
        return count(text, target.pid, symbols, starts)


def count(text, main, symbols, starts):
    places = collections.Counter()
    total = 0
    for block in text.split("\n\n"):
        lines = block.strip().splitlines()
        if len(lines) < 2 or int(lines[0].split()[-1].rstrip(":")) != main:
            continue
        total += 1
        places[place(lines[1:], symbols, starts)] += 1
    return places, total


def place(stack, symbols, starts):
    """One sample's name: the system call it is in, or the function of the top frame."""
    kernel = [line for line in stack if "[kernel" in line or "([k" in line]
    if kernel:
        joined = " ".join(kernel)
        for name, pattern in KERNEL_OF:
            if re.search(pattern, joined):
                return "kernel: " + name
        if "getpid" in joined:
            return "kernel: getpid"
        if "fault" in joined:
            return "kernel: page faults"
        if "pread" in joined or "vfs_read" in joined:
            return "kernel: statm"
        return "kernel: other"
    match = re.match(r"\s*([0-9a-f]+) (.+?) \((.*)\)", stack[0])
    if not match:
        return "unknown"
    ip, symbol, image = int(match.group(1), 16), match.group(2), match.group(3)
    if "mempulse" in image:  # perf prints the address within the image
        return "agent: " + symbols[bisect.bisect(starts, ip) - 1][1]
    if "vdso" in image:
        return "vdso: clock"
    if "unknown" in image or "anon" in image:
        return "agent: thunk page"
    if "ld-linux" in image:
        return "python: thread-local storage"
    if "python" in os.path.basename(image):
        return "python: " + (symbol if re.search("monitor|instrument|EvalFrame", symbol, re.I) else "other")
    return "other: " + os.path.basename(image)


if __name__ == "__main__":
    bounded.stop_on_signals()
    found, samples = profile(os.environ["BUILD"], sys.argv[1], sys.argv[2], sys.argv[3:])
    for name, n in found.most_common(24):
        print("%5.1f %%  %s" % (100.0 * n / samples, name))
