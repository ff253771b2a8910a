//! Single objects that many callers change and read on any node: strings as the Redis face has them, znodes as the
//! ZooKeeper face does. Claim: each is linearizable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proteus_env::task;
use proteus_kernel_api::{Kernel, View};
use proteus_shard_machine::{self as machine, Minitransaction, Outcome, cache, tree};
use proteus_store::StoreError;
use proteus_types::Slot;

use crate::linearizable::{self, Object, Operation, Verdict};
use crate::random::Random;

/// A proposal is answered within this, in simulated time.
const PATIENCE: Duration = Duration::from_secs(120);

/// Objects of each kind. Callers move on from one to the next, so that no history grows long.
const OBJECTS: u64 = 24;

/// Objects that are in use at a time.
const IN_USE: u64 = 3;

/// A Redis string.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Text(Option<i64>);

#[derive(Debug, Clone)]
enum TextCall {
    Get,
    Set(i64),
    GetSet(i64),
    Increment,
}

#[derive(Debug, Clone, PartialEq)]
enum TextAnswer {
    Value(Option<i64>),
    Done,
}

impl Object for Text {
    type Call = TextCall;
    type Answer = TextAnswer;

    fn call(&mut self, call: &TextCall) -> TextAnswer {
        match call {
            TextCall::Get => TextAnswer::Value(self.0),
            TextCall::Set(value) => {
                self.0 = Some(*value);
                TextAnswer::Done
            }
            TextCall::GetSet(value) => TextAnswer::Value(self.0.replace(*value)),
            TextCall::Increment => {
                self.0 = Some(self.0.unwrap_or(0) + 1);
                TextAnswer::Value(self.0)
            }
        }
    }
}

/// A znode's data and its version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Znode {
    version: i32,
    value: i64,
}

#[derive(Debug, Clone)]
enum ZnodeCall {
    Get,
    /// With the version that it must have, if any.
    Set(i64, Option<i32>),
}

#[derive(Debug, Clone, PartialEq)]
enum ZnodeAnswer {
    Is(i32, i64),
    Set(i32),
    OtherVersion,
}

impl Object for Znode {
    type Call = ZnodeCall;
    type Answer = ZnodeAnswer;

    fn call(&mut self, call: &ZnodeCall) -> ZnodeAnswer {
        match call {
            ZnodeCall::Get => ZnodeAnswer::Is(self.version, self.value),
            ZnodeCall::Set(_, Some(version)) if *version != self.version => {
                ZnodeAnswer::OtherVersion
            }
            ZnodeCall::Set(value, _) => {
                self.version += 1;
                self.value = *value;
                ZnodeAnswer::Set(self.version)
            }
        }
    }
}

fn key_of(object: u64) -> Vec<u8> {
    format!("object-{object}").into_bytes()
}

fn path_of(object: u64) -> String {
    format!("/object-{object}")
}

/// Creates the znodes, in one commit.
pub fn creation() -> Minitransaction {
    (0..OBJECTS).fold(Minitransaction::default(), |creation, object| {
        let data = Some(Bytes::from_static(b"0"));
        creation.op(tree::Op::Create(tree::NewNode::persistent(path_of(object), data)))
    })
}

/// Histories by object.
type Histories<O> = BTreeMap<u64, Vec<Operation<O>>>;

/// What callers asked and were told.
#[derive(Default)]
struct Recorded {
    moment: AtomicU64,
    texts: Mutex<Histories<Text>>,
    znodes: Mutex<Histories<Znode>>,
}

impl Recorded {
    fn now(&self) -> u64 {
        self.moment.fetch_add(1, Ordering::Relaxed)
    }
}

/// How it went.
#[derive(Debug, Default, Clone, Copy)]
pub struct Called {
    /// Calls that were answered.
    pub answered: u64,
    /// Calls of which nobody knows whether they happened.
    pub unanswered: u64,
    /// Objects whose histories have too many orders to look at.
    pub undecided: u64,
}

/// Callers of single objects.
pub struct Objects {
    random: Random,
    recorded: Arc<Recorded>,
    round: u64,
    is_guarded: bool,
}

impl Objects {
    /// Callers whose choices follow from `random`; readers wait for the read barrier if `is_guarded`.
    pub fn new(random: &mut Random, is_guarded: bool) -> Objects {
        Objects { random: random.fork(), recorded: Arc::default(), round: 0, is_guarded }
    }

