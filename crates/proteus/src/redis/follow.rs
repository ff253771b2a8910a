//! Following a Redis primary: a full copy, then every change, as its replicas get them.
//!
//! What arrives is applied in transactions, and with each goes the place in the primary's stream: so one that
//! is interrupted goes on exactly there, and applies nothing twice.
//!
//! Source: Redis' replication (PSYNC), "How Redis replication works" (redis.io).

use std::time::Duration;

use proteus_env::task;
use proteus_face_redis::follow::{
    Batch, CURSOR_KEY, CopyEnd, Cursor, Loader, Primary, Sync, load_copy,
};
use redis::Value;
use redis::aio::MultiplexedConnection;

use super::connect;
use super::load::{Remote, add};
use crate::cli::print;

/// How often the copy's progress is shown, in bytes of it.
const SHOWN_BYTES: u64 = 64 * 1024 * 1024;

/// How often the primary is told how far we are, and progress is shown.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// What to follow.
pub(super) struct Plan {
    pub(super) primary: String,
    pub(super) account: Option<(String, String)>,
    pub(super) flush: bool,
    pub(super) until_caught_up: bool,
}

fn failed(error: impl std::fmt::Display) -> String {
    error.to_string()
}

async fn read_cursor(node: &mut MultiplexedConnection) -> Result<Option<Cursor>, String> {
    redis::cmd("SELECT").arg(0).query_async::<()>(node).await.map_err(failed)?;
    let mut ask = redis::cmd("HMGET");
    ask.arg(CURSOR_KEY).arg("id").arg("offset").arg("db");
    let (id, offset, db): (Option<String>, Option<u64>, Option<u64>) =
        ask.query_async(node).await.map_err(failed)?;
    Ok(match (id, offset, db) {
        (Some(replication_id), Some(offset), Some(db)) => {
            Some(Cursor { replication_id, offset, db })
        }
        _ => None,
    })
}

fn put_cursor(pipeline: &mut redis::Pipeline, cursor: &Cursor) {
    pipeline.cmd("SELECT").arg(0);
    let put = pipeline.cmd("HSET").arg(CURSOR_KEY);
    put.arg("id").arg(&cursor.replication_id);
    put.arg("offset").arg(cursor.offset).arg("db").arg(cursor.db);
}

/// Copies what the primary has.
async fn copy(
    node: &mut MultiplexedConnection,
    primary: &mut Primary,
    plan: &Plan,
    (cursor, end): (&Cursor, &CopyEnd),
) -> Result<(), String> {
    if plan.flush {
        redis::cmd("FLUSHALL").query_async::<()>(node).await.map_err(failed)?;
    } else {
        for db in 0..proteus_kernel_api::cache::DATABASE_COUNT {
            redis::cmd("SELECT").arg(db).query_async::<()>(node).await.map_err(failed)?;
            let keys: u64 = redis::cmd("DBSIZE").query_async(node).await.map_err(failed)?;
            if keys > 0 {
                return Err(format!(
                    "a full copy is needed, and database {db} holds {keys} keys; --flush removes all keys first"
                ));
            }
        }
        redis::cmd("SELECT").arg(0).query_async::<()>(node).await.map_err(failed)?;
    }
    print("copying\n")?;
    let mut shown = 0;
    let mut progress = |keys: u64, bytes: u64| {
        if bytes - shown > SHOWN_BYTES {
            shown = bytes;
            let _ = print(&format!("{keys} keys, {bytes} bytes\n"));
        }
    };
    let mut sink = Remote(node);
    let mut loader = Loader::new(&mut sink, true);
    load_copy(&mut loader, primary, end, &mut progress).await?;
    let keys = loader.key_count;
    let mut pipeline = redis::pipe();
    pipeline.atomic();
    put_cursor(&mut pipeline, cursor);
    pipeline.query_async::<Vec<Value>>(node).await.map_err(failed)?;
    print(&format!("{keys} keys copied\n"))
}

/// Applies what was taken, and where that leaves us, together.
async fn apply(
    batch: &mut Batch,
    node: &mut MultiplexedConnection,
    cursor: &Cursor,
) -> Result<usize, String> {
    let mut pipeline = redis::pipe();
    pipeline.atomic();
    let commands = std::mem::take(&mut batch.commands);
    for (db, command) in &commands {
        pipeline.cmd("SELECT").arg(*db);
        add(&mut pipeline, command);
    }
    put_cursor(&mut pipeline, cursor);
    let applied: Result<Vec<Value>, _> = pipeline.query_async(node).await;
    applied.map_err(|error| format!("the primary's changes cannot be applied: {error}"))?;
    Ok(commands.len())
}

/// How far the primary is.
async fn primary_offset(connection: &mut MultiplexedConnection) -> Result<u64, String> {
    let info: String =
        redis::cmd("INFO").arg("replication").query_async(connection).await.map_err(failed)?;
    let line = info.lines().find_map(|line| line.strip_prefix("master_repl_offset:"));
    line.and_then(|text| text.trim().parse().ok()).ok_or("the primary tells no offset".to_owned())
}

/// Copies and follows.
pub(super) async fn run(node: &mut MultiplexedConnection, plan: &Plan) -> Result<(), String> {
    let account = plan.account.as_ref();
    let account = account.map(|(user, password)| (user.as_str(), password.as_str()));
    let mut primary = Primary::open(&plan.primary, account, 0).await?;
    let known = read_cursor(node).await?;
    let mut cursor = match primary.sync(known.as_ref()).await? {
        Sync::Full(cursor, end) => {
            copy(node, &mut primary, plan, (&cursor, &end)).await?;
            // The stream comes once the primary knows that the copy was taken.
            primary.acknowledge(cursor.offset).await?;
            cursor
        }
        Sync::Partial(id) => {
            let mut cursor = known.unwrap_or_default();
            if let Some(id) = id {
                cursor.replication_id = id;
            }
            print(&format!("going on at offset {}\n", cursor.offset))?;
            cursor
        }
    };
    let mut side = connect(&plan.primary, plan.account.clone()).await?;
    let mut batch = Batch::default();
    let mut applied = 0;
    let mut report = Box::pin(task::sleep(REPORT_INTERVAL));
    loop {
        batch.take(&mut primary.input, &mut cursor)?;
        if !batch.is_in_transaction && !batch.commands.is_empty() {
            applied += apply(&mut batch, node, &cursor).await?;
            continue;
        }
        if std::mem::take(&mut batch.is_asked) {
            primary.acknowledge(cursor.offset).await?;
        }
        let is_due = tokio::select! {
            filled = primary.fill() => {
                filled?;
                false
            }
            () = &mut report => {
                report = Box::pin(task::sleep(REPORT_INTERVAL));
                true
            }
        };
        if is_due {
            primary.acknowledge(cursor.offset).await?;
            let behind = primary_offset(&mut side).await?.saturating_sub(cursor.offset);
            print(&format!(
                "offset {}, {applied} commands applied, {behind} bytes behind\n",
                cursor.offset
            ))?;
            if plan.until_caught_up && behind == 0 && !batch.is_in_transaction {
                return Ok(());
            }
        }
    }
}
