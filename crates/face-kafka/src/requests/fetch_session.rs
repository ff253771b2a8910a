//! Fetch sessions (KIP-227): what a consumer follows is said once, then only what changes.
//!
//! A session lives as long as its connection, and a connection has one at most. A client that comes
//! with the id of another is told FETCH_SESSION_ID_NOT_FOUND, and begins anew.

use std::collections::HashMap;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchRequest};
use kafka_protocol::messages::fetch_response::PartitionData;
use proteus_env::random;
use uuid::Uuid;

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
    /// High watermark and log start offset as the client was told last.
    told: Option<(i64, i64)>,
}

/// The session of a connection.
#[derive(Debug)]
pub(crate) struct FetchSession {
    id: i32,
    /// Epoch of the next request.
    epoch: i32,
    /// In the order in which they are looked at: whoever had records goes to the end.
    partitions: Vec<Wanted>,
}

/// What a request is about.
#[derive(Debug)]
pub(super) struct Context {
    /// What is looked at.
    pub wanted: Vec<Wanted>,
    /// The session it belongs to, 0 for none.
    pub session_id: i32,
    /// Whether only what changed is answered.
    pub is_incremental: bool,
}

fn of_request(request: &FetchRequest) -> impl Iterator<Item = Wanted> + '_ {
    request.topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(|partition| Wanted {
            topic: topic.topic.clone(),
            topic_id: topic.topic_id,
            partition: partition.clone(),
            told: None,
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
                let partitions = wanted.clone();
                *slot = Some(FetchSession { id: session_id, epoch: 1, partitions });
            }
            Ok(Context { wanted, session_id, is_incremental: false })
        }
        epoch => {
            let session = slot.as_mut().filter(|_| is_own);
            let session = session.ok_or(ResponseError::FetchSessionIdNotFound)?;
            if epoch != session.epoch {
                return Err(ResponseError::InvalidFetchSessionEpoch);
            }
            session.epoch = epoch.checked_add(1).unwrap_or(1);
            session.update(request);
            if session.partitions.len() > PARTITIONS_MAX {
                *slot = None;
                return Err(ResponseError::FetchSessionIdNotFound);
            }
            let wanted = session.partitions.clone();
            Ok(Context { wanted, session_id: request.session_id, is_incremental: true })
        }
    }
}

type Key = (TopicName, Uuid, i32);

fn key_of(wanted: &Wanted) -> Key {
    (wanted.topic.clone(), wanted.topic_id, wanted.partition.partition)
}

impl FetchSession {
    /// What the request adds, changes and forgets.
    fn update(&mut self, request: &FetchRequest) {
        if request.topics.is_empty() && request.forgotten_topics_data.is_empty() {
            return;
        }
        let mut places: HashMap<Key, usize> = self.partitions.iter().map(key_of).zip(0..).collect();
        for new in of_request(request) {
            match places.get(&key_of(&new)) {
                Some(place) => {
                    if let Some(known) = self.partitions.get_mut(*place) {
                        known.partition = new.partition;
                    }
                }
                None => {
                    places.insert(key_of(&new), self.partitions.len());
                    self.partitions.push(new);
                }
            }
        }
        for topic in &request.forgotten_topics_data {
            for partition in &topic.partitions {
                places.remove(&(topic.topic.clone(), topic.topic_id, *partition));
            }
        }
        self.partitions.retain(|wanted| places.contains_key(&key_of(wanted)));
    }

    /// Notes what was answered, in the order in which it was looked at, and says which answers an
    /// incremental response leaves out.
    pub(super) fn note(&mut self, answers: &[PartitionData]) -> Vec<bool> {
        let mut is_left_out = Vec::with_capacity(answers.len());
        let mut with_records = Vec::new();
        let mut without = Vec::new();
        for (mut wanted, data) in std::mem::take(&mut self.partitions).into_iter().zip(answers) {
            let told = (data.high_watermark, data.log_start_offset);
            let has_records = data.records.as_ref().is_some_and(|records| !records.is_empty());
            let is_news = has_records || data.error_code != 0 || wanted.told != Some(told);
            is_left_out.push(!is_news);
            // An error is told each time, until the partition is well.
            wanted.told = (data.error_code == 0).then_some(told);
            if has_records { with_records.push(wanted) } else { without.push(wanted) }
        }
        without.append(&mut with_records);
        self.partitions = without;
        is_left_out
    }

    pub(super) fn id(&self) -> i32 {
        self.id
    }
}
