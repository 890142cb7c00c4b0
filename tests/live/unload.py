"""What a session might leave where no map and no descriptor shows it: pthread keys, Python objects,
blocks of memory. A target counts its own after each session."""
import os
import statistics
import subprocess

import harness
from harness import check

SESSIONS = 12
SETTLED = 4  # the first ones have Python intern strings, fill free lists and caches
COUNTS = """
import ctypes, gc, os, select, sys
libc, key = ctypes.CDLL(None), ctypes.c_uint()
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
def keys():
    assert libc.pthread_key_create(ctypes.byref(key), None) == 0
    assert libc.pthread_key_delete(key) == 0
    return key.value
def counts():
    gc.collect()
    return "%d %d %d\\n" % (keys(), len(gc.get_objects()), sys.getallocatedblocks())
for _ in range(3): counts()
os.write(1, b"ready\\n")
while True:
    fib(9)
    if select.select([0], [], [], 0.001)[0]:
        if not os.read(0, 1): break
        os.write(1, counts().encode())
"""


def unload(context, *options):
    """pthread keys are given out by the lowest free number (nptl/pthread_key_create.c), so one that
    is kept moves the next; an object or a block that each session keeps adds up."""
    process = harness.spawn([context.python, "-c", COUNTS], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        check(process.stdout.readline() == b"ready\n", "it is not ready")
        seen = []
        for _ in range(SESSIONS):
            harness.run(context.binary, "inject", "-p", process.pid, "-d", "60ms", "-q", "-o", os.devnull, *options).expect(0)
            process.stdin.write(b"c")
            process.stdin.flush()
            seen.append(tuple(int(n) for n in process.stdout.readline().split()))
        keys, objects, blocks = zip(*seen)
        check(len(set(keys)) == 1, "pthread keys stay: the next one's numbers %s", keys)
        check(len(set(objects[SETTLED:])) == 1, "objects stay: %s", objects)
        early, late = blocks[SETTLED:SETTLED + 4], blocks[-4:]
        check(statistics.median(late) - statistics.median(early) < len(late), "blocks stay: %s", blocks)
    finally:
        harness.reap(process)
        process.stdin.close()
        process.stdout.close()


def tests(short):
    yield "unload: no pthread key, no object", unload
    if not short:
        yield "unload: no pthread key, no object, with lines", lambda context: unload(context, "--lines")
