//! The order of a table's keys.

use std::cmp::Ordering;
use std::ops::Bound;

/// Entries of a leaf, at most: to make room in one moves some kilobytes that lie together, which costs less than
/// to descend through more of them.
const LEAF_ENTRIES_MAX: usize = 256;

/// The first bytes of a key, as numbers that compare as the bytes do. What is beyond the end of a key is zero, so
/// keys with the same lead need not be the same. Long enough for what tells keys of most kinds apart: type, id
/// and place of an element, or slot and hash of a head and its name.
type Lead = [u64; 3];

const LEAD_BYTES: usize = 24;

fn lead(key: &[u8]) -> Lead {
    let mut bytes = [0; LEAD_BYTES];
    let shown = key.get(..LEAD_BYTES).unwrap_or(key);
    if let Some(front) = bytes.get_mut(..shown.len()) {
        front.copy_from_slice(shown);
    }
    let (numbers, _) = bytes.as_chunks::<8>();
    let at = |place: usize| numbers.get(place).map_or(0, |bytes| u64::from_be_bytes(*bytes));
    [at(0), at(1), at(2)]
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    lead: Lead,
    number: u32,
}

/// Where an entry stands, or would.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct At {
    leaf: usize,
    entry: usize,
}

/// Numbers of rows in the order of the rows' keys.
///
/// A tree of two levels with wide leaves. An entry has the first bytes of its key beside it, so that a search
/// compares numbers that lie together and looks at the rows themselves only where these bytes are the same. A tree of
/// whole keys costs three times as much for each key that is new.
///
/// Whoever calls tells the keys by their numbers, in each call the same.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// None is empty.
    leaves: Vec<Vec<Entry>>,
    /// The first lead of each leaf.
    firsts: Vec<Lead>,
}

impl Order {
    /// Adds a row whose key is not among them.
    pub(crate) fn insert<'k>(&mut self, number: u32, keys: impl Fn(u32) -> &'k [u8]) {
        let key = keys(number);
        let entry = Entry { lead: lead(key), number };
        let at = self.lower_bound(key, &keys);
        // Behind the end of a leaf and before the next one it belongs to the former.
        let at = match at.leaf.checked_sub(1).and_then(|before| self.leaves.get(before)) {
            Some(before) if at.entry == 0 => At { leaf: at.leaf - 1, entry: before.len() },
            _ => at,
        };
        let is_last = at.leaf + 1 >= self.leaves.len();
        let Some(leaf) = self.leaves.get_mut(at.leaf) else {
            self.leaves.push(vec![entry]);
            self.firsts.push(entry.lead);
            return;
        };
        if leaf.len() < LEAF_ENTRIES_MAX {
            leaf.insert(at.entry, entry);
            if at.entry == 0 {
                self.note_first(at.leaf);
            }
            return;
        }
        let mut behind = Vec::with_capacity(LEAF_ENTRIES_MAX);
        if is_last && at.entry == leaf.len() {
            // Keys that come in their order leave full leaves behind.
            behind.push(entry);
        } else {
            behind.extend(leaf.drain(LEAF_ENTRIES_MAX / 2..));
            match at.entry.checked_sub(leaf.len()) {
                Some(place) if place > 0 => behind.insert(place, entry),
                _ => leaf.insert(at.entry, entry),
            }
        }
        if let Some(first) = behind.first() {
            self.firsts.insert(at.leaf + 1, first.lead);
            self.leaves.insert(at.leaf + 1, behind);
        }
        self.note_first(at.leaf);
    }

    /// Takes a row out.
    pub(crate) fn remove<'k>(&mut self, number: u32, keys: impl Fn(u32) -> &'k [u8]) {
        let at = self.lower_bound(keys(number), &keys);
        let Some(leaf) = self.leaves.get_mut(at.leaf) else { return };
        if leaf.get(at.entry).is_none_or(|entry| entry.number != number) {
            return;
        }
        leaf.remove(at.entry);
        if leaf.is_empty() {
            self.leaves.remove(at.leaf);
            self.firsts.remove(at.leaf);
        } else {
            self.note_first(at.leaf);
        }
    }

    fn note_first(&mut self, at: usize) {
        let first = self.leaves.get(at).and_then(|leaf| leaf.first());
        if let (Some(first), Some(noted)) = (first, self.firsts.get_mut(at)) {
            *noted = first.lead;
        }
    }

    /// All numbers.
    pub(crate) fn iter(&self) -> Range<'_> {
        Range { order: self, front: At { leaf: 0, entry: 0 }, back: self.end() }
    }

    /// Numbers of the keys within `bounds`.
    pub(crate) fn range<'k>(
        &self,
        (start, end): (Bound<&[u8]>, Bound<&[u8]>),
        keys: impl Fn(u32) -> &'k [u8],
    ) -> Range<'_> {
        let front = match start {
            Bound::Unbounded => At { leaf: 0, entry: 0 },
            Bound::Included(key) => self.bound(key, false, &keys),
            Bound::Excluded(key) => self.bound(key, true, &keys),
        };
        let back = match end {
            Bound::Unbounded => self.end(),
            Bound::Included(key) => self.bound(key, true, &keys),
            Bound::Excluded(key) => self.bound(key, false, &keys),
        };
        Range { order: self, front, back }
    }

    /// One past the last entry.
    fn end(&self) -> At {
        At { leaf: self.leaves.len(), entry: 0 }
    }

    fn lower_bound<'k>(&self, key: &[u8], keys: &impl Fn(u32) -> &'k [u8]) -> At {
        self.bound(key, false, keys)
    }

    /// The first entry whose key is not before `key`, or is behind it.
    fn bound<'k>(&self, key: &[u8], is_behind: bool, keys: &impl Fn(u32) -> &'k [u8]) -> At {
        let wanted = lead(key);
        let is_before =
            |entry: &Entry| match entry.lead.cmp(&wanted).then_with(|| keys(entry.number).cmp(key))
            {
                Ordering::Less => true,
                Ordering::Equal => is_behind,
                Ordering::Greater => false,
            };
        // Leaves that begin with a smaller lead, then those of the same that begin before the key.
        let smaller = self.firsts.partition_point(|first| *first < wanted);
        let same = self.firsts.get(smaller..).unwrap_or_default();
        let same = same.partition_point(|first| *first == wanted);
        let same = self.leaves.get(smaller..smaller + same).unwrap_or_default();
        let after = smaller + same.partition_point(|leaf| leaf.first().is_some_and(is_before));
        let Some(leaf) = after.checked_sub(1) else { return At { leaf: 0, entry: 0 } };
        let entries = self.leaves.get(leaf).map(Vec::as_slice).unwrap_or_default();
        let entry = entries.partition_point(is_before);
        if entry == entries.len() { At { leaf: after, entry: 0 } } else { At { leaf, entry } }
    }
}

