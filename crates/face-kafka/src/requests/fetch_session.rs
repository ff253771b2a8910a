//! Fetch sessions (KIP-227): what a consumer follows is said once, then only what changes.
//!
//! A session lives as long as its connection, and a connection has one at most. A client that comes
//! with the id of another is told FETCH_SESSION_ID_NOT_FOUND, and begins anew.
//!
//! Of a session's partitions only those are looked at that are *due*: new ones, those that the client has
//! said something of, those that have changed, and those that had something to tell last time.

use std::collections::{BTreeMap, HashMap};

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchRequest};
use kafka_protocol::messages::fetch_response::PartitionData;
use proteus_env::random;
use uuid::Uuid;

use super::READ_COMMITTED;
use super::followed::Key;
use crate::topics::Changed;

/// Most partitions of one session.
const PARTITIONS_MAX: usize = 200_000;
/// Epochs of a request that is about no session, and of one that begins one.
const FINAL_EPOCH: i32 = -1;
const INITIAL_EPOCH: i32 = 0;

/// A partition that is fetched.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub topic: TopicName,
    /// Nil where the version names topics.
    pub topic_id: Uuid,
    pub partition: FetchPartition,
}

/// A partition as the client names it.
type Name = (TopicName, Uuid, i32);

/// A partition of a session.
#[derive(Debug)]
struct Member {
    wanted: Wanted,
    /// High watermark and log start offset as the client was told last.
    told: Option<(i64, i64)>,
    /// Its place among those that are due.
    turn: Option<u64>,
    /// Under what it is found in the feed's changes.
    key: Option<Key>,
}

/// The session of a connection.
#[derive(Debug, Default)]
pub(crate) struct FetchSession {
    id: i32,
    /// Epoch of the next request.
    epoch: i32,
    members: HashMap<Name, Member>,
    names: HashMap<Key, Name>,
    /// In the order in which they are looked at: whoever had records goes to the end.
    due: BTreeMap<u64, Name>,
    next_turn: u64,
    /// What every partition's answer depends on beside the partition: when it changes, all are due.
    circumstances: Option<Circumstances>,
    /// Partitions that it has forgotten, and that need not be followed.
    forgotten: Vec<Key>,
}

/// Generation of the partitions' leadership, and of the rules of access.
pub(super) type Circumstances = (i32, u64);

/// What a request is about.
#[derive(Debug)]
pub(super) enum Context {
    /// Partitions that it names, which begin a session of this id, unless that is 0.
    Whole(Vec<Wanted>, i32),
    /// What has changed in the connection's session.
    Incremental(i32),
}

fn of_request(request: &FetchRequest) -> impl Iterator<Item = Wanted> + '_ {
    request.topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(|partition| Wanted {
            topic: topic.topic.clone(),
            topic_id: topic.topic_id,
            partition: partition.clone(),
        })
    })
}

/// What the request is about; begins, advances or ends the connection's session.
pub(super) fn open(
    slot: &mut Option<FetchSession>,
    request: &FetchRequest,
) -> Result<Context, ResponseError> {
    let is_own = slot.as_ref().is_some_and(|session| session.id == request.session_id);
    match request.session_epoch {
        FINAL_EPOCH | INITIAL_EPOCH => {
            let wanted: Vec<Wanted> = of_request(request).collect();
            if is_own {
                *slot = None;
            }
            let begins = request.session_epoch == INITIAL_EPOCH && wanted.len() <= PARTITIONS_MAX;
            let mut session_id = 0;
            if begins {
                session_id = i32::from_le_bytes(random::random_bytes()).unsigned_abs() as i32;
                session_id = session_id.wrapping_abs().max(1);
                let mut session =
                    FetchSession { id: session_id, epoch: 1, ..FetchSession::default() };
                wanted.iter().for_each(|wanted| session.put(wanted.clone()));
                *slot = Some(session);
            }
            Ok(Context::Whole(wanted, session_id))
        }
        epoch => {
            let session = slot.as_mut().filter(|_| is_own);
            let session = session.ok_or(ResponseError::FetchSessionIdNotFound)?;
            if epoch != session.epoch {
                return Err(ResponseError::InvalidFetchSessionEpoch);
            }
            session.epoch = epoch.checked_add(1).unwrap_or(1);
            session.update(request);
            if session.members.len() > PARTITIONS_MAX {
                *slot = None;
                return Err(ResponseError::FetchSessionIdNotFound);
            }
            Ok(Context::Incremental(request.session_id))
        }
    }
}

