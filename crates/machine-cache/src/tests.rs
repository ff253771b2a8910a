//! The machine driven directly.

use proteus_machine::Position;
use proteus_store::LayeredStore;
use proteus_types::{CommitTs, LogIndex, ShardId, SlotMap, Term};

use super::*;

/// A machine over a store in memory, its time moved by hand.
struct Bench {
    shard: ShardId,
    store: LayeredStore,
    now: CommitTs,
    changes: Vec<Change>,
}

impl Bench {
    fn new() -> Bench {
        let now = CommitTs::from_physical_ms(1_000_000);
        let shard = ShardId::META;
        Bench { shard, store: LayeredStore::in_memory(), now, changes: Vec::new() }
    }

    fn apply(&mut self, op: &Op) -> Result<Reply, Abort<Refusal>> {
        self.now = self.now.plus(1);
        let position = Position::new(self.shard, Term(1), LogIndex(1), self.now);
        let changes = &mut self.changes;
        let mut emit = |change| changes.push(change);
        Cache::apply(&mut Ctx::new(&mut self.store, position, &mut emit), op)
    }

    fn run(&mut self, line: &str) -> Reply {
        let words: Vec<&str> = line.split(' ').collect();
        self.apply(&Op::command(&words)).unwrap()
    }

    fn view(&self) -> View<'_> {
        View { state: &self.store, now_ms: self.now.physical_ms(), applied_ts: self.now }
    }

    fn read(&self, line: &str) -> Reply {
        let words: Vec<&str> = line.split(' ').collect();
        answer(self.view(), &Call::new(&words)).unwrap()
    }

    fn revision(&self, key: &str) -> Revision {
        revision(&self.store, self.now.physical_ms(), 0, key.as_bytes()).unwrap()
    }

    fn pass_ms(&mut self, ms: u64) {
        self.now = CommitTs::from_physical_ms(self.now.physical_ms() + ms);
    }

    /// Applies what is due until nothing is.
    fn settle(&mut self) {
        loop {
            let due = Cache::due(self.view(), 10).unwrap();
            if due.is_empty() {
                return;
            }
            for op in due {
                self.apply(&op).unwrap();
            }
        }
    }

    fn key_count(&self) -> usize {
        let mut count = 0;
        let all = |_: &[u8], _: &Bytes| {
            count += 1;
            ControlFlow::Continue(())
        };
        self.store.scan_prefix(&[SPACE], &mut { all }).unwrap();
        count
    }
}

#[test]
fn a_choice_of_a_leader_holds_for_its_time_or_until_another() {
    let mut bench = Bench::new();
    let mut choose = |shard: u32, node: u64, keep_ms: u64| {
        let (shard, node) = (ShardId(shard), NodeId(node));
        bench.apply(&Op::ChooseLeader { shard, node, keep_ms }).unwrap();
        let chosen = chosen_leaders(&bench.store).unwrap();
        let chosen = chosen.iter().map(|chosen| (chosen.shard.0, chosen.node.0));
        let chosen: Vec<_> = chosen.collect();
        bench.pass_ms(1_000);
        chosen
    };
    assert_eq!(choose(1, 2, 1_500), [(1, 2)]);
    assert_eq!(choose(300, 7, 60_000), [(1, 2), (300, 7)]);
    assert_eq!(choose(4, 1, 60_000), [(4, 1), (300, 7)], "the first one's time is over");
    assert_eq!(choose(300, 8, 60_000), [(4, 1), (300, 8)]);
    assert_eq!(choose(300, 9, 0), [(4, 1)]);
}

