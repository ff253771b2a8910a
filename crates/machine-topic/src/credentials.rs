//! Credentials that administrators gave to users at run time, beside the accounts of the node's
//! configuration. The machine keeps them and knows nothing of how they are proven.

use std::ops::ControlFlow;

use proteus_store::{Read, StoreError};
use serde::{Deserialize, Serialize};

use crate::{Applied, Refusal, Reply, TopicCtx, keys, refuse, stored};

/// What is kept of a password, for one mechanism.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// Which mechanism, by its number in Kafka's protocol.
    pub mechanism: i8,
    /// Made the password's hash its own.
    pub salt: Vec<u8>,
    /// How often it was hashed.
    pub iterations: u32,
    /// Verifies a client's proof.
    pub stored_key: Vec<u8>,
    /// Proves the server to the client.
    pub server_key: Vec<u8>,
}

pub(crate) fn put(ctx: &mut TopicCtx<'_>, user: &str, credential: &Credential) -> Applied<Reply> {
    ctx.put(keys::credential(user, credential.mechanism), stored::encode(credential));
    Ok(Reply::Done)
}

pub(crate) fn remove(ctx: &mut TopicCtx<'_>, user: &str, mechanism: i8) -> Applied<Reply> {
    let key = keys::credential(user, mechanism);
    if ctx.get(&key)?.is_none() {
        return refuse(Refusal::NoCredential { user: user.to_owned() });
    }
    ctx.delete(key);
    Ok(Reply::Done)
}

/// The credential of `user` for a mechanism.
///
/// # Errors
/// If the store fails.
pub fn credential(
    state: &dyn Read,
    user: &str,
    mechanism: i8,
) -> Result<Option<Credential>, StoreError> {
    stored::get(state, &keys::credential(user, mechanism))
}

/// All credentials, at most `count_max`, by their users.
///
/// # Errors
/// If the store fails.
pub fn credentials(
    state: &dyn Read,
    count_max: usize,
) -> Result<Vec<(String, Credential)>, StoreError> {
    let mut found = Vec::new();
    let mut damaged = None;
    state.scan_prefix(&keys::credentials(), &mut |key, value| {
        match (keys::credential_user(key), stored::decode::<Credential>(key, value)) {
            (Some(user), Ok(credential)) => found.push((user, credential)),
            _ => damaged = Some(StoreError::corrupt(key, "not a credential")),
        }
        if found.len() < count_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    damaged.map_or(Ok(found), Err)
}
