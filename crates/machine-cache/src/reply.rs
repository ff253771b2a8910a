//! What commands answer, before a protocol version gives it its shape.

use std::borrow::Cow;
use std::cell::Cell;

use bytes::Bytes;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

/// An answer. An error is an answer too: in EXEC it undoes nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// A short text that is no value: OK, a type's name.
    Status(Cow<'static, str>),
    /// A code in capitals, a space, a text: without the leading minus.
    Error(Cow<'static, str>),
    /// A number.
    Integer(i64),
    /// A value.
    Bulk(Bytes),
    /// A floating point number; its text in RESP2.
    Double(f64),
    /// A coordinate, with up to 17 digits behind the point; its text in RESP2.
    Decimal(f64),
    /// A truth value; 1 or 0 in RESP2.
    Boolean(bool),
    /// A number of any size, as text.
    BigNumber(Bytes),
    /// Text with a format, as INFO gives; a value in RESP2.
    Verbatim(#[serde(deserialize_with = "format")] Format, Bytes),
    /// No value.
    Nil,
    /// No array.
    NilArray,
    /// Replies in order.
    Array(#[serde(deserialize_with = "nested")] Vec<Reply>),
    /// Keys and values; flat in RESP2.
    Map(#[serde(deserialize_with = "nested")] Vec<(Reply, Reply)>),
    /// Keys and values; an array of pairs in RESP2.
    PairedMap(#[serde(deserialize_with = "nested")] Vec<(Reply, Reply)>),
    /// Pairs in order: flat in RESP2, arrays of two in RESP3.
    Pairs(#[serde(deserialize_with = "nested")] Vec<(Reply, Reply)>),
    /// Replies without order.
    Set(#[serde(deserialize_with = "nested")] Vec<Reply>),
    /// Nothing is there yet, and the command is one that waits: the face asks again.
    Blocked,
}

/// How deep replies stand in each other at most: deeper than any script may answer.
const DEPTH_MAX: usize = 256;

thread_local! {
    /// How deep in a reply that is being read.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Reads what stands within a reply, if that is not too deep.
fn nested<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    let depth = DEPTH.get();
    if depth >= DEPTH_MAX {
        return Err(D::Error::custom("replies stand too deep in each other"));
    }
    DEPTH.set(depth + 1);
    let read = T::deserialize(deserializer);
    DEPTH.set(depth);
    read
}

/// By its name; under one of its own, so that it is not taken for a part of the message.
type Format = &'static str;

/// One of the formats that there are.
fn format<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'static str, D::Error> {
    let format = <&str>::deserialize(deserializer)?;
    Ok(if format == "mkd" { "mkd" } else { "txt" })
}

impl Reply {
    /// "OK".
    pub const OK: Reply = Reply::Status(Cow::Borrowed("OK"));
    /// The number 0.
    pub const ZERO: Reply = Reply::Integer(0);

    /// Text as a value.
    pub fn text(text: impl Into<String>) -> Reply {
        Reply::Bulk(Bytes::from(text.into()))
    }

    /// A fixed text that is no value.
    pub const fn status(text: &'static str) -> Reply {
        Reply::Status(Cow::Borrowed(text))
    }

    /// An error of a fixed text.
    pub const fn error(text: &'static str) -> Reply {
        Reply::Error(Cow::Borrowed(text))
    }

    /// A count.
    pub fn count(count: usize) -> Reply {
        Reply::Integer(i64::try_from(count).unwrap_or(i64::MAX))
    }

    /// A value, or none.
    pub fn optional(value: Option<Bytes>) -> Reply {
        value.map_or(Reply::Nil, Reply::Bulk)
    }

    /// Values in order.
    pub fn bulks(values: impl IntoIterator<Item = Bytes>) -> Reply {
        Reply::Array(values.into_iter().map(Reply::Bulk).collect())
    }

    /// Whether this is an error.
    pub fn is_error(&self) -> bool {
        matches!(self, Reply::Error(_))
    }
}
