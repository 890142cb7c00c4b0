#!/usr/bin/python3
"""still.py [STATE,... [PYTHON,...]]: what the campaign's targets change of themselves while they work and no
session is there: descriptors, threads, signals, mappings. table.py's MOVES is written from
this; what a state is not seen to move must not have moved after a session either."""
import os
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.path.join(HERE, "..", "live"))

import harness
import lap
import procfs
import run
import table

SECONDS, STEP = 3, 0.004  # of each target; between two looks
BUILD = os.path.join(run.ROOT, os.environ.get("BUILD", "build"))


def watch(target):
    """{kind: the first difference}"""
    found, end = {}, time.monotonic() + SECONDS
    while time.monotonic() < end:
        for kind, text in procfs.differences(target.before, procfs.Snapshot(target.seen())):
            found.setdefault(kind, text)
        time.sleep(STEP)
    return found


def work(cells, helpers):
    while cells:
        state, interpreter = cells.pop()
        one = lap.Lap(os.getpid(), state, interpreter, None, helpers, "/tmp", 0, 0, 0)
        try:
            with lap.Target(one) as one.target, one.around():
                found = watch(one.target)
                one.target.account = {}  # its own word is for laps
        except (harness.Skip, AssertionError, OSError) as reason:
            found = {"skip": str(reason).split("\n")[0]}
        finally:
            for end in one.ends:
                end()
        print(state.name, interpreter.name, *("%s (%s)" % item for item in sorted(found.items())), sep="\t", flush=True)


def main():
    helpers = os.path.join(BUILD, "campaign")
    cells = run.cells_of(run.chosen("".join(sys.argv[1:2])), run.interpreters_here(helpers, [n for n in "".join(sys.argv[2:3]).split(",") if n]))
    threads = [threading.Thread(target=work, args=(cells, helpers)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
