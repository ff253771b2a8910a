//! Kafka's producers and consumers in a cluster in trouble.
//!
//! ```text
//!   numbered       sends each batch again until it is acknowledged, on any node
//!   transactional  two partitions a transaction; ends it; now and then another instance takes over
//!   keyed          to a topic that is compacted meanwhile
//!   readers        of what is committed, on any node, behind its read barrier
//! ```
//! Claims: no acknowledged record is lost, none stands twice, a producer's records stand in its order;
//! whoever reads what is committed never sees a record of a transaction that is not, and of one that is
//! all; of each key the newest record stays whatever is compacted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proteus_env::task;
use proteus_kernel::Shard;
use proteus_machine::View;
use proteus_shard_machine::topic::batch::{
    BatchHeader, NewRecord, decode_records, frame_batch, with_producer,
};
use proteus_shard_machine::topic::read::{self, ReadLimit};
use proteus_shard_machine::topic::{Op, Refusal, Reply, TopicId, TransactionalProducer};
use proteus_shard_machine::{self as machine, Minitransaction, Outcome};
use proteus_store::StoreError;

use crate::consumers::{Consumed, Consumers, WORK};
use crate::random::Random;
use crate::replica::Machine;

/// Where numbered and transactional producers write.
const PLAIN: TopicId = TopicId([0xCA; 16]);
/// Where keyed producers write.
const COMPACTED: TopicId = TopicId([0xCB; 16]);
const PARTITIONS: u32 = 2;
const KEYS: u64 = 4;
/// A proposal is answered within this, in simulated time.
const PATIENCE: Duration = Duration::from_secs(120);
/// After which a transaction is aborted by itself; trouble lasts longer now and then.
const TRANSACTION_TIMEOUT_MS: u64 = 5_000;

/// Creates the topics, in one commit.
pub fn creation() -> Minitransaction {
    let compacts = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("max.compaction.lag.ms", "1000"),
    ];
    let compacts = compacts.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let create = |name: &str, topic_id, partition_count, config| Op::CreateTopic {
        name: name.to_owned(),
        topic_id,
        partition_count,
        config,
    };
    Minitransaction::of(create("plain", PLAIN, PARTITIONS, BTreeMap::new()))
        .op(create("compacted", COMPACTED, 1, compacts))
        .op(create("work", WORK, PARTITIONS, BTreeMap::new()))
}

/// What a proposal came to.
enum Answer {
    Reply(Reply),
    Refused(Refusal),
    /// It may or may not have happened, or happen yet.
    Unknown,
}

async fn propose<M: Machine>(shard: &Shard<M>, op: Op) -> Result<Answer, String> {
    let answer = task::timeout(PATIENCE, shard.propose(&[Minitransaction::of(op)])).await;
    let Ok(outcomes) = answer.ok_or("a producer was never answered")? else {
        return Ok(Answer::Unknown);
    };
    match outcomes.into_iter().next() {
        Some(Outcome::Committed { replies, .. }) => match replies.into_iter().next() {
            Some(machine::Reply::Topic(reply)) => Ok(Answer::Reply(reply)),
            other => Err(format!("a producer was answered with {other:?}")),
        },
        Some(Outcome::Refused { refusal: machine::Refusal::Topic(refusal), .. }) => {
            Ok(Answer::Refused(refusal))
        }
        other => Err(format!("a producer was answered with {other:?}")),
    }
}

/// What a record says: whose it is, its number among the producer's, and the transaction, 0 for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Said {
    producer: u64,
    number: u64,
    transaction: u64,
}

impl Said {
    fn record(self, key: Option<u64>) -> NewRecord {
        let Said { producer, number, transaction } = self;
        NewRecord {
            key: key.map(|key| Bytes::from(key.to_string())),
            value: Some(Bytes::from(format!("{producer} {number} {transaction}"))),
            headers: Vec::new(),
        }
    }

    fn parse(value: &[u8]) -> Option<Said> {
        let text = std::str::from_utf8(value).ok()?;
        let mut numbers = text.split(' ').map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Said { producer: next()?, number: next()?, transaction: next()? })
    }
}

/// What became of a transaction, as far as its producer knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Open,
    Committed,
    Aborted,
    /// Its end was asked for and not answered before another instance took over.
    Either,
}

