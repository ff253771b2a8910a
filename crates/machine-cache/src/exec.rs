//! What a command sees and changes: one database at one moment.

use std::borrow::Cow;
use std::ops::ControlFlow;

use bytes::Bytes;
use proteus_machine::key::take_u64;
use proteus_machine::{Ctx, View};
use proteus_store::{Direction, Read, StoreError, Visit};
use proteus_types::{CommitTs, ShardId};

use crate::acl::User;
use crate::collection::Collection;
use crate::head::{Head, Kind};
use crate::layout::HeadPlace;
use crate::memory::charge;
use crate::random::Random;
use crate::reply::Reply;
use crate::slots::OwnSlots;
use crate::{Change, Class, KEY_BYTES_MAX, SPACE, layout};

/// Why a command ends before its reply.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The command cannot be carried out and has changed nothing; this is its answer.
    Error(Cow<'static, str>),
    /// This replica cannot go on.
    Fault(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Stop {
        Stop::Fault(error)
    }
}

pub(crate) type Result<T = Reply, E = Stop> = std::result::Result<T, E>;

/// An error of a fixed text.
pub(crate) fn error<T>(text: &'static str) -> Result<T> {
    Err(Stop::Error(Cow::Borrowed(text)))
}

pub(crate) const WRONG_TYPE: &str =
    "WRONGTYPE Operation against a key holding the wrong kind of value";
pub(crate) const SYNTAX: &str = "ERR syntax error";
pub(crate) const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
pub(crate) const NOT_A_FLOAT: &str = "ERR value is not a valid float";
pub(crate) const NO_SUCH_KEY: &str = "ERR no such key";
pub(crate) const TOO_LONG: &str = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";

/// The state under a command: of a commit, which may change it, or of a reader, who may not.
pub(crate) trait Access: Read {
    fn now_ms(&self) -> u64;
    fn commit_ts(&self) -> CommitTs;
    /// The shard that this is; of a reader it does not matter.
    fn shard(&self) -> ShardId;
    fn put(&mut self, key: Bytes, value: Bytes);
    fn delete(&mut self, key: Bytes);
    fn emit(&mut self, change: Change);
}

impl Access for Ctx<'_, Change> {
    fn now_ms(&self) -> u64 {
        Ctx::now_ms(self)
    }

    fn commit_ts(&self) -> CommitTs {
        Ctx::commit_ts(self)
    }

    fn shard(&self) -> ShardId {
        Ctx::shard(self)
    }

    fn put(&mut self, key: Bytes, value: Bytes) {
        Ctx::put(self, key, value);
    }

    fn delete(&mut self, key: Bytes) {
        Ctx::delete(self, key);
    }

    fn emit(&mut self, change: Change) {
        Ctx::emit(self, change);
    }
}

/// A reader's access. Commands that the table calls readers change nothing; that is asserted.
pub(crate) struct ReadOnly<'a>(pub(crate) View<'a>);

impl Read for ReadOnly<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.0.state.get(key)
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        self.0.state.scan(start, end, direction, visit)
    }
}

impl Access for ReadOnly<'_> {
    fn now_ms(&self) -> u64 {
        self.0.now_ms
    }

    fn commit_ts(&self) -> CommitTs {
        self.0.applied_ts
    }

    fn shard(&self) -> ShardId {
        ShardId::META
    }

    fn put(&mut self, _key: Bytes, _value: Bytes) {
        debug_assert!(false, "a reader wrote");
    }

    fn delete(&mut self, _key: Bytes) {
        debug_assert!(false, "a reader deleted");
    }

    fn emit(&mut self, _change: Change) {}
}

/// A key before a command changes it: what is stored, and whether it is there to be seen.
pub(crate) struct Before {
    /// Where its head stands, if that was worked out.
    place: Option<HeadPlace>,
    pub(crate) stored: Option<Head>,
    pub(crate) is_live: bool,
}

impl Before {
    /// Of a key that is not there.
    pub(crate) const ABSENT: Before = Before { place: None, stored: None, is_live: false };

