"""Servers to put under wrk: python serve.py asyncio PORT, or gunicorn with serve:application.
Every GROW_EVERY-th request grows the process by a known amount; BENCH_GROWN is a file
of one word that tells how often that was."""
import asyncio
import mmap
import os
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from target import grow_known

GROW_EVERY = 20
served = [0]


def shared(path):
    with open(path, "r+b") as f:
        return mmap.mmap(f.fileno(), 8)


def count():
    served[0] += 1
    if served[0] % GROW_EVERY == 0:
        grow_known()
        struct.pack_into("q", grown, 0, served[0] // GROW_EVERY)


# --- asyncio: HTTP/1.1, keep-alive, no framework -----------------------------------------

async def make_body():
    count()
    return ("<p>%s</p>" % ", ".join(str(i * i) for i in range(50))).encode()


async def handle(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"GET "):
                break
            body = await make_body()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


async def serve(port):
    await asyncio.start_server(handle, "127.0.0.1", port)
    await asyncio.Event().wait()


# --- Django under gunicorn -----------------------------------------------------------------

def make_application():
    import django
    from django.conf import settings
    settings.configure(
        SECRET_KEY="-", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__,
        MIDDLEWARE=["django.middleware.common.CommonMiddleware", "django.middleware.csrf.CsrfViewMiddleware"],
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}])
    django.setup()
    from django.core.wsgi import get_wsgi_application
    from django.template import Context, Template
    from django.http import HttpResponse
    from django.urls import path
    from loads import PAGE
    template = Template(PAGE)

    def view(request):
        count()
        return HttpResponse(template.render(Context({
            "title": "Orders", "user": {"name": "Ada"},
            "items": [{"name": "thing %d" % i, "price": i * 1.5} for i in range(3)]})))

    global urlpatterns
    urlpatterns = [path("", view)]
    return get_wsgi_application()


if os.environ.get("BENCH_GROWN"):
    grown = shared(os.environ["BENCH_GROWN"])
if __name__ == "__main__":
    asyncio.get_event_loop_policy().new_event_loop().run_until_complete(serve(int(sys.argv[2])))
elif os.environ.get("BENCH_DJANGO"):
    application = make_application()
