//! Which node a request belongs to, for clients that want to be told: those of Redis Cluster.
//!
//! A node serves every key, by handing a request to the node that leads. Where `cluster-enabled` is set, or
//! the connection has asked for it (`PROTEUS.REDIRECT ON`), it does so no longer, but names that node, as a
//! node of Redis Cluster does: such a client learns at its first request after a move where its keys are now,
//! instead of paying for the detour for ever.
//!
//! A slot moves in one commit, so there is no time in which its keys are in two places, and never a reason
//! for `ASK`. `ASKING` has the next request carried out here wherever its keys are. As long as it is not known
//! who leads, the request waits here for that as it would without any of this.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use proteus_kernel_api::cache::commands::{Command, Flags, Keys};
use proteus_kernel_api::cache::{self, Answer, Call, Question, Reply};
use proteus_kernel_api::{KernelError, Slot};

use super::Session;
use super::server::help;
use crate::errors::{SYNTAX, wrong_arity};
use crate::table::{Found, OwnCommand};

const CROSS_SLOT: Reply = Reply::error("CROSSSLOT Keys in request don't hash to the same slot");

const HELP: &[&str] = &[
    "PROTEUS.REDIRECT [<subcommand>]. Without one, whether this connection is redirected. Subcommands are:",
    "ON",
    "    Answer MOVED for keys of slots that another node leads, as Redis Cluster does.",
    "OFF",
    "    Serve every key on this node.",
    "DEFAULT",
    "    Do as CONFIG GET cluster-enabled says.",
    "HELP",
    "    Print this help.",
];

/// What a connection has said about being redirected.
#[derive(Default)]
pub(super) struct Redirecting {
    /// Whether it wants to be; `None` if it has not said so.
    wanted: Option<bool>,
    /// It reads what the node that it asks has, which may be a little old; it need not lead.
    is_readonly: bool,
    /// What that node has is new enough for the receipt under way.
    is_new_enough: bool,
    /// The next request is to be carried out here.
    is_asking: bool,
}

impl Session {
    /// Whether this connection is told where its keys are.
    pub(super) fn redirects(&self) -> bool {
        let default = || self.face.hub.settings.redirects.load(Ordering::Relaxed);
        self.redirecting.wanted.unwrap_or_else(default)
    }

