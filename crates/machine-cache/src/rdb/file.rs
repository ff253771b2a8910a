//! Whole RDB files, read piece by piece and written entry by entry.
//!
//! ```text
//! "REDIS" version[4]  (opcode … | expiry type key value)*  FF  checksum[8]
//! ```
//! Source: the RDB format, versions 1 to 12.

use bytes::Bytes;

use super::{Dumped, Reader, VERSION_MAX, put_length, put_string};

/// The greatest version whose files Redis 7.0 reads.
pub const VERSION: u16 = super::VERSION;

/// The version that fields of hashes which expire need.
pub const VERSION_FIELD_EXPIRY: u16 = super::VERSION_FIELD_EXPIRY;

const MAGIC_BYTES: usize = 9;
const CRC: crc::Crc<u64> = crc::Crc::<u64>::new(&crc::CRC_64_REDIS);

/// Parts of a file.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// What follows is of this database.
    Database(u64),
    /// A key.
    Entry {
        /// The key.
        key: Bytes,
        /// Its value.
        value: Dumped,
        /// When it expires.
        expire_at_ms: Option<u64>,
    },
    /// The text of a library of functions.
    Library(Bytes),
    /// Something that is of no use here.
    Other,
    /// The end.
    End,
}

/// Why bytes are not a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadFile {
    /// It does not begin as one.
    #[error("this is no RDB file: it does not begin with REDIS and a version")]
    Magic,
    /// A newer one.
    #[error("the file is of RDB version {0}; versions to {VERSION_MAX} are known here")]
    Version(u16),
    /// Bytes that mean nothing, or something of a module.
    #[error(
        "the file is damaged, or holds what is not known here, at byte {0}: type or opcode {1}"
    )]
    Data(u64, u8),
    /// The checksum is another.
    #[error("the file is damaged: its checksum is wrong")]
    Checksum,
}

/// Reads a file from its beginning.
pub struct Parts {
    digest: crc::Digest<'static, u64>,
    offset: u64,
    version: Option<u16>,
    expire_at_ms: Option<u64>,
}

impl Default for Parts {
    fn default() -> Parts {
        static TABLE: crc::Crc<u64> = CRC;
        Parts { digest: TABLE.digest(), offset: 0, version: None, expire_at_ms: None }
    }
}

impl Parts {
    /// Reads the part at the front of `bytes`, which go on where the last part ended: the part and its
    /// length; `None` if it is not whole yet.
    ///
    /// # Errors
    /// If the bytes are not such a file.
    pub fn next(&mut self, bytes: &[u8]) -> Result<Option<(Part, usize)>, BadFile> {
        if self.version.is_none() {
            return self.magic(bytes);
        }
        let Some(&opcode) = bytes.first() else { return Ok(None) };
        let mut reader = Reader::of(bytes);
        let part = self.part(&mut reader);
        if part.is_none() {
            return match reader.is_short {
                true => Ok(None),
                false => Err(BadFile::Data(self.offset, opcode)),
            };
        }
        let used = bytes.len() - reader.rest.len();
        let Some(part) = part else { return Ok(None) };
        if part == Part::End {
            return self.end(bytes);
        }
        self.consume(bytes, used);
        Ok(Some((part, used)))
    }

    fn consume(&mut self, bytes: &[u8], used: usize) {
        self.digest.update(bytes.get(..used).unwrap_or_default());
        self.offset += used as u64;
    }

    fn magic(&mut self, bytes: &[u8]) -> Result<Option<(Part, usize)>, BadFile> {
        let known = bytes.len().min(5);
        if bytes.get(..known) != b"REDIS".get(..known) {
            return Err(BadFile::Magic);
        }
        let Some(magic) = bytes.get(..MAGIC_BYTES) else { return Ok(None) };
        let version = std::str::from_utf8(&magic[5..]).ok().and_then(|text| text.parse().ok());
        let version: u16 = version.ok_or(BadFile::Magic)?;
        if version == 0 || version > VERSION_MAX {
            return Err(BadFile::Version(version));
        }
        self.version = Some(version);
        self.consume(bytes, MAGIC_BYTES);
        Ok(Some((Part::Other, MAGIC_BYTES)))
    }

    fn part(&mut self, reader: &mut Reader<'_>) -> Option<Part> {
        Some(match reader.byte()? {
            0xFF => Part::End,
            0xFE => Part::Database(reader.length()?),
            0xFD => {
                let at_s = u32::from_le_bytes(reader.array()?);
                self.expire_at_ms = Some(u64::from(at_s) * 1000);
                Part::Other
            }
            0xFC => {
                self.expire_at_ms = Some(u64::from_le_bytes(reader.array()?));
                Part::Other
            }
            0xFB => {
                reader.length()?;
                reader.length()?;
                Part::Other
            }
            0xFA => {
                reader.string()?;
                reader.string()?;
                Part::Other
            }
            0xF9 => {
                reader.byte()?;
                Part::Other
            }
            0xF8 => {
                reader.length()?;
                Part::Other
            }
            0xF5 => Part::Library(reader.string()?),
            // Slot, its keys, and how many of them expire.
            0xF4 => {
                reader.length()?;
                reader.length()?;
                reader.length()?;
                Part::Other
            }
            kind => {
                let key = reader.string()?;
                let value = reader.value(kind)?;
                Part::Entry { key, value, expire_at_ms: self.expire_at_ms.take() }
            }
        })
    }

