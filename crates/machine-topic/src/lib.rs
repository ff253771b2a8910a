//! Append-only partitions and consumer groups' offsets: a pure state machine.
//!
//! A topic is a name, an id, a map of settings and a number of partitions. A partition is a sequence
//! of record batches, each kept as its producer framed and compressed it; it has a *log start
//! offset* (first that may be read) and a *next offset* (first not yet there, which for readers is
//! the high watermark: whatever is applied is committed). Consumer groups' committed offsets are
//! durable here; their membership is not, it belongs to whoever coordinates them.
//!
//! An append and a commit of offsets are ops like any other, so that one minitransaction can consume,
//! change rows and publish, exactly once: [`Check::CommittedOffset`] is its fence.
//!
//! It knows no protocol: neither request nor error codes. Reading order: [`Op`], [`batch`],
//! [`read`], then `append.rs` for idempotence and `timers.rs` for what happens by itself.
//!
//! Sources: Kafka's documentation, "Implementation"; KIP-98 (idempotence), KIP-360 (epochs).

pub mod acls;
mod append;
pub mod batch;
mod compaction;
mod config;
pub mod credentials;
pub mod groups;
mod keys;
mod offsets;
pub mod quotas;
pub mod ranges;
pub mod read;
pub mod shares;
mod stored;
pub mod tiering;
mod timers;
mod topics;
mod transactions;

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use proteus_machine::{Abort, Ctx, Machine, View};
use proteus_store::{Read, StoreError};
use serde::{Deserialize, Serialize};

use append::Membership;

pub use timers::TimerSubject;
pub use topics::name_problem;

/// The machine: partitions of record batches, producer state, committed offsets.
#[derive(Debug, Clone, Copy)]
pub struct Topic;

/// Names a topic for good: a topic created again under the same name has another id. A UUID, big
/// end first; all zeros names none.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct TopicId(pub [u8; 16]);

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Most partitions of one topic.
pub const PARTITIONS_MAX: u32 = 10_000;
/// Longest batch, in bytes: Kafka's default is 1 MiB; this bounds what `max.message.bytes` may say.
/// Half of what the kernel takes as one proposal, so that a batch always fits.
pub const BATCH_BYTES_MAX: usize = 32 * 1024 * 1024;
/// `max.message.bytes` of a topic that does not set it, as in Kafka.
pub const BATCH_BYTES_MAX_DEFAULT: usize = 1_048_588;
/// `retention.ms` of a topic that does not set it, as in Kafka: seven days.
pub const RETENTION_MS_DEFAULT: u64 = 7 * 24 * 60 * 60 * 1000;
/// `message.timestamp.after.max.ms` of a topic that does not set it, as in Kafka: an hour.
pub const TIMESTAMP_AFTER_MAX_MS_DEFAULT: u64 = 60 * 60 * 1000;
/// `min.cleanable.dirty.ratio` of a topic that does not set it, as in Kafka.
pub const DIRTY_RATIO_DEFAULT: f64 = 0.5;
/// `delete.retention.ms` of a topic that does not set it, as in Kafka: a day.
pub const DELETE_RETENTION_MS_DEFAULT: u64 = 24 * 60 * 60 * 1000;
/// Longest metadata of a committed offset, in bytes, as Kafka's `offset.metadata.max.bytes`.
pub const OFFSET_METADATA_BYTES_MAX: usize = 4096;