#[test]
fn slots_go_from_one_shard_to_another_with_all_that_is_theirs() {
    let (mut from, mut to) = (Bench::new(), Bench::new());
    to.shard = ShardId(1);
    let map = SlotMap::default();
    for shard in [&mut from, &mut to] {
        shard.apply(&Op::SetSlots { map: map.clone() }).unwrap();
    }
    assert!(matches!(
        to.apply(&Op::command(&["SET", "k", "v"])),
        Err(Abort::Refused(Refusal::Elsewhere))
    ));
    for number in 0..50 {
        from.run(&format!("SET string:{number} v EX {}", 100 + number));
        for element in 0..number * 6 {
            from.run(&format!("ZADD zset:{number} {element} m{element}"));
        }
        from.run(&format!("HSET hash:{number} f v g w"));
        from.run(&format!("HPEXPIRE hash:{number} 5000 FIELDS 1 f"));
    }
    let before = [sums(from.view(), 0).unwrap(), recount(from.view(), 0).unwrap()];
    assert_eq!(before[0], before[1]);
    let read = |shard: &Bench, number: u32| {
        let commands = [
            format!("GET string:{number}"),
            format!("TTL string:{number}"),
            format!("ZRANGE zset:{number} 0 -1 WITHSCORES"),
            format!("HGETALL hash:{number}"),
        ];
        commands.map(|command| shard.read(&command))
    };
    let expected: Vec<_> = (0..50).map(|number| read(&from, number)).collect();

    let (mut first, mut moves) = (0, 0);
    while first < 9_000 {
        let (last, bytes) = slots::stretch(&from.store, first, 16_383, 10_000).unwrap();
        let rows = slots::rows_of(&from.store, first, last).unwrap();
        assert!(rows.len() as u64 >= bytes);
        let digest = slots::digest(&rows);
        assert!(matches!(
            from.apply(&Op::TakeSlots { first, last, digest: digest ^ 1 }),
            Err(Abort::Refused(Refusal::RowsChanged))
        ));
        from.apply(&Op::TakeSlots { first, last, digest }).unwrap();
        to.apply(&Op::GiveSlots { first, last, rows }).unwrap();
        (first, moves) = (last + 1, moves + 1);
    }
    assert!(moves > 3, "{moves}");
    let map = map.moved(0, first - 1, ShardId(1)).unwrap();
    for shard in [&mut from, &mut to] {
        shard.apply(&Op::SetSlots { map: map.clone() }).unwrap();
        assert_eq!(sums(shard.view(), 0).unwrap(), recount(shard.view(), 0).unwrap());
    }
    let kept = recount(from.view(), 0).unwrap();
    let moved = recount(to.view(), 0).unwrap();
    assert_eq!((kept.0 + moved.0, kept.1 + moved.1), before[0]);
    assert!(kept.0 > 20 && moved.0 > 20);
    for (number, expected) in (0..50).zip(expected) {
        let found = [&from, &to].map(|shard| read(shard, number));
        for (at, expected) in expected.iter().enumerate() {
            assert!(found.iter().any(|found| found[at] == *expected), "{number}: {expected:?}");
        }
    }
    // What is due comes due where it is now, and what is new has ids of its own.
    for shard in [&mut from, &mut to] {
        shard.pass_ms(200_000);
        shard.settle();
        assert_eq!(sums(shard.view(), 0).unwrap(), recount(shard.view(), 0).unwrap());
    }
}

#[test]
fn a_key_that_expired_is_invisible_at_once_and_its_bytes_go_when_due() {
    let mut bench = Bench::new();
    bench.run("RPUSH k a b c");
    assert_eq!(bench.run("PEXPIRE k 100"), Reply::Integer(1));
    bench.pass_ms(100);
    assert_eq!(bench.read("EXISTS k"), Reply::Integer(0));
    assert_eq!(bench.read("LRANGE k 0 -1"), Reply::Array(Vec::new()));
    bench.settle();
    assert_eq!(bench.key_count(), 0);
    let expired = bench.changes.iter().any(|change| {
        matches!(change, Change::Key { class: Class::Expired, event: "expired", .. })
    });
    assert!(expired);
}

