//! Share sessions: which partitions a share group's member looks at, said once, then only what changes.
//!
//! A session lives as long as its connection. When either ends, what the member holds is free again.

use std::collections::HashMap;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use proteus_kernel_api::topic::TopicId;

use crate::errors::Failure;

/// Sessions of one connection.
const SESSIONS_MAX: usize = 64;
/// Partitions of one session.
const PARTITIONS_MAX: usize = 20_000;
/// Epoch of a request that begins a session, and of one that ends it.
const INITIAL_EPOCH: i32 = 0;
const FINAL_EPOCH: i32 = -1;

/// Whose session it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ShareMemberId {
    pub group: Arc<str>,
    pub member: Arc<str>,
}

#[derive(Debug, Default)]
struct ShareSession {
    /// Epoch of the next request.
    epoch: i32,
    /// In the order in which they are looked at: whoever had records goes to the end.
    partitions: Vec<(TopicId, u32)>,
}

/// The share sessions of a connection.
#[derive(Debug, Default)]
pub(crate) struct ShareSessions {
    by_member: HashMap<ShareMemberId, ShareSession>,
}

/// What a request means for its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Begins,
    GoesOn,
    Ends,
}

fn refuse<T>(error: ResponseError, message: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::new(error, message))
}

impl ShareSessions {
    /// Begins, advances or ends the member's session. One that ends stays until it is [removed](Self::remove).
    pub(super) fn step(&mut self, id: &ShareMemberId, epoch: i32) -> Result<Step, Failure> {
        if epoch == INITIAL_EPOCH {
            if self.by_member.len() >= SESSIONS_MAX && !self.by_member.contains_key(id) {
                let message = format!("a connection has {SESSIONS_MAX} share sessions at most");
                return refuse(ResponseError::ShareSessionLimitReached, message);
            }
            let session = ShareSession { epoch: 1, partitions: Vec::new() };
            self.by_member.insert(id.clone(), session);
            return Ok(Step::Begins);
        }
        let Some(session) = self.by_member.get_mut(id) else {
            return refuse(ResponseError::ShareSessionNotFound, "there is no such share session");
        };
        if epoch == FINAL_EPOCH {
            return Ok(Step::Ends);
        }
        if epoch != session.epoch {
            let message = format!("share session epoch {epoch}, expected {}", session.epoch);
            return refuse(ResponseError::InvalidShareSessionEpoch, message);
        }
        session.epoch = epoch.checked_add(1).unwrap_or(1);
        Ok(Step::GoesOn)
    }

    /// Adds and forgets partitions; which there are then.
    pub(super) fn follow(
        &mut self,
        id: &ShareMemberId,
        added: &[(TopicId, u32)],
        forgotten: &[(TopicId, u32)],
    ) -> Result<Vec<(TopicId, u32)>, Failure> {
        let Some(session) = self.by_member.get_mut(id) else {
            return refuse(ResponseError::ShareSessionNotFound, "there is no such share session");
        };
        for one in added {
            if !session.partitions.contains(one) {
                session.partitions.push(*one);
            }
        }
        session.partitions.retain(|one| !forgotten.contains(one));
        if session.partitions.len() > PARTITIONS_MAX {
            self.by_member.remove(id);
            let message = format!("a share session has {PARTITIONS_MAX} partitions at most");
            return refuse(ResponseError::ShareSessionLimitReached, message);
        }
        Ok(session.partitions.clone())
    }

    /// Who had records comes last at the next look.
    pub(super) fn had_records(&mut self, id: &ShareMemberId, had: &[(TopicId, u32)]) {
        if let Some(session) = self.by_member.get_mut(id) {
            let partitions = std::mem::take(&mut session.partitions).into_iter();
            let (with, mut without): (Vec<_>, Vec<_>) =
                partitions.partition(|one| had.contains(one));
            without.extend(with);
            session.partitions = without;
        }
    }

    pub(super) fn remove(&mut self, id: &ShareMemberId) {
        self.by_member.remove(id);
    }

    /// Ends all sessions; whose they were.
    pub(crate) fn take_all(&mut self) -> Vec<ShareMemberId> {
        std::mem::take(&mut self.by_member).into_keys().collect()
    }
}
