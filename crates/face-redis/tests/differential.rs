//! Random commands, held against a real Redis.
//!
//! Sequences are drawn from a seed over every command on data. Where a `redis-server` is installed each
//! reply is compared with its own; where there is none, the sequences run against us alone, which must
//! answer each command, and the same sequence twice alike. What no Redis promises is put in order before
//! it is compared: the order of a set's members, of a hash's fields, and how many digits a score shows.

mod support;

use std::net::SocketAddr;

use support::commands::{NAMES, draw};
use support::real::RealRedis;
use support::wire::{Client, Reply};
use support::{Random, serve};

const SEQUENCES: u64 = 40;
const STEPS: usize = 120;

fn normalised(name: &str, reply: Reply) -> Reply {
    const UNORDERED: &[&str] =
        &["SMEMBERS", "SUNION", "SINTER", "SDIFF", "KEYS", "HKEYS", "HVALS", "HRANDFIELD"];
    match reply {
        Reply::Array(mut items) if UNORDERED.contains(&name) => {
            items.sort();
            Reply::Array(items)
        }
        Reply::Array(items) if name == "HGETALL" => {
            let mut pairs: Vec<Vec<Reply>> = items.chunks(2).map(<[Reply]>::to_vec).collect();
            pairs.sort();
            Reply::Array(pairs.concat())
        }
        Reply::Array(items) if matches!(name, "SCAN" | "SSCAN" | "HSCAN" | "ZSCAN") => {
            let width = if matches!(name, "HSCAN" | "ZSCAN") { 2 } else { 1 };
            let sorted = items.into_iter().map(|item| match item {
                Reply::Array(parts) => {
                    let mut parts: Vec<Vec<Reply>> = parts
                        .chunks(width)
                        .map(|part| part.iter().map(rounded).collect())
                        .collect();
                    parts.sort();
                    Reply::Array(parts.concat())
                }
                other => other,
            });
            Reply::Array(sorted.collect())
        }
        // Seconds may pass between the two servers.
        Reply::Integer(number) if matches!(name, "TTL" | "EXPIRETIME") && number > 0 => {
            Reply::Integer(1)
        }
        reply => rounded(&reply),
    }
}

/// Redis 7.0 shows 17 digits of a score, 7.2 and later as many as needed.
fn rounded(reply: &Reply) -> Reply {
    match reply {
        Reply::Array(items) => Reply::Array(items.iter().map(rounded).collect()),
        Reply::Bulk(bytes) => {
            let text = String::from_utf8_lossy(bytes);
            match text.parse::<f64>() {
                Ok(number) if text.contains('.') && number.is_finite() => {
                    Reply::Bulk(format!("{number:.10e}").into_bytes())
                }
                _ => reply.clone(),
            }
        }
        reply => reply.clone(),
    }
}

/// Texts that changed between the real server's 7.0 and the 7.4 that we follow.
fn is_known_difference(ours: &Reply, real: &Reply) -> bool {
    let (Reply::Error(ours), Reply::Error(real)) = (ours, real) else { return false };
    let code = |text: &str| text.split(' ').next().map(str::to_owned);
    ours.contains("Unbalanced") && code(ours) == code(real)
}

fn show(arguments: &[Vec<u8>]) -> String {
    let words: Vec<String> = arguments.iter().map(|word| word.escape_ascii().to_string()).collect();
    words.join(" ")
}

