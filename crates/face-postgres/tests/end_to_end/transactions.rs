//! Snapshot isolation, and the state of a transaction block.

use crate::support::{code, serve_postgres};
use tokio_postgres::{Client, NoTls};

async fn value(client: &Client, id: i32) -> Option<i32> {
    client
        .query_opt("SELECT v FROM t WHERE id = $1", &[&id])
        .await
        .unwrap()
        .and_then(|row| row.get(0))
}

async fn total(client: &Client) -> i64 {
    client.query_one("SELECT sum(v) FROM t", &[]).await.unwrap().get(0)
}

const SETUP: &str =
    "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 10), (2, 20)";

#[tokio::test]
async fn a_reader_keeps_its_snapshot_and_sees_its_own_writes() {
    let served = serve_postgres();
    let (reader, writer) = (served.connect().await, served.connect().await);
    writer.batch_execute(SETUP).await.unwrap();
    reader.batch_execute("BEGIN").await.unwrap();
    assert_eq!(total(&reader).await, 30);
    writer
        .batch_execute("UPDATE t SET v = 11 WHERE id = 1; INSERT INTO t VALUES (3, 30)")
        .await
        .unwrap();
    assert_eq!(
        (total(&reader).await, value(&reader, 1).await, value(&reader, 3).await),
        (30, Some(10), None)
    );
    reader.batch_execute("INSERT INTO t VALUES (4, 40); DELETE FROM t WHERE id = 2").await.unwrap();
    assert_eq!(
        (total(&reader).await, value(&reader, 4).await, value(&reader, 2).await),
        (50, Some(40), None)
    );
    assert_eq!(total(&writer).await, 61, "nothing is seen before it commits");
    reader.batch_execute("COMMIT").await.unwrap();
    assert_eq!((total(&reader).await, total(&writer).await), (81, 81));
}

#[tokio::test]
async fn the_first_committer_wins() {
    let served = serve_postgres();
    let (a, b) = (served.connect().await, served.connect().await);
    a.batch_execute(SETUP).await.unwrap();
    a.batch_execute("BEGIN; UPDATE t SET v = v + 1 WHERE id = 1").await.unwrap();
    b.batch_execute("BEGIN; UPDATE t SET v = v + 1 WHERE id = 1; UPDATE t SET v = 0 WHERE id = 2")
        .await
        .unwrap();
    a.batch_execute("COMMIT").await.unwrap();
    assert_eq!(code(b.batch_execute("COMMIT").await), "40001");
    assert_eq!(
        (value(&b, 1).await, value(&b, 2).await),
        (Some(11), Some(20)),
        "nothing of b happened"
    );
    // Without a block, the session repeats the statement by itself.
    let (one, two) = tokio::join!(
        async {
            for _ in 0..50 {
                a.execute("UPDATE t SET v = v + 1 WHERE id = 2", &[]).await.unwrap();
            }
        },
        async {
            for _ in 0..50 {
                b.execute("UPDATE t SET v = v + 1 WHERE id = 2", &[]).await.unwrap();
            }
        },
    );
    let ((), ()) = (one, two);
    assert_eq!(value(&a, 2).await, Some(120));
}

#[tokio::test]
async fn two_inserts_of_one_key_do_not_both_commit() {
    let served = serve_postgres();
    let (a, b) = (served.connect().await, served.connect().await);
    a.batch_execute(SETUP).await.unwrap();
    a.batch_execute("BEGIN; INSERT INTO t VALUES (9, 1)").await.unwrap();
    b.batch_execute("BEGIN; INSERT INTO t VALUES (9, 2)").await.unwrap();
    a.batch_execute("COMMIT").await.unwrap();
    assert_eq!(code(b.batch_execute("COMMIT").await), "23505");
    assert_eq!(value(&b, 9).await, Some(1));
}