#[test]
fn fields_expire_by_themselves() {
    let mut bench = Bench::new();
    bench.run("HSET h a 1 b 2");
    let set = Reply::Array(vec![Reply::Integer(1), Reply::Integer(-2)]);
    assert_eq!(bench.run("HPEXPIRE h 50 FIELDS 2 a x"), set);
    bench.pass_ms(60);
    assert_eq!(bench.read("HGET h a"), Reply::Nil);
    bench.settle();
    assert_eq!(bench.read("HLEN h"), Reply::Integer(1));
    bench.run("HPEXPIRE h 50 FIELDS 1 b");
    bench.pass_ms(60);
    bench.settle();
    assert_eq!(bench.read("EXISTS h"), Reply::Integer(0));
    assert_eq!(bench.key_count(), 0);
}

#[test]
fn a_collection_that_outgrows_its_head_answers_as_before_and_leaves_nothing() {
    let mut bench = Bench::new();
    for number in 0..2000 {
        bench.run(&format!("ZADD z {number} m{number}"));
        bench.run(&format!("RPUSH l {number}"));
        bench.run(&format!("SADD s m{number}"));
        bench.run(&format!("HSET h f{number} {number}"));
    }
    assert_eq!(bench.read("ZRANK z m1500"), Reply::Integer(1500));
    assert_eq!(bench.read("LINDEX l -1"), Reply::Bulk("1999".into()));
    assert_eq!(bench.read("SCARD s"), Reply::Integer(2000));
    assert_eq!(bench.read("HGET h f77"), Reply::Bulk("77".into()));
    bench.run("RENAME z z2");
    assert_eq!(bench.read("ZCARD z2"), Reply::Integer(2000));
    bench.run("COPY z2 z3");
    bench.run("ZREM z2 m5");
    assert_eq!(bench.read("ZSCORE z3 m5"), Reply::Double(5.0));
    bench.run("DEL z2 z3 l s h");
    bench.settle();
    // The id of the next collection.
    assert_eq!(bench.key_count(), 1);
}

