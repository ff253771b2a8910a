"""Drives a node's share groups with confluent-kafka 2.16 or newer: librdkafka_share_smoke.py HOST:PORT

Exits non-zero with the failed expectation.
"""

import sys
import time
import uuid

import confluent_kafka
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9092"
RUN = uuid.uuid4().hex[:8]


def expect(condition, message):
    if not condition:
        sys.exit(f"FAILED: {message}")


def consumer(group, topic, **more):
    made = confluent_kafka.ShareConsumer(
        {"bootstrap.servers": ADDRESS, "group.id": group, **{k.replace("_", "."): v for k, v in more.items()}}
    )
    made.subscribe([topic])
    return made


def main():
    topic, group = f"share-{RUN}", f"share-group-{RUN}"
    admin = AdminClient({"bootstrap.servers": ADDRESS})
    for created in admin.create_topics([NewTopic(topic, 2, 1)]).values():
        created.result()
    # This client has no way to set share.auto.offset.reset, so members join before there is anything.
    with consumer(group, topic) as first, consumer(group, topic, share_acknowledgement_mode="explicit") as second:
        for _ in range(5):
            first.poll(1)
            second.poll(1)
        producer = confluent_kafka.Producer({"bootstrap.servers": ADDRESS, "batch.size": 2000})
        for number in range(600):
            producer.produce(topic, str(number), partition=number % 2)
        producer.flush()
        seen, released = {}, set()
        deadline = time.monotonic() + 60
        while (len(seen) < 600 or released) and time.monotonic() < deadline:
            for message in first.poll(0.2):
                expect(message.error() is None, f"no error: {message.error()}")
                number = int(message.value())
                released.discard(number)
                seen[number] = seen.get(number, 0) + 1
            for message in second.poll(0.2):
                expect(message.error() is None, f"no error: {message.error()}")
                number = int(message.value())
                seen[number] = seen.get(number, 0) + 1
                if number % 10 == 0 and seen[number] == 1:
                    released.add(number)
                    second.acknowledge(message, confluent_kafka.AcknowledgeType.RELEASE)
                else:
                    released.discard(number)
                    second.acknowledge(message)
            second.commit_sync()
        expect(len(seen) == 600, f"600 records, got {len(seen)}")
        expect(not released, f"what is released comes again: {sorted(released)[:5]}")
        first.commit_sync()
    again = [number for number, count in seen.items() if count > 1]
    expect(all(number % 10 == 0 for number in again), f"only what was released comes again: {again[:5]}")
    print(f"ok two consumers share two partitions; {len(again)} records came again after a release")
    print("librdkafka, share groups: all well")


if __name__ == "__main__":
    main()