#[tokio::test]
async fn after_an_error_only_rollback_goes_on() {
    let served = serve_postgres();
    let client = served.connect().await;
    client.batch_execute(SETUP).await.unwrap();
    client.batch_execute("BEGIN; UPDATE t SET v = 0 WHERE id = 1").await.unwrap();
    assert_eq!(code(client.batch_execute("INSERT INTO t VALUES (2, 0)").await), "23505");
    assert_eq!(code(client.batch_execute("SELECT 1").await), "25P02");
    assert_eq!(code(client.query("SELECT 1", &[]).await), "25P02");
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(value(&client, 1).await, Some(10));
    client.batch_execute("BEGIN; SAVEPOINT s; UPDATE t SET v = 1 WHERE id = 1").await.unwrap();
    assert_eq!(code(client.batch_execute("SELECT nothing").await), "42703");
    client.batch_execute("ROLLBACK TO s; UPDATE t SET v = 2 WHERE id = 2; COMMIT").await.unwrap();
    assert_eq!((value(&client, 1).await, value(&client, 2).await), (Some(10), Some(2)));
}

#[tokio::test]
async fn statements_sent_together_commit_together() {
    let served = serve_postgres();
    let client = served.connect().await;
    client.batch_execute(SETUP).await.unwrap();
    let failed =
        client.batch_execute("INSERT INTO t VALUES (5, 5); INSERT INTO t VALUES (1, 1)").await;
    assert_eq!(code(failed), "23505");
    assert_eq!(value(&client, 5).await, None);
    let ddl = client
        .batch_execute("BEGIN; CREATE TABLE d (id int PRIMARY KEY); INSERT INTO d VALUES (1)")
        .await;
    ddl.unwrap();
    assert_eq!(client.query("SELECT * FROM d", &[]).await.unwrap().len(), 1);
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(code(client.query("SELECT * FROM d", &[]).await), "42P01");
    client
        .batch_execute(
            "BEGIN; CREATE TABLE d (id int PRIMARY KEY); INSERT INTO d VALUES (1); COMMIT",
        )
        .await
        .unwrap();
    assert_eq!(client.query("SELECT * FROM d", &[]).await.unwrap().len(), 1);
    client
        .batch_execute("DROP TABLE d; CREATE TABLE IF NOT EXISTS t (x int); DROP TABLE IF EXISTS d")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_transaction_that_only_reads_changes_nothing() {
    let served = serve_postgres();
    let client = served.connect().await;
    client.batch_execute(SETUP).await.unwrap();
    let refused = |sql: &'static str| {
        let client = &client;
        async move { code(client.batch_execute(sql).await) }
    };
    for begin in ["BEGIN READ ONLY", "BEGIN; SET TRANSACTION READ ONLY"] {
        client.batch_execute(begin).await.unwrap();
        assert_eq!(total(&client).await, 30, "{begin}");
        assert_eq!(refused("INSERT INTO t VALUES (3, 30)").await, "25006", "{begin}");
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    client.batch_execute("BEGIN READ ONLY").await.unwrap();
    assert_eq!(refused("SET TRANSACTION READ WRITE").await, "25001");
    client.batch_execute("ROLLBACK").await.unwrap();
    client.batch_execute("UPDATE t SET v = 11 WHERE id = 1").await.unwrap();
    // As a driver asks for it.
    let session = "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY";
    client.batch_execute(session).await.unwrap();
    assert_eq!(refused("DELETE FROM t").await, "25006");
    assert_eq!(refused("CREATE TABLE u (id int)").await, "25006");
    client.batch_execute("BEGIN READ WRITE; DELETE FROM t WHERE id = 1; COMMIT").await.unwrap();
    assert_eq!(total(&client).await, 20);
    client.batch_execute("SET default_transaction_read_only = off; DELETE FROM t").await.unwrap();
}

#[tokio::test]
async fn a_client_names_settings_as_it_connects() {
    let served = serve_postgres();
    let address = served.face.address;
    let settings = format!(
        "host={} port={} user=app options='-c default_transaction_read_only=on -c proteus.max_staleness=2s'",
        address.ip(),
        address.port()
    );
    let (client, connection) = tokio_postgres::connect(&settings, NoTls).await.unwrap();
    proteus_env::task::spawn(async move {
        let _ = connection.await;
    });
    let shown = client.query_one("SHOW proteus.max_staleness", &[]).await.unwrap();
    assert_eq!(shown.get::<_, String>(0), "2s");
    assert_eq!(code(client.batch_execute(SETUP).await), "25006");
}
