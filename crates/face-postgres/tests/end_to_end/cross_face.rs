//! Topics as tables, and commits that span the other machines.

use std::collections::BTreeMap;

use bytes::Bytes;
use proteus_kernel_api::topic::{self, TopicId};
use proteus_kernel_api::{Kernel, Minitransaction, Outcome, cache, tree};

use crate::support::{code, serve_postgres};

async fn create_topic(kernel: &dyn Kernel, name: &str) {
    let op = topic::Op::CreateTopic {
        name: name.to_owned(),
        topic_id: TopicId([7; 16]),
        partition_count: 2,
        config: BTreeMap::new(),
    };
    let outcome = kernel.commit(Minitransaction::of(op)).await.unwrap();
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
}

fn hash_get(kernel: &dyn Kernel, key: &str, field: &str) -> cache::Reply {
    let call = cache::Call::new(&["HGET", key, field]);
    kernel.read(|view| cache::answer(view, &call)).unwrap()
}

fn has_node(kernel: &dyn Kernel, path: &str) -> bool {
    kernel.read(|view| tree::stat(view.state, path)).unwrap().is_some()
}

#[tokio::test]
async fn one_commit_spans_all_machines_or_none() {
    let served = serve_postgres();
    let kernel = served.kernel.as_ref();
    let client = served.connect().await;
    create_topic(kernel, "readings").await;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v int)").await.unwrap();
    let calls = [
        "INSERT INTO t VALUES (1, 10)",
        "CALL kafka.check_offset('g', 'readings', 0, NULL)",
        "CALL kafka.commit_offset('g', 'readings', 0, 5)",
        "CALL kafka.produce('readings', 'key', '{\"sensor\": \"a\", \"value\": 1.5}')",
        "CALL redis.hset('latest', 'a', '1.5', 'b', 2)",
        "CALL zookeeper.create('/done', 'x')",
    ];
    client.batch_execute(&format!("BEGIN; {}; COMMIT", calls.join("; "))).await.unwrap();
    assert_eq!(hash_get(kernel, "latest", "a"), cache::Reply::Bulk(Bytes::from_static(b"1.5")));
    assert!(has_node(kernel, "/done"));
    // The same again: the offset has moved, so nothing happens, not even the new row.
    let again = "BEGIN; INSERT INTO t VALUES (2, 20); CALL redis.hset('latest', 'a', '9'); \
                 CALL kafka.check_offset('g', 'readings', 0, NULL); COMMIT";
    assert_eq!(code(client.batch_execute(again).await), "40001");
    let refused =
        "BEGIN; INSERT INTO t VALUES (2, 20); CALL zookeeper.create('/done', 'y'); COMMIT";
    assert_eq!(code(client.batch_execute(refused).await), "P0001");
    client.batch_execute("CALL redis.set('text', 'x')").await.unwrap();
    let wrong_type =
        "BEGIN; INSERT INTO t VALUES (2, 20); CALL redis.hincrby('text', 'f', 1); COMMIT";
    assert_eq!(code(client.batch_execute(wrong_type).await), "P0001");
    let fenced =
        "BEGIN; INSERT INTO t VALUES (2, 20); CALL zookeeper.check_exists('/lock'); COMMIT";
    assert_eq!(code(client.batch_execute(fenced).await), "40001");
    assert_eq!(client.query("SELECT * FROM t", &[]).await.unwrap().len(), 1);
    assert_eq!(hash_get(kernel, "latest", "a"), cache::Reply::Bulk(Bytes::from_static(b"1.5")));
    client
        .execute("CALL kafka.commit_offset($1, $2, $3, $4)", &[&"g", &"readings", &"0", &"6"])
        .await
        .unwrap();
    let typed = "CALL kafka.commit_offset($1, $2, $3::int, $4::bigint)";
    client.execute(typed, &[&"g", &"readings", &1, &6i64]).await.unwrap();
}

#[tokio::test]
async fn topics_are_read_as_tables() {
    let served = serve_postgres();
    let client = served.connect().await;
    create_topic(served.kernel.as_ref(), "readings").await;
    for (key, value) in
        [("a", r#"{"sensor": "a", "value": 1.5}"#), ("b", r#"{"sensor": "b"}"#), ("a", "junk")]
    {
        client.execute("CALL kafka.produce('readings', $1, $2)", &[&key, &value]).await.unwrap();
    }
    let rows = client
        .query(r#"SELECT partition, "offset", timestamp, key, value FROM "readings" WHERE key = 'a' ORDER BY "offset""#, &[])
        .await
        .unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[1].get::<_, &str>("value"), "junk");
    client
        .batch_execute("CREATE TABLE typed (sensor text, value double precision) WITH (topic = 'readings', format = 'json')")
        .await
        .unwrap();
    let rows = client
        .query("SELECT sensor, value FROM typed WHERE sensor IS NOT NULL ORDER BY sensor", &[])
        .await
        .unwrap();
    assert_eq!(
        (rows.len(), rows[0].get::<_, f64>(1), rows[1].get::<_, Option<f64>>(1)),
        (2, 1.5, None)
    );
    for sql in [
        "INSERT INTO typed VALUES ('x', 1)",
        "INSERT INTO readings VALUES (1)",
        "DELETE FROM typed",
    ] {
        assert_eq!(code(client.batch_execute(sql).await), "42809", "{sql}");
    }
}
