//! Commands and RDB files on their way to a node.

use std::path::Path;

use bytes::Bytes;
use proteus_face_redis::follow::{Loader, Sink, Source, load};
use redis::Value;
use redis::aio::MultiplexedConnection;

use crate::cli::print;

/// A node that is reached as its clients reach it.
pub(super) struct Remote<'a>(pub(super) &'a mut MultiplexedConnection);

/// Adds a command to what is sent together.
pub(super) fn add(pipeline: &mut redis::Pipeline, command: &[Bytes]) {
    let Some((name, words)) = command.split_first() else { return };
    let command = pipeline.cmd(&String::from_utf8_lossy(name));
    for word in words {
        command.arg(&word[..]);
    }
}

impl Sink for Remote<'_> {
    async fn carry_out(&mut self, db: u64, commands: Vec<Vec<Bytes>>) -> Result<(), String> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("SELECT").arg(db);
        for command in &commands {
            add(&mut pipeline, command);
        }
        let sent: Result<Vec<Value>, _> = pipeline.query_async(self.0).await;
        sent.map(drop).map_err(|error| error.to_string())
    }

    async fn has(&mut self, db: u64, key: &Bytes) -> Result<bool, String> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("SELECT").arg(db).ignore().cmd("EXISTS").arg(&key[..]);
        let there: Result<Vec<i64>, _> = pipeline.query_async(self.0).await;
        Ok(there.map_err(|error| error.to_string())?.iter().any(|count| *count > 0))
    }
}

/// Loads a file from disk.
pub(super) async fn import(
    node: &mut MultiplexedConnection,
    file: &Path,
    replaces: bool,
) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", file.display());
    let source = Source::Disk(proteus_env::disk::open_to_read(file).map_err(failed)?);
    let mut sink = Remote(node);
    let mut loader = Loader::new(&mut sink, replaces);
    let result = load(&mut loader, source, &mut |_, _| {}).await;
    let (keys, expired) = (loader.key_count, loader.expired_count);
    result.map_err(|error| format!("{}: {error} (after {keys} keys)", file.display()))?;
    print(&format!("{keys} keys loaded, {expired} had expired\n"))
}
