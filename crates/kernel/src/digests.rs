//! Comparing replicas: all that apply the same entries must come to the same changes.
//!
//! Every replica keeps a digest of all changes it ever made, and remembers it for recent entries. A
//! leader puts its own into each entry, so that every other compares at the same place. One that finds
//! a difference asks all voters what they came to there. Who is with the majority goes on, and tells
//! the others to look; who is not is taken out of service, and rebuilt from a replica that is. While no
//! majority can tell, all go on, and the next entry is judged anew.
//!
//! A majority is believed, so no replica may have its state from one that is wrong: then both would
//! outvote those who are right. Hence a state is handed on, and the log that leads to it let go, only once it
//! is *vouched for*: as many voters came to the same there as are a majority. While fewer than that compute
//! otherwise, whoever is brought up or rebuilt gets a state that is right. Commits go on meanwhile; and
//! whoever acknowledged an entry will soon have applied it and can tell.
//!
//! What follows: a replica that computes otherwise is taken out of service, and no other, if a majority of
//! the voters is right and runs with what was committed when that began. If fewer are left, because others are
//! down or behind then, those that differ go on, and say so with every entry, until one comes back that knows.
//!
//! Bytes that rot on disk are found by their checksums; what is found here is a replica that computes
//! otherwise: another build, broken memory, a fault of ours.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use proteus_consensus::Group;
use proteus_env::disk::{self, Disk, RealDisk};
use proteus_env::task;
use proteus_machine::{KernelError, ShardMachine};
use proteus_types::{LogIndex, NodeId, ShardId};
use tokio::sync::{Notify, watch};
use tracing::error;

use crate::envelope::Checked;
use crate::links::{Links, Route, Service};
use crate::shard::Shard;

/// Entries whose digests are remembered.
const REMEMBERED_MAX: usize = 4_096;

/// How long another replica may take to say what it came to.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// How often the others are asked while too few of them know.
const ASK_TRIES: u32 = 5;

/// Pause between such rounds.
const ASK_AGAIN: Duration = Duration::from_millis(300);

/// How often the voters are asked to vouch for a state while too few of them have come there.
const VOUCH_TRIES: u32 = 3;

/// Pause before they are asked again.
const VOUCH_AGAIN: Duration = Duration::from_millis(50);

const MESSAGE_ASK: u8 = 0;
const MESSAGE_LOOK: u8 = 1;

/// Beside the store's directory: its state differs.
const MARK_SUFFIX: &str = ".differs";

/// What this replica came to, entry by entry.
#[derive(Default)]
pub(crate) struct Digests {
    recent: Mutex<VecDeque<Checked>>,
    /// Where a difference is to be judged.
    suspect: Mutex<Option<LogIndex>>,
    found: Notify,
    vouched: Arc<Vouched>,
}

/// Up to which entry this replica's state is vouched for.
#[derive(Debug, Default)]
pub(crate) struct Vouched(AtomicU64);

impl Vouched {
    /// Whether the state after entry `index` may be handed on.
    pub(crate) fn covers(&self, index: LogIndex) -> bool {
        self.0.load(Ordering::Acquire) >= index.0
    }

    /// Notes that it may. A digest is one of all changes so far, so what led there may be as well.
    pub(crate) fn extend(&self, index: LogIndex) {
        self.0.fetch_max(index.0, Ordering::AcqRel);
    }
}

impl Digests {
    /// Starts anew from a state.
    pub(crate) fn begin(&self, checked: Checked) {
        let mut recent = self.recent.lock();
        recent.clear();
        recent.push_back(checked);
    }

    /// Remembers what the next entry led to.
    pub(crate) fn push(&self, checked: Checked) {
        let mut recent = self.recent.lock();
        if recent.len() == REMEMBERED_MAX {
            recent.pop_front();
        }
        recent.push_back(checked);
    }

    pub(crate) fn vouched(&self) -> &Arc<Vouched> {
        &self.vouched
    }

    pub(crate) fn newest(&self) -> Checked {
        self.recent.lock().back().copied().unwrap_or_default()
    }

    fn at(&self, index: LogIndex) -> Option<u64> {
        let recent = self.recent.lock();
        let place = recent.binary_search_by_key(&index, |checked| checked.index).ok()?;
        recent.get(place).map(|checked| checked.digest)
    }

    /// Compares with what another came to. What is not remembered here is not compared.
    pub(crate) fn compare(&self, other: Checked) {
        if self.at(other.index).is_some_and(|own| own != other.digest) {
            self.suspect(other.index);
        }
    }

    /// Whether a difference was found that is not judged yet.
    pub(crate) fn is_suspect(&self) -> bool {
        self.suspect.lock().is_some()
    }

    fn suspect(&self, index: LogIndex) {
        // The first difference explains the rest.
        self.suspect.lock().get_or_insert(index);
        self.found.notify_one();
    }

