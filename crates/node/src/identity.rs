//! Who a data directory belongs to.
//!
//! ```text
//! IDENTITY   node 3
//!            incarnation 9731205
//!            founder no
//! ```

use std::io;
use std::path::Path;

use proteus_env::disk::{Disk, RealDisk, read_text};
use proteus_env::random::random_u64;
use proteus_types::NodeId;

const FILE: &str = "IDENTITY";

/// A node's name for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Its number in the cluster.
    pub node: NodeId,
    /// Drawn once, so that a number that was given again means another node.
    pub incarnation: u64,
    /// Whether its cluster began with it.
    pub is_founder: bool,
}

impl Identity {
    /// Of the first node of a cluster.
    pub fn founder() -> Identity {
        Identity { node: NodeId(1), incarnation: random_u64(), is_founder: true }
    }

    /// What `directory` says; `None` if it says nothing yet.
    ///
    /// # Errors
    /// If the file cannot be read, or says something else.
    pub fn load(directory: &Path) -> io::Result<Option<Identity>> {
        let text = match read_text(&directory.join(FILE)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let value = |key: &str| {
            text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(' '))
        };
        let number = |key: &str| value(key).and_then(|value| value.parse::<u64>().ok());
        let parsed = || {
            let node = NodeId(number("node")?);
            let is_founder = value("founder")? == "yes";
            Some(Identity { node, incarnation: number("incarnation")?, is_founder })
        };
        parsed().map(Some).ok_or_else(|| {
            let message = format!("{FILE} is damaged: {text:?}; restore it from a backup");
            io::Error::new(io::ErrorKind::InvalidData, message)
        })
    }

    /// Keeps it in `directory`, durably.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn keep(&self, directory: &Path) -> io::Result<()> {
        let Identity { node, incarnation, is_founder } = self;
        let founder = if *is_founder { "yes" } else { "no" };
        let text = format!("node {}\nincarnation {incarnation}\nfounder {founder}\n", node.0);
        let disk = RealDisk::open(directory)?;
        let file = disk.open(FILE)?;
        file.truncate(0)?;
        file.write_at(0, text.as_bytes())?;
        file.flush()?;
        disk.flush_directory()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Identity::load(directory.path()).unwrap(), None);
        let identity = Identity { node: NodeId(7), incarnation: 8, is_founder: false };
        identity.keep(directory.path()).unwrap();
        assert_eq!(Identity::load(directory.path()).unwrap(), Some(identity));
        let founder = Identity::founder();
        founder.keep(directory.path()).unwrap();
        assert_eq!(Identity::load(directory.path()).unwrap(), Some(founder));
    }
}
