"""What the process under test does while the agent is in it. Runs on 3.6 and later."""
import ctypes
import gc
import mmap
import sys
import threading
import time

PAGE = 4096
keep = []


def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


# -- growth: known bytes in a known function -----------------------------------

def grower(pages):
    m = mmap.mmap(-1, pages * PAGE)
    for i in range(pages):
        m[i * PAGE] = 1
    keep.append(m)


def middle(pages):
    grower(pages)


def idle(pages):
    return pages


def growth(agent, before):
    for i in range(10):
        middle(100)
        idle(100)
    return None


def growers(agent, before):
    """A function's first call is the one whose USS is measured: so, as many functions."""
    names = dict(globals())
    for i in range(9):
        exec(compile("def grower%d(): grower(100)" % i, __file__, "exec"), names)
        names["grower%d" % i]()
    return None


# -- calm: statm is read now and then where nothing moves, and at every edge where it may ---

def steady():
    end = time.perf_counter() + 50e-6
    while time.perf_counter() < end:
        pass


def giver():
    keep.pop().close()
    end = time.perf_counter() + 50e-6  # a reading that is not 20 us old would do
    while time.perf_counter() < end:
        pass


def reads():
    """How often this process has read a file."""
    with open("/proc/self/io") as f:
        return int(f.read().split("syscr:")[1].split()[0])


def calm(agent, before):
    for i in range(40):
        grower(20)
    for i in range(200):
        steady()
    first = reads()
    for i in range(2000):
        steady()
    many = reads() - first
    for i in range(20):
        giver()
        steady()
    return many


# -- deep: nothing deeper than the depth may be seen -----------------------------

def level(n, depth=[0]):
    if n:
        level(n - 1)
    return n


def deep(agent, before):
    for i in range(5):
        level(30)


# -- fades: what is only called below the depth is switched off, and looked at again ------

def far(n):
    return n


def far_calls(n):
    for i in range(n):
        far(i)


def nest(depth, n):
    if depth:
        nest(depth - 1, n)
    else:
        far_calls(n)


def fades(agent, before):
    import time
    nest(6, 100000)
    for i in range(100):
        far(-1)
        time.sleep(0.03)
    nest(6, 100000)


# -- rotates: many functions below the depth, each called once a turn --------------------

def rotates(agent, before):
    functions = {}
    for i in range(1500):
        exec("def f%d(): pass" % i, functions)
    functions = [f for name, f in functions.items() if name.startswith("f")]

    def turns(n):
        for i in range(n):
            for f in functions:
                f()

    def down(depth, n):
        down(depth - 1, n) if depth else turns(n)
    down(6, 400)


# -- unwinds: exceptions below the depth, events that can't be switched off -----------------

def failing(n):
    raise KeyError(n)


def far_failures(n):
    for i in range(n):
        try:
            failing(i)
        except KeyError:
            pass


def unwinds(agent, before):
    nest_failures(6, 20000)


def nest_failures(depth, n):
    if depth:
        nest_failures(depth - 1, n)
    else:
        far_failures(n)


# -- settles: a thread that was deep at the hook has another idea of near, for a while ---

def deep_wait(depth, go):
    if depth:
        return deep_wait(depth - 1, go)
    go.wait()
    far_calls(500)


def settling(go):
    deep_wait(40, go)
    for i in range(3):
        nest(6, 100000)


def settles_before(agent):
    go = threading.Event()
    thread = threading.Thread(target=settling, args=(go,))
    thread.start()
    return go, thread


def settles(agent, before):
    go, thread = before
    go.set()
    thread.join()


# -- rests: on 3.11 the hook of a program of one thread is out of its slot while it is deep --

def rests(agent, before):
    for i in range(50):
        nest(20, 200)
        middle(1)


def rests_not(agent, before):
    other = threading.Event()
    thread = threading.Thread(target=other.wait)
    thread.start()
    import time
    time.sleep(0.5)  # the agent looks at threads that are born several times in this time
    nest(20, 200)
    for i in range(50):
        nest(20, 200)
        middle(1)
    other.set()
    thread.join()


# -- inits: what the interpreter makes of a class that is called often is no depth -------

class Thing:
    def __init__(self, n):
        self.n = leaf(n)


def leaf(n):
    return n


