//! What callers, readers and followers of the feed saw, and whether it can be true.
//!
//! A history outlives every crash: it is the memory of the clients. Each commit of the simulation has
//! an id of its own, which it leaves in all four machines at once (see [`crate::ledger`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use proteus_kernel::CommitSink;
use proteus_machine::Committed;
use proteus_shard_machine::Change;
use proteus_types::CommitTs;

use crate::planted;
use crate::trace::Trace;

/// Names one commit of the simulation.
pub type CommitId = u64;

/// What a caller knows of a commit it proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Nothing: the answer was lost, or not awaited.
    Proposed,
    /// It happened, at this time.
    Acknowledged(CommitTs),
    /// It did not happen.
    Refused,
}

/// All that was seen so far.
#[derive(Default)]
pub struct History(Mutex<Seen>, Trace);

#[derive(Default)]
struct Seen {
    commits: BTreeMap<CommitId, Known>,
    /// The longest ledger that a reader was shown.
    shown: Vec<CommitId>,
    /// What the feed announced, over all runs.
    announced: BTreeMap<CommitTs, Vec<Change>>,
    /// Times that a replica took its state over from another.
    gap_count: u64,
    /// What the feed announced last in this run.
    announced_last: CommitTs,
    /// What cannot be true, found where nobody could be told.
    violation: Option<String>,
}

impl History {
    /// A commit is on its way.
    pub fn proposed(&self) -> CommitId {
        let mut seen = self.0.lock();
        let id = seen.commits.len() as CommitId + 1;
        seen.commits.insert(id, Known::Proposed);
        id
    }

    /// Its caller was told that it happened.
    ///
    /// # Errors
    /// If the feed had not announced it by then.
    pub fn acknowledged(&self, id: CommitId, commit_ts: CommitTs) -> Result<(), String> {
        self.1.add("acknowledged", &[id, commit_ts.0], &[]);
        let mut seen = self.0.lock();
        seen.commits.insert(id, Known::Acknowledged(commit_ts));
        if seen.announced.contains_key(&commit_ts) {
            Ok(())
        } else {
            Err(format!("commit {id} was acknowledged at {commit_ts} before the feed announced it"))
        }
    }

    /// Its caller was told that it did not happen.
    pub fn refused(&self, id: CommitId) {
        self.1.add("refused", &[id], &[]);
        self.0.lock().commits.insert(id, Known::Refused);
    }

    /// How many commits were acknowledged.
    pub fn acknowledged_count(&self) -> usize {
        let seen = self.0.lock();
        seen.commits.values().filter(|known| matches!(known, Known::Acknowledged(_))).count()
    }

    /// The node starts again: the feed may repeat what the log replays.
    pub fn restarted(&self) {
        self.0.lock().announced_last = CommitTs::ZERO;
    }

    /// A reader was shown this ledger: ids in the order in which they committed.
    ///
    /// # Errors
    /// If an acknowledged commit is missing, one happened that was refused or that nobody proposed,
    /// one happened twice, the order contradicts commit timestamps, or an older state was shown.
    pub fn shown(&self, ledger: &[CommitId], applied_ts: CommitTs) -> Result<(), String> {
        let mut seen = self.0.lock();
        if let Some(violation) = seen.violation.clone() {
            return Err(violation);
        }
        let mut last_ts = CommitTs::ZERO;
        let mut places = BTreeMap::new();
        for (place, id) in ledger.iter().enumerate() {
            if places.insert(*id, place).is_some() {
                return Err(format!("commit {id} was applied twice"));
            }
            match seen.commits.get(id) {
                None => return Err(format!("commit {id} was applied and never proposed")),
                Some(Known::Refused) => {
                    return Err(format!("commit {id} was applied and its caller told that not"));
                }
                Some(Known::Acknowledged(commit_ts)) if *commit_ts <= last_ts => {
                    return Err(format!("commit {id} at {commit_ts} stands behind {last_ts}"));
                }
                Some(Known::Acknowledged(commit_ts)) => last_ts = *commit_ts,
                Some(Known::Proposed) => {}
            }
        }
        for (id, known) in &seen.commits {
            if let Known::Acknowledged(commit_ts) = known
                && !places.contains_key(id)
            {
                return Err(format!("commit {id}, acknowledged at {commit_ts}, was lost"));
            }
        }
        if applied_ts < last_ts {
            return Err(format!("a read at {applied_ts} shows a commit of {last_ts}"));
        }
        if !ledger.starts_with(&seen.shown) {
            return Err(format!(
                "a reader was shown {} commits, and then {} of which those are no beginning",
                seen.shown.len(),
                ledger.len()
            ));
        }
        seen.shown = ledger.to_vec();
        Ok(())
    }
}

/// What was known when a read began: the least that it must show.
pub struct Floor {
    acknowledged: Vec<(CommitId, CommitTs)>,
    shown_count: usize,
}

impl History {
    /// A read begins.
    pub fn read_begins(&self) -> Floor {
        let seen = self.0.lock();
        let acknowledged = seen.commits.iter().filter_map(|(id, known)| match known {
            Known::Acknowledged(commit_ts) => Some((*id, *commit_ts)),
            _ => None,
        });
        Floor { acknowledged: acknowledged.collect(), shown_count: seen.shown.len() }
    }