    /// Some calls on these nodes.
    ///
    /// # Errors
    /// What cannot be true.
    pub async fn work(&mut self, kernels: &[Arc<dyn Kernel>]) -> Result<(), String> {
        self.round += 1;
        if kernels.is_empty() {
            return Ok(());
        }
        let callers = (0..2 + self.random.below(3)).map(|_| {
            let mut random = self.random.fork();
            let (recorded, round, is_guarded) =
                (self.recorded.clone(), self.round, self.is_guarded);
            async move {
                for _ in 0..1 + random.below(6) {
                    let kernel = random.pick(kernels);
                    let object = (round + random.below(IN_USE)) % OBJECTS;
                    let caller = Caller { kernel: &*kernel, recorded: &recorded, is_guarded };
                    if random.chance(50) {
                        caller.text(object, &mut random).await?;
                    } else {
                        caller.znode(object, &mut random).await?;
                    }
                }
                Ok(())
            }
        });
        let results = futures::future::join_all(callers).await;
        results.into_iter().collect()
    }

    /// Looks at all histories.
    ///
    /// # Errors
    /// Of which object no order explains what callers were told.
    pub fn settle(&self) -> Result<Called, String> {
        let recorded = &*self.recorded;
        let mut called = Called::default();
        hold("string", &Text(None), &recorded.texts.lock(), &mut called)?;
        hold("znode", &Znode { version: 0, value: 0 }, &recorded.znodes.lock(), &mut called)?;
        Ok(called)
    }
}

fn hold<O: Object>(
    kind: &str,
    initial: &O,
    histories: &Histories<O>,
    called: &mut Called,
) -> Result<(), String> {
    for (object, history) in histories {
        let answered = history.iter().filter(|operation| operation.answered.is_some()).count();
        called.answered += answered as u64;
        called.unanswered += (history.len() - answered) as u64;
        match linearizable::check(initial, history) {
            Verdict::Linearizable => {}
            Verdict::Undecided => called.undecided += 1,
            Verdict::Not => {
                let told: Vec<String> = history
                    .iter()
                    .map(|operation| {
                        let Operation { call, began, answered } = operation;
                        format!("{began} {call:?} {answered:?}")
                    })
                    .collect();
                return Err(format!(
                    "no order explains what callers of {kind} {object} were told:\n{}",
                    told.join("\n")
                ));
            }
        }
    }
    Ok(())
}

struct Caller<'a> {
    kernel: &'a dyn Kernel,
    recorded: &'a Recorded,
    is_guarded: bool,
}