def make_thing(n):
    return Thing(n).n


def inits(agent, before):
    for i in range(300):
        make_thing(i)


# -- recursion, exceptions, generators ----------------------------------------------

class Boom(Exception):
    pass


def raiser():
    raise Boom()


def catcher():
    try:
        raiser()
    except Boom:
        return 1


def gen(n):
    for i in range(n):
        yield i


def consume(n):
    return sum(gen(n))


def thrower():
    g = gen(5)
    next(g)
    try:
        g.throw(Boom())
    except Boom:
        pass
    h = gen(5)
    next(h)
    h.close()
    del h


def kinds(agent, before):
    for i in range(20):
        catcher()
        consume(4)
        thrower()
        fib(6)
    idle(1)


# -- asyncio ---------------------------------------------------------------------------

def asyncs_before(agent):
    import asyncio
    asyncio.new_event_loop().close()


def asyncs(agent, before):
    import asyncio

    async def leaf(n):
        await asyncio.sleep(0)
        return n

    async def job(n):
        return sum([await leaf(i) for i in range(n)])

    async def everything():
        return await asyncio.gather(*[job(3) for _ in range(10)])

    loop = asyncio.new_event_loop()
    out = loop.run_until_complete(everything())
    loop.close()
    idle(2)
    return out


# -- threads -----------------------------------------------------------------------------

def worker_task(n):
    grower(n)


def threads(agent, before):
    for k in range(3):
        ts = [threading.Thread(target=worker_task, args=(10 + i,), name="worker-%d-%d" % (k, i)) for i in range(8)]
        for t in ts:
            t.start()
        for t in ts:
            t.join()
    ev = threading.Event()

    def long_lived():
        worker_task(5)
        ev.wait(1.3)
        worker_task(6)
    t = threading.Thread(target=long_lived, name="namé-\udc80x")
    t.start()
    t.join()


# -- code objects that die and whose addresses come back -----------------------------------

def churn(agent, before):
    for i in range(400):
        ns = {"__name__": "churn"}
        exec(compile("def f_%d():\n  return %d\nf_%d()" % (i % 100, i, i % 100), "<churn %d>" % (i % 100), "exec"), ns)
        del ns
        if i % 50 == 0:
            gc.collect()
    assert sys.getrecursionlimit()


# -- greenlets: many suspended stacks under one thread ------------------------------------

def greens_before(agent):
    import greenlet  # noqa: F401


def switcher(main, n):
    for i in range(n):
        step(main)
    return n


def step(main):
    grower(2)
    main.switch()


def greens(agent, before):
    import greenlet
    main = greenlet.getcurrent()
    gs = [greenlet.greenlet(switcher) for _ in range(40)]
    for k in range(5):
        for gl in gs:
            gl.switch(main, 4)
    idle(1)
    return [gl.dead for gl in gs].count(True)


# -- fork: the child's hooks are inert ---------------------------------------------------------

def forks(agent, before):
    import os
    out = []
    for i in range(3):
        pid = os.fork()
        if pid == 0:
            try:
                ok = fib(10) == 55 and consume(4) == 6 and catcher() == 1
                os._exit(7 if ok else 1)
            except BaseException:
                os._exit(2)
        out.append(os.WEXITSTATUS(os.waitpid(pid, 0)[1]))
        idle(3)
    return out


def forks_below(agent, before):
    """In C, with the GIL, in a call below the depth: that one's return is the first that the child sees of the hook."""
    import os
    fork = ctypes.PyDLL(None).fork
    out = []
    for i in range(3):
        pid = middle_fork(fork)
        if pid == 0:
            os._exit(7)
        out.append(os.WEXITSTATUS(os.waitpid(pid, 0)[1]))
    return out


def middle_fork(fork):
    return inner_fork(fork)


def inner_fork(fork):
    return fork()


