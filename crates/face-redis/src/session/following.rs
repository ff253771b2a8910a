//! REPLICAOF, and what a node shows of a primary that it follows.

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use proteus_kernel_api::cache::{Answer, Call, Op, Question, Reply, parse_integer};
use proteus_kernel_api::{Minitransaction, Outcome};

use super::Session;
use crate::errors::of_kernel;
use crate::follow::{CURSOR_KEY, Link, PrimaryName, Progress};
use crate::reply::text;
use crate::settings::{PREFIX, PRIMARY};

/// Bytes that a host's name may have.
const HOST_BYTES_MAX: usize = 255;

impl Session {
    pub(super) async fn replicaof(&mut self, arguments: &[Bytes]) -> Reply {
        if self.redirects() {
            return Reply::error("ERR REPLICAOF not allowed in cluster mode.");
        }
        let [_, host, port] = arguments else { return crate::errors::SYNTAX };
        let is_end = host.eq_ignore_ascii_case(b"no") && port.eq_ignore_ascii_case(b"one");
        let mut value = None;
        if !is_end {
            let Some(port) = parse_integer(port).filter(|port| (0..=65535).contains(port)) else {
                return Reply::error("ERR Invalid master port");
            };
            let host = String::from_utf8_lossy(host).into_owned();
            if host.len() > HOST_BYTES_MAX || host.contains(char::is_whitespace) {
                return Reply::error("ERR Invalid master host");
            }
            let wanted = format!("{host} {port}");
            if self.face.hub.settings.get(PRIMARY) == wanted {
                return Reply::status("OK Already connected to specified master");
            }
            value = Some(Bytes::from(wanted));
        }
        // What is here then is no longer what was taken from the primary up to some place in its stream.
        let forget = Op::Command(Call::new(&[&b"DEL"[..], CURSOR_KEY.as_bytes()]));
        let name = format!("{PREFIX}{PRIMARY}");
        let mini = Minitransaction::default().op(Op::PutSetting { name, value }).op(forget);
        match self.face.kernel.commit(mini).await {
            Ok(Outcome::Committed { .. }) => Reply::OK,
            Ok(outcome) => crate::blocked::reply_of(outcome),
            Err(error) => of_kernel(&error),
        }
    }

    /// Learns which primary the cluster follows, and how far that is. Nodes that do not lead know what is taken over,
    /// and take the link for up once there is something.
    pub(super) async fn learn_followed(&mut self) {
        self.followed = None;
        let Some(primary) = self.face.hub.settings.primary() else { return };
        if self.face.kernel.leads() {
            self.followed = Some((primary, self.face.following.progress()));
            return;
        }
        let call = Call::new(&[&b"HMGET"[..], CURSOR_KEY.as_bytes(), b"id", b"offset"]);
        let question = Question::Command(call);
        let place = self.face.kernel.read_or_ask(question, Answer::into_reply).await;
        let mut progress = Progress::default();
        if let Ok(Reply::Array(fields)) = place
            && let [Reply::Bulk(id), Reply::Bulk(offset)] = fields.as_slice()
        {
            progress.link = Link::Connected;
            progress.heard_at = self.face.clock.elapsed();
            progress.replication_id = String::from_utf8_lossy(id).into_owned();
            progress.offset = parse_integer(offset).and_then(|n| n.try_into().ok()).unwrap_or(0);
        }
        self.followed = Some((primary, progress));
    }

    /// What ROLE says of a node that follows.
    pub(super) fn role_of_follower(&self) -> Option<Reply> {
        let (primary, progress) = self.followed.clone()?;
        let offset = match progress.link {
            Link::Connected => i64::try_from(progress.offset).unwrap_or(i64::MAX),
            _ => -1,
        };
        Some(Reply::Array(vec![
            text("slave"),
            text(primary.host),
            Reply::Integer(primary.port.into()),
            text(progress.link.word()),
            Reply::Integer(offset),
        ]))
    }

    /// What INFO says of one, as far as it is about the primary; and the name and place of the stream.
    pub(super) fn info_of_follower(&self) -> Option<(String, String, u64)> {
        let (PrimaryName { host, port }, progress) = self.followed.clone()?;
        let now = self.face.clock.elapsed();
        let seconds = |since: Duration| now.saturating_sub(since).as_secs();
        let Progress { link, replication_id, offset, copied_bytes, copy_bytes, .. } = progress;
        let status = if link == Link::Connected { "up" } else { "down" };
        let heard = match link {
            Link::Connected => seconds(progress.heard_at).to_string(),
            _ => "-1".to_owned(),
        };
        let is_copying = u8::from(link == Link::Sync);
        let mut out = format!(
            "role:slave\r\nmaster_host:{host}\r\nmaster_port:{port}\r\nmaster_link_status:{status}\r\nmaster_last_io_seconds_ago:{heard}\r\nmaster_sync_in_progress:{is_copying}\r\nslave_read_repl_offset:{offset}\r\nslave_repl_offset:{offset}\r\n"
        );
        // Writing to a string cannot fail, here and below.
        if link == Link::Sync {
            let total = copy_bytes.unwrap_or(0);
            let left = total.saturating_sub(copied_bytes);
            let percent = match total {
                0 => 0.0,
                total => copied_bytes as f64 * 100.0 / total as f64,
            };
            let _ = write!(
                out,
                "master_sync_total_bytes:{total}\r\nmaster_sync_read_bytes:{copied_bytes}\r\nmaster_sync_left_bytes:{left}\r\nmaster_sync_perc:{percent:.2}\r\nmaster_sync_last_io_seconds_ago:{}\r\n",
                seconds(progress.heard_at)
            );
        }
        if link != Link::Connected {
            let down = seconds(progress.down_since);
            let _ = write!(out, "master_link_down_since_seconds:{down}\r\n");
        }
        let is_read_only = u8::from(self.face.hub.settings.get("replica-read-only") == "yes");
        let _ = write!(
            out,
            "slave_priority:100\r\nslave_read_only:{is_read_only}\r\nreplica_announced:1\r\n"
        );
        Some((out, replication_id, offset))
    }
}