/// Nodes that are running and are asked instead of a face of this process, one after the other: host:port,host:port…
fn running() -> Vec<SocketAddr> {
    let named = std::env::var("PROTEUS_REDIS_NODES").unwrap_or_default();
    named.split(',').filter_map(|address| address.parse().ok()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn random_commands_are_answered_as_a_real_redis_answers_them() {
    let (served, running) = (serve(), running());
    let are_several = !running.is_empty();
    let address_of = move |seed: u64| match running.as_slice() {
        [] => served.address,
        nodes => nodes[seed as usize % nodes.len()],
    };
    let real = RealRedis::start();
    if real.is_none() {
        println!("no redis-server is installed: running the sequences against ourselves alone");
    }
    let run = move || {
        for seed in 0..SEQUENCES {
            let address = address_of(seed);
            let mut ours = Client::connect(address);
            let other = real.as_ref().map_or(address, |real| real.address);
            let mut theirs = real.as_ref().map(|_| Client::connect(other));
            for client in [Some(&mut ours), theirs.as_mut()].into_iter().flatten() {
                client.ask(&[b"FLUSHALL".to_vec()]);
            }
            let mut random = Random::new(seed);
            let mut history: Vec<String> = Vec::new();
            for _ in 0..STEPS {
                let arguments = draw(&mut random);
                history.push(show(&arguments));
                let name = String::from_utf8_lossy(&arguments[0]).to_uppercase();
                let reply = normalised(&name, ours.ask(&arguments));
                if let Some(theirs) = &mut theirs {
                    let expected = normalised(&name, theirs.ask(&arguments));
                    assert!(
                        reply == expected
                            || is_known_difference(&reply, &expected)
                            // Its pages end with the slots of a shard.
                            || are_several && name == "SCAN",
                        "seed {seed}: {}\n  real: {expected:?}\n  ours: {reply:?}\nafter\n{}",
                        show(&arguments),
                        history[history.len().saturating_sub(30)..].join("\n"),
                    );
                }
            }
        }
    };
    tokio::task::block_in_place(run);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_repeats_its_replies() {
    let served = serve();
    let address = served.address;
    let run = move || {
        let mut client = Client::connect(address);
        let mut pass = || {
            client.ask(&[b"FLUSHALL".to_vec()]);
            let mut random = Random::new(99);
            (0..400).map(|_| client.ask(&draw(&mut random))).collect::<Vec<Reply>>()
        };
        for (step, (first, second)) in pass().into_iter().zip(pass()).enumerate() {
            assert_eq!(first, second, "step {step}");
        }
    };
    tokio::task::block_in_place(run);
}

/// Each command on data is drawn, or its reason not to be is written here.
#[test]
fn every_command_on_data_is_drawn() {
    const LEFT_OUT: &[(&str, &str)] = &[
        ("dump", "its bytes are ours; see the test of RESTORE"),
        ("eval", "has tests of its own"),
        ("eval_ro", "has tests of its own"),
        ("evalsha", "has tests of its own"),
        ("evalsha_ro", "has tests of its own"),
        ("fcall", "has tests of its own"),
        ("fcall_ro", "has tests of its own"),
        ("function", "has tests of its own"),
        ("script", "has tests of its own"),
        ("restore", "has tests of its own"),
        ("restore-asking", "is RESTORE"),
        ("flushall", "begins each sequence"),
        ("hexpire", "newer than 7.0"),
        ("hexpireat", "newer than 7.0"),
        ("hexpiretime", "newer than 7.0"),
        ("hpersist", "newer than 7.0"),
        ("hpexpire", "newer than 7.0"),
        ("hpexpireat", "newer than 7.0"),
        ("hpexpiretime", "newer than 7.0"),
        ("hpttl", "newer than 7.0"),
        ("httl", "newer than 7.0"),
        ("randomkey", "chooses"),
        ("spublish", "PUBLISH is drawn"),
        ("xinfo", "shows sizes of trees"),
        ("georadius_ro", "GEORADIUS is drawn"),
        ("georadiusbymember_ro", "GEORADIUSBYMEMBER is drawn"),
        ("psetex", "SETEX is drawn"),
        ("pexpiretime", "shows the time of day"),
        ("bzmpop", "ZMPOP is drawn"),
        ("blmpop", "LMPOP is drawn"),
        ("brpop", "BLPOP is drawn"),
        ("brpoplpush", "BLMOVE is drawn"),
        ("bzpopmax", "BZPOPMIN is drawn"),
    ];
    let mut missing = Vec::new();
    for command in proteus_kernel_api::cache::commands::table() {
        let is_drawn = NAMES.iter().any(|template| {
            template.split(' ').next().is_some_and(|name| name.eq_ignore_ascii_case(command.name))
        });
        let is_left_out = LEFT_OUT.iter().any(|(name, _)| *name == command.name);
        if !(is_drawn || is_left_out) {
            missing.push(command.name);
        }
    }
    assert!(missing.is_empty(), "never drawn: {missing:?}");
}

/// Whole commands, whose keys are asked for.
const DESCRIBED: &[&str] = &[
    "GET k",
    "GET",
    "NOSUCH k",
    "SET k v",
    "SET k v GET",
    "SET k v EX 10",
    "MSET a 1 b 2",
    "MSET",
    "DEL a b c",
    "BITFIELD k GET u8 0",
    "BITFIELD k SET u8 0 1",
    "BITFIELD k INCRBY u8 0 1 GET u8 0",
    "BITFIELD_RO k GET u8 0",
    "BITOP AND to a b",
    "COPY a b",
    "RENAME a b",
    "BLPOP a b 0",
    "BLMOVE a b LEFT RIGHT 0",
    "BLMPOP 0 2 a b LEFT",
    "LMPOP 2 a b LEFT",
    "LMPOP 3 a b LEFT",
    "ZMPOP 1 a MIN",
    "ZUNION 2 a b WEIGHTS 1 2",
    "ZUNIONSTORE to 2 a b",
    "ZUNIONSTORE to 5 a b",
    "ZRANGESTORE to a 0 -1",
    "ZDIFFSTORE to 2 a b",
    "SINTERCARD 2 a b LIMIT 1",
    "SUNIONSTORE to a b",
    "SORT a",
    "SORT a STORE to",
    "SORT a BY w* GET # ALPHA STORE to",
    "SORT_RO a",
    "GEORADIUS a 0 0 1 km",
    "GEORADIUS a 0 0 1 km STORE to",
    "GEORADIUS a 0 0 1 km STOREDIST to",
    "GEORADIUSBYMEMBER a m 1 km STORE to",
    "GEORADIUS_RO a 0 0 1 km",
    "GEOSEARCHSTORE to a FROMLONLAT 0 0 BYRADIUS 1 km",
    "EVAL script 2 a b arg",
    "EVAL script 0",
    "EVAL script 9 a",
    "EVALSHA_RO digest 1 a",
    "FCALL f 1 a x",
    "XREAD COUNT 1 STREAMS a b 0 0",
    "XREAD STREAMS a 0",
    "XREAD COUNT 1 a 0",
    "XREADGROUP GROUP g c STREAMS a >",
    "XADD a * f v",
    "XGROUP CREATE a g $",
    "XGROUP CREATE a",
    "XGROUP NOSUCH a g $",
    "XGROUP",
    "XINFO STREAM a",
    "XINFO HELP",
    "OBJECT ENCODING a",
    "OBJECT HELP",
    "MEMORY USAGE a",
    "MEMORY DOCTOR",
    "PFCOUNT a b",
    "PFMERGE to a b",
    "LCS a b LEN",
    "WATCH a b",
    "TOUCH a b",
    "PING",
    "CONFIG GET a",
    "PUBLISH c m",
    "SPUBLISH c m",
    "SSUBSCRIBE c",
    "RESTORE a 0 x",
    "EXISTS a a",
];

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_found_as_a_real_redis_finds_them() {
    let served = serve();
    let address = served.address;
    let real = RealRedis::start();
    if real.is_none() {
        println!("no redis-server is installed: the commands are only asked");
    }
    let run = move || {
        let mut ours = Client::connect(address);
        let mut theirs = real.as_ref().map(|real| Client::connect(real.address));
        let mut differing = Vec::new();
        for command in DESCRIBED {
            for about in ["GETKEYS", "GETKEYSANDFLAGS"] {
                let words = ["COMMAND", about].into_iter().chain(command.split(' '));
                let request: Vec<Vec<u8>> = words.map(|word| word.as_bytes().to_vec()).collect();
                let reply = ours.ask(&request);
                assert!(matches!(reply, Reply::Array(_) | Reply::Error(_)), "{command}: {reply:?}");
                let expected = theirs.as_mut().map(|theirs| theirs.ask(&request));
                if let Some(expected) = expected.filter(|expected| *expected != reply) {
                    differing.push(format!("{about} {command}: {reply:?}, not {expected:?}"));
                }
            }
        }
        assert!(differing.is_empty(), "{}", differing.join("\n"));
    };
    tokio::task::block_in_place(run);
}
