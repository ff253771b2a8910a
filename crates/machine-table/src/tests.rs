//! The machine against an obvious model, and the cases that deserve a name.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proteus_machine::{Abort, Ctx, Machine, Position, View};
use proteus_store::{LayeredStore, State};
use proteus_types::{CommitTs, LogIndex, Term};

use super::*;

struct World {
    store: LayeredStore,
    ts: CommitTs,
}

impl World {
    fn new() -> World {
        World { store: LayeredStore::in_memory(), ts: CommitTs::from_physical_ms(1_000_000) }
    }

    fn apply_at(&mut self, ts: CommitTs, op: &Op) -> Result<Reply, Refusal> {
        self.ts = ts;
        self.store.savepoint();
        let position = Position::new(proteus_types::ShardId::META, Term(1), LogIndex(1), ts);
        let result = Table::apply(&mut Ctx::new(&mut self.store, position, &mut |_| {}), op);
        match result {
            Ok(reply) => Ok(reply),
            Err(Abort::Refused(refusal)) => {
                self.store.rollback();
                Err(refusal)
            }
            Err(Abort::Fault(error)) => panic!("{error}"),
        }
    }

    fn apply(&mut self, op: &Op) -> Result<Reply, Refusal> {
        self.apply_at(self.ts.plus(1), op)
    }

    fn check(&mut self, check: &Check) -> Result<(), Refusal> {
        let position =
            Position::new(proteus_types::ShardId::META, Term(1), LogIndex(1), self.ts.plus(1));
        match Table::check(&mut Ctx::new(&mut self.store, position, &mut |_| {}), check) {
            Ok(()) => Ok(()),
            Err(Abort::Refused(refusal)) => Err(refusal),
            Err(Abort::Fault(error)) => panic!("{error}"),
        }
    }

    fn create(&mut self, name: &str, with_key: bool) -> TableId {
        let op = Op::CreateTable {
            id: None,
            definition: definition(name, with_key),
            if_not_exists: false,
        };
        match self.apply(&op) {
            Ok(Reply::TableCreated { id, existed: false }) => id,
            other => panic!("{other:?}"),
        }
    }

    fn put(&mut self, table: TableId, key: i64, value: &str) -> Result<Reply, Refusal> {
        self.apply(&put(table, key, value, PutMode::Upsert))
    }

    fn rows(&self, table: TableId, read_ts: CommitTs, rows_max: usize) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut start = Vec::new();
        loop {
            let chunk =
                rows::scan_chunk(&self.store, table, &start, None, read_ts, rows_max).unwrap();
            rows.extend(chunk.rows.into_iter().map(|(_, row)| row));
            match chunk.next_key {
                Some(next) => start = next,
                None => return rows,
            }
        }
    }

    fn collect_due(&mut self, now_ms: u64) -> usize {
        let view = View { state: &self.store, now_ms, applied_ts: self.ts };
        let due = Table::due(view, 16).unwrap();
        for op in &due {
            self.apply_at(CommitTs::from_physical_ms(now_ms), op).unwrap();
        }
        due.len()
    }

    fn key_count(&self) -> usize {
        let mut count = 0;
        proteus_store::Read::scan_prefix(
            &self.store,
            &[Table::SPACE, layout::KIND_ROW],
            &mut |_, _| {
                count += 1;
                std::ops::ControlFlow::Continue(())
            },
        )
        .unwrap();
        count
    }
}

fn definition(name: &str, with_key: bool) -> Definition {
    let column = |name: &str, column_type, not_null| Column {
        name: name.to_owned(),
        column_type,
        not_null,
        default: None,
    };
    Definition {
        schema: "public".to_owned(),
        name: name.to_owned(),
        columns: vec![
            column("id", ColumnType::BigInt, with_key),
            column("value", ColumnType::Text { length_max: None }, false),
        ],
        primary_key: if with_key { vec![0] } else { vec![] },
        source: Source::Rows,
    }
}

fn row(key: i64, value: &str) -> Row {
    vec![Value::Int(key), Value::Text(value.to_owned())]
}

fn put(table: TableId, key: i64, value: &str, mode: PutMode) -> Op {
    Op::PutRow { table, key: RowKey::FromColumns, row: row(key, value), mode }
}

