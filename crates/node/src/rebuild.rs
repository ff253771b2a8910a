//! Putting another replica's state in place of one that differs.

use std::path::Path;
use std::time::Duration;

use proteus_env::task;
use proteus_kernel::{RestoredState, stored_members};
use proteus_log::Log;
use proteus_peer::Dialer;
use proteus_types::{Member, NodeId, ShardId};
use tracing::{info, warn};

use crate::NodeError;
use crate::admin::{AdminAnswer, AdminRequest, ImageStart, ask_through, fetch_image};
use crate::shards::store_directory;

/// Pause before the others are asked again.
const RETRY: Duration = Duration::from_secs(1);

/// Rebuilds the shards in `directory` whose states were found to differ.
pub(crate) async fn rebuild_where_needed(
    own: NodeId,
    directory: &Path,
    log: &Log,
    dialer: Option<&Dialer>,
) -> Result<(), NodeError> {
    for shard in log.shards() {
        let store = store_directory(directory, shard);
        if proteus_kernel::differs(&store) {
            let dialer = dialer.ok_or_else(|| NodeError::Differs(directory.to_owned()))?;
            rebuild(own, shard, &store, log, dialer).await?;
        }
    }
    Ok(())
}

/// Fetches another replica's state, the leader's if there is one, and puts it in place of the one in
/// `store_directory`; tries until it succeeds, since there is nothing that this node could serve meanwhile.
async fn rebuild(
    own: NodeId,
    shard: ShardId,
    store_directory: &Path,
    log: &Log,
    dialer: &Dialer,
) -> Result<(), proteus_kernel_api::KernelError> {
    let members = stored_members(store_directory)?;
    warn!("this node's state differed from the other replicas'; it is rebuilt from one of theirs");
    loop {
        for (node, member) in members.iter().filter(|(node, _)| **node != own) {
            match rebuild_through((own, shard), store_directory, log, dialer, member).await {
                Ok(()) => return Ok(()),
                Err(reason) => warn!(through = %node, reason, "not rebuilt yet; it is tried again"),
            }
        }
        task::sleep(RETRY).await;
    }
}

/// Asks one member who leads, and takes the state from there, or from that member: without this node's
/// vote there may be no leader. What a state lacks the log here, or the next leader, makes up for.
async fn rebuild_through(
    (own, shard): (NodeId, ShardId),
    store_directory: &Path,
    log: &Log,
    dialer: &Dialer,
    member: &Member,
) -> Result<(), String> {
    let status = match ask_through(dialer, &member.peer_address, &AdminRequest::Status).await? {
        AdminAnswer::Status(status) => status,
        other => return Err(format!("an answer to another question: {other:?}")),
    };
    let of_shard = status.shards.iter().find(|known| known.shard == shard);
    let leader = of_shard.and_then(|known| known.leader).filter(|leader| *leader != own);
    let leader = status.nodes.iter().find(|node| Some(node.node) == leader);
    let address = leader.map_or(&member.peer_address, |leader| &leader.member.peer_address);
    let request = AdminRequest::BeginImage { shard };
    let start: ImageStart = match ask_through(dialer, address, &request).await? {
        AdminAnswer::Image(start) => start,
        other => return Err(format!("an answer to another question: {other:?}")),
    };
    let mut state = RestoredState::begin(store_directory).map_err(|error| error.to_string())?;
    for sequence in 0.. {
        let piece = fetch_image(dialer, address, start.transfer, sequence).await?;
        if piece.is_empty() {
            break;
        }
        state = task::spawn_blocking(move || state.take_chunk(&piece).map(|()| state))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
    }
    let id = state.replace(log, shard).await.map_err(|error| error.to_string())?;
    info!(index = %id.index, from = address, "this node's state is rebuilt");
    Ok(())
}
