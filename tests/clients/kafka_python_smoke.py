#!/usr/bin/env python3
"""Drives a node's Kafka face with kafka-python and aiokafka: python kafka_python_smoke.py HOST:PORT

Exits non-zero with the failed expectation. Needs: pip install kafka-python aiokafka lz4
python-snappy zstandard crc32c
"""

import asyncio
import sys
import threading
import time
import uuid

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9092"
RUN = uuid.uuid4().hex[:8]
DEADLINE_S = 60


def expect(condition, message):
    if not condition:
        raise SystemExit(f"FAILED: {message}")


def produce_and_consume():
    for codec in [None, "gzip", "snappy", "lz4", "zstd"]:
        topic = f"py-{codec}-{RUN}"
        producer = KafkaProducer(
            bootstrap_servers=ADDRESS, compression_type=codec, enable_idempotence=True, linger_ms=5
        )
        sent = [f"{codec}-{number}".encode() * 20 for number in range(500)]
        futures = [
            producer.send(topic, value, key=b"k%d" % number, headers=[("h", b"v")])
            for number, value in enumerate(sent)
        ]
        producer.flush(timeout=DEADLINE_S)
        offsets = [future.get(timeout=DEADLINE_S).offset for future in futures]
        expect(offsets == list(range(500)), f"{codec}: offsets are consecutive, got {offsets[:5]}…")
        producer.close()
        consumer = KafkaConsumer(
            topic, bootstrap_servers=ADDRESS, auto_offset_reset="earliest",
            consumer_timeout_ms=20_000,
        )
        received = []
        for record in consumer:
            received.append(record)
            if len(received) == 500:
                break
        expect([record.value for record in received] == sent, f"{codec}: values come back in order")
        expect(received[7].key == b"k7", f"{codec}: keys come back")
        expect([tuple(h) for h in received[7].headers] == [("h", b"v")], f"{codec}: headers come back")
        consumer.close()
    print("ok produce and consume, all codecs, idempotent")


def administer():
    admin = KafkaAdminClient(bootstrap_servers=ADDRESS)
    topic = f"py-admin-{RUN}"
    admin.create_topics([NewTopic(topic, num_partitions=3, replication_factor=1)])
    expect(topic in admin.list_topics(), "a created topic is listed")
    described = admin.describe_topics([topic])
    described = described[0] if isinstance(described, list) else described[topic]
    expect(len(described["partitions"]) == 3, f"it has three partitions: {described}")
    try:
        admin.create_topics([NewTopic(topic, num_partitions=3, replication_factor=1)])
        expect(False, "creating a topic twice is refused")
    except Exception as error:
        expect("exists" in str(error).lower() or "Exists" in type(error).__name__, f"refused as {error!r}")
    admin.delete_topics([topic])
    expect(topic not in admin.list_topics(), "a deleted topic is gone")
    admin.close()
    print("ok admin: create, list, describe, delete")


def list_offsets():
    topic = f"py-offsets-{RUN}"
    producer = KafkaProducer(bootstrap_servers=ADDRESS)
    for number in range(10):
        producer.send(topic, b"x", timestamp_ms=1_000_000 + number * 1000).get(timeout=DEADLINE_S)
    producer.close()
    consumer = KafkaConsumer(bootstrap_servers=ADDRESS)
    partition = TopicPartition(topic, 0)
    expect(consumer.beginning_offsets([partition])[partition] == 0, "the beginning is 0")
    expect(consumer.end_offsets([partition])[partition] == 10, "the end is 10")
    found = consumer.offsets_for_times({partition: 1_000_000 + 4500})[partition]
    expect(found.offset == 5, f"the first record at or after a time, got {found}")
    consumer.close()
    print("ok list offsets: earliest, latest, by time")


