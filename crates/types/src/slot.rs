//! Hash slots: the unit of placement and movement.

use serde::{Deserialize, Serialize};

/// Number of hash slots, as in Redis Cluster.
pub const SLOT_COUNT: u16 = 16384;

/// One of [`SLOT_COUNT`] hash slots.
///
/// Source: Redis Cluster specification, "Key distribution model" and "Hash tags".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot(u16);

impl Slot {
    /// The slot of `key`: CRC16/XMODEM of its hash tag, or of the whole key if it has none, modulo
    /// [`SLOT_COUNT`]. The hash tag is what stands between the first `{` and the first `}` after
    /// it, unless that is empty.
    pub fn of_key(key: &[u8]) -> Slot {
        Slot(crc16_xmodem(hash_tag(key)) % SLOT_COUNT)
    }

    /// The slot of this number, if there is one.
    pub fn new(number: u16) -> Option<Slot> {
        (number < SLOT_COUNT).then_some(Slot(number))
    }

    /// The slot's number, below [`SLOT_COUNT`].
    pub fn number(self) -> u16 {
        self.0
    }
}

fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|byte| *byte == b'{') else {
        return key;
    };
    let after = &key[open + 1..];
    match after.iter().position(|byte| *byte == b'}') {
        Some(length) if length > 0 => &after[..length],
        _ => key,
    }
}

/// What a byte adds to the remainder, by how many bytes follow it among those that are taken together: every
/// operation on a key asks for its slot.
const CRC16_TABLES: [[u16; 256]; 4] = {
    let mut tables = [[0; 256]; 4];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut behind = 1;
    while behind < 4 {
        let mut byte = 0;
        while byte < 256 {
            let crc = tables[behind - 1][byte];
            tables[behind][byte] = (crc << 8) ^ tables[0][(crc >> 8) as usize];
            byte += 1;
        }
        behind += 1;
    }
    tables
};

fn crc16_xmodem(bytes: &[u8]) -> u16 {
    let [last, third, second, first] = &CRC16_TABLES;
    let (fours, rest) = bytes.as_chunks::<4>();
    let crc = fours.iter().fold(0u16, |crc, [a, b, c, d]| {
        let [high, low] = crc.to_be_bytes();
        first[usize::from(a ^ high)]
            ^ second[usize::from(b ^ low)]
            ^ third[usize::from(*c)]
            ^ last[usize::from(*d)]
    });
    rest.iter().fold(crc, |crc, byte| (crc << 8) ^ last[usize::from((crc >> 8) as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_value_of_the_specification() {
        assert_eq!(crc16_xmodem(b"123456789"), 0x31C3);
        assert_eq!(crc16_xmodem(b""), 0);
        // Redis' CLUSTER KEYSLOT of keys of every length to eight.
        let slots = [15495, 13567, 7638, 10294, 16097, 15101, 13912, 11263];
        for (length, slot) in (1..).zip(slots) {
            assert_eq!(Slot::of_key(&b"abcdefgh"[..length]).number(), slot, "{length}");
        }
    }

    #[test]
    fn hash_tag_rules_of_the_specification() {
        assert_eq!(Slot::of_key(b"{user1000}.following"), Slot::of_key(b"{user1000}.followers"));
        assert_eq!(hash_tag(b"foo{}{bar}"), b"foo{}{bar}");
        assert_eq!(hash_tag(b"foo{{bar}}zap"), b"{bar");
        assert_eq!(hash_tag(b"foo{bar}{zap}"), b"bar");
    }
}
