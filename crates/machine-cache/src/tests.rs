use std::collections::BTreeMap;

use proptest::prelude::*;
use proteus_machine::Position;
use proteus_store::LayeredStore;
use proteus_types::{CommitTs, LogIndex};

use super::*;

struct World {
    store: LayeredStore,
    ts: CommitTs,
}

impl World {
    fn new() -> World {
        World { store: LayeredStore::in_memory(), ts: CommitTs::from_physical_ms(1_000) }
    }

    fn advance_ms(&mut self, by_ms: u64) {
        self.ts = CommitTs::from_physical_ms(self.ts.physical_ms() + by_ms);
    }

    fn apply(&mut self, op: &Op) -> Reply {
        self.ts = self.ts.plus(1);
        let position = Position { index: LogIndex(1), commit_ts: self.ts };
        let mut emit = |_| {};
        Cache::apply(&mut Ctx::new(&mut self.store, position, &mut emit), op).unwrap()
    }

    fn ask(&self, query: &Query) -> Reply {
        answer(&self.store, self.ts.physical_ms(), query).unwrap()
    }
}

fn b(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn set(key: &str, value: &str, expiry: Expiry) -> Op {
    let condition = SetCondition::Always;
    Op::Set { key: b(key), value: b(value), condition, expiry, get: false }
}

#[test]
fn an_expired_key_is_absent_at_once_and_removed_when_due() {
    let mut world = World::new();
    world.apply(&set("k", "v", Expiry::InMs(100)));
    assert_eq!(world.ask(&Query::TimeToLiveMs(b("k"))), Reply::Integer(100));
    world.advance_ms(100);
    assert_eq!(world.ask(&Query::Get(b("k"))), Reply::Nil);
    assert_eq!(world.ask(&Query::KeyCount), Reply::Integer(1));
    let view = View { state: &world.store, now_ms: world.ts.physical_ms(), applied_ts: world.ts };
    let due = Cache::due(view, 10).unwrap();
    assert_eq!(due, vec![Op::Expire { key: b("k"), expire_at_ms: 1_100 }]);
    world.apply(&due[0]);
    assert_eq!(world.ask(&Query::KeyCount), Reply::Integer(0));
}

#[test]
fn an_expiry_that_was_changed_meanwhile_removes_nothing() {
    let mut world = World::new();
    world.apply(&set("k", "v", Expiry::InMs(100)));
    world.apply(&set("k", "w", Expiry::Never));
    world.advance_ms(200);
    world.apply(&Op::Expire { key: b("k"), expire_at_ms: 1_100 });
    assert_eq!(world.ask(&Query::Get(b("k"))), Reply::Bulk(b("w")));
}

#[test]
fn fields_of_an_expired_hash_do_not_return() {
    let mut world = World::new();
    let fields = |name: &str| vec![(b(name), b("1"))];
    world.apply(&Op::HashSet { key: b("h"), fields: fields("old"), only_absent: false });
    let condition = ExpireCondition::Always;
    world.apply(&Op::SetExpiry { key: b("h"), expiry: Expiry::InMs(10), condition });
    world.advance_ms(10);
    world.apply(&Op::HashSet { key: b("h"), fields: fields("new"), only_absent: false });
    assert_eq!(world.ask(&Query::HashGetAll(b("h"))), Reply::Map(fields("new")));
    assert_eq!(world.ask(&Query::TimeToLiveMs(b("h"))), Reply::Integer(-1));
}

#[test]
fn wrong_types_and_bad_numbers_are_answers() {
    let mut world = World::new();
    world.apply(&set("s", "01", Expiry::Never));
    assert_eq!(
        world.apply(&Op::Increment { key: b("s"), by: 1 }),
        Reply::Error(CommandError::NotAnInteger)
    );
    world.apply(&set("s", &i64::MAX.to_string(), Expiry::Never));
    assert_eq!(
        world.apply(&Op::Increment { key: b("s"), by: 1 }),
        Reply::Error(CommandError::Overflow)
    );
    assert_eq!(world.ask(&Query::HashGet(b("s"), b("f"))), Reply::Error(CommandError::WrongType));
}

#[test]
fn watch_sees_change_deletion_and_return() {
    let mut world = World::new();
    let now = |world: &World| revision(&world.store, world.ts.physical_ms(), b"k").unwrap();
    let absent = now(&world);
    world.apply(&set("k", "v", Expiry::Never));
    let first = now(&world);
    assert_ne!(absent, first);
    world.apply(&Op::Delete { keys: vec![b("k")] });
    assert_eq!(now(&world), Revision::ABSENT);
    world.apply(&set("k", "v", Expiry::Never));
    assert_ne!(now(&world), first, "the same value again is a change");
}

fn key() -> impl Strategy<Value = Bytes> {
    prop_oneof![Just(b("a")), Just(b("b")), Just(b("a\0"))]
}

fn op() -> impl Strategy<Value = Op> {
    let small = -3i64..3;
    prop_oneof![
        (key(), small.clone()).prop_map(|(key, n)| Op::Set {
            key,
            value: Bytes::from(n.to_string()),
            condition: SetCondition::Always,
            expiry: Expiry::Never,
            get: false
        }),
        (key(), small.clone()).prop_map(|(key, by)| Op::Increment { key, by }),
        key().prop_map(|key| Op::Delete { keys: vec![key] }),
        (key(), key(), small.clone()).prop_map(|(key, field, n)| Op::HashSet {
            key,
            fields: vec![(field, Bytes::from(n.to_string()))],
            only_absent: false
        }),
        (key(), key()).prop_map(|(key, field)| Op::HashDelete { key, fields: vec![field] }),
        (key(), key(), small).prop_map(|(key, field, by)| Op::HashIncrement { key, field, by }),
    ]
}

#[derive(Clone, PartialEq, Debug)]
enum Model {
    String(i64),
    Hash(BTreeMap<Bytes, i64>),
}

fn number(value: &Bytes) -> i64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

fn model_apply(model: &mut BTreeMap<Bytes, Model>, op: &Op) {
    match op {
        Op::Set { key, value, .. } => {
            model.insert(key.clone(), Model::String(number(value)));
        }
        Op::Increment { key, by } => match model.entry(key.clone()).or_insert(Model::String(0)) {
            Model::String(value) => *value += by,
            Model::Hash(_) => {}
        },
        Op::Delete { keys } => {
            model.remove(&keys[0]);
        }
        Op::HashSet { key, fields, .. } => {
            if let Model::Hash(hash) =
                model.entry(key.clone()).or_insert(Model::Hash(BTreeMap::new()))
            {
                hash.insert(fields[0].0.clone(), number(&fields[0].1));
            }
        }
        Op::HashIncrement { key, field, by } => {
            if let Model::Hash(hash) =
                model.entry(key.clone()).or_insert(Model::Hash(BTreeMap::new()))
            {
                *hash.entry(field.clone()).or_insert(0) += by;
            }
        }
        Op::HashDelete { key, fields } => {
            if let Some(Model::Hash(hash)) = model.get_mut(key) {
                hash.remove(&fields[0]);
                if hash.is_empty() {
                    model.remove(key);
                }
            }
        }
        other => panic!("not in the strategy: {other:?}"),
    }
}

proptest! {
    /// The machine agrees with maps, and leaves nothing behind when every key is deleted.
    #[test]
    fn agrees_with_a_model(ops in prop::collection::vec(op(), 1..60)) {
        let mut world = World::new();
        let mut model = BTreeMap::new();
        for op in &ops {
            world.apply(op);
            model_apply(&mut model, op);
            prop_assert_eq!(world.ask(&Query::KeyCount), Reply::Integer(model.len() as i64));
            for (key, expected) in &model {
                match expected {
                    Model::String(value) => {
                        let value = Bytes::from(value.to_string());
                        prop_assert_eq!(world.ask(&Query::Get(key.clone())), Reply::Bulk(value));
                    }
                    Model::Hash(hash) => {
                        let fields = hash.iter().map(|(f, n)| (f.clone(), Bytes::from(n.to_string()))).collect();
                        prop_assert_eq!(world.ask(&Query::HashGetAll(key.clone())), Reply::Map(fields));
                        let count = Reply::Integer(hash.len() as i64);
                        prop_assert_eq!(world.ask(&Query::HashLength(key.clone())), count);
                    }
                }
            }
        }
        for key in [b("a"), b("b"), b("a\0")] {
            world.apply(&Op::Delete { keys: vec![key] });
        }
        let mut left = Vec::new();
        world.store.scan_prefix(&[Cache::SPACE], &mut |key, _| {
            left.push(key.to_vec());
            std::ops::ControlFlow::Continue(())
        }).unwrap();
        prop_assert!(left.len() <= 1, "only the count of keys remains: {:?}", left);
    }
}
