//! Which shard has which slots.

use serde::{Deserialize, Serialize};

use crate::{SLOT_COUNT, ShardId, Slot};

/// A stretch of consecutive slots of one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRange {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
    /// Who has them.
    pub shard: ShardId,
}

/// Which shard has which slots. Each slot has exactly one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotMap {
    /// Changes with every change of the map.
    pub version: u64,
    /// First slots of ranges, ascending, the first being 0; a range ends before the next.
    starts: Vec<(u16, ShardId)>,
    /// All shards, those without slots too, ascending.
    shards: Vec<ShardId>,
}

impl Default for SlotMap {
    /// One shard has all.
    fn default() -> SlotMap {
        SlotMap { version: 0, starts: vec![(0, ShardId::META)], shards: vec![ShardId::META] }
    }
}

impl SlotMap {
    /// All slots in equal parts over so many shards, from [`ShardId::META`] on; at least one.
    pub fn even(shard_count: u32) -> SlotMap {
        let count = shard_count.clamp(1, u32::from(SLOT_COUNT));
        let first =
            |shard: u32| (u64::from(shard) * u64::from(SLOT_COUNT) / u64::from(count)) as u16;
        let starts = (0..count).map(|shard| (first(shard), ShardId(shard))).collect();
        SlotMap { version: 0, starts, shards: (0..count).map(ShardId).collect() }
    }

    /// The shard of a slot.
    pub fn shard_of(&self, slot: Slot) -> ShardId {
        let after = self.starts.partition_point(|(first, _)| *first <= slot.number());
        after.checked_sub(1).and_then(|at| self.starts.get(at)).map_or(ShardId::META, |(_, s)| *s)
    }

    /// The shard of a key's slot.
    pub fn shard_of_key(&self, key: &[u8]) -> ShardId {
        if self.is_whole() { ShardId::META } else { self.shard_of(Slot::of_key(key)) }
    }

    /// All shards, ascending.
    pub fn shards(&self) -> &[ShardId] {
        &self.shards
    }

    /// Whether there is one shard only.
    pub fn is_whole(&self) -> bool {
        self.shards.len() <= 1
    }

    /// All slots, range by range.
    pub fn ranges(&self) -> impl Iterator<Item = SlotRange> + '_ {
        self.starts.iter().enumerate().map(|(at, (first, shard))| {
            let last = self.starts.get(at + 1).map_or(SLOT_COUNT, |(next, _)| *next) - 1;
            SlotRange { first: *first, last, shard: *shard }
        })
    }

    /// The slots of one shard, as first and last of each range.
    pub fn slots_of(&self, shard: ShardId) -> Vec<(u16, u16)> {
        let own = self.ranges().filter(|range| range.shard == shard);
        own.map(|range| (range.first, range.last)).collect()
    }

    /// The map in which `shard` has the slots from `first` to `last` as well; `None` if these are none.
    pub fn moved(&self, first: u16, last: u16, shard: ShardId) -> Option<SlotMap> {
        if first > last || last >= SLOT_COUNT {
            return None;
        }
        let mut starts: Vec<(u16, ShardId)> = Vec::new();
        let mut push = |first: u16, shard: ShardId| {
            if starts.last().is_none_or(|(_, before)| *before != shard) {
                starts.push((first, shard));
            }
        };
        let mut is_placed = false;
        for range in self.ranges() {
            if range.first < first {
                push(range.first, range.shard);
            }
            if range.last >= first && !is_placed {
                push(first, shard);
                is_placed = true;
            }
            if range.last > last {
                push(range.first.max(last + 1), range.shard);
            }
        }
        let mut shards = self.shards.clone();
        if let Err(place) = shards.binary_search(&shard) {
            shards.insert(place, shard);
        }
        Some(SlotMap { version: self.version + 1, starts, shards })
    }

    /// The map with one shard more, which has no slots.
    pub fn with_shard(&self, shard: ShardId) -> SlotMap {
        let mut map = self.clone();
        if let Err(place) = map.shards.binary_search(&shard) {
            map.shards.insert(place, shard);
            map.version += 1;
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(number: u16) -> Slot {
        Slot::new(number).unwrap()
    }

    #[test]
    fn an_even_map_gives_every_slot_to_one() {
        for count in [1, 2, 3, 16, 1000] {
            let map = SlotMap::even(count);
            let mut next = 0;
            for range in map.ranges() {
                assert_eq!(range.first, next);
                assert_eq!(map.shard_of(slot(range.first)), range.shard);
                assert_eq!(map.shard_of(slot(range.last)), range.shard);
                next = range.last + 1;
            }
            assert_eq!(next, SLOT_COUNT);
            assert_eq!(map.shards().len(), count as usize);
        }
        assert_eq!(SlotMap::even(1), SlotMap::default());
    }

    #[test]
    fn moving_changes_the_moved_slots_only() {
        let map = SlotMap::even(3);
        let to = ShardId(7);
        for (first, last) in [(0, 0), (0, 16_383), (5, 9), (5_000, 6_000), (16_383, 16_383)] {
            let moved = map.moved(first, last, to).unwrap();
            for number in (0..SLOT_COUNT).step_by(7).chain([first, last]) {
                let expected = match (first..=last).contains(&number) {
                    true => to,
                    false => map.shard_of(slot(number)),
                };
                assert_eq!(moved.shard_of(slot(number)), expected, "{first}..={last}: {number}");
            }
            let ranges: Vec<SlotRange> = moved.ranges().collect();
            assert!(ranges.windows(2).all(|two| two[0].shard != two[1].shard), "{ranges:?}");
            assert_eq!(moved.shards().last(), Some(&to));
        }
        assert_eq!(map.moved(9, 5, to), None);
        assert_eq!(map.moved(0, SLOT_COUNT, to), None);
        let one = SlotMap::default();
        let there_and_back = one.moved(10, 20, to).unwrap().moved(10, 20, ShardId::META).unwrap();
        assert_eq!(there_and_back.slots_of(ShardId::META), [(0, 16_383)]);
    }
}
