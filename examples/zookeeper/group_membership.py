"""Group membership: ephemeral znodes say who is there; a watch tells of each change."""

import sys
import threading

from kazoo.client import KazooClient

SERVER = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:2181"
PATH = "/examples/group"
observer = KazooClient(SERVER)
observer.start()
observer.ensure_path(PATH)
seen, changed = [], threading.Condition()


@observer.ChildrenWatch(PATH)
def on_change(names):
    with changed:
        seen.append(sorted(names))
        changed.notify_all()


def wait_for(names):
    with changed:
        assert changed.wait_for(lambda: seen and seen[-1] == names, timeout=20), seen
    print("members:", ", ".join(names) or "nobody")


wait_for([])
members = {}
for name in ("ann", "bob"):
    members[name] = KazooClient(SERVER)
    members[name].start()
    members[name].create(f"{PATH}/{name}", ephemeral=True)
wait_for(["ann", "bob"])
# Closing the session is enough: nobody has to sign off.
members["ann"].stop()
wait_for(["bob"])
members["bob"].stop()
wait_for([])
observer.stop()