def forkcure(agent, before):
    """Other agents, in forked children that inherited the parent's hooks."""
    import os
    import shutil
    import tempfile
    import cycles
    import wire
    out = []
    d = tempfile.mkdtemp()
    other = shutil.copy(agent.lib._name, d + "/other-agent.so")
    for flags in (wire.OPT_CURE, 0, wire.OPT_LINES):
        r, w = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                s, _ = cycles.cycle(other, 30, {"flags": flags})
                ok = fib(10) == 55 and consume(4) == 6 and catcher() == 1
                tool = sys.monitoring.get_tool(4) if sys.version_info >= (3, 12) else None
                os.write(w, repr([s.bye.reason, s.bye.slots["eval"] == s.bye.slots["default"], ok, tool]).encode())
            except BaseException as e:
                os.write(w, repr(e).encode())
            os._exit(0)
        os.close(w)
        out.append(os.read(r, 1000).decode())
        os.close(r)
        os.waitpid(pid, 0)
    shutil.rmtree(d)
    idle(1)
    return out


# -- busy threads while the hook comes and goes -----------------------------------------------

stop = False


def spin():
    while not stop:
        fib(8)
        consume(5)
        catcher()


def busy_before(agent):
    ts = [threading.Thread(target=spin, daemon=True) for _ in range(4)]
    for t in ts:
        t.start()
    return ts


def busy(agent, before):
    import time
    time.sleep(0.2)


def busy_after(agent, before):
    global stop
    fib(10)
    stop = True
    for t in before:
        t.join()


# -- a process so big that smaps_rollup takes long ------------------------------------------------

