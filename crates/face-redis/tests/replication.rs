//! Replicas of Redis' kind: by hand, whose every byte is looked at, and a real one where it is installed.

#[path = "support/contents.rs"]
mod contents;
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use contents::{assert_equal, contents, words};
use proteus_face_redis::codec::{self, Limits};
use proteus_kernel_api::cache::rdb::file::{Part, Parts};
use proteus_kernel_api::cache::rdb::{Dumped, dump};
use support::commands::draw;
use support::real::RealRedis;
use support::wire::{Client, Reply};
use support::{Random, serve};

#[track_caller]
fn assert_same(one: &mut Client, other: &mut Client) {
    assert_equal(&contents(one, 16), &contents(other, 16));
}

/// A replica by hand: what it is sent goes to another server.
struct Replica {
    stream: TcpStream,
    input: BytesMut,
    id: String,
    offset: u64,
    target: Client,
}

impl Replica {
    fn connect(address: SocketAddr, target: Client) -> Replica {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut replica =
            Replica { stream, input: BytesMut::new(), id: String::new(), offset: 0, target };
        for line in ["PING", "REPLCONF listening-port 7777", "REPLCONF capa eof capa psync2"] {
            replica.send(line);
            assert!(matches!(replica.line().as_str(), "+PONG" | "+OK"));
        }
        replica
    }

    fn send(&mut self, line: &str) {
        let parts: Vec<String> =
            line.split(' ').map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
        let request = format!("*{}\r\n{}", parts.len(), parts.concat());
        self.stream.write_all(request.as_bytes()).unwrap();
    }

    fn fill(&mut self) {
        let mut piece = [0; 4096];
        let count = self.stream.read(&mut piece).unwrap();
        assert!(count > 0, "the server closed the connection");
        self.input.extend_from_slice(&piece[..count]);
    }

    fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
                return String::from_utf8_lossy(&self.input.split_to(end + 1)).trim().to_owned();
            }
            self.fill();
        }
    }

    /// Asks for all, and takes the copy over.
    fn copy(&mut self) {
        self.send("PSYNC ? -1");
        let line = self.line();
        let parts: Vec<&str> = line.split(' ').collect();
        let ["+FULLRESYNC", id, offset] = parts[..] else { panic!("{line}") };
        assert_eq!(id.len(), 40);
        (self.id, self.offset) = (id.to_owned(), offset.parse().unwrap());
        let mark = self.line().strip_prefix("$EOF:").unwrap().to_owned();
        let mut parts = Parts::default();
        loop {
            let Some((part, used)) = parts.next(&self.input).unwrap() else {
                self.fill();
                continue;
            };
            self.input.advance(used);
            match part {
                Part::End => break,
                Part::Database(db) => {
                    self.target.ask(&words(&format!("SELECT {db}")));
                }
                Part::Entry { key, value, expire_at_ms } => {
                    let at_ms = expire_at_ms.unwrap_or(0).to_string();
                    let restored = self.target.ask(&[
                        b"RESTORE".to_vec(),
                        key.to_vec(),
                        at_ms.into_bytes(),
                        dump(&value),
                        b"ABSTTL".to_vec(),
                    ]);
                    assert_eq!(restored, Reply::Status("OK".to_owned()));
                }
                Part::Library(text) => {
                    self.target.ask(&[b"FUNCTION".to_vec(), b"LOAD".to_vec(), text.to_vec()]);
                }
                Part::Other => {}
            }
        }
        while self.input.len() < mark.len() {
            self.fill();
        }
        assert_eq!(self.input, mark.as_bytes(), "the mark, and nothing behind it yet");
        self.input.clear();
        self.acknowledge();
    }

    fn acknowledge(&mut self) {
        self.send(&format!("REPLCONF ACK {}", self.offset));
    }

    /// Takes one command of the stream over; says which.
    fn step(&mut self) -> String {
        loop {
            let before = self.input.len();
            let Some(arguments) = codec::decode(&mut self.input, Limits::ADMITTED).unwrap() else {
                self.fill();
                continue;
            };
            self.offset += (before - self.input.len()) as u64;
            let name = String::from_utf8_lossy(&arguments[0]).into_owned();
            match name.as_str() {
                "PING" => {}
                "REPLCONF" => self.acknowledge(),
                _ => {
                    let arguments: Vec<Vec<u8>> =
                        arguments.iter().map(|argument| argument.to_vec()).collect();
                    let reply = self.target.ask(&arguments);
                    assert!(!matches!(reply, Reply::Error(_)), "{name}: {reply:?}");
                }
            }
            return name;
        }
    }

    /// Takes all over up to the message that says so, and the transaction that it stands in.
    fn catch_up(&mut self) {
        let (mut is_in_transaction, mut is_told) = (false, false);
        while is_in_transaction || !is_told {
            match self.step().as_str() {
                "MULTI" => is_in_transaction = true,
                "EXEC" => is_in_transaction = false,
                "PUBLISH" => is_told = true,
                _ => {}
            }
        }
    }
}

