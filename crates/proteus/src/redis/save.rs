//! Writing RDB files.

use std::io::Write;
use std::path::Path;

use proteus_kernel_api::cache::DATABASE_COUNT;
use proteus_kernel_api::cache::rdb::file::{VERSION, VERSION_FIELD_EXPIRY, Writer};
use redis::Value;
use redis::aio::MultiplexedConnection;

use crate::cli::print;

/// Keys that one step asks for.
const STEP_KEYS: usize = 500;

/// Writes every key to a file that was not there.
pub(super) async fn export(
    node: &mut MultiplexedConnection,
    file: &Path,
    version: u16,
) -> Result<(), String> {
    if !(VERSION..=VERSION_FIELD_EXPIRY).contains(&version) {
        return Err(format!(
            "RDB versions {VERSION} to {VERSION_FIELD_EXPIRY} can be written, not {version}"
        ));
    }
    let failed = |error: std::io::Error| format!("{}: {error}", file.display());
    let mut target = proteus_env::disk::create_new(file).map_err(failed)?;
    let mut out = Vec::new();
    let mut writer = Writer::begin(version, &mut out);
    for text in libraries(node).await? {
        writer.library(&text, &mut out);
    }
    let mut key_count = 0;
    for db in 0..DATABASE_COUNT {
        let ask = |error: redis::RedisError| error.to_string();
        redis::cmd("SELECT").arg(db).query_async::<()>(node).await.map_err(ask)?;
        let mut cursor: u64 = 0;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("COUNT").arg(STEP_KEYS);
            let (next, keys): (u64, Vec<Vec<u8>>) = scan.query_async(node).await.map_err(ask)?;
            for (key, payload, expire_at_ms) in values(node, &keys).await? {
                if !writer.entry(db.into(), &key, &payload, expire_at_ms, &mut out) {
                    return Err(format!(
                        "the hash '{}' has fields that expire; --rdb-version {VERSION_FIELD_EXPIRY} can hold it",
                        key.escape_ascii()
                    ));
                }
                key_count += 1;
            }
            target.write_all(&out).map_err(failed)?;
            out.clear();
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
    }
    writer.end(&mut out);
    target.write_all(&out).and_then(|()| target.sync_all()).map_err(failed)?;
    print(&format!("{key_count} keys written to {}\n", file.display()))
}

async fn libraries(node: &mut MultiplexedConnection) -> Result<Vec<Vec<u8>>, String> {
    let mut list = redis::cmd("FUNCTION");
    list.arg("LIST").arg("WITHCODE");
    let rows: Vec<std::collections::HashMap<String, Value>> =
        list.query_async(node).await.map_err(|error| error.to_string())?;
    let text = |mut row: std::collections::HashMap<String, Value>| match row.remove("library_code")
    {
        Some(Value::BulkString(text)) => Some(text),
        _ => None,
    };
    Ok(rows.into_iter().filter_map(text).collect())
}

type Entry = (Vec<u8>, Vec<u8>, Option<u64>);

/// What DUMP gives of the keys that are still there, and when they expire.
async fn values(node: &mut MultiplexedConnection, keys: &[Vec<u8>]) -> Result<Vec<Entry>, String> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let mut pipeline = redis::pipe();
    for key in keys {
        pipeline.cmd("DUMP").arg(key).cmd("PEXPIRETIME").arg(key);
    }
    let replies: Vec<Value> =
        pipeline.query_async(node).await.map_err(|error| error.to_string())?;
    let mut entries = Vec::with_capacity(keys.len());
    for (key, pair) in keys.iter().zip(replies.chunks_exact(2)) {
        if let [Value::BulkString(payload), Value::Int(at_ms)] = pair {
            entries.push((key.clone(), payload.clone(), u64::try_from(*at_ms).ok()));
        }
    }
    Ok(entries)
}
