"""redis-py against the Redis face, in both protocols: python redis_py_smoke.py HOST PORT"""

import sys

import redis


def refused(call, text):
    try:
        call()
    except redis.ResponseError as error:
        assert text in str(error), error
    else:
        raise AssertionError(f"not refused: {text}")


def run(host, port, protocol):
    client = redis.Redis(host, port, protocol=protocol, decode_responses=True)
    client.flushall()
    assert client.set("k", "v") and client.get("k") == "v"
    assert client.set("k", "w", nx=True) is None
    assert client.set("k", "w", get=True) == "v"
    assert client.set("gone", "x", px=100_000) and 0 < client.pttl("gone") <= 100_000
    assert client.incr("n", 5) == 5
    refused(lambda: client.incr("k"), "not an integer")
    assert client.hset("h", mapping={"a": 1, "b": 2}) == 2
    assert client.hgetall("h") == {"a": "1", "b": "2"}
    assert client.hmget("h", "a", "missing") == ["1", None]
    refused(lambda: client.get("h"), "WRONGTYPE")
    refused(lambda: client.execute_command("NOSUCH", "a"), "unknown command")
    assert client.mget("k", "missing") == ["w", None]
    assert client.type("h") == "hash" and client.dbsize() == 4
    assert client.info()["redis_version"].startswith("7.")

    # A pipeline in one transaction, one without, and what a failing command leaves.
    with client.pipeline() as pipeline:
        assert pipeline.set("a", 1).incr("a").get("a").execute() == [True, 2, "2"]
    with client.pipeline(transaction=False) as pipeline:
        for number in range(5_000):
            pipeline.set(f"p{number}", number)
        assert all(pipeline.execute())
    with client.pipeline(transaction=False) as pipeline:
        answers = pipeline.set("a", 1).incr("k").get("a").execute(raise_on_error=False)
    assert answers[0] is True and isinstance(answers[1], redis.ResponseError) and answers[2] == "1"

    # A watched key that somebody else changes.
    with client.pipeline() as pipeline:
        pipeline.watch("a")
        client.set("a", "other")
        pipeline.multi()
        pipeline.set("a", "mine")
        try:
            pipeline.execute()
        except redis.WatchError:
            pass
        else:
            raise AssertionError("EXEC did not notice the change")
    assert client.get("a") == "other"

    # The other types, as their users use them.
    client.flushall()
    assert client.rpush("l", *range(300)) == 300 and client.lrange("l", -2, -1) == ["298", "299"]
    assert client.lmove("l", "m", "LEFT", "RIGHT") == "0" and tuple(client.brpop("m", timeout=1)) == ("m", "0")
    assert client.blpop("nothing", timeout=0.05) is None
    assert client.sadd("s", *range(300)) == 300 and client.sismember("s", 7)
    assert client.zadd("z", {f"m{n}": n for n in range(300)}) == 300
    assert client.zrevrange("z", 0, 1, withscores=True) == [("m299", 299.0), ("m298", 298.0)] or protocol == 3
    assert client.zrank("z", "m77") == 77 and client.zrange("z", 5, 6) == ["m5", "m6"]
    assert client.xadd("x", {"f": "v"}, id="1-1") == "1-1"
    assert client.xgroup_create("x", "g", id="0") and client.xreadgroup("g", "c", {"x": ">"})
    assert client.xack("x", "g", "1-1") == 1
    assert client.pfadd("hll", *range(1000)) and 950 < client.pfcount("hll") < 1050
    assert client.setbit("bits", 9, 1) == 0 and client.bitcount("bits") == 1
    client.geoadd("geo", (13.361389, 38.115556, "Palermo", 15.087269, 37.502669, "Catania"))
    assert client.geosearch("geo", longitude=15, latitude=37, radius=100, unit="km") == ["Catania"]
    assert len(set(client.scan_iter(count=3))) == client.dbsize() == 7
    assert len(list(client.sscan_iter("s", count=10))) == 300
    raw = redis.Redis(host, port, protocol=protocol)
    for key in ("l", "s", "z", "x", "geo"):
        assert raw.restore(f"copy of {key}", 0, raw.dump(key))
    assert client.zscore("copy of z", "m42") == 42 and client.llen("copy of l") == 299

    # Scripts; the client's lock is one.
    double = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1]) * 2")
    assert double(keys=["n"], args=[4]) == 8
    with client.lock("lock", timeout=10):
        assert not client.lock("lock", timeout=10).acquire(blocking=False)

    # Messages, and what is announced of keys.
    listener = client.pubsub()
    listener.psubscribe("news.*")
    assert listener.get_message(timeout=5)["type"] == "psubscribe"
    assert client.publish("news.today", "hello") == 1
    assert listener.get_message(timeout=5)["data"] == "hello"
    client.config_set("notify-keyspace-events", "Kx")
    listener.subscribe("__keyspace@0__:short")
    assert listener.get_message(timeout=5)["type"] == "subscribe"
    client.set("short", 1, px=20)
    assert listener.get_message(timeout=10)["data"] == "expired"
    listener.close()

    # Any bytes, and much of them.
    raw = redis.Redis(host, port, protocol=protocol)
    value = bytes(range(256)) * 4096
    raw.set(b"\x00\xff\r\n", value)
    assert raw.get(b"\x00\xff\r\n") == value
    client.flushall()


for version in (2, 3):
    run(sys.argv[1], int(sys.argv[2]), version)
print("redis-py: ok")
