//! Quotas: how many znodes, and bytes of their data, a subtree may have.
//!
//! ```text
//!   /zookeeper/quota/PATH/zookeeper_limits   count=5,bytes=1000=;byteHardLimit=2000;countHardLimit=9
//!   /zookeeper/quota/PATH/zookeeper_stats    count=2,bytes=17
//! ```
//! Clients write the limits; the stats are kept here with each change below PATH, without counting as
//! changes of that znode. Beyond a hard limit a change is refused; beyond a soft one followers of the
//! feed are told. The deepest quota above a znode is the one that counts, as in ZooKeeper.
//!
//! Source: ZooKeeper 3.9, `Quotas`, `StatsTrack`, `DataTree.updateQuotaStat`,
//! `ZooKeeperServer.checkQuota`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::ControlFlow;

use bytes::Bytes;
use proteus_machine::Abort;
use proteus_store::StoreError;

use crate::apply::{Applied, Context, put_data, put_node};
use crate::record::{self, Totals};
use crate::{Change, Refusal, path as paths};

const OWN: &str = "/zookeeper";
const ROOT: &str = "/zookeeper/quota";
const LIMITS: &str = "zookeeper_limits";
const STATS: &str = "zookeeper_stats";

/// Numbers by name, as ZooKeeper writes them. Those it does not know it keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Track(BTreeMap<String, i64>);

impl Track {
    fn parse(text: &[u8]) -> Track {
        let text = String::from_utf8_lossy(text);
        let pairs = text.split([',', ';']).filter_map(|pair| {
            let mut parts = pair.split('=');
            let (name, value) = (parts.next()?, parts.next()?);
            Some((name.to_owned(), value.parse().unwrap_or(-1)))
        });
        Track(pairs.collect())
    }

    /// -1 if there is no such number: no limit.
    fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(-1)
    }

    fn render(&self) -> String {
        let mut text = format!("count={},bytes={}", self.get("count"), self.get("bytes"));
        let others: Vec<_> =
            self.0.iter().filter(|(name, _)| *name != "count" && *name != "bytes").collect();
        if !others.is_empty() {
            // An old client reads up to the second "=" of a number.
            text.push('=');
        }
        for (name, value) in others {
            // Writing to a string does not fail.
            let _ = write!(text, ";{name}={value}");
        }
        text
    }
}

/// What a change adds to a subtree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Growth {
    pub(crate) count: i64,
    pub(crate) bytes: i64,
}

/// Holds a change at `path` against the quota above it, and counts it there.
pub(crate) fn charge(
    ctx: &mut Context<'_>,
    totals: Totals,
    path: &str,
    growth: Growth,
) -> Applied<()> {
    if totals.quota_count == 0 {
        return Ok(());
    }
    let Some(limited) = find(ctx, path)? else {
        return Ok(());
    };
    let stats_path = format!("{ROOT}{limited}/{STATS}");
    let Some(mut stats) = record::node(ctx.read(), &stats_path)? else {
        return Ok(());
    };
    let mut used = track(ctx, &stats_path)?;
    let limits = track(ctx, &format!("{ROOT}{limited}/{LIMITS}"))?;
    let mut is_soft_exceeded = false;
    for (name, hard_name, added) in
        [("count", "countHardLimit", growth.count), ("bytes", "byteHardLimit", growth.bytes)]
    {
        let after = used.get(name).saturating_add(added);
        let (soft, hard) = (limits.get(name), limits.get(hard_name));
        // What shrinks a subtree, or leaves it as large as it is, is never held back.
        if added > 0 && hard > -1 && after > hard {
            return Err(Abort::Refused(Refusal::QuotaExceeded { path: limited }));
        }
        is_soft_exceeded |= added > 0 && hard <= -1 && soft > -1 && after > soft;
        used.0.insert(name.to_owned(), after);
    }
    put_data(ctx, &stats_path, &mut stats, Some(&Bytes::from(used.render())));
    put_node(ctx, &stats_path, &stats);
    if is_soft_exceeded {
        ctx.emit(Change::SoftQuotaExceeded { path: limited });
    }
    Ok(())
}

