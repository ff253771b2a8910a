//! A replica that computes otherwise than the others: found, taken out of service, rebuilt.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proteus_env::task;
use proteus_kernel::{RestoredState, Shard};
use proteus_log::Log;
use proteus_types::{NodeId, ShardId};

use super::{Node, PATIENCE, Planted, Summary, World, replica};
use crate::planted::Deviating;
use crate::replica::Machine;

/// What a replica says that was taken out of service because it differs.
pub(super) const DIFFERS: &str = "its state after entry";

/// Puts the leader's state in place of that of `node`, as a node does at its start; says whether it
/// could.
pub(super) async fn rebuild<M: Machine>(
    node: &Node<M>,
    leader: Option<(NodeId, Arc<Shard<M>>)>,
    store: &Path,
    log: &Log,
) -> Result<bool, String> {
    let Some((_, leader)) = leader else { return Ok(false) };
    let Ok(mut image) = leader.image().await else { return Ok(false) };
    let failed = |error: proteus_machine::KernelError| format!("{}: {error}", node.id);
    let mut state = RestoredState::begin(store).map_err(failed)?;
    while let Some(chunk) = image.next_chunk().map_err(failed)? {
        state.take_chunk(&chunk).map_err(failed)?;
    }
    match state.replace(log, ShardId::META).await {
        Ok(_) => {}
        Err(_) if !node.disk.has_power() => return Ok(false),
        Err(error) => return Err(failed(error)),
    }
    node.deviates.store(false, Ordering::Relaxed);
    Ok(true)
}

/// Runs a plan of `seed` in which all is well but for one replica, perhaps the leader's, which computes
/// otherwise from some moment on: it alone is taken out of service once writes go on.
///
/// # Errors
/// What cannot be true of a correct cluster.
///
/// # Panics
/// If the machine has no temporary directory or runtime.
pub fn run_with_deviation(seed: u64) -> Result<Summary, String> {
    super::in_paused_time(seed, async {
        let mut world = World::<Deviating>::new(seed, Planted::Deviation);
        let result = world.live_with_deviation().await;
        world.end(result).await
    })
}

impl<M: Machine> World<M> {
    async fn live_with_deviation(&mut self) -> Result<(), String> {
        let voters = self.random.pick(&[3, 3, 5]);
        for number in 1..=voters {
            self.add_node(NodeId(number)).await?;
        }
        self.form_cluster().await?;
        for _ in 0..2 {
            self.work().await?;
            // While one is behind, or is being rebuilt, two are left of three, and if these differ nobody
            // can tell who is right.
            self.recovers().await?;
            self.deviate().await?;
            self.all_well().await?;
        }
        self.recovers().await
    }

    /// One replica computes otherwise, and is found.
    async fn deviate(&mut self) -> Result<(), String> {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        let mut deviant = self.random.pick(&ids);
        if self.random.chance(50)
            && let Some((leader, _)) = self.leader()
        {
            deviant = leader;
        }
        let led = self.leader().is_some_and(|(leader, _)| leader == deviant);
        self.set_deviating(deviant);
        let found = task::timeout(PATIENCE, async {
            while self.stop_reason(deviant).is_none() {
                self.work().await?;
                task::sleep(Duration::from_millis(100)).await;
            }
            Ok::<(), String>(())
        });
        let found = found.await;
        found.ok_or_else(|| {
            format!("{deviant} computes otherwise, and goes on{}", self.describe())
        })??;
        for id in ids.into_iter().filter(|id| *id != deviant) {
            if let Some(reason) = self.stop_reason(id) {
                return Err(format!("{deviant} computes otherwise, and {id} stopped: {reason}"));
            }
        }
        self.summary.condemned_leading += u64::from(led);
        self.bury(deviant).await?;
        // The others go on meanwhile.
        self.work().await?;
        self.recovers().await
    }

    fn set_deviating(&self, id: NodeId) {
        if let Some(node) = self.nodes.get(&id) {
            node.deviates.store(true, Ordering::Relaxed);
        }
    }

    fn stop_reason(&self, id: NodeId) -> Option<String> {
        self.nodes.get(&id)?.shard.as_ref()?.stop_reason()
    }

    /// The first difference between what the replicas that run hold.
    pub(super) fn difference(&self) -> Option<String> {
        let mut first: Option<(NodeId, replica::Bytewise)> = None;
        for (id, shard) in self.running() {
            let mut held = None;
            let _ = shard.read(&mut |view| held = replica::bytewise(view.state).ok());
            let held = held?;
            match &first {
                Some((other, before)) => {
                    if let Some(difference) = replica::difference(before, &held) {
                        return Some(format!("{other} and {id} hold {difference}"));
                    }
                }
                None => first = Some((id, held)),
            }
        }
        None
    }
}
