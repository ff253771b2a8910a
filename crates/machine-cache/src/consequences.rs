//! What follows from a change in one shard for keys and streams of another, where keys are spread.
//!
//! As with declarations the machine only keeps these; the composition finds and applies them. They are data, so
//! that whoever proposes can be told of them and can give each to the shard that it is for.

use std::borrow::Cow;

use bytes::Bytes;
use proteus_types::ShardId;
use serde::{Deserialize, Serialize};

use crate::{EventTarget, Op};

/// What follows in another shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consequence {
    /// The shard.
    pub shard: ShardId,
    /// What is to be done there.
    pub effect: Effect,
}

/// What is to be done because something changed elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// An entry follows from a row.
    Entry(Op),
    /// Events are written down.
    Events {
        /// Where to.
        target: EventTarget,
        /// In their order.
        events: Vec<KeyEvent>,
    },
}

/// Something that happened to a key, or, if that is empty, to all of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEvent {
    /// The database.
    pub db: u8,
    /// The key.
    pub key: Bytes,
    /// What happened, in Redis' word.
    pub name: Cow<'static, str>,
}