/// Records of a transaction, with the partition and offset that their producer was told.
type Told = BTreeSet<(u32, i64, Said)>;

/// What producers were told and readers were shown.
#[derive(Debug, Default)]
struct Known {
    /// Offset of each acknowledged record that is in no transaction, by partition.
    acknowledged: BTreeMap<(u32, i64), Said>,
    transactions: BTreeMap<u64, (Fate, Told)>,
    /// Transactions of which a reader was shown something.
    shown: BTreeSet<u64>,
    /// The newest acknowledged number of each key, and the newest that was sent.
    of_key: BTreeMap<u64, (u64, u64)>,
    keyed_count: u64,
}

/// How a run went.
#[derive(Debug, Default, Clone, Copy)]
pub struct Produced {
    /// Records acknowledged outside of transactions.
    pub acknowledged: u64,
    /// Transactions known to be committed, aborted, and either.
    pub committed: u64,
    pub aborted: u64,
    pub either: u64,
    /// Times that a batch was sent again.
    pub repeated: u64,
    /// Records that compaction took away.
    pub compacted: u64,
    /// What consumers in groups did meanwhile.
    pub consumed: Consumed,
}

/// All producers of a run, and what they know.
pub struct Producers {
    numbered: Vec<Numbered>,
    transactional: Vec<Transactional>,
    known: Arc<Mutex<Known>>,
    repeated: u64,
    consumers: Consumers,
}

impl Producers {
    /// Some of each kind.
    pub fn new(random: &mut Random) -> Producers {
        let known = Arc::new(Mutex::new(Known::default()));
        let numbered = (0..3).map(|name| Numbered {
            name,
            is_keyed: name == 2,
            random: random.fork(),
            producer_id: None,
            sequence: 0,
            next_number: 0,
            pending: None,
        });
        let numbered = numbered.collect();
        let transactional = (10..12).map(|name| Transactional {
            name,
            random: random.fork(),
            producer: None,
            sequences: [0; PARTITIONS as usize],
            transaction: 0,
            next_transaction: name * 1_000_000 + 1,
            next_number: 0,
            ending: None,
            pending: None,
        });
        let transactional = transactional.collect();
        let consumers = Consumers::new(PLAIN, PARTITIONS, random);
        Producers { numbered, transactional, known, repeated: 0, consumers }
    }

    /// Some steps of everybody, on these nodes, all at once.
    ///
    /// # Errors
    /// What cannot be true.
    pub async fn work<M: Machine>(&mut self, shards: &[Arc<Shard<M>>]) -> Result<(), String> {
        if shards.is_empty() {
            return Ok(());
        }
        let known = &self.known;
        let numbered = self.numbered.iter_mut().map(|one| one.work(shards, known));
        let transactional = self.transactional.iter_mut().map(|one| one.work(shards, known));
        let (numbered, transactional, consumed) = futures::future::join3(
            futures::future::join_all(numbered),
            futures::future::join_all(transactional),
            self.consumers.work(shards),
        )
        .await;
        consumed?;
        for repeated in numbered.into_iter().chain(transactional) {
            self.repeated += repeated?;
        }
        for shard in shards {
            let passes = match shard.read_barrier() {
                None => true,
                Some(barrier) => matches!(task::timeout(PATIENCE, barrier).await, Some(Ok(Ok(())))),
            };
            if passes {
                self.read(shard)?;
            }
        }
        Ok(())
    }

    /// Holds what a node shows against what producers were told before.
    fn read<M: Machine>(&self, shard: &Shard<M>) -> Result<(), String> {
        let mut result = Ok(Ok(()));
        let read = shard.read(&mut |view| result = self.hold(view));
        if read.is_err() {
            return Ok(());
        }
        result.map_err(|error| error.to_string())?
    }

    fn hold(&self, view: View<'_>) -> Result<Result<(), String>, StoreError> {
        let plain = [committed(view, PLAIN, 0)?, committed(view, PLAIN, 1)?];
        let (_, compacted) = committed(view, COMPACTED, 0)?;
        let mut known = self.known.lock();
        let held = known.hold_plain(&plain).and_then(|()| known.hold_compacted(&compacted));
        drop(known);
        let consumed = self.consumers.hold(view)?;
        Ok(held.and(consumed))
    }