/// Begins to keep a quota whose znodes were created.
pub(crate) fn on_created(
    ctx: &mut Context<'_>,
    totals: &mut Totals,
    parent: &str,
    name: &str,
) -> Applied<()> {
    let Some(limited) = limited_by(parent) else {
        return Ok(());
    };
    if name == LIMITS {
        ctx.put(record::quota_key(limited), record::marker());
        totals.quota_count += 1;
    }
    if name == STATS {
        let (count, bytes) = usage(ctx, limited)?;
        let used = Track([("count".to_owned(), count), ("bytes".to_owned(), bytes)].into());
        let path = paths::join(parent, name);
        if let Some(mut stats) = record::node(ctx.read(), &path)? {
            put_data(ctx, &path, &mut stats, Some(&Bytes::from(used.render())));
            put_node(ctx, &path, &stats);
        }
    }
    Ok(())
}

/// Keeps a quota no longer whose limits were deleted.
pub(crate) fn on_removed(ctx: &mut Context<'_>, totals: &mut Totals, parent: &str, name: &str) {
    if name == LIMITS
        && let Some(limited) = limited_by(parent)
    {
        assert!(totals.quota_count > 0, "the quota was counted");
        ctx.delete(record::quota_key(limited));
        totals.quota_count -= 1;
    }
}

/// The subtree that the quota znodes below `parent` limit. The root has no quota.
fn limited_by(parent: &str) -> Option<&str> {
    parent.strip_prefix(ROOT).filter(|limited| limited.starts_with('/'))
}

/// The deepest path with a quota that `path` is at or below. ZooKeeper's own znodes have none.
fn find(ctx: &Context<'_>, path: &str) -> Result<Option<String>, StoreError> {
    if path.strip_prefix(OWN).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        return Ok(None);
    }
    let mut at = Some(path);
    while let Some(path) = at.filter(|path| *path != "/") {
        if ctx.read().get(&record::quota_key(path))?.is_some() {
            return Ok(Some(path.to_owned()));
        }
        at = paths::split(path).map(|(parent, _)| parent);
    }
    Ok(None)
}

fn track(ctx: &Context<'_>, path: &str) -> Result<Track, StoreError> {
    Ok(match record::node(ctx.read(), path)? {
        Some(node) if node.has_data => Track::parse(&record::data(ctx.read(), path, &node)?),
        _ => Track::default(),
    })
}

/// How many znodes there are from `path` down, and how many bytes of data they have.
fn usage(ctx: &Context<'_>, path: &str) -> Result<(i64, i64), StoreError> {
    let Some(node) = record::node(ctx.read(), path)? else {
        return Ok((0, 0));
    };
    let (mut count, mut bytes) = (1, i64::from(node.data_bytes));
    let mut damaged = None;
    ctx.read().scan_prefix(
        &record::below_prefix(path),
        &mut |key, value| match record::decode_node(key, value) {
            Ok(node) => {
                count += 1;
                bytes += i64::from(node.data_bytes);
                ControlFlow::Continue(())
            }
            Err(error) => {
                damaged = Some(error);
                ControlFlow::Break(())
            }
        },
    )?;
    damaged.map_or(Ok((count, bytes)), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracks_are_read_and_written_as_zookeeper_does() {
        for text in [
            "count=5,bytes=-1",
            "count=5,bytes=-1=;byteHardLimit=9;countHardLimit=-1",
            "count=-1,bytes=7",
        ] {
            assert_eq!(Track::parse(text.as_bytes()).render(), text);
        }
        let track = Track::parse(b"count=5,bytes=-1=;byteHardLimit=9");
        assert_eq!((track.get("count"), track.get("bytes")), (5, -1));
        assert_eq!((track.get("byteHardLimit"), track.get("countHardLimit")), (9, -1));
        for garbage in [&b""[..], b"=", b"count", b"count=x,bytes", b"\xFF,,;;==", b"count=5="] {
            let _survived = Track::parse(garbage).render();
        }
    }
}
