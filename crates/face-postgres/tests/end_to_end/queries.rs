//! Reading: the point path, the query engine, and both protocols.

use crate::support::{code, serve_postgres};
use tokio_postgres::SimpleQueryMessage;

#[tokio::test]
async fn readings_are_aggregated() {
    let served = serve_postgres();
    let client = served.connect().await;
    client
        .batch_execute(
            "CREATE TABLE sensors (name text PRIMARY KEY, place text);
             CREATE TABLE readings (sensor text, hour int, value double precision, PRIMARY KEY (sensor, hour));
             INSERT INTO sensors VALUES ('a', 'north'), ('b', 'south'), ('c', 'nowhere');
             INSERT INTO readings VALUES ('a', 1, 1.5), ('a', 2, 2.5), ('b', 1, 10)",
        )
        .await
        .unwrap();
    let rows = client
        .query(
            "SELECT sensor, hour, AVG(value) FROM readings WHERE value > $1 GROUP BY sensor, hour ORDER BY 1, 2",
            &[&2.0f64],
        )
        .await
        .unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(
        (rows[0].get::<_, &str>(0), rows[0].get::<_, i32>(1), rows[0].get::<_, f64>("avg")),
        ("a", 2, 2.5)
    );
    let rows = client
        .query(
            "WITH totals AS (SELECT sensor, sum(value) AS total, count(*) AS n FROM readings GROUP BY sensor)
             SELECT s.name, s.place, t.total, t.n FROM sensors s LEFT JOIN totals t ON t.sensor = s.name ORDER BY s.name DESC",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(rows[0].get::<_, Option<f64>>(2), None);
    assert_eq!((rows[2].get::<_, f64>("total"), rows[2].get::<_, i64>("n")), (4.0, 2));
    let row = client
        .query_one(
            "SELECT value, hour AS h FROM readings WHERE hour = $2 AND sensor = $1",
            &[&"a", &2],
        )
        .await
        .unwrap();
    assert_eq!((row.get::<_, f64>("value"), row.get::<_, i32>("h")), (2.5, 2));
    let missing =
        client.query_opt("SELECT * FROM readings WHERE sensor = 'z' AND hour = 1", &[]).await;
    assert!(missing.unwrap().is_none());
    let range =
        client.query("SELECT hour FROM readings WHERE sensor = 'a' AND hour > 1", &[]).await;
    assert_eq!(range.unwrap().len(), 1);
}

#[tokio::test]
async fn every_type_comes_back() {
    let served = serve_postgres();
    let client = served.connect().await;
    client
        .batch_execute(
            "CREATE TABLE kinds (id int PRIMARY KEY, a boolean, b smallint, c bigint, d real, e double precision,
                f varchar(5), g bytea, h timestamp, i timestamptz, j date, k numeric(10, 2), l jsonb, m int DEFAULT 7)",
        )
        .await
        .unwrap();
    client
        .execute(
            "INSERT INTO kinds (id, a, b, c, d, e, f, g, l) VALUES (1, $1, $2, $3, $4, $5, $6, $7, '{\"x\": 1}')",
            &[&true, &-2i16, &(1i64 << 40), &1.5f32, &-0.1f64, &"héllo", &vec![0u8, 255]],
        )
        .await
        .unwrap();
    client
        .batch_execute("UPDATE kinds SET h = '2024-02-29 12:30:00.5', i = '2024-06-01 12:00+02', j = '2024-02-29', k = -12.345 WHERE id = 1")
        .await
        .unwrap();
    for sql in ["SELECT * FROM kinds WHERE id = 1", "SELECT * FROM kinds WHERE id + 0 = 1"] {
        let row = client.query_one(sql, &[]).await.unwrap();
        assert!(row.get::<_, bool>("a"));
        assert_eq!((row.get::<_, i16>("b"), row.get::<_, i64>("c")), (-2, 1 << 40));
        assert_eq!((row.get::<_, f32>("d"), row.get::<_, f64>("e")), (1.5, -0.1));
        assert_eq!((row.get::<_, &str>("f"), row.get::<_, Vec<u8>>("g")), ("héllo", vec![0, 255]));
        assert_eq!(row.get::<_, i32>("m"), 7);
        let messages = client.simple_query(sql).await.unwrap();
        let text = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let text = text.unwrap();
        assert_eq!(text.get("a"), Some("t"));
        assert_eq!(text.get("g"), Some("\\x00ff"));
        assert_eq!(text.get("h"), Some("2024-02-29 12:30:00.5"));
        assert_eq!(text.get("i"), Some("2024-06-01 10:00:00+00"));
        assert_eq!(text.get("j"), Some("2024-02-29"));
        assert_eq!(text.get("k"), Some("-12.35"));
    }
    assert_eq!(
        code(client.execute("UPDATE kinds SET f = 'too long' WHERE id = 1", &[]).await),
        "22001"
    );
}