    /// The head, unless absent or expired.
    pub(crate) fn live(&self) -> Option<&Head> {
        self.stored.as_ref().filter(|_| self.is_live)
    }

    pub(crate) fn expire_at_ms(&self) -> Option<u64> {
        self.live().and_then(|head| head.expire_at_ms)
    }

    /// The string, `None` if absent.
    pub(crate) fn string(&self) -> Result<Option<Bytes>> {
        match self.live() {
            None => Ok(None),
            Some(head) if head.kind == Kind::String => Ok(Some(head.body.clone())),
            Some(_) => error(WRONG_TYPE),
        }
    }
}

/// A database under a command.
pub(crate) struct Exec<'a> {
    pub(crate) access: &'a mut dyn Access,
    pub(crate) db: u8,
    pub(crate) random: Random,
    /// Who asks; 0 for nobody.
    pub(crate) origin: u64,
    /// Whose rights a script's commands are held against; `None` for one that may do everything.
    pub(crate) user: Option<Box<User>>,
    /// What a script's commands may touch; `None` if all slots are here.
    pub(crate) slots: Option<OwnSlots>,
}

/// What a database holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    /// Keys, with those that expired and were not removed yet.
    pub(crate) keys: u64,
    /// How many of them expire.
    pub(crate) expires: u64,
    /// What they are charged.
    pub(crate) bytes: u64,
}

