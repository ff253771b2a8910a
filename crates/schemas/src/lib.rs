//! Schemas of records: which versions a subject has, whether a new one goes with the others, and what a
//! record says that was written with one.
//!
//! They stand in the compacted topic [`TOPIC`], in the records that Confluent's schema registry keeps of
//! its own, so such a topic can be mirrored here. A change is one minitransaction: the record, and a
//! counter (a committed offset of the group [`GROUP`]) that must stand where the change was decided, so
//! that of two who decide at once one decides anew. Whoever reads follows the topic, and keeps what it says
//! in memory.
//!
//! Reading order: [`state`], [`registry`], [`compatibility`], [`avro`].
//!
//! Source: Confluent's documentation, "Schema Registry API Reference" and "Formats, Serializers, and
//! Deserializers" (wire format).

pub mod avro;
pub mod compatibility;
mod problem;
mod records;
pub mod registry;
pub mod state;

pub use problem::Problem;
pub use registry::{GROUP, Registry, TOPIC};

/// Longest schema, in bytes: it stands in one record.
pub const SCHEMA_BYTES_MAX: usize = 900_000;

/// The schema's id and the rest of a record's key or value in the wire format; `None` if it has none.
pub fn wire_format(bytes: &[u8]) -> Option<(i32, &[u8])> {
    let (magic, rest) = bytes.split_first()?;
    let (id, rest) = rest.split_first_chunk::<4>()?;
    (*magic == 0).then_some((i32::from_be_bytes(*id), rest))
}
