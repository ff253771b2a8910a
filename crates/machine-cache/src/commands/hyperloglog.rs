//! HyperLogLog, in Redis' own encoding: a string that Redis would read.
//!
//! ```text
//! HYLL  encoding (0 dense, 1 sparse)  0 0 0  cached count[8], little-endian, its last bit: not valid
//! dense:  16384 registers of 6 bits, least significant first
//! sparse: 00xxxxxx zeros, x+1 of them · 01xxxxxx yyyyyyyy zeros, xy+1 · 1vvvvvxx value v+1, x+1 times
//! ```
//! Source: "HyperLogLog: the analysis of a near-optimal cardinality estimation algorithm" (Flajolet et
//! al.), and for the estimate "New cardinality estimation algorithms for HyperLogLog sketches" (Ertl).

use bytes::Bytes;

use super::strings::rewrite;
use super::{ALL, Arguments, Command, Group, ONE, READ, WRITE, WRITE_FAST, command};
use crate::exec::{Exec, Result, error};
use crate::reply::Reply;

const G: Group = Group::HyperLogLog;

pub(super) const TABLE: &[Command] = &[
    command("pfadd", -2, WRITE_FAST, ONE, G, pfadd),
    command("pfcount", -2, READ, ALL, G, pfcount),
    command("pfmerge", -2, WRITE, ALL, G, pfmerge),
];

const NOT_ONE: &str = "WRONGTYPE Key is not a valid HyperLogLog string value.";
const DAMAGED: &str = "INVALIDOBJ Corrupted HLL object detected";

const REGISTER_BITS: u32 = 14;
const REGISTER_COUNT: usize = 1 << REGISTER_BITS;
const HASH_BITS: u32 = 64 - REGISTER_BITS;
const HEADER_BYTES: usize = 16;
const DENSE_BYTES: usize = HEADER_BYTES + REGISTER_COUNT * 6 / 8;
/// A sparse one that grows beyond this becomes dense.
const SPARSE_BYTES_MAX: usize = 3000;
/// Largest value that the sparse encoding can hold.
const SPARSE_VALUE_MAX: u8 = 32;

struct Sketch {
    registers: Vec<u8>,
    is_dense: bool,
}

impl Sketch {
    fn new() -> Sketch {
        Sketch { registers: vec![0; REGISTER_COUNT], is_dense: false }
    }

    fn decode(bytes: &[u8]) -> Result<Sketch> {
        let (header, body) = match bytes.split_at_checked(HEADER_BYTES) {
            Some((header, body)) if header.starts_with(b"HYLL") && header[4] <= 1 => (header, body),
            _ => return error(NOT_ONE),
        };
        let mut sketch = Sketch::new();
        if header[4] == 0 {
            if bytes.len() != DENSE_BYTES {
                return error(NOT_ONE);
            }
            sketch.is_dense = true;
            for (place, register) in sketch.registers.iter_mut().enumerate() {
                let (byte, shift) = (place * 6 / 8, place * 6 % 8);
                let low = u16::from(body[byte]);
                let high = body.get(byte + 1).map_or(0, |byte| u16::from(*byte));
                *register = ((low | high << 8) >> shift & 0x3F) as u8;
            }
            return Ok(sketch);
        }
        let mut place = 0;
        let mut rest = body;
        while let Some((first, after)) = rest.split_first() {
            let (value, count) = match first >> 6 {
                0 => (0, usize::from(first & 0x3F) + 1),
                1 => {
                    let Some((second, after)) = after.split_first() else { return error(DAMAGED) };
                    rest = after;
                    (0, (usize::from(first & 0x3F) << 8 | usize::from(*second)) + 1)
                }
                _ => ((first >> 2 & 0x1F) + 1, usize::from(first & 3) + 1),
            };
            if first >> 6 != 1 {
                rest = after;
            }
            let Some(run) = sketch.registers.get_mut(place..place + count) else {
                return error(DAMAGED);
            };
            run.fill(value);
            place += count;
        }
        if place == REGISTER_COUNT { Ok(sketch) } else { error(DAMAGED) }
    }