fn name_of(wanted: &Wanted) -> Name {
    (wanted.topic.clone(), wanted.topic_id, wanted.partition.partition)
}

impl FetchSession {
    /// Adds a partition, or changes how it is fetched.
    fn put(&mut self, wanted: Wanted) {
        let name = name_of(&wanted);
        match self.members.get_mut(&name) {
            Some(member) => member.wanted = wanted,
            None => {
                let member = Member { wanted, told: None, turn: None, key: None };
                self.members.insert(name.clone(), member);
            }
        }
        self.make_due(&name);
    }

    fn make_due(&mut self, name: &Name) {
        if let Some(member) = self.members.get_mut(name)
            && member.turn.is_none()
        {
            member.turn = Some(self.next_turn);
            self.due.insert(self.next_turn, name.clone());
            self.next_turn += 1;
        }
    }

    fn take_turn(&mut self, name: &Name) {
        let turn = self.members.get_mut(name).and_then(|member| member.turn.take());
        if let Some(turn) = turn {
            self.due.remove(&turn);
        }
    }

    /// What the request adds, changes and forgets.
    fn update(&mut self, request: &FetchRequest) {
        of_request(request).for_each(|wanted| self.put(wanted));
        for topic in &request.forgotten_topics_data {
            for partition in &topic.partitions {
                let name = (topic.topic.clone(), topic.topic_id, *partition);
                self.take_turn(&name);
                if let Some(key) = self.members.remove(&name).and_then(|member| member.key) {
                    self.names.remove(&key);
                    self.forgotten.push(key);
                }
            }
        }
    }

    /// What it has forgotten since this was asked last.
    pub(super) fn take_forgotten(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.forgotten)
    }

    /// Notes that partitions have changed.
    pub(super) fn mark(&mut self, changed: &Changed) {
        match changed {
            Changed::Some(keys) => {
                for key in keys {
                    if let Some(name) = self.names.get(key).cloned() {
                        self.make_due(&name);
                    }
                }
            }
            Changed::All => self.circumstances = None,
        }
    }

    /// What is to be looked at.
    pub(super) fn due(&mut self, circumstances: Circumstances) -> Vec<Wanted> {
        if self.circumstances.replace(circumstances) != Some(circumstances) {
            let mut names: Vec<Name> = self.members.keys().cloned().collect();
            names.sort_unstable_by(|a, b| (&*a.0, a.1, a.2).cmp(&(&*b.0, b.1, b.2)));
            names.iter().for_each(|name| self.make_due(name));
        }
        let members = self.due.values().filter_map(|name| self.members.get(name));
        members.map(|member| member.wanted.clone()).collect()
    }

    /// Notes what was looked at and answered, and says which answers an incremental response leaves out.
    pub(super) fn note(
        &mut self,
        isolation: i8,
        looked_at: &[(Wanted, Option<Key>)],
        answers: &[PartitionData],
    ) -> Vec<bool> {
        let mut is_left_out = Vec::with_capacity(answers.len());
        for ((wanted, key), data) in looked_at.iter().zip(answers) {
            let name = name_of(wanted);
            let Some(member) = self.members.get_mut(&name) else {
                is_left_out.push(false);
                continue;
            };
            if member.key != *key {
                if let Some(before) = std::mem::replace(&mut member.key, *key) {
                    self.names.remove(&before);
                }
                if let Some(key) = key {
                    self.names.insert(*key, name.clone());
                }
            }
            let told = (data.high_watermark, data.log_start_offset);
            let has_records = data.records.as_ref().is_some_and(|records| !records.is_empty());
            let is_well = data.error_code == 0;
            let is_news = has_records || !is_well || member.told != Some(told);
            is_left_out.push(!is_news);
            // An error is told each time, until the partition is well.
            member.told = is_well.then_some(told);
            let end_offset = if isolation == READ_COMMITTED {
                data.last_stable_offset
            } else {
                data.high_watermark
            };
            let is_read = is_well && !has_records && wanted.partition.fetch_offset >= end_offset;
            if has_records || is_read {
                self.take_turn(&name);
            }
            // The client may ask for the same once more.
            if has_records {
                self.make_due(&name);
            }
        }
        is_left_out
    }

    pub(super) fn id(&self) -> i32 {
        self.id
    }
}
