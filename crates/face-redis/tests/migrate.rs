//! Keys that go to another server: one of ours, a real Redis, and from a real one to us.

mod support;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};

use support::commands::draw;
use support::real::RealRedis;
use support::wire::{Client, Reply};
use support::{Random, serve};

fn words(line: &str) -> Vec<Vec<u8>> {
    line.split(' ')
        .map(|word| if word == "''" { Vec::new() } else { word.as_bytes().to_vec() })
        .collect()
}

/// What `source` answers to a session in which keys go to `target`, and what is where then.
fn session(source: SocketAddr, target: SocketAddr, nobody: u16) -> Vec<(String, Reply)> {
    let (mut here, mut there) = (Client::connect(source), Client::connect(target));
    let to = format!("MIGRATE 127.0.0.1 {}", target.port());
    let mut told = Vec::new();
    let mut ask = |client: &mut Client, line: String| {
        let shown = line.replace(&target.port().to_string(), "PORT");
        told.push((shown, client.ask(&words(&line))));
    };
    for line in [
        "FLUSHALL",
        "SET a 1",
        "SET b 2 PXAT 4000000000000",
        "RPUSH l x y z",
        "HSET h f v",
        "ZADD z 1 m",
        "SET taken here",
    ] {
        ask(&mut here, line.to_owned());
    }
    for line in ["FLUSHALL", "SET taken there"] {
        ask(&mut there, line.to_owned());
    }
    for rest in [
        "a 0 5000",
        "a 0 5000",
        "b 3 0 COPY",
        "b 3 5000 copy",
        "b 3 5000 COPY REPLACE",
        "'' 0 5000 KEYS l nothing h",
        "taken 0 5000",
        "'' 0 5000 KEYS taken z",
        "taken 0 5000 REPLACE",
        "b 99 5000",
        "b x 5000",
        "b 0 x",
        "b 0 5000 NONSENSE",
        "b 0 5000 AUTH",
        "b 0 5000 AUTH2 user",
        "b 0 5000 AUTH password",
        "b 0 5000 AUTH2 nobody password",
        "b 0 5000 KEYS b",
        "'' 0 5000 KEYS",
        "nothing 0 5000",
        "b 2 5000 COPY AUTH2 default any",
    ] {
        ask(&mut here, format!("{to} {rest}"));
    }
    // Redis sends keys before it hears that it is not admitted; there they stay.
    Client::connect(target).ask(&words("DEL b"));
    ask(&mut here, format!("MIGRATE 127.0.0.1 {nobody} b 0 5000"));
    ask(&mut here, "MIGRATE 127.0.0.1 1 b 0".to_owned());
    for line in ["DBSIZE", "EXISTS a b l h z taken", "EXPIRETIME b", "MGET a taken"] {
        ask(&mut here, line.to_owned());
        ask(&mut there, line.to_owned());
    }
    for line in ["LRANGE l 0 -1", "HGETALL h", "ZRANGE z 0 -1 WITHSCORES", "SELECT 3", "GET b"] {
        ask(&mut there, line.to_owned());
    }
    ask(&mut there, "EXPIRETIME b".to_owned());
    told
}

