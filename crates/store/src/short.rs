//! Keys and values that stand in place where they are short.
//!
//! Most rows are short. Kept in place they cost no piece of memory of their own, and whoever finds the
//! row has read it: each pointer that must be followed is a miss of the processor's cache.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;

/// Bytes that stand in place: of a value what fits beside the handle of a longer one, and as many of a key.
/// Most keys of Redis and most rows' keys are shorter.
const SHORT_BYTES_MAX: usize = 38;

const _: () = assert!(size_of::<Key>() == 40 && size_of::<Value>() == 40);

/// A key. A clone copies nothing but what stands in place.
#[derive(Clone)]
pub(crate) enum Key {
    Short(u8, [u8; SHORT_BYTES_MAX]),
    Long(Arc<[u8]>),
}

/// What is known of a key: its value, or that it has none. A clone copies nothing but what stands in place.
#[derive(Clone)]
pub(crate) enum Value {
    Short(u8, [u8; SHORT_BYTES_MAX]),
    Long(Bytes),
    /// Deleted, or not there.
    Absent,
}

/// The bytes in front of an array that it was made of.
fn in_place(bytes: &[u8]) -> Option<(u8, [u8; SHORT_BYTES_MAX])> {
    let mut array = [0; SHORT_BYTES_MAX];
    array.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some((u8::try_from(bytes.len()).ok()?, array))
}

fn shown(length: u8, array: &[u8; SHORT_BYTES_MAX]) -> &[u8] {
    array.get(..usize::from(length)).unwrap_or(array)
}

impl Key {
    /// Bytes that it takes beyond itself.
    pub(crate) fn apart_bytes(&self) -> usize {
        match self {
            Key::Short(..) => 0,
            Key::Long(bytes) => bytes.len(),
        }
    }
}

impl From<&[u8]> for Key {
    fn from(bytes: &[u8]) -> Key {
        match in_place(bytes) {
            Some((length, array)) => Key::Short(length, array),
            None => Key::Long(Arc::from(bytes)),
        }
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        match self {
            Key::Short(length, array) => shown(*length, array),
            Key::Long(bytes) => bytes,
        }
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.as_ref()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.as_ref() == other.as_ref()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Key) -> Ordering {
        self.as_ref().cmp(other.as_ref())
    }
}

/// As its bytes are hashed, so that it is found by them.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_ref().hash(state);
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_ref().escape_ascii())
    }
}

impl Value {
    /// The value; `None` of what is not there.
    pub(crate) fn bytes(&self) -> Option<Bytes> {
        match self {
            Value::Short(length, array) => Some(Bytes::copy_from_slice(shown(*length, array))),
            Value::Long(bytes) => Some(bytes.clone()),
            Value::Absent => None,
        }
    }

    /// Calls `show` with the value where it stands; with `None` of what is not there.
    pub(crate) fn with_bytes<R>(&self, show: impl FnOnce(Option<&[u8]>) -> R) -> R {
        show(match self {
            Value::Short(length, array) => Some(shown(*length, array)),
            Value::Long(bytes) => Some(bytes),
            Value::Absent => None,
        })
    }

    /// Length of the value; 0 of what is not there.
    pub(crate) fn len(&self) -> usize {
        match self {
            Value::Short(length, _) => usize::from(*length),
            Value::Long(bytes) => bytes.len(),
            Value::Absent => 0,
        }
    }

    /// Bytes that it takes beyond itself.
    pub(crate) fn apart_bytes(&self) -> usize {
        match self {
            Value::Long(bytes) => bytes.len(),
            Value::Short(..) | Value::Absent => 0,
        }
    }
}

impl From<Bytes> for Value {
    fn from(bytes: Bytes) -> Value {
        match in_place(&bytes) {
            Some((length, array)) => Value::Short(length, array),
            None => Value::Long(bytes),
        }
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Value {
        match in_place(bytes) {
            Some((length, array)) => Value::Short(length, array),
            None => Value::Long(Bytes::copy_from_slice(bytes)),
        }
    }
}

impl From<Option<Bytes>> for Value {
    fn from(bytes: Option<Bytes>) -> Value {
        bytes.map_or(Value::Absent, Value::from)
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bytes() {
            Some(bytes) => write!(f, "{}", bytes.escape_ascii()),
            None => f.write_str("(absent)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_length_comes_back_and_keys_keep_their_order() {
        let text = |length: usize| vec![b'a'; length];
        let mut keys: Vec<Key> = Vec::new();
        for length in 0..80 {
            let key = Key::from(&text(length)[..]);
            assert_eq!(key.as_ref(), text(length));
            keys.push(key);
            let value = Value::from(Bytes::from(text(length)));
            assert_eq!(value.bytes().as_deref(), Some(&text(length)[..]));
            assert_eq!(value.len(), length);
        }
        assert!(keys.is_sorted());
        assert_eq!(Value::from(None).bytes(), None);
    }
}
