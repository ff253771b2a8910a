"""Leader election: three candidates; each leads once, and never two at a time."""

import sys
import threading

from kazoo.client import KazooClient

SERVER = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:2181"
leading, led, guard = set(), [], threading.Lock()


def candidate(name):
    client = KazooClient(SERVER)
    client.start()

    def lead():
        with guard:
            leading.add(name)
            assert leading == {name}, f"{leading} lead at once"
            led.append(name)
        print(f"{name} leads")
        with guard:
            leading.discard(name)

    client.Election("/examples/election", name).run(lead)
    client.stop()


candidates = [threading.Thread(target=candidate, args=(name,)) for name in ("ann", "bob", "cid")]
for thread in candidates:
    thread.start()
for thread in candidates:
    thread.join()
sys.exit(sorted(led) != ["ann", "bob", "cid"])