fn key(key: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    Value::Int(key).encode_key(&mut bytes);
    bytes
}

#[test]
fn a_reader_keeps_seeing_its_snapshot() {
    let mut world = World::new();
    let table = world.create("t", true);
    world.put(table, 1, "old").unwrap();
    let snapshot = world.ts;
    world.put(table, 1, "new").unwrap();
    world.put(table, 2, "other").unwrap();
    world.apply(&Op::DeleteRow { table, key: key(1) }).unwrap();
    assert_eq!(world.rows(table, snapshot, 1), vec![row(1, "old")]);
    assert_eq!(world.rows(table, world.ts, 1), vec![row(2, "other")]);
    assert_eq!(rows::get(&world.store, table, &key(1), snapshot).unwrap(), Some(row(1, "old")));
    assert_eq!(rows::get(&world.store, table, &key(1), world.ts).unwrap(), None);
}

#[test]
fn first_committer_wins() {
    let mut world = World::new();
    let table = world.create("t", true);
    world.put(table, 1, "a").unwrap();
    let read_ts = world.ts;
    let check = Check::RowUnchangedSince { table, key: key(1), read_ts };
    assert_eq!(world.check(&check), Ok(()));
    world.put(table, 1, "b").unwrap();
    assert!(matches!(world.check(&check), Err(Refusal::RowChanged { .. })));
}

#[test]
fn insert_refuses_what_is_there() {
    let mut world = World::new();
    let table = world.create("t", true);
    world.apply(&put(table, 1, "a", PutMode::InsertOnly)).unwrap();
    let again = world.apply(&put(table, 1, "b", PutMode::InsertOnly));
    assert!(matches!(again, Err(Refusal::DuplicateKey { .. })));
    world.apply(&Op::DeleteRow { table, key: key(1) }).unwrap();
    world.apply(&put(table, 1, "c", PutMode::InsertOnly)).unwrap();
}

#[test]
fn rows_that_do_not_fit_are_refused() {
    let mut world = World::new();
    let table = world.create("t", true);
    for bad in [
        vec![Value::Null, Value::Null],
        vec![Value::Int(1)],
        vec![Value::Text("1".to_owned()), Value::Null],
    ] {
        let op = Op::PutRow { table, key: RowKey::FromColumns, row: bad, mode: PutMode::Upsert };
        assert!(matches!(world.apply(&op), Err(Refusal::RowInvalid { .. })));
    }
    let op = Op::PutRow { table, key: RowKey::NewRowId, row: row(1, ""), mode: PutMode::Upsert };
    assert!(matches!(world.apply(&op), Err(Refusal::RowInvalid { .. })));
}

#[test]
fn tables_without_a_key_count_their_rows() {
    let mut world = World::new();
    let table = world.create("t", false);
    let op =
        Op::PutRow { table, key: RowKey::NewRowId, row: row(7, "x"), mode: PutMode::InsertOnly };
    world.apply(&op).unwrap();
    world.apply(&op).unwrap();
    assert_eq!(world.rows(table, world.ts, 10), vec![row(7, "x"), row(7, "x")]);
}

#[test]
fn names_are_unique_and_ids_are_not_reused() {
    let mut world = World::new();
    let first = world.create("t", true);
    let again = |if_not_exists| Op::CreateTable {
        id: None,
        definition: definition("t", true),
        if_not_exists,
    };
    assert_eq!(world.apply(&again(false)), Err(Refusal::TableExists("t".to_owned())));
    assert_eq!(world.apply(&again(true)), Ok(Reply::TableCreated { id: first, existed: true }));
    world.apply(&Op::DropTable { table: first }).unwrap();
    assert_eq!(catalog::table_by_name(&world.store, "public", "t").unwrap(), None);
    assert!(world.create("t", true) > first);
    assert_eq!(world.put(first, 1, "x"), Err(Refusal::TableMissing(first)));
    assert_eq!(catalog::tables(&world.store).unwrap().len(), 1);
}