impl Caller<'_> {
    /// The outcome, or `None` if nobody knows.
    async fn propose(&self, op: impl Into<machine::Op>) -> Result<Option<Outcome>, String> {
        let proposal = self.kernel.propose(vec![Minitransaction::of(op)]);
        let answer = task::timeout(PATIENCE, proposal).await.ok_or("a call was never answered")?;
        Ok(answer.ok().and_then(|outcomes| outcomes.into_iter().next()))
    }

    /// What `read` makes of the state, behind the barrier: that of the key's shard only, if it is one.
    async fn read<T: Send>(
        &self,
        key: Option<&[u8]>,
        read: impl FnOnce(View<'_>) -> Result<T, StoreError> + Send,
    ) -> Option<T> {
        let reading = async {
            match key {
                _ if !self.is_guarded => self.kernel.read(read),
                Some(key) => self.kernel.read_slots(&[Slot::of_key(key)], read).await,
                None if !self.kernel.has_all() => {
                    self.kernel.pass_read_barrier().await?;
                    self.kernel.read_first(read)
                }
                None => {
                    self.kernel.pass_read_barrier().await?;
                    self.kernel.read(read)
                }
            }
        };
        task::timeout(PATIENCE, reading).await?.ok()
    }

    async fn text(&self, object: u64, random: &mut Random) -> Result<(), String> {
        let key = key_of(object);
        let began = self.recorded.now();
        let value = began as i64 * 1_000;
        let call = match random.below(8) {
            0..=2 => TextCall::Get,
            3..=4 => TextCall::Set(value),
            5 => TextCall::GetSet(value),
            _ => TextCall::Increment,
        };
        let text = value.to_string();
        let command = |words: &[&[u8]]| cache::Op::Command(cache::Call::new(words));
        let told = match &call {
            TextCall::Get if !self.kernel.has_all() => {
                let get = cache::Call::new(&[b"GET", key.as_slice()]);
                let asked = self.kernel.ask(cache::Question::Command(get));
                match task::timeout(PATIENCE, asked).await {
                    Some(Ok(cache::Answer::Reply(reply))) => Some(reply),
                    _ => None,
                }
            }
            TextCall::Get => {
                let get = cache::Call::new(&[b"GET", key.as_slice()]);
                self.read(Some(&key), |view| cache::answer(view, &get)).await
            }
            TextCall::Set(_) => {
                reply_of(self.propose(command(&[b"SET", key.as_slice(), text.as_bytes()])).await?)?
            }
            TextCall::GetSet(_) => reply_of(
                self.propose(command(&[b"GETSET", key.as_slice(), text.as_bytes()])).await?,
            )?,
            TextCall::Increment => {
                reply_of(self.propose(command(&[b"INCR", key.as_slice()])).await?)?
            }
        };
        let answer = told.map(|reply| match reply {
            cache::Reply::Status(_) => Ok(TextAnswer::Done),
            cache::Reply::Integer(value) => Ok(TextAnswer::Value(Some(value))),
            cache::Reply::Nil => Ok(TextAnswer::Value(None)),
            cache::Reply::Bulk(text) => {
                let value = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
                value.map(|value| TextAnswer::Value(Some(value))).ok_or(format!("{text:?}"))
            }
            other => Err(format!("{other:?}")),
        });
        let answer = answer.transpose().map_err(|told| format!("{call:?} was answered {told}"))?;
        let answered = answer.map(|answer| (self.recorded.now(), answer));
        // A read that was not answered changed nothing.
        if answered.is_some() || !matches!(call, TextCall::Get) {
            let operation = Operation { call, began, answered };
            self.recorded.texts.lock().entry(object).or_default().push(operation);
        }
        Ok(())
    }

    async fn znode(&self, object: u64, random: &mut Random) -> Result<(), String> {
        let path = path_of(object);
        let began = self.recorded.now();
        let value = began as i64;
        let call = match random.below(6) {
            0..=2 => ZnodeCall::Get,
            3..=4 => ZnodeCall::Set(value, None),
            _ => ZnodeCall::Set(value, Some(random.below(6) as i32)),
        };
        let answer = match &call {
            ZnodeCall::Get => {
                let found = self.read(None, |view| tree::data(view.state, &path)).await.flatten();
                found.map(|(data, stat)| {
                    let text = data.unwrap_or_default();
                    let value = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
                    ZnodeAnswer::Is(stat.version, value.unwrap_or(-1))
                })
            }
            ZnodeCall::Set(value, version) => {
                let data = Some(Bytes::from(value.to_string()));
                let by = tree::Credentials::TRUSTED;
                let set = tree::Op::SetData { path, data, version: *version, by };
                match self.propose(set).await? {
                    None => None,
                    Some(Outcome::Refused { .. }) if version.is_some() => {
                        Some(ZnodeAnswer::OtherVersion)
                    }
                    Some(Outcome::Committed { replies, .. }) => match replies.into_iter().next() {
                        Some(machine::Reply::Tree(tree::Reply::Changed { stat })) => {
                            Some(ZnodeAnswer::Set(stat.version))
                        }
                        other => return Err(format!("{call:?} was answered {other:?}")),
                    },
                    Some(other) => return Err(format!("{call:?} was answered {other:?}")),
                }
            }
        };
        let answered = answer.map(|answer| (self.recorded.now(), answer));
        if answered.is_some() || !matches!(call, ZnodeCall::Get) {
            let operation = Operation { call, began, answered };
            self.recorded.znodes.lock().entry(object).or_default().push(operation);
        }
        Ok(())
    }
}

/// What a command was answered, if it is known.
fn reply_of(outcome: Option<Outcome>) -> Result<Option<cache::Reply>, String> {
    match outcome {
        None => Ok(None),
        Some(Outcome::Committed { replies, .. }) => match replies.into_iter().next() {
            Some(machine::Reply::Cache(reply)) => Ok(Some(reply)),
            other => Err(format!("a command was answered {other:?}")),
        },
        Some(other) => Err(format!("a command was answered {other:?}")),
    }
}