#[test]
fn a_scan_meets_all_that_stays_while_others_come_and_go() {
    let mut bench = Bench::new();
    for number in 0..500 {
        bench.run(&format!("SET stays{number} x"));
    }
    let mut cursor = "0".to_owned();
    let mut seen = std::collections::BTreeSet::new();
    for round in 0.. {
        bench.run(&format!("SET comes{round} x"));
        bench.run(&format!("DEL comes{}", round / 2));
        let Reply::Array(page) = bench.read(&format!("SCAN {cursor} COUNT 7")) else {
            panic!("no page")
        };
        let [Reply::Bulk(next), Reply::Array(keys)] = &page[..] else { panic!("no page") };
        for key in keys {
            let Reply::Bulk(key) = key else { panic!("no key") };
            seen.insert(key.clone());
        }
        cursor = String::from_utf8(next.to_vec()).unwrap();
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(seen.iter().filter(|key| key.starts_with(b"stays")).count(), 500);
}

#[test]
fn an_error_is_a_reply_or_a_refusal_as_asked() {
    let mut bench = Bench::new();
    bench.run("SET k text");
    assert!(bench.run("INCR k").is_error());
    let refused = bench.apply(&Op::OrRefuse(Call::new(&["INCR", "k"])));
    assert!(matches!(refused, Err(Abort::Refused(Refusal::Command(_)))), "{refused:?}");
}

#[test]
fn the_revision_of_a_key_changes_with_every_write() {
    let mut bench = Bench::new();
    let revision =
        |bench: &Bench| revision(&bench.store, bench.now.physical_ms(), 0, b"k").unwrap();
    assert_eq!(revision(&bench), Revision::ABSENT);
    let mut last = Revision::ABSENT;
    for line in ["HSET k f 1", "HSET k f 1", "EXPIRE k 100", "HDEL k g f", "HSET k f 1"] {
        bench.run(line);
        assert_ne!(revision(&bench), last, "{line}");
        last = revision(&bench);
    }
}

#[test]
fn choosing_depends_on_the_seed_alone() {
    let mut bench = Bench::new();
    for number in 0..50 {
        bench.run(&format!("SADD s {number}"));
    }
    let choose = |seed| {
        let call = Call { seed, ..Call::new(&["SRANDMEMBER", "s", "5"]) };
        answer(bench.view(), &call).unwrap()
    };
    assert_eq!(choose(1), choose(1));
    assert_ne!(choose(1), choose(2));
}

/// Whatever the arguments: a command neither panics nor, if it only reads, changes anything.
#[test]
fn fuzz_arguments() {
    let mut bench = Bench::new();
    for line in
        ["SET a 1", "HSET b f 1", "RPUSH c 1 2", "SADD d 1 x", "ZADD e 1 a 2 b", "XADD f 1-1 a b"]
    {
        bench.run(line);
    }
    let words: Vec<Vec<u8>> = [
        "a",
        "b",
        "c",
        "d",
        "e",
        "f",
        "0",
        "-1",
        "1",
        "9223372036854775807",
        "-9223372036854775808",
        "inf",
        "nan",
        "COUNT",
        "LIMIT",
        "STREAMS",
        "GROUP",
        "*",
        "-",
        "+",
        "1-1",
        "BYSCORE",
        "WITHSCORES",
        "u8",
        "#1",
        "FIELDS",
        "STORE",
        "",
        "GET",
        "SET",
        "u64",
        "i64",
    ]
    .iter()
    .map(|word| word.as_bytes().to_vec())
    .collect();
    let mut random = random::Random::new(7);
    for _ in 0..40_000 {
        let table = commands::table();
        let command = &table[random.below(table.len() as u64) as usize];
        if command.name.starts_with("flush") {
            continue;
        }
        let mut arguments = vec![Bytes::from_static(command.name.as_bytes())];
        for _ in 0..random.below(7) {
            let word = &words[random.below(words.len() as u64) as usize];
            arguments.push(Bytes::copy_from_slice(word));
        }
        let _ = command.key_places(&arguments);
        let call = Call { db: 0, seed: random.next(), origin: 0, arguments };
        // WATCH must not miss a change, whatever command made it.
        let key = ["a", "b", "c", "d", "e", "f"][random.below(6) as usize];
        let before = (bench.revision(key), bench.read(&format!("DUMP {key}")));
        bench.apply(&Op::Command(call.clone())).unwrap();
        let after = (bench.revision(key), bench.read(&format!("DUMP {key}")));
        assert!(before.1 == after.1 || before.0 != after.0, "{call:?} changed {key} unnoticed");
    }
}

#[test]
fn what_the_store_could_not_hold_is_refused() {
    let mut bench = Bench::new();
    let long = "x".repeat(KEY_BYTES_MAX + 1);
    for line in [
        "SET {} v",
        "SADD s {}",
        "HSET h {} v",
        "ZADD z 1 {}",
        "XGROUP CREATE x {} 0 MKSTREAM",
        "RENAME a {}",
        "HDEL h {}",
        "EVALSHA {} 0",
    ] {
        assert!(bench.run(&line.replace("{}", &long)).is_error(), "{line}");
    }
    for line in ["GET {}", "EXISTS {}"] {
        assert!(bench.read(&line.replace("{}", &long)).is_error(), "{line}");
    }
    for line in ["SET k {}", "HSET h f {}", "RPUSH l {}", "XADD x * f {}"] {
        assert!(!bench.run(&line.replace("{}", &long)).is_error(), "{line}");
    }
}

#[test]
fn every_command_is_found_by_its_name_in_any_case() {
    for command in commands::table() {
        for name in [command.name.to_owned(), command.name.to_uppercase()] {
            let found = commands::find(name.as_bytes()).unwrap();
            assert_eq!(found.name, command.name);
        }
    }
    for name in ["", "ge", "gett", "nosuchcommand", "a name that is longer than any"] {
        assert!(commands::find(name.as_bytes()).is_none(), "{name}");
    }
}
