#!/usr/bin/env python3
"""Drives a node's Kafka face with confluent-kafka (librdkafka): python librdkafka_smoke.py HOST:PORT

Exits non-zero with the failed expectation. Needs: pip install confluent-kafka
"""

import sys
import time
import uuid

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic, ResourceType

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9092"
RUN = uuid.uuid4().hex[:8]
DEADLINE_S = 60


def expect(condition, message):
    if not condition:
        raise SystemExit(f"FAILED: {message}")


def collect(consumer, count, deadline_s=DEADLINE_S):
    records, deadline = [], time.monotonic() + deadline_s
    while len(records) < count and time.monotonic() < deadline:
        record = consumer.poll(0.5)
        if record is not None:
            expect(record.error() is None, f"a record, not {record.error()}")
            records.append(record)
    return records


def produce_and_consume():
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"]:
        topic, errors, offsets = f"rd-{codec}-{RUN}", [], []
        producer = Producer(
            {"bootstrap.servers": ADDRESS, "compression.type": codec, "enable.idempotence": True}
        )

        def delivered(error, message):
            errors.append(error) if error else offsets.append(message.offset())

        sent = [f"{codec}-{number}".encode() * 20 for number in range(500)]
        for number, value in enumerate(sent):
            producer.produce(topic, value, key=f"k{number}", on_delivery=delivered)
        expect(producer.flush(DEADLINE_S) == 0, f"{codec}: everything is delivered")
        expect(not errors, f"{codec}: no delivery fails: {errors[:1]}")
        expect(offsets == list(range(500)), f"{codec}: offsets are consecutive")
        consumer = Consumer(
            {"bootstrap.servers": ADDRESS, "group.id": f"rd-{codec}-{RUN}",
             "auto.offset.reset": "earliest", "check.crcs": True}
        )
        consumer.subscribe([topic])
        received = collect(consumer, 500)
        expect([record.value() for record in received] == sent, f"{codec}: values come back in order")
        expect(received[7].key() == b"k7", f"{codec}: keys come back")
        consumer.close()
    print("ok produce and consume, all codecs, idempotent")