    /// With all well: everybody ends what is under way, and every node shows the same.
    ///
    /// # Errors
    /// What cannot be true.
    pub async fn settle<M: Machine>(
        &mut self,
        shards: &[Arc<Shard<M>>],
    ) -> Result<Produced, String> {
        for _ in 0..50 {
            let shard = shards.first().ok_or("no node runs")?;
            for one in &mut self.numbered {
                one.step(shard, &self.known).await?;
            }
            for one in &mut self.transactional {
                one.step(shard, &self.known).await?;
            }
            let is_idle = self.numbered.iter().all(|one| one.pending.is_none())
                && self.transactional.iter().all(|one| one.transaction == 0);
            if is_idle {
                break;
            }
        }
        // An open transaction is aborted by itself.
        task::sleep(Duration::from_millis(2 * TRANSACTION_TIMEOUT_MS)).await;
        self.work_once_more(shards).await
    }

    async fn work_once_more<M: Machine>(
        &mut self,
        shards: &[Arc<Shard<M>>],
    ) -> Result<Produced, String> {
        for shard in shards {
            if let Some(barrier) = shard.read_barrier() {
                task::timeout(PATIENCE, barrier).await.ok_or("a read barrier never ends")?.ok();
            }
            self.read(shard)?;
        }
        let known = self.known.lock();
        let wrong = known
            .shown
            .iter()
            .find(|id| known.transactions.get(id).is_none_or(|(fate, _)| *fate == Fate::Aborted));
        if let Some(id) = wrong {
            return Err(format!("records of transaction {id} were shown, which was aborted"));
        }
        let count = |wanted: Fate| {
            known.transactions.values().filter(|(fate, _)| *fate == wanted).count() as u64
        };
        let mut kept = 0;
        if let Some(shard) = shards.first() {
            let _ = shard.read(&mut |view| {
                kept = committed(view, COMPACTED, 0).map_or(0, |(_, shown)| shown.len() as u64);
            });
        }
        Ok(Produced {
            acknowledged: known.acknowledged.len() as u64,
            committed: count(Fate::Committed),
            aborted: count(Fate::Aborted),
            either: count(Fate::Either),
            repeated: self.repeated,
            compacted: known.keyed_count.saturating_sub(kept),
            consumed: self.consumers.consumed(),
        })
    }
}

/// A record with its offset and key.
type Shown = (i64, Option<u64>, Said);

/// What a consumer of a partition reads with `read_committed`, and up to where (exclusive): an open
/// transaction hides all that comes after its beginning.
fn committed(
    view: View<'_>,
    topic_id: TopicId,
    partition: u32,
) -> Result<(i64, Vec<Shown>), StoreError> {
    let Some(info) = read::partition(view.state, topic_id, partition)? else {
        return Ok((0, Vec::new()));
    };
    let end = info.last_stable_offset;
    let limit = ReadLimit::Bytes(usize::MAX);
    let stretch = read::read_batches(view.state, topic_id, partition, 0, end, limit)?;
    let aborted = read::aborted_transactions(view.state, topic_id, partition, 0, end)?;
    let mut shown = Vec::new();
    for batch in stretch.here().unwrap_or_default() {
        let Ok(header) = BatchHeader::parse(&batch.bytes) else { continue };
        let is_aborted = aborted.iter().any(|one| one.covers(&header, batch.base_offset));
        if header.is_control() || is_aborted {
            continue;
        }
        for record in
            decode_records(&batch.bytes, batch.base_offset).into_iter().flatten().flatten()
        {
            let key = record.key.and_then(|key| std::str::from_utf8(&key).ok()?.parse().ok());
            if let Some(said) = record.value.as_deref().and_then(Said::parse) {
                shown.push((record.offset, key, said));
            }
        }
    }
    Ok((end, shown))
}