/// Settings of a topic that the machine itself heeds. Others are kept as they are.
pub mod settings {
    /// Milliseconds after which a batch is deleted, by its newest timestamp; negative: never.
    pub const RETENTION_MS: &str = "retention.ms";
    /// Bytes beyond which a partition's oldest batches are deleted; negative: no bound.
    pub const RETENTION_BYTES: &str = "retention.bytes";
    /// Longest batch, in bytes.
    pub const MAX_MESSAGE_BYTES: &str = "max.message.bytes";
    /// Milliseconds by which a record's timestamp may be older than the broker's time.
    pub const MESSAGE_TIMESTAMP_BEFORE_MAX_MS: &str = "message.timestamp.before.max.ms";
    /// Milliseconds by which a record's timestamp may be later than the broker's time.
    pub const MESSAGE_TIMESTAMP_AFTER_MAX_MS: &str = "message.timestamp.after.max.ms";
    /// `true`: batches stand at the offsets that they bring along, of which some may be missing: the
    /// topic is the copy of another. Nobody else may append meanwhile.
    pub const MIRROR: &str = "proteus.mirror";
    /// `CreateTime`: timestamps are the producer's; `LogAppendTime`: those of the append.
    pub const MESSAGE_TIMESTAMP_TYPE: &str = "message.timestamp.type";
    /// Share of a partition's bytes that was appended since its last compaction, from which on it is
    /// compacted again.
    pub const MIN_CLEANABLE_DIRTY_RATIO: &str = "min.cleanable.dirty.ratio";
    /// Milliseconds for which a record is not compacted.
    pub const MIN_COMPACTION_LAG_MS: &str = "min.compaction.lag.ms";
    /// Milliseconds after which a partition is compacted whatever its dirty ratio.
    pub const MAX_COMPACTION_LAG_MS: &str = "max.compaction.lag.ms";
    /// Milliseconds for which a tombstone is kept once it was compacted.
    pub const DELETE_RETENTION_MS: &str = "delete.retention.ms";
    /// `true`: old batches move to the object store.
    pub const REMOTE_STORAGE_ENABLE: &str = "remote.storage.enable";
    /// Milliseconds after which a batch moves there, by its newest timestamp; -2: not by time.
    pub const LOCAL_RETENTION_MS: &str = "local.retention.ms";
    /// Bytes beyond which a partition's oldest batches move there; -2: not by size.
    pub const LOCAL_RETENTION_BYTES: &str = "local.retention.bytes";
    /// Bytes of an object, at most those of [`OBJECT_BYTES_MAX`](crate::tiering::OBJECT_BYTES_MAX).
    pub const SEGMENT_BYTES: &str = "segment.bytes";
    /// `delete`, `compact`, or both with a comma. Retention applies where it says `delete`.
    pub const CLEANUP_POLICY: &str = "cleanup.policy";
}