    /// In Redis' words.
    pub(super) fn mode(&self) -> &'static str {
        if self.redirects() { "cluster" } else { "standalone" }
    }

    pub(super) fn about_redirecting(&mut self, own: OwnCommand, arguments: &[Bytes]) -> Reply {
        match own {
            OwnCommand::Asking => self.redirecting.is_asking = true,
            OwnCommand::ReadOnly => self.redirecting.is_readonly = true,
            OwnCommand::ReadWrite => self.redirecting.is_readonly = false,
            _ => {
                let word = arguments.get(1).map(|word| word.to_ascii_uppercase());
                match (word.as_deref(), arguments.len()) {
                    (None, _) => return Reply::Integer(self.redirects().into()),
                    (Some(b"ON"), 2) => self.redirecting.wanted = Some(true),
                    (Some(b"OFF"), 2) => self.redirecting.wanted = Some(false),
                    (Some(b"DEFAULT"), 2) => self.redirecting.wanted = None,
                    (Some(b"HELP"), 2) => return help(HELP),
                    (_, 2) => return SYNTAX,
                    _ => return wrong_arity("proteus.redirect"),
                }
            }
        }
        Reply::OK
    }

    /// A receipt begins.
    pub(super) fn on_receipt(&mut self) {
        self.redirecting.is_new_enough = false;
    }

    /// Whether a command reads what this node has by itself, because the connection has asked for that.
    pub(super) fn reads_here(&self, found: Found) -> bool {
        let is_read =
            |command: &Command| !command.is_write() && !command.flags.has(Flags::BLOCKING);
        self.redirecting.is_readonly && matches!(found, Found::Data(command) if is_read(command))
    }

    /// Before such a read: waits only if this node has not heard for too long whether there is something newer.
    pub(super) async fn be_new_enough(&mut self, arguments: &[Bytes]) -> Result<(), KernelError> {
        if self.is_current || self.redirecting.is_new_enough {
            return Ok(());
        }
        let (kernel, staleness_max) = (&self.face.kernel, self.face.staleness_max);
        let slots =
            if kernel.is_spread() { cache::spread::slots_read(arguments) } else { Vec::new() };
        let barrier = match slots.as_slice() {
            [] => kernel.read_barrier_within(staleness_max),
            slots => kernel.slots_barrier_within(slots, staleness_max),
        };
        if let Some(barrier) = barrier {
            barrier.await?;
        }
        self.redirecting.is_new_enough = slots.is_empty();
        Ok(())
    }

    /// What a client that is redirected hears instead of an answer; `None` if the request is for this node.
    pub(super) fn redirected(&mut self, found: Found, arguments: &[Bytes]) -> Option<Reply> {
        let is_asking = std::mem::take(&mut self.redirecting.is_asking);
        let (slot, reads_only) = match found {
            Found::Own(own) if own.command == OwnCommand::Exec => {
                let queued = self.transaction.as_ref()?.requests();
                let mut reads_only = true;
                let mut slot = None;
                for (found, arguments) in queued {
                    reads_only &= is_read(*found);
                    match join_slots(slot, *found, arguments) {
                        Ok(joined) => slot = joined,
                        Err(error) => {
                            self.about_transaction(OwnCommand::Discard);
                            return Some(error);
                        }
                    }
                }
                (slot, reads_only)
            }
            found => match join_slots(None, found, arguments) {
                Ok(slot) => (slot, is_read(found)),
                Err(error) => return Some(error),
            },
        };
        let is_for_here = is_asking
            || found.name() == "restore-asking"
            || self.redirecting.is_readonly && reads_only
            || self.face.kernel.leads_slot(slot?);
        if is_for_here {
            return None;
        }
        let slot = slot?;
        let (host, port) = self.leader_of(slot)?;
        if matches!(found, Found::Own(own) if own.command == OwnCommand::Exec) {
            self.about_transaction(OwnCommand::Discard);
        }
        Some(Reply::Error(format!("MOVED {} {host}:{port}", slot.number()).into()))
    }

    /// Answers a command about all keys of a node, which in Redis Cluster are those of the slots that it leads.
    /// A node that leads none is a replica, and tells of all.
    pub(super) async fn of_own_slots(
        &self,
        command: &'static Command,
        call: Call,
    ) -> Result<Reply, KernelError> {
        let own = self.face.kernel.cluster().node;
        let led = self.face.kernel.slots_led();
        let leads_some = led.iter().any(|led| led.leader == Some(own));
        if command.name == "dbsize" && leads_some {
            return self.own_key_count(call.db);
        }
        let question = Question::Command(call);
        let reply = self.face.kernel.read_or_ask(question, Answer::into_reply).await;
        if !leads_some {
            return reply;
        }
        let is_here = |key: &Reply| match key {
            Reply::Bulk(key) => self.face.kernel.leads_slot(Slot::of_key(key)),
            _ => true,
        };
        reply.map(|reply| match reply {
            Reply::Array(mut keys) if command.name == "keys" => {
                keys.retain(is_here);
                Reply::Array(keys)
            }
            Reply::Array(mut parts) => {
                if let [_, Reply::Array(keys)] = parts.as_mut_slice() {
                    keys.retain(is_here);
                }
                Reply::Array(parts)
            }
            other => other,
        })
    }

    /// How many keys the shards have that this node leads.
    fn own_key_count(&self, db: u8) -> Result<Reply, KernelError> {
        let (kernel, own) = (&self.face.kernel, self.face.kernel.cluster().node);
        let (mut counted, mut keys) = (BTreeSet::new(), 0);
        for led in kernel.slots_led().iter().filter(|led| led.leader == Some(own)) {
            let Some(slot) = Slot::new(led.first).filter(|_| counted.insert(led.shard)) else {
                continue;
            };
            let mut counts = Ok(Vec::new());
            kernel.read_slot_dyn(&|| slot, &mut |view| counts = cache::database_counts(view))?;
            keys += counts?.get(usize::from(db)).map_or(0, |(keys, _)| *keys);
        }
        Ok(Reply::Integer(i64::try_from(keys).unwrap_or(i64::MAX)))
    }
}

/// Whether a command is about all keys of a node.
pub(super) fn is_of_node(command: &Command) -> bool {
    matches!(command.name, "dbsize" | "keys" | "scan")
}

fn is_read(found: Found) -> bool {
    match found {
        Found::Data(command) => !command.is_write(),
        // They touch nothing.
        Found::Own(own) => own.keys == Keys::None,
    }
}

/// The slot of what a command names, if it is the only one and that of what came before.
fn join_slots(
    mut slot: Option<Slot>,
    found: Found,
    arguments: &[Bytes],
) -> Result<Option<Slot>, Reply> {
    let mut join = |key: &Bytes| {
        let own = Slot::of_key(key);
        match slot.replace(own) {
            Some(other) if other != own => Err(CROSS_SLOT),
            _ => Ok(()),
        }
    };
    match found {
        Found::Own(own) if own.command == OwnCommand::SsubScribe => {
            arguments.iter().skip(1).try_for_each(&mut join)?;
        }
        found => match found.keys() {
            Keys::None => {}
            Keys::Range(1, 1, _) => arguments.get(1).map_or(Ok(()), &mut join)?,
            _ => {
                let places = found.key_places(arguments);
                places.into_iter().filter_map(|at| arguments.get(at)).try_for_each(&mut join)?;
            }
        },
    }
    Ok(slot)
}