impl<'a> Exec<'a> {
    pub(crate) fn new(access: &'a mut dyn Access, db: u8, seed: u64) -> Exec<'a> {
        Exec { access, db, random: Random::new(seed), origin: 0, user: None, slots: None }
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.access.now_ms()
    }

    pub(crate) fn read(&self) -> &dyn Read {
        &*self.access
    }

    fn stored(&self, place: &[u8]) -> Result<Option<Head>, StoreError> {
        // The store has no key that long.
        if place.len() > KEY_BYTES_MAX + layout::HEAD_PREFIX_BYTES {
            return Ok(None);
        }
        self.access.get(place)?.map(|bytes| Head::decode(place, bytes)).transpose()
    }

    /// The head of `key`, unless absent or expired.
    pub(crate) fn head(&self, key: &[u8]) -> Result<Option<Head>, StoreError> {
        let stored = self.stored(&layout::head(self.db, key))?;
        Ok(stored.filter(|head| !head.is_expired(self.now_ms())))
    }

    pub(crate) fn exists(&self, key: &[u8]) -> Result<bool, StoreError> {
        Ok(self.head(key)?.is_some())
    }

    pub(crate) fn before(&self, key: &[u8]) -> Result<Before, StoreError> {
        let place = layout::head(self.db, key);
        let stored = self.stored(&place)?;
        let is_live = stored.as_ref().is_some_and(|head| !head.is_expired(self.now_ms()));
        Ok(Before { place: Some(place), stored, is_live })
    }

    /// The string under `key`.
    pub(crate) fn string(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match self.head(key)? {
            None => Ok(None),
            Some(head) if head.kind == Kind::String => Ok(Some(head.body)),
            Some(_) => error(WRONG_TYPE),
        }
    }

    /// The collection under `key`; `None` if absent.
    pub(crate) fn collection(&self, key: &[u8], kind: Kind) -> Result<Option<Collection>> {
        let before = self.before(key)?;
        if before.live().is_none() {
            return Ok(None);
        }
        self.collection_of(before, kind).map(Some)
    }

    /// The collection under `key`, a new one if absent.
    pub(crate) fn collection_or_new(&self, key: &[u8], kind: Kind) -> Result<Collection> {
        self.collection_of(self.before(key)?, kind)
    }

    fn collection_of(&self, before: Before, kind: Kind) -> Result<Collection> {
        match before.live() {
            None => Ok(Collection::new(kind, before)),
            Some(head) if head.kind == kind => {
                let decoded = Collection::decode(head.clone(), before);
                decoded.ok_or_else(|| {
                    Stop::Fault(StoreError::corrupt(b"(collection)", "a head without its parts"))
                })
            }
            Some(_) => error(WRONG_TYPE),
        }
    }

    /// Tells the feed what happened to `key`.
    pub(crate) fn notify(&mut self, class: Class, event: &'static str, key: &Bytes) {
        self.notify_in(self.db, class, event, key);
    }

    /// As [`Exec::notify`], of a key in another database.
    pub(crate) fn notify_in(&mut self, db: u8, class: Class, event: &'static str, key: &Bytes) {
        self.access.emit(Change::Key { db, key: key.clone(), class, event, origin: self.origin });
    }

    /// Writes a string in place of whatever was there. The caller says what happened.
    pub(crate) fn set_string(
        &mut self,
        key: &Bytes,
        before: &Before,
        value: &[u8],
        expire_at_ms: Option<u64>,
    ) -> Result<(), StoreError> {
        self.discard(key, before, false)?;
        self.put_head(key, before, Kind::String, false, expire_at_ms, value)
    }

    fn place(&self, before: &Before, key: &[u8]) -> Bytes {
        let Some(place) = &before.place else {
            return Bytes::copy_from_slice(&layout::head(self.db, key));
        };
        debug_assert_eq!(
            *place,
            layout::head(self.db, key),
            "what was looked at is what is changed"
        );
        Bytes::copy_from_slice(place)
    }

    /// Writes the head of a key and what goes with it: counts and the index by time.
    pub(crate) fn put_head(
        &mut self,
        key: &Bytes,
        before: &Before,
        kind: Kind,
        is_large: bool,
        expire_at_ms: Option<u64>,
        body: &[u8],
    ) -> Result<(), StoreError> {
        let stored_ms = before.stored.as_ref().and_then(|head| head.expire_at_ms);
        let is_new = before.stored.is_none();
        if stored_ms != expire_at_ms {
            if let Some(at_ms) = stored_ms {
                self.access.delete(layout::timed(layout::KIND_EXPIRY, at_ms, self.db, key));
            }
            if let Some(at_ms) = expire_at_ms {
                let place = layout::timed(layout::KIND_EXPIRY, at_ms, self.db, key);
                self.access.put(place, Bytes::new());
            }
        }
        let expires = i64::from(expire_at_ms.is_some()) - i64::from(stored_ms.is_some());
        let charged = |head: &Head| charge(key, head.kind, &head.body);
        let bytes = charge(key, kind, body).cast_signed()
            - before.stored.as_ref().map_or(0, charged).cast_signed();
        if is_new || expires != 0 || bytes != 0 {
            self.add_to_sums(self.db, i64::from(is_new), expires, bytes)?;
        }
        let bytes = Head::encode(kind, is_large, self.access.commit_ts(), expire_at_ms, body);
        self.access.put(self.place(before, key), bytes);
        if before.live().is_none() {
            self.notify(Class::New, "new", key);
        }
        Ok(())
    }

    /// Lets the elements go of what a write replaces, and says that an expired key has expired.
    pub(crate) fn discard(
        &mut self,
        key: &Bytes,
        before: &Before,
        is_kept: bool,
    ) -> Result<(), StoreError> {
        let Some(head) = &before.stored else { return Ok(()) };
        if !before.is_live {
            self.notify(Class::Expired, "expired", key);
        }
        if !is_kept && head.kind != Kind::String {
            self.drop_elements(key, head)?;
        }
        Ok(())
    }

    /// Removes what a collection keeps beside its head.
    fn drop_elements(&mut self, key: &[u8], head: &Head) -> Result<(), StoreError> {
        let held = Collection::decode(head.clone(), Before::ABSENT);
        let Some(held) = held else { return Ok(()) };
        if let Some(at_ms) = held.field_expiry_ms() {
            self.access.delete(layout::timed(layout::KIND_FIELD_EXPIRY, at_ms, self.db, key));
        }
        if let Some(id) = held.spread_id() {
            self.drop_spread(id)?;
        }
        Ok(())
    }

    /// Removes a few elements at once, many by and by.
    pub(crate) fn drop_spread(&mut self, id: u64) -> Result<(), StoreError> {
        if self.reclaim(id)? {
            self.access.put(layout::garbage(id), Bytes::new());
        }
        Ok(())
    }

    /// Removes some elements of a collection that is gone; says whether there are more.
    pub(crate) fn reclaim(&mut self, id: u64) -> Result<bool, StoreError> {
        const AT_ONCE: usize = 512;
        let prefix = layout::elements(id, b"");
        let mut places = Vec::new();
        self.access.scan_prefix(&prefix, &mut |place, _| {
            places.push(Bytes::copy_from_slice(place));
            if places.len() > AT_ONCE { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let has_more = places.len() > AT_ONCE;
        for place in places.into_iter().take(AT_ONCE) {
            self.access.delete(place);
        }
        Ok(has_more)
    }

    /// Removes `key`; says whether it was there to be seen. The caller says why it went.
    pub(crate) fn remove(&mut self, key: &Bytes) -> Result<bool, StoreError> {
        let before = self.before(key)?;
        self.remove_known(key, &before, false)
    }

    /// Removes a key that has been looked at; its elements stay if they have gone elsewhere.
    pub(crate) fn remove_known(
        &mut self,
        key: &Bytes,
        before: &Before,
        keeps_elements: bool,
    ) -> Result<bool, StoreError> {
        let Some(head) = &before.stored else { return Ok(false) };
        self.discard(key, before, keeps_elements)?;
        if keeps_elements {
            let held = Collection::decode(head.clone(), Before::ABSENT);
            if let Some(at_ms) = held.and_then(|held| held.field_expiry_ms()) {
                let place = layout::timed(layout::KIND_FIELD_EXPIRY, at_ms, self.db, key);
                self.access.delete(place);
            }
        }
        if let Some(at_ms) = head.expire_at_ms {
            self.access.delete(layout::timed(layout::KIND_EXPIRY, at_ms, self.db, key));
        }
        let expires = -i64::from(head.expire_at_ms.is_some());
        let bytes = charge(key, head.kind, &head.body);
        self.add_to_sums(self.db, -1, expires, -bytes.cast_signed())?;
        self.access.delete(self.place(before, key));
        Ok(before.is_live)
    }

    /// Writes a collection back: its head, or its end if it has become empty.
    pub(crate) fn save(&mut self, key: &Bytes, mut held: Collection) -> Result<(), StoreError> {
        if held.is_gone() {
            let before = held.before();
            if let Some(id) = held.spread_id() {
                self.drop_spread(id)?;
            }
            if let Some(at_ms) = held.indexed_field_expiry_ms() {
                let place = layout::timed(layout::KIND_FIELD_EXPIRY, at_ms, self.db, key);
                self.access.delete(place);
            }
            if self.remove_known(key, before, true)? {
                self.notify(Class::Generic, "del", key);
            }
            return Ok(());
        }
        if !held.before().is_live {
            self.discard(key, held.before(), false)?;
        }
        if held.indexed_field_expiry_ms() != held.field_expiry_ms() {
            if let Some(at_ms) = held.indexed_field_expiry_ms() {
                let place = layout::timed(layout::KIND_FIELD_EXPIRY, at_ms, self.db, key);
                self.access.delete(place);
            }
            if let Some(at_ms) = held.field_expiry_ms() {
                let place = layout::timed(layout::KIND_FIELD_EXPIRY, at_ms, self.db, key);
                self.access.put(place, Bytes::new());
            }
        }
        held.spread_if_large(self)?;
        let body = held.encode_body();
        self.put_head(key, held.before(), held.kind(), held.is_large, held.expire_at_ms, &body)
    }

    /// Writes a collection in place of whatever was there.
    pub(crate) fn replace(&mut self, key: &Bytes, mut held: Collection) -> Result<(), StoreError> {
        let before = self.before(key)?;
        self.remove_known(key, &before, false)?;
        held.set_before(Before { place: before.place, stored: None, ..before });
        self.save(key, held)
    }

    pub(crate) fn next_id(&mut self) -> Result<u64, StoreError> {
        let stored = self.access.get(&layout::NEXT_ID)?;
        // No two shards give the same, so that a collection may move from one to another.
        let first = u64::from(self.access.shard().0) << 40 | 1;
        let id = stored.and_then(|bytes| take_u64(&bytes).map(|(id, _)| id)).unwrap_or(first);
        let next = Bytes::copy_from_slice(&(id + 1).to_be_bytes());
        self.access.put(Bytes::from_static(&layout::NEXT_ID), next);
        Ok(id)
    }

    pub(crate) fn add_to_sums(
        &mut self,
        db: u8,
        keys: i64,
        expires: i64,
        bytes: i64,
    ) -> Result<(), StoreError> {
        let sums = self.sums(db)?;
        let numbers = [
            sums.keys.saturating_add_signed(keys),
            sums.expires.saturating_add_signed(expires),
            sums.bytes.saturating_add_signed(bytes),
        ];
        let place = Bytes::copy_from_slice(&layout::counts(db));
        if numbers == [0; 3] {
            self.access.delete(place);
        } else {
            let mut record = Vec::with_capacity(24);
            for number in numbers {
                record.extend_from_slice(&number.to_be_bytes());
            }
            self.access.put(place, Bytes::from(record));
        }
        Ok(())
    }

    /// What a database holds.
    pub(crate) fn sums(&self, db: u8) -> Result<Sums, StoreError> {
        let Some(record) = self.access.get(&layout::counts(db))? else {
            return Ok(Sums::default());
        };
        let sums = take_u64(&record).and_then(|(keys, rest)| {
            let (expires, rest) = take_u64(rest)?;
            Some(Sums { keys, expires, bytes: take_u64(rest)?.0 })
        });
        Ok(sums.unwrap_or_default())
    }

    /// How many keys a database has, and how many of them expire.
    pub(crate) fn counts(&self, db: u8) -> Result<(u64, u64), StoreError> {
        let sums = self.sums(db)?;
        Ok((sums.keys, sums.expires))
    }

    /// Removes every key of a database.
    pub(crate) fn clear(&mut self, db: u8) -> Result<(), StoreError> {
        let prefix = [SPACE, layout::KIND_HEAD, db];
        let mut keys = Vec::new();
        self.access.scan_prefix(&prefix, &mut |place, _| {
            if let Some((_, key)) = layout::split_head(place) {
                keys.push(Bytes::copy_from_slice(key));
            }
            ControlFlow::Continue(())
        })?;
        let own = std::mem::replace(&mut self.db, db);
        for key in keys {
            let before = Before { is_live: true, ..self.before(&key)? };
            self.remove_known(&key, &before, false)?;
        }
        self.db = own;
        self.access.emit(Change::Cleared { db });
        Ok(())
    }

    /// Visits keys whose place is at least `position` until told to stop, those with one place
    /// always together; says where to go on, 0 at the end.
    pub(crate) fn scan_keys(
        &self,
        position: u64,
        end: u64,
        visit: &mut dyn FnMut(&[u8], &Head) -> ControlFlow<()>,
    ) -> Result<u64, StoreError> {
        let start = layout::heads_from(self.db, position);
        let end = layout::heads_until(self.db, end);
        let now_ms = self.now_ms();
        let mut last_if_full = None;
        let mut next = 0;
        let mut fault = None;
        self.access.scan(&start, &end, Direction::Ascending, &mut |place, bytes| {
            let Some((position, key)) = layout::split_head(place) else {
                return ControlFlow::Continue(());
            };
            if last_if_full.is_some_and(|last| last != position) {
                next = position;
                return ControlFlow::Break(());
            }
            match Head::decode(place, bytes.clone()) {
                Err(error) => {
                    fault = Some(error);
                    return ControlFlow::Break(());
                }
                Ok(head) if head.is_expired(now_ms) => {}
                Ok(head) => {
                    if visit(key, &head).is_break() {
                        last_if_full = Some(position);
                    }
                }
            }
            ControlFlow::Continue(())
        })?;
        match fault {
            Some(error) => Err(error),
            None => Ok(next),
        }
    }
}
