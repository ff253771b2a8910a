//! Carrying out what needs keys of several shards at once, as RENAME or a script may: on what belongs to them, fetched
//! from wherever they are, and committed if none of them has changed meanwhile (`shard-machine/together`).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proteus_env::{random, task};
use proteus_kernel_api::cache::{self, Answer, Gathered, Place, Rows};
use proteus_kernel_api::{KernelError, Minitransaction, Outcome, StoreError};
use proteus_shard_machine::{Carried, Known, carry_out, cross_slot, keys_together};
use proteus_types::{Durability, SlotMap};

use crate::router::{Came, RETRY, Router, learn, settle};

/// How often it is tried again because a key has changed meanwhile, or another is needed.
const TRIES_MAX: u32 = 64;

/// How often it is tried again because its commit took too long.
const LATE_MAX: u32 = 3;

/// Keys that may be needed at once.
const KEYS_MAX: usize = 16_384;

/// Pauses between tries grow up to this many times the first.
const PAUSES_MAX: u32 = 16;

impl Router {
    /// What a minitransaction comes to whose ops need keys of several shards at once.
    pub(crate) async fn carry_out_together(
        &self,
        whole: &Minitransaction,
    ) -> Result<Outcome, KernelError> {
        let Some(mut keys) = keys_together(whole) else { return Ok(cross_slot(0)) };
        let mut late_count = 0;
        for tries in 0..TRIES_MAX {
            let map = self.shards.map();
            let Some(rows) = self.rows_of(&map, &keys).await? else {
                task::sleep(RETRY).await;
                continue;
            };
            let mut carried = Err(StoreError::Away("the first shard".to_owned()));
            self.meta.read(&mut |view| {
                let mut state = Gathered::new(keys.clone(), rows.clone(), view.state);
                carried = carry_out(whole, &mut state, (view.applied_ts, view.now_ms));
            })?;
            let together = match carried {
                Ok(Carried::Ready(together)) => together,
                Ok(Carried::Refused(outcome)) => return Ok(outcome),
                Ok(Carried::Missing(missing)) => {
                    keys.extend(missing);
                    if keys.len() > KEYS_MAX {
                        let reason = format!("more than {KEYS_MAX} keys are needed at once");
                        return Err(KernelError::Overloaded(reason));
                    }
                    continue;
                }
                // It needs all keys.
                Err(StoreError::Away(_)) => return Ok(cross_slot(0)),
                Err(error) => return Err(error.into()),
            };
            let committed = match self.commit_together(&together.commit).await {
                // Nothing was changed.
                Err(KernelError::Overloaded(_)) if late_count < LATE_MAX => {
                    late_count += 1;
                    None
                }
                committed => committed?,
            };
            if let Some(outcome) = committed.and_then(|outcome| together.outcome(outcome)) {
                return Ok(outcome);
            }
            // So that those who are in each other's way come one after the other.
            let pauses = 1 + random::random_u64() % u64::from(1 + tries.min(PAUSES_MAX));
            task::sleep(RETRY * u32::try_from(pauses).unwrap_or(1)).await;
        }
        let reason = "keys change too often for a command that needs several shards' at once";
        Err(KernelError::Overloaded(reason.to_owned()))
    }

    /// Commits it, with what is declared to follow from it in further shards; `None` if a key has moved.
    async fn commit_together(
        &self,
        commit: &Minitransaction,
    ) -> Result<Option<Outcome>, KernelError> {
        let mut known = BTreeMap::from([(0, Known::new())]);
        for _ in 0..TRIES_MAX {
            let commit = std::slice::from_ref(commit);
            let (parts, _) = self.hand_over(Durability::Flushed, &[0], commit, &known);
            let mut came = BTreeMap::new();
            settle(parts, &mut came).await?;
            match came.remove(&0) {
                Some(Came::Done(outcome)) => return Ok(Some(outcome)),
                Some(Came::Moved) | None => return Ok(None),
                Some(Came::Incomplete(found)) => learn(known.entry(0).or_default(), found),
            }
        }
        Ok(None)
    }

    /// All that belongs to keys, of each database at one moment; `None` if some are on their way.
    async fn rows_of(
        &self,
        map: &SlotMap,
        keys: &BTreeSet<Place>,
    ) -> Result<Option<Vec<Rows>>, KernelError> {
        let mut of: BTreeMap<u8, Vec<Bytes>> = BTreeMap::new();
        for (db, key) in keys {
            of.entry(*db).or_default().push(key.clone());
        }
        let mut rows = Vec::new();
        for (db, keys) in of {
            match self.rows_over(map, db, keys.iter()).await? {
                Ok(found) => rows.extend(found),
                Err(Answer::Elsewhere) => return Ok(None),
                Err(Answer::TooLarge) => {
                    let (bytes, bytes_max) = (cache::ROWS_BYTES_MAX, cache::ROWS_BYTES_MAX);
                    return Err(KernelError::TooLarge { bytes, bytes_max });
                }
                Err(_) => return Err(KernelError::unknown_answer()),
            }
        }
        Ok(Some(rows))
    }
}
