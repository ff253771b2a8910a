//! How much clients may do, as Kafka's administrators say it. The machine keeps the quotas and measures
//! nothing.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use proteus_store::{Read, StoreError};
use serde::{Deserialize, Serialize};

use crate::{Applied, Change, Reply, TopicCtx, keys, stored};

/// Whom a quota is about: kinds (`user`, `client-id`) with a name each, or `None` for all that have
/// no quota of their own. In the order of the kinds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Entity(pub BTreeMap<String, Option<String>>);

/// The quotas of one entity: the bits of a floating-point number, by name.
pub type Values = BTreeMap<String, u64>;

pub(crate) fn set(
    ctx: &mut TopicCtx<'_>,
    entity: &Entity,
    changes: &BTreeMap<String, Option<u64>>,
) -> Applied<Reply> {
    let key = keys::quota(&stored::encode(entity));
    let mut values: Values = stored::get(ctx.read(), &key)?.unwrap_or_default();
    for (name, value) in changes {
        match value {
            Some(bits) => values.insert(name.clone(), *bits),
            None => values.remove(name),
        };
    }
    if values.is_empty() {
        ctx.delete(key);
    } else {
        ctx.put(key, stored::encode(&values));
    }
    ctx.emit(Change::QuotasChanged);
    Ok(Reply::Done)
}

/// All quotas, by whom they are about.
///
/// # Errors
/// If the store fails.
pub fn quotas(state: &dyn Read) -> Result<BTreeMap<Entity, Values>, StoreError> {
    let prefix = keys::quotas();
    let mut found = BTreeMap::new();
    let mut damaged = None;
    state.scan_prefix(&prefix, &mut |key, value| {
        let entity = stored::decode::<Entity>(key, key.get(prefix.len()..).unwrap_or_default());
        match (entity, stored::decode::<Values>(key, value)) {
            (Ok(entity), Ok(values)) => {
                found.insert(entity, values);
            }
            (Err(error), _) | (_, Err(error)) => damaged = Some(error),
        }
        ControlFlow::Continue(())
    })?;
    damaged.map_or(Ok(found), Err)
}