    fn end(&mut self, bytes: &[u8]) -> Result<Option<(Part, usize)>, BadFile> {
        if self.version.is_some_and(|version| version < 5) {
            return Ok(Some((Part::End, 1)));
        }
        let Some(checksum) = bytes.get(1..9).and_then(|part| part.try_into().ok()) else {
            return Ok(None);
        };
        self.consume(bytes, 1);
        let told = u64::from_le_bytes(checksum);
        // A file without one has zero there.
        if told != 0 && told != self.digest.clone().finalize() {
            return Err(BadFile::Checksum);
        }
        Ok(Some((Part::End, 9)))
    }
}

/// Writes a file.
pub struct Writer {
    digest: crc::Digest<'static, u64>,
    version: u16,
    db: Option<u64>,
}

impl Writer {
    /// Begins a file of this version.
    pub fn begin(version: u16, out: &mut Vec<u8>) -> Writer {
        static TABLE: crc::Crc<u64> = CRC;
        let mut writer = Writer { digest: TABLE.digest(), version, db: None };
        let mut bytes = format!("REDIS{version:04}").into_bytes();
        for (name, value) in [("redis-ver", "7.4.0"), ("redis-bits", "64")] {
            bytes.push(0xFA);
            put_string(&mut bytes, name.as_bytes());
            put_string(&mut bytes, value.as_bytes());
        }
        writer.put(&bytes, out);
        writer
    }

    fn put(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.digest.update(bytes);
        out.extend_from_slice(bytes);
    }

    /// Adds the text of a library of functions; before the first key.
    pub fn library(&mut self, text: &[u8], out: &mut Vec<u8>) {
        let mut bytes = vec![0xF5];
        put_string(&mut bytes, text);
        self.put(&bytes, out);
    }

    /// Adds a key with what DUMP gave of it; says whether the file's version allows it.
    pub fn entry(
        &mut self,
        db: u64,
        key: &[u8],
        dump: &[u8],
        expire_at_ms: Option<u64>,
        out: &mut Vec<u8>,
    ) -> bool {
        let Some((body, footer)) = dump.split_last_chunk::<10>() else { return false };
        let Some((&kind, value)) = body.split_first() else { return false };
        if u16::from_le_bytes([footer[0], footer[1]]) > self.version {
            return false;
        }
        let mut bytes = Vec::with_capacity(dump.len() + key.len() + 16);
        if self.db != Some(db) {
            self.db = Some(db);
            bytes.push(0xFE);
            put_length(&mut bytes, db);
        }
        if let Some(at_ms) = expire_at_ms {
            bytes.push(0xFC);
            bytes.extend_from_slice(&at_ms.to_le_bytes());
        }
        bytes.push(kind);
        put_string(&mut bytes, key);
        bytes.extend_from_slice(value);
        self.put(&bytes, out);
        true
    }

    /// Ends the file.
    pub fn end(mut self, out: &mut Vec<u8>) {
        self.put(&[0xFF], out);
        out.extend_from_slice(&self.digest.finalize().to_le_bytes());
    }
}

/// Reads parts until the bytes end or mean nothing; for fuzzing. Neither panics, nor reads a part longer than
/// the bytes are.
pub fn fuzz_parts(input: &[u8]) {
    let mut parts = Parts::default();
    let mut rest = input;
    while let Ok(Some((part, used))) = parts.next(rest) {
        assert!(used > 0 && used <= rest.len(), "a part of {used} bytes in {}", rest.len());
        rest = &rest[used..];
        if part == Part::End {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::dump;
    use super::*;

    fn sample() -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = Writer::begin(VERSION, &mut out);
        writer.library(b"#!lua name=l\nreturn 1", &mut out);
        let text = |text: &'static str| Bytes::from_static(text.as_bytes());
        let values = [
            (0, "s", Dumped::String(text("value")), None),
            (0, "l", Dumped::List(vec![text("a"), text("b")]), Some(1_900_000_000_000)),
            (3, "z", Dumped::SortedSet(vec![(text("m"), 1.5)]), None),
            (3, "h", Dumped::Hash(vec![(text("f"), text("v"), None)]), None),
        ];
        for (db, key, value, expire_at_ms) in values {
            assert!(writer.entry(db, key.as_bytes(), &dump(&value), expire_at_ms, &mut out));
        }
        let expiring = Dumped::Hash(vec![(text("f"), text("v"), Some(5))]);
        assert!(!writer.entry(0, b"x", &dump(&expiring), None, &mut out));
        writer.end(&mut out);
        out
    }

    fn read(bytes: &[u8], piece: usize) -> Result<Vec<Part>, BadFile> {
        let mut parts = Parts::default();
        let mut found = Vec::new();
        let (mut from, mut to) = (0, 0);
        loop {
            match parts.next(&bytes[from..to])? {
                Some((Part::End, _)) => return Ok(found),
                Some((part, used)) => {
                    from += used;
                    if part != Part::Other {
                        found.push(part);
                    }
                }
                None if to < bytes.len() => to = bytes.len().min(to + piece),
                None => panic!("the file does not end"),
            }
        }
    }

    #[test]
    fn files_come_back_in_pieces_of_any_size() {
        let bytes = sample();
        let whole = read(&bytes, usize::MAX / 2).unwrap();
        assert_eq!(whole.len(), 7);
        assert_eq!(whole[1], Part::Database(0));
        for piece in [1, 7, 64] {
            assert_eq!(read(&bytes, piece).unwrap(), whole);
        }
    }

    #[test]
    fn damage_is_noticed() {
        let mut bytes = sample();
        let at = bytes.len() - 12;
        bytes[at] ^= 1;
        assert!(read(&bytes, 100).is_err());
        assert_eq!(read(b"NOTREDIS", 100), Err(BadFile::Magic));
        assert_eq!(read(b"REDIS0099", 100), Err(BadFile::Version(99)));
    }

    #[test]
    fn fuzz() {
        proteus_testkit::fuzz::run("rdb-file", &[sample()], fuzz_parts);
    }
}
