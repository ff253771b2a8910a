//! Making sure that a read sees every commit that was acknowledged before it.
//!
//! A leader that holds its lease and has applied an entry of its own term has applied all that was
//! ever acknowledged: an answer waits for the leader's own apply. Any other node asks the leader up to
//! where to apply. Readers that come while one asks share the next question.
//!
//! Source: Ongaro, "Consensus: Bridging Theory and Practice" (2014), §6.4.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proteus_consensus::Group;
use proteus_env::task;
use proteus_machine::{KernelError, ShardMachine};
use tokio::sync::{mpsc, oneshot};

use crate::state::ShardState;

/// How long a reader waits for a leader to be found and asked, and for its entries to be applied.
const PATIENCE: Duration = Duration::from_secs(5);

/// Pause before a leader that could not be asked is asked again.
const RETRY: Duration = Duration::from_millis(20);

type Answer = Result<(), KernelError>;

/// Those who wait for the next question.
pub(crate) type Readers = mpsc::UnboundedSender<oneshot::Sender<Answer>>;

/// Asks for readers until nobody is left to come.
pub(crate) async fn ask_for_readers<M: ShardMachine>(
    group: Group,
    state: Arc<ShardState<M>>,
    mut arriving: mpsc::UnboundedReceiver<oneshot::Sender<Answer>>,
) {
    let last_error = Mutex::new(String::new());
    while let Some(first) = arriving.recv().await {
        let mut waiting = vec![first];
        while let Ok(next) = arriving.try_recv() {
            waiting.push(next);
        }
        let answer = task::timeout(PATIENCE, async {
            let index = loop {
                match group.read_index().await {
                    Ok(index) => break index,
                    Err(error) => *last_error.lock() = error.to_string(),
                }
                task::sleep(RETRY).await;
            };
            state.wait_applied(index).await;
            // What was tried may be decided, and seen in other shards.
            state.wait_finished().await;
        })
        .await
        .ok_or_else(|| {
            let reason = std::mem::take(&mut *last_error.lock());
            KernelError::Unavailable(format!(
                "this node cannot tell whether it is up to date ({reason})"
            ))
        });
        for reader in waiting {
            // Who stopped waiting needs no answer.
            let _ = reader.send(answer.clone());
        }
    }
}
