"""debugger.py PORT FILE: a debugger that comes to the debugpy which listens there, over the Debug
Adapter Protocol (https://microsoft.github.io/debug-adapter-protocol/), sets a breakpoint in
FILE's last line that stops nothing, and then only listens, to its end."""
import itertools
import json
import socket
import sys

channel = socket.create_connection(("127.0.0.1", int(sys.argv[1]))).makefile("rwb")
numbers = itertools.count(1)


def request(command, **arguments):
    text = json.dumps({"seq": next(numbers), "type": "request", "command": command, "arguments": arguments}).encode()
    channel.write(b"Content-Length: %d\r\n\r\n%s" % (len(text), text))
    channel.flush()


def messages():
    while True:
        length = 0
        for line in iter(channel.readline, b"\r\n"):
            if not line:
                return
            if line.startswith(b"Content-Length:"):
                length = int(line.partition(b":")[2])
        yield json.loads(channel.read(length).decode())


with open(sys.argv[2]) as source:
    last = len(source.read().splitlines())
request("initialize", adapterID="mempulse")
request("attach", justMyCode=False)
for message in messages():
    if message.get("event") == "initialized":
        request("setBreakpoints", source={"path": sys.argv[2]}, breakpoints=[{"line": last, "condition": "False"}])
        request("configurationDone")
    if message.get("event") == "terminated":  # the adapter goes when nobody is connected
        break