fn port_of_nobody() -> u16 {
    #[allow(clippy::disallowed_methods, reason = "a port that nobody listens at")]
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_go_to_another_server_as_redis_moves_them() {
    let (source, target) = (serve(), serve());
    let nobody = port_of_nobody();
    tokio::task::block_in_place(|| {
        let ours = session(source.address, target.address, nobody);
        let of = |line: &str| &ours.iter().find(|(asked, _)| asked == line).unwrap().1;
        assert_eq!(*of("MIGRATE 127.0.0.1 PORT a 0 5000"), Reply::Status("OK".to_owned()));
        assert_eq!(
            *of("MIGRATE 127.0.0.1 PORT taken 0 5000"),
            Reply::Error(
                "ERR Target instance replied with error: BUSYKEY Target key name already exists."
                    .to_owned()
            )
        );
        assert_eq!(
            *of(&format!("MIGRATE 127.0.0.1 {nobody} b 0 5000")),
            Reply::Error("IOERR error or timeout writing to target instance".to_owned())
        );
        assert_eq!(ours.last().unwrap().1, Reply::Integer(4_000_000_000));
        let (Some(real), Some(other)) = (RealRedis::start(), RealRedis::start()) else {
            eprintln!("skipped: no redis-server is installed to compare with");
            return;
        };
        let theirs = session(real.address, other.address, nobody);
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours, theirs);
        }
        // Each kind of value, in both directions.
        for seed in 0..5 {
            all_keys_move(source.address, other.address, seed);
            all_keys_move(other.address, target.address, seed);
        }
    });
}

/// Whatever random commands have made goes from one server to another.
fn all_keys_move(source: SocketAddr, target: SocketAddr, seed: u64) {
    let (mut here, mut there) = (Client::connect(source), Client::connect(target));
    here.ask(&words("FLUSHALL"));
    there.ask(&words("FLUSHALL"));
    let mut random = Random::new(seed);
    for _ in 0..600 {
        here.ask(&draw(&mut random));
    }
    let Reply::Array(keys) = here.ask(&words("KEYS *")) else { panic!("no keys") };
    let look = |client: &mut Client, key: &[u8]| {
        ["TYPE", "PEXPIRETIME"].map(|word| client.ask(&[word.as_bytes().to_vec(), key.to_vec()]))
    };
    let mut values = Vec::new();
    let mut request = words(&format!("MIGRATE 127.0.0.1 {} '' 0 10000 KEYS", target.port()));
    for key in keys {
        let Reply::Bulk(key) = key else { panic!("no key") };
        // None is to expire on its way.
        here.ask(&[b"PEXPIREAT".to_vec(), key.clone(), b"4000000000000".to_vec()]);
        values.push((key.clone(), look(&mut here, &key)));
        request.push(key);
    }
    assert_eq!(here.ask(&request), Reply::Status("OK".to_owned()));
    assert_eq!(here.ask(&words("DBSIZE")), Reply::Integer(0));
    assert_eq!(there.ask(&words("DBSIZE")), Reply::Integer(values.len() as i64));
    for (key, [kind, _]) in &values {
        assert_eq!(look(&mut there, key)[0], *kind, "{}", key.escape_ascii());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_change_is_lost_while_a_key_moves() {
    let (source, target) = (serve(), serve());
    let (here, there) = (source.address, target.address);
    let is_done = AtomicBool::new(false);
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                let (mut client, mut count) = (Client::connect(here), 0);
                while !is_done.load(Ordering::SeqCst) {
                    client.ask(&words("RPUSH moving x"));
                    count += 1;
                }
                count
            });
            let (mut mover, mut counter) = (Client::connect(here), Client::connect(there));
            let (mut moved, mut count) = (0, 0);
            while moved < 30 {
                let request = format!("MIGRATE 127.0.0.1 {} moving 0 10000", there.port());
                match mover.ask(&words(&request)) {
                    Reply::Status(status) if status == "NOKEY" => continue,
                    Reply::Status(_) => moved += 1,
                    // Both have it: what is there is older, and the next replaces it.
                    Reply::Error(_) => {
                        counter.ask(&words("DEL moving"));
                        continue;
                    }
                    other => panic!("{other:?}"),
                }
                let Reply::Integer(length) = counter.ask(&words("LLEN moving")) else {
                    panic!("no length")
                };
                count += length;
                counter.ask(&words("DEL moving"));
            }
            is_done.store(true, Ordering::SeqCst);
            let written = writing.join().unwrap();
            let left = match Client::connect(here).ask(&words("LLEN moving")) {
                Reply::Integer(left) => left,
                other => panic!("{other:?}"),
            };
            assert_eq!(count + left, written);
        });
    });
}
