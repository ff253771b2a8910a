//! Child lists as they were last told, so that telling one again costs no scan of the state.
//!
//! A list is right as long as its znode is the same and counts the same changes of its children: what
//! is kept is compared with the znode's record at every use, and is never told of changes. It can be
//! forgotten at any time.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use proteus_kernel_api::tree::{Stat, Zxid};

/// Most memory that half of the lists may take, in bytes; twice this is kept at most.
const GENERATION_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a list takes beyond its path and names, in bytes.
const LIST_OVERHEAD_BYTES: usize = 128;

/// Which children a znode has: equal for equal lists of one znode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Edition {
    czxid: Zxid,
    pzxid: Zxid,
    cversion: i32,
}

impl Edition {
    fn of(stat: &Stat) -> Edition {
        Edition { czxid: stat.czxid, pzxid: stat.pzxid, cversion: stat.cversion }
    }
}

/// The lists told of late.
#[derive(Default)]
pub(crate) struct ChildLists {
    lists: Mutex<Generations>,
}

/// Lists that are used again move to the newer generation; the older one is forgotten as a whole when
/// the newer is full.
#[derive(Default)]
struct Generations {
    newer: HashMap<Arc<str>, (Edition, Bytes)>,
    older: HashMap<Arc<str>, (Edition, Bytes)>,
    newer_bytes: usize,
}

fn cost(path: &str, encoded: &Bytes) -> usize {
    path.len() + encoded.len() + LIST_OVERHEAD_BYTES
}

impl ChildLists {
    /// The children of the znode at `path`, encoded, if they are still those of `stat`.
    pub(crate) fn get(&self, path: &str, stat: &Stat) -> Option<Bytes> {
        let mut lists = self.lists.lock();
        if let Some((edition, encoded)) = lists.newer.get(path) {
            return (*edition == Edition::of(stat)).then(|| encoded.clone());
        }
        let (path, (edition, encoded)) = lists.older.remove_entry(path)?;
        if edition != Edition::of(stat) {
            return None;
        }
        lists.keep(path, edition, encoded.clone());
        Some(encoded)
    }

    /// Keeps the children of the znode at `path` as they are at `stat`.
    pub(crate) fn keep(&self, path: &str, stat: &Stat, encoded: Bytes) {
        self.lists.lock().keep(Arc::from(path), Edition::of(stat), encoded);
    }
}

impl Generations {
    fn keep(&mut self, path: Arc<str>, edition: Edition, encoded: Bytes) {
        let bytes = cost(&path, &encoded);
        if bytes > GENERATION_BYTES_MAX {
            return;
        }
        if self.newer_bytes + bytes > GENERATION_BYTES_MAX {
            self.older = std::mem::take(&mut self.newer);
            self.newer_bytes = 0;
        }
        let replaced = self.newer.insert(path.clone(), (edition, encoded));
        let freed = replaced.map_or(0, |(_, encoded)| cost(&path, &encoded));
        self.newer_bytes = self.newer_bytes + bytes - freed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(czxid: i64, cversion: i32) -> Stat {
        Stat { czxid: Zxid(czxid), cversion, ..Stat::default() }
    }

    #[test]
    fn a_list_is_told_again_until_a_child_comes_or_goes_or_the_znode_is_another() {
        let lists = ChildLists::default();
        lists.keep("/a", &stat(7, 1), Bytes::from_static(b"list"));
        assert_eq!(lists.get("/a", &stat(7, 1)), Some(Bytes::from_static(b"list")));
        assert_eq!(lists.get("/a", &stat(7, 2)), None);
        assert_eq!(lists.get("/a", &stat(8, 1)), None);
        assert_eq!(lists.get("/b", &stat(7, 1)), None);
    }

    #[test]
    fn memory_is_bounded_and_what_is_used_stays() {
        let lists = ChildLists::default();
        let list = |number: usize| Bytes::from(vec![number as u8; 1024]);
        for number in 0..20_000 {
            lists.keep(&format!("/{number}"), &stat(1, 1), list(number));
            assert!(lists.get("/0", &stat(1, 1)).is_some(), "forgotten after {number}");
            let lists = lists.lists.lock();
            if number % 1_000 != 0 {
                continue;
            }
            let all = lists.newer.iter().chain(&lists.older);
            let bytes: usize = all.map(|(path, (_, encoded))| cost(path, encoded)).sum();
            assert!(bytes <= 2 * GENERATION_BYTES_MAX && lists.newer_bytes <= GENERATION_BYTES_MAX);
            let counted: usize = lists.newer.iter().map(|(p, (_, list))| cost(p, list)).sum();
            assert_eq!(counted, lists.newer_bytes);
        }
        lists.keep("/huge", &stat(1, 1), Bytes::from(vec![0; GENERATION_BYTES_MAX]));
        assert_eq!(lists.get("/huge", &stat(1, 1)), None);
    }
}