def big_before(agent):
    import mmap
    global ballast
    ballast = mmap.mmap(-1, 900 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for offset in range(0, len(ballast), 4096):
        ballast[offset] = 1


def big(agent, before):
    for _ in range(3):
        middle(1)


# -- line events --------------------------------------------------------------------------------

def far_lined(n):
    total = 0
    for i in range(n):
        total += i
    return total


def above_far_lined(n):
    return far_lined(n)


def far_lines(agent, before):
    for _ in range(3):
        far_lined(3)
        for _ in range(200):
            above_far_lined(50)


def lined(n):
    a = []
    for i in range(n):
        a.append(i)
    grower(50)
    return a


def lines(agent, before):
    for i in range(3):
        lined(4)
    catcher()
    consume(3)
    return lined.__code__.co_firstlineno


# -- the governor: a load that the driver ends when it has seen what it waited for ----------------

flooding = True


def drop(i):
    return i


def flood():
    while flooding:
        drop(1)


def governed_before(agent):
    t = threading.Thread(target=flood, name="flood")
    t.start()
    return t


def governed(agent, before):
    """Commands of the driver, a line each: `calm` ends the load, `end` the scenario."""
    global flooding
    for line in sys.stdin:
        if line == "calm\n":
            flooding = False
        elif line == "end\n":
            return None


def governed_after(agent, before):
    global flooding
    flooding = False
    before.join()
    return fib(10)


# -- in the middle of things ------------------------------------------------------------------------

def held(agent, before):
    """A frame that was entered through the hook is still running at the unhook."""
    ev = threading.Event()
    started = threading.Event()

    def parked():
        started.set()
        ev.wait()
    t = threading.Thread(target=parked, daemon=True)
    t.start()
    started.wait()
    keep.append((ev, t))


def held_after(agent, before):
    """A second agent uses the pages that the first one left; a third cleans up."""
    import cycles
    import wire
    path = agent.lib._name
    agent.close()
    again, _ = cycles.cycle(path, 30, {})
    ev, t = keep.pop()
    ev.set()
    t.join()
    cured, _ = cycles.cycle(path, 30, {"flags": wire.OPT_CURE})
    return [again.bye, cured.bye, fib(10)]


# -- other users of the eval-frame slot (3.9 - 3.11: ctypes reaches the accessors) --

FOREIGN_TARGET = 2  # where foreign() has it


def foreign(target):
    """Machine code that jumps to target: an eval-frame function of another tool."""
    m = mmap.mmap(-1, PAGE, prot=7)
    m.write(b"\x48\xb8" + target.to_bytes(8, "little") + b"\xff\xe0")
    keep.append(m)
    return ctypes.addressof(ctypes.c_char.from_buffer(m))


def slot(value=None):
    api = ctypes.pythonapi
    api.PyInterpreterState_Get.restype = ctypes.c_void_p
    get, put = api._PyInterpreterState_GetEvalFrameFunc, api._PyInterpreterState_SetEvalFrameFunc
    get.restype, get.argtypes, put.argtypes = ctypes.c_void_p, [ctypes.c_void_p], [ctypes.c_void_p] * 2
    interp = api.PyInterpreterState_Get()
    if value is not None:
        put(interp, value)
    return get(interp)


def default_frame():
    return ctypes.cast(ctypes.pythonapi._PyEval_EvalFrameDefault, ctypes.c_void_p).value


def chained_before(agent):
    f = foreign(slot())
    slot(f)
    return f


def chained(agent, before):
    middle(3)
    return slot() != before


def chained_after(agent, before):
    ok = slot() == before
    slot(default_frame())
    return ok


def put_again(f):
    """As a tool does that finds another function in the slot: it calls that from now on."""
    there = slot()
    slot(f)
    ctypes.memmove(f + FOREIGN_TARGET, there.to_bytes(8, "little"), 8)


def circled_before(agent):
    f = foreign(slot())
    slot(f)
    return f


def circled(agent, before):
    put_again(before)
    middle(3)
    return slot() == before


def circled_after(agent, before):
    import cycles
    import wire
    path = agent.lib._name
    agent.close()
    fib(5)
    again, _ = cycles.cycle(path, 30, {})
    slot(int.from_bytes(ctypes.string_at(before + FOREIGN_TARGET, 8), "little"))  # ours, which is inert
    fib(5)
    cured, _ = cycles.cycle(path, 30, {"flags": wire.OPT_CURE})
    return [again.bye, cured.bye, slot() == default_frame()]


toggled_before = circled_before


def toggled(agent, before):
    """The tool goes, and ours with it, and comes back. We may still be below it, for all we know."""
    slot(default_frame())
    put_again(before)
    middle(3)


def toggled_after(agent, before):
    import cycles
    path = agent.lib._name
    agent.close()
    again, _ = cycles.cycle(path, 30, {})
    slot(default_frame())
    return again.bye


def topped(agent, before):
    f = foreign(slot())
    ours = slot()
    slot(f)
    middle(3)
    keep.append(ours)


def topped_after(agent, before):
    import cycles
    import wire
    path = agent.lib._name
    agent.close()
    again, _ = cycles.cycle(path, 30, {})
    slot(keep[-1])  # the other tool goes, and puts our dead thunk back
    fib(5)
    cured, _ = cycles.cycle(path, 30, {"flags": wire.OPT_CURE})
    return [again.bye, cured.bye, slot() == default_frame()]


# -- the agent leaves while a thread is about to call its trace function -------------------

go = False


def until_gone(agent):
    end = time.time() + 5
    while agent.state() < 4 and time.time() < end:
        time.sleep(0.002)


class Outlasting(Exception):
    """What call_exc_trace makes between reading the trace function and calling it."""

    def __init__(self, agent):
        until_gone(agent)


class Looped:
    """Goes in a collection: 3.11's call_trace may begin one between reading the function and calling it."""

    def __init__(self, agent):
        self.me, self.agent = self, agent

    def __del__(self):
        until_gone(self.agent)


def asks_to_leave(agent):
    """Traced, and returns with the GIL when the agent waits for that."""
    state = agent.control(72)
    if gc.get_threshold()[0] == 1:
        Looped(agent)
    agent.ask_to_leave()
    while state.value < 3:
        pass
    gc.enable()


def outlasted_thread(agent):
    """Its own frame is older than the hook, and need not be made an object: the next one is (in 3.11)."""
    frame = sys._getframe()
    while not go:
        time.sleep(0.001)
    for _ in map(asks_to_leave, (agent,)):
        pass
    idle(frame is None)
    put = ctypes.pythonapi.PyErr_SetObject
    try:
        put(Outlasting, agent)
    except Outlasting:
        keep.append(agent.state())


def outlasted_before(agent):
    put = ctypes.pythonapi.PyErr_SetObject
    put.argtypes, put.restype = [ctypes.py_object] * 2, None
    sys.setswitchinterval(1)
    t = threading.Thread(target=outlasted_thread, args=(agent,))
    t.start()
    return t


def outlasted(agent, before):
    global go
    go = True
    before.join()
    gc.set_threshold(700, 10, 10)
    return keep.pop()


def outlasted_collection_before(agent):
    gc.disable()
    gc.set_threshold(1, 10, 10)
    return outlasted_before(agent)


outlasted_collection = outlasted


def outlasted_greenlets_before(agent):
    """Two that wait in frames older than the hook: each calls, in turn, what was sent to it."""
    import greenlet

    def loop():
        main = greenlet.getcurrent().parent
        while True:
            f, args = main.switch()
            try:
                f(*args)
            except Outlasting:
                keep.append(agent.state())

    first, second = greenlet.greenlet(loop), greenlet.greenlet(loop)
    first.switch()
    second.switch()
    ctypes.pythonapi.PyErr_SetObject.argtypes = [ctypes.py_object] * 2
    ctypes.pythonapi.PyErr_SetObject.restype = None
    sys.setswitchinterval(1)
    return first, second


def suspended(main):
    main.switch()
    return 1


def outlasted_greenlets(agent, before):
    """The second call began while the first one was traced, and ends when that has returned: nothing is traced any more."""
    import greenlet
    main = greenlet.getcurrent()
    for g in before:
        g.switch((suspended, (main,)))
    for g in before:
        g.switch()
    agent.ask_to_leave()
    time.sleep(0)
    state = agent.control(72)
    while state.value < 3:
        pass
    before[1].switch((ctypes.pythonapi.PyErr_SetObject, (Outlasting, agent)))
    return keep.pop()


class Turn:
    inner = outer = False  # whose it is to go on


def wait_for(name):
    end = time.time() + 5
    while not getattr(Turn, name) and time.time() < end:
        time.sleep(0.001)


def outer():
    inner()
    Turn.outer = True
    time.sleep(0.05)


def inner():
    wait_for("inner")


def rearmed_thread(agent):
    while not go:
        time.sleep(0.001)
    outer()
    until_gone(agent)
    try:
        keep[len(keep)]
    except IndexError:
        keep.append(agent.state())


def rearmed_before(agent):
    """An audit hook that gives others the GIL, in the midst of the agent's settrace."""
    def hook(event, args):
        if event == "sys.settrace" and agent.state() == 3:
            Turn.inner = True
            wait_for("outer")
    sys.addaudithook(hook)
    t = threading.Thread(target=rearmed_thread, args=(agent,))
    t.start()
    return t


def rearmed(agent, before):
    global go
    go = True
    time.sleep(0.05)
    agent.ask_to_leave()
    before.join()
    return keep.pop()


def put_back_before(agent):
    """The address of c_tracefunc in this thread's state."""
    state = ctypes.pythonapi.PyThreadState_Get
    state.restype = ctypes.c_void_p
    offset = {6: 56, 7: 64, 8: 64, 9: 64, 10: 64, 11: 72}[sys.version_info[1]]  # payload/agent/layout.c
    return ctypes.c_uint64.from_address(state() + offset)


def keeps_trace(agent, word):
    """As a profiler does that takes the slot for a while. The agent has unhooked when it comes back."""
    was, state = word.value, agent.control(72)
    agent.ask_to_leave()
    while state.value < 3:
        time.sleep(0.001)
    time.sleep(0.1)
    word.value = was
    return was


kept_trace_before = put_back_before


def lends_slot(word):
    """Another tracer takes the slot inside a traced call, and keeps what was there."""
    was = word.value
    sys.settrace(lambda *event: None)
    idle(1)
    sys.settrace(None)
    idle(1)
    return was


def kept_trace(agent, before):
    keep.append(lends_slot(before))


def kept_trace_after(agent, before):
    was = before.value = keep.pop()
    try:
        keep[len(keep)]
    except IndexError:
        before.value = 0
        return was != 0


def put_back(agent, before):
    was = keeps_trace(agent, before)
    until_gone(agent)
    try:
        keep[len(keep)]
    except IndexError:
        return was != 0


came_back_before = put_back_before


def came_back(agent, before):
    keep.append(lends_slot(before))


def came_back_after(agent, before):
    """Our function is in this thread when another agent comes, which wants its place."""
    import cycles
    import wire
    path = agent.lib._name
    agent.close()
    was = before.value = keep.pop()
    again, _ = cycles.cycle(path, 30, {"flags": wire.OPT_LINES})
    return [was != 0, again.bye.residue, before.value]


def keeps_quietly(word, state, leave):
    """No call begins or ends between this and the end of the hook, so nobody has seen that the function is gone."""
    was = word.value
    sys.settrace(None)
    leave.value = 1
    while state.value < 3:
        time.sleep(0.001)
    time.sleep(0.1)
    return was


kept_quietly_before = put_back_before


def kept_quietly(agent, before):
    was = keeps_quietly(before, agent.control(72), agent.control(76))
    until_gone(agent)
    before.value = was
    try:
        keep[len(keep)]
    except IndexError:
        before.value = 0
        return was != 0


def count_events(frame, event, arg):
    keep.append(event)
    return count_events


def takes_slot(state, leave):
    """A tracer that comes where ours was, and stays."""
    sys.settrace(count_events)
    leave.value = 1
    while state.value < 3:
        time.sleep(0.001)
    time.sleep(0.1)


def taken_slot(agent, before):
    takes_slot(agent.control(72), agent.control(76))
    until_gone(agent)
    del keep[:]
    idle(1)
    sys.settrace(None)
    return "line" in keep


def copied_trace(agent, before):
    """Forked inside a traced call in which another tracer has kept our function, to put it back in the child."""
    import os
    return in_child(agent, before, os.fork, cured_child)


def copied_bare(agent, before):
    """The same, with no call in the child before the one that is traced there returns."""
    return in_child(agent, before, ctypes.PyDLL(None).fork, cured_child)


def copied_count(agent, before):
    """Up to 3.9 a child has what told the interpreter to look for a tracer."""
    import os
    return in_child(agent, before, os.fork, lambda other, word, was: cured_child(other, word, 0) and told_of_lines(word), forks_alone)


def forks_alone(word, fork):
    return fork(), 0


def in_child(agent, before, fork, answer, forks=None):
    import os
    import shutil
    import tempfile
    d = tempfile.mkdtemp()
    keep.append(shutil.copy(agent.lib._name, d + "/other-agent.so"))
    r, w = os.pipe()
    pid, was = (forks or forks_kept)(before, fork)
    if pid == 0:
        try:
            os.write(w, repr(answer(keep.pop(), before, was)).encode())
        finally:
            os._exit(0)
    os.close(w)
    out = os.read(r, 1000).decode()
    os.close(r)
    os.waitpid(pid, 0)
    shutil.rmtree(d)
    return out


copied_trace_before = copied_bare_before = copied_count_before = put_back_before


def forks_kept(word, fork):
    was = word.value
    sys.settrace(None)
    return fork(), was


def told_of_lines(word):
    """Up to 3.9: whether a trace function that nobody has counted is told of lines, for which others must be."""
    told = []
    function = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(
        lambda this, frame, what, arg: told.append(what) or 0)
    use_tracing = ctypes.c_int.from_address(ctypes.addressof(word) - 12)
    word.value, use_tracing.value = ctypes.cast(function, ctypes.c_void_p).value, 1
    idle(1)
    word.value, use_tracing.value = 0, 0
    return 2 in told


def returns_slot(word, set_trace):
    """Another tracer takes the slot inside a traced call, and puts back what was there."""
    was = word.value
    set_trace(ctypes.cast(ctypes.pythonapi.PyErr_Occurred, ctypes.c_void_p), None)
    idle(1)
    set_trace(was, None)
    idle(1)
    return was


returned_slot_before = put_back_before


def returned_slot(agent, before):
    set_trace = ctypes.pythonapi.PyEval_SetTrace
    set_trace.argtypes, set_trace.restype = [ctypes.c_void_p] * 2, None
    keep.append(returns_slot(before, set_trace))
    return [keep.pop() != 0, before.value]


def returned_slot_after(agent, before):
    return sys.version_info < (3, 10) and told_of_lines(before)


def debugs(times):
    """Whether a tracer that comes and goes, inside a traced call, is told of lines each time."""
    told, n = [], len(keep)
    for _ in range(times):
        sys.settrace(count_events)
        idle(1)
        sys.settrace(None)
        told.append("line" in keep[n:])
        del keep[n:]
        idle(1)
    return told


def debugged(agent, before):
    return [told for _ in range(4) for told in debugs(1)]


def debugged_after(agent, before):
    return [debugs(1), sys.version_info < (3, 10) and told_of_lines(before)]


debugged_before = put_back_before


class Key(str):
    """What the name of a module may be kept under, too. It is compared by the target's code."""
    __hash__ = str.__hash__

    def __eq__(self, other):
        made = {}
        for i in range(600):
            exec("def f%d(): pass" % i, made)
            made["f%d" % i]()
        keep.append(other)
        return str.__eq__(self, other)


class SlowKey(str):
    """Its comparison gives the GIL away, until there is no agent any more."""
    __hash__ = str.__hash__

    def __eq__(self, other):
        if go:
            until_gone(go)
        return str.__eq__(self, other)


def key_waits(agent, before):
    global go
    made = {SlowKey("__name__"): "by key"}
    exec("def compared():\n return 1", made)
    go = agent
    agent.ask_to_leave()
    return made["compared"]()


def key_compares(agent, before):
    made = {Key("__name__"): "by key"}
    exec("def compared():\n return 1", made)
    del keep[:]
    made["compared"]()
    return len(keep)


def cured_child(other, word, was):
    import cycles
    import wire
    s, _ = cycles.cycle(other, 30, {"flags": wire.OPT_CURE})
    word.value = was
    try:
        keep[len(keep) + 9]
    except IndexError:
        word.value = 0
    return [was != 0, s.bye.residue & 8]


class Name(str):
    """What a code object may be called, too. Its end is the target's code."""

    def __del__(self):
        if keep:
            made = {}
            for i in range(600):
                exec("def f%d(): pass" % i, made)
                made["f%d" % i]()
            keep.append(len(keep))


def named(i):
    """A function with such a name, in the place of the one before."""
    def f():
        return i
    name = Name("named %d" % i)
    code = f.__code__.replace(co_name=name, **({"co_qualname": name} if sys.version_info >= (3, 11) else {}))
    return type(f)(code, globals(), "f", None, f.__closure__)


def called_by_name(i):
    named(i)()


def name_ends(agent, before):
    keep.append(0)
    for i in range(60):
        called_by_name(i)
    made = len(keep) - 1
    del keep[:]
    return made


# -- ways to end ------------------------------------------------------------------------

def request(agent, before):
    import time
    agent.control(76).value = 1
    while agent.state() < 3:
        time.sleep(0.005)


def hurried_before(agent):
    """A word in the place of the switch interval."""
    word = ctypes.c_uint64.from_address(ctypes.addressof(agent.boot) + ctypes.sizeof(agent.boot))
    agent.boot.switch_interval = ctypes.addressof(word)
    return word


def hurried(agent, before):
    import time
    seen = []
    for left in (100, 777):  # MP_HURRY_US: the launcher's, then what the target has set meanwhile
        before.value = left
        agent.interval_was().value = 5000
        end = time.time() + 5
        while agent.interval_was().value and time.time() < end:
            time.sleep(0.005)
        seen.append(before.value)
    return seen


def exits(agent, before):
    t = threading.Thread(target=spin, daemon=True)
    t.start()
    middle(3)


def traced_before(agent):
    sys.settrace(lambda *a: None)


def traced(agent, before):
    pass


def traced_after(agent, before):
    sys.settrace(None)


def audited_before(agent):
    def hook(event, args):
        if event == "sys.monitoring.register_callback":
            raise RuntimeError("not here")
    sys.addaudithook(hook)


def audited(agent, before):
    pass


def nothing(agent, before):
    idle(1)


# -- cuts: the target has a file of its own where a descriptor of ours was ------------------

def cut(agent, slot):
    import os
    import tempfile
    import time
    global own
    own = tempfile.TemporaryFile()
    own.write(b"1 2 3\n" * 1000)
    own.flush()
    fd = agent.boot.held[slot][0] & 0xffffffff
    assert agent.boot.held[slot][2], "no such descriptor"
    os.dup2(own.fileno(), fd, inheritable=False)
    end = time.time() + 10
    while agent.state() < 4 and time.time() < end:
        middle(1)
        time.sleep(0.001)
    try:
        alive = os.path.samestat(os.fstat(fd), os.fstat(own.fileno()))
        os.close(fd)
    except OSError:
        alive = False
    untouched = os.fstat(own.fileno()).st_size == 6000
    own.close()
    return [alive, untouched]


def cut_wake(agent, before):
    return cut(agent, 4)


def cut_statm(agent, before):
    return cut(agent, 5)


def cut_rollup(agent, before):
    return cut(agent, 6)


# -- audit hooks: heard, and no trouble otherwise ---------------------------------------------

def audit_hook_before(agent):
    def hook(event, args):
        return [args] * 3
    sys.addaudithook(hook)


def audit_hook(agent, before):
    for i in range(10):
        middle(10)


def audit_veto_before(agent):
    agent.vetoing = True

    def hook(event, args):
        # libc.pthread_create and the like raise events of ctypes on the main thread.
        if agent.vetoing and threading.current_thread() is not threading.main_thread():
            raise RuntimeError("no " + event)
    sys.addaudithook(hook)


def audit_veto(agent, before):
    pass


def audit_settrace_before(agent):
    def hook(event, args):
        if event == "sys.settrace":
            raise RuntimeError("not here")
    sys.addaudithook(hook)


def audit_settrace(agent, before):
    pass


# -- own_state: the agent's thread state is made under the GIL, whoever watches the allocator ----

def own_state_before(agent):
    import tracemalloc
    import host
    for name in "PyGILState_Ensure", "PyGILState_Release":
        agent.boot.py_sym[host.NAMES.index(name)] = 0
    tracemalloc.start(3)


def own_state(agent, before):
    import tracemalloc
    growth(agent, before)
    kept = bytearray(100000)
    traced = tracemalloc.get_traced_memory()[0] - len(kept)
    tracemalloc.stop()
    return traced


# -- no memory for a thread state ---------------------------------------------------------------

def no_states(agent, without):
    """What makes a thread state has no memory, as it seems to the agent; or is itself again."""
    import host
    # One that answers NULL. From 3.12 on it is asked without the GIL, and by a thread without a thread state.
    none = "PyErr_Occurred" if sys.version_info < (3, 12) else "_PyThreadState_UncheckedGet" if sys.version_info < (3, 13) else "PyThreadState_GetUnchecked"
    new = "_PyThreadState_Prealloc" if sys.version_info[:2] == (3, 11) else "PyThreadState_New"
    agent.boot.py_sym[host.NAMES.index(new)] = host.address(none if without else new)


def starved_install_before(agent):
    no_states(agent, True)


def starved_install(agent, before):
    pass


def ends_meanwhile_before(agent):
    """As it seems to the agent, the interpreter begins to end while memory is waited for."""
    import host

    def end():
        while not agent.starved():
            time.sleep(0.001)
        name = "_Py_IsFinalizing" if sys.version_info < (3, 13) else "Py_IsFinalizing"
        agent.boot.py_sym[host.NAMES.index(name)] = host.address("Py_IsInitialized")

    no_states(agent, True)
    ends = threading.Thread(target=end)
    ends.daemon = True
    ends.start()


def ends_meanwhile(agent, before):
    pass


def starved_before(agent):
    """While the agent leaves, who gives it memory is no call that it has hooked."""
    import time
    seen = []

    def give_back():
        while not seen:
            time.sleep(0.01)
        while not agent.starved():
            time.sleep(0.01)
        time.sleep(0.5)  # not for readiness: it goes on
        seen[:] = [agent.state(), agent.starved()]
        no_states(agent, False)

    giver = threading.Thread(target=give_back)
    giver.start()
    return seen, giver


def starved(agent, before):
    import time
    over = []

    def come():
        while not over:
            idle(1)
            time.sleep(0.01)

    no_states(agent, True)
    comes = threading.Thread(target=come, name="comes-meanwhile")
    comes.start()
    time.sleep(1.2)  # nor is this: names are asked for once a second
    no_states(agent, False)
    time.sleep(1.2)
    growth(agent, before)
    no_states(agent, True)
    over.append(True)
    comes.join()
    before[0].append("leaves")


class Late:
    """Makes the interpreter's end last."""

    def __del__(self, sleep=time.sleep):
        sleep(1)


def starved_exits(agent, before):
    """It leaves, and waits for memory, when the interpreter ends."""
    no_states(agent, True)
    agent.ask_to_leave()
    while not agent.starved():
        time.sleep(0.01)
    globals()["late"] = Late()


def starved_after(agent, before):
    before[1].join()
    return before[0] + [agent.starved()]
