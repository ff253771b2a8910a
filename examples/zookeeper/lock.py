"""A lock: four workers add to a znode without a version check, and no addition is lost."""

import sys
import threading

from kazoo.client import KazooClient

SERVER = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:2181"
WORKERS, ROUNDS = 4, 25


def work(name):
    client = KazooClient(SERVER)
    client.start()
    lock = client.Lock("/examples/lock/holders", name)
    for _ in range(ROUNDS):
        with lock:
            count = int(client.get("/examples/lock/count")[0])
            client.set("/examples/lock/count", str(count + 1).encode())
    client.stop()


client = KazooClient(SERVER)
client.start()
client.ensure_path("/examples/lock/count")
client.set("/examples/lock/count", b"0")
workers = [threading.Thread(target=work, args=(f"worker-{number}",)) for number in range(WORKERS)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
count = int(client.get("/examples/lock/count")[0])
client.stop()
print(f"{WORKERS} workers added {ROUNDS} each: {count}")
sys.exit(count != WORKERS * ROUNDS)
