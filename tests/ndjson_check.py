#!/usr/bin/python3
"""Checks the NDJSON of one mempulse session: ndjson_check.py [--cut] FILE (- is stdin).

Every line against docs/ndjson.schema.json, and what a schema can't say: the order
of lines, sums that must agree. --cut allows a stream without its end (a reader
that left, a launcher that was killed). Exit code 0 good, 1 not good, 2 usage."""
import json
import os
import sys

import jsonschema

SCHEMA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "docs", "ndjson.schema.json")
EXACT_MAX = 1 << 53


class Bad(Exception):
    pass


def unique(pairs):
    keys = [k for k, _ in pairs]
    if len(set(keys)) != len(keys):
        raise Bad("a key stands twice: %s" % keys)
    return dict(pairs)


def no_constant(name):
    raise Bad("%s is not JSON" % name)


def parse(line):
    if not line.endswith(b"\n"):
        raise Bad("the line has no newline")
    return json.loads(line.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_constant)


def validators():
    """One validator per type: its errors tell more than those of oneOf."""
    with open(SCHEMA, encoding="utf-8") as f:
        schema = json.load(f)
    jsonschema.Draft7Validator.check_schema(schema)
    whole = jsonschema.Draft7Validator(schema)
    one = {}
    for ref in schema["oneOf"]:
        name = ref["$ref"].rsplit("/", 1)[1]
        one[name] = jsonschema.Draft7Validator({"$ref": ref["$ref"], "definitions": schema["definitions"]})
    return whole, one


def check_line(obj, whole, one):
    kind = obj.get("type") if isinstance(obj, dict) else None
    if kind not in one or kind == "error":
        raise Bad("no such type in a stream: %r" % kind)
    error = jsonschema.exceptions.best_match(one[kind].iter_errors(obj))
    if error:
        raise Bad("%s: %s" % ("/".join(map(str, error.absolute_path)) or kind, error.message))
    if not whole.is_valid(obj):
        raise Bad("the line fits no type, or two")


class Session:
    """What the lines together must satisfy."""

    def __init__(self):
        self.count = {}
        self.lost = 0
        self.threads = {}
        self.end = None
        self.goal = 0  # --max-overhead

    def take(self, obj):
        kind = obj["type"]
        if self.end:
            raise Bad("a line after end")
        if (kind == "meta") != (not self.count):
            raise Bad("meta is the first line, once")
        if kind in ("call", "line", "lost", "stats", "note", "govern") and "rank" in self.count:
            raise Bad("%s after rank" % kind)
        if kind == "meta":
            self.goal = obj["options"]["max_overhead_ppm"]
        if kind == "govern" and not self.goal:
            raise Bad("govern without --max-overhead")
        if kind == "rank" and int(obj.get("measured_calls", 0)) > int(obj["calls"]):
            raise Bad("more calls measured than there were")
        self.count[kind] = self.count.get(kind, 0) + 1
        if kind == "lost":
            self.lost += int(obj["count"])
        if kind == "rank" and obj["rank"] != self.count["rank"]:
            raise Bad("rank %d where %d is due" % (obj["rank"], self.count["rank"]))
        if "tid" in obj and "thread_id" in obj and self.threads.setdefault(obj["thread_id"], obj["tid"]) != obj["tid"]:
            raise Bad("thread_id %d has two tids" % obj["thread_id"])
        if kind == "end":
            self.end = obj

    def finish(self, cut):
        if not self.count:
            raise Bad("the stream is empty")
        if not self.end:
            if cut:
                return
            raise Bad("no end: the stream was cut")
        seen = self.count.get("call", 0), self.count.get("line", 0)
        told = int(self.end["calls"]), int(self.end["lines"])
        if seen != (0, 0) and seen != told:  # --summary has none
            raise Bad("%d calls, %d lines seen; end says %d, %d" % (seen + told))
        if int(self.end["records"]) != sum(told):
            raise Bad("end: records is not calls + lines")
        if ("governor" in self.end) != (self.goal > 0):
            raise Bad("end: governor stands there when --max-overhead is on, and only then")
        if int(self.end["lost"]) != self.lost:
            raise Bad("lost lines say %d, end says %s" % (self.lost, self.end["lost"]))
        if self.end["clean"] and (self.end["residue"] or self.end["left"]):
            raise Bad("end: clean, yet something is left")


def check(stream, cut):
    whole, one = validators()
    session = Session()
    number = 0
    try:
        for number, line in enumerate(stream, 1):
            obj = parse(line)
            check_line(obj, whole, one)
            session.take(obj)
        session.finish(cut)
    except (Bad, ValueError) as e:
        print("line %d: %s" % (number, e), file=sys.stderr)
        return 1
    return 0


def main(argv):
    args = [a for a in argv[1:] if a != "--cut"]
    if len(args) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    if args[0] == "-":
        return check(sys.stdin.buffer, "--cut" in argv)
    with open(args[0], "rb") as f:
        return check(f, "--cut" in argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
