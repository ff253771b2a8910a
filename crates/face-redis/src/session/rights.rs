//! What a request must pass before it is carried out: the user's rights, room for what it writes; and what
//! is noted of it afterwards.

use std::sync::Arc;

use std::sync::atomic::Ordering;

use bytes::Bytes;
use proteus_kernel_api::cache::acl::{self, Denied};
use proteus_kernel_api::cache::commands::{Command, Flags, Group, Keys};
use proteus_kernel_api::cache::{Answer, Call, Op, Question, Reply, Revision};

use super::{Session, us};
use crate::errors::{OOM, of_kernel, unknown_subcommand};
use crate::evict::Policy;
use crate::hub::Subscription;
use crate::slow::{Calls, Slow};
use crate::table::Found;

impl Session {
    /// Takes over what has become of the user; one that is gone is closed, as is one that listens to what
    /// it may no longer hear.
    pub(super) fn renew_user(&mut self) {
        let users = &self.face.hub.users;
        if users.generation() == self.user_generation {
            return;
        }
        if users.refresh(&*self.face.kernel).is_err() {
            // The kernel has stopped: the next request is told so.
            return;
        }
        self.user_generation = users.generation();
        match users.get(&self.user.name) {
            Some(user) => self.user = user,
            None => {
                self.is_closing = true;
                return;
            }
        }
        if !self.is_admitted {
            (self.user, self.is_admitted) = users.unnamed();
        }
        let hears = |(kind, name): &(Subscription, Bytes)| {
            self.user.allows_channel(name, *kind == Subscription::Pattern)
        };
        if !self.user.is_unrestricted && !self.subscribed.iter().all(hears) {
            self.is_closing = true;
        }
    }

    /// The user of this connection from now on.
    pub(super) fn become_user(&mut self, user: Arc<acl::User>) {
        self.client.about.lock().user.clone_from(&user.name);
        self.user = user;
        self.is_admitted = true;
    }

    /// Why the user may not carry the command out; `None` if it may.
    pub(super) fn forbidden(&self, arguments: &[Bytes]) -> Option<Denied> {
        // What Redis does not know is for those who may do everything.
        let Some(fact) = acl::resolve(arguments) else { return Some(Denied::Command("proteus")) };
        self.user.check(fact, arguments).err()
    }

    /// As [`Session::forbidden`], as a reply; and noted.
    pub(super) fn denied(&self, arguments: &[Bytes]) -> Option<Reply> {
        // A subcommand that there is not is told as such, to whomever.
        if let Some(fact) = acl::resolve(arguments)
            && !fact.subcommands.is_empty()
            && let Some(word) = arguments.get(1)
        {
            return Some(unknown_subcommand(fact.name, word));
        }
        let denied = self.forbidden(arguments)?;
        let now_ms = self.face.clock.wall_ms();
        let context = if self.transaction.is_some() { "multi" } else { "toplevel" };
        let (users, name) = (&self.face.hub.users, &self.user.name);
        users.log_denied(&denied, context, name, self.client.line(now_ms), now_ms);
        Some(Reply::Error(format!("NOPERM {}", denied.text(name)).into()))
    }

    /// The op of a call: a script of a user who may not do everything takes the user's rights along.
    pub(super) fn op(&self, found: Found, call: Call) -> Op {
        if self.user.is_unrestricted || found.group() != Group::Scripting {
            return Op::Command(call);
        }
        Op::Restricted { call, user: self.user.name.clone(), rules: self.user.rules() }
    }

    /// Where memory is bounded: the refusal of a command that needs some where there is none, once what can go has gone.
    pub(super) async fn refuse_for_memory(&mut self, found: Found) -> Option<Reply> {
        if self.has_room {
            return None;
        }
        let takes_memory = found.flags().has(Flags::DENY_OOM);
        if !takes_memory && found.group() != Group::Scripting {
            return None;
        }
        let face = &self.face;
        match face.evictor.make_room(&*face.kernel, &face.hub, &*face.clock).await {
            Ok(true) => {
                self.has_room = true;
                None
            }
            // What a script does is not known; those that take from queues must go on.
            Ok(false) => takes_memory.then_some(OOM),
            Err(error) => Some(of_kernel(&error)),
        }
    }