/// A predicate on current state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Check {
    /// The group's committed offset is as expected; `None`: nothing was committed.
    CommittedOffset {
        /// The consumer group.
        group: String,
        /// The topic.
        topic_id: TopicId,
        /// Partition of the topic, from 0.
        partition: u32,
        /// What must stand there.
        expected: Option<i64>,
    },
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Makes a topic with empty partitions. Replies [`Reply::Done`].
    CreateTopic {
        /// Its name; see [`name_problem`].
        name: String,
        /// Chosen at random by the proposer.
        topic_id: TopicId,
        /// 1 to [`PARTITIONS_MAX`].
        partition_count: u32,
        /// Settings by name.
        config: BTreeMap<String, String>,
    },
    /// Removes a topic, its batches and what groups committed for it. Replies [`Reply::Done`].
    DeleteTopic {
        /// The topic.
        topic_id: TopicId,
    },
    /// Adds partitions. Replies [`Reply::Done`].
    GrowTopic {
        /// The topic.
        topic_id: TopicId,
        /// The new number, larger than the old.
        partition_count: u32,
    },
    /// Sets (`Some`) or removes (`None`) settings. Replies [`Reply::Done`].
    ConfigureTopic {
        /// The topic.
        topic_id: TopicId,
        /// What to change.
        config: BTreeMap<String, Option<String>>,
    },
    /// Appends one batch that belongs to no transaction. Replies [`Reply::Appended`].
    Append {
        /// The topic.
        topic_id: TopicId,
        /// Partition of the topic, from 0.
        partition: u32,
        /// Exactly one batch; its checksum was verified by the proposer.
        batch: Bytes,
    },
    /// Appends one batch of the transaction of its producer. Replies [`Reply::Appended`].
    AppendInTransaction {
        /// The topic.
        topic_id: TopicId,
        /// Partition of the topic, from 0.
        partition: u32,
        /// As in [`Op::Append`].
        batch: Bytes,
        /// Whether the partition becomes a part of the transaction, which starts if none goes on;
        /// otherwise it must be one already.
        joins: bool,
    },
    /// Makes what stands before an offset unreadable. Replies [`Reply::LogStart`].
    DeleteRecords {
        /// The topic.
        topic_id: TopicId,
        /// Partition of the topic, from 0.
        partition: u32,
        /// The new log start offset; `None`: the end of the partition.
        before_offset: Option<i64>,
    },
    /// Hands out a producer id that nobody had before. Replies [`Reply::ProducerId`].
    AllocateProducerId,
    /// Gives a transactional producer its id and next epoch, which fences its former instances and
    /// aborts the transaction they left open. Replies [`Reply::Producer`].
    InitTransactions {
        /// Names the producer across its restarts.
        transactional_id: String,
        /// Milliseconds after which a transaction of its is aborted.
        timeout_ms: u64,
        /// Producer id and epoch that it has, if it is no new instance.
        expected: Option<(i64, i16)>,
    },
    /// Makes partitions and groups part of a producer's transaction, which starts if none goes on.
    /// Replies [`Reply::Done`].
    AddToTransaction {
        /// Whose.
        producer: TransactionalProducer,
        /// To be written to.
        partitions: Vec<(TopicId, u32)>,
        /// Whose offsets are to be committed.
        groups: Vec<String>,
    },
    /// Sets a group's committed offsets when the producer's transaction is committed. Replies
    /// [`Reply::Done`].
    CommitOffsetsInTransaction {
        /// Whose.
        producer: TransactionalProducer,
        /// The consumer group.
        group: String,
        /// What it has consumed.
        offsets: Vec<NewOffset>,
        /// Whether the group becomes a part of the transaction, which starts if none goes on;
        /// otherwise it must be one already.
        joins: bool,
    },
    /// Commits or aborts a producer's transaction in all its partitions and groups. Replies
    /// [`Reply::Producer`].
    EndTransaction {
        /// Whose.
        producer: TransactionalProducer,
        /// Or aborts.
        commits: bool,
        /// Whether the producer gets a new epoch with it (KIP-890).
        bumps_epoch: bool,
    },
    /// Sets a group's committed offsets. Replies [`Reply::Done`].
    CommitOffsets {
        /// The consumer group.
        group: String,
        /// What it has consumed.
        offsets: Vec<NewOffset>,
    },
    /// Removes committed offsets of a group, all of them if `partitions` is `None`. Replies
    /// [`Reply::Removed`].
    RemoveOffsets {
        /// The consumer group.
        group: String,
        /// Which.
        partitions: Option<Vec<(TopicId, u32)>>,
    },
    /// Sets a user's credential for its mechanism. Replies [`Reply::Done`].
    PutCredential {
        /// Whose.
        user: String,
        /// It.
        credential: credentials::Credential,
    },
    /// Removes a user's credential. Replies [`Reply::Done`].
    RemoveCredential {
        /// Whose.
        user: String,
        /// For which mechanism.
        mechanism: i8,
    },
    /// Adds rules. Replies [`Reply::Done`].
    PutAcls {
        /// Which.
        acls: Vec<acls::Acl>,
    },
    /// Removes rules. Replies [`Reply::Removed`].
    RemoveAcls {
        /// Which.
        acls: Vec<acls::Acl>,
    },
    /// Sets (`Some`) or removes (`None`) quotas of one entity. Replies [`Reply::Done`].
    SetQuotas {
        /// Whose.
        entity: quotas::Entity,
        /// What to change, by name: bits of a floating-point number.
        changes: BTreeMap<String, Option<u64>>,
    },
    /// Removes what a group committed before a time. Replies [`Reply::Removed`].
    ExpireOffsets {
        /// The consumer group.
        group: String,
        /// Milliseconds since the Unix epoch, exclusive.
        committed_before_ms: u64,
    },
    /// Begins to keep what a share group has consumed of a partition; nothing, if that is kept already.
    /// Replies [`Reply::Done`].
    BeginShare {
        /// The share group.
        group: String,
        /// The topic.
        topic_id: TopicId,
        /// Partition of the topic, from 0.
        partition: u32,
        /// Where it begins; brought within the partition.
        start_offset: i64,
    },
    /// Notes what has become of records that a share group consumes. Replies [`Reply::Done`].
    UpdateShare {
        /// The share group.
        group: String,
        /// The topic.
        topic_id: TopicId,
        /// Partition of the topic, from 0.
        partition: u32,
        /// What is new.
        ranges: Vec<shares::ShareRange>,
    },
    /// Lets a share group consume from other offsets on. Replies [`Reply::Done`].
    ResetShares {
        /// The share group.
        group: String,
        /// Partitions, and where it begins in each.
        offsets: Vec<(TopicId, u32, i64)>,
    },
    /// Forgets what a share group has consumed of topics, of all if `topics` is `None`. Replies
    /// [`Reply::Removed`].
    RemoveShares {
        /// The share group.
        group: String,
        /// Which.
        topics: Option<Vec<TopicId>>,
    },
    /// Sets (`Some`) or removes (`None`) settings of a group. Replies [`Reply::Done`].
    ConfigureGroup {
        /// The group.
        group: String,
        /// What to change.
        config: BTreeMap<String, Option<String>>,
    },
    /// Something became due because time passed; proposed by the leader only.
    FireTimer {
        /// When it became due, in milliseconds since the Unix epoch.
        due_at_ms: u64,
        /// What.
        subject: TimerSubject,
    },
    /// Says that batches of a partition are about to be written to an object. Replies [`Reply::Done`].
    ReserveObject {
        /// The topic.
        topic_id: TopicId,
        /// Partition of the topic, from 0.
        partition: u32,
        /// Chosen at random by the proposer.
        object_id: tiering::ObjectId,
    },
    /// Removes batches of a partition that stand in an object by now. Replies [`Reply::Done`].
    MoveToObject {
        /// It.
        object: tiering::NewObject,
    },
    /// Forgets objects that were deleted from the object store. Replies [`Reply::Removed`].
    ForgetObjects {
        /// Which.
        object_ids: Vec<tiering::ObjectId>,
    },
    /// Removes a part of what a deleted topic left; proposed by the leader only.
    SweepTopic {
        /// The deleted topic.
        topic_id: TopicId,
    },
}

