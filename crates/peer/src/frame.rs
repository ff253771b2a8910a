//! What two nodes that know each other exchange.
//!
//! ```text
//! ┌─────────────┬────────────┬─────────┬────────┬─ ─
//! │ length u32  │ crc32c u32 │ kind u8 │ id u64 │ body
//! └─────────────┴────────────┴─────────┴────────┴─ ─
//! ```
//! Little-endian. The length counts what follows the checksum, which covers the same bytes. An answer
//! carries the id of its request.

use bytes::{Buf, Bytes, BytesMut};

/// Longest body, in bytes: a log entry with what consensus says about it.
pub const BODY_BYTES_MAX: usize = 96 * 1024 * 1024;

const HEAD_BYTES: usize = 4 + 4;
const INNER_BYTES: usize = 1 + 8;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A question.
    Request,
    /// Its answer.
    Answer,
    /// Why there is none: text.
    Refusal,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// Which question it is or answers, on this connection.
    pub id: u64,
    /// The message.
    pub body: Bytes,
}

/// Why bytes are no frame. The connection cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It claims to be longer than any may be, or too short to be one.
    #[error("a frame claims {0} bytes, which none can have")]
    Length(usize),
    /// Its bytes are not what was sent.
    #[error("a frame's checksum does not match its bytes")]
    Checksum,
    /// Its kind is not known here.
    #[error("a frame of the unknown kind {0}")]
    Kind(u8),
}

impl Frame {
    /// Appends the frame's bytes.
    pub fn encode(&self, into: &mut BytesMut) {
        let kind = match self.kind {
            Kind::Request => 0u8,
            Kind::Answer => 1,
            Kind::Refusal => 2,
        };
        let mut inner = [0; INNER_BYTES];
        inner[0] = kind;
        inner[1..].copy_from_slice(&self.id.to_le_bytes());
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&inner), &self.body);
        let length = (INNER_BYTES + self.body.len()) as u32;
        into.reserve(HEAD_BYTES + INNER_BYTES + self.body.len());
        into.extend_from_slice(&length.to_le_bytes());
        into.extend_from_slice(&checksum.to_le_bytes());
        into.extend_from_slice(&inner);
        into.extend_from_slice(&self.body);
    }

    /// Takes the next frame from the front of `bytes`; `None` if it has not arrived whole.
    ///
    /// # Errors
    /// If there is none.
    pub fn decode(bytes: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if !(INNER_BYTES..=BODY_BYTES_MAX + INNER_BYTES).contains(&length) {
            return Err(FrameError::Length(length));
        }
        let Some((checksum, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let Some(inner) = rest.get(..length) else { return Ok(None) };
        if crc32c::crc32c(inner) != u32::from_le_bytes(*checksum) {
            return Err(FrameError::Checksum);
        }
        let kind = match inner[0] {
            0 => Kind::Request,
            1 => Kind::Answer,
            2 => Kind::Refusal,
            kind => return Err(FrameError::Kind(kind)),
        };
        bytes.advance(HEAD_BYTES);
        let mut inner = bytes.split_to(length).freeze();
        inner.advance(1);
        let id = inner.get_u64_le();
        Ok(Some(Frame { kind, id, body: inner }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_come_back_however_they_arrive(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..5),
            cut in 0usize..1000,
        ) {
            let kinds = [Kind::Request, Kind::Answer, Kind::Refusal];
            let frames: Vec<Frame> = bodies.into_iter().enumerate().map(|(at, body)| {
                Frame { kind: kinds[at % 3], id: at as u64, body: body.into() }
            }).collect();
            let mut all = BytesMut::new();
            frames.iter().for_each(|frame| frame.encode(&mut all));
            let cut = cut % all.len();
            let mut arriving = BytesMut::from(&all[..cut]);
            let mut found = Vec::new();
            while let Some(frame) = Frame::decode(&mut arriving).unwrap() {
                found.push(frame);
            }
            arriving.extend_from_slice(&all[cut..]);
            while let Some(frame) = Frame::decode(&mut arriving).unwrap() {
                found.push(frame);
            }
            prop_assert_eq!(found, frames);
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let mut bytes = BytesMut::new();
        let frame = Frame { kind: Kind::Request, id: 7, body: Bytes::from_static(b"body") };
        frame.encode(&mut bytes);
        for bit in 32..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Frame::decode(&mut flipped), Err(FrameError::Checksum));
        }
    }

    #[test]
    fn fuzz_frames() {
        let mut seed = BytesMut::new();
        Frame { kind: Kind::Answer, id: 1, body: Bytes::from_static(b"x") }.encode(&mut seed);
        proteus_testkit::fuzz::run("peer", &[seed.to_vec()], |input| {
            let mut bytes = BytesMut::from(input);
            while let Ok(Some(frame)) = Frame::decode(&mut bytes) {
                let mut again = BytesMut::new();
                frame.encode(&mut again);
                assert_eq!(Frame::decode(&mut again), Ok(Some(frame)));
            }
        });
    }
}
