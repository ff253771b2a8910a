//! Jute's primitives: big-endian numbers, buffers and vectors with a length before them.
//!
//! ```text
//!   int    4 bytes      long  8 bytes      boolean  1 byte, 0 or 1
//!   buffer, ustring     int length, -1 for null, then the bytes
//!   vector<T>           int count, -1 for null, then the elements
//! ```
//! Decoding borrows: a buffer of the result shares the memory of the frame. A length is compared
//! with what the frame still holds before anything is allocated.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Why bytes are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The frame ends within a field.
    #[error("the frame ends within {0}")]
    Short(&'static str),
    /// A length is negative, or larger than what the frame holds.
    #[error("{what} claims {claimed} bytes or elements in a frame that has {left} bytes left")]
    Length {
        /// The field.
        what: &'static str,
        /// Its length prefix.
        claimed: i32,
        /// Bytes left after it.
        left: usize,
    },
    /// A string is not UTF-8.
    #[error("{0} is not UTF-8")]
    Text(&'static str),
    /// A boolean is neither 0 nor 1.
    #[error("{what} is {value}, neither 0 nor 1")]
    Boolean {
        /// The field.
        what: &'static str,
        /// The byte.
        value: u8,
    },
    /// A string that must be there is null.
    #[error("{0} is null")]
    Null(&'static str),
    /// Something else that this protocol does not have.
    #[error("{what} {value} is not of this protocol")]
    Unknown {
        /// The field.
        what: &'static str,
        /// Its value.
        value: i32,
    },
}

/// The rest of a frame being decoded.
#[derive(Debug, Clone)]
pub struct Input {
    bytes: Bytes,
}

impl Input {
    /// Starts at the front of a frame's body.
    pub fn new(bytes: Bytes) -> Input {
        Input { bytes }
    }

    /// Bytes not yet taken.
    pub fn remaining(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn int(&mut self, what: &'static str) -> Result<i32, Malformed> {
        self.bytes.try_get_i32().map_err(|_| Malformed::Short(what))
    }

    pub(crate) fn long(&mut self, what: &'static str) -> Result<i64, Malformed> {
        self.bytes.try_get_i64().map_err(|_| Malformed::Short(what))
    }

    pub(crate) fn byte(&mut self, what: &'static str) -> Result<u8, Malformed> {
        self.bytes.try_get_u8().map_err(|_| Malformed::Short(what))
    }

    pub(crate) fn boolean(&mut self, what: &'static str) -> Result<bool, Malformed> {
        match self.bytes.try_get_u8() {
            Ok(0) => Ok(false),
            Ok(1) => Ok(true),
            Ok(value) => Err(Malformed::Boolean { what, value }),
            Err(_) => Err(Malformed::Short(what)),
        }
    }

    pub(crate) fn buffer(&mut self, what: &'static str) -> Result<Option<Bytes>, Malformed> {
        let claimed = self.int(what)?;
        if claimed == -1 {
            return Ok(None);
        }
        match usize::try_from(claimed) {
            Ok(length) if length <= self.bytes.len() => Ok(Some(self.bytes.split_to(length))),
            _ => Err(Malformed::Length { what, claimed, left: self.bytes.len() }),
        }
    }

    pub(crate) fn string(&mut self, what: &'static str) -> Result<String, Malformed> {
        self.optional_string(what)?.ok_or(Malformed::Null(what))
    }

    pub(crate) fn optional_string(
        &mut self,
        what: &'static str,
    ) -> Result<Option<String>, Malformed> {
        let Some(bytes) = self.buffer(what)? else {
            return Ok(None);
        };
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err(Malformed::Text(what)),
        }
    }

    /// A vector whose elements take at least `element_bytes_min` each; null reads as empty.
    pub(crate) fn vector<T>(
        &mut self,
        what: &'static str,
        element_bytes_min: usize,
        mut element: impl FnMut(&mut Input) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let claimed = self.int(what)?;
        if claimed == -1 {
            return Ok(Vec::new());
        }
        let count = usize::try_from(claimed).unwrap_or(usize::MAX);
        if count > self.bytes.len() / element_bytes_min.max(1) {
            return Err(Malformed::Length { what, claimed, left: self.bytes.len() });
        }
        let mut elements = Vec::with_capacity(count);
        for _ in 0..count {
            elements.push(element(self)?);
        }
        Ok(elements)
    }
}

/// Writes jute's primitives.
pub trait Output {
    /// A boolean.
    fn boolean(&mut self, value: bool);
    /// A buffer or null.
    fn buffer(&mut self, value: Option<&[u8]>);
    /// A string.
    fn string(&mut self, value: &str);
    /// The count before a vector's elements.
    fn count(&mut self, count: usize);
}

impl Output for BytesMut {
    fn boolean(&mut self, value: bool) {
        self.put_u8(u8::from(value));
    }

    fn buffer(&mut self, value: Option<&[u8]>) {
        match value {
            None => self.put_i32(-1),
            Some(bytes) => {
                self.count(bytes.len());
                self.put_slice(bytes);
            }
        }
    }

    fn string(&mut self, value: &str) {
        self.buffer(Some(value.as_bytes()));
    }

    fn count(&mut self, count: usize) {
        // What is written comes from frames and state far smaller than 2 GiB.
        self.put_i32(i32::try_from(count).unwrap_or(i32::MAX));
    }
}
