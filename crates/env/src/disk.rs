//! Files as the log needs them: append, flush, truncate, list.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory of files. [`RealDisk`] is the operating system's; [`crate::sim_disk::SimDisk`]
/// forgets what was not flushed, tears writes and fails on request.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file for reading and writing, creating it if it is not there.
    ///
    /// # Errors
    /// Those of the file system.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Names of the files present, sorted.
    ///
    /// # Errors
    /// Those of the file system.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Removes a file for good.
    ///
    /// # Errors
    /// Those of the file system.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations and removals of files durable.
    ///
    /// # Errors
    /// Those of the file system.
    fn flush_directory(&self) -> io::Result<()>;
    /// Bytes that can still be written before the disk is full.
    ///
    /// # Errors
    /// Those of the file system.
    fn available_bytes(&self) -> io::Result<u64>;
    /// Where the files are, for messages to people.
    fn location(&self) -> PathBuf;
}

/// One file. Reads and writes name their place, so that readers need no lock.
pub trait DiskFile: Send + Sync {
    /// Bytes in the file.
    ///
    /// # Errors
    /// Those of the file system.
    fn len(&self) -> io::Result<u64>;
    /// True when the file has no bytes.
    ///
    /// # Errors
    /// Those of the file system.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Fills `buffer` from `byte_offset`; an end of file before that is `UnexpectedEof`.
    ///
    /// # Errors
    /// Those of the file system.
    fn read_at(&self, byte_offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Writes all of `bytes` at `byte_offset`, extending the file if needed.
    ///
    /// # Errors
    /// Those of the file system; a part may have been written.
    fn write_at(&self, byte_offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes the file at least `length_bytes` long, with zeros that have their place on the disk, so
    /// that writing over them cannot fail for lack of space.
    ///
    /// # Errors
    /// `StorageFull` if there is no such space; the file may have grown in part.
    fn reserve(&self, length_bytes: u64) -> io::Result<()>;
    /// Cuts the file to `length_bytes`.
    ///
    /// # Errors
    /// Those of the file system.
    fn truncate(&self, length_bytes: u64) -> io::Result<()>;
    /// Returns once all that was written is on stable storage.
    ///
    /// # Errors
    /// Those of the file system; what was written since the last flush is then in doubt.
    fn flush(&self) -> io::Result<()>;
}

/// A directory of the operating system.
#[derive(Debug, Clone)]
pub struct RealDisk {
    directory: PathBuf,
}

impl RealDisk {
    /// Opens `directory`, creating it if it is not there.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn open(directory: &Path) -> io::Result<RealDisk> {
        std::fs::create_dir_all(directory)?;
        Ok(RealDisk { directory: directory.to_owned() })
    }
}

impl Disk for RealDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.directory.join(name);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Arc::new(RealFile { file }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.directory.join(name))
    }

    fn flush_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    fn available_bytes(&self) -> io::Result<u64> {
        let status = rustix::fs::statvfs(&self.directory)?;
        Ok(status.f_bavail.saturating_mul(status.f_frsize))
    }

    fn location(&self) -> PathBuf {
        self.directory.clone()
    }
}

struct RealFile {
    file: File,
}

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, byte_offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, byte_offset)
    }

    fn write_at(&self, byte_offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, byte_offset)
    }

    fn reserve(&self, length_bytes: u64) -> io::Result<()> {
        let present_bytes = self.len()?;
        if length_bytes <= present_bytes {
            return Ok(());
        }
        let grow_bytes = length_bytes - present_bytes;
        let mode = rustix::fs::FallocateFlags::empty();
        Ok(rustix::fs::fallocate(&self.file, mode, present_bytes, grow_bytes)?)
    }

    fn truncate(&self, length_bytes: u64) -> io::Result<()> {
        self.file.set_len(length_bytes)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// An exclusive hold on a directory, released when dropped or when the process dies.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

/// Takes the exclusive hold on `directory`, or says that another process has it.
///
/// # Errors
/// `WouldBlock` when another process holds it; otherwise those of the file system.
pub fn lock_directory(directory: &Path) -> io::Result<DirectoryLock> {
    std::fs::create_dir_all(directory)?;
    let path = directory.join("LOCK");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(DirectoryLock { _file: file }),
        Err(std::fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}

/// The whole of a text file.
///
/// # Errors
/// Those of the file system, or `InvalidData` if it is not UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    std::fs::read_to_string(path)
}

/// The whole of a file.
///
/// # Errors
/// Those of the file system.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    std::fs::read(path)
}

