"""Workers of other people's servers: gunicorn's prefork, celery's pool. The conversation
goes on in a thread beside the work, which is asked for as any client would."""
import glob
import http.client
import os
import shutil
import signal
import socket
import tempfile
import threading

import work
from states_busy import churn, fib
from work import checksum

PATIENCE = 30


def compute(i):
    return checksum((fib(8 + i % work.PERIOD), churn(i % work.PERIOD, 60)))


# --- gunicorn ----------------------------------------------------------------------------------

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % compute(int(environ["PATH_INFO"].strip("/")))]


class Gunicorn(work.State):
    """One of two workers that a master has forked. It is asked over TCP, as is the other one."""

    def step(self, i):
        client = http.client.HTTPConnection("127.0.0.1", Gunicorn.port, timeout=PATIENCE)
        client.request("GET", "/%d" % (i % work.PERIOD))
        value = int(client.getresponse().read())
        client.close()
        return value


def serve_gunicorn():
    import gunicorn.app.base

    def talk(worker):
        work.main({"gunicorn": Gunicorn})
        os.kill(worker.ppid, signal.SIGTERM)

    class Server(gunicorn.app.base.BaseApplication):
        def load_config(self):
            Gunicorn.port = free_port()
            options = {"bind": "127.0.0.1:%d" % Gunicorn.port, "workers": 2, "errorlog": "/dev/null", "loglevel": "critical",
                       "post_worker_init": lambda worker: worker.age == 1 and threading.Thread(target=talk, args=(worker,), daemon=True).start()}
            for name, value in options.items():
                self.cfg.set(name, value)

        def load(self):
            return application

    Server().run()


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


# --- celery ------------------------------------------------------------------------------------

def serve_celery():
    """The worker with a pool of one forked process, which is the target."""
    import celery
    folder = tempfile.mkdtemp(prefix="mp-celery-")
    app = celery.Celery("campaign", broker="memory://", backend="file://" + folder)
    app.conf.update(worker_hijack_root_logger=False, worker_redirect_stdouts=False, result_expires=None,
                    broker_transport_options={"polling_interval": 0.002})
    task = app.task(compute, name="compute")
    worker = app.WorkController(pool="prefork", concurrency=1, loglevel="CRITICAL", without_gossip=True, without_mingle=True,
                                without_heartbeat=True, quiet=True)

    class Celery(work.State):
        def setup(self, control):
            self.step(0)  # the pool is there
            work.pid = worker.pool._pool._pool[0].pid

        def step(self, i):
            value = task.delay(i % work.PERIOD).get(timeout=PATIENCE, interval=0.002, disable_sync_subtasks=False)
            for path in glob.glob(os.path.join(folder, "celery-task-meta-*")):
                os.unlink(path)
            return value

    def talk():
        work.main({"celery": Celery})
        worker.stop()

    threading.Thread(target=talk, daemon=True).start()
    worker.start()
    shutil.rmtree(folder, ignore_errors=True)


SERVERS = {"gunicorn": serve_gunicorn, "celery": serve_celery}