#[test]
fn a_reserved_id_is_used_once() {
    let mut world = World::new();
    let Ok(Reply::TableIdReserved(id)) = world.apply(&Op::ReserveTableId) else { panic!() };
    let create = |name, id| Op::CreateTable {
        id: Some(id),
        definition: definition(name, true),
        if_not_exists: false,
    };
    assert_eq!(world.apply(&create("a", id)), Ok(Reply::TableCreated { id, existed: false }));
    assert!(matches!(world.apply(&create("b", id)), Err(Refusal::DefinitionInvalid(_))));
    assert!(matches!(
        world.apply(&create("b", TableId(id.0 + 1))),
        Err(Refusal::DefinitionInvalid(_))
    ));
}

#[test]
fn garbage_is_collected_behind_the_horizon() {
    let mut world = World::new();
    let table = world.create("t", true);
    for value in ["a", "b", "c"] {
        world.put(table, 1, value).unwrap();
    }
    world.put(table, 2, "gone").unwrap();
    world.apply(&Op::DeleteRow { table, key: key(2) }).unwrap();
    let read_ts = world.ts;
    assert_eq!(world.key_count(), 5);
    assert_eq!(world.collect_due(world.ts.physical_ms()), 0, "nothing is old enough");
    let later_ms = world.ts.physical_ms() + VERSION_RETENTION_MS + 1;
    assert_eq!(world.collect_due(later_ms), 1);
    assert_eq!(world.key_count(), 1);
    assert_eq!(world.rows(table, world.ts, 10), vec![row(1, "c")]);
    assert_eq!(world.collect_due(later_ms), 0);
    let check = Check::RowUnchangedSince { table, key: key(2), read_ts };
    assert_eq!(world.check(&check), Err(Refusal::ReadTooOld));
}

#[test]
fn a_row_stored_again_in_the_commit_that_removed_it_is_not_collected() {
    let mut world = World::new();
    let table = world.create("t", true);
    world.put(table, 1, "a").unwrap();
    let ts = world.ts.plus(1);
    world.apply_at(ts, &Op::DeleteRow { table, key: key(1) }).unwrap();
    world.apply_at(ts, &put(table, 1, "b", PutMode::InsertOnly)).unwrap();
    world.collect_due(ts.physical_ms() + VERSION_RETENTION_MS + 1);
    assert_eq!(world.rows(table, world.ts, 10), vec![row(1, "b")]);
}

#[test]
fn rows_of_a_dropped_table_are_collected() {
    let mut world = World::new();
    let table = world.create("t", true);
    for key in 0..10 {
        world.put(table, key, "x").unwrap();
    }
    world.apply(&Op::DropTable { table }).unwrap();
    let later_ms = world.ts.physical_ms() + VERSION_RETENTION_MS + 1;
    assert_eq!(world.collect_due(later_ms), 1);
    assert_eq!((world.key_count(), world.collect_due(later_ms)), (0, 0));
}

#[derive(Debug, Clone)]
enum Step {
    Put(i64, String),
    Delete(i64),
    Collect,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0i64..6, "[a-c]{0,3}").prop_map(|(key, value)| Step::Put(key, value)),
        2 => (0i64..6).prop_map(Step::Delete),
        1 => Just(Step::Collect),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    /// Every snapshot at or after the horizon reads as the model did when it was taken.
    #[test]
    fn snapshots_match_the_model(steps in steps(), rows_max in 1usize..5) {
        let mut world = World::new();
        let table = world.create("t", true);
        let mut model: BTreeMap<i64, String> = BTreeMap::new();
        let mut snapshots = vec![(world.ts, model.clone())];
        let mut horizon = CommitTs::ZERO;
        for step in steps {
            match step {
                Step::Put(key, value) => {
                    world.put(table, key, &value).unwrap();
                    model.insert(key, value);
                }
                Step::Delete(at) => {
                    world.apply(&Op::DeleteRow { table, key: key(at) }).unwrap();
                    model.remove(&at);
                }
                Step::Collect => {
                    horizon = world.ts;
                    world.apply(&Op::CollectVersions { horizon, count_max: 7 }).unwrap();
                }
            }
            snapshots.push((world.ts, model.clone()));
        }
        for (read_ts, expected) in snapshots.into_iter().filter(|(ts, _)| *ts >= horizon) {
            let expected: Vec<Row> = expected.iter().map(|(key, value)| row(*key, value)).collect();
            prop_assert_eq!(world.rows(table, read_ts, rows_max), expected);
        }
    }
}
