//! A command as it stands in the log.

use std::fmt;

use bytes::Bytes;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use smallvec::SmallVec;

/// A command in a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// The database.
    pub db: u8,
    /// What a command that chooses at random draws from; drawn by whoever proposes.
    pub seed: u64,
    /// Who asks, so that a client need not be told of its own changes; 0 for nobody.
    pub origin: u64,
    /// The command's name, then its arguments.
    #[serde(deserialize_with = "pieces")]
    pub arguments: Vec<Bytes>,
}

/// Calls of at most so many bytes have their arguments in one piece of memory: whoever keeps one of them
/// keeps no more than that of the others.
const SHARED_BYTES_MAX: usize = 1024;

/// Reads the arguments of a call; those of a small one into one piece of memory, which costs less than as
/// many pieces.
fn pieces<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Bytes>, D::Error> {
    struct Pieces;

    impl<'de> Visitor<'de> for Pieces {
        type Value = SmallVec<[&'de [u8]; 8]>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("arguments")
        }

        fn visit_seq<S: SeqAccess<'de>>(self, mut all: S) -> Result<Self::Value, S::Error> {
            let mut pieces = SmallVec::new();
            while let Some(piece) = all.next_element()? {
                pieces.push(piece);
            }
            Ok(pieces)
        }
    }

    let pieces = deserializer.deserialize_seq(Pieces)?;
    let length: usize = pieces.iter().map(|piece| piece.len()).sum();
    if length > SHARED_BYTES_MAX {
        return Ok(pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect());
    }
    let mut all = Vec::with_capacity(length);
    for piece in &pieces {
        all.extend_from_slice(piece);
    }
    let mut all = Bytes::from(all);
    Ok(pieces.iter().map(|piece| all.split_to(piece.len())).collect())
}

impl Call {
    /// A command in the first database that chooses nothing at random.
    pub fn new<A: AsRef<[u8]>>(arguments: &[A]) -> Call {
        let arguments = arguments.iter().map(|part| Bytes::copy_from_slice(part.as_ref()));
        Call { db: 0, seed: 0, origin: 0, arguments: arguments.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_comes_back_from_the_log_as_it_was() {
        for length in [0, 1, SHARED_BYTES_MAX - 4, SHARED_BYTES_MAX, 100_000] {
            let mut call = Call::new(&[b"SET", &b""[..], &vec![7; length]]);
            (call.db, call.seed, call.origin) = (3, 5, u64::MAX);
            let bytes = postcard::to_stdvec(&call).unwrap();
            assert_eq!(postcard::from_bytes::<Call>(&bytes).unwrap(), call);
            for cut in [1, 2, bytes.len() / 2, bytes.len() - 1] {
                assert!(postcard::from_bytes::<Call>(&bytes[..cut]).is_err());
            }
        }
        let none = Call::new::<&[u8]>(&[]);
        let bytes = postcard::to_stdvec(&none).unwrap();
        assert_eq!(postcard::from_bytes::<Call>(&bytes).unwrap(), none);
        // A count that no bytes follow.
        assert!(postcard::from_bytes::<Call>(&[0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F]).is_err());
    }
}
