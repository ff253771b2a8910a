//! What changes rows, and what must not.

use crate::support::{Served, code, serve_postgres};
use tokio_postgres::Client;

async fn with_rows() -> (Served, Client) {
    let served = serve_postgres();
    let client = served.connect().await;
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, v int, s text);
             CREATE TABLE u (id int PRIMARY KEY, v int);
             CREATE TABLE empty (id int PRIMARY KEY, v int);
             CREATE TABLE bare (v int);
             INSERT INTO t VALUES (1, 10, 'a'), (2, 20, 'b'), (3, NULL, 'c'), (4, 40, NULL);
             INSERT INTO u VALUES (2, 20), (4, 41);
             INSERT INTO bare VALUES (1), (1), (2)",
        )
        .await
        .unwrap();
    (served, client)
}

async fn ids(client: &Client, sql: &str) -> Vec<i32> {
    client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Conditions that select no row. The query engine folds some, and turns others into joins.
const SELECT_NOTHING: [&str; 16] = [
    "false",
    "1 = 0",
    "NULL",
    "v = NULL",
    "id IN (SELECT id FROM empty)",
    "v IN (SELECT v FROM empty WHERE v > 0)",
    "EXISTS (SELECT 1 FROM empty)",
    "EXISTS (SELECT 1 FROM empty WHERE empty.id = t.id)",
    "NOT EXISTS (SELECT 1 FROM t AS other WHERE other.id = t.id)",
    "id NOT IN (SELECT id FROM t)",
    "v > (SELECT max(v) FROM t)",
    "v > (SELECT max(v) FROM empty)",
    "random() > 2",
    "id = 1 AND id = 2",
    "id = 99",
    "v IS NULL AND s = 'a'",
];

#[tokio::test]
async fn no_row_is_touched_that_where_does_not_select() {
    let (_served, client) = with_rows().await;
    for condition in SELECT_NOTHING {
        for sql in [
            format!("DELETE FROM t WHERE {condition}"),
            format!("UPDATE t SET s = 'changed' WHERE {condition}"),
        ] {
            let count =
                client.execute(sql.as_str(), &[]).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
            assert_eq!(count, 0, "{sql}");
        }
    }
    for sql in [
        "DELETE FROM t USING empty WHERE t.id = empty.id",
        "DELETE FROM t USING u WHERE t.id = u.id AND u.v > 100",
        "DELETE FROM t USING u WHERE t.id = u.id AND false",
        "UPDATE t SET s = 'changed' FROM empty",
        "UPDATE t SET s = 'changed' FROM u WHERE u.id = t.id AND u.id IN (SELECT id FROM empty)",
    ] {
        assert_eq!(client.execute(sql, &[]).await.unwrap(), 0, "{sql}");
    }
    let parameters = "DELETE FROM t WHERE v = $1 AND id IN (SELECT id FROM u WHERE u.v > $2)";
    assert_eq!(client.execute(parameters, &[&20, &1000]).await.unwrap(), 0);
    assert_eq!(client.execute("DELETE FROM t WHERE v = $1", &[&None::<i32>]).await.unwrap(), 0);
    assert_eq!(client.execute("DELETE FROM t WHERE id = $1", &[&None::<i32>]).await.unwrap(), 0);
    assert_eq!(ids(&client, "SELECT id FROM t ORDER BY id").await, [1, 2, 3, 4]);
    let changed = client.query("SELECT id FROM t WHERE s = 'changed'", &[]).await.unwrap();
    assert!(changed.is_empty());
}

#[tokio::test]
async fn exactly_the_selected_rows_are_touched() {
    for (condition, selected) in [
        ("true", &[1, 2, 3, 4][..]),
        ("v = 20", &[2]),
        ("v IS NULL", &[3]),
        ("id = 2 OR s IS NULL", &[2, 4]),
        ("id IN (SELECT id FROM u)", &[2, 4]),
        ("id NOT IN (SELECT id FROM u)", &[1, 3]),
        ("EXISTS (SELECT 1 FROM u WHERE u.id = t.id AND u.v = t.v)", &[2]),
        ("NOT EXISTS (SELECT 1 FROM u WHERE u.id = t.id)", &[1, 3]),
        ("v < (SELECT max(v) FROM u)", &[1, 2, 4]),
        ("random() >= 0 AND id > 2", &[3, 4]),
        ("id BETWEEN 2 AND 3", &[2, 3]),
    ] {
        let (_served, client) = with_rows().await;
        let updated =
            client.execute(format!("UPDATE t SET s = 'x' WHERE {condition}").as_str(), &[]).await;
        assert_eq!(updated.unwrap(), selected.len() as u64, "{condition}");
        assert_eq!(
            ids(&client, "SELECT id FROM t WHERE s = 'x' ORDER BY id").await,
            selected,
            "{condition}"
        );
        let (_served, client) = with_rows().await;
        let deleted =
            client.execute(format!("DELETE FROM t WHERE {condition}").as_str(), &[]).await;
        assert_eq!(deleted.unwrap(), selected.len() as u64, "{condition}");
        let left: Vec<i32> = (1..=4).filter(|id| !selected.contains(id)).collect();
        assert_eq!(ids(&client, "SELECT id FROM t ORDER BY id").await, left, "{condition}");
    }
}

#[tokio::test]
async fn updates_compute_from_the_old_row() {
    let (_served, client) = with_rows().await;
    assert_eq!(
        client
            .execute("UPDATE t SET v = v + $1, s = s || '!' WHERE id = $2", &[&5, &1])
            .await
            .unwrap(),
        1
    );
    assert_eq!(
        client.execute("UPDATE t SET v = u.v + 100 FROM u WHERE u.id = t.id", &[]).await.unwrap(),
        2
    );
    assert_eq!(
        client
            .execute("UPDATE t SET v = (SELECT max(v) FROM u) WHERE v IS NULL", &[])
            .await
            .unwrap(),
        1
    );
    let rows = client.query("SELECT v FROM t ORDER BY id", &[]).await.unwrap();
    let values: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(values, [15, 120, 41, 141]);
    // Keys change places within one statement, and do not collide.
    assert_eq!(client.execute("UPDATE t SET id = id + 1", &[]).await.unwrap(), 4);
    assert_eq!(ids(&client, "SELECT id FROM t ORDER BY id").await, [2, 3, 4, 5]);
    assert_eq!(code(client.execute("UPDATE t SET id = 3 WHERE id = 2", &[]).await), "23505");
    let rows = client
        .query("UPDATE t SET v = 0 WHERE id < 4 RETURNING id, v AS value", &[])
        .await
        .unwrap();
    assert_eq!((rows.len(), rows[0].get::<_, i32>("value")), (2, 0));
}

#[tokio::test]
async fn rows_without_a_key_are_told_apart() {
    let (_served, client) = with_rows().await;
    assert_eq!(client.execute("UPDATE bare SET v = 5 WHERE v = 1", &[]).await.unwrap(), 2);
    assert_eq!(client.execute("DELETE FROM bare WHERE v = 2", &[]).await.unwrap(), 1);
    assert_eq!(ids(&client, "SELECT v FROM bare").await, [5, 5]);
    assert_eq!(client.execute("INSERT INTO bare SELECT v + 1 FROM bare", &[]).await.unwrap(), 2);
    client.batch_execute("TRUNCATE bare").await.unwrap();
    assert!(ids(&client, "SELECT v FROM bare").await.is_empty());
}

#[tokio::test]
async fn conflicts_are_resolved_as_asked() {
    let (_served, client) = with_rows().await;
    let count = client
        .execute("INSERT INTO u VALUES ($1, $2), (9, 90) ON CONFLICT (id) DO NOTHING", &[&2, &0])
        .await
        .unwrap();
    assert_eq!(count, 1);
    let rows = client
        .query(
            "INSERT INTO u AS mine (id, v) VALUES (2, 5), (10, 1)
             ON CONFLICT (id) DO UPDATE SET v = mine.v + excluded.v WHERE excluded.v > 0 RETURNING *",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(rows.iter().map(|row| row.get::<_, i32>(1)).collect::<Vec<_>>(), [25, 1]);
    let twice =
        "INSERT INTO u VALUES (11, 1), (11, 2) ON CONFLICT (id) DO UPDATE SET v = excluded.v";
    assert_eq!(code(client.execute(twice, &[]).await), "21000");
    let other = "INSERT INTO u VALUES (11, 1) ON CONFLICT (v) DO NOTHING";
    assert_eq!(code(client.execute(other, &[]).await), "42P10");
    assert_eq!(code(client.execute("INSERT INTO u VALUES (12, 1), (12, 2)", &[]).await), "23505");
    assert!(client.query("SELECT * FROM u WHERE id > 10", &[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_thousand_rows_go_in_with_one_prepared_statement() {
    let (_served, client) = with_rows().await;
    client
        .batch_execute("CREATE TABLE many (id bigint PRIMARY KEY, v double precision)")
        .await
        .unwrap();
    let places: Vec<String> =
        (0..1000).map(|n| format!("(${}, ${})", n * 2 + 1, n * 2 + 2)).collect();
    let sql = format!("INSERT INTO many VALUES {}", places.join(", "));
    let statement = client.prepare(&sql).await.unwrap();
    let values: Vec<(i64, f64)> = (0..1000).map(|n| (n, n as f64 / 2.0)).collect();
    let parameters: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> = values
        .iter()
        .flat_map(|(id, v)| [id as &(dyn tokio_postgres::types::ToSql + Sync), v])
        .collect();
    assert_eq!(client.execute(&statement, &parameters).await.unwrap(), 1000);
    let row = client
        .query_one("SELECT count(*), sum(v) FROM many WHERE id >= 10 AND id < 5000", &[])
        .await
        .unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, f64>(1)), (990, 249_727.5));
}

#[tokio::test]
async fn expressions_have_one_value_with_and_without_the_query_engine() {
    let served = serve_postgres();
    let client = served.connect().await;
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, i int, b bigint, d double precision, s text, n int, flag boolean);
             INSERT INTO t VALUES (1, 7, -3, 2.5, 'abc', NULL, true)",
        )
        .await
        .unwrap();
    for (column, expression) in [
        ("i", "i + 1"),
        ("i", "-i * 2 - 3"),
        ("i", "i / 2"),
        ("i", "-i / 2"),
        ("i", "-i % 4"),
        ("b", "b + i"),
        ("d", "d * i"),
        ("d", "i / d"),
        ("d", "b / 2"),
        ("s", "s || 'x'"),
        ("s", "s || n"),
        ("i", "coalesce(n, i)"),
        ("i", "coalesce(n, n)"),
        ("i", "greatest(i, b, n)"),
        ("i", "least(i, 3)"),
        ("flag", "i > b"),
        ("flag", "n = n"),
        ("flag", "n IS NULL AND flag"),
        ("flag", "flag OR n > 1"),
        ("flag", "NOT (n > 1)"),
        ("flag", "s < 'b'"),
        ("flag", "d = 2.5"),
        ("flag", "i = '7'"),
        ("b", "i::bigint * 1000000000000"),
        ("i", "d"),
        ("d", "'1e3'"),
        ("s", "i::text || s"),
        ("i", "'12'::int"),
        ("flag", "b <> -3"),
    ] {
        let mut found = Vec::new();
        // By key the session evaluates; over any other condition the query engine does.
        for condition in ["id = 1", "id + 0 = 1"] {
            let sql = format!("BEGIN; UPDATE t SET {column} = {expression} WHERE {condition}");
            client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
            let rows = client.simple_query("SELECT * FROM t WHERE id = 1").await.unwrap();
            let value = rows.iter().find_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => {
                    Some(row.get(column).map(str::to_owned))
                }
                _ => None,
            });
            found.push(value);
            client.batch_execute("ROLLBACK").await.unwrap();
        }
        assert_eq!(found[0], found[1], "{column} = {expression}");
    }
}
