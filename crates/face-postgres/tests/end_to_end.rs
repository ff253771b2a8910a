//! Through `tokio-postgres`, over a real socket.

mod support;

use support::{code, serve_postgres};

#[tokio::test]
async fn rows_are_stored_and_read() {
    let served = serve_postgres();
    let client = served.connect().await;
    client
        .batch_execute(
            "CREATE TABLE readings (sensor text, hour int, value double precision, PRIMARY KEY (sensor, hour));
             INSERT INTO readings VALUES ('a', 1, 1.5), ('a', 2, 2.5), ('b', 1, 10)",
        )
        .await
        .unwrap();
    let rows = client
        .query(
            "SELECT sensor, AVG(value) AS mean, count(*) FROM readings WHERE value > $1 GROUP BY sensor ORDER BY sensor",
            &[&1.0f64],
        )
        .await
        .unwrap();
    let found: Vec<(String, f64, i64)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert_eq!(found, [("a".to_owned(), 2.0, 2), ("b".to_owned(), 10.0, 1)]);
    let row = client
        .query_one("SELECT value FROM readings WHERE sensor = $1 AND hour = $2", &[&"a", &2])
        .await
        .unwrap();
    assert_eq!(row.get::<_, f64>("value"), 2.5);
    let again = client.execute("INSERT INTO readings VALUES ('a', 1, 0)", &[]).await;
    assert_eq!(code(again), "23505");
}
