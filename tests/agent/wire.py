"""The wire format for tests of the agent: include/wire.h in Python, decoding only
what tests look at. Independent of the launcher's decoder on purpose."""
import struct

HELLO, SELFTEST, HOOKED, FAILED, CODE, THREAD, RECORDS, LOST, STATS, BYE, NOTE = range(1, 12)
GOVERN = 13
GO, DETACH = 64, 65
OPT_LINES, OPT_NO_ROLLUP, OPT_CURE = 1, 2, 4
CALL, LINE = 1, 2
SELF_ROLLUP, SELF_ROLLUP_LONG = 2, 16
HAS_RSS, HAS_OWN, HAS_USS, HAS_USS_DELTA, HAS_PEAK, RAISED, YIELDED, RESUMED = (1 << i for i in range(8))

PATTERNS_MAX, PATTERN_MAX = 16, 128
RECORD = struct.Struct("<QQIIBBHHHIiIIQQqQ")
RECORD_FIELDS = ("time dur code thread type weight flags depth _r2 line rss_delta rss own uss swap "
                 "uss_delta peak").split()
assert RECORD.size == 80


class Obj(dict):
    __getattr__ = dict.__getitem__


def patterns(globs):
    body = b"".join(g.encode().ljust(PATTERN_MAX, b"\0") for g in globs)
    return struct.pack("<II", len(globs), 0) + body.ljust(PATTERNS_MAX * PATTERN_MAX, b"\0")


def go(flags=0, depth=3, min_bytes=0, min_time=0, thread=0, ppm=10000, root=(), function=(), module=(), exclude=(),
       overhead=0):
    """overhead: --max-overhead in millionths. Off by default: tests count calls, on machines of any speed."""
    body = struct.pack("<IIQQiIII", flags, depth, min_bytes, min_time, thread, ppm, overhead, 0)
    body += patterns(root) + patterns(function) + patterns(module) + patterns(exclude)
    return frame(GO, body)


def frame(kind, body=b""):
    return struct.pack("<IHH", len(body) + 8, kind, 1) + body


FULL, ROLLUP, DEPTH, SAMPLED, QUIET = range(5)
GOVERN_STRUCT = struct.Struct("<QIIIIQQQII")
ACCOUNT_STRUCT = struct.Struct("<10QIIII")


def account(b):
    v = ACCOUNT_STRUCT.unpack(b)
    return Obj(zip("work agent floor stages blind rest cost_ppm deepest least_depth most_sample".split(),
                   v[:3] + (list(v[3:8]),) + v[8:]))


def slots(b):
    return Obj(zip("eval default profile trace tools hook".split(), struct.unpack_from("<QQIIII", b)))


class Session:
    """Everything an agent said, sorted."""

    def __init__(self):
        self.buf = b""
        self.order = []
        self.codes, self.threads = {}, {}
        self.records, self.notes, self.stats, self.govern = [], [], [], []
        self.lost = 0
        self.hello = self.selftest = self.hooked = self.failed = self.bye = None

    def feed(self, data):
        self.buf += data
        while len(self.buf) >= 8:
            size, kind, count = struct.unpack_from("<IHH", self.buf)
            assert 8 <= size <= 256 << 10, size
            if len(self.buf) < size:
                return
            self.frame(kind, count, self.buf[8:size])
            self.buf = self.buf[size:]

    def frame(self, kind, count, b):
        assert self.bye is None, "a frame after BYE"
        self.order.append(kind)
        if kind == HELLO:
            self.hello = struct.unpack("<IiiI", b)
        elif kind == SELFTEST:
            self.selftest = Obj(zip("pages statm_error minflt_error flags statm_ns rusage_ns clock_ns rollup_ns page".split(),
                                    struct.unpack("<IiiIQQQQQ", b)))
        elif kind == HOOKED:
            self.hooked = slots(b)
        elif kind == FAILED:
            code, err = struct.unpack_from("<Ii", b)
            self.failed = (code, err, b[8:].split(b"\0")[0].decode())
        elif kind == CODE:
            cid, line, flags, n, f, m, _ = struct.unpack_from("<IIIHHHH", b)
            t = b[20:]
            assert cid not in self.codes and len(t) == n + f + m
            self.codes[cid] = Obj(id=cid, line=line, flags=flags, name=t[:n].decode(), file=t[n:n + f].decode(),
                                  module=t[n + f:].decode())
        elif kind == THREAD:
            tid, ktid, n, _, flags = struct.unpack_from("<IiHHI", b)
            assert (tid in self.threads) == bool(flags & 2)
            self.threads[tid] = Obj(id=tid, tid=ktid, flags=flags, name=b[16:16 + n].decode())
        elif kind == RECORDS:
            assert len(b) == count * 80
            for v in RECORD.iter_unpack(b):
                r = Obj(zip(RECORD_FIELDS, v))
                assert r.code == 0 or r.code in self.codes, "record before its code"
                assert r.thread in self.threads, "record before its thread"
                r["name"] = self.codes[r.code].name if r.code else "?"
                self.records.append(r)
        elif kind == LOST:
            self.lost += struct.unpack_from("<Q", b)[0]
        elif kind == STATS:
            self.stats.append(Obj(zip("time records lost filtered events hook_ns rollup_ns rss uss peak threads codes".split(),
                                      struct.unpack_from("<10QII", b))))
            self.stats[-1]["account"] = account(b[88:])
        elif kind == GOVERN:
            self.govern.append(Obj(zip("time stage depth sample rollup window hook work cost_ppm floor_ppm".split(),
                                       GOVERN_STRUCT.unpack(b))))
        elif kind == BYE:
            self.bye = Obj(zip("reason residue records lost hook_ns inflight".split(), struct.unpack_from("<IIQQQQ", b)))
            self.bye["slots"] = slots(b[40:])
            self.bye["account"] = account(b[72:])
        elif kind == NOTE:
            code, n, _ = struct.unpack_from("<IHH", b)
            self.notes.append((code, b[8:8 + n].decode()))
        else:
            raise AssertionError("frame type %d" % kind)

    def calls(self, name=None):
        return [r for r in self.records if r.type == CALL and (name is None or r.name.split(".")[-1] == name)]

    def lines(self):
        return [r for r in self.records if r.type == LINE]