impl Known {
    fn hold_plain(
        &mut self,
        partitions: &[(i64, Vec<Shown>); PARTITIONS as usize],
    ) -> Result<(), String> {
        let mut seen: BTreeSet<(u32, Said)> = BTreeSet::new();
        for (partition, (_, records)) in (0..).zip(partitions) {
            let mut last: BTreeMap<u64, u64> = BTreeMap::new();
            for (offset, _, said) in records {
                let before = last.insert(said.producer, said.number);
                if before.is_some_and(|before| before >= said.number) {
                    return Err(format!(
                        "partition {partition} has {said:?} at {offset} after number {before:?}"
                    ));
                }
                seen.insert((partition, *said));
                let told = self.acknowledged.get(&(partition, *offset));
                if told.is_some_and(|told| told != said) {
                    return Err(format!("{said:?} stands at {offset} where {told:?} was told"));
                }
            }
        }
        let is_within = |partition: u32, offset: i64| {
            partitions.get(partition as usize).is_some_and(|(end, _)| offset < *end)
        };
        let lost = self.acknowledged.iter().find(|((partition, offset), said)| {
            is_within(*partition, *offset) && !seen.contains(&(*partition, **said))
        });
        if let Some(((partition, offset), said)) = lost {
            return Err(format!("{said:?}, acknowledged at {partition}:{offset}, is not there"));
        }
        for (id, (fate, records)) in &self.transactions {
            let within: Vec<_> =
                records.iter().filter(|(place, offset, _)| is_within(*place, *offset)).collect();
            let is_shown = |record: &&&(u32, i64, Said)| seen.contains(&(record.0, record.2));
            let shown = within.iter().filter(is_shown).count();
            if shown > 0 {
                self.shown.insert(*id);
            }
            let is_wrong = match fate {
                Fate::Committed => shown < within.len(),
                Fate::Aborted => shown > 0,
                Fate::Open | Fate::Either => shown > 0 && shown < within.len(),
            };
            if is_wrong {
                return Err(format!(
                    "transaction {id} is {fate:?}, and {shown} of its {} records are shown",
                    within.len()
                ));
            }
        }
        Ok(())
    }

    fn hold_compacted(&self, records: &[Shown]) -> Result<(), String> {
        let mut newest: BTreeMap<u64, u64> = BTreeMap::new();
        for (offset, key, said) in records {
            let Some(key) = key else { continue };
            let before = newest.insert(*key, said.number);
            if before.is_some_and(|before| before >= said.number) {
                return Err(format!("key {key} has {said:?} at {offset} after {before:?}"));
            }
        }
        for (key, (acknowledged, sent)) in &self.of_key {
            let found = newest.get(key).copied();
            let number = found.unwrap_or(0);
            if number < *acknowledged || number > *sent {
                return Err(format!(
                    "the newest of key {key} is {found:?}; acknowledged was {acknowledged}"
                ));
            }
        }
        Ok(())
    }
}

/// A batch that is sent until it is acknowledged.
struct Pending {
    partition: u32,
    batch: Bytes,
    records: Vec<(Option<u64>, Said)>,
    times: u64,
}

/// A producer that numbers its batches.
struct Numbered {
    name: u64,
    is_keyed: bool,
    random: Random,
    producer_id: Option<i64>,
    sequence: i32,
    next_number: u64,
    pending: Option<Pending>,
}

impl Numbered {
    async fn work<M: Machine>(
        &mut self,
        shards: &[Arc<Shard<M>>],
        known: &Mutex<Known>,
    ) -> Result<u64, String> {
        let mut repeated = 0;
        for _ in 0..self.random.below(8) {
            let shard = self.random.pick(shards);
            repeated += u64::from(self.pending.as_ref().is_some_and(|pending| pending.times > 0));
            self.step(&shard, known).await?;
            if self.random.chance(20) {
                task::sleep(Duration::from_millis(self.random.below(200))).await;
            }
        }
        Ok(repeated)
    }

