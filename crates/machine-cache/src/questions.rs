//! What is read of the keys of one shard, as a message: for nodes that have no replica of it.

use bytes::Bytes;
use proteus_machine::View;
use proteus_store::{LayeredStore, Read, State, StoreError};
use proteus_types::Slot;
use serde::{Deserialize, Serialize};

use crate::head::Revision;
use crate::{
    Call, Kind, Reply, database_counts, kind_and_count, revision, slots, spread, used_bytes,
};

/// What the keys of one question may take with all that belongs to them, in bytes.
pub const ROWS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Once so many bytes of values were read for one question for parcels no more are.
pub const PARCELS_BYTES: usize = 8 * 1024 * 1024;

/// What to read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Question {
    /// What a command answers that only reads.
    Command(Call),
    /// The same, and if it has to wait, its arguments as [`crate::resolve_read`] has them.
    Waiting(Call),
    /// All that the store has of these keys of one database.
    Rows {
        /// The database.
        db: u8,
        /// The keys.
        keys: Vec<Bytes>,
    },
    /// Which change of these keys is their last, as [`crate::revision`] has it.
    Revisions {
        /// The database.
        db: u8,
        /// The keys.
        keys: Vec<Bytes>,
    },
    /// As [`crate::kind_and_count`].
    KindAndCount {
        /// The database.
        db: u8,
        /// The key.
        key: Bytes,
    },
    /// What a key is charged for, as [`crate::size_of`].
    Size {
        /// The database.
        db: u8,
        /// The key.
        key: Bytes,
    },
    /// These keys of one database as they can be made anew elsewhere, as many of the first as have about
    /// [`PARCELS_BYTES`].
    Parcels {
        /// The database.
        db: u8,
        /// The keys.
        keys: Vec<Bytes>,
    },
    /// How many keys there are, and what they take.
    Figures,
    /// Keys in a slot, as [`crate::keys_in_slot`].
    InSlot {
        /// The slot.
        slot: u16,
        /// How many at most.
        count_max: u32,
    },
    /// How far keys of slots go that take about so many bytes, as [`slots::stretch`].
    Stretch {
        /// The first slot.
        first: u16,
        /// The last.
        last: u16,
        /// So many bytes.
        bytes_max: u64,
    },
    /// All that the store has of the keys of some slots, as [`slots::rows_of`].
    SlotRows {
        /// The first slot.
        first: u16,
        /// The last.
        last: u16,
    },
    /// Nothing: how the shard stands to commits over several is told with every answer.
    Nothing,
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// Of a command.
    Reply(Reply),
    /// Of a command that has to wait: its arguments.
    Resolved(Vec<Bytes>),
    /// Of keys.
    Rows(Rows),
    /// Of keys, in their order.
    Revisions(Vec<Revision>),
    /// Of keys, in their order.
    Parcels(Vec<Parceled>),
    /// Of a key, if it is there.
    KindAndCount(Option<(Kind, u64)>),
    /// Of a key, if it is there, in bytes.
    Size(Option<u64>),
    /// Of a shard.
    Figures {
        /// What its keys take, in bytes.
        used_bytes: u64,
        /// How many keys each database has, and how many of them expire.
        counts: Vec<(u64, u64)>,
    },
    /// Of a slot.
    Keys(Vec<Bytes>),
    /// The last slot, and how many bytes the keys take up to it.
    Stretch {
        /// The slot.
        last: u16,
        /// So many bytes.
        bytes: u64,
    },
    /// Of slots.
    SlotRows(Bytes),
    /// Keys that the question is about are in another shard.
    Elsewhere,
    /// The keys take more than [`ROWS_BYTES_MAX`].
    TooLarge,
    /// Nothing was asked.
    Nothing,
}

/// A key with its value, for another server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parcel {
    /// Which change of the key is its last.
    pub revision: Revision,
    /// What DUMP answers.
    pub payload: Bytes,
    /// When it expires, in milliseconds since the epoch.
    pub expire_at_ms: Option<u64>,
}

/// What became of reading a key for another server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Parceled {
    /// It is not there.
    Absent,
    /// It was read.
    There(Parcel),
    /// Those before it have too many bytes: it is to be asked for again.
    Left,
}

/// All that a store has of some keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows(pub Vec<(Bytes, Bytes)>);

impl Rows {
    /// A state of nothing but these rows, for commands that read these keys and nothing else.
    pub fn state(all: impl IntoIterator<Item = Rows>) -> LayeredStore {
        let mut store = LayeredStore::in_memory();
        for (place, value) in all.into_iter().flat_map(|rows| rows.0) {
            store.put(place, value);
        }
        store
    }
}

