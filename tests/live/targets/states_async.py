"""States in which frames are entered, left and entered again: generators,
exceptions, coroutines."""
import asyncio

import work
from work import checksum


# --- generators and exceptions -------------------------------------------------------

def numbers(n):
    try:
        for k in range(n):
            sent = yield k
            if sent:
                yield sent * 2
    except KeyError:
        yield -1
    finally:
        numbers.closed += 1


numbers.closed = 0


def delegate(n):
    result = yield from numbers(n)
    return result


def raise_at(depth):
    if depth == 0:
        raise ValueError("on purpose")
    try:
        raise_at(depth - 1)
    finally:
        raise_at.unwound += 1


raise_at.unwound = 0


def drive(n):
    """Every way to leave a generator."""
    got = list(delegate(n))
    one = numbers(n)
    got.append(next(one))
    got.append(one.send(5))
    got.append(one.throw(KeyError()))
    two = delegate(n)
    next(two)
    two.close()
    numbers(n).close()  # never started
    dropped = numbers(n)
    next(dropped)
    del dropped
    return got


class Generators(work.State):
    def step(self, i):
        i %= work.PERIOD
        closed, unwound = numbers.closed, raise_at.unwound
        got = []
        for k in range(40):
            got.append(drive(5 + (i + k) % 7))
            try:
                raise_at(10 + i)
            except ValueError as error:
                got.append(str(error))
        return checksum((got, numbers.closed - closed, raise_at.unwound - unwound))


# --- asyncio -----------------------------------------------------------------------------

async def producer(out, n):
    for k in range(n):
        await out.put(k)
        await asyncio.sleep(0)
    await out.put(None)


async def consumer(inbox):
    total = 0
    while True:
        item = await inbox.get()
        if item is None:
            return total
        total += item


async def ticks(n):
    for k in range(n):
        yield k
        await asyncio.sleep(0)


async def pair(n):
    channel = asyncio.Queue(maxsize=3)
    feeding = asyncio.ensure_future(producer(channel, n))
    total = await consumer(channel)
    await feeding
    async for k in ticks(4):
        total += k
    return total


async def batch(i):
    return await asyncio.gather(*[pair(5 + (i + k) % 6) for k in range(30)])


class Asyncio(work.State):
    """Many tasks; the loop is entered anew in each step."""

    def setup(self, control):
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)

    def step(self, i):
        return checksum(self.loop.run_until_complete(batch(i % work.PERIOD)))

    def close(self):
        self.loop.close()


class AsyncioForever(Asyncio):
    """As a server: everything happens below one run_forever, which does not return."""

    def step(self, i):  # for the reference
        return checksum(self.loop.run_until_complete(batch(i % work.PERIOD)))

    async def steps(self, reference):
        while not self.stopping:
            i = work.account.steps
            work.account.took(checksum(await batch(i % work.PERIOD)), reference[i % work.PERIOD], 0)

    async def work(self, reference):
        await self.steps(reference)
        self.loop.stop()

    def on_command(self, control):
        if not work.handle(self, control, control.command()):
            self.stopping = True

    def serve(self, control, reference):
        self.stopping = False
        self.loop.add_reader(control.fd, self.on_command, control)
        self.loop.create_task(self.work(reference))
        self.loop.run_forever()


STATES = {"generators": Generators, "asyncio": Asyncio, "asyncio_forever": AsyncioForever}
