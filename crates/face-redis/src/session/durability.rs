//! What this connection's writes are safe from once they are acknowledged: the node's, or the cluster's choice
//! (`CONFIG SET appendfsync`), or the connection's own (PROTEUS.DURABILITY, not of Redis).

use bytes::Bytes;
use proteus_kernel_api::cache::Reply;
use proteus_kernel_api::{Durability, Minitransaction};

use super::Session;
use crate::errors::of_kernel;
use crate::reply::text;
use crate::settings::{ALWAYS, EVERY_SECOND};

impl Session {
    pub(super) fn durability(&self) -> Durability {
        self.durability.unwrap_or_else(|| self.face.hub.settings.durability())
    }

    /// PROTEUS.DURABILITY: answers with what holds, or changes it for what follows on this connection.
    pub(super) fn proteus_durability(&mut self, arguments: &[Bytes]) -> Reply {
        let Some(word) = arguments.get(1).map(|word| word.to_ascii_lowercase()) else {
            let word = if self.durability() == Durability::Relaxed { EVERY_SECOND } else { ALWAYS };
            return text(word);
        };
        self.durability = match word.as_slice() {
            b"always" => Some(Durability::Flushed),
            b"everysec" => Some(Durability::Relaxed),
            b"default" => None,
            _ => return Reply::error("ERR PROTEUS.DURABILITY takes ALWAYS, EVERYSEC or DEFAULT"),
        };
        Reply::OK
    }

    /// Returns once everything that was acknowledged is on stable storage.
    pub(super) async fn flush(&self) -> Result<(), Reply> {
        // It stands behind them in the log.
        let flushed = vec![Minitransaction::default()];
        let done = self.face.kernel.propose_at(Durability::Flushed, flushed).await;
        done.map(drop).map_err(|error| of_kernel(&error))
    }
}
