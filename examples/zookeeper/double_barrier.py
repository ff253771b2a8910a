"""A double barrier: nobody begins before all are there, nobody leaves before all are done."""

import sys
import threading

from kazoo.client import KazooClient

SERVER = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:2181"
COUNT = 4
entered, left, wrong, guard = [], [], [], threading.Lock()


def participate(number):
    client = KazooClient(SERVER)
    client.start()
    barrier = client.DoubleBarrier("/examples/barrier", COUNT)
    with guard:
        entered.append(number)
    barrier.enter()
    if len(entered) != COUNT:
        wrong.append("began before all were there")
    with guard:
        left.append(number)
    barrier.leave()
    if len(left) != COUNT:
        wrong.append("left before all were done")
    client.stop()


participants = [threading.Thread(target=participate, args=(number,)) for number in range(COUNT)]
for thread in participants:
    thread.start()
for thread in participants:
    thread.join()
print(f"{COUNT} began and left together" if not wrong else wrong)
sys.exit(bool(wrong))
