//! A disk in memory that fails as real ones do.
//!
//! What was written and not flushed may be lost, whole or in part, at a crash; a flush may fail; the
//! disk may be full; a bit may flip. Every choice comes from the seed, so a run repeats exactly.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile};

/// A simulated directory. Clones share the files.
#[derive(Clone, Default)]
pub struct SimDisk {
    world: Arc<Mutex<World>>,
}

#[derive(Default)]
struct World {
    files: BTreeMap<String, Arc<Mutex<FileImage>>>,
    /// Writes still allowed before the disk stops answering, as at a power cut.
    writes_left: Option<u64>,
    capacity_bytes: Option<u64>,
    random: u64,
}

#[derive(Default, Clone)]
struct FileImage {
    /// What survives any crash.
    flushed: Vec<u8>,
    /// What a reader sees now.
    current: Vec<u8>,
    /// Writes since the last flush, in order.
    unflushed: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write { byte_offset: u64, bytes: Vec<u8> },
    Truncate { length_bytes: u64 },
}

impl SimDisk {
    /// An empty disk whose choices follow from `seed`.
    pub fn new(seed: u64) -> SimDisk {
        let disk = SimDisk::default();
        disk.world.lock().random = seed | 1;
        disk
    }

    /// After `writes` further writes or flushes every operation fails, as when power is cut.
    pub fn cut_power_after(&self, writes: u64) {
        self.world.lock().writes_left = Some(writes);
    }

    /// Takes back a power cut that has not happened yet.
    pub fn spare_power(&self) {
        self.world.lock().writes_left = None;
    }

    /// Whether it would take a write.
    pub fn has_power(&self) -> bool {
        self.world.lock().writes_left != Some(0)
    }

    /// Whether a crash would take nothing.
    pub fn is_flushed(&self) -> bool {
        self.world.lock().files.values().all(|file| file.lock().unflushed.is_empty())
    }

    /// Turns out to have lied: the last flushes of each file did nothing, so that a crash takes the
    /// whole second half of what was flushed.
    pub fn forget_flushes(&self) {
        for file in self.world.lock().files.values() {
            let mut file = file.lock();
            let half = file.flushed.iter().rposition(|byte| *byte != 0).unwrap_or(0) / 2;
            let length_bytes = file.flushed.len();
            file.flushed.truncate(half);
            file.flushed.resize(length_bytes, 0);
            file.unflushed.clear();
        }
    }

    /// Lets the disk hold `capacity_bytes` and no more; `None` lifts the limit.
    pub fn set_capacity(&self, capacity_bytes: Option<u64>) {
        self.world.lock().capacity_bytes = capacity_bytes;
    }

    /// What a restart finds: flushed bytes, and of the unflushed writes a prefix chosen by the seed,
    /// the last of them torn. Power is back.
    pub fn crash(&self) {
        let mut world = self.world.lock();
        world.writes_left = None;
        let mut random = world.random;
        for file in world.files.values() {
            let mut file = file.lock();
            let mut survived = std::mem::take(&mut file.flushed);
            let changes = std::mem::take(&mut file.unflushed);
            let kept = draw(&mut random, changes.len() as u64 + 1);
            for (position, change) in changes.iter().take(kept as usize).enumerate() {
                let torn = position as u64 + 1 == kept && draw(&mut random, 2) == 0;
                match change {
                    Change::Write { byte_offset, bytes } => {
                        let length = if torn {
                            draw(&mut random, bytes.len() as u64 + 1) as usize
                        } else {
                            bytes.len()
                        };
                        write_into(&mut survived, *byte_offset, &bytes[..length]);
                    }
                    Change::Truncate { length_bytes } => survived.resize(*length_bytes as usize, 0),
                }
            }
            file.current = survived.clone();
            file.flushed = survived;
        }
        world.random = random;
    }

    /// The files and their lengths in bytes.
    pub fn lengths(&self) -> Vec<(String, usize)> {
        let world = self.world.lock();
        let length = |file: &Mutex<FileImage>| file.lock().current.len();
        world.files.iter().map(|(name, file)| (name.clone(), length(file))).collect()
    }

    /// Flips one bit of a file, as a failing medium does.
    pub fn flip_bit(&self, name: &str, byte_offset: usize, bit: u8) {
        let world = self.world.lock();
        if let Some(file) = world.files.get(name) {
            let mut file = file.lock();
            for image in 0..2 {
                let bytes = if image == 0 { &mut file.flushed } else { &mut file.current };
                if let Some(byte) = bytes.get_mut(byte_offset) {
                    *byte ^= 1 << (bit % 8);
                }
            }
        }
    }
}

/// A number below `bound` from a xorshift sequence.
fn draw(random: &mut u64, bound: u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random % bound.max(1)
}

fn write_into(image: &mut Vec<u8>, byte_offset: u64, bytes: &[u8]) {
    let start = byte_offset as usize;
    let end = start + bytes.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[start..end].copy_from_slice(bytes);
}

fn power_cut() -> io::Error {
    io::Error::other("simulated power cut")
}

impl World {
    fn spend_write(&mut self) -> io::Result<()> {
        match &mut self.writes_left {
            Some(0) => Err(power_cut()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn used_bytes(&self) -> u64 {
        self.files.values().map(|file| file.lock().current.len() as u64).sum()
    }
}

impl Disk for SimDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.world.lock();
        let image = world.files.entry(name.to_owned()).or_default().clone();
        Ok(Arc::new(SimFile { world: self.world.clone(), image }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.world.lock().files.keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut world = self.world.lock();
        world.spend_write()?;
        world.files.remove(name).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn flush_directory(&self) -> io::Result<()> {
        Ok(())
    }

    fn available_bytes(&self) -> io::Result<u64> {
        let world = self.world.lock();
        let capacity = world.capacity_bytes.unwrap_or(u64::MAX);
        Ok(capacity.saturating_sub(world.used_bytes()))
    }

    fn location(&self) -> PathBuf {
        PathBuf::from("(simulated disk)")
    }
}

struct SimFile {
    world: Arc<Mutex<World>>,
    image: Arc<Mutex<FileImage>>,
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.image.lock().current.len() as u64)
    }

    fn read_at(&self, byte_offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let image = self.image.lock();
        let start = byte_offset as usize;
        let bytes = image
            .current
            .get(start..start + buffer.len())
            .ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, byte_offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut world = self.world.lock();
        world.spend_write()?;
        let grows = (byte_offset + bytes.len() as u64)
            .saturating_sub(self.image.lock().current.len() as u64);
        if let Some(capacity) = world.capacity_bytes
            && world.used_bytes() + grows > capacity
        {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut image = self.image.lock();
        write_into(&mut image.current, byte_offset, bytes);
        image.unflushed.push(Change::Write { byte_offset, bytes: bytes.to_vec() });
        Ok(())
    }

    fn reserve(&self, length_bytes: u64) -> io::Result<()> {
        let present_bytes = self.len()?;
        if length_bytes <= present_bytes {
            return Ok(());
        }
        self.write_at(present_bytes, &vec![0; (length_bytes - present_bytes) as usize])
    }

    fn truncate(&self, length_bytes: u64) -> io::Result<()> {
        self.world.lock().spend_write()?;
        let mut image = self.image.lock();
        image.current.resize(length_bytes as usize, 0);
        image.unflushed.push(Change::Truncate { length_bytes });
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.world.lock().spend_write()?;
        let mut image = self.image.lock();
        image.flushed = image.current.clone();
        image.unflushed.clear();
        Ok(())
    }
}
