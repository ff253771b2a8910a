//! Random commands for topics.

use std::collections::BTreeMap;

use bytes::Bytes;
use proteus_machine::View;
use proteus_shard_machine::topic;
use proteus_store::StoreError;

use super::{Generator, NAMES};

impl Generator {
    pub(super) fn topic_id(&mut self) -> topic::TopicId {
        topic::TopicId([self.low_number() as u8 + 1; 16])
    }

    pub(super) fn group(&mut self) -> String {
        format!("g{}", self.random.below(3))
    }

    pub(super) fn batch(&mut self) -> Bytes {
        if self.random.chance(3) {
            return self.bytes(80);
        }
        let records: Vec<topic::batch::NewRecord> = (0..=self.random.below(3))
            .map(|_| topic::batch::NewRecord {
                key: self.random.chance(50).then(|| self.bytes(5)),
                value: self.data(),
                headers: Vec::new(),
            })
            .collect();
        let timestamp_ms = self.random.below(1 << 41) as i64;
        let mut batch =
            topic::batch::frame_batch(&records, timestamp_ms).unwrap_or_default().to_vec();
        if self.random.chance(25) && batch.len() > 57 {
            // A producer that numbers its batches: id, epoch, first sequence. The machine leaves
            // checksums to those who propose.
            batch[43..51].copy_from_slice(&self.random.below(3).to_be_bytes());
            batch[51..53].copy_from_slice(&(self.random.below(2) as i16).to_be_bytes());
            batch[53..57].copy_from_slice(&(self.random.below(4) as i32).to_be_bytes());
        }
        batch.into()
    }

    /// A transactional producer as it is in the state, or one that is not.
    pub(super) fn producer(
        &mut self,
        view: View<'_>,
    ) -> Result<topic::TransactionalProducer, StoreError> {
        let transactional_id = format!("x{}", self.random.below(3));
        let found = topic::read::transaction(view.state, &transactional_id)?;
        let (producer_id, epoch) = match found {
            Some(found) if self.random.chance(90) => (found.producer_id, found.epoch),
            _ => (self.random.below(3) as i64, self.random.below(3) as i16),
        };
        Ok(topic::TransactionalProducer { transactional_id, producer_id, epoch })
    }

    /// An op of a transactional producer that mostly fits what it has done before.
    pub(super) fn transaction_op(&mut self, view: View<'_>) -> Result<topic::Op, StoreError> {
        let producer = self.producer(view)?;
        let (topic_id, partition) = (self.topic_id(), self.random.below(2) as u32);
        Ok(match self.random.below(12) {
            0 => topic::Op::InitTransactions {
                transactional_id: producer.transactional_id,
                timeout_ms: self.random.pick(&[1_000, 60_000, 900_000]),
                expected: self.random.chance(30).then_some((producer.producer_id, producer.epoch)),
            },
            1 => topic::Op::AddToTransaction {
                producer,
                partitions: vec![(topic_id, partition)],
                groups: vec![self.group()],
            },
            2 => topic::Op::CommitOffsetsInTransaction {
                producer,
                group: self.group(),
                offsets: vec![topic::NewOffset {
                    topic_id,
                    partition,
                    offset: self.random.below(50) as i64,
                    leader_epoch: -1,
                    metadata: String::new(),
                }],
                joins: self.random.chance(80),
            },
            3..=4 => topic::Op::EndTransaction {
                producer,
                commits: self.random.chance(60),
                bumps_epoch: self.random.chance(70),
            },
            _ => {
                let known = topic::read::producers(view.state, topic_id, partition, 100)?;
                let own = known.iter().find(|known| known.producer_id == producer.producer_id);
                let sequence = match own {
                    Some(own) if own.epoch == producer.epoch => own.last_sequence.wrapping_add(1),
                    _ => 0,
                };
                let mut batch = self.batch().to_vec();
                if let Some(header) = batch.get_mut(..61) {
                    header[22] |= 0x10;
                    header[43..51].copy_from_slice(&producer.producer_id.to_be_bytes());
                    header[51..53].copy_from_slice(&producer.epoch.to_be_bytes());
                    header[53..57].copy_from_slice(&sequence.max(0).to_be_bytes());
                }
                let joins = self.random.chance(80);
                topic::Op::AppendInTransaction { topic_id, partition, batch: batch.into(), joins }
            }
        })
    }

    /// Batches that move to an object, mostly as they are in the state.
    pub(super) fn tiering_op(&mut self, view: View<'_>) -> Result<topic::Op, StoreError> {
        let (topic_id, partition) = (self.topic_id(), self.random.below(2) as u32);
        let object_id = topic::tiering::ObjectId([self.random.below(3) as u8; 16]);
        Ok(match self.random.below(10) {
            0..=4 => topic::Op::ReserveObject { topic_id, partition, object_id },
            5 => topic::Op::ForgetObjects { object_ids: vec![object_id] },
            _ => {
                let state = view.state;
                let batches =
                    topic::tiering::movable_batches(state, topic_id, partition, u64::MAX)?;
                let object = topic::tiering::NewObject::of(object_id, &batches);
                topic::Op::MoveToObject { object }
            }
        })
    }