    fn header(encoding: u8) -> Vec<u8> {
        let mut bytes = b"HYLL".to_vec();
        bytes.extend_from_slice(&[encoding, 0, 0, 0]);
        // The cached count is not valid.
        bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0x80]);
        bytes
    }

    fn encode(&self) -> Vec<u8> {
        if !self.is_dense
            && let Some(sparse) = self.encode_sparse()
        {
            return sparse;
        }
        let mut bytes = Sketch::header(0);
        bytes.resize(DENSE_BYTES, 0);
        for (place, register) in self.registers.iter().enumerate() {
            let (byte, shift) = (HEADER_BYTES + place * 6 / 8, place * 6 % 8);
            let both = u16::from(*register) << shift;
            bytes[byte] |= both as u8;
            if let Some(next) = bytes.get_mut(byte + 1) {
                *next |= (both >> 8) as u8;
            }
        }
        bytes
    }

    fn encode_sparse(&self) -> Option<Vec<u8>> {
        let mut bytes = Sketch::header(1);
        let mut rest = &self.registers[..];
        while let Some(&value) = rest.first() {
            let run = rest.iter().take_while(|other| **other == value).count();
            let mut left = run;
            while left > 0 {
                let taken = match value {
                    0 if left > 64 => {
                        let taken = left.min(REGISTER_COUNT);
                        bytes.push(0x40 | ((taken - 1) >> 8) as u8);
                        bytes.push((taken - 1) as u8);
                        taken
                    }
                    0 => {
                        bytes.push((left - 1) as u8);
                        left
                    }
                    value if value > SPARSE_VALUE_MAX => return None,
                    value => {
                        let taken = left.min(4);
                        bytes.push(0x80 | (value - 1) << 2 | (taken - 1) as u8);
                        taken
                    }
                };
                left -= taken;
            }
            rest = &rest[run..];
        }
        (bytes.len() <= HEADER_BYTES + SPARSE_BYTES_MAX).then_some(bytes)
    }

    /// Counts an element; says whether a register changed.
    fn add(&mut self, element: &[u8]) -> bool {
        let hash = murmur_hash64a(element, 0xadc8_3b19);
        let place = (hash & (REGISTER_COUNT as u64 - 1)) as usize;
        let rest = hash >> REGISTER_BITS | 1 << HASH_BITS;
        let run = rest.trailing_zeros() as u8 + 1;
        if self.registers[place] < run {
            self.registers[place] = run;
            return true;
        }
        false
    }

    fn merge(&mut self, other: &Sketch) {
        for (register, other) in self.registers.iter_mut().zip(&other.registers) {
            *register = (*register).max(*other);
        }
        self.is_dense |= other.is_dense;
    }

    fn estimate(&self) -> u64 {
        let mut histogram = [0u32; 64];
        for register in &self.registers {
            histogram[usize::from(*register & 0x3F)] += 1;
        }
        let m = REGISTER_COUNT as f64;
        let q = HASH_BITS as usize;
        let mut z = m * tau((m - f64::from(histogram[q + 1])) / m);
        for count in histogram[1..=q].iter().rev() {
            z = 0.5 * (z + f64::from(*count));
        }
        z += m * sigma(f64::from(histogram[0]) / m);
        const ALPHA_INFINITY: f64 = 0.721_347_520_444_481_7;
        (ALPHA_INFINITY * m * m / z).round() as u64
    }
}

fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if z == before {
            return z / 3.0;
        }
    }
}

/// MurmurHash2 in its 64-bit form.
fn murmur_hash64a(bytes: &[u8], seed: u64) -> u64 {
    const M: u64 = 0xc6a4_a793_5bd1_e995;
    const R: u32 = 47;
    let mut hash = seed ^ (bytes.len() as u64).wrapping_mul(M);
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let mut k = u64::from_le_bytes(chunk.try_into().unwrap_or_default());
        k = k.wrapping_mul(M);
        k ^= k >> R;
        k = k.wrapping_mul(M);
        hash = (hash ^ k).wrapping_mul(M);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        for (place, byte) in rest.iter().enumerate() {
            hash ^= u64::from(*byte) << (8 * place);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> R;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> R
}

fn pfadd(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let key = a.at(1)?;
    let before = x.before(key)?;
    let present = before.string()?;
    let mut has_changed = present.is_none();
    let mut sketch = match present {
        None => Sketch::new(),
        Some(bytes) => Sketch::decode(&bytes)?,
    };
    for element in a.from(2) {
        has_changed |= sketch.add(element);
    }
    if has_changed {
        rewrite(x, key, &before, &sketch.encode(), "pfadd")?;
    }
    Ok(Reply::Integer(i64::from(has_changed)))
}

fn pfcount(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let mut sketch = Sketch::new();
    for key in a.from(1) {
        if let Some(bytes) = x.string(key)? {
            sketch.merge(&Sketch::decode(&bytes)?);
        }
    }
    Ok(Reply::Integer(i64::try_from(sketch.estimate()).unwrap_or(i64::MAX)))
}

fn pfmerge(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let mut sketch = Sketch::new();
    for key in a.from(1) {
        if let Some(bytes) = x.string(key)? {
            sketch.merge(&Sketch::decode(&bytes)?);
        }
    }
    let key = a.at(1)?;
    let before = x.before(key)?;
    rewrite(x, key, &before, &sketch.encode(), "pfadd")?;
    Ok(Reply::OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_encodings_come_back_and_the_estimate_is_near() {
        let mut sketch = Sketch::new();
        for number in 0..100u32 {
            sketch.add(&number.to_le_bytes());
        }
        let sparse = sketch.encode();
        assert_eq!(sparse[4], 1);
        assert_eq!(Sketch::decode(&sparse).unwrap().registers, sketch.registers);
        assert!((95..=105).contains(&sketch.estimate()), "{}", sketch.estimate());
        for number in 0..100_000u32 {
            sketch.add(&number.to_le_bytes());
        }
        let dense = sketch.encode();
        assert_eq!((dense[4], dense.len()), (0, DENSE_BYTES));
        assert_eq!(Sketch::decode(&dense).unwrap().registers, sketch.registers);
        assert!((97_000..=103_000).contains(&sketch.estimate()), "{}", sketch.estimate());
    }

    #[test]
    fn garbage_is_refused() {
        for bytes in [
            &b""[..],
            b"HYLL",
            b"HYLL\x01\0\0\0\0\0\0\0\0\0\0\0\xff",
            b"HYLL\x02\0\0\0\0\0\0\0\0\0\0\0",
        ] {
            assert!(Sketch::decode(bytes).is_err());
        }
    }
}