    async fn step<M: Machine>(
        &mut self,
        shard: &Shard<M>,
        known: &Mutex<Known>,
    ) -> Result<(), String> {
        let Some(producer_id) = self.producer_id else {
            if let Answer::Reply(Reply::ProducerId(id)) =
                propose(shard, Op::AllocateProducerId).await?
            {
                self.producer_id = Some(id);
            }
            return Ok(());
        };
        let pending = match self.pending.take() {
            Some(pending) => pending,
            None => self.next_batch(producer_id, known)?,
        };
        let topic_id = if self.is_keyed { COMPACTED } else { PLAIN };
        let (partition, batch) = (pending.partition, pending.batch.clone());
        match propose(shard, Op::Append { topic_id, partition, batch }).await? {
            Answer::Reply(Reply::Appended(appended)) => {
                self.sequence += pending.records.len() as i32;
                let mut known = known.lock();
                for (delta, (key, said)) in (0i64..).zip(&pending.records) {
                    match key {
                        None => {
                            let place = (partition, appended.base_offset + delta);
                            known.acknowledged.insert(place, *said);
                        }
                        Some(key) => {
                            known.keyed_count += 1;
                            let of_key = known.of_key.entry(*key).or_default();
                            of_key.0 = of_key.0.max(said.number);
                        }
                    }
                }
            }
            Answer::Unknown => {
                self.pending = Some(Pending { times: pending.times + 1, ..pending });
            }
            other => {
                let refusal = match other {
                    Answer::Refused(refusal) => refusal.to_string(),
                    _ => "another reply".to_owned(),
                };
                return Err(format!("producer {} sent its next batch: {refusal}", self.name));
            }
        }
        Ok(())
    }

    fn next_batch(&mut self, producer_id: i64, known: &Mutex<Known>) -> Result<Pending, String> {
        let records: Vec<(Option<u64>, Said)> = (0..1 + self.random.below(3))
            .map(|_| {
                self.next_number += 1;
                let said = Said { producer: self.name, number: self.next_number, transaction: 0 };
                (self.is_keyed.then(|| self.random.below(KEYS)), said)
            })
            .collect();
        for (key, said) in &records {
            if let Some(key) = key {
                let mut known = known.lock();
                // Until one is acknowledged nothing is claimed of the key.
                if let Some(of_key) = known.of_key.get_mut(key) {
                    of_key.1 = said.number;
                } else {
                    known.of_key.insert(*key, (0, said.number));
                }
            }
        }
        let framed: Vec<NewRecord> = records.iter().map(|(key, said)| said.record(*key)).collect();
        let batch = frame_batch(&framed, 1_700_000_000_000).ok_or("no batch")?;
        // One partition, so that the producer's sequence is that of the partition.
        let partition = if self.is_keyed { 0 } else { (self.name % u64::from(PARTITIONS)) as u32 };
        let batch = with_producer(&batch, (producer_id, 0), self.sequence, false);
        Ok(Pending { partition, batch, records, times: 0 })
    }
}

/// A producer with transactions, each of which ends its epoch (KIP-890).
struct Transactional {
    name: u64,
    random: Random,
    /// `None`: an instance begins.
    producer: Option<TransactionalProducer>,
    sequences: [i32; PARTITIONS as usize],
    /// The one that goes on; 0 for none.
    transaction: u64,
    next_transaction: u64,
    next_number: u64,
    /// Whether its end was asked for, and which.
    ending: Option<bool>,
    pending: Option<Pending>,
}

impl Transactional {
    async fn work<M: Machine>(
        &mut self,
        shards: &[Arc<Shard<M>>],
        known: &Mutex<Known>,
    ) -> Result<u64, String> {
        let mut repeated = 0;
        for _ in 0..self.random.below(12) {
            let shard = self.random.pick(shards);
            if self.random.chance(3) {
                // The process dies; another takes over.
                self.producer = None;
            }
            repeated += u64::from(self.pending.as_ref().is_some_and(|pending| pending.times > 0));
            self.step(&shard, known).await?;
        }
        Ok(repeated)
    }

    async fn step<M: Machine>(
        &mut self,
        shard: &Shard<M>,
        known: &Mutex<Known>,
    ) -> Result<(), String> {
        let Some(producer) = self.producer.clone() else {
            return self.begin_instance(shard, known).await;
        };
        if let Some(commits) = self.ending {
            return self.end(shard, producer, commits, known).await;
        }
        if self.transaction == 0 {
            self.transaction = self.next_transaction;
            self.next_transaction += 1;
            known.lock().transactions.insert(self.transaction, (Fate::Open, Told::new()));
        }
        let has_some =
            known.lock().transactions.get(&self.transaction).is_some_and(|(_, records)| {
                let partitions: BTreeSet<u32> =
                    records.iter().map(|(partition, _, _)| *partition).collect();
                partitions.len() == PARTITIONS as usize
            });
        if self.pending.is_none() && has_some && self.random.chance(40) {
            self.ending = Some(self.random.chance(70));
            return Ok(());
        }
        self.append(shard, &producer, known).await
    }