#[tokio::test]
async fn a_portal_returns_its_rows_in_parts() {
    let served = serve_postgres();
    let mut client = served.connect().await;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    client.batch_execute("INSERT INTO t SELECT value FROM generate_series(1, 5000)").await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let portal = transaction.bind("SELECT id FROM t ORDER BY id", &[]).await.unwrap();
    let mut found = Vec::new();
    loop {
        let rows = transaction.query_portal(&portal, 700).await.unwrap();
        if rows.is_empty() {
            break;
        }
        assert!(rows.len() <= 700);
        found.extend(rows.iter().map(|row| row.get::<_, i32>(0)));
    }
    assert_eq!(found, (1..=5000).collect::<Vec<i32>>());
}

#[tokio::test]
async fn settings_and_session_values_are_answered() {
    let served = serve_postgres();
    let client = served.connect().await;
    let one = async |sql: &str| client.query_one(sql, &[]).await.unwrap().get::<_, String>(0);
    assert!(one("SELECT version()").await.starts_with("PostgreSQL 15"));
    assert_eq!(one("SELECT current_database()").await, "proteus");
    assert_eq!(one("SELECT current_schema()").await, "public");
    assert_eq!(one("SELECT current_user").await, "proteus");
    assert_eq!(one("SHOW server_encoding").await, "UTF8");
    assert_eq!(one("SHOW TRANSACTION ISOLATION LEVEL").await, "repeatable read");
    client
        .batch_execute(
            "SET extra_float_digits = 3; SET application_name TO 'x'; SET search_path = public",
        )
        .await
        .unwrap();
    assert_eq!(one("SHOW application_name").await, "x");
    assert_eq!(code(client.batch_execute("SET client_encoding = 'LATIN1'").await), "22023");
    assert_eq!(code(client.batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE").await), "0A000");
}

#[tokio::test]
async fn integer_overflow_is_an_error_and_nothing_is_changed_by_it() {
    let served = serve_postgres();
    let client = served.connect().await;
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY, small int, big bigint)")
        .await
        .unwrap();
    client
        .execute("INSERT INTO t VALUES (1, 2147483647, $1), (2, 1, 1)", &[&i64::MAX])
        .await
        .unwrap();
    let overflowing = [
        "SELECT big + 1 FROM t",
        "SELECT big * big FROM t",
        "SELECT -1 - big - 2 FROM t ORDER BY id",
        "SELECT count(*) FROM t WHERE big + id > 0",
        "SELECT 9223372036854775807 + 1",
        "SELECT -(-9223372036854775807 - 1)",
        "UPDATE t SET big = big + 1 WHERE id > 0",
        "UPDATE t SET small = small + 1",
    ];
    for sql in overflowing {
        assert_eq!(code(client.query(sql, &[]).await), "22003", "{sql}");
    }
    assert_eq!(code(client.query("SELECT $1::bigint * 2", &[&i64::MAX]).await), "22003");
    let row = client.query_one("SELECT sum(small), max(big) FROM t", &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (2_147_483_648, i64::MAX));
    let row = client.query_one("SELECT -big - 1 AS least FROM t WHERE id = 1", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>("least"), i64::MIN);
}

#[tokio::test]
async fn the_catalog_lists_tables() {
    let served = serve_postgres();
    let client = served.connect().await;
    client.batch_execute("CREATE TABLE seen (id int PRIMARY KEY, v text)").await.unwrap();
    let sql = "SELECT column_name FROM information_schema.columns WHERE table_name = $1 ORDER BY ordinal_position";
    let rows = client.query(sql, &[&"seen"]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>(), ["id", "v"]);
    let rows = client
        .query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", &[])
        .await
        .unwrap();
    assert_eq!(rows.len(), 1);
}

#[tokio::test]
async fn deep_statements_are_answered_or_refused_and_end_nothing() {
    let served = serve_postgres();
    let client = served.connect().await;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v int)").await.unwrap();
    let sum = |count: usize| format!("SELECT {}1", "1 + ".repeat(count));
    let row = client.query_one(sum(900).as_str(), &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 901);
    let ors = |count: usize| format!("SELECT * FROM t WHERE {}false", "v = 1 OR ".repeat(count));
    assert!(client.query(ors(300).as_str(), &[]).await.unwrap().is_empty());
    assert_eq!(code(client.query(sum(100_000).as_str(), &[]).await), "54001");
    assert_eq!(code(client.query(ors(100_000).as_str(), &[]).await), "54001");
    let from = format!("SELECT 1 FROM t{}", ", t".repeat(50_000));
    assert_eq!(code(client.query(from.as_str(), &[]).await), "54001");
    let nested = format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000));
    assert_eq!(code(client.query(nested.as_str(), &[]).await), "42601");
    let list = format!("SELECT * FROM t WHERE v IN ({}1)", "1, ".repeat(20_000));
    assert!(client.query(list.as_str(), &[]).await.unwrap().is_empty());
}