/// What the file at `path` holds; if it is not there, it is created with `content`, readable by its owner
/// only, in one step: of several who do this at once all get the same.
///
/// # Errors
/// Those of the file system.
pub fn read_or_create_private(path: &Path, content: &[u8]) -> io::Result<Vec<u8>> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        found => return found,
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let beside = path.with_extension(format!("{:x}", crate::random::random_u64()));
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    let linked = std::fs::hard_link(&beside, path);
    std::fs::remove_file(&beside)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => std::fs::read(path),
    }
}

/// Whether there is a file or directory of this name.
pub fn exists(path: &Path) -> bool {
    path.exists()
}

/// Whether there is a directory of this name.
pub fn is_directory(path: &Path) -> bool {
    path.is_dir()
}

/// Makes a directory and those above it, if they are not there.
///
/// # Errors
/// Those of the file system.
pub fn create_directory(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)
}

/// Flushes a file, and the directories from the one it is in up to `top`, which is above it, so that all
/// of them are found after a crash.
///
/// # Errors
/// Those of the file system.
pub fn flush_upto(file: &Path, top: &Path) -> io::Result<()> {
    std::fs::File::open(file)?.sync_all()?;
    for directory in file.ancestors().skip(1) {
        std::fs::File::open(directory)?.sync_all()?;
        if directory == top {
            break;
        }
    }
    Ok(())
}

/// Renames a file or directory within one file system, durably.
///
/// # Errors
/// Those of the file system.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)?;
    match to.parent() {
        Some(parent) => std::fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// All files in a directory and those below it, in no order.
///
/// # Errors
/// Those of the file system.
pub fn files_under(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => directories.push(entry.path()),
                false => files.push(entry.path()),
            }
        }
    }
    Ok(files)
}

/// Removes a file.
///
/// # Errors
/// Those of the file system.
pub fn remove_file(path: &Path) -> io::Result<()> {
    std::fs::remove_file(path)
}

/// Removes a directory and all in it.
///
/// # Errors
/// Those of the file system.
pub fn remove_directory(path: &Path) -> io::Result<()> {
    std::fs::remove_dir_all(path)
}

/// Opens a file to be read from its beginning.
///
/// # Errors
/// If there is none, or it may not be read.
pub fn open_to_read(path: &Path) -> io::Result<std::fs::File> {
    std::fs::File::open(path)
}

/// Makes a file that was not there, to be written.
///
/// # Errors
/// If there is one, or it cannot be made.
pub fn create_new(path: &Path) -> io::Result<std::fs::File> {
    std::fs::File::options().write(true).create_new(true).open(path)
}

/// Resident memory of this process in bytes, where the operating system tells.
pub fn resident_memory_bytes() -> Option<u64> {
    status_bytes("/proc/self/status", "VmRSS:")
}

/// Memory that this process may have, in bytes: the machine's, or that of its container if that has less; where the
/// operating system tells.
pub fn memory_bytes() -> Option<u64> {
    let machine = status_bytes("/proc/meminfo", "MemTotal:");
    let limit = |path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    // Of control groups, version 2 and 1. One without a limit has a word there, or more than any machine has.
    let limits =
        ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"].map(limit);
    limits.into_iter().flatten().chain(machine).min()
}

/// Processor time that this process has taken so far, in seconds: its own, and the system's for it; where
/// the operating system tells.
pub fn processor_seconds() -> Option<(f64, f64)> {
    /// Ticks a second that the system counts in, on every architecture that it tells them on.
    const TICKS: f64 = 100.0;
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name, which may hold anything, ends with the last parenthesis.
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user / TICKS, system / TICKS))
}

/// Highest resident memory of another process in bytes, where the operating system tells.
pub fn peak_memory_bytes(process_id: u32) -> Option<u64> {
    status_bytes(&format!("/proc/{process_id}/status"), "VmHWM:")
}

fn status_bytes(path: &str, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(path).ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
