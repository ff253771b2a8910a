//! A network between simulated nodes: it delays, loses, repeats and reorders, and can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proteus_env::{Clock, RuntimeClock, task};
use proteus_kernel::{Call, Links, Route, Shard, Shards, TransportError};
use proteus_types::{Member, NodeId, ShardId};

use crate::random::Random;
use crate::replica::Machine;
use crate::trace::Trace;

/// How long a sender waits for what never comes.
const GIVE_UP: Duration = Duration::from_millis(1_500);

/// How messages fare.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// Longest delay one way, in milliseconds.
    pub delay_ms_max: u64,
    /// Messages lost, in percent; of answers likewise.
    pub lost_percent: u64,
    /// Messages delivered twice, in percent.
    pub repeated_percent: u64,
}

/// What happened, for whoever wants to know that something did.
#[derive(Debug, Default, Clone, Copy)]
pub struct Traffic {
    /// Messages sent.
    pub sent: u64,
    /// Messages or answers that did not arrive, and messages that were cut off.
    pub lost: u64,
    /// Messages delivered twice.
    pub repeated: u64,
}

/// The network. Clones share it.
pub struct Network<M: Machine> {
    state: Arc<Mutex<State<M>>>,
    trace: Arc<Trace>,
    clock: Arc<RuntimeClock>,
}

impl<M: Machine> Clone for Network<M> {
    fn clone(&self) -> Network<M> {
        Network { state: self.state.clone(), trace: self.trace.clone(), clock: self.clock.clone() }
    }
}

struct State<M: Machine> {
    nodes: BTreeMap<(NodeId, ShardId), Arc<Shard<M>>>,
    /// Nodes that open and close shards by themselves.
    open: BTreeMap<NodeId, Arc<dyn Shards<M>>>,
    /// Ways, from and to, on which nothing passes.
    cut: BTreeSet<(NodeId, NodeId)>,
    weather: Weather,
    random: Random,
    traffic: Traffic,
}

/// What the network does with one message.
struct Fate {
    there: Duration,
    back: Duration,
    is_lost: bool,
    is_answer_lost: bool,
    is_repeated: bool,
}

impl<M: Machine> Network<M> {
    /// A whole network without nodes.
    pub fn new(random: Random, weather: Weather) -> Network<M> {
        let state = State {
            nodes: BTreeMap::new(),
            open: BTreeMap::new(),
            cut: BTreeSet::new(),
            weather,
            random,
            traffic: Traffic::default(),
        };
        let clock = Arc::new(RuntimeClock::new(0, 0));
        Network { state: Arc::new(Mutex::new(state)), trace: Arc::default(), clock }
    }

    /// The links of one node.
    pub fn links(&self, from: NodeId) -> Arc<dyn Links> {
        Arc::new(SimLinks { network: self.clone(), from })
    }

    /// Connects a node of one shard that runs, or disconnects one that does not.
    pub fn set_node(&self, node: NodeId, shard: Option<Arc<Shard<M>>>) {
        self.set_shard(node, ShardId::META, shard);
    }

    /// As [`Network::set_node`], of one of several shards.
    pub fn set_shard(&self, node: NodeId, id: ShardId, shard: Option<Arc<Shard<M>>>) {
        let mut state = self.state.lock();
        match shard {
            Some(shard) => state.nodes.insert((node, id), shard),
            None => state.nodes.remove(&(node, id)),
        };
    }

    /// Connects a node that opens and closes shards by itself, or disconnects it.
    pub fn set_shards(&self, node: NodeId, shards: Option<Arc<dyn Shards<M>>>) {
        let mut state = self.state.lock();
        match shards {
            Some(shards) => state.open.insert(node, shards),
            None => state.open.remove(&node),
        };
    }

    /// Cuts one way.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.state.lock().cut.insert((from, to));
    }

    /// Lets everything pass again.
    pub fn heal(&self) {
        self.state.lock().cut.clear();
    }

    /// Changes how messages fare from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.state.lock().weather = weather;
    }

    /// What happened so far.
    pub fn traffic(&self) -> Traffic {
        self.state.lock().traffic
    }

    /// A digest of all messages so far, and of when they were sent.
    pub fn digest(&self) -> u64 {
        self.trace.digest()
    }

    fn fate(&self) -> Fate {
        let mut state = self.state.lock();
        state.traffic.sent += 1;
        let Weather { delay_ms_max, lost_percent, repeated_percent } = state.weather;
        let random = &mut state.random;
        let mut delay = || Duration::from_micros(random.below(delay_ms_max * 1000 + 1));
        Fate {
            there: delay(),
            back: delay(),
            is_lost: random.below(1000) < lost_percent * 10,
            is_answer_lost: random.below(1000) < lost_percent * 10,
            is_repeated: random.below(1000) < repeated_percent * 10,
        }
    }

    /// The receiver of a message, if it gets there; none if there is no such shard.
    fn receiver(&self, from: NodeId, to: NodeId, shard: ShardId) -> Option<Option<Arc<Shard<M>>>> {
        let mut state = self.state.lock();
        if state.cut.contains(&(from, to)) {
            state.traffic.lost += 1;
            return None;
        }
        match state.open.get(&to).cloned() {
            Some(open) => {
                drop(state);
                Some(open.shard(shard))
            }
            None => state.nodes.get(&(to, shard)).cloned().map(Some),
        }
    }

    /// The answer; an error if the receiver does not take the message, and nothing if one of the two is lost.
    async fn carry(
        self,
        from: NodeId,
        to: NodeId,
        route: Route,
        message: Bytes,
    ) -> Option<Result<Bytes, String>> {
        let sent_us = u64::try_from(self.clock.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.trace.add("message", &[sent_us, from.0, to.0, route.service as u64], &message);
        let fate = self.fate();
        task::sleep(fate.there).await;
        let receiver = self.receiver(from, to, route.shard)?;
        let Some(receiver) = receiver else {
            task::sleep(fate.back).await;
            return Some(Err("a message for a shard that is not here".to_owned()));
        };
        if fate.is_lost {
            self.state.lock().traffic.lost += 1;
            return None;
        }
        if fate.is_repeated {
            self.state.lock().traffic.repeated += 1;
            let (receiver, message) = (receiver.clone(), message.clone());
            task::spawn(async move {
                task::sleep(fate.back).await;
                receiver.answer(route.service, message).await
            });
        }
        let answer = receiver.answer(route.service, message).await;
        drop(receiver);
        task::sleep(fate.back).await;
        let is_cut = self.state.lock().cut.contains(&(to, from));
        if fate.is_answer_lost || is_cut {
            self.state.lock().traffic.lost += 1;
            return None;
        }
        answer.ok().map(Ok)
    }
}

struct SimLinks<M: Machine> {
    network: Network<M>,
    from: NodeId,
}

impl<M: Machine> Links for SimLinks<M> {
    fn call(&self, to: NodeId, _member: &Member, route: Route, message: Bytes) -> Call {
        let (network, from) = (self.network.clone(), self.from);
        // On its way at once, also if nobody waits for the answer.
        let carried = task::spawn(network.carry(from, to, route, message));
        Box::pin(async move {
            match carried.await {
                Ok(Some(Ok(answer))) => Ok(answer),
                Ok(Some(Err(reason))) => Err(TransportError::Refused(reason)),
                _ => {
                    task::sleep(GIVE_UP).await;
                    Err(TransportError::Unreachable(format!("{to} did not answer {from}")))
                }
            }
        })
    }
}
