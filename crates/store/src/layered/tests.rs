use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn bytes(byte: u8) -> Bytes {
    Bytes::from(vec![byte])
}

/// Some are short enough to be at hand.
fn key_of(byte: u8) -> Bytes {
    Bytes::from(vec![byte; if byte.is_multiple_of(2) { 1 } else { 5 }])
}

/// Some stand apart from their keys on disk.
fn value_of(byte: u8) -> Bytes {
    Bytes::from(vec![byte; if byte.is_multiple_of(3) { 5_000 } else { 1 }])
}

fn scan_all(store: &LayeredStore, direction: Direction) -> Vec<(u8, u8)> {
    let mut found = Vec::new();
    store
        .scan(&[0], &[255], direction, &mut |key, value| {
            found.push((key[0], value[0]));
            ControlFlow::Continue(())
        })
        .unwrap();
    found
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    Savepoint,
    Rollback,
    Freeze,
    Write,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..20, any::<u8>()).prop_map(|(k, v)| Step::Put(k, v)),
        3 => (0u8..20).prop_map(Step::Delete),
        1 => Just(Step::Savepoint),
        1 => Just(Step::Rollback),
        1 => Just(Step::Freeze),
        1 => Just(Step::Write),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the layers hold, the store answers like one sorted map; a reopened store answers
    /// like the map at the last written checkpoint.
    #[test]
    fn layers_answer_like_one_map(steps in prop::collection::vec(step(), 1..120)) {
        let directory = tempfile::tempdir().unwrap();
        let mut store = LayeredStore::over(DiskStore::open(directory.path()).unwrap());
        let mut model = BTreeMap::new();
        let mut saved = model.clone();
        let mut on_disk = model.clone();
        let mut frozen = None;
        for step in steps {
            match step {
                Step::Put(key, value) => {
                    store.put(key_of(key), value_of(value));
                    model.insert(key, value);
                }
                Step::Delete(key) => {
                    store.delete(key_of(key));
                    model.remove(&key);
                }
                Step::Savepoint => {
                    store.savepoint();
                    saved = model.clone();
                }
                Step::Rollback => {
                    store.rollback();
                    model = saved.clone();
                }
                Step::Freeze => {
                    if let Some(checkpoint) = store.freeze() {
                        frozen = Some((checkpoint, model.clone()));
                    }
                    store.savepoint();
                    saved = model.clone();
                }
                Step::Write => {
                    if let Some((checkpoint, at_freeze)) = frozen.take() {
                        checkpoint.write().unwrap();
                        store.release_frozen();
                        on_disk = at_freeze;
                    }
                }
                Step::Reopen => {
                    frozen = None;
                    drop(store);
                    store = LayeredStore::over(DiskStore::open(directory.path()).unwrap());
                    model = on_disk.clone();
                    saved = model.clone();
                }
            }
            for key in 0..20 {
                let found = store.get(&key_of(key)).unwrap();
                prop_assert_eq!(found, model.get(&key).map(|value| value_of(*value)));
            }
            let ascending: Vec<_> = model.iter().map(|(k, v)| (*k, *v)).collect();
            prop_assert_eq!(&scan_all(&store, Direction::Ascending), &ascending);
            let descending: Vec<_> = ascending.into_iter().rev().collect();
            prop_assert_eq!(scan_all(&store, Direction::Descending), descending);
        }
    }
}

#[test]
fn rollback_restores_size_and_content() {
    let mut store = LayeredStore::in_memory();
    store.put(bytes(1), bytes(1));
    let before_bytes = store.active_bytes();
    store.savepoint();
    store.put(bytes(1), Bytes::from(vec![0; 1000]));
    store.put(bytes(2), bytes(2));
    store.delete(bytes(1));
    store.rollback();
    assert_eq!(store.active_bytes(), before_bytes);
    assert_eq!(store.get(&[1]).unwrap(), Some(bytes(1)));
    assert_eq!(store.get(&[2]).unwrap(), None);
}

/// The end of a prefix that has none is longer than any key; the tree on disk takes no such bound.
#[test]
fn everything_is_one_prefix() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = LayeredStore::over(DiskStore::open(directory.path()).unwrap());
    store.put(Bytes::from_static(b"\xFF\xFF"), Bytes::from_static(b"v"));
    store.freeze().unwrap().write().unwrap();
    store.release_frozen();
    for prefix in [&b""[..], b"\xFF"] {
        let mut count = 0;
        store
            .scan_prefix(prefix, &mut |_, _| {
                count += 1;
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(count, 1);
    }
}
