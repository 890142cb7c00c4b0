"""Who means harm: a target that lies in its names, its files, its memory and its agent's
words; another user; a number that is somebody else's by now. The threat model and what
each test is for: docs/security.md."""
import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import unicodedata

import channel
import cli
import harness
import procfs
import sessions
from harness import check, run

FEW_BYTES = 900 << 20     # of address space: what a launcher may take, whatever it reads
UNSAFE = re.compile("[\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb\U000e0000-\U000e0fff]")
NASTY = b"\x1b[2J\x1b]0;owned\x07\r\n\xff\xe2\x80\xae (deleted)"


# --- what may be shown ------------------------------------------------------------------

def shown(what, data):
    """Text that a terminal may be given: UTF-8, and no character that is not one."""
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
    except UnicodeDecodeError as error:
        raise harness.Failure("%s is no UTF-8: %s" % (what, error))
    bad = [c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cs")] + UNSAFE.findall(text)
    check(not bad, "%s has characters that may not be shown: %s\n%s", what, sorted(map(hex, map(ord, set(bad)))), repr(text)[:3000])
    return text


def all_shown(result):
    shown("stdout", result.out)
    shown("stderr", result.err)
    return result


def attempt(context, *args, **options):
    """A command whose output is looked at, whatever it says."""
    return all_shown(run(context.binary, *args, **options))


def contents(path):
    with open(path, "rb") as file:
        return file.read()


# --- names --------------------------------------------------------------------------------

LOOKS = (
    ("--json", "-o", "%s.ndjson"), ("-o", "%s.txt"), (), ("--summary",), ("--lines",),
    ("--lines", "--report", "mempulse"), ("--color", "always"),
)


def names(context):
    """Functions, files, modules and threads whose names are orders to a terminal."""
    with harness.Target(context.python, "names") as target:
        for i, look in enumerate(LOOKS):
            path = context.file("names%d" % i)
            options = [word.replace("%s", path) for word in look]
            with sessions.inject(context, target, "--depth", "0", "--max-overhead", "0", *options) as launcher:
                launcher.wait_attached()
                count = target.ask("names")["count"]
                harness.run(context.binary, "detach", "-p", target.pid).expect((0, 10))
                result = launcher.result().expect((0, 10))
            if "--color" in look:
                result.out = re.sub("\x1b\\[[0-9;]*m", "", result.out)
            all_shown(result)
            if "--json" in look:
                stream = harness.stream_of(path + ".ndjson")
                lines = {row["line"] for row in stream.of("call") if row["file"].startswith("/tmp/hostile/") or row["line"] >= 1000}
                check(len(lines) >= count, "%d functions of %d are in the stream", len(lines), count)
                check("owned" in shown("the stream", contents(path + ".ndjson")), "the names are not in the stream")
            elif "-o" in look:
                check("owned" in shown("the file", contents(path + ".txt")), "the functions are not in the file")
            else:
                check("owned" in result.out, "the functions are not shown with %s\n%s", look, result)
        harness.run(context.binary, "detach", "-p", target.pid, "--wait", "10s").expect(0)


FACTS = """
import sys, sysconfig
print(sys.base_prefix)
print(sysconfig.get_config_var("Py_ENABLE_SHARED") and sysconfig.get_config_var("LIBDIR") + "/" + sysconfig.get_config_var("INSTSONAME") or "")
"""


def hostile_python(context, change=None):
    """(prefix, path): the interpreter under a name that is an order; the file that CPython
    is in, changed."""
    home, library = subprocess.check_output([context.python, "-c", FACTS]).decode().split("\n")[:2]
    folder = os.path.join(os.fsencode(context.folder), b"f" + NASTY)
    os.makedirs(folder, exist_ok=True)
    os.chmod(folder, 0o755)
    path = os.path.join(folder, b"python" + NASTY)
    shutil.copy(os.path.realpath(os.fsencode(context.python)), path)
    prefix = ["env", "PYTHONHOME=" + home]
    changed = path
    if library and change:
        changed = context.file(os.path.basename(library))
        shutil.copy(library, changed)
        prefix.append("LD_PRELOAD=" + changed)
    if change:
        with open(changed, "r+b") as file:
            change(file)
    return prefix, os.fsdecode(path)


def process_names(context):
    """Executable, arguments, thread and tracer of such names, in every kind of message."""
    prefix, path = hostile_python(context)
    with harness.Target(path, "comm", prefix=prefix) as target:
        for how in ("-v", "--json") * 3:  # now and then there is a safe point
            result = attempt(context, "inject", "-p", target.pid, "--timeout", "100ms", "-d", "50ms", how, "-o", os.devnull).expect((0, 8))
            if "GIL" in result.err:  # the time was over in between
                continue
            check(result.code == 0 or "no safe point" in result.err and "[2J) R 1" in result.err, "%s", result)
            check(result.code == 0 or how == "-v" or result.error()["code"] == "NO_SAFE_POINT", "%s", result)
    with harness.Target(path, "select", prefix=prefix) as target:
        ndjson = context.file("process.ndjson")
        attempt(context, "inject", "-p", target.pid, "-d", "100ms", "-v", "--json", "-o", ndjson).expect(0)
        meta = harness.stream_of(ndjson).meta
        check("owned" in meta["exe"] and "owned" in meta["cmdline"], "%s", meta)
        shown("the stream", contents(ndjson))
        result = attempt(context, "inject", "-p", target.pid, "-d", "100ms").expect(0)
        check("owned" in result.out, "the program is not named\n%s", result)
        attempt(context, "detach", "-p", target.pid, "-v").expect(0)
        tracer = harness.spawn(prefix + [path, cli.TRACER, str(target.pid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            if tracer.stdout.readline():
                result = attempt(context, "inject", "-p", target.pid).expect(6)
                check("is traced by process %d (python" % tracer.pid in result.err, "%s", result)
                attempt(context, "inject", "-p", target.pid, "--json").expect(6).error()
        finally:
            harness.reap(tracer)
            tracer.stdin.close()
            tracer.stdout.close()
        target.check_untouched()


# --- files ----------------------------------------------------------------------------------

def few_bytes():
    """A launcher that may not take much memory."""
    return ["prlimit", "--as=%d" % FEW_BYTES]


SECTION, SECTIONS_AT, COUNTS_AT = 64, 0x28, 0x3c  # Elf64_Shdr; e_shoff, e_shnum in Elf64_Ehdr


def header(file):
    """(e_shoff, e_shnum, the sections' type by index)"""
    file.seek(0)
    head = file.read(64)
    offset, count = struct.unpack_from("<Q", head, SECTIONS_AT)[0], struct.unpack_from("<H", head, COUNTS_AT)[0]
    kinds = {}
    for i in range(count):
        file.seek(offset + i * SECTION)
        kinds[i] = struct.unpack_from("<II", file.read(SECTION))[1]
    return offset, count, kinds


def spoil(offset_in_section, value, size=8, kinds=(2, 3, 11)):
    """One field of every section of these types (symtab, strtab, dynsym)."""
    def change(file):
        offset, _, found = header(file)
        for i, kind in found.items():
            if kind in kinds:
                file.seek(offset + i * SECTION + offset_in_section)
                file.write(struct.pack("<Q", value)[:size])
    return change


def spoil_header(at, value, size):
    def change(file):
        file.seek(at)
        file.write(struct.pack("<Q", value)[:size])
    return change


def huge(file):
    """Tables of 250 MiB in a sparse file."""
    file.seek(0, 2)
    at = (file.tell() + 4095) & ~4095
    file.truncate(at + (300 << 20))
    spoil(24, at)(file)
    spoil(32, (250 << 20) // 24 * 24)(file)


def symbols(file):
    """Every symbol's name, place and size is as large as can be."""
    offset, _, found = header(file)
    for i, kind in found.items():
        if kind in (2, 11):
            file.seek(offset + i * SECTION + 24)
            start, size = struct.unpack("<QQ", file.read(16))
            file.seek(start)
            file.write(b"\xff" * size)


# What neither the kernel nor ld.so reads: the program runs all the same.
SPOILT = (
    ("offsets", spoil(24, 0xfffffffffffffff0)), ("sizes", spoil(32, 0xfffffffffffffff0)), ("links", spoil(40, 0xffffffff, 4)),
    ("entries", spoil(56, 0)), ("types", spoil(4, 3, 4)), ("many sections", spoil_header(COUNTS_AT, 0xfeff, 2)),
    ("no number", spoil_header(COUNTS_AT, 0, 2)), ("sections nowhere", spoil_header(SECTIONS_AT, 0x7ffffffffffff000, 8)),
    ("huge", huge),
)


def spoilt_program(context):
    """Its own file lies about its sections: injected by what is in memory, or refused; with
    little of our memory, in a bounded time."""
    for name, change in SPOILT[::2]:  # all of them in mapped_modules
        prefix, path = hostile_python(context, change)
        with harness.Target(path, "select", prefix=prefix) as target:
            result = attempt(context, "inject", "-p", target.pid, "-d", "50ms", "-o", os.devnull, prefix=few_bytes())
            check(result.code in (0, 4), "%s: 0 or 4 was expected\n%s", name, result)
            check(result.code == 0 or "nothing in the target was changed" in result.err, "%s: %s", name, result)
            target.check_untouched(result)


MODULES = ("libpython3.99.so.1.0", "libc.so.6", "libc-2.31.so", "libpthread.so.0", "ld-linux-x86-64.so.2",
           "libjemalloc.so.2", "python3.99", "libpython3.6m.so\n\x1b[2J (deleted)", "libpython \\012.so")


def peak(context, *args):
    """The memory that a command took at most, in bytes; it may have 4 GiB."""
    process = harness.spawn(["prlimit", "--as=%d" % (4 << 30), context.binary] + [str(arg) for arg in args],
                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
    harness.reap(process)
    return process.returncode, usage.ru_maxrss << 10


def mapped_modules(context):
    """Files that bear the names of Python and libc, and are not: whole, spoilt, huge, noise."""
    folder = context.file("modules")
    os.mkdir(folder)
    real = os.path.realpath(context.python)
    for i, name in enumerate(MODULES):
        path = os.path.join(folder, name)
        shutil.copy(real, path)
        with open(path, "r+b") as file:
            SPOILT[i % len(SPOILT)][1](file)
    for i in range(8):
        path = os.path.join(folder, "libpython3.%d\x1b[31m.so" % i)
        shutil.copy(real, path)
        with open(path, "r+b") as file:
            (huge if i % 4 else symbols)(file)
    with open(os.path.join(folder, "libpython-noise.so"), "wb") as file:
        file.write(b"\x7fELF\x02\x01\x01" + os.urandom(1 << 16))
    with harness.Target(context.python, "mapped") as target:
        check(target.ask("map " + folder)["mapped"] == len(MODULES) + 9, "they are not mapped")
        for options in ((), ("-v",), ("--json",)):
            result = attempt(context, "inject", "-p", target.pid, "-d", "50ms", "-o", os.devnull, *options, prefix=few_bytes())
            check(result.code in (0, 4), "0 or 4 was expected\n%s", result)
        code, most = peak(context, "inject", "-p", target.pid, "-d", "50ms", "-o", os.devnull)
        check(code in (0, 4) and most < FEW_BYTES, "exit code %d, %d MiB", code, most >> 20)
        attempt(context, "detach", "-p", target.pid, "-v").expect(0)
        check(target.ask("ping")["pong"], "it does not answer")


# --- the agent's words ----------------------------------------------------------------------------

def abi():
    """MP_ABI of this tree."""
    with open(os.path.join(os.path.dirname(os.path.dirname(harness.HERE)), "include", "boot.h")) as file:
        return int(re.search(r"^#define MP_ABI (\d+)u", file.read(), re.M).group(1))


def impostor(context, kind):
    """Somebody else speaks for the agent, what is no protocol: the launcher ends at once,
    and the target goes on."""
    path = context.file("impostor.ndjson")
    with harness.Target(context.python, "impostor") as target:
        target.ask("prepare " + kind)
        with harness.Launcher(context.binary, "inject", "-p", target.pid, "--json", "-o", path, prefix=few_bytes()) as launcher:
            launcher.wait_attached()
            target.ask("seize")
            result = all_shown(launcher.result()).expect(9)
        check(target.ask("served")["served"] > 0, "nothing was said")
        sessions.nothing_left(target, harness.PATIENCE)
        end = harness.stream_of(path).end
        check(end["reason"] == "protocol_error" and "nothing left behind" in result.err, "the reason is %s\n%s", end, result)
        shown("the stream", contents(path))
        run(context.binary, "inject", "-p", target.pid, "-d", "50ms", "-o", os.devnull).expect(0)
        target.check_untouched()


def flood(context, kind):
    """What is protocol, without end: the launcher takes its leave when its time is over,
    and its memory is bounded."""
    with harness.Target(context.python, "impostor") as target:
        target.ask("prepare " + kind)
        with harness.Launcher(context.binary, "inject", "-p", target.pid, "--json", "-o", os.devnull, "-d", "1s",
                              prefix=few_bytes()) as launcher:
            launcher.wait_attached()
            target.ask("seize")
            result = all_shown(launcher.result()).expect((0, 9))
        answer = target.ask("served")
        check(answer["served"] > 1 << 20, "nothing was said: %s", answer)
        check(answer["heard"], "the launcher did not take its leave\n%s", result)
        sessions.nothing_left(target, harness.PATIENCE)
        target.check_untouched()


def silent(context):
    """The agent's end is kept open, and nobody reads or writes there: a second signal is
    enough, whatever is waited for."""
    with harness.Target(context.python, "impostor") as target:
        target.ask("prepare silent")
        with sessions.inject(context, target, "-o", os.devnull) as launcher:
            launcher.wait_attached()
            target.ask("seize")
            sessions.nothing_left(target, harness.PATIENCE)
            launcher.signal(signal.SIGTERM)
            while "once more" not in (launcher.reader.line(harness.PATIENCE) or "once more"):
                pass
            launcher.signal(signal.SIGTERM)
            launcher.result().expect(143)
        check(target.ask("served")["served"] > 0, "it was not silent")
        target.check_untouched()


def ambush(context, kind="notes", *options):
    """Notes from before the agent is there, without end: --timeout ends it."""
    with harness.Target(context.python, "impostor") as target:
        for _ in range(8):  # the loader is quick, and then it is an agent that speaks
            target.ask("ambush %d %s" % (abi(), kind))
            result = attempt(context, "inject", "-p", target.pid, "--timeout", "1s", "-d", "100ms", "--json", "-o", os.devnull, *options)
            answer = target.ask("served")
            if answer["served"]:
                break
        else:
            raise harness.Skip("the loader was quicker each time")
        check((answer["heard"] or kind == "note") and result.expect(8).error()["code"] == "GIL_TIMEOUT", "%s\n%s", answer, result)
        if kind == "note":  # that it was said at all; how, is looked at by attempt()
            check("mempulse: \ufffd[2J" in result.err, "the note is not told\n%s", result)
        sessions.nothing_left(target, harness.PATIENCE)
        target.check_untouched()


# --- what looks like a session ------------------------------------------------------------------------

FORGED = {  # exit codes of status, inject, detach; None: not tried, since what is left is waited for
    "alive": (0, 6, 10), "wild": (0, 6, 10), "states": (0, 6, None), "version": (13, 13, 13), "region": (0, 10, None),
    "orphan": (0, None, None), "many": (0, None, 10),
}


def forged(context):
    """A target puts up what looks like ours, full of lies. It can have itself refused, and
    no more: what is told is fit to be shown, the launcher ends, and it finds the way back."""
    with harness.Target(context.python, "forger") as target:
        with sessions.inject(context, target, "-o", os.devnull) as launcher:
            launcher.wait_attached()
            check(target.ask("learn")["learnt"], "it did not learn")
            harness.run(context.binary, "detach", "-p", target.pid).expect(0)
            launcher.result().expect(0)
        for kind, (status, inject, detach) in FORGED.items():
            target.ask("forge " + kind)
            commands = (("status", "-p", target.pid), status), (("status", "-p", target.pid, "--json"), status), (("status",), 0), (
                ("inject", "-p", target.pid, "--timeout", "300ms", "-d", "50ms", "--depth", "7", "-o", os.devnull), inject), (
                ("detach", "-p", target.pid, "--timeout", "100ms"), detach)
            for command, code in commands:
                if code is None:
                    continue
                with harness.all_processes if command == ("status",) else contextlib.nullcontext():
                    result = attempt(context, *command, prefix=few_bytes())
                check(result.code == code, "%s: exit code %s was expected\n%s", kind, code, result)
                check("--json" not in command or code or json.loads(result.out)["pid"] == target.pid, "%s: %s", kind, result)
            target.ask("unforge")
            check(target.ask("ping")["pong"], "%s: it does not answer", kind)
        run(context.binary, "detach", "-p", target.pid, "--wait", "10s").expect(0)
        run(context.binary, "inject", "-p", target.pid, "-d", "50ms", "-o", os.devnull).expect(0)


def regrown(context):
    """What is swept away is there again at once, beside a thunk that is in use: detach has an end."""
    with harness.Target(context.python, "forger") as target:
        target.ask("regrow")
        result = attempt(context, "detach", "-p", target.pid, "-v").expect(10)
        rounds = result.err.count("sweep: boot region at 0x500006d70000 is unreachable")
        check(1 <= rounds <= 3, "it was swept %d times\n%s", rounds, result)
        target.ask("unforge")
        run(context.binary, "detach", "-p", target.pid, "--wait", "10s").expect(0)
        check(target.ask("ping")["pong"], "it does not answer")


def swept_late(context):
    """A thread to sweep with is looked for as long as --wait says. It makes system calls and nothing else, so
    that malloc takes no locks (MALLOC_ARENA_MAX=1) is no reason to wait for a thread that does."""
    with harness.Target(context.python, "forger", prefix=("env", "MALLOC_ARENA_MAX=1")) as target:
        target.ask("stray")
        target.ask("compute 5")
        attempt(context, "detach", "-p", target.pid).expect(0)
        check(target.ask("ping")["pong"], "it does not answer")
        for wait, code in (("1s", 8), ("20s", 0)):
            target.ask("stray")
            target.ask("toil 5")
            attempt(context, "detach", "-p", target.pid, "--wait", wait).expect(code)
            check(target.ask("ping")["pong"], "it does not answer")
        target.check_untouched()


def perhaps_inside(context):
    """A leftover in which nothing has run yet, and a running thread that may be the one that is to run
    there: where it is can't be seen, but that it blocks every signal."""
    with harness.Target(context.python, "forger") as target:
        target.ask("stray")
        target.ask("toil_blocked 5")
        target.pause()  # nobody else wants the GIL: one that waits for that is not about to make its first step
        result = attempt(context, "detach", "-v", "-p", target.pid).expect(10)
        check("runs with every signal blocked" in result.err and "may still be reached" in result.err, "%s", result)
        attempt(context, "detach", "-p", target.pid, "--wait", "60s").expect(0)
        target.resume()
        target.check_untouched()


def perhaps_born(context):
    """The same, in a target that makes threads all the time: libc has every signal blocked in one that
    begins. A look at any moment finds some, but never the same for long."""
    with harness.Target(context.python, "forger") as target:
        target.ask("beget")
        for _ in range(3):
            target.ask("stray")
            attempt(context, "detach", "-v", "-p", target.pid).expect(0)
        check(target.ask("unforge") and target.ask("ping")["pong"], "it does not answer")


def vast(context):
    """Beside more memory than is searched for pointers, which count for nothing where nothing has run."""
    with harness.Target(context.python, "forger") as target:
        target.ask("vast")
        target.ask("stray")
        attempt(context, "detach", "-v", "-p", target.pid).expect(0)
        target.check_untouched()


def stalled(context):
    """A page that does not come is not touched where that can be helped, and not waited for
    without end where it can't."""
    with harness.all_processes, harness.Target(context.python, "stalled") as target:
        target.ask("low")
        attempt(context, "status", "-p", target.pid).expect(0)
        attempt(context, "inject", "-p", target.pid, "-d", "50ms", "-o", os.devnull).expect(0)
        target.ask("agent")
        error = attempt(context, "status", "-p", target.pid, "--json").expect(8).error()
        check(error["code"] == "STALLED" and error["pid"] == target.pid and not error["changed_target"], "%s", error)
        with harness.Target(context.python, "stalled") as other:  # half a minute (WATCH_NS), for both at once
            other.ask("agent")
            with harness.Launcher(context.binary, "inject", "-p", target.pid, "--timeout", "200ms", "--json", "-o", os.devnull) as inject, \
                    harness.Launcher(context.binary, "detach", "-p", other.pid, "--timeout", "200ms", "--json") as detach:
                for launcher in (inject, detach):
                    error = all_shown(launcher.result(3 * harness.PATIENCE)).expect(8).error()
                    check(error["code"] == "STALLED" and not error["changed_target"], "%s", error)
            check(other.ask("ping")["pong"], "it does not answer")
        check(target.ask("ping")["pong"], "it does not answer")


def stalled_among_others(context):
    """One of all processes can't be looked at: it is named, the others are listed, before and after it."""
    with harness.all_processes, harness.Target(context.python, "select") as before, \
            harness.Target(context.python, "stalled") as stalled, harness.Target(context.python, "select") as after:
        stalled.ask("agent")
        with sessions.inject(context, before, "-o", os.devnull) as first, sessions.inject(context, after, "-o", os.devnull) as last:
            first.wait_attached()
            last.wait_attached()
            text = attempt(context, "status").expect(8)
            for target in (before, after):
                check("\n%d: hooked" % target.pid in "\n" + text.out, "%d is not listed\n%s", target.pid, text)
            check("a page of process %d's memory" % stalled.pid in text.err, "%s", text)
            result = attempt(context, "status", "--json").expect(8)
            listed = {row["pid"] for row in map(json.loads, result.out.splitlines())}
            check({before.pid, after.pid} <= listed and stalled.pid not in listed, "%s", result)
            error = result.error()
            check(error["code"] == "STALLED" and error["pid"] == stalled.pid, "%s", error)
            for target in (before, after):
                run(context.binary, "detach", "-p", target.pid).expect(0)
            first.result().expect(0)
            last.result().expect(0)
        check(stalled.ask("ping")["pong"], "it does not answer")


def locked_by_itself(context):
    """A target holds the lock of its own: refused in time, and it says who."""
    with harness.Target(context.python, "locker") as target:
        for command in ("inject", "detach"):
            result = attempt(context, command, "-p", target.pid, "--timeout", "200ms").expect(6)
            check("process %d) is at work" % target.pid in result.err, "%s", result)
        attempt(context, "status", "-p", target.pid).expect(0)


# --- another user -----------------------------------------------------------------------------------------

STRANGER = r"""
import ctypes, fcntl, json, os, signal, socket, sys
target, launcher = int(sys.argv[1]), int(sys.argv[2])
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
done = []
def tries(what, function):
    try:
        if function() not in (None, -1):
            done.append(what)
    except (OSError, ValueError):
        pass
def opened(path, flags):
    fd = os.open(path, flags)
    os.close(fd)
    return fd
for pid in (target, launcher):
    for fd in range(3, 1024):
        for flags in (os.O_RDONLY | os.O_NONBLOCK, os.O_WRONLY | os.O_NONBLOCK):
            tries("/proc/%d/fd/%d" % (pid, fd), lambda: opened("/proc/%d/fd/%d" % (pid, fd), flags))
    for name in ("mem", "maps", "environ", "auxv", "syscall", "stack", "pagemap"):
        tries("/proc/%d/%s" % (pid, name), lambda: len(open("/proc/%d/%s" % (pid, name), "rb", 0).read(1)) or None)
    for name in ("fd", "map_files", "ns", "task/%d/fd" % pid):
        tries("list %d/%s" % (pid, name), lambda: [os.readlink("/proc/%d/%s/%s" % (pid, name, e)) for e in os.listdir("/proc/%d/%s" % (pid, name))] or None)
    tries("lock %d" % pid, lambda: fcntl.flock(open("/proc/%d/mem" % pid, "rb", 0), fcntl.LOCK_EX | fcntl.LOCK_NB) or 1)
    tries("signal %d" % pid, lambda: os.kill(pid, signal.SIGTERM) or 1)
    tries("seize %d" % pid, lambda: libc.ptrace(0x4206, pid, None, None))
    pidfd = libc.syscall(434, pid, 0)
    for fd in range(0, 1024):
        tries("copy of %d of %d" % (fd, pid), lambda: libc.syscall(438, pidfd, fd, 0))
# Sockets with a name: there must be none of ours.
for line in open("/proc/net/unix", errors="replace").read().splitlines()[1:]:
    name = line.split()[7:]
    if name and "mempulse" in name[0]:
        done.append("socket " + name[0])
print(json.dumps(done))
"""


def stranger(context):
    """Another user finds no way to the session, and the commands tell that user nothing
    that is not so; the session does not notice."""
    nobody = cli.as_nobody(context)
    path = context.file("stranger.ndjson")
    with harness.Target(context.python, "fib") as target:
        with sessions.inject(context, target, "--json", "-o", path) as launcher:
            launcher.wait_attached()
            out = subprocess.check_output(nobody + ["/usr/bin/python3", "-c", STRANGER, str(target.pid), str(launcher.process.pid)],
                                          timeout=2 * harness.PATIENCE)
            check(json.loads(out.decode()) == [], "another user could: %s", out.decode())
            for args in (("status",), ("detach",), ("inject", "-d", "1s"), ("inject", "-d", "1s", "--replace")):
                command = [args[0], "-p", target.pid] + list(args[1:])
                result = attempt(context, *command, prefix=nobody).expect(5)
                said = result.out + result.err
                check("belongs to uid" in said and "injected" not in said, "%s", result)
                if args[0] != "status":
                    check("nothing in the target was changed" in said, "%s", result)
            listed = attempt(context, "status", prefix=nobody).expect(0)
            check(str(target.pid) not in listed.out, "%s", listed)
            found = json.loads(run(context.binary, "status", "-p", target.pid, "--json").expect(0).out)
            check(found["alive"] and found["state"] == "hooked", "%s", found)
            run(context.binary, "detach", "-p", target.pid).expect(0)
            launcher.result().expect(0)
        check(harness.stream_of(path).end["clean"], "not clean")
        target.check_untouched()


def output_trap(context):
    """In a folder like /tmp another user has put a link where the output shall go: refused,
    the prey is whole, and the target has not been looked at."""
    nobody = cli.as_nobody(context)
    prey, trap, shared = context.file("prey"), context.file("shared/out.ndjson"), context.file("shared")
    os.mkdir(shared)
    os.chmod(shared, 0o1777)
    os.chown(shared, 1, 1)
    with open(prey, "w") as file:
        file.write("prey")
    subprocess.check_call(nobody + ["ln", "-s", prey, trap])
    with harness.Target(context.python, "select") as target:
        for pid in (target.pid, 999999999):
            error = attempt(context, "inject", "-p", pid, "--json", "-d", "50ms", "-o", trap).expect(12).error()
            check(error["code"] == "OUTPUT" and "another user" in error["message"] and not error["changed_target"], "%s", error)
        check(contents(prey) == b"prey", "the prey is changed")
        target.check_untouched()


STORM = "import os, signal, sys\npid = int(sys.argv[1])\nprint(flush=True)\nwhile True:\n" \
        "    os.kill(pid, signal.SIGSTOP)\n    os.kill(pid, signal.SIGCONT)\n"


def storm(context):
    """Somebody stops and continues the target without a pause: the launcher ends, and leaves
    nothing."""
    with harness.Target(context.python, "fib") as target:
        sender = harness.spawn(["/usr/bin/python3", "-c", STORM, str(target.pid)], stdout=subprocess.PIPE)
        try:
            sender.stdout.readline()
            for _ in range(3):
                attempt(context, "inject", "-p", target.pid, "-d", "50ms", "--timeout", "1s", "-o", os.devnull).expect((0, 8, 9))
        finally:
            harness.reap(sender)
            sender.stdout.close()
        os.kill(target.pid, signal.SIGCONT)
        run(context.binary, "detach", "-p", target.pid, "--wait", "10s").expect(0)
        target.check_untouched()


# --- somebody else's number ------------------------------------------------------------------------------------

ZYGOTE = r"""
import ctypes, os, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def live():
    libc.prctl(1, 9)  # it ends with its parent
    while True:
        time.sleep(0.005)
def again(pid):
    ids = (ctypes.c_int * 1)(pid)
    args = ctypes.create_string_buffer(struct.pack("<11Q", 0, 0, 0, 0, 17, 0, 0, 0, ctypes.addressof(ids), 1, 0))
    child = libc.syscall(435, args, 88)  # clone3, set_tid
    if child == 0:
        live()
    return child
child = os.fork()
if child == 0:
    live()
print(child, flush=True)
for line in sys.stdin:
    os.kill(child, 9)
    os.waitpid(child, 0)
    child = again(child)
    print(child, flush=True)
"""


def reused(context):
    """The target ends when the plan is made, and its number goes to a sibling that has
    the same libraries at the same places: it is told apart, and not touched."""
    zygote = harness.spawn([context.python, "-u", "-c", ZYGOTE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    reads, writes = os.pipe()
    try:
        pid = int(zygote.stdout.readline())
        # -v speaks when the plan is made; nobody listens, so that the launcher stands there.
        room = fcntl.fcntl(writes, 1031, 4096)  # F_SETPIPE_SZ
        os.write(writes, b"\n" * room)
        launcher = harness.spawn([context.binary, "inject", "-v", "-p", str(pid), "-d", "1s"], stdin=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL, stderr=writes, preexec_fn=getattr(context.binary, "before_exec", None))
        try:
            procfs.wait_until(lambda: procfs.read(launcher.pid, "syscall").startswith("1 0x2 "), harness.PATIENCE, "the plan is made")
            zygote.stdin.write(b"\n")
            zygote.stdin.flush()
            if int(zygote.stdout.readline()) != pid:
                raise harness.Skip("no process of a chosen number can be made here")
            os.close(writes)
            writes = -1
            said = b""
            while True:
                chunk = os.read(reads, 65536)
                if not chunk:
                    break
                said += chunk
            code = launcher.wait(harness.PATIENCE)
        finally:
            harness.reap(launcher)
        text = said.decode("utf-8", "replace").strip()
        check(code == 11 and "exited in the middle of the injection" in text, "exit code %s\n%s", code, text)
        check("paused" not in text and not procfs.ours(pid), "the other one was touched:\n%s", text)
        check(procfs.alive(pid), "the other one has ended")
    finally:
        harness.reap(zygote)
        zygote.stdin.close()
        zygote.stdout.close()
        os.close(reads)
        if writes >= 0:
            os.close(writes)


TESTS = (
    ("names", names),
    ("process names", process_names),
    ("spoilt program", spoilt_program),
    ("mapped modules", mapped_modules),
    ("agent speaks garbage", lambda context: impostor(context, "garbage")),
    ("agent announces too much", lambda context: impostor(context, "long")),
    ("agent floods", lambda context: flood(context, "notes")),
    ("agent fills tables", lambda context: flood(context, "tables")),
    ("agent is silent", silent),
    ("agent at the handshake", lambda context: ambush(context, "notes", "-q")),
    ("agent's note at the handshake", lambda context: ambush(context, "note")),
    ("forged session", forged),
    ("leftovers without end", regrown),
    ("leftover and no thread", swept_late),
    ("leftover, and a thread perhaps inside", perhaps_inside),
    ("leftover, and threads that begin", perhaps_born),
    ("leftover beside much memory", vast),
    ("memory that does not come", stalled),
    ("memory that does not come, among others", stalled_among_others),
    ("lock of its own", locked_by_itself),
    ("another user", stranger),
    ("storm of stops", storm),
    ("output trap", output_trap),
    ("reused pid", reused),
    ("reused pid, without a pidfd", lambda context: reused(channel.Context(context))),
)
SHORT = ("another user", "output trap")  # without a limit on our addresses, of which a sanitizer needs many


def tests(short):
    for name, function in TESTS:
        if not short or name in SHORT:
            yield "hostile " + name, function
