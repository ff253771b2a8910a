#!/usr/bin/env python3
"""What a kazoo application does, against a ZooKeeper server at host:port.

    python3 tests/clients/kazoo_smoke.py 127.0.0.1:2181

Needs kazoo (pip install kazoo). Exits with 0 if everything held; prints what did not, and exits
with 1, otherwise. It works below /kazoo-smoke-<random> and removes that again. It holds against
ZooKeeper itself as well.
"""

import socket
import sys
import threading
import time
import traceback
import uuid

from kazoo.client import KazooClient, KazooState
from kazoo.exceptions import (
    BadVersionError,
    InvalidACLError,
    NoAuthError,
    NoChildrenForEphemeralsError,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    RolledBackError,
    RuntimeInconsistency,
)
from kazoo.protocol.states import EventType
from kazoo.recipe.cache import TreeCache
from kazoo.security import ACL, Id, Permissions, make_digest_acl

WAIT_S = 20


def wait_for(condition, what):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {WAIT_S} s"
        time.sleep(0.02)


def refused(error, call, *arguments, **options):
    try:
        result = call(*arguments, **options)
    except error:
        return
    raise AssertionError(f"{call.__name__}{arguments} returned {result!r}, not {error.__name__}")


class Smoke:
    def __init__(self, hosts):
        self.hosts = hosts
        self.root = f"/kazoo-smoke-{uuid.uuid4().hex[:8]}"
        self.clients = []
        self.zk = self.connect()

    def connect(self, **options):
        client = KazooClient(hosts=self.hosts, timeout=6.0, **options)
        client.start(timeout=WAIT_S)
        self.clients.append(client)
        return client

    def path(self, name):
        path = f"{self.root}/{name}"
        self.zk.ensure_path(path)
        return path

    def check_create_get_set_delete(self):
        path = self.path("basic") + "/node"
        assert self.zk.create(path, b"one") == path
        data, stat = self.zk.get(path)
        assert (data, stat.version, stat.dataLength, stat.numChildren) == (b"one", 0, 3, 0)
        assert stat.czxid == stat.mzxid == stat.pzxid and stat.ephemeralOwner == 0
        assert abs(stat.created - time.time()) < 600
        changed = self.zk.set(path, b"two")
        assert changed.version == 1 and changed.mzxid > changed.czxid
        refused(BadVersionError, self.zk.set, path, b"x", version=0)
        refused(NodeExistsError, self.zk.create, path, b"")
        refused(NoNodeError, self.zk.get, path + "/missing")
        refused(NoNodeError, self.zk.create, path + "/missing/child", b"")
        assert self.zk.exists(path + "/missing") is None
        _, stat = self.zk.create(path + "/child", b"", include_data=True)
        assert stat.version == 0
        refused(NotEmptyError, self.zk.delete, path)
        refused(BadVersionError, self.zk.delete, path + "/child", version=7)
        assert self.zk.get_children(path) == ["child"]
        names, stat = self.zk.get_children(path, include_data=True)
        assert names == ["child"] and stat.cversion == 1 and stat.numChildren == 1
        self.zk.delete(path, recursive=True)
        assert self.zk.exists(path) is None
        big = bytes(range(256)) * 2000
        self.zk.create(path, big)
        assert self.zk.get(path)[0] == big
        assert self.zk.sync(path) == path

    def check_acl(self):
        path = self.path("acl")
        acls, stat = self.zk.get_acls(path)
        assert len(acls) == 1 and acls[0].id.scheme == "world" and acls[0].perms == 31
        assert self.zk.set_acls(path, acls, version=stat.aversion).aversion == stat.aversion + 1

    def check_children(self):
        path = self.path("children")
        for number in range(300):
            self.zk.create_async(f"{path}/{number}", b"")
        assert sorted(self.zk.get_children(path), key=int) == [str(n) for n in range(300)]
        assert self.zk.exists(path).numChildren == 300
        assert "zookeeper" in self.zk.get_children("/")

    def check_sequence(self):
        path = self.path("sequence")
        names = [self.zk.create(path + "/s-", b"", sequence=True) for _ in range(3)]
        assert names == [f"{path}/s-{n:010d}" for n in range(3)], names
        self.zk.delete(names[1])
        assert self.zk.create(path + "/", b"", sequence=True) == f"{path}/{3:010d}"

    def check_ephemeral(self):
        path = self.path("ephemeral")
        other = self.connect()
        other.create(path + "/e", b"", ephemeral=True)
        assert self.zk.exists(path + "/e").ephemeralOwner == other.client_id[0]
        refused(NoChildrenForEphemeralsError, other.create, path + "/e/child", b"")
        gone = threading.Event()
        assert self.zk.exists(path + "/e", watch=lambda event: gone.set())
        other.stop()
        assert gone.wait(WAIT_S), "the end of a session was not told"
        assert self.zk.exists(path + "/e") is None

    def check_watches(self):
        path = self.path("watches")
        events = []
        note = lambda event: events.append((event.type, event.path))
        node = path + "/n"
        assert self.zk.exists(node, watch=note) is None
        self.zk.get_children(path, watch=note)
        other = self.connect()
        other.create(node, b"1")
        wait_for(lambda: len(events) == 2, "creation's events")
        assert sorted(events) == [(EventType.CHILD, path), (EventType.CREATED, node)], events
        events.clear()
        self.zk.get(node, watch=note)
        other.set(node, b"2")
        other.set(node, b"3")
        wait_for(lambda: events, "the change's event")
        assert self.zk.get(node)[0] == b"3"
        assert events == [(EventType.CHANGED, node)], events
        events.clear()
        self.zk.get(node, watch=note)
        other.delete(node)
        wait_for(lambda: events, "the deletion's event")
        assert events == [(EventType.DELETED, node)], events
        other.stop()

        seen = []
        self.zk.DataWatch(path, lambda data, stat: seen.append(data))
        self.zk.ChildrenWatch(path, lambda names: seen.append(sorted(names)))
        self.zk.set(path, b"watched")
        self.zk.create(path + "/x", b"")
        wait_for(lambda: b"watched" in seen and ["x"] in seen, "the recipes' events")

    def check_pipeline_order(self):
        path = self.path("order")
        results = []
        for number in range(200):
            results.append(self.zk.set_async(path, str(number).encode()))
            results.append(self.zk.get_async(path))
        for number in range(200):
            assert results[2 * number].get(WAIT_S).version == number + 1
            assert results[2 * number + 1].get(WAIT_S)[0] == str(number).encode()

    def check_transaction(self):
        path = self.path("transaction")
        transaction = self.zk.transaction()
        transaction.create(path + "/a", b"1")
        transaction.check(path + "/a", version=0)
        transaction.set_data(path + "/a", b"2", version=0)
        transaction.create(path + "/b")
        transaction.delete(path + "/b")
        results = transaction.commit()
        assert results[0] == path + "/a" and results[1] is True, results
        assert results[2].version == 1 and results[4] is True, results
        assert self.zk.get(path + "/a")[0] == b"2"
        transaction = self.zk.transaction()
        transaction.set_data(path + "/a", b"3")
        transaction.check(path + "/a", version=7)
        transaction.delete(path + "/a")
        results = transaction.commit()
        kinds = [type(result) for result in results]
        assert kinds == [RolledBackError, BadVersionError, RuntimeInconsistency], results
        assert self.zk.get(path + "/a")[0] == b"2"

    def check_lock(self):
        path = self.path("lock")
        counter, holders = [0], [0]

        def work(client):
            lock = client.Lock(path, "worker")
            for _ in range(5):
                with lock:
                    holders[0] += 1
                    assert holders[0] == 1, "two hold the lock"
                    before = counter[0]
                    time.sleep(0.002)
                    counter[0] = before + 1
                    holders[0] -= 1

        clients = [self.connect() for _ in range(3)]
        threads = [threading.Thread(target=work, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        assert counter[0] == 15, counter
        held = clients[0].Lock(path, "held")
        assert held.acquire()
        assert not clients[1].Lock(path).acquire(blocking=False)
        clients[0].stop()
        assert clients[1].Lock(path).acquire(timeout=WAIT_S), "a dead holder keeps the lock"
        for client in clients[1:]:
            client.stop()

    def check_election(self):
        path = self.path("election")
        leaders, release = [], threading.Event()

        def lead(name):
            leaders.append(name)
            release.wait(WAIT_S)

        clients = {name: self.connect() for name in ("one", "two")}
        elections = {name: c.Election(path, name) for name, c in clients.items()}
        threads = [
            threading.Thread(target=election.run, args=(lead, name), daemon=True)
            for name, election in elections.items()
        ]
        for thread in threads:
            thread.start()
        wait_for(lambda: leaders, "an election")
        wait_for(lambda: len(elections["one"].contenders()) == 2, "both candidacies")
        assert len(leaders) == 1
        release.set()
        for thread in threads:
            thread.join(WAIT_S)
        assert sorted(leaders) == ["one", "two"], leaders
        for client in clients.values():
            client.stop()

    def check_queue_and_counter(self):
        path = self.path("recipes")
        queue = self.zk.Queue(path + "/queue")
        for item in (b"a", b"b", b"c"):
            queue.put(item)
        assert [queue.get(), queue.get(), queue.get()] == [b"a", b"b", b"c"]
        counter = self.zk.Counter(path + "/counter")
        counter += 5
        counter -= 2
        assert counter.value == 3

    def check_session_resume(self):
        path = self.path("resume")
        states, told = [], threading.Event()
        client = self.connect()
        client.add_listener(lambda state: states.append(state))
        client.create(path + "/e", b"", ephemeral=True)
        session = client.client_id
        client.get(path, watch=lambda event: told.set())
        # The socket breaks under the client; it comes back with the same session.
        client._connection._socket.shutdown(socket.SHUT_RDWR)
        wait_for(lambda: states == [KazooState.SUSPENDED, KazooState.CONNECTED], "the resumption")
        assert client.client_id == session
        assert self.zk.exists(path + "/e").ephemeralOwner == session[0]
        client.stop()

        # A second client with id and password takes the session over; with another password it
        # gets a new session.
        first = self.connect()
        first.create(path + "/moved", b"", ephemeral=True)
        session = first.client_id
        thief = self.connect(client_id=(session[0], b"\x01" * 16))
        assert thief.client_id[0] != session[0]
        thief.stop()
        second = self.connect(client_id=session)
        assert second.client_id[0] == session[0]
        second.set(path + "/moved", b"mine")
        second.stop()
        wait_for(lambda: self.zk.exists(path + "/moved") is None, "the end of the moved session")

    def check_access(self):
        path = self.path("access")
        ann = self.connect(auth_data=[("digest", "ann:secret")])
        bob = self.connect()
        own = make_digest_acl("ann", "secret", all=True)
        ann.create(path + "/own", b"x", acl=[own])
        for call in (bob.get, bob.get_children, bob.get_acls):
            refused(NoAuthError, call, path + "/own")
        refused(NoAuthError, bob.set, path + "/own", b"y")
        refused(NoAuthError, bob.create, path + "/own/child")
        refused(InvalidACLError, bob.create, path + "/auth", acl=[ACL(31, Id("auth", ""))])
        readable = ACL(Permissions.READ, Id("ip", "127.0.0.0/8"))
        assert ann.set_acls(path + "/own", [own, readable], version=0).aversion == 1
        if self.hosts.startswith("127."):
            assert bob.get(path + "/own")[0] == b"x"
        refused(NoAuthError, bob.set, path + "/own", b"y")
        bob.add_auth("digest", "ann:secret")
        bob.set(path + "/own", b"y")
        bob.delete(path + "/own")

    def check_more_recipes(self):
        path = self.path("recipes")
        other = self.connect()
        with self.zk.ReadLock(path + "/rw", "a"), other.ReadLock(path + "/rw", "b"):
            assert not other.WriteLock(path + "/rw", "c").acquire(blocking=False)
        semaphore, second = self.zk.Semaphore(path + "/s", "a"), other.Semaphore(path + "/s", "b")
        with semaphore:
            assert not second.acquire(blocking=False)
        assert second.acquire(timeout=WAIT_S)
        second.release()
        party = self.zk.Party(path + "/party", "ann")
        party.join()
        assert set(other.Party(path + "/party")) == {"ann"}
        party.leave()
        cache, seen = TreeCache(other, path + "/tree"), []
        self.zk.ensure_path(path + "/tree")
        cache.listen(lambda event: seen.append(event.event_type))
        cache.start()
        self.zk.create(path + "/tree/a/b", b"x", makepath=True)
        wait_for(lambda: cache.get_data(path + "/tree/a/b") is not None, "the cache of a tree")
        self.zk.delete(path + "/tree/a", recursive=True)
        wait_for(lambda: cache.get_data(path + "/tree/a") is None, "the end of a cached tree")
        cache.close()

    def check_four_letter_words(self):
        host, port = self.hosts.rsplit(":", 1)

        def ask(word):
            with socket.create_connection((host, int(port)), WAIT_S) as connection:
                connection.sendall(word)
                answer = b""
                while chunk := connection.recv(4096):
                    answer += chunk
                return answer

        assert b"Mode: " in ask(b"srvr")
        if b"whitelist" not in ask(b"ruok"):
            assert ask(b"ruok") == b"imok"
            assert ask(b"isro") == b"rw"
            assert b"zk_znode_count" in ask(b"mntr")
            assert self.zk.server_version() >= (3, 4)

    def run(self):
        failed = 0
        try:
            for name in [name for name in dir(self) if name.startswith("check_")]:
                started = time.monotonic()
                try:
                    getattr(self, name)()
                    print(f"held    {name[6:]} ({time.monotonic() - started:.2f} s)", flush=True)
                except Exception:
                    failed += 1
                    print(f"FAILED  {name[6:]}", flush=True)
                    traceback.print_exc()
        finally:
            self.zk.delete(self.root, recursive=True)
            for client in self.clients:
                client.stop()
                client.close()
        return failed


if __name__ == "__main__":
    if len(sys.argv) != 2 or ":" not in sys.argv[1]:
        sys.exit(__doc__)
    sys.exit(1 if Smoke(sys.argv[1]).run() else 0)
