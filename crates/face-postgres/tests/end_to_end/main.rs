//! Through `tokio-postgres`, over a real socket.

mod cross_face;
mod dml;
mod queries;
mod support;
mod transactions;

use support::{code, serve_postgres, serve_with_account};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn only_the_own_password_admits() {
    let served = serve_with_account("ann", "secret");
    let client = served.connect_as("ann", Some("secret")).await.unwrap();
    assert_eq!(
        client.query_one("SELECT current_user", &[]).await.unwrap().get::<_, String>(0),
        "ann"
    );
    assert_eq!(code(served.connect_as("ann", Some("wrong")).await.map(drop)), "28P01");
    assert_eq!(code(served.connect_as("bob", Some("secret")).await.map(drop)), "28P01");
}

#[tokio::test]
async fn garbage_closes_its_own_connection_only() {
    let served = serve_postgres();
    let client = served.connect().await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\0\0\0\x08\0\x02\0\0", &[0xFF; 64]] {
        let mut stream = proteus_env::net::connect(served.face.address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        // A reset is an end as well.
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty() || answer.starts_with(b"E"), "{answer:?}");
    }
    assert_eq!(client.query_one("SELECT 1", &[]).await.unwrap().get::<_, i64>(0), 1);
}

#[tokio::test]
async fn errors_have_their_sqlstate_and_the_session_goes_on() {
    let served = serve_postgres();
    let client = served.connect().await;
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY, v text NOT NULL, n smallint)")
        .await
        .unwrap();
    for (sql, expected) in [
        ("SELEC 1", "42601"),
        ("SELECT * FROM missing", "42P01"),
        ("SELECT missing FROM t", "42703"),
        ("SELECT missing(1)", "42883"),
        ("INSERT INTO t VALUES (1, NULL, 1)", "23502"),
        ("INSERT INTO t VALUES (1, 'x', 100000)", "22003"),
        ("INSERT INTO t VALUES ('one', 'x', 1)", "22P02"),
        ("INSERT INTO t (id, nothing) VALUES (1, 2)", "42703"),
        ("INSERT INTO t VALUES (1, 'x', 1 / 0)", "22012"),
        ("CREATE TABLE t (id int)", "42P07"),
        ("CREATE TABLE u (id int, id int)", "42P16"),
        ("DROP TABLE missing", "42P01"),
        ("CREATE INDEX i ON t (v)", "0A000"),
        ("COPY t FROM STDIN", "0A000"),
        ("SELECT * FROM t FOR UPDATE", "0A000"),
        ("WITH gone AS (SELECT 1) DELETE FROM t", "0A000"),
        ("SELECT * INTO copied FROM t", "0A000"),
        ("SET nothing = 1", "42704"),
        ("CALL redis.nothing(1)", "42883"),
    ] {
        assert_eq!(code(client.batch_execute(sql).await), expected, "{sql}");
        assert_eq!(code(client.execute(sql, &[]).await), expected, "{sql}, prepared");
    }
    assert_eq!(client.query("SELECT * FROM t", &[]).await.unwrap().len(), 0);
}

/// A query that makes rows for hours unless it is interrupted.
const ENDLESS: &str =
    "SELECT count(*) FROM generate_series(1, 1000000) a(i), generate_series(1, 1000000) b(i)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_is_cancelled_and_its_session_goes_on() {
    let served = serve_postgres();
    let client = served.connect().await;
    let token = client.cancel_token();
    let cancelled = client.query_one(ENDLESS, &[]);
    let cancelling = async {
        // A request that arrives before the query is without effect, as in PostgreSQL.
        loop {
            proteus_env::task::sleep(std::time::Duration::from_millis(50)).await;
            token.cancel_query(tokio_postgres::NoTls).await.unwrap();
        }
    };
    tokio::select! {
        result = cancelled => assert_eq!(code(result), "57014"),
        () = cancelling => {}
    }
    // A cancellation may still be on its way, and meets no query or this one.
    let answer = client.query_one("SELECT 1", &[]).await;
    assert!(answer.is_ok() || code(answer) == "57014");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_ends_when_its_client_has_left() {
    let served = serve_postgres();
    let mut stream = proteus_env::net::connect(served.face.address).await.unwrap();
    let mut startup = Vec::from(196_608_u32.to_be_bytes());
    startup.extend(b"user\0proteus\0\0");
    stream.write_u32(startup.len() as u32 + 4).await.unwrap();
    stream.write_all(&startup).await.unwrap();
    stream.write_u8(b'Q').await.unwrap();
    stream.write_u32(ENDLESS.len() as u32 + 5).await.unwrap();
    stream.write_all(ENDLESS.as_bytes()).await.unwrap();
    // Half closed: what the server still says can be read, and it says nothing before it closes.
    stream.write_u8(0).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await.unwrap();
    assert!(said.windows(5).any(|window| window == b"Z\0\0\0\x05"), "{said:?}");
}

#[tokio::test]
async fn prepared_statements_are_forgotten_when_asked() {
    let served = serve_postgres();
    let client = served.connect().await;
    let statement = client.prepare("SELECT 1").await.unwrap();
    client.batch_execute("DEALLOCATE ALL").await.unwrap();
    assert_eq!(code(client.query(&statement, &[]).await), "26000");
    assert_eq!(code(client.batch_execute("DEALLOCATE missing").await), "26000");
}