/// An instance of a transactional producer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionalProducer {
    /// Names it across its restarts.
    pub transactional_id: String,
    /// Its id.
    pub producer_id: i64,
    /// Which instance it is.
    pub epoch: i16,
}

/// What has become of a producer's newest transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TransactionState {
    /// It has had none.
    Empty,
    /// It goes on.
    Ongoing,
    /// It was committed.
    Committed,
    /// It was aborted.
    Aborted,
}

/// An offset that a group commits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewOffset {
    /// The topic.
    pub topic_id: TopicId,
    /// Partition of the topic, from 0.
    pub partition: u32,
    /// Offset of the next record to consume.
    pub offset: i64,
    /// Leader epoch of the last record consumed; -1 if unknown.
    pub leader_epoch: i32,
    /// The consumer's own note.
    pub metadata: String,
}

/// What an op answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// It happened; there is nothing to tell.
    Done,
    /// The batch is in the partition.
    Appended(Appended),
    /// The partition's log start offset from now on.
    LogStart(i64),
    /// A producer id of one's own.
    ProducerId(i64),
    /// A transactional producer's id and epoch.
    Producer {
        /// Its id.
        producer_id: i64,
        /// Its epoch.
        epoch: i16,
    },
    /// How many entries were removed.
    Removed(u64),
}

/// Where a batch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of its first record.
    pub base_offset: i64,
    /// First offset of the partition that may be read.
    pub log_start_offset: i64,
    /// The timestamp that its records were given, in milliseconds since the Unix epoch.
    pub append_time_ms: Option<i64>,
    /// Whether it stood there already: the producer sent it again.
    pub is_duplicate: bool,
}

