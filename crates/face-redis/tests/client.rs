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
    let client = redis::Client::open(format!("redis://{}/{parameters}", served.address)).unwrap();
    // Its default is half a second, which says nothing of the server where others use the machine.
    let patient = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&patient).await.unwrap()
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

/// A connection that speaks the protocol by hand, for what clients hide.
struct Raw(tokio::net::TcpStream);

impl Raw {
    async fn connect(served: &ServedFace) -> Raw {
        Raw(proteus_env::net::connect(served.address).await.unwrap())
    }

    async fn send(&mut self, line: &str) {
        self.0.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
    }

    /// Reads exactly what is expected.
    async fn expect(&mut self, expected: &str) {
        let mut bytes = vec![0; expected.len()];
        self.0.read_exact(&mut bytes).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&bytes), expected);
    }

    async fn ask(&mut self, line: &str, expected: &str) {
        self.send(line).await;
        self.expect(expected).await;
    }

    /// Waits until as many clients wait as expected.
    async fn await_blocked(&mut self, count: usize) {
        loop {
            self.send("INFO clients").await;
            let mut text = String::new();
            while !(text.contains("total_blocking_keys") && text.ends_with("\r\n\r\n")) {
                let mut byte = [0];
                self.0.read_exact(&mut byte).await.unwrap();
                text.push(byte[0] as char);
            }
            if text.contains(&format!("blocked_clients:{count}\r\n")) {
                return;
            }
        }
    }
}

#[tokio::test]
async fn those_who_wait_are_served_in_the_order_in_which_they_came() {
    let served = serve(Accounts::default());
    let mut pusher = Raw::connect(&served).await;
    let mut waiting = Vec::new();
    for number in 1..=3 {
        let mut client = Raw::connect(&served).await;
        client.send("BLPOP none list 0").await;
        pusher.await_blocked(number).await;
        waiting.push(client);
    }
    pusher.ask("RPUSH list a b", ":2\r\n").await;
    waiting[0].expect("*2\r\n$4\r\nlist\r\n$1\r\na\r\n").await;
    waiting[1].expect("*2\r\n$4\r\nlist\r\n$1\r\nb\r\n").await;
    pusher.await_blocked(1).await;
    // Inside a transaction nothing waits.
    pusher.ask("MULTI", "+OK\r\n").await;
    pusher.ask("BLPOP list 0", "+QUEUED\r\n").await;
    pusher.ask("EXEC", "*1\r\n*-1\r\n").await;
    pusher.ask("RPUSH list c", ":1\r\n").await;
    waiting[2].expect("*2\r\n$4\r\nlist\r\n$1\r\nc\r\n").await;
    pusher.ask("EXISTS list", ":0\r\n").await;
}

#[tokio::test]
async fn a_group_and_a_reader_wait_for_a_stream() {
    let served = serve(Accounts::default());
    let mut writer = Raw::connect(&served).await;
    writer.ask("XGROUP CREATE s g $ MKSTREAM", "+OK\r\n").await;
    let (mut member, mut reader) = (Raw::connect(&served).await, Raw::connect(&served).await);
    member.send("XREADGROUP GROUP g c BLOCK 0 STREAMS s >").await;
    reader.send("XREAD BLOCK 0 STREAMS s $").await;
    writer.await_blocked(2).await;
    writer.ask("XADD s 1-1 f v", "$3\r\n1-1\r\n").await;
    let entry = "*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n1-1\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n";
    member.expect(entry).await;
    reader.expect(entry).await;
}

