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

    # Any bytes, and much of them.
    raw = redis.Redis(host, port, protocol=protocol)
    value = bytes(range(256)) * 4096
    raw.set(b"\x00\xff\r\n", value)
    assert raw.get(b"\x00\xff\r\n") == value
    client.flushall()


for version in (2, 3):
    run(sys.argv[1], int(sys.argv[2]), version)
print("redis-py: ok")