/// Why a check or an op refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The name is taken.
    #[error("topic '{0}' exists already")]
    TopicExists(String),
    /// The name is not one a topic can have.
    #[error("invalid topic name: {0}")]
    InvalidName(String),
    /// No such topic.
    #[error("there is no topic with id {0}")]
    UnknownTopic(TopicId),
    /// The topic has fewer partitions.
    #[error("the topic has {partition_count} partitions, not one numbered {partition}")]
    UnknownPartition {
        /// What was asked for.
        partition: u32,
        /// How many there are.
        partition_count: u32,
    },
    /// Not a number of partitions that the topic can have.
    #[error("{0}")]
    InvalidPartitions(String),
    /// A setting has a value that it cannot have.
    #[error("{0}")]
    InvalidConfig(String),
    /// The bytes are not one well-formed batch.
    #[error(transparent)]
    InvalidBatch(#[from] batch::BatchError),
    /// The batch is longer than the topic allows.
    #[error("the batch has {bytes} bytes, but the topic's max.message.bytes is {bytes_max}")]
    BatchTooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// A batch between the producer's last and this one is missing.
    #[error(
        "producer {producer_id} sent sequence {found} to partition {partition}, expected {expected}"
    )]
    OutOfOrderSequence {
        /// The producer.
        producer_id: i64,
        /// The partition.
        partition: u32,
        /// The sequence that comes next.
        expected: i32,
        /// The sequence it sent.
        found: i32,
    },
    /// A newer instance of the producer has written already.
    #[error("producer {producer_id} has epoch {current} by now, the batch has {found}")]
    StaleProducerEpoch {
        /// The producer.
        producer_id: i64,
        /// Its newest epoch.
        current: i16,
        /// The epoch of the batch.
        found: i16,
    },
    /// No such transactional producer, or not under this id.
    #[error("producer {producer_id} is not that of transactional id '{transactional_id}'")]
    UnknownTransactionalProducer {
        /// The transactional id.
        transactional_id: String,
        /// The producer.
        producer_id: i64,
    },
    /// A newer instance of the transactional producer has begun.
    #[error("transactional id '{transactional_id}' has epoch {current} by now, not {found}")]
    ProducerFenced {
        /// The transactional id.
        transactional_id: String,
        /// Its newest epoch.
        current: i16,
        /// The epoch of the request.
        found: i16,
    },
    /// There is no transaction of the producer of which this could be a part, or its batch is in
    /// none while one is open.
    #[error("producer {producer_id} has no such transaction going on")]
    NotInTransaction {
        /// The producer.
        producer_id: i64,
    },
    /// Only what copies the original may append here, in its order.
    #[error(
        "the topic is a mirror at offset {next_offset}, where offset {offset} cannot be appended; set proteus.mirror=false to produce to it"
    )]
    NotNextInMirror {
        /// Of the batch.
        offset: i64,
        /// First offset not yet there.
        next_offset: i64,
    },
    /// What was to move to the object store is not what it was.
    #[error("the batches, or their topic's settings, have changed since they were read")]
    NotMovable,
    /// The share group does not consume the partition, or not any more.
    #[error("share group '{group}' has not begun to consume the partition")]
    UnknownShare {
        /// The share group.
        group: String,
    },
    /// Too much of a partition is neither done with nor untouched.
    #[error("there would be more than {} stretches of records", shares::SHARE_RANGES_MAX)]
    TooManyShareRanges,
    /// There is no room for more rules.
    #[error("there would be more than {} ACLs", acls::ACLS_MAX)]
    TooManyAcls,
    /// There is nothing to remove.
    #[error("user '{user}' has no such credential")]
    NoCredential {
        /// The user.
        user: String,
    },
    /// The offset is outside the partition.
    #[error("offset {offset} is outside the partition, which is readable up to {next_offset}")]
    OffsetOutOfRange {
        /// What was asked for.
        offset: i64,
        /// First offset not yet there.
        next_offset: i64,
    },
    /// The consumer's note is too long.
    #[error(
        "metadata of {bytes} bytes is longer than the {OFFSET_METADATA_BYTES_MAX} allowed for a committed offset"
    )]
    MetadataTooLarge {
        /// Its length.
        bytes: usize,
    },
    /// Another commit came first.
    #[error("the group's committed offset is {found:?}, not {expected:?}")]
    CommittedOffsetDiffers {
        /// What the check expected.
        expected: Option<i64>,
        /// What stands there.
        found: Option<i64>,
    },
}

/// What followers of the feed learn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A topic came to be.
    TopicCreated {
        /// Its name.
        name: String,
        /// Its id.
        topic_id: TopicId,
    },
    /// A topic has other settings or more partitions.
    TopicChanged {
        /// The topic.
        topic_id: TopicId,
    },
    /// A topic is gone.
    TopicDeleted {
        /// Its name.
        name: String,
        /// Its id.
        topic_id: TopicId,
    },
    /// A partition grew.
    Appended {
        /// The topic.
        topic_id: TopicId,
        /// The partition.
        partition: u32,
        /// First offset not yet there.
        high_watermark: i64,
        /// By how much it grew.
        bytes: u64,
    },
    /// The oldest records of a partition are no longer readable.
    LogStartMoved {
        /// The topic.
        topic_id: TopicId,
        /// The partition.
        partition: u32,
        /// First offset that may be read.
        log_start_offset: i64,
    },
    /// The oldest batches of a partition stand in the object store from now on.
    MovedToObject {
        /// The topic.
        topic_id: TopicId,
        /// The partition.
        partition: u32,
        /// First offset that does not.
        local_start_offset: i64,
    },
    /// There are other rules.
    AclsChanged,
    /// There are other quotas.
    QuotasChanged,
    /// A group has other settings.
    GroupConfigured {
        /// The group.
        group: String,
    },
    /// A group committed or removed offsets.
    OffsetsCommitted {
        /// The consumer group.
        group: String,
    },
}

pub(crate) type TopicCtx<'a> = Ctx<'a, Change>;
pub(crate) type Applied<T> = Result<T, Abort<Refusal>>;

pub(crate) fn refuse<T>(refusal: Refusal) -> Applied<T> {
    Err(Abort::Refused(refusal))
}

