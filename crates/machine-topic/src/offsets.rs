//! What consumer groups have consumed.

use std::ops::ControlFlow;

use bytes::Bytes;
use proteus_store::Read;

use crate::stored::{self, StoredOffset};
use crate::topics::existing_partition;
use crate::{
    Applied, Change, NewOffset, OFFSET_METADATA_BYTES_MAX, Refusal, Reply, TopicCtx, TopicId, keys,
    read, refuse,
};

pub(crate) fn check_committed(
    ctx: &TopicCtx<'_>,
    group: &str,
    topic_id: TopicId,
    partition: u32,
    expected: Option<i64>,
) -> Applied<()> {
    let found = read::committed_offset(ctx.read(), group, topic_id, partition)?
        .map(|committed| committed.offset);
    if found == expected {
        Ok(())
    } else {
        refuse(Refusal::CommittedOffsetDiffers { expected, found })
    }
}

/// The offset as it is stored, if it can be committed.
pub(crate) fn checked(ctx: &TopicCtx<'_>, new: &NewOffset) -> Applied<StoredOffset> {
    existing_partition(ctx, new.topic_id, new.partition)?;
    let bytes = new.metadata.len();
    if bytes > OFFSET_METADATA_BYTES_MAX {
        return refuse(Refusal::MetadataTooLarge { bytes });
    }
    Ok(StoredOffset {
        offset: new.offset,
        leader_epoch: new.leader_epoch,
        metadata: new.metadata.clone(),
        committed_at_ms: ctx.now_ms(),
    })
}

pub(crate) fn commit(ctx: &mut TopicCtx<'_>, group: &str, offsets: &[NewOffset]) -> Applied<Reply> {
    for new in offsets {
        let stored = checked(ctx, new)?;
        ctx.put(keys::offset(group, new.topic_id, new.partition), stored::encode(&stored));
    }
    ctx.emit(Change::OffsetsCommitted { group: group.to_owned() });
    Ok(Reply::Done)
}

pub(crate) fn expire(
    ctx: &mut TopicCtx<'_>,
    group: &str,
    committed_before_ms: u64,
) -> Applied<Reply> {
    let mut expired: Vec<Bytes> = Vec::new();
    let mut damaged = None;
    ctx.scan_prefix(&keys::offsets_of_group(group), &mut |key, value| {
        match stored::decode::<StoredOffset>(key, value) {
            Ok(offset) if offset.committed_at_ms < committed_before_ms => {
                expired.push(Bytes::copy_from_slice(key));
            }
            Ok(_) => {}
            Err(error) => damaged = Some(error),
        }
        ControlFlow::Continue(())
    })?;
    if let Some(error) = damaged {
        return Err(error.into());
    }
    let count = expired.len() as u64;
    for key in expired {
        ctx.delete(key);
    }
    if count > 0 {
        ctx.emit(Change::OffsetsCommitted { group: group.to_owned() });
    }
    Ok(Reply::Removed(count))
}

pub(crate) fn remove(
    ctx: &mut TopicCtx<'_>,
    group: &str,
    partitions: Option<&[(TopicId, u32)]>,
) -> Applied<Reply> {
    let mut found: Vec<Bytes> = Vec::new();
    match partitions {
        Some(partitions) => {
            for (topic_id, partition) in partitions {
                let key = keys::offset(group, *topic_id, *partition);
                if ctx.get(&key)?.is_some() {
                    found.push(Bytes::from(key));
                }
            }
        }
        None => read::each_offset(ctx.read(), &keys::offsets_of_group(group), &mut |key, _| {
            found.push(Bytes::copy_from_slice(key));
        })?,
    }
    let count = found.len() as u64;
    for key in found {
        ctx.delete(key);
    }
    if count > 0 {
        ctx.emit(Change::OffsetsCommitted { group: group.to_owned() });
    }
    Ok(Reply::Removed(count))
}