    /// Answers another replica.
    pub(crate) fn answer(&self, message: &Bytes) -> Result<Bytes, String> {
        let mut message = message.clone();
        if message.len() != 9 {
            return Err("not a question about digests".to_owned());
        }
        let kind = message.get_u8();
        let index = LogIndex(message.get_u64_le());
        match kind {
            MESSAGE_ASK => Ok(match self.at(index) {
                Some(digest) => Bytes::copy_from_slice(&digest.to_le_bytes()),
                None => Bytes::new(),
            }),
            MESSAGE_LOOK => {
                self.suspect(index);
                Ok(Bytes::new())
            }
            _ => Err("not a question about digests that is known here".to_owned()),
        }
    }
}

/// Judges the differences that are found, until asked to stop.
pub(crate) async fn judge_differences<M: ShardMachine>(
    shard: Arc<Shard<M>>,
    voters: Arc<Voters>,
    mut stop: watch::Receiver<bool>,
) {
    let state = shard.state().clone();
    loop {
        tokio::select! {
            biased;
            () = state.digests.found.notified() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let Some(index) = *state.digests.suspect.lock() else { continue };
        if let Some(reason) = voters.judge(&state.digests, index).await {
            shard.condemn(reason).await;
            return;
        }
        *state.digests.suspect.lock() = None;
    }
}

/// What the voters say of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Testimony {
    /// Enough came to the same.
    Vouched,
    /// Somebody came to something else, and it is being judged.
    Contradicted,
    /// Too few can tell, now.
    Unknown,
}

/// The voters of a shard, to be asked what they came to.
pub(crate) struct Voters {
    node: NodeId,
    group: Group,
    links: Arc<dyn Links>,
    route: Route,
}

impl Voters {
    pub(crate) fn new(node: NodeId, shard: ShardId, group: Group, links: Arc<dyn Links>) -> Voters {
        Voters { node, group, links, route: Route { shard, service: Service::Digests } }
    }

    /// Asks the voters who is right about `index`; says why this replica is not, if so.
    async fn judge(&self, digests: &Digests, index: LogIndex) -> Option<String> {
        let own = digests.at(index)?;
        let voters = self.group.membership().voters;
        let majority = voters.len() / 2 + 1;
        for attempt in 0..ASK_TRIES {
            if attempt > 0 {
                task::sleep(ASK_AGAIN).await;
            }
            let mut known = self.ask_all(index).await;
            known.insert(self.node, own);
            let votes = |digest: u64| {
                known
                    .iter()
                    .filter(|(node, other)| voters.contains(node) && **other == digest)
                    .count()
            };
            if votes(own) >= majority {
                self.tell_those_who_differ(index, own, &known).await;
                return None;
            }
            if let Some((node, _)) = known.iter().find(|(_, digest)| votes(**digest) >= majority) {
                return Some(format!(
                    "its state after entry {index} differs from that of most replicas, such as {node}"
                ));
            }
        }
        // Nobody is believed without a majority, the leader neither: taking out those that differ from it
        // would leave it without a quorum, and them without a leader to be rebuilt from. The next entry
        // is compared again, and more may answer then or remember it.
        error!(%index, "a replica's state differs from this one, and no majority can tell which is right");
        None
    }

    /// Asks the voters whether this replica's state after entry `index` is right: whether a majority came to
    /// the same, but for `wrong` of them, which are known to be wrong themselves.
    pub(crate) async fn vouch(
        &self,
        digests: &Digests,
        index: LogIndex,
        wrong: usize,
    ) -> Testimony {
        if digests.vouched.covers(index) {
            return Testimony::Vouched;
        }
        // Who comes to the same later came to the same before; what is newest the others remember longest.
        let own = digests.newest();
        if own.index < index {
            return Testimony::Unknown;
        }
        let mut testimony = Testimony::Unknown;
        for attempt in 0..VOUCH_TRIES {
            if attempt > 0 {
                // They may not have come there yet.
                task::sleep(VOUCH_AGAIN).await;
            }
            testimony = self.compare(own, wrong).await;
            if testimony != Testimony::Unknown {
                break;
            }
        }
        match testimony {
            Testimony::Vouched if wrong == 0 => digests.vouched.extend(own.index),
            Testimony::Contradicted => digests.suspect(own.index),
            _ => {}
        }
        testimony
    }

    /// Whether some voter does not have the log up to `index` yet, as far as this node knows: as leader.
    pub(crate) fn need_log(&self, index: LogIndex) -> bool {
        let status = self.group.status();
        let has = |node: &NodeId| status.matched.get(node).is_some_and(|matched| *matched >= index);
        let mut others = status.membership.voters.iter().filter(|node| **node != self.node);
        status.leadership.leader == Some(self.node) && !others.all(has)
    }

    async fn compare(&self, own: Checked, wrong: usize) -> Testimony {
        let voters = self.group.membership().voters;
        let mut wanted = (voters.len() / 2 + 1).saturating_sub(wrong).max(1);
        wanted -= usize::from(voters.contains(&self.node));
        let mut answers = self.call_all(MESSAGE_ASK, own.index, &|node| voters.contains(&node));
        while wanted > 0 {
            let Some((_, answer)) = answers.next().await else { return Testimony::Unknown };
            match answer.as_deref().and_then(<[u8]>::first_chunk::<8>) {
                Some(digest) if u64::from_le_bytes(*digest) == own.digest => wanted -= 1,
                // Of two nobody can ever tell who is right.
                Some(_) if voters.len() > 2 => return Testimony::Contradicted,
                _ => {}
            }
        }
        Testimony::Vouched
    }