    /// The read that began at `floor` was shown this ledger, of one of several replicas. Others may
    /// have been shown more meanwhile.
    ///
    /// # Errors
    /// If it shows less than it must, or anything that contradicts what others were shown or told.
    pub fn shown_by_replica(&self, floor: &Floor, ledger: &[CommitId]) -> Result<(), String> {
        let last = ledger.last().copied().unwrap_or_default();
        self.1.add("shown", &[ledger.len() as u64, last], &[]);
        let mut seen = self.0.lock();
        if let Some(violation) = seen.violation.clone() {
            return Err(violation);
        }
        let common = ledger.len().min(seen.shown.len());
        if ledger[..common] != seen.shown[..common] {
            return Err("two readers were shown commits in different orders".to_owned());
        }
        if ledger.len() < floor.shown_count {
            return Err(format!(
                "a reader was shown {} commits after another had been shown {}",
                ledger.len(),
                floor.shown_count
            ));
        }
        let places: BTreeMap<CommitId, usize> =
            ledger.iter().enumerate().map(|(place, id)| (*id, place)).collect();
        if places.len() != ledger.len() {
            return Err("a commit was applied twice".to_owned());
        }
        for (id, commit_ts) in &floor.acknowledged {
            if !places.contains_key(id) {
                return Err(format!(
                    "a read does not show commit {id}, acknowledged at {commit_ts} before it began"
                ));
            }
        }
        for id in ledger {
            match seen.commits.get(id) {
                None => return Err(format!("commit {id} was applied and never proposed")),
                Some(Known::Refused) => {
                    return Err(format!("commit {id} was applied and its caller told that not"));
                }
                Some(_) => {}
            }
        }
        if ledger.len() > seen.shown.len() {
            seen.shown = ledger.to_vec();
        }
        Ok(())
    }

    /// A digest of all that callers and readers were told, and of what replicas announced.
    pub fn digest(&self) -> u64 {
        self.1.digest()
    }

    /// How often a replica took its state over from another.
    pub fn gap_count(&self) -> u64 {
        self.0.lock().gap_count
    }

    /// Notes what was found where nobody could be told.
    pub fn violated(&self, claim: String) {
        self.0.lock().violation.get_or_insert(claim);
    }
}

/// The feed of one replica of several, in one run of its node.
pub struct ReplicaFeed {
    history: Arc<History>,
    announced_last: Mutex<CommitTs>,
    /// Whether this replica is to compute otherwise than the others.
    deviates: Arc<AtomicBool>,
}

impl ReplicaFeed {
    /// A feed that has announced nothing yet, of a replica that computes otherwise than the others while
    /// `deviates` holds true, if its machine is [`planted::Deviating`].
    pub fn new(history: Arc<History>, deviates: Arc<AtomicBool>) -> ReplicaFeed {
        ReplicaFeed { history, announced_last: Mutex::new(CommitTs::ZERO), deviates }
    }
}

impl CommitSink<Change> for ReplicaFeed {
    fn on_gap(&self, applied_ts: CommitTs) {
        self.history.1.add("gap", &[applied_ts.0], &[]);
        *self.announced_last.lock() = applied_ts;
        self.history.0.lock().gap_count += 1;
    }

    fn on_commit(&self, commit: Committed<Change>) {
        let ts = commit.commit_ts;
        let changes = format!("{:?}", commit.changes);
        self.history.1.add("announced", &[ts.0], changes.as_bytes());
        if self.deviates.load(Ordering::Relaxed) {
            planted::compute_next_otherwise();
        }
        let mut announced_last = self.announced_last.lock();
        if ts <= *announced_last {
            self.history.violated(format!("a feed announced {ts} after {announced_last}"));
        }
        *announced_last = ts;
        let mut seen = self.history.0.lock();
        let before = seen.announced.insert(ts, commit.changes);
        if before.is_some_and(|before| seen.announced.get(&ts) != Some(&before)) {
            seen.violation
                .get_or_insert(format!("two replicas announced different changes at {ts}"));
        }
    }
}

impl CommitSink<Change> for History {
    fn on_gap(&self, applied_ts: CommitTs) {
        // One node by itself has nobody to take its state from.
        let mut seen = self.0.lock();
        seen.violation.get_or_insert(format!("a gap in the feed up to {applied_ts}"));
    }

    fn on_commit(&self, commit: Committed<Change>) {
        let mut seen = self.0.lock();
        let ts = commit.commit_ts;
        let newest = seen.announced.last_key_value().map_or(CommitTs::ZERO, |(ts, _)| *ts);
        let violation = if ts <= seen.announced_last {
            Some(format!("the feed announced {ts} after {}", seen.announced_last))
        } else {
            match seen.announced.get(&ts) {
                Some(before) if *before != commit.changes => {
                    Some(format!("the commit at {ts} changed other things when it was replayed"))
                }
                None if ts <= newest => {
                    Some(format!("a commit at {ts} came after one at {newest}"))
                }
                _ => None,
            }
        };
        seen.announced_last = ts;
        seen.announced.insert(ts, commit.changes);
        seen.violation = seen.violation.take().or(violation);
    }
}