def without_acknowledgement():
    topic = f"rd-acks0-{RUN}"
    producer = Producer({"bootstrap.servers": ADDRESS, "acks": 0})
    for number in range(100):
        producer.produce(topic, str(number).encode())
    expect(producer.flush(DEADLINE_S) == 0, "acks=0 is sent")
    consumer = Consumer({"bootstrap.servers": ADDRESS, "group.id": "none"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    expect(len(collect(consumer, 100)) == 100, "acks=0 arrives")
    consumer.close()
    print("ok acks=0")


def administer():
    admin = AdminClient({"bootstrap.servers": ADDRESS})
    topic = f"rd-admin-{RUN}"
    config = {"retention.ms": "3600000", "cleanup.policy": "delete"}
    admin.create_topics([NewTopic(topic, 3, 1, config=config)])[topic].result(DEADLINE_S)
    listed = admin.list_topics(timeout=10).topics
    expect(topic in listed and len(listed[topic].partitions) == 3, "a created topic is listed")
    try:
        admin.create_topics([NewTopic(topic, 3, 1)])[topic].result(DEADLINE_S)
        expect(False, "creating a topic twice is refused")
    except KafkaException as error:
        expect(error.args[0].name() == "TOPIC_ALREADY_EXISTS", f"refused as {error}")
    resource = ConfigResource(ResourceType.TOPIC, topic)
    described = admin.describe_configs([resource])[resource].result(DEADLINE_S)
    expect(described["retention.ms"].value == "3600000", "its settings are described")
    admin.create_partitions([NewPartitions(topic, 5)])[topic].result(DEADLINE_S)
    expect(len(admin.list_topics(timeout=10).topics[topic].partitions) == 5, "it has grown")
    cluster = admin.describe_cluster().result(DEADLINE_S)
    expect(len(cluster.nodes) == 1, "a cluster of one broker")
    admin.delete_topics([topic])[topic].result(DEADLINE_S)
    expect(topic not in admin.list_topics(timeout=10).topics, "a deleted topic is gone")
    print("ok admin: create, list, configs, partitions, cluster, delete")


def list_offsets():
    topic = f"rd-offsets-{RUN}"
    producer = Producer({"bootstrap.servers": ADDRESS})
    for number in range(10):
        producer.produce(topic, b"x", partition=0, timestamp=1_000_000 + number * 1000)
    expect(producer.flush(DEADLINE_S) == 0, "delivered")
    consumer = Consumer({"bootstrap.servers": ADDRESS, "group.id": "none"})
    expect(consumer.get_watermark_offsets(TopicPartition(topic, 0)) == (0, 10), "watermarks are 0, 10")
    found = consumer.offsets_for_times([TopicPartition(topic, 0, 1_000_000 + 4500)], 10)[0]
    expect(found.offset == 5, f"the first record at or after a time, got {found}")
    consumer.close()
    print("ok list offsets: earliest, latest, by time")


def share(admin, strategy, topic, group):
    admin.create_topics([NewTopic(topic, 6, 1)])[topic].result(DEADLINE_S)
    producer = Producer({"bootstrap.servers": ADDRESS})
    for number in range(600):
        producer.produce(topic, str(number).encode(), partition=number % 6)
    expect(producer.flush(DEADLINE_S) == 0, "delivered")
    settings = {
        "bootstrap.servers": ADDRESS, "group.id": group, "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
    }
    if strategy == "coordinator":
        settings["group.protocol"] = "consumer"
    else:
        settings |= {
            "session.timeout.ms": 10_000, "heartbeat.interval.ms": 500,
            "partition.assignment.strategy": strategy,
        }
    consumers = [Consumer(settings) for _ in range(3)]
    for consumer in consumers:
        consumer.subscribe([topic])
    seen, deadline, shared = set(), time.monotonic() + DEADLINE_S, False
    while time.monotonic() < deadline and not (shared and len(seen) == 600):
        for consumer in consumers:
            record = consumer.poll(0.02)
            while record is not None:
                expect(record.error() is None, f"a record, not {record.error()}")
                seen.add(record.value())
                record = consumer.poll(0.0)
        shared = [len(consumer.assignment()) for consumer in consumers] == [2, 2, 2]
    expect(len(seen) == 600, f"{strategy}: every record is seen, got {len(seen)}")
    expect(shared, f"{strategy}: three members share six partitions")
    # Positions of what was taken over without a record since are already committed or unknown.
    end = [TopicPartition(topic, part, 100) for part in range(6)]
    for consumer in consumers:
        own = {part.partition for part in consumer.assignment()}
        consumer.commit(offsets=[part for part in end if part.partition in own], asynchronous=False)
    for consumer in consumers:
        consumer.close()
    # A new member of the same group resumes where the others committed.
    for number in range(600, 606):
        producer.produce(topic, str(number).encode(), partition=number % 6)
    expect(producer.flush(DEADLINE_S) == 0, "delivered")
    consumer = Consumer(settings)
    consumer.subscribe([topic])
    resumed = [int(record.value()) for record in collect(consumer, 6)]
    expect(sorted(resumed) == list(range(600, 606)), f"{strategy}: it resumes, got {resumed}")
    committed = [part.offset for part in consumer.committed(end, 10)]
    expect(committed == [100] * 6, f"{strategy}: committed offsets are 100 each, got {committed}")
    consumer.close()


def group_of_members():
    group = f"rdg-{RUN}"
    admin = AdminClient({"bootstrap.servers": ADDRESS})
    for strategy in ["range", "cooperative-sticky", "coordinator"]:
        share(admin, strategy, f"rd-{strategy}-{RUN}", f"{group}-{strategy}")
    groups = admin.list_consumer_groups().result(DEADLINE_S).valid
    expect(f"{group}-range" in [entry.group_id for entry in groups], "the group is listed")
    admin.delete_consumer_groups([f"{group}-range"])[f"{group}-range"].result(DEADLINE_S)
    print("ok group: three members share, commit, and a fourth resumes; eager, cooperative, KIP-848")


def static_member():
    topic, rebalances = f"rd-static-{RUN}", []
    admin = AdminClient({"bootstrap.servers": ADDRESS})
    admin.create_topics([NewTopic(topic, 2, 1)])[topic].result(DEADLINE_S)
    settings = {
        "bootstrap.servers": ADDRESS, "group.id": f"rd-static-{RUN}", "session.timeout.ms": 30_000,
        "heartbeat.interval.ms": 500, "auto.offset.reset": "earliest",
    }

    def member(name, on_assign=None):
        consumer = Consumer(settings | {"group.instance.id": name})
        consumer.subscribe([topic], **({"on_assign": on_assign} if on_assign else {}))
        return consumer

    def wait_for(consumers, counts):
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            for consumer in consumers:
                consumer.poll(0.05)
            if [len(consumer.assignment()) for consumer in consumers] == counts:
                return
        expect(False, f"assignments of {counts}")

    stays = member("one", lambda _, parts: rebalances.append(len(parts)))
    leaves = member("two")
    wait_for([stays, leaves], [1, 1])
    before, had = len(rebalances), leaves.assignment()
    leaves.close()
    back = member("two")
    wait_for([stays, back], [1, 1])
    expect(back.assignment() == had, "a static member has what it had before")
    expect(len(rebalances) == before, "and nobody else noticed")
    stays.close()
    back.close()
    print("ok group: a static member comes back without a rebalance")


def read_all(topic, isolation):
    consumer = Consumer(
        {"bootstrap.servers": ADDRESS, "group.id": f"rd-read-{RUN}", "isolation.level": isolation,
         "auto.offset.reset": "earliest", "enable.partition.eof": True}
    )
    consumer.assign([TopicPartition(topic, 0, 0)])
    values = []
    while True:
        record = consumer.poll(DEADLINE_S)
        expect(record is not None, f"{isolation}: the end of the partition is reached")
        if record.error():
            break
        values.append(record.value().decode())
    consumer.close()
    return values


def transactions():
    topic, settings = f"rd-tx-{RUN}", {"bootstrap.servers": ADDRESS, "transactional.id": f"t-{RUN}"}
    producer = Producer(settings)
    producer.init_transactions(DEADLINE_S)
    for number, commits in enumerate([True, False, True]):
        producer.begin_transaction()
        for record in range(10):
            producer.produce(topic, f"{number}-{record}".encode(), partition=0)
        producer.flush(DEADLINE_S)
        if commits:
            producer.commit_transaction(DEADLINE_S)
        else:
            producer.abort_transaction(DEADLINE_S)
    committed = [f"{number}-{record}" for number in (0, 2) for record in range(10)]
    expect(read_all(topic, "read_committed") == committed, "aborted records are not seen")
    expect(len(read_all(topic, "read_uncommitted")) == 30, "unless they are asked for")
    # What is open hides what follows, until a new instance of the producer fences the old one.
    producer.begin_transaction()
    producer.produce(topic, b"zombie", partition=0)
    producer.flush(DEADLINE_S)
    plain = Producer({"bootstrap.servers": ADDRESS})
    plain.produce(topic, b"plain", partition=0)
    plain.flush(DEADLINE_S)
    expect(read_all(topic, "read_committed") == committed, "nothing undecided is seen")
    successor = Producer(settings)
    successor.init_transactions(DEADLINE_S)
    expect(read_all(topic, "read_committed") == committed + ["plain"], "the open one is aborted")
    try:
        producer.commit_transaction(DEADLINE_S)
        expect(False, "the zombie is fenced")
    except KafkaException as error:
        expect(error.args[0].fatal(), f"the zombie is fenced for good: {error}")
    print("ok transactions: commit, abort, isolation, fencing")


def consume_transform_produce():
    source, sink, group = f"rd-in-{RUN}", f"rd-out-{RUN}", f"rd-ctp-{RUN}"
    plain = Producer({"bootstrap.servers": ADDRESS})
    for number in range(100):
        plain.produce(source, str(number).encode(), partition=0)
    plain.flush(DEADLINE_S)
    settings = {
        "bootstrap.servers": ADDRESS, "group.id": group, "auto.offset.reset": "earliest",
        "enable.auto.commit": False, "isolation.level": "read_committed",
    }
    # The second run takes over where the first committed; its first attempt is aborted.
    for run in range(2):
        consumer = Consumer(settings)
        consumer.subscribe([source])
        producer = Producer({"bootstrap.servers": ADDRESS, "transactional.id": f"ctp-{RUN}"})
        producer.init_transactions(DEADLINE_S)
        records = collect(consumer, 50)[:50]
        for commits in [False, True]:
            producer.begin_transaction()
            for record in records:
                producer.produce(sink, record.value(), partition=0)
            offsets = [TopicPartition(source, 0, records[-1].offset() + 1)]
            producer.send_offsets_to_transaction(
                offsets, consumer.consumer_group_metadata(), DEADLINE_S)
            producer.flush(DEADLINE_S)
            if commits:
                producer.commit_transaction(DEADLINE_S)
            else:
                producer.abort_transaction(DEADLINE_S)
        consumer.close()
    expect(read_all(sink, "read_committed") == [str(number) for number in range(100)],
           "every record is transformed exactly once")
    print("ok consume, transform, produce: exactly once over an abort and a restart")


if __name__ == "__main__":
    produce_and_consume()
    without_acknowledgement()
    administer()
    list_offsets()
    group_of_members()
    static_member()
    transactions()
    consume_transform_produce()
    print("confluent-kafka (librdkafka): all well")
