//! What is known of stretches of offsets that do not overlap.

use std::collections::BTreeMap;

/// Values of stretches of offsets. Neighbours of the same value are one stretch; an offset in none has
/// no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges<T> {
    /// Last offset, inclusive, and value, by first offset.
    by_first: BTreeMap<i64, (i64, T)>,
}

impl<T> Default for Ranges<T> {
    fn default() -> Ranges<T> {
        Ranges { by_first: BTreeMap::new() }
    }
}

impl<T: Clone + PartialEq> Ranges<T> {
    /// How many stretches there are.
    pub fn len(&self) -> usize {
        self.by_first.len()
    }

    /// Whether no offset has a value.
    pub fn is_empty(&self) -> bool {
        self.by_first.is_empty()
    }

    /// First and last offset, both inclusive, and value of each stretch, in order.
    pub fn iter(&self) -> impl Iterator<Item = (i64, i64, &T)> {
        self.by_first.iter().map(|(first, (last, value))| (*first, *last, value))
    }

    /// Last offset that has a value.
    pub fn last(&self) -> Option<i64> {
        self.by_first.last_key_value().map(|(_, (last, _))| *last)
    }

    /// The stretches of `first..=last`, those without a value too, in order and without gaps.
    pub fn pieces(&self, first: i64, last: i64) -> Vec<(i64, i64, Option<T>)> {
        let mut pieces = Vec::new();
        let mut next = first;
        let before = self.by_first.range(..first).next_back();
        let within = self.by_first.range(first..=last.max(first));
        for (from, (upto, value)) in before.into_iter().chain(within) {
            let (from, upto) = ((*from).max(next), (*upto).min(last));
            if upto < from || next > last {
                continue;
            }
            if from > next {
                pieces.push((next, from - 1, None));
            }
            pieces.push((from, upto, Some(value.clone())));
            next = upto + 1;
        }
        if next <= last {
            pieces.push((next, last, None));
        }
        pieces
    }

    /// Gives `first..=last` a value, or none.
    pub fn set(&mut self, first: i64, last: i64, value: Option<T>) {
        if last < first {
            return;
        }
        self.split_at(first);
        self.split_at(last.saturating_add(1));
        let covered: Vec<i64> = self.by_first.range(first..=last).map(|(from, _)| *from).collect();
        for from in covered {
            self.by_first.remove(&from);
        }
        if let Some(value) = value {
            self.by_first.insert(first, (last, value));
            self.join_at(last.saturating_add(1));
            self.join_at(first);
        }
    }

    /// Forgets what is before an offset.
    pub fn remove_before(&mut self, offset: i64) {
        self.split_at(offset);
        self.by_first = self.by_first.split_off(&offset);
    }

    /// Makes a stretch begin at `offset`, if it is within one.
    fn split_at(&mut self, offset: i64) {
        if let Some((_, (last, value))) = self.by_first.range_mut(..offset).next_back()
            && *last >= offset
        {
            let rest = (*last, value.clone());
            *last = offset - 1;
            self.by_first.insert(offset, rest);
        }
    }

    /// Joins the stretch that begins at `offset` with the one before, if they are alike.
    fn join_at(&mut self, offset: i64) {
        let Some((last, value)) = self.by_first.get(&offset).cloned() else {
            return;
        };
        if let Some((_, (last_before, before))) = self.by_first.range_mut(..offset).next_back()
            && last_before.checked_add(1) == Some(offset)
            && *before == value
        {
            *last_before = last;
            self.by_first.remove(&offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_are_a_map_of_offsets(
            changes in prop::collection::vec((0i64..40, 0i64..12, prop::option::of(0u8..3)), 0..30),
            look in (0i64..40, 0i64..40),
            before in 0i64..40,
        ) {
            let mut ranges = Ranges::default();
            let mut model: BTreeMap<i64, u8> = BTreeMap::new();
            for (first, length, value) in changes {
                ranges.set(first, first + length, value);
                for offset in first..=first + length {
                    match value {
                        Some(value) => model.insert(offset, value),
                        None => model.remove(&offset),
                    };
                }
            }
            let mut all = BTreeMap::new();
            let mut end_before: Option<(i64, u8)> = None;
            for (first, last, value) in ranges.iter() {
                prop_assert!(first <= last);
                prop_assert!(end_before.is_none_or(|end| end.0 < first && end != (first - 1, *value)));
                end_before = Some((last, *value));
                all.extend((first..=last).map(|offset| (offset, *value)));
            }
            prop_assert_eq!(&all, &model);
            let (first, last) = look;
            let mut next = first;
            for (from, upto, value) in ranges.pieces(first, last) {
                prop_assert_eq!(from, next);
                prop_assert!(upto >= from);
                for offset in from..=upto {
                    prop_assert_eq!(model.get(&offset).copied(), value);
                }
                next = upto + 1;
            }
            prop_assert!(next == last + 1 || last < first);
            ranges.remove_before(before);
            model.retain(|offset, _| *offset >= before);
            prop_assert_eq!(ranges.iter().map(|(first, last, _)| last - first + 1).sum::<i64>(), model.len() as i64);
        }
    }
}
