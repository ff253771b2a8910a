//! A table's feed, from SQL to a Kafka consumer, and a topic read as a table.

use rskafka::client::ClientBuilder;
use rskafka::client::partition::{PartitionClient, UnknownTopicHandling};
use serde_json::{Value, json};
use tokio_postgres::NoTls;

use crate::node::NodeProcess;

async fn consumer(node: &NodeProcess, topic: &str) -> PartitionClient {
    let brokers = vec![node.address(9092).to_string()];
    let client = ClientBuilder::new(brokers).build().await.unwrap();
    client.partition_client(topic, 0, UnknownTopicHandling::Retry).await.unwrap()
}

/// Key, operation, the row before and the row after, of every record from `offset` on; a tombstone has
/// only its key.
async fn changes(consumer: &PartitionClient, mut offset: i64) -> Vec<(Value, Value, Value, Value)> {
    let mut changes = Vec::new();
    loop {
        let (records, high_watermark) =
            consumer.fetch_records(offset, 1..1_000_000, 100).await.unwrap();
        for found in records {
            offset = found.offset + 1;
            let read = |bytes: Option<Vec<u8>>| {
                bytes.map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).unwrap())
            };
            let mut value = read(found.record.value);
            let mut take = |name: &str| value.get_mut(name).map_or(Value::Null, Value::take);
            changes.push((read(found.record.key), take("op"), take("before"), take("after")));
        }
        if offset >= high_watermark {
            return changes;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tables_changes_are_a_topics_records() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = NodeProcess::start(directory.path());
    let connect = |address: std::net::SocketAddr| async move {
        let settings = format!("host=127.0.0.1 port={} user=proteus", address.port());
        let (client, connection) = tokio_postgres::connect(&settings, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    };
    let mut sql = connect(node.address(5432)).await;
    for statement in [
        "CREATE TABLE orders (id bigint PRIMARY KEY, item text NOT NULL, paid numeric(10,2))",
        "INSERT INTO orders VALUES (1, 'before the feed', 1.5)",
        "CALL kafka.feed_table('orders', 'shop.public.orders')",
        "INSERT INTO orders VALUES (2, 'a pen', NULL)",
        "UPDATE orders SET paid = 2.50 WHERE id = 1",
    ] {
        sql.batch_execute(statement).await.unwrap();
    }
    let transaction = sql.transaction().await.unwrap();
    transaction
        .batch_execute("DELETE FROM orders WHERE id = 1; INSERT INTO orders VALUES (3, 'ink', 0);")
        .await
        .unwrap();
    transaction.rollback().await.unwrap();
    let transaction = sql.transaction().await.unwrap();
    transaction
        .batch_execute("DELETE FROM orders WHERE id = 1; INSERT INTO orders VALUES (4, 'nib', 0);")
        .await
        .unwrap();
    transaction.commit().await.unwrap();

    let row =
        |id: i64, item: &str, paid: Option<&str>| json!({"id": id, "item": item, "paid": paid});
    let first = row(1, "before the feed", Some("1.50"));
    let updated = row(1, "before the feed", Some("2.50"));
    let mut expected = vec![
        (json!({"id": 2}), json!("c"), Value::Null, row(2, "a pen", None)),
        (json!({"id": 1}), json!("u"), first, updated.clone()),
    ];
    let mut of_transaction = vec![
        (json!({"id": 1}), json!("d"), updated, Value::Null),
        (json!({"id": 1}), Value::Null, Value::Null, Value::Null),
        (json!({"id": 4}), json!("c"), Value::Null, row(4, "nib", Some("0.00"))),
    ];
    let mut found = changes(&consumer(&node, "shop.public.orders").await, 0).await;
    // The row that was there is told once, before its change, whatever was told between.
    let told = found.iter().position(|change| change.1 == "r").expect("the row that was there");
    let changed = found.iter().position(|change| change.1 == "u").expect("its change");
    assert!(told < changed, "{found:?}");
    let standing =
        (json!({"id": 1}), json!("r"), Value::Null, row(1, "before the feed", Some("1.50")));
    assert_eq!(found.remove(told), standing);
    assert_eq!(found[..2], expected[..]);
    // Rows of one transaction are written in the order of their keys, not of its statements.
    let by_key = |change: &(Value, Value, Value, Value)| change.0.to_string();
    let mut rest = found[2..].to_vec();
    rest.sort_by_key(by_key);
    of_transaction.sort_by_key(by_key);
    assert_eq!(rest, of_transaction);
    expected.extend(found[2..].to_vec());

    // The feed goes on after a crash, and tells nothing twice.
    node.kill_and_restart();
    let sql = connect(node.address(5432)).await;
    sql.batch_execute("UPDATE orders SET item = 'a blue pen' WHERE id = 2").await.unwrap();
    let renamed = row(2, "a blue pen", None);
    expected.push((json!({"id": 2}), json!("u"), row(2, "a pen", None), renamed));
    let reader = consumer(&node, "shop.public.orders").await;
    expected.insert(told, standing);
    assert_eq!(changes(&reader, 0).await, expected);

    // It is a topic like any other, and so a table, too.
    let rows = sql
        .query("SELECT count(*) FROM \"shop.public.orders\" WHERE value LIKE '%a blue pen%'", &[])
        .await
        .unwrap();
    assert_eq!(rows[0].get::<_, i64>(0), 1);
    sql.batch_execute("CALL kafka.end_feed('public.orders')").await.unwrap();
    sql.batch_execute("DELETE FROM orders").await.unwrap();
    assert_eq!(changes(&reader, 0).await.len(), expected.len());
    let refused = sql.batch_execute("CALL kafka.feed_table('no_such_table', 't')").await;
    assert_eq!(refused.unwrap_err().code().map(|code| code.code()), Some("42P01"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_a_table_with_the_columns_that_are_declared() {
    let directory = tempfile::tempdir().unwrap();
    let node = NodeProcess::start(directory.path());
    let settings = format!("host=127.0.0.1 port={} user=proteus", node.address(5432).port());
    let (sql, connection) = tokio_postgres::connect(&settings, NoTls).await.unwrap();
    tokio::spawn(connection);
    let brokers = vec![node.address(9092).to_string()];
    let client = ClientBuilder::new(brokers).build().await.unwrap();
    client.controller_client().unwrap().create_topic("readings", 2, 1, 5_000).await.unwrap();
    sql.batch_execute(
        "CREATE TABLE readings (sensor text, value double precision, at timestamp, good boolean,
           more json) WITH (topic = 'readings', format = 'json')",
    )
    .await
    .unwrap();
    for (key, value) in [
        (
            "a",
            r#"{"sensor":"a","value":1.5,"at":"2024-01-01T00:00:00","good":true,"more":{"x":[1]}}"#,
        ),
        ("b", r#"{"sensor":"b","value":"2.5","good":"no boolean"}"#),
        ("c", "not JSON"),
    ] {
        sql.execute("CALL kafka.produce('readings', $1, $2)", &[&key, &value]).await.unwrap();
    }
    let rows = sql
        .query("SELECT sensor, value, good, more::text FROM readings ORDER BY sensor", &[])
        .await
        .unwrap();
    let fields = |row: &tokio_postgres::Row| -> (Option<String>, Option<f64>, Option<bool>, _) {
        (row.get(0), row.get(1), row.get(2), row.get::<_, Option<String>>(3))
    };
    let found: Vec<_> = rows.iter().map(fields).collect();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        found,
        [
            (text("a"), Some(1.5), Some(true), text(r#"{"x":[1]}"#)),
            (text("b"), Some(2.5), None, None),
            (None, None, None, None),
        ]
    );
    let sum = sql
        .query_one("SELECT sum(value) FROM readings WHERE sensor IN ('a', 'b')", &[])
        .await
        .unwrap();
    assert_eq!(sum.get::<_, Option<f64>>(0), Some(4.0));
    let refused = sql.execute("INSERT INTO readings (sensor) VALUES ('d')", &[]).await;
    assert_eq!(refused.unwrap_err().code().map(|code| code.code()), Some("42809"));
}
