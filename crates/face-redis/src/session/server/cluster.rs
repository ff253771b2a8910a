//! CLUSTER, of a node that owns every slot and does not ask its clients to know of slots.

use bytes::Bytes;
use proteus_kernel_api::cache::{self, Reply, hash_slot, parse_integer};

use super::word;
use crate::errors::{NOT_AN_INTEGER, of_kernel, unknown_subcommand};
use crate::reply::text;
use crate::session::Session;

const SLOT_COUNT: i64 = 16384;

impl Session {
    fn node_id(&self) -> String {
        format!("{:040x}", self.face.run_id)
    }

    pub(super) fn cluster(&self, arguments: &[Bytes]) -> Reply {
        let local = self.connection.local;
        let (host, port) = (local.ip().to_string(), Reply::Integer(local.port().into()));
        let slot = |at: usize| {
            arguments
                .get(at)
                .and_then(|text| parse_integer(text))
                .filter(|slot| (0..SLOT_COUNT).contains(slot))
        };
        match (word(arguments).as_slice(), arguments.len()) {
            (b"KEYSLOT", 3) => Reply::Integer(hash_slot(&arguments[2]).into()),
            (b"MYID", 2) => text(self.node_id()),
            (b"MYSHARDID", 2) => text(self.node_id()),
            (b"INFO", 2) => Reply::Verbatim(
                "txt",
                Bytes::from_static(b"cluster_enabled:1\r\ncluster_state:ok\r\ncluster_slots_assigned:16384\r\ncluster_slots_ok:16384\r\ncluster_slots_pfail:0\r\ncluster_slots_fail:0\r\ncluster_known_nodes:1\r\ncluster_size:1\r\ncluster_current_epoch:1\r\ncluster_my_epoch:1\r\ncluster_stats_messages_sent:0\r\ncluster_stats_messages_received:0\r\ntotal_cluster_links_buffer_limit_exceeded:0\r\n"),
            ),
            (b"NODES", 2) => Reply::Verbatim(
                "txt",
                Bytes::from(format!(
                    "{} {local}@{} myself,master - 0 0 1 connected 0-16383\n",
                    self.node_id(),
                    u32::from(local.port()) + 10_000,
                )),
            ),
            (b"SLOTS", 2) => {
                let node = vec![text(host), port, text(self.node_id()), Reply::Array(Vec::new())];
                Reply::Array(vec![Reply::Array(vec![
                    Reply::ZERO,
                    Reply::Integer(SLOT_COUNT - 1),
                    Reply::Array(node),
                ])])
            }
            (b"SHARDS", 2) => {
                let node = Reply::Map(vec![
                    (text("id"), text(self.node_id())),
                    (text("port"), port),
                    (text("ip"), text(host.clone())),
                    (text("endpoint"), text(host)),
                    (text("role"), text("master")),
                    (text("replication-offset"), Reply::ZERO),
                    (text("health"), text("online")),
                ]);
                let slots = vec![Reply::ZERO, Reply::Integer(SLOT_COUNT - 1)];
                Reply::Array(vec![Reply::Map(vec![
                    (text("slots"), Reply::Array(slots)),
                    (text("nodes"), Reply::Array(vec![node])),
                ])])
            }
            (b"COUNTKEYSINSLOT", 3) => match slot(2) {
                None => Reply::error("ERR Invalid slot"),
                Some(slot) => {
                    match self.face.kernel.read(|view| cache::keys_in_slot(view, slot as u16, usize::MAX)) {
                        Ok(keys) => Reply::count(keys.len()),
                        Err(error) => of_kernel(&error),
                    }
                }
            },
            (b"GETKEYSINSLOT", 4) => {
                let count = parse_integer(&arguments[3]).and_then(|count| usize::try_from(count).ok());
                match (slot(2), count) {
                    (Some(slot), Some(count)) => {
                        match self.face.kernel.read(|view| cache::keys_in_slot(view, slot as u16, count)) {
                            Ok(keys) => Reply::bulks(keys),
                            Err(error) => of_kernel(&error),
                        }
                    }
                    (None, _) => Reply::error("ERR Invalid slot or number of keys"),
                    _ => NOT_AN_INTEGER,
                }
            }
            _ => unknown_subcommand("cluster", arguments.get(1).map_or(b"", |word| &word[..])),
        }
    }
}
