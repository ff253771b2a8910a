//! A whole store on its way to another node, and one that arrives.
//!
//! ```text
//! image = chunk chunk … chunk      in the order of the keys, over all chunks
//! chunk = (key length u32 │ value length u32 │ key │ value) …        little-endian
//! ```
//! Where a chunk ends depends on the pair it ends with, not on how much came before: a change makes
//! other bytes of the chunk it is in, and leaves the others as they were. So two images of a store share
//! most of their chunks, and a backup keeps those once.
//!
//! An arriving store is built beside the one that serves, and takes its place in three steps of which
//! each leaves one whole store to be found by the next start:
//! ```text
//! store  store.incoming        building; a start removes store.incoming
//! store.old  store.incoming    a start takes store.old back
//! store.old  store             a start removes store.old
//! ```

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use proteus_env::disk::{is_directory, remove_directory, rename};

use crate::disk::Kept;
use crate::short::{Key, Value};
use crate::{DiskStore, KEY_BYTES_MAX, StoreError};

/// Chunks are about this large on average.
const CHUNK_BYTES: usize = 1024 * 1024;

/// No chunk is larger, unless a single value is.
const CHUNK_BYTES_MAX: usize = 4 * CHUNK_BYTES;

/// Longest value that a chunk may claim.
const VALUE_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Arriving keys are written once there are so many bytes of them.
const INGEST_BYTES: usize = 16 * 1024 * 1024;

/// A store as it was at one moment, whatever is written to it meanwhile.
pub struct DiskImage {
    kept: Kept,
    /// Where the next chunk starts; `None` once the last was given.
    next_key: Option<Vec<u8>>,
}

impl DiskImage {
    pub(crate) fn new(store: DiskStore) -> DiskImage {
        DiskImage { kept: store.keep(), next_key: Some(Vec::new()) }
    }

    /// The value under `key` in the image.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.kept.get(key)
    }

    /// The next chunk; `None` at the end.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        let Some(start) = self.next_key.take() else { return Ok(None) };
        let mut chunk = Vec::new();
        let mut is_full = false;
        for pair in self.kept.from(&start) {
            let (key, value) = pair?;
            let pair_bytes = 8 + key.len() + value.len();
            if is_full || chunk.len() + pair_bytes > CHUNK_BYTES_MAX && !chunk.is_empty() {
                self.next_key = Some(key.to_vec());
                break;
            }
            is_full = ends_chunk(&key, pair_bytes);
            for length in [key.len(), value.len()] {
                let length = u32::try_from(length).map_err(|_| {
                    StoreError::corrupt(&key, "a value of more than 4 GiB cannot be sent")
                })?;
                chunk.extend_from_slice(&length.to_le_bytes());
            }
            chunk.extend_from_slice(&key);
            chunk.extend_from_slice(&value);
        }
        Ok((!chunk.is_empty()).then(|| Bytes::from(chunk)))
    }
}

/// Whether a chunk ends with this pair: one of so many that chunks have their size on average.
fn ends_chunk(key: &[u8], pair_bytes: usize) -> bool {
    let drawn = u64::from(crc32c::crc32c(key));
    drawn * (CHUNK_BYTES as u64) < (pair_bytes as u64) << 32
}

/// A store that arrives, beside the one in `directory`.
pub struct IncomingStore {
    directory: PathBuf,
    disk: DiskStore,
    pairs: Vec<(Key, Value)>,
    pairs_bytes: usize,
    last_key: Key,
}

impl IncomingStore {
    /// Begins to take a store that shall replace the one in `directory`.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn begin(directory: &Path) -> Result<IncomingStore, StoreError> {
        let place = beside(directory, ".incoming");
        remove_if_there(&place)?;
        let disk = DiskStore::open(&place)?;
        disk.make()?;
        let directory = directory.to_owned();
        Ok(IncomingStore {
            directory,
            disk,
            pairs: Vec::new(),
            pairs_bytes: 0,
            last_key: Key::from(&[][..]),
        })
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    /// If it is no chunk or does not follow the last one, or the disk fails.
    pub fn take_chunk(&mut self, chunk: &[u8]) -> Result<(), StoreError> {
        let damaged = || StoreError::corrupt(b"(image)", "a part of the image is damaged");
        let mut rest = chunk;
        while !rest.is_empty() {
            let (key_bytes, after) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
            let (value_bytes, after) = after.split_first_chunk::<4>().ok_or_else(damaged)?;
            let key_bytes = u32::from_le_bytes(*key_bytes) as usize;
            let value_bytes = u32::from_le_bytes(*value_bytes) as usize;
            if key_bytes == 0 || key_bytes > KEY_BYTES_MAX || value_bytes > VALUE_BYTES_MAX {
                return Err(damaged());
            }
            let (key, after) = after.split_at_checked(key_bytes).ok_or_else(damaged)?;
            let (value, after) = after.split_at_checked(value_bytes).ok_or_else(damaged)?;
            if key <= self.last_key.as_ref() {
                return Err(damaged());
            }
            self.last_key = Key::from(key);
            let value = Value::from(Bytes::copy_from_slice(value));
            self.pairs.push((self.last_key.clone(), value));
            self.pairs_bytes += key_bytes + value_bytes;
            rest = after;
        }
        if self.pairs_bytes >= INGEST_BYTES { self.ingest() } else { Ok(()) }
    }

    fn ingest(&mut self) -> Result<(), StoreError> {
        let pairs = std::mem::take(&mut self.pairs);
        self.pairs_bytes = 0;
        if pairs.is_empty() {
            return Ok(());
        }
        self.disk.ingest(pairs.iter().map(|(key, value)| (key, value)))
    }