impl Question {
    /// The slots of the keys that it is about; none if it is about a whole shard.
    pub fn slots(&self) -> Vec<Slot> {
        let of = |keys: &[Bytes]| keys.iter().map(|key| Slot::of_key(key)).collect();
        match self {
            Question::Command(call) | Question::Waiting(call) => {
                spread::slots_read(&call.arguments)
            }
            Question::Rows { keys, .. }
            | Question::Revisions { keys, .. }
            | Question::Parcels { keys, .. } => of(keys),
            Question::KindAndCount { key, .. } | Question::Size { key, .. } => {
                of(std::slice::from_ref(key))
            }
            Question::InSlot { slot, .. } => Slot::new(*slot).into_iter().collect(),
            Question::Figures
            | Question::Stretch { .. }
            | Question::SlotRows { .. }
            | Question::Nothing => Vec::new(),
        }
    }

    /// As [`Question::answer`], of those that are about slots and not about a time.
    ///
    /// # Errors
    /// If the store fails.
    pub fn answer_of_slots(&self, state: &dyn Read) -> Result<Answer, StoreError> {
        Ok(match self {
            Question::Stretch { first, last, bytes_max } => {
                let (last, bytes) = slots::stretch(state, *first, *last, *bytes_max)?;
                Answer::Stretch { last, bytes }
            }
            Question::SlotRows { first, last } => {
                Answer::SlotRows(slots::rows_of(state, *first, *last)?)
            }
            _ => Answer::Nothing,
        })
    }

    /// As a message.
    pub fn encode(&self) -> Vec<u8> {
        // Encoding plain data into a growing buffer has no way to fail.
        postcard::to_stdvec(self).expect("plain data encodes")
    }

    /// From a message.
    pub fn decode(bytes: &[u8]) -> Option<Question> {
        postcard::from_bytes(bytes).ok()
    }

    /// What one of several shards answers, whose state is seen in `view`.
    ///
    /// # Errors
    /// If the store fails.
    pub fn answer_of_shard(&self, view: View<'_>) -> Result<Answer, StoreError> {
        for slot in self.slots() {
            if !slots::is_here(view.state, slot)? {
                return Ok(Answer::Elsewhere);
            }
        }
        self.answer(view)
    }

    /// What is to be read in `view`, which has all that the question is about.
    ///
    /// # Errors
    /// If the store fails.
    pub fn answer(&self, view: View<'_>) -> Result<Answer, StoreError> {
        Ok(match self {
            Question::Command(call) => Answer::Reply(crate::answer(view, call)?),
            Question::Waiting(call) => match crate::answer(view, call)? {
                Reply::Blocked => Answer::Resolved(crate::resolve_read(view, call)?),
                reply => Answer::Reply(reply),
            },
            Question::Rows { db, keys } => {
                match slots::rows_of_keys(view.state, *db, keys, ROWS_BYTES_MAX)? {
                    Some(rows) => Answer::Rows(Rows(rows)),
                    None => Answer::TooLarge,
                }
            }
            Question::Revisions { db, keys } => {
                let of = |key: &Bytes| revision(view.state, view.now_ms, *db, key);
                Answer::Revisions(keys.iter().map(of).collect::<Result<_, _>>()?)
            }
            Question::Parcels { db, keys } => Answer::Parcels(parcels(view, *db, keys)?),
            Question::KindAndCount { db, key } => {
                Answer::KindAndCount(kind_and_count(view, *db, key)?)
            }
            Question::Size { db, key } => Answer::Size(crate::size_of(view, *db, key)?),
            Question::Figures => {
                Answer::Figures { used_bytes: used_bytes(view)?, counts: database_counts(view)? }
            }
            Question::InSlot { slot, count_max } => {
                Answer::Keys(crate::keys_in_slot(view, *slot, *count_max as usize)?)
            }
            Question::Stretch { .. } | Question::SlotRows { .. } | Question::Nothing => {
                self.answer_of_slots(view.state)?
            }
        })
    }
}

/// Reads keys for another server, one after the other.
fn parcels(view: View<'_>, db: u8, keys: &[Bytes]) -> Result<Vec<Parceled>, StoreError> {
    let mut bytes = 0;
    let mut parcel = |key: &Bytes| {
        if bytes >= PARCELS_BYTES {
            return Ok(Parceled::Left);
        }
        let ask = |name: &'static [u8]| {
            let arguments = vec![Bytes::from_static(name), key.clone()];
            crate::answer(view, &Call { db, seed: 0, origin: 0, arguments })
        };
        let Reply::Bulk(payload) = ask(b"DUMP")? else { return Ok(Parceled::Absent) };
        bytes += payload.len();
        let expire_at_ms = match ask(b"PEXPIRETIME")? {
            Reply::Integer(at_ms) => u64::try_from(at_ms).ok(),
            _ => None,
        };
        let revision = revision(view.state, view.now_ms, db, key)?;
        Ok(Parceled::There(Parcel { revision, payload, expire_at_ms }))
    };
    keys.iter().map(&mut parcel).collect()
}

