//! One shard's consensus group.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::{Config, Raft, SnapshotPolicy};
use proteus_log::Log;
use proteus_types::{NodeId, ShardId};

use crate::config::{Payload, TypeConfig};
use crate::log_storage::LogStorage;
use crate::network::Unconnected;
use crate::replica::{Replica, ReplicaMachine};

/// How long a fresh or reopened group may take until it leads itself and has replayed its log. A
/// bounded log replays in a small part of this, also on a slow disk.
const READY_TIMEOUT: Duration = Duration::from_secs(120);

/// Who and where.
#[derive(Debug, Clone, Copy)]
pub struct GroupOptions {
    /// The shard that the group replicates.
    pub shard: ShardId,
    /// This node.
    pub node: NodeId,
}

/// Why a payload was not taken.
#[derive(Debug, thiserror::Error)]
#[error("the consensus group has stopped: {0}")]
pub struct ProposeError(String);

/// A consensus group's replica on this node. Clones share it.
#[derive(Clone)]
pub struct Group {
    raft: Raft<TypeConfig, ReplicaMachine>,
}

impl Group {
    /// Opens the group over what `log` holds, or founds it with this node as its only voter, and
    /// returns once it leads and has applied all that was committed.
    ///
    /// # Errors
    /// If log or replica fail.
    pub async fn open(
        options: GroupOptions,
        log: Log,
        replica: Arc<dyn Replica>,
    ) -> io::Result<Group> {
        let config = Config {
            cluster_name: options.shard.to_string(),
            // A checkpoint is taken when the kernel says so, by bytes and time.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: 0,
            purge_batch_size: 1,
            // A node that led before a restart leads on without an election, so these times bear on
            // several voters only; slow ticks keep an idle node idle.
            heartbeat_interval: 250,
            election_timeout_min: 1000,
            election_timeout_max: 2000,
            ..Config::default()
        };
        let config = Arc::new(config.validate().map_err(io::Error::other)?);
        let storage = LogStorage { log, shard: options.shard };
        let machine = ReplicaMachine { replica };
        let raft = Raft::new(options.node.0, config, Unconnected, storage, machine)
            .await
            .map_err(io::Error::other)?;
        if !raft.is_initialized().await.map_err(io::Error::other)? {
            let voters = BTreeSet::from([options.node.0]);
            raft.initialize(voters).await.map_err(io::Error::other)?;
        }
        raft.wait(Some(READY_TIMEOUT))
            .metrics(|metrics| metrics.current_leader == Some(options.node.0), "leads itself")
            .await
            .map_err(io::Error::other)?;
        raft.wait_for_recovery(Some(READY_TIMEOUT)).await.map_err(io::Error::other)?;
        Ok(Group { raft })
    }

    /// Hands a payload over, to be appended after those handed over before. What becomes of it the
    /// replica learns when it is applied.
    ///
    /// # Errors
    /// If the group has stopped; the payload is then not in the log.
    pub async fn propose(&self, payload: Bytes) -> Result<(), ProposeError> {
        self.raft
            .client_write_ff(Payload(payload), None)
            .await
            .map_err(|fatal| ProposeError(fatal.to_string()))
    }

    /// Lets the log before the replica's newest checkpoint be purged. Returns at once.
    ///
    /// # Errors
    /// If the group has stopped.
    pub async fn purge_checkpointed(&self) -> Result<(), ProposeError> {
        self.raft.trigger().snapshot().await.map_err(|fatal| ProposeError(fatal.to_string()))
    }

    /// Resolves when the group has stopped, with the reason: its disk or its replica failed, or it
    /// was shut down.
    pub async fn stopped(&self) -> String {
        let stopped = self
            .raft
            .wait(None)
            .metrics(|metrics| metrics.running_state.is_err(), "has stopped")
            .await;
        match stopped {
            Ok(metrics) => match metrics.running_state {
                Err(fatal) => fatal.to_string(),
                Ok(()) => "stopped".to_owned(),
            },
            Err(error) => error.to_string(),
        }
    }

    /// Stops the group. What was proposed and not applied may or may not be committed.
    pub async fn shutdown(&self) {
        // An error means that it has already ended.
        let _ = self.raft.shutdown().await;
    }
}
