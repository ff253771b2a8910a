//! What reads wait for: this node to be up to date, or the nodes that have the keys.

use bytes::{Bytes, BytesMut};
use futures::future::join_all;
use proteus_kernel_api::cache::commands::Flags;
use proteus_kernel_api::cache::{self, Answer, Reply};
use proteus_kernel_api::{KernelError, Slot as KeySlot};

use super::{Batch, Session, Slot};
use crate::table::Found;

/// Reads of keys on other nodes that are on their way at once.
pub(super) const ASKED_MAX: usize = 64;

impl Session {
    /// Before the first read of what one receipt brought: waits until this node has what was
    /// acknowledged anywhere before.
    pub(super) async fn catch_up(&mut self) -> Result<(), KernelError> {
        if !self.is_current {
            self.face.kernel.pass_read_barrier().await?;
            self.is_current = true;
        }
        Ok(())
    }

    /// The slots of a read that came by itself where keys are in several shards: it waits for theirs only.
    /// None if it has to wait for all, or for nothing any more.
    pub(super) fn slots_alone(
        &self,
        found: Found,
        arguments: &[Bytes],
        input: &BytesMut,
    ) -> Vec<KeySlot> {
        let is_alone = !self.is_current
            && input.is_empty()
            && self.batch.minitransactions.is_empty()
            && self.user.is_unrestricted
            && !found.flags().has(Flags::BLOCKING)
            && self.face.kernel.is_spread();
        if is_alone { cache::spread::slots_read(arguments) } else { Vec::new() }
    }

    /// The answers of the batch's reads of keys that may be elsewhere, which are all asked for at once.
    pub(super) async fn ask_all(&self, batch: &mut Batch) -> Vec<Result<Reply, KernelError>> {
        if std::mem::take(&mut batch.asked_count) == 0 {
            return Vec::new();
        }
        let kernel = &self.face.kernel;
        let question = |(_, _, slot): &(Option<Found>, bool, Slot)| match slot {
            Slot::Asked(question) => Some(kernel.read_or_ask(question.clone(), Answer::into_reply)),
            _ => None,
        };
        let asking: Vec<_> = batch.slots.iter().filter_map(question).collect();
        join_all(asking).await
    }
}
