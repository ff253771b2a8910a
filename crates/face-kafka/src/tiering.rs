//! Old batches in the object store: moved there by the node that leads, and read from there.
//!
//! The order that makes it safe against a crash at any point is the machine's; see
//! `machine-topic/src/tiering.rs`.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use proteus_env::{random, task};
use proteus_kernel_api::topic::batch::put_batch;
use proteus_kernel_api::topic::read::{self, StoredBatch};
use proteus_kernel_api::topic::tiering::{
    NewObject, ObjectId, ObjectName, ObjectRange, batches_of_part, garbage_objects, movable_batches,
};
use proteus_kernel_api::topic::{Op, TopicId};
use proteus_kernel_api::{Kernel, KernelError, Minitransaction, Outcome};
use proteus_objects::{Objects, ObjectsError};
use tracing::warn;

use crate::Shared;
use crate::errors::Failure;

/// How often partitions are looked at.
pub(crate) const INTERVAL: Duration = Duration::from_secs(10);
/// Topics that one look at the state collects.
const TOPICS_PER_READ_MAX: usize = 500;
/// Objects of one partition that one look moves, so that others get their turn.
const OBJECTS_PER_LOOK_MAX: usize = 64;
/// Objects that are deleted together.
const GARBAGE_PER_LOOK_MAX: usize = 256;
/// How long one upload may take: well before the machine gives it up.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Why the object store could not be kept in order.
#[derive(Debug, thiserror::Error)]
enum TieringError {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    #[error("an upload has taken longer than {} s", UPLOAD_TIMEOUT.as_secs())]
    Slow,
}

/// Looks at the partitions again and again, for as long as the face lives.
pub(crate) async fn keep(shared: Weak<Shared>) {
    loop {
        let Some(interval) = shared.upgrade().map(|shared| shared.options.tiering_interval) else {
            return;
        };
        task::sleep(interval).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let Some(objects) = shared.options.objects_for(&*shared.kernel) else {
            continue;
        };
        if !shared.kernel.leads() {
            continue;
        }
        if let Err(error) = look(&*shared.kernel, objects).await {
            warn!(%error, "old records stay where they are for now");
        }
    }
}

/// Deletes what nobody needs and moves what is old.
async fn look(kernel: &dyn Kernel, objects: &Objects) -> Result<(), TieringError> {
    delete_garbage(kernel, objects).await?;
    let mut after: Option<String> = None;
    loop {
        let topics = kernel
            .read(|view| read::topics_after(view.state, after.as_deref(), TOPICS_PER_READ_MAX))?;
        let Some(last) = topics.last() else {
            return Ok(());
        };
        after = Some(last.name.clone());
        for topic in &topics {
            if read::ConfigReader(&topic.config).has_remote_storage() {
                for partition in 0..topic.partition_count {
                    move_old(kernel, objects, topic.topic_id, partition).await?;
                }
            }
        }
    }
}

async fn delete_garbage(kernel: &dyn Kernel, objects: &Objects) -> Result<(), TieringError> {
    let garbage = kernel.read(|view| garbage_objects(view.state, GARBAGE_PER_LOOK_MAX))?;
    if garbage.is_empty() {
        return Ok(());
    }
    for name in &garbage {
        objects.delete(&name.path()).await?;
    }
    let object_ids = garbage.iter().map(|name| name.object_id).collect();
    kernel.commit(Minitransaction::of(Op::ForgetObjects { object_ids })).await?;
    Ok(())
}

async fn move_old(
    kernel: &dyn Kernel,
    objects: &Objects,
    topic_id: TopicId,
    partition: u32,
) -> Result<(), TieringError> {
    for _ in 0..OBJECTS_PER_LOOK_MAX {
        let batches =
            kernel.read(|view| movable_batches(view.state, topic_id, partition, view.now_ms))?;
        if batches.is_empty() {
            return Ok(());
        }
        let object_id = ObjectId(random::random_bytes());
        let reserve = Op::ReserveObject { topic_id, partition, object_id };
        if !is_committed(kernel.commit(Minitransaction::of(reserve)).await?) {
            return Ok(());
        }
        let name = ObjectName { topic_id, partition, object_id };
        let path = name.path();
        let upload = objects.put(&path, vec![concatenate(&batches)]);
        task::timeout(UPLOAD_TIMEOUT, upload).await.ok_or(TieringError::Slow)??;
        let object = NewObject::of(object_id, &batches);
        if !is_committed(kernel.commit(Minitransaction::of(Op::MoveToObject { object })).await?) {
            return Ok(());
        }
    }
    Ok(())
}

fn is_committed(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Committed { .. })
}

/// Batches as a consumer is sent them.
fn concatenate(batches: &[StoredBatch]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(batches.iter().map(|batch| batch.bytes.len()).sum());
    for batch in batches {
        put_batch(&mut bytes, batch.base_offset, batch.leader_epoch, &batch.bytes);
    }
    bytes.freeze()
}

/// The batches of a part of an object from the one that holds `offset` on.
pub(crate) async fn read_range(
    shared: &Arc<Shared>,
    range: &ObjectRange,
    offset: i64,
) -> Result<Vec<StoredBatch>, Failure> {
    let failed = |message: String| {
        warn!(message, object = range.name.path(), "cannot read old records");
        Failure::new(ResponseError::KafkaStorageError, message)
    };
    let Some(objects) = &shared.options.objects else {
        return Err(failed("the records are in an object store that this node has not".to_owned()));
    };
    let bytes = objects
        .read(&range.name.path(), range.bytes.clone())
        .await
        .map_err(|error| failed(error.to_string()))?;
    batches_of_part(&bytes, offset).map_err(|error| failed(error.to_string()))
}
