"""What a session might leave where no map and no descriptor shows it: pthread keys, Python objects,
blocks of memory, hooks in the interpreter's slots. A target counts its own after each session, and
reads the slots itself: the agent's BYE is not asked."""
import json
import os
import signal
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


SLOTS = """
import ctypes, json, os, select, sys, threading
asked, answered, others = threading.Lock(), threading.Lock(), []
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
def hooks():
    return [repr(sys.gettrace()), repr(sys.getprofile())]
def other():
    while True:
        asked.acquire()  # of C: no hooked frame waits there
        others[:] = hooks()
        answered.release()
def evaluator():
    if not hasattr(ctypes.pythonapi, "PyInterpreterState_Get"): return None  # before 3.9
    get, of = ctypes.pythonapi._PyInterpreterState_GetEvalFrameFunc, ctypes.pythonapi.PyInterpreterState_Get
    get.restype, get.argtypes, of.restype = ctypes.c_void_p, [ctypes.c_void_p], ctypes.c_void_p
    return get(of())
def slots():
    asked.release()
    answered.acquire()
    found = {"main": hooks(), "other": list(others), "evaluator": evaluator(),
             "threading": [repr(threading._trace_hook), repr(threading._profile_hook)]}
    if hasattr(sys, "monitoring"):
        monitoring = sys.monitoring
        tools = {i: monitoring.get_tool(i) for i in range(6)}
        found["tools"] = {i: [name, monitoring.get_events(i), monitoring.get_local_events(i, fib.__code__)] if name else None
                          for i, name in tools.items()}
    return json.dumps(found) + "\\n"
asked.acquire()
answered.acquire()
threading.Thread(target=other, daemon=True).start()
slots()
os.write(1, b"ready\\n")
while True:
    fib(9)
    if select.select([0], [], [], 0.001)[0]:
        if not os.read(0, 1): break
        os.write(1, slots().encode())
"""


def slots(context, *options):
    """The interpreter's slots after a session, as the program finds them, are those of before; in
    the session one is not."""
    process = harness.spawn([context.python, "-c", SLOTS], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask():
        process.stdin.write(b"s")
        process.stdin.flush()
        return json.loads(process.stdout.readline().decode())
    try:
        check(process.stdout.readline() == b"ready\n", "it is not ready")
        before = ask()
        for _ in range(2):
            with harness.Launcher(context.binary, "inject", "-p", process.pid, "--depth", "0", "-q", "-o", os.devnull, *options) as launcher:
                while not json.loads(harness.run(context.binary, "status", "-p", process.pid, "--json").out or "{}").get("state") == "hooked":
                    pass
                during = ask()
                check(context.interpreter.version < (3, 9) or during != before, "nothing is seen of the hook: %s", during)
                launcher.signal(signal.SIGTERM)
                launcher.result().expect(143)
            after = ask()
            check(after == before, "before: %s\nafter:  %s", before, after)
    finally:
        harness.reap(process)
        process.stdin.close()
        process.stdout.close()


def tests(short):
    yield "unload: slots as before", slots
    yield "unload: no pthread key, no object", unload
    if not short:
        yield "unload: slots as before, with lines", lambda context: slots(context, "--lines")
        yield "unload: no pthread key, no object, with lines", lambda context: unload(context, "--lines")