impl Answer {
    /// Of a command.
    pub fn into_reply(self) -> Option<Reply> {
        match self {
            Answer::Reply(reply) => Some(reply),
            _ => None,
        }
    }

    /// Of keys, if it is of so many.
    pub fn into_revisions(self, count: usize) -> Option<Vec<Revision>> {
        match self {
            Answer::Revisions(revisions) if revisions.len() == count => Some(revisions),
            _ => None,
        }
    }

    /// Of keys, if it is of so many.
    pub fn into_parcels(self, count: usize) -> Option<Vec<Parceled>> {
        match self {
            Answer::Parcels(parcels) if parcels.len() == count => Some(parcels),
            _ => None,
        }
    }

    /// As a message.
    pub fn encode(&self) -> Vec<u8> {
        // Encoding plain data into a growing buffer has no way to fail.
        postcard::to_stdvec(self).expect("plain data encodes")
    }

    /// From a message.
    pub fn decode(bytes: &[u8]) -> Option<Answer> {
        postcard::from_bytes(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn questions() -> Vec<Question> {
        let key = Bytes::from_static(b"k");
        let call = Call::new(&["GET", "k"]);
        vec![
            Question::Command(call.clone()),
            Question::Waiting(call),
            Question::Rows { db: 1, keys: vec![key.clone()] },
            Question::Revisions { db: 2, keys: vec![key.clone(), key.clone()] },
            Question::Parcels { db: 3, keys: vec![key.clone()] },
            Question::KindAndCount { db: 0, key: key.clone() },
            Question::Size { db: 0, key },
            Question::InSlot { slot: 3, count_max: 4 },
            Question::Stretch { first: 1, last: 2, bytes_max: 3 },
            Question::SlotRows { first: 1, last: 2 },
            Question::Figures,
            Question::Nothing,
        ]
    }

    fn answers() -> Vec<Answer> {
        let text = Bytes::from_static(b"v");
        let pairs = vec![(Reply::Double(0.5), Reply::Boolean(true))];
        let replies = vec![
            Reply::OK,
            Reply::error("ERR no"),
            Reply::Integer(-1),
            Reply::Decimal(1.5),
            Reply::BigNumber(text.clone()),
            Reply::Verbatim("mkd", text.clone()),
            Reply::Nil,
            Reply::NilArray,
            Reply::Map(pairs.clone()),
            Reply::PairedMap(pairs.clone()),
            Reply::Pairs(pairs),
            Reply::Set(vec![Reply::Bulk(text.clone())]),
            Reply::Blocked,
        ];
        vec![
            Answer::Reply(Reply::Array(replies)),
            Answer::Resolved(vec![text.clone()]),
            Answer::Rows(Rows(vec![(text.clone(), text.clone())])),
            Answer::Revisions(vec![Revision::ABSENT]),
            Answer::Parcels(vec![
                Parceled::Absent,
                Parceled::There(Parcel {
                    revision: Revision::ABSENT,
                    payload: text.clone(),
                    expire_at_ms: Some(1),
                }),
                Parceled::Left,
            ]),
            Answer::KindAndCount(Some((Kind::Stream, 5))),
            Answer::Size(None),
            Answer::Figures { used_bytes: 7, counts: vec![(1, 2)] },
            Answer::Keys(vec![text.clone()]),
            Answer::Stretch { last: 3, bytes: 4 },
            Answer::SlotRows(text),
            Answer::Elsewhere,
            Answer::TooLarge,
            Answer::Nothing,
        ]
    }

    #[test]
    fn questions_and_answers_come_back() {
        for question in questions() {
            assert_eq!(Question::decode(&question.encode()), Some(question));
        }
        for answer in answers() {
            assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        }
    }

    #[test]
    fn replies_that_stand_too_deep_in_each_other_are_refused() {
        let deep = |depth| (0..depth).fold(Reply::Nil, |reply, _| Reply::Array(vec![reply]));
        let read = |depth| Answer::decode(&Answer::Reply(deep(depth)).encode());
        assert!(read(200).is_some() && read(300).is_none() && read(200).is_some());
    }

    #[test]
    fn whatever_a_node_sends_is_decoded_or_refused() {
        let questions: Vec<Vec<u8>> = questions().iter().map(Question::encode).collect();
        proteus_testkit::fuzz::run("cache question", &questions, |input| {
            let _ = Question::decode(input);
        });
        let answers: Vec<Vec<u8>> = answers().iter().map(Answer::encode).collect();
        proteus_testkit::fuzz::run("cache answer", &answers, |input| {
            let _ = Answer::decode(input);
        });
    }
}
