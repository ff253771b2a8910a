//! Where backups are: a directory, or a bucket.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use proteus_env::disk::{RealDisk, flush_file_system};
use url::Url;

use crate::BackupError;

/// A place for backups.
pub(crate) struct Place {
    pub(crate) store: Arc<dyn ObjectStore>,
    /// The directory, if it is one.
    directory: Option<PathBuf>,
}

impl Place {
    /// Opens `place`: a path, created if it is not there, or `s3://bucket/path`, for which credentials,
    /// region and endpoint come from the environment as the AWS tools take them (`AWS_ACCESS_KEY_ID`, …).
    pub(crate) fn open(place: &str) -> Result<Place, BackupError> {
        let failed = |reason: String| BackupError::Place { place: place.to_owned(), reason };
        let url = match Url::parse(place) {
            Ok(url) if place.contains("://") => url,
            _ => return Place::of_directory(Path::new(place)).map_err(failed),
        };
        match url.scheme() {
            "file" => {
                let path = url.to_file_path().map_err(|()| failed("not a path".to_owned()))?;
                Place::of_directory(&path).map_err(failed)
            }
            "s3" => {
                let bucket = url.host_str();
                let bucket = bucket.ok_or_else(|| failed("no bucket is named".to_owned()))?;
                let builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
                let store = builder.build().map_err(|error| failed(error.to_string()))?;
                let store = PrefixStore::new(store, url.path().trim_matches('/'));
                Ok(Place { store: Arc::new(store), directory: None })
            }
            other => Err(failed(format!("{other} is not file or s3"))),
        }
    }

    fn of_directory(path: &Path) -> Result<Place, String> {
        RealDisk::open(path).map_err(|error| error.to_string())?;
        let store = LocalFileSystem::new_with_prefix(path).map_err(|error| error.to_string())?;
        Ok(Place { store: Arc::new(store), directory: Some(path.to_owned()) })
    }

    /// Returns once all that was written is on stable storage; an object store says so by itself.
    pub(crate) fn flush(&self) -> Result<(), BackupError> {
        let Some(directory) = &self.directory else { return Ok(()) };
        flush_file_system(directory).map_err(|error| BackupError::Io {
            what: format!("flushing {}", directory.display()),
            reason: error.to_string(),
        })
    }
}
