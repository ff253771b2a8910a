//! What is under the shortest keys, at hand.

use std::array;
use std::sync::OnceLock;

use crate::short::Value;

/// Places; keys that share one are looked up as any other is.
const PLACES: usize = 32;

/// Longest key that may be at hand, in bytes.
const KEY_BYTES_MAX: usize = 3;

/// Machines keep under keys of two or three bytes what they look at for every op: whether keys are spread over
/// shards, whether anything is declared to follow from changes, how many keys there are. Mostly it is not there,
/// and to find that out is a search through every layer. So what a search has found stands here until it
/// changes.
#[derive(Debug)]
pub(crate) struct Facts([OnceLock<(Code, Value)>; PLACES]);

/// A short key as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code(u32);

impl Default for Facts {
    fn default() -> Facts {
        Facts(array::from_fn(|_| OnceLock::new()))
    }
}

/// The number of a key that may be at hand.
pub(crate) fn code(key: &[u8]) -> Option<Code> {
    if key.len() > KEY_BYTES_MAX {
        return None;
    }
    let bytes = key.iter().fold(0, |bytes, byte| bytes << 8 | u32::from(*byte));
    Some(Code(bytes | (key.len() as u32) << 24))
}

fn place(code: Code) -> usize {
    (code.0.wrapping_mul(0x9E37_79B1) >> 16) as usize % PLACES
}

impl Facts {
    pub(crate) fn get(&self, code: Code) -> Option<&Value> {
        let (held, value) = self.0.get(place(code))?.get()?;
        (*held == code).then_some(value)
    }

    /// Keeps what a search has found, if there is room.
    pub(crate) fn learn(&self, code: Code, value: Value) {
        if let Some(place) = self.0.get(place(code)) {
            // Another reader may have been first, with the same.
            let _ = place.set((code, value));
        }
    }

    /// Takes note of a change.
    pub(crate) fn change(&mut self, code: Code, value: &Value) {
        if let Some((held, known)) = self.0.get_mut(place(code)).and_then(OnceLock::get_mut)
            && *held == code
        {
            known.clone_from(value);
        }
    }

    /// Forgets everything, as changes were undone.
    pub(crate) fn clear(&mut self) {
        for place in &mut self.0 {
            place.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_keys_have_numbers_of_their_own() {
        let keys: [&[u8]; 8] =
            [b"", b"\0", b"\0\0", b"\0\0\0", b"\x01", b"\0\x01", b"\x01\0", b"a"];
        for (at, key) in keys.iter().enumerate() {
            for other in &keys[..at] {
                assert_ne!(code(key).unwrap(), code(other).unwrap());
            }
        }
        assert_eq!(code(b"long"), None);
    }
}