    pub(super) fn settings(&mut self) -> BTreeMap<String, String> {
        let mut settings = BTreeMap::new();
        if self.random.chance(30) {
            for (name, value) in [
                (topic::settings::REMOTE_STORAGE_ENABLE, "true"),
                (topic::settings::LOCAL_RETENTION_MS, "0"),
                (topic::settings::SEGMENT_BYTES, "200"),
            ] {
                settings.insert(name.to_owned(), value.to_owned());
            }
        }
        if self.random.chance(60) {
            let ms = self.random.pick(&["-1", "5000", "600000"]);
            settings.insert(topic::settings::RETENTION_MS.to_owned(), ms.to_owned());
        }
        if self.random.chance(30) {
            settings.insert(topic::settings::RETENTION_BYTES.to_owned(), "300".to_owned());
        }
        if self.random.chance(40) {
            let policy = self.random.pick(&["compact", "compact,delete", "delete"]);
            settings.insert(topic::settings::CLEANUP_POLICY.to_owned(), policy.to_owned());
            let ratio = self.random.pick(&["0", "0.3"]);
            let name = topic::settings::MIN_CLEANABLE_DIRTY_RATIO;
            settings.insert(name.to_owned(), ratio.to_owned());
        }
        if self.random.chance(20) {
            let kind = self.random.pick(&["CreateTime", "LogAppendTime"]);
            settings.insert(topic::settings::MESSAGE_TIMESTAMP_TYPE.to_owned(), kind.to_owned());
        }
        settings
    }

    /// What administrators set beside topics.
    pub(super) fn administration_op(&mut self) -> topic::Op {
        let user = format!("u{}", self.random.below(3));
        let acl = topic::acls::Acl {
            resource_type: 2,
            resource_name: format!("t{}", self.random.below(NAMES)),
            pattern_type: 3,
            principal: format!("User:{user}"),
            host: "*".to_owned(),
            operation: self.random.pick(&[3, 4]),
            permission: 3,
        };
        match self.random.below(5) {
            0 => topic::Op::PutCredential {
                user,
                credential: topic::credentials::Credential {
                    mechanism: 1,
                    salt: self.bytes(9).to_vec(),
                    iterations: 4096,
                    stored_key: self.bytes(9).to_vec(),
                    server_key: self.bytes(9).to_vec(),
                },
            },
            1 if self.random.chance(50) => topic::Op::ExpireOffsets {
                group: self.group(),
                committed_before_ms: self.random.below(1 << 41),
            },
            1 => topic::Op::RemoveCredential { user, mechanism: 1 },
            2 => topic::Op::PutAcls { acls: vec![acl] },
            3 => topic::Op::RemoveAcls { acls: vec![acl] },
            _ => topic::Op::SetQuotas {
                entity: topic::quotas::Entity([("user".to_owned(), Some(user))].into()),
                changes: BTreeMap::from([(
                    "producer_byte_rate".to_owned(),
                    self.random.chance(60).then(|| 1_000.0f64.to_bits()),
                )]),
            },
        }
    }

    /// What share groups consume, and how groups are set.
    fn share_op(&mut self) -> topic::Op {
        use topic::shares::{Delivery, ShareRange, ShareState};
        let (topic_id, group, partition) =
            (self.topic_id(), self.group(), self.random.below(2) as u32);
        match self.random.below(10) {
            0..=2 => topic::Op::BeginShare {
                group,
                topic_id,
                partition,
                start_offset: self.random.below(9) as i64 - 1,
            },
            3 => topic::Op::ResetShares {
                group,
                offsets: vec![(topic_id, partition, self.random.below(9) as i64 - 1)],
            },
            4 => topic::Op::RemoveShares {
                group,
                topics: self.random.chance(50).then(|| vec![topic_id]),
            },
            5 => topic::Op::ConfigureGroup {
                group,
                config: BTreeMap::from([(
                    "share.auto.offset.reset".to_owned(),
                    self.random.chance(60).then(|| "earliest".to_owned()),
                )]),
            },
            _ => {
                let ranges = (0..self.random.below(4)).map(|_| {
                    let first = self.random.below(12) as i64 - 1;
                    let state = self.random.pick(&[
                        ShareState::Available,
                        ShareState::Acknowledged,
                        ShareState::Archived,
                    ]);
                    let count = self.random.below(6) as u16;
                    let last = first + self.random.below(4) as i64;
                    ShareRange { first, last, delivery: Delivery { state, count } }
                });
                let ranges = ranges.collect();
                topic::Op::UpdateShare { group, topic_id, partition, ranges }
            }
        }
    }

    pub(super) fn topic_op(&mut self) -> topic::Op {
        let (topic_id, group, partition) =
            (self.topic_id(), self.group(), self.random.below(3) as u32);
        match self.random.below(34) {
            30..=33 => self.share_op(),
            0..=2 => topic::Op::CreateTopic {
                name: format!("t{}", self.random.below(NAMES)),
                topic_id,
                partition_count: self.random.below(4) as u32,
                config: self.settings(),
            },
            3 => topic::Op::DeleteTopic { topic_id },
            4 => topic::Op::GrowTopic { topic_id, partition_count: self.random.below(6) as u32 },
            5 => topic::Op::ConfigureTopic {
                topic_id,
                config: self
                    .settings()
                    .into_iter()
                    .map(|(name, value)| (name, Some(value)))
                    .collect(),
            },
            6..=13 => topic::Op::Append { topic_id, partition, batch: self.batch() },
            14 => topic::Op::DeleteRecords {
                topic_id,
                partition,
                before_offset: self.random.chance(50).then(|| self.random.below(6) as i64),
            },
            15 => topic::Op::AllocateProducerId,
            16..=18 => topic::Op::CommitOffsets {
                group,
                offsets: vec![topic::NewOffset {
                    topic_id,
                    partition: 0,
                    offset: self.random.below(50) as i64,
                    leader_epoch: -1,
                    metadata: String::new(),
                }],
            },
            19 => topic::Op::RemoveOffsets {
                group,
                partitions: self.random.chance(50).then(|| vec![(topic_id, 0)]),
            },
            20..=21 => self.administration_op(),
            _ => topic::Op::Append { topic_id, partition, batch: self.batch() },
        }
    }
}