    /// Notes which keys are used.
    pub(super) fn touch(&self, found: Found, arguments: &[Bytes]) {
        let settings = &self.face.hub.settings;
        // Nobody asks which key to evict.
        if settings.policy() == Policy::NoEviction || !self.touches || is_untouching(found.name()) {
            return;
        }
        let now_s = self.now_s;
        let note = |at: usize| {
            if let Some(key) = arguments.get(at) {
                self.face.evictor.uses.note(self.db, key, now_s, settings);
            }
        };
        match found.keys() {
            Keys::None => {}
            Keys::Range(1, 1, _) => note(1),
            _ => found.key_places(arguments).into_iter().for_each(note),
        }
    }

    /// What OBJECT IDLETIME and FREQ answer, which the state does not know.
    pub(super) async fn about_use(&self, command: &Command, arguments: &[Bytes]) -> Option<Reply> {
        let [_, word, key] = arguments else { return None };
        if command.name != "object" {
            return None;
        }
        let wants_frequency = word.eq_ignore_ascii_case(b"FREQ");
        if !wants_frequency && !word.eq_ignore_ascii_case(b"IDLETIME") {
            return None;
        }
        let settings = &self.face.hub.settings;
        let question = Question::Revisions { db: self.db, keys: vec![key.clone()] };
        let one = |answer: Answer| answer.into_revisions(1)?.pop();
        let written_s = match self.face.kernel.read_or_ask(question, one).await {
            Ok(Revision::ABSENT) => return Some(Reply::Nil),
            Ok(revision) => (revision.0.physical_ms() / 1000) as u32,
            Err(error) => return Some(of_kernel(&error)),
        };
        let now_s = (self.face.clock.wall_ms() / 1000) as u32;
        let used = self.face.evictor.uses.of(self.db, key);
        Some(match (wants_frequency, settings.policy().is_lfu()) {
            (true, false) => Reply::error(
                "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching between policies at runtime LRU and LFU data will take some time to adjust.",
            ),
            (false, true) => Reply::error(
                "ERR An LFU maxmemory policy is selected, idle time not tracked. Please note that when switching between policies at runtime LRU and LFU data will take some time to adjust.",
            ),
            (true, true) => {
                let frequency = used.map_or(0, |used| used.decayed(now_s, settings));
                Reply::Integer(frequency.into())
            }
            (false, false) => {
                let written = now_s.saturating_sub(written_s);
                Reply::Integer(used.map_or(written, |used| used.idle_s(now_s).min(written)).into())
            }
        })
    }

    /// Notes a command that was carried out at once. Fast ones in a row are timed together; one that may
    /// take long is timed by itself.
    pub(super) fn note_call(&mut self, found: Found, calls: &mut Calls) {
        let is_error = std::mem::take(&mut self.has_failed);
        let arguments = std::mem::take(&mut self.last_read);
        if !self.batch.slots.is_empty() {
            return;
        }
        // Fast commands are timed together, unless each is to be logged.
        let settings = &self.face.hub.settings;
        let is_fast =
            found.flags().has(Flags::FAST) && settings.slower_than_us.load(Ordering::Relaxed) != 0;
        if is_fast && calls.takes(found.index()) {
            return calls.add(found.index(), is_error);
        }
        let now = self.face.clock.elapsed();
        let took_us = us(now.saturating_sub(self.since));
        self.since = now;
        // What came before is counted with its own share of the time.
        let before = std::mem::take(calls);
        let each_us = took_us / (before.count + 1);
        self.face.slow.observe(before, each_us * before.count);
        calls.add(found.index(), is_error);
        if !is_fast {
            let own = std::mem::take(calls);
            self.face.slow.observe(own, took_us - each_us * before.count);
            if !arguments.is_empty() {
                self.note_slow(Some((found, arguments)), took_us);
            }
        }
    }

    /// Notes a command that took long, if it did.
    pub(super) fn note_slow(&self, suspect: Option<(Found, Vec<Bytes>)>, took_us: u64) {
        let settings = &self.face.hub.settings;
        let Some((found, arguments)) = suspect else { return };
        if !Slow::is_slow(settings, took_us) {
            return;
        }
        let at_s = self.face.clock.wall_ms() / 1000;
        let name = self.client.about.lock().name.clone();
        let client = (self.client.peer.to_string(), name);
        let is_fast = found.flags().has(Flags::FAST);
        self.face.slow.note(settings, &arguments, is_fast, took_us, at_s, client);
    }
}

/// Whether looking at a key by this command is no use of it.
fn is_untouching(name: &str) -> bool {
    matches!(
        name,
        "object"
            | "type"
            | "ttl"
            | "pttl"
            | "expiretime"
            | "pexpiretime"
            | "exists"
            | "scan"
            | "memory"
    )
}