def group_of_members():
    topic, group = f"py-group-{RUN}", f"g-{RUN}"
    admin = KafkaAdminClient(bootstrap_servers=ADDRESS)
    admin.create_topics([NewTopic(topic, num_partitions=6, replication_factor=1)])
    producer = KafkaProducer(bootstrap_servers=ADDRESS)
    for number in range(600):
        producer.send(topic, str(number).encode(), partition=number % 6)
    producer.flush(timeout=DEADLINE_S)
    seen, lock, stop = {}, threading.Lock(), threading.Event()
    assignments = {}

    def consume(name):
        consumer = KafkaConsumer(
            topic, bootstrap_servers=ADDRESS, group_id=group, auto_offset_reset="earliest",
            enable_auto_commit=False, session_timeout_ms=10_000, heartbeat_interval_ms=500,
        )
        while not stop.is_set():
            for records in consumer.poll(timeout_ms=200).values():
                with lock:
                    for record in records:
                        seen[record.value] = seen.get(record.value, 0) + 1
                consumer.commit()
            with lock:
                assignments[name] = {part.partition for part in consumer.assignment()}
        consumer.close()

    threads = [threading.Thread(target=consume, args=(f"m{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        with lock:
            shared = sorted(len(parts) for parts in assignments.values()) == [2, 2, 2]
            if len(seen) == 600 and shared:
                break
        time.sleep(0.1)
    described = admin.describe_groups([group])
    stop.set()
    for thread in threads:
        thread.join()
    expect(len(seen) == 600, f"every record is seen, got {len(seen)}")
    expect(shared, f"three members share six partitions, got {assignments}")
    expect("Stable" in str(described), f"the group is described as stable: {described}")
    # A new member of the same group resumes where the others committed.
    for number in range(600, 606):
        producer.send(topic, str(number).encode(), partition=number % 6)
    producer.flush(timeout=DEADLINE_S)
    producer.close()
    consumer = KafkaConsumer(
        topic, bootstrap_servers=ADDRESS, group_id=group, auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    resumed, deadline = [], time.monotonic() + DEADLINE_S
    while len(resumed) < 6 and time.monotonic() < deadline:
        for records in consumer.poll(timeout_ms=500).values():
            resumed.extend(int(record.value) for record in records)
    expect(sorted(resumed) == list(range(600, 606)), f"it resumes from the commits, got {resumed}")
    committed = [consumer.committed(TopicPartition(topic, part)) for part in range(6)]
    expect(committed == [100] * 6, f"committed offsets are 100 each, got {committed}")
    consumer.close()
    admin.close()
    print("ok group: three members share, commit, and a fourth resumes")


def transactions():
    topic = f"py-tx-{RUN}"
    producer = KafkaProducer(bootstrap_servers=ADDRESS, transactional_id=f"py-tx-{RUN}")
    producer.init_transactions()
    for number, commits in enumerate([True, False, True]):
        producer.begin_transaction()
        for record in range(5):
            producer.send(topic, b"%d-%d" % (number, record))
        producer.flush(timeout=DEADLINE_S)
        if commits:
            producer.commit_transaction()
        else:
            producer.abort_transaction()
    producer.close()
    for isolation, count in [("read_committed", 10), ("read_uncommitted", 15)]:
        consumer = KafkaConsumer(
            topic, bootstrap_servers=ADDRESS, isolation_level=isolation,
            auto_offset_reset="earliest", consumer_timeout_ms=5_000,
        )
        received = [record.value for record in consumer]
        expect(len(received) == count, f"{isolation}: {count} records, got {len(received)}")
        consumer.close()
    print("ok transactions: commit, abort, isolation")


async def aio_transactions():
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
    from aiokafka import TopicPartition as Partition

    topic, group = f"aio-tx-{RUN}", f"aio-tx-{RUN}"
    producer = AIOKafkaProducer(bootstrap_servers=ADDRESS, transactional_id=f"aio-{RUN}")
    await producer.start()
    for value, fails in [(b"a", False), (b"b", True), (b"c", False)]:
        try:
            async with producer.transaction():
                await producer.send_and_wait(topic, value, partition=0)
                await producer.send_offsets_to_transaction({Partition(topic, 0): 1}, group)
                if fails:
                    raise ValueError
        except ValueError:
            pass
    await producer.stop()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=ADDRESS, group_id=group, isolation_level="read_committed",
        enable_auto_commit=False,
    )
    await consumer.start()
    consumer.assign([Partition(topic, 0)])
    expect(await consumer.committed(Partition(topic, 0)) == 1, "aiokafka: offsets are committed")
    await consumer.seek_to_beginning()
    received = []
    while len(received) < 2:
        for records in (await consumer.getmany(timeout_ms=1000)).values():
            received.extend(record.value for record in records)
    expect(received == [b"a", b"c"], f"aiokafka: what was aborted is not seen, got {received}")
    await consumer.stop()
    print("ok aiokafka: transactions with offsets")


async def aio():
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

    topic = f"aio-{RUN}"
    producer = AIOKafkaProducer(
        bootstrap_servers=ADDRESS, enable_idempotence=True, compression_type="lz4"
    )
    await producer.start()
    for number in range(200):
        await producer.send(topic, str(number).encode())
    await producer.flush()
    await producer.stop()
    received = []
    for start, count in [(0, 120), (120, 80)]:
        consumer = AIOKafkaConsumer(
            topic, bootstrap_servers=ADDRESS, group_id=f"aio-{RUN}", auto_offset_reset="earliest",
            enable_auto_commit=False, max_poll_records=40,
        )
        await consumer.start()
        part = []
        while len(part) < count:
            for records in (await consumer.getmany(timeout_ms=1000, max_records=40)).values():
                part.extend(int(record.value) for record in records)
        await consumer.commit()
        await consumer.stop()
        expect(part == list(range(start, start + count)), f"aiokafka resumes at {start}, got {part[:3]}…")
        received.extend(part)
    expect(received == list(range(200)), "aiokafka sees each record once")
    print("ok aiokafka: idempotent, group, commit, resume")


if __name__ == "__main__":
    produce_and_consume()
    administer()
    list_offsets()
    group_of_members()
    transactions()
    asyncio.run(asyncio.wait_for(aio_transactions(), DEADLINE_S))
    asyncio.run(asyncio.wait_for(aio(), DEADLINE_S))
    print("kafka-python and aiokafka: all well")
