//! Bits that flip on a medium at rest, in what was flushed long ago.

use proteus_types::NodeId;

use super::World;
use crate::replica::Machine;

impl<M: Machine> World<M> {
    /// With all well, a bit flips in the log of a node that is stopped: in a file that it does not write
    /// any more. The node says so when it starts, or nothing was written there. If it says so it is
    /// removed, as an operator would do who has a new one join.
    ///
    /// The newest file is left alone: its last batch cannot be told from one that a crash tore.
    pub(super) async fn decay(&mut self) -> Result<(), String> {
        self.settle_members().await?;
        let Some((_, leader)) = self.leader() else { return Ok(()) };
        let voters = leader.group().membership().voters;
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        let id = self.random.pick(&ids);
        // Of fewer voters than three each is needed.
        if voters.contains(&id) && voters.len() < 3 {
            return Ok(());
        }
        drop(leader);
        self.stop(id).await?;
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        let mut files = node.disk.lengths();
        files.sort();
        files.pop();
        if !files.is_empty() {
            let (name, length) = self.random.pick(&files);
            let place = self.random.below(length as u64) as usize;
            node.disk.flip_bit(&name, place, self.random.below(8) as u8);
            node.is_decayed = true;
            self.summary.flipped_bits += 1;
        }
        self.start(id).await?;
        if self.nodes.get(&id).is_some_and(|node| node.is_damaged) {
            self.summary.damaged += 1;
            self.leaving.insert(id);
            self.settle_members().await?;
        }
        Ok(())
    }
}
