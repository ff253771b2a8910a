//! A kernel in memory: the same machine and feed, no log, no disk.

use std::sync::Arc;

use parking_lot::RwLock;
use proteus_env::Clock;
use proteus_machine::{Position, ShardMachine};
use proteus_shard_machine::{Change, Composed};
use proteus_store::{LayeredStore, StoreError};
use proteus_types::{CommitTs, Durability, LogIndex, Term};

use crate::{
    Commit, Feed, Kernel, KernelError, Listener, Minitransaction, Outcome, Proposal, View,
};

/// Answers as the real kernel does and forgets everything when dropped. For tests of faces,
/// engines and machines; time is the given clock's.
pub struct MemoryKernel {
    clock: Arc<dyn Clock>,
    state: RwLock<Memory>,
    feed: Feed,
}

struct Memory {
    store: LayeredStore,
    applied_index: LogIndex,
    applied_ts: CommitTs,
}

impl MemoryKernel {
    /// An empty kernel.
    pub fn new(clock: Arc<dyn Clock>) -> MemoryKernel {
        let state = Memory {
            store: LayeredStore::in_memory(),
            applied_index: LogIndex(0),
            applied_ts: CommitTs::ZERO,
        };
        MemoryKernel { clock, state: RwLock::new(state), feed: Feed::default() }
    }

    /// Commits whatever is due by now, as the leader's timer does in the real kernel.
    ///
    /// # Errors
    /// If the machine finds its state damaged.
    pub fn expire_due(&self) -> Result<(), KernelError> {
        let due = {
            let state = self.state.read();
            Composed::due(self.view(&state), 1024)?
        };
        self.apply(&due)?;
        Ok(())
    }

    fn view<'a>(&self, state: &'a Memory) -> View<'a> {
        let now_ms = self.clock.wall_ms().max(state.applied_ts.physical_ms());
        View { state: &state.store, now_ms, applied_ts: state.applied_ts }
    }

    fn apply(&self, commands: &[Minitransaction]) -> Result<Vec<Outcome>, StoreError> {
        let mut state = self.state.write();
        let state = &mut *state;
        state.applied_index = state.applied_index.next();
        let mut outcomes = Vec::with_capacity(commands.len());
        for command in commands {
            // Through the log's encoding, as in the real kernel, so that tests cover it.
            let mut encoded = Vec::new();
            Composed::encode(command, &mut encoded);
            let (command, _) = Composed::decode(&encoded)?;
            let now = CommitTs::from_physical_ms(self.clock.wall_ms());
            state.applied_ts = now.max(state.applied_ts.plus(1));
            let position = Position::new(
                proteus_types::ShardId::META,
                Term(0),
                state.applied_index,
                state.applied_ts,
            );
            let mut changes: Vec<Change> = Vec::new();
            outcomes.push(Composed::apply(&mut state.store, position, &command, &mut changes)?);
            if !changes.is_empty() {
                self.feed.publish(Commit { commit_ts: position.commit_ts, changes });
            }
        }
        Ok(outcomes)
    }
}

impl Kernel for MemoryKernel {
    fn propose_at(&self, _: Durability, minitransactions: Vec<Minitransaction>) -> Proposal {
        let result = self.apply(&minitransactions).map_err(KernelError::from);
        Box::pin(std::future::ready(result))
    }

    fn read_dyn(&self, reader: &mut dyn FnMut(View<'_>)) -> Result<(), KernelError> {
        let state = self.state.read();
        reader(self.view(&state));
        Ok(())
    }

    fn follow(&self, listener: Arc<dyn Listener>) {
        self.feed.follow(listener);
    }

    fn feed(&self) -> &Feed {
        &self.feed
    }
}
