//! Making sure that a read sees every commit that was acknowledged before it.
//!
//! A leader that holds its lease and has applied an entry of its own term has applied all that was
//! ever acknowledged: an answer waits for the leader's own apply. Any other node asks the leader up to
//! where to apply. Readers that come while one asks share the next question.
//!
//! Readers to whom an older state will do are bounded by such questions too: what was acknowledged before one
//! was asked is there once it is answered and applied. That takes no word of the leader's for how long a message
//! was on its way, and no clock but this node's. As long as there are such readers the question is asked
//! anew, before its age comes to what they accept; they do not wait for it.
//!
//! Source: Ongaro, "Consensus: Bridging Theory and Practice" (2014), §6.4.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use proteus_consensus::Group;
use proteus_env::{Clock, task};
use proteus_machine::{KernelError, ShardMachine};
use tokio::sync::{mpsc, oneshot};

use crate::state::ShardState;

/// How long a reader waits for a leader to be found and asked, and for its entries to be applied.
const PATIENCE: Duration = Duration::from_secs(5);

/// Pause before a leader that could not be asked is asked again.
const RETRY: Duration = Duration::from_millis(20);

type Answer = Result<(), KernelError>;

/// Those who wait for the next question.
pub(crate) type Readers = mpsc::UnboundedSender<oneshot::Sender<Answer>>;

/// How far a replica's state is behind at most.
pub(crate) struct Recency {
    clock: Arc<dyn Clock>,
    /// Since the clock's start, in microseconds: what was acknowledged before is in the state. 0 as long as
    /// nothing is known.
    current_at_us: AtomicU64,
    /// Somebody asks for those who do not wait.
    is_asking: AtomicBool,
}

impl Recency {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Recency {
        Recency { clock, current_at_us: AtomicU64::new(0), is_asking: AtomicBool::new(false) }
    }

    /// Whether all is in the state that was acknowledged `staleness_max` ago. Asks `readers` on once half of
    /// that has passed.
    pub(crate) fn is_within(&self, staleness_max: Duration, readers: &Readers) -> bool {
        let current_at_us = self.current_at_us.load(Ordering::Acquire);
        if current_at_us == 0 {
            return false;
        }
        let age = self.clock.elapsed().saturating_sub(Duration::from_micros(current_at_us));
        if age > staleness_max {
            return false;
        }
        if age > staleness_max / 2 && !self.is_asking.swap(true, Ordering::AcqRel) {
            let (sender, _) = oneshot::channel();
            // If nobody asks any more readers learn it when this one is too old.
            let _ = readers.send(sender);
        }
        true
    }

    fn note(&self, asked_at: Duration) {
        let asked_at_us = u64::try_from(asked_at.as_micros()).unwrap_or(u64::MAX);
        self.current_at_us.fetch_max(asked_at_us, Ordering::AcqRel);
    }
}

/// Asks for readers until nobody is left to come.
pub(crate) async fn ask_for_readers<M: ShardMachine>(
    group: Group,
    state: Arc<ShardState<M>>,
    recency: Arc<Recency>,
    mut arriving: mpsc::UnboundedReceiver<oneshot::Sender<Answer>>,
) {
    let last_error = Mutex::new(String::new());
    while let Some(first) = arriving.recv().await {
        let mut waiting = vec![first];
        while let Ok(next) = arriving.try_recv() {
            waiting.push(next);
        }
        let answer = task::timeout(PATIENCE, async {
            let (asked_at, index) = loop {
                let asked_at = recency.clock.elapsed();
                match group.read_index().await {
                    Ok(index) => break (asked_at, index),
                    Err(error) => *last_error.lock() = error.to_string(),
                }
                task::sleep(RETRY).await;
            };
            state.wait_applied(index).await;
            // What was tried may be decided, and seen in other shards.
            state.wait_finished().await;
            recency.note(asked_at);
        })
        .await
        .ok_or_else(|| {
            let reason = std::mem::take(&mut *last_error.lock());
            KernelError::Unavailable(format!(
                "this node cannot tell whether it is up to date ({reason})"
            ))
        });
        recency.is_asking.store(false, Ordering::Release);
        for reader in waiting {
            // Who stopped waiting needs no answer.
            let _ = reader.send(answer.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use proteus_env::ManualClock;

    use super::*;

    #[test]
    fn a_state_does_within_its_bound_and_is_asked_after_once_before_it_ends() {
        let clock = Arc::new(ManualClock::at(1000));
        let recency = Recency::new(clock.clone());
        let (readers, mut asked) = mpsc::unbounded_channel();
        let mut is_within = |ms| {
            let is_within = recency.is_within(Duration::from_millis(ms), &readers);
            (is_within, asked.try_recv().is_ok())
        };
        assert_eq!(is_within(u64::MAX), (false, false), "nothing is known yet");
        recency.note(clock.elapsed());
        assert_eq!(is_within(0), (true, false));
        clock.advance(Duration::from_millis(100));
        recency.note(Duration::from_millis(500));
        assert_eq!(is_within(99), (false, false), "an older answer changes nothing");
        assert_eq!(is_within(200), (true, false), "half of it");
        clock.advance(Duration::from_millis(1));
        assert_eq!(is_within(200), (true, true));
        assert_eq!(is_within(200), (true, false), "asked for all");
        clock.advance(Duration::from_millis(99));
        assert_eq!(is_within(200), (true, false));
        clock.advance(Duration::from_millis(1));
        assert_eq!(is_within(200), (false, false));
    }
}
