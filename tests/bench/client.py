"""A client for where there is no wrk: python client.py PORT CONNECTIONS SECONDS. Keep-alive
connections, one request after the other on each. Prints what servers.py reads of wrk."""
import asyncio
import sys
import time


async def ask(port, end, took):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.monotonic() < end:
        start = time.monotonic()
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
        await reader.readexactly(int(fields[b"content-length"]))
        took.append(time.monotonic() - start)
        if fields.get(b"connection", b"").strip() == b"close":  # gunicorn's plain workers do
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()


async def main(port, connections, seconds):
    took = []
    start = time.monotonic()
    await asyncio.gather(*[ask(port, start + seconds, took) for _ in range(connections)])
    took.sort()
    print("99%% %.3fms\n%d requests in %gs\nRequests/sec: %.2f" % (
        took[int(0.99 * len(took))] * 1e3, len(took), seconds, len(took) / (time.monotonic() - start)))


asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