impl Machine for Topic {
    const SPACE: u8 = 0x20;
    type Check = Check;
    type Op = Op;
    type Reply = Reply;
    type Refusal = Refusal;
    type Change = Change;

    fn check(ctx: &mut TopicCtx<'_>, check: &Check) -> Applied<()> {
        match check {
            Check::CommittedOffset { group, topic_id, partition, expected } => {
                offsets::check_committed(ctx, group, *topic_id, *partition, *expected)
            }
        }
    }

    fn apply(ctx: &mut TopicCtx<'_>, op: &Op) -> Applied<Reply> {
        match op {
            Op::CreateTopic { name, topic_id, partition_count, config } => {
                topics::create(ctx, name, *topic_id, *partition_count, config)
            }
            Op::DeleteTopic { topic_id } => topics::delete(ctx, *topic_id),
            Op::GrowTopic { topic_id, partition_count } => {
                topics::grow(ctx, *topic_id, *partition_count)
            }
            Op::ConfigureTopic { topic_id, config } => topics::configure(ctx, *topic_id, config),
            Op::Append { topic_id, partition, batch } => {
                append::append(ctx, *topic_id, *partition, batch, Membership::None)
                    .map(Reply::Appended)
            }
            Op::AppendInTransaction { topic_id, partition, batch, joins } => {
                let membership = if *joins { Membership::Joins } else { Membership::Joined };
                append::append(ctx, *topic_id, *partition, batch, membership).map(Reply::Appended)
            }
            Op::InitTransactions { transactional_id, timeout_ms, expected } => {
                transactions::init(ctx, transactional_id, *timeout_ms, *expected)
            }
            Op::AddToTransaction { producer, partitions, groups } => {
                transactions::add(ctx, producer, partitions, groups)
            }
            Op::CommitOffsetsInTransaction { producer, group, offsets, joins } => {
                transactions::commit_offsets(ctx, producer, group, offsets, *joins)
            }
            Op::EndTransaction { producer, commits, bumps_epoch } => {
                transactions::finish(ctx, producer, *commits, *bumps_epoch)
            }
            Op::DeleteRecords { topic_id, partition, before_offset } => {
                timers::delete_records(ctx, *topic_id, *partition, *before_offset)
            }
            Op::AllocateProducerId => append::allocate_producer_id(ctx),
            Op::CommitOffsets { group, offsets } => offsets::commit(ctx, group, offsets),
            Op::RemoveOffsets { group, partitions } => {
                offsets::remove(ctx, group, partitions.as_deref())
            }
            Op::PutCredential { user, credential } => credentials::put(ctx, user, credential),
            Op::RemoveCredential { user, mechanism } => credentials::remove(ctx, user, *mechanism),
            Op::PutAcls { acls } => acls::put(ctx, acls),
            Op::RemoveAcls { acls } => acls::remove(ctx, acls),
            Op::SetQuotas { entity, changes } => quotas::set(ctx, entity, changes),
            Op::BeginShare { group, topic_id, partition, start_offset } => {
                shares::begin(ctx, group, *topic_id, *partition, *start_offset)
            }
            Op::UpdateShare { group, topic_id, partition, ranges } => {
                shares::update(ctx, group, *topic_id, *partition, ranges)
            }
            Op::ResetShares { group, offsets } => shares::reset(ctx, group, offsets),
            Op::RemoveShares { group, topics } => shares::remove(ctx, group, topics.as_deref()),
            Op::ConfigureGroup { group, config } => groups::configure(ctx, group, config),
            Op::ExpireOffsets { group, committed_before_ms } => {
                offsets::expire(ctx, group, *committed_before_ms)
            }
            Op::FireTimer { due_at_ms, subject } => timers::fire(ctx, *due_at_ms, subject),
            Op::SweepTopic { topic_id } => topics::sweep(ctx, *topic_id),
            Op::ReserveObject { topic_id, partition, object_id } => {
                tiering::reserve(ctx, *topic_id, *partition, *object_id)
            }
            Op::MoveToObject { object } => tiering::move_to_object(ctx, object),
            Op::ForgetObjects { object_ids } => tiering::forget(ctx, object_ids),
        }
    }

    fn due(view: View<'_>, count_max: usize) -> Result<Vec<Op>, StoreError> {
        timers::due(view, count_max)
    }

    fn next_due_ms(state: &dyn Read) -> Result<Option<u64>, StoreError> {
        timers::next_due_ms(state)
    }
}

#[cfg(test)]
mod tests;
