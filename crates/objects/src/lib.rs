//! The object store: where what is large and never changes stands, outside the shard's log.
//!
//! An object is written whole under a name of its own, read, and deleted. The library behind it shows
//! nowhere else.
//!
//! ```text
//!   put ──▶ written beside ──▶ renamed ──▶ flushed, with the directories above ──▶ durable
//! ```

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use proteus_env::{disk, task};

/// Why an object could not be written, read or deleted.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the object store at {place} failed at {name}: {message}")]
pub struct ObjectsError {
    /// Where objects stand.
    pub place: String,
    /// Which object.
    pub name: String,
    /// What the store said.
    pub message: String,
    /// Whether there is no such object.
    pub is_missing: bool,
}

/// Objects of one place. Clones share it.
#[derive(Clone)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    place: String,
    /// The directory, if it is one.
    directory: Option<PathBuf>,
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Objects({})", self.place)
    }
}

impl Objects {
    /// Objects at `place`: a directory, which is made if it is not there, or `s3://bucket/prefix` in a
    /// build that has it, with credentials from the usual environment variables.
    ///
    /// # Errors
    /// If the place cannot be used.
    pub fn open(place: &str) -> Result<Objects, ObjectsError> {
        if place.contains("://") {
            Objects::remote(place)
        } else {
            Objects::local(Path::new(place))
        }
    }

    fn local(directory: &Path) -> Result<Objects, ObjectsError> {
        let place = directory.display().to_string();
        let failed = |message: String| ObjectsError {
            place: place.clone(),
            name: "(opening)".to_owned(),
            message,
            is_missing: false,
        };
        disk::create_directory(directory).map_err(|error| failed(error.to_string()))?;
        let store = LocalFileSystem::new_with_prefix(directory)
            .map_err(|error| failed(error.to_string()))?;
        Ok(Objects {
            store: Arc::new(store),
            place: place.clone(),
            directory: Some(directory.to_owned()),
        })
    }

    #[cfg(feature = "s3")]
    fn remote(place: &str) -> Result<Objects, ObjectsError> {
        let failed = |message: String| ObjectsError {
            place: place.to_owned(),
            name: "(opening)".to_owned(),
            message,
            is_missing: false,
        };
        let Some(rest) = place.strip_prefix("s3://") else {
            return Err(failed("only directories and s3://bucket/prefix are known".to_owned()));
        };
        let store = object_store::aws::AmazonS3Builder::from_env()
            .with_url(place)
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let prefix = rest.split_once('/').map_or("", |(_, prefix)| prefix.trim_matches('/'));
        let store = object_store::prefix::PrefixStore::new(store, prefix);
        Ok(Objects { store: Arc::new(store), place: place.to_owned(), directory: None })
    }

    #[cfg(not(feature = "s3"))]
    fn remote(place: &str) -> Result<Objects, ObjectsError> {
        Err(ObjectsError {
            place: place.to_owned(),
            name: "(opening)".to_owned(),
            message: "this build knows directories only; build it with the feature s3".to_owned(),
            is_missing: false,
        })
    }

    /// Writes an object. It is whole and durable once this returns; after an error it may be there.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn put(&self, name: &str, parts: Vec<Bytes>) -> Result<(), ObjectsError> {
        let payload: PutPayload = parts.into_iter().collect();
        let path = ObjectPath::from(name);
        self.store.put(&path, payload).await.map_err(|error| self.failed(name, &error))?;
        let Some(directory) = self.directory.clone() else { return Ok(()) };
        let file = directory.join(path.as_ref());
        let flushed = task::spawn_blocking(move || disk::flush_upto(&file, &directory)).await;
        let message = match flushed {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        Err(ObjectsError {
            place: self.place.clone(),
            name: name.to_owned(),
            message,
            is_missing: false,
        })
    }

    /// Reads a whole object.
    ///
    /// # Errors
    /// If the store fails, or the object is not there.
    pub async fn read_whole(&self, name: &str) -> Result<Bytes, ObjectsError> {
        let failed = |error| self.failed(name, &error);
        let found = self.store.get(&ObjectPath::from(name)).await.map_err(failed)?;
        found.bytes().await.map_err(failed)
    }

    /// Names of the objects in a folder and those below it, in no order.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn list(&self, folder: &str) -> Result<Vec<String>, ObjectsError> {
        let path = ObjectPath::from(folder);
        let listed = self.store.list(Some(&path)).map_ok(|found| found.location.to_string());
        listed.try_collect().await.map_err(|error| self.failed(folder, &error))
    }

    /// Reads a part of an object.
    ///
    /// # Errors
    /// If the store fails, or the object is not there or shorter.
    pub async fn read(&self, name: &str, range: Range<u64>) -> Result<Bytes, ObjectsError> {
        let length = range.end.saturating_sub(range.start);
        let bytes = self
            .store
            .get_range(&ObjectPath::from(name), range)
            .await
            .map_err(|error| self.failed(name, &error))?;
        if bytes.len() as u64 == length {
            return Ok(bytes);
        }
        Err(ObjectsError {
            place: self.place.clone(),
            name: name.to_owned(),
            message: format!("{} bytes where {length} should be", bytes.len()),
            is_missing: false,
        })
    }

    /// Deletes an object; one that is not there is no error.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn delete(&self, name: &str) -> Result<(), ObjectsError> {
        match self.store.delete(&ObjectPath::from(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed(name, &error)),
        }
    }

    fn failed(&self, name: &str, error: &object_store::Error) -> ObjectsError {
        ObjectsError {
            place: self.place.clone(),
            name: name.to_owned(),
            message: error.to_string(),
            is_missing: matches!(error, object_store::Error::NotFound { .. }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn objects_are_written_read_in_parts_and_deleted() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("objects");
        let objects = Objects::open(&place.to_string_lossy()).unwrap();
        let parts = vec![Bytes::from_static(b"hello "), Bytes::from_static(b"world")];
        objects.put("a/b/c", parts).await.unwrap();
        assert_eq!(objects.read("a/b/c", 3..8).await.unwrap(), "lo wo");
        assert!(objects.read("a/b/c", 3..80).await.is_err(), "what is not there is an error");
        assert!(objects.read("a/b/d", 0..1).await.unwrap_err().is_missing);
        assert_eq!(objects.read_whole("a/b/c").await.unwrap(), "hello world");
        assert_eq!(objects.list("a").await.unwrap(), ["a/b/c"]);
        assert_eq!(objects.list("b").await.unwrap(), [""; 0]);
        let again = Objects::open(&place.to_string_lossy()).unwrap();
        again.delete("a/b/c").await.unwrap();
        again.delete("a/b/c").await.unwrap();
        assert!(objects.read("a/b/c", 0..1).await.unwrap_err().is_missing);
    }

    #[test]
    fn an_unknown_kind_of_place_is_refused() {
        assert!(Objects::open("gopher://there").is_err());
    }
}