    async fn ask_all(&self, index: LogIndex) -> BTreeMap<NodeId, u64> {
        let mut known = BTreeMap::new();
        let mut answers = self.call_all(MESSAGE_ASK, index, &|_| true);
        while let Some((node, answer)) = answers.next().await {
            if let Some(digest) = answer.as_deref().and_then(<[u8]>::first_chunk::<8>) {
                known.insert(node, u64::from_le_bytes(*digest));
            }
        }
        known
    }

    async fn tell_those_who_differ(
        &self,
        index: LogIndex,
        own: u64,
        known: &BTreeMap<NodeId, u64>,
    ) {
        let differs = |node: NodeId| known.get(&node).is_some_and(|digest| *digest != own);
        let mut told = self.call_all(MESSAGE_LOOK, index, &differs);
        while let Some((node, answer)) = told.next().await {
            if answer.is_some() {
                error!(%node, %index, "that node's state differs from that of most replicas, and was told so");
            }
        }
    }

    /// Sends a message to all other members that are wanted. Their answers come as they arrive.
    fn call_all(
        &self,
        kind: u8,
        index: LogIndex,
        is_wanted: &dyn Fn(NodeId) -> bool,
    ) -> FuturesUnordered<impl Future<Output = (NodeId, Option<Bytes>)> + use<>> {
        let mut message = vec![kind];
        message.extend_from_slice(&index.0.to_le_bytes());
        let message = Bytes::from(message);
        let (own, route) = (self.node, self.route);
        let members = self.group.membership().members;
        let wanted = members.into_iter().filter(|(node, _)| *node != own && is_wanted(*node));
        let call = |(node, member): (NodeId, _)| {
            let call = self.links.call(node, &member, route, message.clone());
            async move { (node, task::timeout(ASK_TIMEOUT, call).await.and_then(Result::ok)) }
        };
        wanted.map(call).collect()
    }
}

fn mark_of(store_directory: &Path) -> (PathBuf, String) {
    let name = store_directory.file_name().unwrap_or_default().to_string_lossy();
    let parent = store_directory.parent().unwrap_or(Path::new("."));
    (parent.to_owned(), format!("{name}{MARK_SUFFIX}"))
}

/// Notes, durably, that the state in `store_directory` is not to be used.
pub(crate) fn mark_difference(store_directory: &Path) -> io::Result<()> {
    let (parent, name) = mark_of(store_directory);
    let disk = RealDisk::open(&parent)?;
    disk.open(&name)?.flush()?;
    disk.flush_directory()
}

/// Whether the state in `store_directory` was found to differ from the other replicas', so that another
/// has to be put in its place before the shard opens.
pub fn differs(store_directory: &Path) -> bool {
    let (parent, name) = mark_of(store_directory);
    disk::exists(&parent.join(name))
}

pub(crate) fn clear_difference(store_directory: &Path) -> Result<(), KernelError> {
    let (parent, name) = mark_of(store_directory);
    if !disk::exists(&parent.join(&name)) {
        return Ok(());
    }
    let failed = |error: io::Error| KernelError::Stopped(error.to_string());
    let disk = RealDisk::open(&parent).map_err(failed)?;
    disk.remove(&name).map_err(failed)?;
    disk.flush_directory().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(index: u64, digest: u64) -> Checked {
        Checked { index: LogIndex(index), digest }
    }

    fn ask(index: u64) -> Bytes {
        let mut message = vec![MESSAGE_ASK];
        message.extend_from_slice(&index.to_le_bytes());
        Bytes::from(message)
    }

    #[test]
    fn only_what_is_remembered_and_other_is_suspect() {
        let digests = Digests::default();
        digests.begin(checked(10, 1));
        digests.push(checked(11, 2));
        assert_eq!(digests.newest(), checked(11, 2));
        for other in [checked(11, 2), checked(9, 7), checked(12, 7)] {
            digests.compare(other);
            assert_eq!(*digests.suspect.lock(), None);
        }
        digests.compare(checked(10, 3));
        digests.compare(checked(11, 3));
        assert_eq!(*digests.suspect.lock(), Some(LogIndex(10)));
        assert_eq!(digests.answer(&ask(11)).unwrap(), &2u64.to_le_bytes()[..]);
        assert_eq!(digests.answer(&ask(12)).unwrap(), Bytes::new());
        assert!(digests.answer(&Bytes::from_static(b"garbage")).is_err());
    }

    #[test]
    fn a_mark_lasts_until_it_is_cleared() {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("store");
        assert!(!differs(&store));
        mark_difference(&store).unwrap();
        assert!(differs(&store));
        clear_difference(&store).unwrap();
        clear_difference(&store).unwrap();
        assert!(!differs(&store));
    }
}
