//! The states of several shards as one key space.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use bytes::Bytes;
use proteus_machine::{Machine, View};
use proteus_store::{Direction, Read, StoreError, Visit};
use proteus_types::{ShardId, SlotMap};

use crate::cache::Cache;
use crate::cache::spread::{Home, add_up, home};

/// Keys that a scan takes from each shard at once.
const AT_ONCE: usize = 256;

/// The states of all shards, read as if they were one. What is not of the cache is in the first,
/// [`ShardId::META`].
pub struct SpreadState<'a> {
    /// Ascending.
    views: &'a [(ShardId, View<'a>)],
    map: &'a SlotMap,
}

impl<'a> SpreadState<'a> {
    /// `views` are of shards of the map, ascending, the first among them. Whoever looks at what is in another is told
    /// so by an error.
    pub fn new(views: &'a [(ShardId, View<'a>)], map: &'a SlotMap) -> SpreadState<'a> {
        SpreadState { views, map }
    }

    /// The whole as a reader sees it: at the first shard's last commit, at the latest of their times.
    pub fn view(&'a self) -> Option<View<'a>> {
        let (_, first) = self.views.first()?;
        let now_ms = self.views.iter().map(|(_, view)| view.now_ms).max()?;
        Some(View { state: self, now_ms, applied_ts: first.applied_ts })
    }

    fn all_are_here(&self) -> Result<(), StoreError> {
        let absent = self.map.shards().iter().find(|shard| self.of(**shard).is_none());
        absent.map_or(Ok(()), |shard| Err(away(*shard)))
    }

    fn first(&self) -> Result<&'a dyn Read, StoreError> {
        let first = self.views.first().map(|(_, view)| view.state);
        first.ok_or_else(|| StoreError::corrupt(b"", "no shard is here"))
    }

    fn of(&self, shard: ShardId) -> Option<&'a dyn Read> {
        let place = self.views.binary_search_by_key(&shard, |(id, _)| *id).ok()?;
        self.views.get(place).map(|(_, view)| view.state)
    }

    fn each_get(&self, key: &[u8]) -> Result<Vec<Bytes>, StoreError> {
        let mut found = Vec::new();
        for (_, view) in self.views {
            found.extend(view.state.get(key)?);
        }
        Ok(found)
    }

    fn merge(
        &self,
        start: &[u8],
        end: &[u8],
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        let bounds = (start.to_vec(), end.to_vec());
        let source = |(_, view): &(ShardId, View<'a>)| Source::new(view.state, bounds.clone());
        let mut sources: Vec<Source<'_>> = self.views.iter().map(source).collect();
        loop {
            let mut next: Option<(Bytes, Bytes)> = None;
            for source in &mut sources {
                let Some((key, value)) = source.peek(direction)? else { continue };
                let is_before = next.as_ref().is_none_or(|(first, _)| match direction {
                    Direction::Ascending => key.cmp(first) == Ordering::Less,
                    Direction::Descending => key.cmp(first) == Ordering::Greater,
                });
                if is_before {
                    next = Some((key.clone(), value.clone()));
                }
            }
            let Some((key, value)) = next else { return Ok(()) };
            // What every shard has is visited once.
            sources.iter_mut().for_each(|source| source.pass(&key));
            if visit(&key, &value).is_break() {
                return Ok(());
            }
        }
    }
}

/// Whether all that is between two keys of the store is in the first shard, and in the others, if they have it, the
/// same.
fn is_everywhere(start: &[u8], end: &[u8]) -> bool {
    let (Some([space, kind]), Some(last)) = (start.first_chunk::<2>(), end.first_chunk::<2>())
    else {
        return false;
    };
    let is_one_kind =
        last == &[*space, *kind] || last == &[*space, kind.saturating_add(1)] && end.len() == 2;
    is_one_kind && home(&[*space, *kind]) == Home::Everywhere
}

fn away(shard: ShardId) -> StoreError {
    StoreError::Away(format!("shard {shard}"))
}

