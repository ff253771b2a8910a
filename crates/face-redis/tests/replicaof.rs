//! REPLICAOF: following a primary, one of ours or a real Redis, and letting go of it.

#[path = "support/contents.rs"]
mod contents;
mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use contents::{Contents, assert_equal, contents, words};
use proteus_env::{Clock, SystemClock};
use support::commands::draw;
use support::real::RealRedis;
use support::wire::{Client, Reply};
use support::{Random, serve};

const PATIENCE: Duration = Duration::from_secs(60);

fn ok() -> Reply {
    Reply::Status("OK".to_owned())
}

fn refused() -> Reply {
    Reply::Error("READONLY You can't write against a read only replica.".to_owned())
}

/// Waits until the condition holds.
#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let clock = SystemClock::new();
    while !holds() {
        assert!(clock.elapsed() < PATIENCE, "never: {what}");
        #[allow(clippy::disallowed_methods, reason = "waits for another thread")]
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn info(client: &mut Client) -> BTreeMap<String, String> {
    let Reply::Bulk(text) = client.ask(&words("INFO replication")) else { panic!("no text") };
    let text = String::from_utf8(text).unwrap();
    let pair = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

/// Waits until all that the primary has written so far is taken over.
fn catch_up(primary: &mut Client, follower: &mut Client) {
    let place = |client: &mut Client, name: &str| info(client).get(name)?.parse::<u64>().ok();
    until("the link is up", || info(follower).get("master_link_status").unwrap() == "up");
    let target = place(primary, "master_repl_offset").unwrap();
    until("all is taken over", || place(follower, "slave_repl_offset").unwrap() >= target);
}

/// What a server has, but for what it knows of its primary.
fn kept(client: &mut Client) -> Contents {
    let mut all = contents(client, 16);
    all.retain(|(_, key), _| !key.starts_with(b"proteus:follow"));
    all
}

fn follow(address: SocketAddr) -> String {
    format!("REPLICAOF 127.0.0.1 {}", address.port())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_follows_another_until_it_is_told_to_stop() {
    let (primary, follower) = (serve(), serve());
    let (there, here) = (primary.address, follower.address);
    tokio::task::block_in_place(|| {
        let (mut primary, mut follower) = (Client::connect(there), Client::connect(here));
        let mut random = Random::new(1);
        for db in [0, 3] {
            primary.ask(&words(&format!("SELECT {db}")));
            for _ in 0..300 {
                primary.ask(&draw(&mut random));
            }
        }
        primary.ask(&words("SELECT 0"));
        follower.ask(&words("SET mine 1"));
        assert_eq!(follower.ask(&words(&follow(there))), ok());
        let again = follower.ask(&words(&follow(there)));
        assert_eq!(again, Reply::Status("OK Already connected to specified master".to_owned()));
        until("the link is up", || info(&mut follower)["master_link_status"] == "up");
        assert_eq!(follower.ask(&words("EXISTS mine")), Reply::Integer(0), "as in Redis");
        for _ in 0..300 {
            primary.ask(&draw(&mut random));
        }
        primary.ask(&words("SET last 1"));
        until("the last write", || follower.ask(&words("EXISTS last")) == Reply::Integer(1));
        assert_equal(&kept(&mut primary), &kept(&mut follower));
        // Who follows is written to by its primary alone.
        assert_eq!(follower.ask(&words("SET mine 1")), refused());
        assert_eq!(follower.ask(&words("MULTI")), ok());
        assert_eq!(follower.ask(&words("SET mine 1")), refused());
        assert!(
            matches!(follower.ask(&words("EXEC")), Reply::Error(text) if text.starts_with("EXECABORT"))
        );
        assert_eq!(follower.ask(&words("PUBLISH c m")), Reply::Integer(0));
        assert_eq!(follower.ask(&words("CONFIG SET replica-read-only no")), ok());
        assert_eq!(follower.ask(&words("SET mine 1")), ok());
        let Reply::Array(role) = follower.ask(&words("ROLE")) else { panic!("no role") };
        let bulk = |text: &str| Reply::Bulk(text.as_bytes().to_vec());
        let port = Reply::Integer(there.port().into());
        assert_eq!(role[..4], [bulk("slave"), bulk("127.0.0.1"), port, bulk("connected")]);
        let shown = info(&mut follower);
        assert_eq!((&*shown["role"], &*shown["slave_read_only"]), ("slave", "0"));
        assert_eq!(shown["master_replid"], info(&mut primary)["master_replid"]);
        // The cut-over.
        assert_eq!(follower.ask(&words("REPLICAOF no one")), ok());
        assert_eq!(info(&mut follower)["role"], "master");
        let before = follower.ask(&words("GET last"));
        primary.ask(&words("SET last 2"));
        assert_eq!(follower.ask(&words("SET own 1")), ok());
        assert_eq!(follower.ask(&words("GET last")), before);
        assert_eq!(follower.ask(&words("EXISTS proteus:follow")), Reply::Integer(0));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_primary_is_followed_through_its_own_commands() {
    let served = serve();
    let here = served.address;
    tokio::task::block_in_place(|| {
        let Some(real) = RealRedis::start() else {
            eprintln!("skipped: no redis-server is installed");
            return;
        };
        let (mut primary, mut follower) = (Client::connect(real.address), Client::connect(here));
        let mut random = Random::new(7);
        for _ in 0..500 {
            primary.ask(&draw(&mut random));
        }
        assert_eq!(primary.ask(&words("CONFIG SET requirepass secret")), ok());
        follower.ask(&words("CONFIG SET masterauth secret"));
        assert_eq!(follower.ask(&words(&follow(real.address))), ok());
        catch_up(&mut primary, &mut follower);
        primary.ask(&words("SELECT 5"));
        for _ in 0..500 {
            primary.ask(&draw(&mut random));
        }
        primary.ask(&words("MULTI"));
        for _ in 0..50 {
            primary.ask(&words("INCR counter"));
        }
        primary.ask(&words("EXEC"));
        catch_up(&mut primary, &mut follower);
        // Real payloads are packed otherwise: what is compared is what clients read.
        for db in 0..16 {
            for client in [&mut primary, &mut follower] {
                client.ask(&words(&format!("SELECT {db}")));
            }
            let keys = |client: &mut Client| match client.ask(&words("KEYS *")) {
                Reply::Array(mut keys) => {
                    keys.retain(|key| *key != Reply::Bulk(b"proteus:follow".to_vec()));
                    keys.sort();
                    keys
                }
                other => panic!("{other:?}"),
            };
            let theirs = keys(&mut primary);
            assert_eq!(theirs, keys(&mut follower), "keys of database {db}");
            for key in theirs {
                let Reply::Bulk(key) = key else { panic!("{key:?} is no key") };
                for look in ["TYPE", "PEXPIRETIME"] {
                    let ask = [look.as_bytes().to_vec(), key.clone()];
                    let shown = key.escape_ascii();
                    assert_eq!(primary.ask(&ask), follower.ask(&ask), "{look} {shown}");
                }
            }
        }
        follower.ask(&words("SELECT 5"));
        assert_eq!(follower.ask(&words("GET counter")), Reply::Bulk(b"50".to_vec()));
        assert_eq!(info(&mut primary)["connected_slaves"], "1");
        assert_eq!(follower.ask(&words("REPLICAOF NO ONE")), ok());
        until("the primary is left", || info(&mut primary)["connected_slaves"] == "0");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_primary_is_told_in_redis_words() {
    let served = serve();
    let here = served.address;
    tokio::task::block_in_place(|| {
        let mut ours = Client::connect(here);
        let mut real = RealRedis::start().map(|real| (Client::connect(real.address), real));
        for (line, told) in [
            ("REPLICAOF h 70000", "ERR Invalid master port"),
            ("REPLICAOF h -1", "ERR Invalid master port"),
            ("SLAVEOF h x", "ERR Invalid master port"),
            ("REPLICAOF h", "ERR wrong number of arguments for 'replicaof' command"),
            ("SLAVEOF a b c", "ERR wrong number of arguments for 'slaveof' command"),
        ] {
            let answer = ours.ask(&words(line));
            assert_eq!(answer, Reply::Error(told.to_owned()), "{line}");
            if let Some((real, _)) = &mut real {
                assert_eq!(answer, real.ask(&words(line)), "{line}");
            }
        }
        // Nobody listens there.
        for client in real.iter_mut().map(|(client, _)| client).chain([&mut ours]) {
            assert_eq!(client.ask(&words("REPLICAOF 127.0.0.1 1")), ok());
            assert_eq!(info(client)["master_link_status"], "down");
            let Reply::Array(role) = client.ask(&words("ROLE")) else { panic!("no role") };
            assert_eq!(role[4], Reply::Integer(-1));
            let shown = client.ask(&words("CONFIG GET replicaof"));
            let bulk = |text: &str| Reply::Bulk(text.as_bytes().to_vec());
            assert_eq!(shown, Reply::Array(vec![bulk("replicaof"), bulk("127.0.0.1 1")]));
            assert_eq!(client.ask(&words("SLAVEOF NO ONE")), ok());
            assert_eq!(client.ask(&words("SET k v")), ok());
        }
        ours.ask(&words("CONFIG SET cluster-enabled yes"));
        let told = ours.ask(&words("REPLICAOF 127.0.0.1 1"));
        assert_eq!(told, Reply::Error("ERR REPLICAOF not allowed in cluster mode.".to_owned()));
    });
}
