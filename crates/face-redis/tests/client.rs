//! Through the `redis` crate, over a real socket.

use std::sync::Arc;

use proteus_env::SystemClock;
use proteus_face::{Accounts, Metrics};
use proteus_face_redis::RedisFace;
use proteus_testkit::{ServedFace, memory_kernel, serve_face};
use redis::{AsyncCommands, ErrorKind, RedisError, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn serve(accounts: Accounts) -> ServedFace {
    let clock = Arc::new(SystemClock::new());
    serve_face(Arc::new(RedisFace::new(memory_kernel(), clock, &Metrics::default(), accounts)))
}

async fn connect(served: &ServedFace, parameters: &str) -> redis::aio::MultiplexedConnection {
    let url = format!("redis://{}/{parameters}", served.address);
    redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap()
}

#[tokio::test]
async fn strings_hashes_and_expiry_in_both_protocol_versions() {
    let served = serve(Accounts::default());
    for parameters in ["", "?protocol=resp3"] {
        let mut client = connect(&served, parameters).await;
        let _: () = redis::cmd("FLUSHALL").query_async(&mut client).await.unwrap();
        let _: () = client.set("k", "v").await.unwrap();
        assert_eq!(client.get::<_, String>("k").await.unwrap(), "v");
        assert_eq!(client.get::<_, Option<String>>("absent").await.unwrap(), None);
        assert_eq!(client.incr::<_, _, i64>("n", 5).await.unwrap(), 5);
        assert_eq!(client.exists::<_, i64>(&["k", "n", "absent"]).await.unwrap(), 2);
        let fields = [("b", "2"), ("a", "1")];
        let added: i64 =
            redis::cmd("HSET").arg("h").arg(&fields).query_async(&mut client).await.unwrap();
        assert_eq!(added, 2);
        let all: Vec<(String, String)> = client.hgetall("h").await.unwrap();
        assert_eq!(all, [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
        let set: bool = client.set_nx("k", "other").await.unwrap();
        assert!(!set);
        let _: () = client.pexpire("k", 50_000).await.unwrap();
        let left: i64 = redis::cmd("PTTL").arg("k").query_async(&mut client).await.unwrap();
        assert!((40_000..=50_000).contains(&left), "{left}");
        let never: i64 = redis::cmd("TTL").arg("n").query_async(&mut client).await.unwrap();
        assert_eq!(never, -1);
        assert_eq!(client.del::<_, i64>(&["k", "n", "h"]).await.unwrap(), 3);
    }
}

#[tokio::test]
async fn errors_carry_redis_codes() {
    let served = serve(Accounts::default());
    let mut client = connect(&served, "").await;
    let _: () = client.set("s", "text").await.unwrap();
    let wrong: RedisError = client.hget::<_, _, String>("s", "f").await.unwrap_err();
    assert_eq!(wrong.code(), Some("WRONGTYPE"));
    let no_number = client.incr::<_, _, i64>("s", 1).await.unwrap_err();
    assert!(no_number.to_string().contains("not an integer or out of range"), "{no_number}");
    let unknown = redis::cmd("ZZADD").arg("z").query_async::<Value>(&mut client).await.unwrap_err();
    assert!(unknown.to_string().contains("unknown command 'ZZADD'"), "{unknown}");
    let arity = redis::cmd("GET").query_async::<Value>(&mut client).await.unwrap_err();
    assert!(arity.to_string().contains("wrong number of arguments for 'get'"), "{arity}");
    assert_eq!(client.get::<_, String>("s").await.unwrap(), "text");
}

#[tokio::test]
async fn a_pipeline_is_answered_in_order_and_sees_its_own_writes() {
    let served = serve(Accounts::default());
    let mut client = connect(&served, "").await;
    let mut pipeline = redis::pipe();
    for number in 0..3_000 {
        pipeline.set(format!("k{number}"), number).get(format!("k{number}")).cmd("PING");
    }
    let replies: Vec<Value> = pipeline.query_async(&mut client).await.unwrap();
    assert_eq!(replies.len(), 9_000);
    for (number, chunk) in replies.chunks(3).enumerate() {
        assert_eq!(chunk[1], Value::BulkString(number.to_string().into_bytes()));
        assert_eq!(chunk[2], Value::SimpleString("PONG".to_owned()));
    }
}

#[tokio::test]
async fn a_transaction_is_atomic_and_watch_guards_it() {
    let served = serve(Accounts::default());
    let mut client = connect(&served, "").await;
    let mut other = connect(&served, "").await;
    let (incremented, read): (i64, i64) =
        redis::pipe().atomic().incr("n", 2).get("n").query_async(&mut client).await.unwrap();
    assert_eq!((incremented, read), (2, 2));

    let _: () = redis::cmd("WATCH").arg("n").query_async(&mut client).await.unwrap();
    let _: () = other.set("n", 10).await.unwrap();
    let lost: Option<(i64,)> =
        redis::pipe().atomic().incr("n", 1).query_async(&mut client).await.unwrap();
    assert_eq!(lost, None);
    assert_eq!(client.get::<_, i64>("n").await.unwrap(), 10);

    let _: () = redis::cmd("WATCH").arg("n").query_async(&mut client).await.unwrap();
    let won: Option<(i64,)> =
        redis::pipe().atomic().incr("n", 1).query_async(&mut client).await.unwrap();
    assert_eq!(won, Some((11,)));
}

#[tokio::test]
async fn exec_is_refused_after_a_command_that_could_not_be_queued() {
    let served = serve(Accounts::default());
    let mut raw = proteus_env::net::connect(served.address).await.unwrap();
    raw.write_all(b"MULTI\r\nSET a 1\r\nNOSUCH\r\nEXEC\r\nGET a\r\nQUIT\r\n").await.unwrap();
    let mut replies = String::new();
    raw.read_to_string(&mut replies).await.unwrap();
    let lines: Vec<&str> = replies.split("\r\n").collect();
    assert_eq!(lines[..2], ["+OK", "+QUEUED"]);
    assert!(lines[2].starts_with("-ERR unknown command 'NOSUCH'"));
    assert!(lines[3].starts_with("-EXECABORT"));
    assert_eq!(lines[4..], ["$-1", "+OK", ""]);
}

#[tokio::test]
async fn garbage_closes_its_connection_and_disturbs_no_other() {
    let served = serve(Accounts::default());
    let mut client = connect(&served, "").await;
    let garbage: [&[u8]; 4] =
        [b"*1\r\n$-7\r\n", b"*99999999\r\n", b"*1\r\n!oops\r\n", b"GET \"x\r\n"];
    for bytes in garbage {
        let mut raw = proteus_env::net::connect(served.address).await.unwrap();
        raw.write_all(bytes).await.unwrap();
        let mut reply = String::new();
        raw.read_to_string(&mut reply).await.unwrap();
        assert!(reply.starts_with("-ERR Protocol error"), "{reply}");
        let _: () = client.set("still", "served").await.unwrap();
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_and_nothing_is_served_without() {
    let accounts = [("ann".to_owned(), "secret".to_owned())].into_iter().collect();
    let served = serve(Accounts::new(accounts));
    let mut raw = proteus_env::net::connect(served.address).await.unwrap();
    raw.write_all(b"GET k\r\nAUTH ann wrong\r\nAUTH ann secret\r\nGET k\r\nQUIT\r\n")
        .await
        .unwrap();
    let mut replies = String::new();
    raw.read_to_string(&mut replies).await.unwrap();
    let lines: Vec<&str> = replies.split("\r\n").collect();
    assert_eq!(lines[0], "-NOAUTH Authentication required.");
    assert!(lines[1].starts_with("-WRONGPASS"));
    assert_eq!(lines[2..], ["+OK", "$-1", "+OK", ""]);

    let url = format!("redis://ann:wrong@{}/", served.address);
    let refused = redis::Client::open(url).unwrap().get_multiplexed_async_connection().await;
    assert_eq!(refused.err().unwrap().kind(), ErrorKind::AuthenticationFailed);
}