/// Numbers of some rows in the order of their keys.
pub(crate) struct Range<'o> {
    order: &'o Order,
    front: At,
    /// One past the last.
    back: At,
}

impl Iterator for Range<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        if self.front >= self.back {
            return None;
        }
        let leaf = self.order.leaves.get(self.front.leaf)?;
        let entry = leaf.get(self.front.entry)?;
        self.front.entry += 1;
        if self.front.entry == leaf.len() {
            self.front = At { leaf: self.front.leaf + 1, entry: 0 };
        }
        Some(entry.number)
    }
}

impl DoubleEndedIterator for Range<'_> {
    fn next_back(&mut self) -> Option<u32> {
        if self.front >= self.back {
            return None;
        }
        if self.back.entry == 0 {
            let leaf = self.back.leaf.checked_sub(1)?;
            self.back = At { leaf, entry: self.order.leaves.get(leaf)?.len() };
        }
        self.back.entry = self.back.entry.checked_sub(1)?;
        Some(self.order.leaves.get(self.back.leaf)?.get(self.back.entry)?.number)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Keys of few different bytes, many of which differ only behind what stands beside their numbers, or by
    /// zeros at the end.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        let tail = prop::collection::vec(0u8..3, 0..6);
        (prop_oneof![Just(0usize), Just(22), Just(24), Just(30)], tail).prop_map(
            |(common, tail)| {
                let mut key = vec![7; common];
                key.extend(tail);
                key
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn it_is_the_order_of_a_map(
            rounds in prop::collection::vec((key(), prop::bool::weighted(0.2)), 1..3_000),
            bounds in prop::collection::vec((key(), key()), 20),
        ) {
            let mut keys: Vec<Vec<u8>> = Vec::new();
            let mut order = Order::default();
            let mut model: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
            for (key, is_removed) in rounds {
                if let Some(number) = model.get(&key).copied() {
                    if is_removed {
                        order.remove(number, |number| &keys[number as usize]);
                        model.remove(&key);
                    }
                    continue;
                }
                let number = keys.len() as u32;
                keys.push(key.clone());
                order.insert(number, |number| &keys[number as usize]);
                model.insert(key, number);
            }
            let all: Vec<u32> = model.values().copied().collect();
            prop_assert_eq!(order.iter().collect::<Vec<_>>(), all);
            for (a, b) in bounds {
                let (start, end) = if a <= b { (a, b) } else { (b, a) };
                for bounds in [
                    (Bound::Included(&start[..]), Bound::Excluded(&end[..])),
                    (Bound::Included(&start[..]), Bound::Included(&end[..])),
                    (Bound::Excluded(&start[..]), Bound::Unbounded),
                    (Bound::Unbounded, Bound::Excluded(&end[..])),
                ] {
                    if matches!(bounds, (Bound::Excluded(a), Bound::Excluded(b)) if a == b) {
                        continue;
                    }
                    let expected: Vec<u32> =
                        model.range::<[u8], _>(bounds).map(|(_, number)| *number).collect();
                    let found = order.range(bounds, |number| &keys[number as usize][..]);
                    prop_assert_eq!(found.collect::<Vec<_>>(), expected.clone());
                    let backwards = order.range(bounds, |number| &keys[number as usize][..]).rev();
                    let expected: Vec<u32> = expected.into_iter().rev().collect();
                    prop_assert_eq!(backwards.collect::<Vec<_>>(), expected);
                }
            }
        }
    }

    /// Forwards, backwards and mixed, more than a few leaves, also taken out again.
    #[test]
    fn many_keys_keep_their_order() {
        let count = 20_000u32;
        for step in [1, count - 1, 7_919] {
            let keys: Vec<[u8; 4]> = (0..count).map(|n| (n * step % count).to_be_bytes()).collect();
            let mut order = Order::default();
            for number in 0..count {
                order.insert(number, |number| &keys[number as usize]);
            }
            let found: Vec<[u8; 4]> = order.iter().map(|number| keys[number as usize]).collect();
            assert_eq!(found.len(), count as usize);
            assert!(found.is_sorted());
            for number in (0..count).rev() {
                order.remove(number, |number| &keys[number as usize]);
            }
            assert_eq!(order.iter().next(), None);
        }
    }
}