impl Read for SpreadState<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        if key.first() != Some(&Cache::SPACE) {
            return self.first()?.get(key);
        }
        match home(key) {
            Home::Slot(slot) => {
                let shard = self.map.shard_of(slot);
                self.of(shard).ok_or_else(|| away(shard))?.get(key)
            }
            Home::Everywhere => self.first()?.get(key),
            Home::Sums => {
                self.all_are_here()?;
                Ok(add_up(&self.each_get(key)?))
            }
            Home::Somewhere => {
                self.all_are_here()?;
                Ok(self.each_get(key)?.into_iter().next())
            }
        }
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        let cache = [Cache::SPACE];
        let after = [Cache::SPACE + 1];
        if end <= &cache[..] || start >= &after[..] {
            return self.first()?.scan(start, end, direction, visit);
        }
        if is_everywhere(start, end) {
            return self.first()?.scan(start, end, direction, visit);
        }
        self.all_are_here()?;
        self.merge(start, end, direction, visit)
    }
}

/// What is still to come of one shard's keys.
struct Source<'a> {
    state: &'a dyn Read,
    /// What was not taken yet.
    start: Vec<u8>,
    end: Vec<u8>,
    /// What was taken and not visited, the next one last.
    taken: Vec<(Bytes, Bytes)>,
    is_at_end: bool,
}

impl<'a> Source<'a> {
    fn new(state: &'a dyn Read, (start, end): (Vec<u8>, Vec<u8>)) -> Source<'a> {
        Source { state, start, end, taken: Vec::new(), is_at_end: false }
    }

    fn peek(&mut self, direction: Direction) -> Result<Option<&(Bytes, Bytes)>, StoreError> {
        if self.taken.is_empty() && !self.is_at_end {
            let mut taken = Vec::new();
            self.state.scan(&self.start, &self.end, direction, &mut |key, value| {
                taken.push((Bytes::copy_from_slice(key), value.clone()));
                if taken.len() < AT_ONCE {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })?;
            self.is_at_end = taken.len() < AT_ONCE;
            if let Some((last, _)) = taken.last() {
                match direction {
                    Direction::Ascending => self.start = [last, &[0][..]].concat(),
                    Direction::Descending => self.end = last.to_vec(),
                }
            }
            taken.reverse();
            self.taken = taken;
        }
        Ok(self.taken.last())
    }

    fn pass(&mut self, key: &Bytes) {
        if self.taken.last().is_some_and(|(next, _)| next == key) {
            self.taken.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use proteus_store::{LayeredStore, State};
    use proteus_types::CommitTs;

    use super::*;

    #[test]
    fn a_scan_meets_the_keys_of_all_shards_in_order_and_once() {
        let mut stores = [LayeredStore::in_memory(), LayeredStore::in_memory()];
        let key =
            |number: u32| Bytes::from([&[Cache::SPACE, 2][..], &number.to_be_bytes()].concat());
        for number in 0..1_500 {
            // Every tenth is in both.
            for (at, store) in stores.iter_mut().enumerate() {
                if number % 10 == 0 || (number / 7) as usize % 2 == at {
                    store.put(key(number), Bytes::from_static(b"v"));
                }
            }
        }
        stores[1]
            .put(Bytes::from_static(&[1, 1]), Bytes::from_static(b"of no shard but the first"));
        let view = |state| View { state, now_ms: 1, applied_ts: CommitTs(1) };
        let views = [(ShardId(0), view(&stores[0])), (ShardId(1), view(&stores[1]))];
        let map = SlotMap::even(2);
        let spread = SpreadState::new(&views, &map);
        for direction in [Direction::Ascending, Direction::Descending] {
            let mut found = Vec::new();
            spread
                .scan(&key(3), &key(1_400), direction, &mut |key, _| {
                    found.push(Bytes::copy_from_slice(key));
                    ControlFlow::Continue(())
                })
                .unwrap();
            if direction == Direction::Descending {
                found.reverse();
            }
            let expected: Vec<Bytes> = (3..1_400).map(key).collect();
            assert_eq!(found, expected);
        }
        assert_eq!(spread.get(&key(8)).unwrap(), Some(Bytes::from_static(b"v")));
        assert_eq!(spread.get(&[1, 1]).unwrap(), None);
    }
}
