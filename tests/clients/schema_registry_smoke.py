"""Drives a node's schema registry with confluent-kafka, and reads the records by SQL.

schema_registry_smoke.py REGISTRY_URL KAFKA_HOST:PORT [POSTGRES_DSN]; exits non-zero with the failed expectation.
"""

import sys
import uuid

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext

REGISTRY, KAFKA = sys.argv[1], sys.argv[2]
POSTGRES = sys.argv[3] if len(sys.argv) > 3 else None
RUN = uuid.uuid4().hex[:8]
ONE = '{"type":"record","name":"Order","fields":[{"name":"id","type":"long"},{"name":"item","type":"string"}]}'
TWO = """{"type":"record","name":"Order","fields":[{"name":"id","type":"long"},{"name":"item","type":"string"},
    {"name":"paid","type":["null","double"],"default":null}]}"""
BROKEN = '{"type":"record","name":"Order","fields":[{"name":"id","type":"string"}]}'


def expect(condition, message):
    if not condition:
        sys.exit(f"FAILED: {message}")


def subjects(client):
    subject = f"orders-{RUN}-value"
    first = client.register_schema(subject, Schema(ONE, "AVRO"))
    expect(client.register_schema(subject, Schema(ONE, "AVRO")) == first, "the same schema has the same id")
    expect(client.test_compatibility(subject, Schema(TWO, "AVRO")), "a field with a default goes")
    expect(not client.test_compatibility(subject, Schema(BROKEN, "AVRO")), "another type does not")
    try:
        client.register_schema(subject, Schema(BROKEN, "AVRO"))
        expect(False, "an incompatible schema is refused")
    except SchemaRegistryError as error:
        expect(error.http_status_code == 409, f"refused with 409: {error}")
    second = client.register_schema(subject, Schema(TWO, "AVRO"))
    expect(second > first, "a new schema has a new id")
    latest = client.get_latest_version(subject)
    expect((latest.schema_id, latest.version) == (second, 2), "the latest version")
    expect(client.get_schema(first).schema_str == ONE, "a schema by its id")
    expect(client.lookup_schema(subject, Schema(ONE, "AVRO")).version == 1, "a version by its schema")
    expect(client.get_versions(subject) == [1, 2], "versions")
    client.set_compatibility(subject, level="FULL")
    expect(client.get_compatibility(subject) == "FULL", "a level of its own")
    for kind, text in (("JSON", '{"type": "object"}'), ("PROTOBUF", 'syntax = "proto3"; message M { int32 a = 1; }')):
        name = f"{kind.lower()}-{RUN}"
        number = client.register_schema(name, Schema(text, kind))
        expect(client.get_schema(number).schema_type == kind, f"{kind} is kept")
        client.delete_subject(name)
        client.delete_subject(name, permanent=True)
        expect(name not in client.get_subjects(), f"{name} is deleted")
    print("ok subjects, versions, compatibility")


def records(client):
    topic = f"orders-{RUN}"
    admin = AdminClient({"bootstrap.servers": KAFKA})
    for created in admin.create_topics([NewTopic(topic, 1, 1)]).values():
        created.result()
    serialize = AvroSerializer(client, TWO)
    deserialize = AvroDeserializer(client)
    context = SerializationContext(topic, MessageField.VALUE)
    orders = [{"id": number, "item": f"item {number}", "paid": number / 2 if number % 2 else None} for number in range(20)]
    producer = Producer({"bootstrap.servers": KAFKA})
    for order in orders:
        producer.produce(topic, serialize(order, context))
    producer.flush()
    consumer = Consumer({"bootstrap.servers": KAFKA, "group.id": topic, "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    found = []
    for _ in range(60):
        found += [deserialize(message.value(), context) for message in consumer.consume(100, 1) if not message.error()]
        if len(found) >= len(orders):
            break
    consumer.close()
    expect(found == orders, f"orders come back: {found[:2]}")
    print("ok Avro records")
    return topic


def by_sql(topic):
    import psycopg

    with psycopg.connect(POSTGRES, autocommit=True) as connection:
        name = topic.replace("-", "_")
        connection.execute(
            f"CREATE TABLE {name} (id bigint, item text, paid double precision) WITH (topic = '{topic}', format = 'avro')"
        )
        rows = connection.execute(f"SELECT count(*), sum(paid), max(item) FROM {name} WHERE id >= 10").fetchone()
        expect(rows == (10, 37.5, "item 19"), f"by SQL: {rows}")
        # Other clients look at which tables there are.
        connection.execute(f"DROP TABLE {name}")
    print("ok Avro records by SQL")


def main():
    client = SchemaRegistryClient({"url": REGISTRY})
    subjects(client)
    topic = records(client)
    if POSTGRES:
        by_sql(topic)
    print("schema registry: all well")


if __name__ == "__main__":
    main()