fn random_commands(client: &mut Client, seed: u64, count: usize) {
    let mut random = Random::new(seed);
    for _ in 0..count {
        client.ask(&draw(&mut random));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_gets_a_copy_and_whatever_happens_after_it() {
    let (served, other) = (serve(), serve());
    let (primary, copy) = (served.address, other.address);
    tokio::task::block_in_place(|| follow_by_hand(primary, copy));
}

fn follow_by_hand(primary: SocketAddr, copy: SocketAddr) {
    let mut client = Client::connect(primary);
    for db in [0, 9] {
        client.ask(&words(&format!("SELECT {db}")));
        random_commands(&mut client, 11 + db, 400);
    }
    client.ask(&words("SET there 1"));
    client.ask(&words("SELECT 0"));
    // More than one step of the copy reads.
    for number in 0..500 {
        client.ask(&words(&format!("SET number:{number} {number}")));
    }
    client.ask(&words("HSET fields a 1 b 2"));
    client.ask(&words("HPEXPIREAT fields 4000000000000 FIELDS 1 a"));
    client.ask(&words("SET expiring v PXAT 4000000000000"));
    let library = b"#!lua name=l\nredis.register_function('f', function() return 1 end)";
    client.ask(&[b"FUNCTION".to_vec(), b"LOAD".to_vec(), library.to_vec()]);

    let mut replica = Replica::connect(primary, Client::connect(copy));
    replica.copy();
    // What the copy's format has no room for comes with the stream.
    random_commands(&mut client, 5, 400);
    client.ask(&words("PUBLISH done 1"));
    replica.catch_up();
    let mut target = Client::connect(copy);
    let expected = contents(&mut client, 16);
    assert!(expected.len() > 500 && expected.keys().any(|(db, _)| *db == 9));
    assert_same(&mut target, &mut client);
    assert_eq!(target.ask(&words("FCALL f 0")), Reply::Integer(1));

    // Transactions, whole databases, and one who goes and comes back.
    for line in ["MULTI", "SET a 1", "DEL expiring", "EXEC", "SELECT 9", "FLUSHDB", "SET b 2"] {
        client.ask(&words(line));
    }
    client.ask(&words("SELECT 0"));
    client.ask(&words("PUBLISH done 1"));
    let (id, offset) = (replica.id.clone(), replica.offset);
    drop(replica);
    let mut replica = Replica::connect(primary, Client::connect(copy));
    (replica.id, replica.offset) = (id, offset);
    replica.send(&format!("PSYNC {} {}", replica.id, offset + 1));
    assert_eq!(replica.line(), format!("+CONTINUE {}", replica.id));
    replica.catch_up();
    assert_same(&mut target, &mut client);

    // It says how far it is when asked, and is told of.
    #[allow(clippy::disallowed_methods, reason = "a client that waits while the replica is here")]
    let waiting = std::thread::spawn(move || {
        let mut client = Client::connect(primary);
        client.ask(&words("SET c 3"));
        client.ask(&words("WAIT 1 0"))
    });
    while replica.step() != "REPLCONF" {}
    while !waiting.is_finished() {
        replica.acknowledge();
        std::thread::yield_now();
    }
    assert_eq!(waiting.join().unwrap(), Reply::Integer(1));
    assert_eq!(target.ask(&words("GET c")), Reply::Bulk(b"3".to_vec()));
    assert_eq!(client.ask(&words("WAIT 5 1")), Reply::Integer(1));
    let Reply::Bulk(info) = client.ask(&words("INFO replication")) else { panic!("no text") };
    let info = String::from_utf8_lossy(&info).into_owned();
    assert!(info.contains("connected_slaves:1\r\nslave0:ip=127.0.0.1,port=7777,state=online"));
    assert!(info.contains(&format!("master_replid:{}", replica.id)), "{info}");

    // A stream of another name is not gone on with.
    let mut stranger = Replica::connect(primary, Client::connect(copy));
    stranger.send(&format!("PSYNC {} 1", "0".repeat(40)));
    assert!(stranger.line().starts_with("+FULLRESYNC "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_cannot_take_such_a_copy_is_refused() {
    let served = serve();
    let address = served.address;
    tokio::task::block_in_place(|| {
        let mut client = Client::connect(address);
        assert!(matches!(client.ask(&words("PSYNC ? -1")), Reply::Error(_)));
        assert!(matches!(client.ask(&words("REPLCONF capa")), Reply::Error(_)));
        assert!(matches!(client.ask(&words("REPLCONF what ever")), Reply::Error(_)));
        assert_eq!(client.ask(&words("PING")), Reply::Status("PONG".to_owned()));
    });
}

/// What a value is, whatever form a server keeps and dumps it in.
fn parsed(payload: &[u8]) -> Dumped {
    let mut dumped = proteus_kernel_api::cache::rdb::restore(payload).unwrap();
    match &mut dumped {
        Dumped::Set(members) => members.sort(),
        Dumped::Hash(fields) => fields.sort(),
        Dumped::SortedSet(members) => members.sort_by(|a, b| a.0.cmp(&b.0)),
        Dumped::String(_) | Dumped::List(_) | Dumped::Stream(_) => {}
    }
    dumped
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_redis_follows() {
    let served = serve();
    let address = served.address;
    let Some(real) = RealRedis::start() else {
        println!("no redis-server is installed: nothing follows");
        return;
    };
    tokio::task::block_in_place(|| {
        let mut client = Client::connect(address);
        random_commands(&mut client, 3, 500);
        let mut other = Client::connect(real.address);
        other.ask(&words(&format!("REPLICAOF 127.0.0.1 {}", address.port())));
        random_commands(&mut client, 4, 500);
        assert_eq!(client.ask(&words("WAIT 1 30000")), Reply::Integer(1));
        for seed in [5, 6] {
            random_commands(&mut client, seed, 500);
            assert_eq!(client.ask(&words("WAIT 1 30000")), Reply::Integer(1));
            let expected = contents(&mut client, 16);
            let found = contents(&mut other, 16);
            assert!(expected.len() > 2, "{expected:?}");
            assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
            for (key, (dumped, at_ms)) in expected {
                let (other, other_at_ms) = &found[&key];
                assert_eq!(parsed(other), parsed(&dumped), "{key:?}");
                assert_eq!(*other_at_ms, at_ms, "{key:?}");
            }
        }
    });
}
