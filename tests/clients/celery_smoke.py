"""Celery over the Redis face, as broker and as result store: python celery_smoke.py HOST PORT"""

import sys
import time

from celery import Celery, chord, group
from celery.contrib.testing.worker import start_worker

HOST, PORT = sys.argv[1], int(sys.argv[2])
URL = f"redis://{HOST}:{PORT}"
app = Celery("smoke", broker=f"{URL}/5", backend=f"{URL}/6")
app.conf.update(worker_hijack_root_logger=False, broker_connection_retry_on_startup=True)


@app.task
def add(a, b):
    return a + b


@app.task
def total(numbers):
    return sum(numbers)


@app.task(bind=True, max_retries=3, default_retry_delay=0)
def fails_twice(self):
    if self.request.retries < 2:
        raise self.retry(exc=ValueError("not yet"))
    return self.request.retries


@app.task
def broken():
    raise KeyError("broken")


def main():
    with start_worker(app, pool="threads", concurrency=4, perform_ping_check=False):
        assert add.delay(2, 3).get(timeout=60) == 5
        results = group(add.s(number, number) for number in range(50))().get(timeout=60)
        assert results == [2 * number for number in range(50)]
        assert chord([add.s(number, 1) for number in range(10)])(total.s()).get(timeout=60) == 55
        assert fails_twice.delay().get(timeout=60) == 2
        try:
            broken.delay().get(timeout=60)
        except KeyError:
            pass
        else:
            raise AssertionError("the failure of a task was lost")
        # A task for later: it waits in the set of what is not acknowledged.
        started = time.monotonic()
        assert add.apply_async((1, 1), countdown=1).get(timeout=60) == 2
        assert time.monotonic() - started >= 1
        revoked = add.apply_async((1, 1), countdown=3600)
        revoked.revoke()
    print("celery ok")


main()
