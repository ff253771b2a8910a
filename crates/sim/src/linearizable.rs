//! Whether what callers of one object were told can be true of one object at all: that there is an order
//! of all calls, each at some moment between its beginning and its answer, in which one caller after another
//! would have been told the same.
//!
//! Sources: Wing and Gong, "Testing and verifying concurrent objects" (1993); Lowe, "Testing for
//! linearizability" (2017), from which the memory of configurations is.

use std::collections::BTreeSet;

/// An object's state, and what it answers.
pub trait Object: Clone + Ord {
    /// What it can be asked.
    type Call: Clone + std::fmt::Debug;
    /// What it says.
    type Answer: PartialEq + Clone + std::fmt::Debug;

    /// Answers a call.
    fn call(&mut self, call: &Self::Call) -> Self::Answer;
}

/// One call of one caller. Moments are numbers that grow; no two events have the same.
#[derive(Debug, Clone)]
pub struct Operation<O: Object> {
    /// What was asked.
    pub call: O::Call,
    /// When.
    pub began: u64,
    /// What was answered, and when; `None` if nothing was: then it may have happened at any moment since it
    /// began, or never.
    pub answered: Option<(u64, O::Answer)>,
}

/// Configurations looked at before a history counts as undecided.
const CONFIGURATIONS_MAX: usize = 500_000;

/// What is known of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// There is such an order.
    Linearizable,
    /// There is none.
    Not,
    /// There are too many to look at them all.
    Undecided,
}

/// Looks for an order of `operations` on an object that begins as `initial`.
pub fn check<O: Object>(initial: &O, operations: &[Operation<O>]) -> Verdict {
    let mut operations = operations.to_vec();
    operations.sort_by_key(|operation| operation.began);
    let words = operations.len().div_ceil(64);
    let mut seen: BTreeSet<(Vec<u64>, O)> = BTreeSet::new();
    let mut open = vec![(vec![0u64; words], initial.clone())];
    while let Some((done, state)) = open.pop() {
        let is_done = |place: usize| done[place / 64] & (1 << (place % 64)) != 0;
        let waiting = || (0..operations.len()).filter(|place| !is_done(*place));
        let answered_at = |place: usize| operations[place].answered.as_ref().map(|(at, _)| *at);
        let Some(first_answer) = waiting().filter_map(answered_at).min() else {
            return Verdict::Linearizable;
        };
        if !seen.insert((done.clone(), state.clone())) {
            continue;
        }
        if seen.len() > CONFIGURATIONS_MAX {
            return Verdict::Undecided;
        }
        // Any that had begun before the first of the rest was answered may be next.
        let next = waiting().take_while(|place| operations[*place].began < first_answer);
        let next: Vec<usize> = next.collect();
        // Those that were answered are tried first: they are popped last to be pushed.
        let (answered, unanswered): (Vec<usize>, Vec<usize>) =
            next.into_iter().partition(|place| operations[*place].answered.is_some());
        for place in unanswered.into_iter().chain(answered.into_iter().rev()) {
            let mut after = state.clone();
            let answer = after.call(&operations[place].call);
            if operations[place].answered.as_ref().is_none_or(|(_, told)| *told == answer) {
                let mut done = done.clone();
                done[place / 64] |= 1 << (place % 64);
                open.push((done, after));
            }
        }
    }
    Verdict::Not
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
    struct Register(u64);

    #[derive(Debug, Clone)]
    enum Call {
        Get,
        Set(u64),
    }

    impl Object for Register {
        type Call = Call;
        type Answer = u64;

        fn call(&mut self, call: &Call) -> u64 {
            if let Call::Set(value) = call {
                self.0 = *value;
            }
            self.0
        }
    }

    fn operation(call: Call, began: u64, answered: Option<(u64, u64)>) -> Operation<Register> {
        Operation { call, began, answered }
    }

    #[test]
    fn a_read_between_two_writes_may_show_either() {
        let set = |value, began, at| operation(Call::Set(value), began, Some((at, value)));
        let read = |value| operation(Call::Get, 2, Some((5, value)));
        for (value, expected) in
            [(1, Verdict::Linearizable), (2, Verdict::Linearizable), (0, Verdict::Not)]
        {
            let history = [set(1, 0, 1), set(2, 3, 4), read(value)];
            assert_eq!(check(&Register(0), &history), expected, "{value}");
        }
    }

    #[test]
    fn what_was_shown_stays() {
        let lost = operation(Call::Set(7), 0, None);
        let read = |value, began| operation(Call::Get, began, Some((began + 1, value)));
        let verdict =
            |first, second| check(&Register(0), &[lost.clone(), read(first, 2), read(second, 4)]);
        assert_eq!(verdict(0, 0), Verdict::Linearizable);
        assert_eq!(verdict(0, 7), Verdict::Linearizable, "it may come late");
        assert_eq!(verdict(7, 0), Verdict::Not, "and not go again");
    }

    #[test]
    fn a_write_that_nobody_saw_and_was_acknowledged_counts() {
        let set = operation(Call::Set(7), 0, Some((1, 7)));
        let read = operation(Call::Get, 2, Some((3, 0)));
        assert_eq!(check(&Register(0), &[set, read]), Verdict::Not);
    }
}
