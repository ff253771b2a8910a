//! Building and reading ordered keys.
//!
//! A composed key must sort by its parts and no part may be a prefix of another's continuation. Byte
//! strings are therefore escaped: `00` becomes `00 FF`, and the part ends with `00 01`. Integers are
//! big-endian.

use std::ops::ControlFlow;

use bytes::Bytes;
use proteus_store::{Read, StoreError};

/// A key under construction.
#[derive(Debug, Clone, Default)]
pub struct KeyBuilder {
    bytes: Vec<u8>,
}

impl KeyBuilder {
    /// A key in the space of a machine, of one kind within it.
    pub fn new(space: u8, kind: u8) -> KeyBuilder {
        KeyBuilder { bytes: vec![space, kind] }
    }

    /// Appends a byte string so that what follows sorts after it.
    #[must_use]
    pub fn string(mut self, part: &[u8]) -> KeyBuilder {
        push_string(&mut self.bytes, part);
        self
    }

    /// Appends an integer, most significant byte first.
    #[must_use]
    pub fn u64(mut self, part: u64) -> KeyBuilder {
        self.bytes.extend_from_slice(&part.to_be_bytes());
        self
    }

    /// Appends an integer, most significant byte first.
    #[must_use]
    pub fn u32(mut self, part: u32) -> KeyBuilder {
        self.bytes.extend_from_slice(&part.to_be_bytes());
        self
    }

    /// Appends bytes as they are; only for the last part of a key, or parts of fixed length.
    #[must_use]
    pub fn raw(mut self, part: &[u8]) -> KeyBuilder {
        self.bytes.extend_from_slice(part);
        self
    }

    /// The finished key.
    pub fn build(self) -> Bytes {
        Bytes::from(self.bytes)
    }

    /// The finished key, for a range's bound.
    pub fn into_vec(self) -> Vec<u8> {
        self.bytes
    }
}

/// The number with which the first key of a kind begins: the earliest time of an index by time. `None` if there
/// is no such key.
///
/// # Errors
/// If the store fails or holds a key without a number.
pub fn first_u64(state: &dyn Read, space: u8, kind: u8) -> Result<Option<u64>, StoreError> {
    let mut first = Ok(None);
    state.scan_prefix(&[space, kind], &mut |key, _| {
        first = match take_u64(key.get(2..).unwrap_or_default()) {
            Some((number, _)) => Ok(Some(number)),
            None => Err(StoreError::corrupt(key, "a number is missing")),
        };
        ControlFlow::Break(())
    })?;
    first
}

/// Whether there is a key of a kind.
///
/// # Errors
/// If the store fails.
pub fn has_any(state: &dyn Read, space: u8, kind: u8) -> Result<bool, StoreError> {
    let mut has_any = false;
    state.scan_prefix(&[space, kind], &mut |_, _| {
        has_any = true;
        ControlFlow::Break(())
    })?;
    Ok(has_any)
}

/// Appends the escaped form of `part`.
pub fn push_string(into: &mut Vec<u8>, part: &[u8]) {
    for byte in part {
        into.push(*byte);
        if *byte == 0 {
            into.push(0xFF);
        }
    }
    into.extend_from_slice(&[0, 1]);
}

/// Takes an escaped byte string from the front of `bytes`: the string and what follows it. `None`
/// if the bytes do not hold one.
pub fn take_string(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut part = Vec::new();
    let mut rest = bytes;
    loop {
        match rest {
            [0, 1, after @ ..] => return Some((part, after)),
            [0, 0xFF, after @ ..] => {
                part.push(0);
                rest = after;
            }
            [0, ..] | [] => return None,
            [byte, after @ ..] => {
                part.push(*byte);
                rest = after;
            }
        }
    }
}

/// Takes a big-endian integer from the front of `bytes`.
pub fn take_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*head), rest))
}

/// Takes a big-endian integer from the front of `bytes`.
pub fn take_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*head), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_sort_by_content_before_what_follows() {
        let key = |s: &[u8], n| KeyBuilder::new(1, 2).string(s).u64(n).build();
        assert!(key(b"a", 9) < key(b"a\0", 0));
        assert!(key(b"a\0", 9) < key(b"a\0\0", 0));
        assert!(key(b"a", 9) < key(b"b", 0));
    }

    #[test]
    fn strings_come_back() {
        for part in [&b""[..], b"a", b"\0", b"\0\x01", b"x\0\xff"] {
            let mut bytes = Vec::new();
            push_string(&mut bytes, part);
            bytes.push(7);
            assert_eq!(take_string(&bytes), Some((part.to_vec(), &[7u8][..])));
        }
        assert_eq!(take_string(b"abc"), None);
    }
}
