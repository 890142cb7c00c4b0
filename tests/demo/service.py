"""A small service that really grows: what `make demo` attaches to.

Two workers take requests from a queue, as a threaded server would. Most requests
are harmless; three things happen to memory:

  remember()   keeps a rendered page for every customer and never lets go: the leak
  render()     builds a page, which is its caller's to keep or drop
  report()     needs 24 MiB for a moment and gives them back: a peak, no leak

It knows nothing of mempulse, and prints nothing.
"""
import queue
import sys
import threading
import time

PAGE_BYTES = 512 * 1024


class PageCache:
    def __init__(self):
        self.pages = {}

    def remember(self, customer, page):
        self.pages[customer] = bytearray(page)


def render(customer):
    return b"<p>hello %d</p>" % customer * (PAGE_BYTES // 17)


def report():
    table = [bytearray(b"x") * (1 << 20) for _ in range(24)]
    return sum(len(row) for row in table)


def handle_request(cache, number):
    if number % 50 == 49:
        report()
    elif number % 5 == 0:
        cache.remember(number, render(number))
    else:
        render(number)


def worker(requests, cache):
    while True:
        handle_request(cache, requests.get())


def main(seconds):
    requests = queue.Queue(maxsize=8)
    cache = PageCache()
    for i in range(2):
        threading.Thread(target=worker, args=(requests, cache), name="worker-%d" % i, daemon=True).start()
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        requests.put(number)
        number += 1
        time.sleep(0.02)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 60)