    /// The directory of the store that is to be replaced.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What has arrived under `key`.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.ingest()?;
        self.disk.get(key)
    }

    /// Puts the arrived store in place of the present one, whose handles must be gone, and opens it.
    ///
    /// # Errors
    /// If the disk fails; the next start then finds one of the two whole.
    pub fn install(mut self) -> Result<DiskStore, StoreError> {
        self.ingest()?;
        let IncomingStore { directory, disk, .. } = self;
        drop(disk);
        let (incoming, old) = (beside(&directory, ".incoming"), beside(&directory, ".old"));
        remove_if_there(&old)?;
        let failed = |error: io::Error| failed(&directory, &error);
        if is_directory(&directory) {
            rename(&directory, &old).map_err(failed)?;
        }
        rename(&incoming, &directory).map_err(failed)?;
        remove_if_there(&old)?;
        DiskStore::open(&directory)
    }
}

/// Ends what a crash interrupted in [`IncomingStore::install`].
pub(crate) fn settle(directory: &Path) -> Result<(), StoreError> {
    let old = beside(directory, ".old");
    if is_directory(&old) && !is_directory(directory) {
        rename(&old, directory).map_err(|error| failed(directory, &error))?;
    }
    remove_if_there(&old)?;
    remove_if_there(&beside(directory, ".incoming"))
}

fn beside(directory: &Path, suffix: &str) -> PathBuf {
    let mut name = directory.file_name().map_or_else(OsString::new, OsString::from);
    name.push(suffix);
    directory.with_file_name(name)
}

fn remove_if_there(directory: &Path) -> Result<(), StoreError> {
    if !is_directory(directory) {
        return Ok(());
    }
    remove_directory(directory).map_err(|error| failed(directory, &error))
}

fn failed(directory: &Path, error: &io::Error) -> StoreError {
    StoreError::Io { location: directory.display().to_string(), message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: &str) -> (Key, Value) {
        (Key::from(key.as_bytes()), Value::from(Bytes::copy_from_slice(value.as_bytes())))
    }

    fn ingest(disk: &DiskStore, pairs: &[(Key, Value)]) {
        disk.ingest(pairs.iter().map(|(key, value)| (key, value))).unwrap();
    }

    fn receive(image: &mut DiskImage, directory: &Path) -> IncomingStore {
        let mut incoming = IncomingStore::begin(directory).unwrap();
        while let Some(chunk) = image.next_chunk().unwrap() {
            incoming.take_chunk(&chunk).unwrap();
        }
        incoming
    }

    #[test]
    fn an_image_arrives_as_the_store_was_when_it_was_taken() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let source = DiskStore::open(&from.path().join("store")).unwrap();
        let long = "v".repeat(CHUNK_BYTES / 2 + 1);
        ingest(&source, &[pair("a", "1"), pair("b", &long), pair("c", &long), pair("d", &long)]);
        let mut image = source.image();
        ingest(&source, &[pair("a", "2"), pair("e", "later")]);
        let place = to.path().join("store");
        let present = DiskStore::open(&place).unwrap();
        ingest(&present, &[pair("z", "gone")]);
        let incoming = receive(&mut image, &place);
        drop(present);
        let installed = incoming.install().unwrap();
        let value = |key: &str| installed.get(key.as_bytes()).unwrap();
        assert_eq!(value("a"), pair("", "1").1.bytes());
        assert_eq!(value("d"), pair("", &long).1.bytes());
        assert_eq!((value("e"), value("z")), (None, None));
        assert_eq!(source.get(b"a").unwrap(), pair("", "2").1.bytes());
        assert!(
            !is_directory(&beside(&place, ".incoming")) && !is_directory(&beside(&place, ".old"))
        );
    }

    #[test]
    fn a_crash_between_the_steps_leaves_one_whole_store() {
        let from = tempfile::tempdir().unwrap();
        let source = DiskStore::open(&from.path().join("source")).unwrap();
        ingest(&source, &[pair("k", "new")]);
        for renames in 0..=2 {
            let place = from.path().join(format!("store{renames}"));
            let present = DiskStore::open(&place).unwrap();
            ingest(&present, &[pair("k", "old")]);
            drop(present);
            let mut incoming = receive(&mut source.image(), &place);
            incoming.ingest().unwrap();
            drop(incoming);
            if renames >= 1 {
                rename(&place, &beside(&place, ".old")).unwrap();
            }
            if renames == 2 {
                rename(&beside(&place, ".incoming"), &place).unwrap();
            }
            let expected = if renames == 2 { "new" } else { "old" };
            let opened = DiskStore::open(&place).unwrap();
            assert_eq!(
                opened.get(b"k").unwrap(),
                pair("", expected).1.bytes(),
                "after {renames} renames"
            );
        }
    }

    #[test]
    fn damaged_chunks_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let source = DiskStore::open(&directory.path().join("source")).unwrap();
        ingest(&source, &[pair("a", "1"), pair("b", "2")]);
        let chunk = source.image().next_chunk().unwrap().unwrap();
        for length in 1..chunk.len() {
            let mut incoming = IncomingStore::begin(&directory.path().join("store")).unwrap();
            // A cut behind the first pair is a smaller chunk.
            assert_eq!(incoming.take_chunk(&chunk[..length]).is_ok(), length == 10);
        }
        let mut incoming = IncomingStore::begin(&directory.path().join("store")).unwrap();
        incoming.take_chunk(&chunk).unwrap();
        assert!(incoming.take_chunk(&chunk).is_err(), "keys must grow");
    }
}