#[tokio::test]
async fn messages_reach_subscribers_and_events_are_announced() {
    let served = serve(Accounts::default());
    let (mut listener, mut other) = (Raw::connect(&served).await, Raw::connect(&served).await);
    listener.ask("SUBSCRIBE news", "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n").await;
    listener.ask("PSUBSCRIBE n*", "*3\r\n$10\r\npsubscribe\r\n$2\r\nn*\r\n:2\r\n").await;
    other.ask("PUBLISH news hello", ":2\r\n").await;
    listener.expect("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n").await;
    listener.expect("*4\r\n$8\r\npmessage\r\n$2\r\nn*\r\n$4\r\nnews\r\n$5\r\nhello\r\n").await;
    let refused = "-ERR Can't execute 'get': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context\r\n";
    listener.ask("GET k", refused).await;
    listener.ask("RESET", "+RESET\r\n").await;
    other.ask("CONFIG SET notify-keyspace-events KEA", "+OK\r\n").await;
    let channel = "__keyspace@0__:k";
    listener
        .ask(
            &format!("SUBSCRIBE {channel}"),
            &format!("*3\r\n$9\r\nsubscribe\r\n$16\r\n{channel}\r\n:1\r\n"),
        )
        .await;
    other.ask("SET k v EX 100", "+OK\r\n").await;
    for event in ["$3\r\nset", "$6\r\nexpire"] {
        listener.expect(&format!("*3\r\n$7\r\nmessage\r\n$16\r\n{channel}\r\n{event}\r\n")).await;
    }
}

#[tokio::test]
async fn a_client_that_keeps_copies_learns_of_changes_before_they_can_be_read() {
    let served = serve(Accounts::default());
    let (mut keeper, mut writer) = (Raw::connect(&served).await, Raw::connect(&served).await);
    writer.ask("SET k 1", "+OK\r\n").await;
    keeper.send("HELLO 3").await;
    let mut hello = Vec::new();
    while !hello.ends_with(b"modules\r\n*0\r\n") {
        let mut byte = [0];
        keeper.0.read_exact(&mut byte).await.unwrap();
        hello.push(byte[0]);
    }
    keeper.ask("CLIENT TRACKING ON", "+OK\r\n").await;
    keeper.ask("GET k", "$1\r\n1\r\n").await;
    writer.ask("INCR k", ":2\r\n").await;
    keeper.expect(">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n").await;
    // Told once: it holds no copy any more.
    writer.ask("INCR k", ":3\r\n").await;
    keeper.ask("GET k", "$1\r\n3\r\n").await;
    // With NOLOOP not of its own changes.
    keeper.ask("CLIENT TRACKING OFF", "+OK\r\n").await;
    keeper.ask("CLIENT TRACKING ON BCAST NOLOOP", "+OK\r\n").await;
    keeper.ask("SET mine 1", "+OK\r\n").await;
    writer.ask("SET theirs 1", "+OK\r\n").await;
    keeper.expect(">2\r\n$10\r\ninvalidate\r\n*1\r\n$6\r\ntheirs\r\n").await;
}

#[tokio::test]
async fn scripts_run_through_the_client_of_the_redis_crate() {
    let served = serve(Accounts::default());
    let mut client = connect(&served, "").await;
    let load = "return redis.call('SCRIPT', 'X')";
    let refused = redis::cmd("EVAL").arg(load).arg(0).query_async::<Value>(&mut client).await;
    assert!(refused.unwrap_err().to_string().contains("not allowed from script"));
    let text = "local n = redis.call('INCRBY', KEYS[1], ARGV[1]) return {n, 'done'}";
    let sha1: String =
        redis::cmd("SCRIPT").arg("LOAD").arg(text).query_async(&mut client).await.unwrap();
    for sum in [5, 10] {
        let answer: (i64, String) = redis::cmd("EVALSHA")
            .arg(&sha1)
            .arg(1)
            .arg("n")
            .arg(5)
            .query_async(&mut client)
            .await
            .unwrap();
        assert_eq!(answer, (sum, "done".to_owned()));
    }
    let dumped: Vec<u8> = redis::cmd("DUMP").arg("n").query_async(&mut client).await.unwrap();
    let _: () =
        redis::cmd("RESTORE").arg("m").arg(0).arg(dumped).query_async(&mut client).await.unwrap();
    assert_eq!(client.get::<_, i64>("m").await.unwrap(), 10);
}