    fn settle(&mut self, fate: Fate, known: &Mutex<Known>) {
        if let Some(entry) = known.lock().transactions.get_mut(&self.transaction) {
            entry.0 = fate;
        }
        self.transaction = 0;
        self.ending = None;
        self.pending = None;
        self.sequences = [0; PARTITIONS as usize];
    }

    async fn begin_instance<M: Machine>(
        &mut self,
        shard: &Shard<M>,
        known: &Mutex<Known>,
    ) -> Result<(), String> {
        let transactional_id = format!("t{}", self.name);
        let timeout_ms = TRANSACTION_TIMEOUT_MS;
        let init = Op::InitTransactions {
            transactional_id: transactional_id.clone(),
            timeout_ms,
            expected: None,
        };
        match propose(shard, init).await? {
            Answer::Reply(Reply::Producer { producer_id, epoch }) => {
                self.producer =
                    Some(TransactionalProducer { transactional_id, producer_id, epoch });
                let fate = match self.ending {
                    Some(true) => Fate::Either,
                    _ => Fate::Aborted,
                };
                self.settle(fate, known);
                Ok(())
            }
            Answer::Unknown => Ok(()),
            Answer::Refused(refusal) => Err(format!("an instance cannot begin: {refusal}")),
            Answer::Reply(other) => Err(format!("an instance began with {other:?}")),
        }
    }

    async fn append<M: Machine>(
        &mut self,
        shard: &Shard<M>,
        producer: &TransactionalProducer,
        known: &Mutex<Known>,
    ) -> Result<(), String> {
        let pending = match self.pending.take() {
            Some(pending) => pending,
            None => {
                self.next_number += 1;
                let said = Said {
                    producer: self.name,
                    number: self.next_number,
                    transaction: self.transaction,
                };
                let partition = self.random.below(u64::from(PARTITIONS)) as u32;
                let batch =
                    frame_batch(&[said.record(None)], 1_700_000_000_000).ok_or("no batch")?;
                let instance = (producer.producer_id, producer.epoch);
                let sequence = self.sequences[partition as usize];
                let batch = with_producer(&batch, instance, sequence, true);
                Pending { partition, batch, records: vec![(None, said)], times: 0 }
            }
        };
        let (partition, batch) = (pending.partition, pending.batch.clone());
        let append = Op::AppendInTransaction { topic_id: PLAIN, partition, batch, joins: true };
        match propose(shard, append).await? {
            Answer::Reply(Reply::Appended(appended)) => {
                self.sequences[partition as usize] += 1;
                let mut known = known.lock();
                if let Some((_, records)) = known.transactions.get_mut(&self.transaction) {
                    let told = pending.records.iter();
                    records.extend(told.map(|(_, said)| (partition, appended.base_offset, *said)));
                }
            }
            Answer::Reply(other) => return Err(format!("a batch was answered with {other:?}")),
            Answer::Unknown => {
                self.pending = Some(Pending { times: pending.times + 1, ..pending });
            }
            // It was aborted by its timeout, which fences the instance.
            Answer::Refused(_) => self.producer = None,
        }
        Ok(())
    }

    async fn end<M: Machine>(
        &mut self,
        shard: &Shard<M>,
        producer: TransactionalProducer,
        commits: bool,
        known: &Mutex<Known>,
    ) -> Result<(), String> {
        let end = Op::EndTransaction { producer: producer.clone(), commits, bumps_epoch: true };
        match propose(shard, end).await? {
            Answer::Reply(Reply::Producer { producer_id, epoch }) => {
                self.producer = Some(TransactionalProducer { producer_id, epoch, ..producer });
                self.settle(if commits { Fate::Committed } else { Fate::Aborted }, known);
            }
            Answer::Reply(other) => return Err(format!("a transaction ended with {other:?}")),
            // An attempt before may have come through, and then the epoch is another.
            Answer::Refused(_) => self.producer = None,
            Answer::Unknown => {}
        }
        Ok(())
    }
}
