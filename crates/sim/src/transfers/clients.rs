//! Those who move money between accounts and count it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proteus_env::task;
use proteus_machine::{KernelError, View};
use proteus_shard_machine::{Minitransaction, Outcome, Reply, SpreadState, cache};
use proteus_store::StoreError;
use proteus_types::{ShardId, Slot, SlotMap};

use super::room::numbers_of;
use super::{ACCOUNTS, Reading, Running, Summary, TWINS, Told, apart, command, key, number_of};
use crate::cluster::PATIENCE;
use crate::random::Random;

/// Counts a transfer, and moves money.
const MOVES: &str = "redis.call('DECRBY', KEYS[2], ARGV[1]) redis.call('INCRBY', KEYS[3], ARGV[1]) return redis.call('INCR', KEYS[1])";

/// Somebody who moves money and counts it, on any node.
pub(super) struct Client {
    pub(super) number: u64,
    pub(super) map: SlotMap,
    pub(super) told: Arc<Mutex<BTreeMap<u64, Told>>>,
    pub(super) nodes: Vec<Running>,
    pub(super) random: Random,
    pub(super) reading: Reading,
    pub(super) summary: Summary,
}

impl Client {
    pub(super) async fn work(mut self) -> Result<Summary, String> {
        for _ in 0..1 + self.random.below(8) {
            let node = self.random.pick(&self.nodes);
            let answered = match self.random.chance(60) {
                true => self.transfer(&node).await,
                false if self.reading != Reading::Apart && self.random.chance(50) => {
                    self.look(&node).await
                }
                false => self.read(&node).await,
            };
            let answered = answered.map_err(|claim| format!("{}: {claim}", node.node))?;
            self.summary.unanswered += u64::from(!answered);
            if self.random.chance(30) {
                task::sleep(Duration::from_millis(self.random.below(300))).await;
            }
        }
        Ok(self.summary)
    }

    /// Moves money between two accounts, and counts that; now and then with a part that is refused.
    pub(super) async fn transfer(&mut self, node: &Running) -> Result<bool, String> {
        let amount = self.random.below(100).to_string();
        let (from, to) = (self.random.below(ACCOUNTS), self.random.below(ACCOUNTS));
        let is_refused = self.random.chance(10);
        let keys = [key("count", self.number), key("account", from), key("account", to)];
        let mut mini = match self.random.chance(20) {
            // Keys of several shards in one command.
            true => {
                let [count, from, to] = &keys;
                Minitransaction::of(command(&["EVAL", MOVES, "3", count, from, to, &amount]))
            }
            false => Minitransaction::of(command(&["INCR", &keys[0]]))
                .op(command(&["DECRBY", &keys[1], &amount]))
                .op(command(&["INCRBY", &keys[2], &amount])),
        };
        if self.random.chance(30) {
            for twin in TWINS {
                mini = mini.op(command(&["INCR", &key(twin, self.number)]));
            }
        }
        let refusing = mini.ops.len();
        if is_refused {
            let call = cache::Call::new(&["LPUSH", &key("account", to), "x"]);
            mini = mini.op(cache::Op::OrRefuse(call));
        }
        self.told.lock().entry(self.number).or_default().unknown += 1;
        let answer = task::timeout(PATIENCE, node.kernel.commit(mini)).await;
        let mut told = self.told.lock();
        let told = told.entry(self.number).or_default();
        match answer.ok_or("a transfer was never answered")? {
            Ok(Outcome::Committed { replies, .. }) if !is_refused => {
                let Some(Reply::Cache(cache::Reply::Integer(count))) = replies.first() else {
                    return Err(format!("a transfer was answered with {replies:?}"));
                };
                if *count <= told.count || *count > told.count + told.unknown {
                    return Err(format!("transfer {count} was acknowledged after {told:?}"));
                }
                // Those without an answer that came before it are known now.
                told.unknown -= count - told.count;
                told.count = *count;
                self.summary.acknowledged += 1;
                Ok(true)
            }
            Ok(Outcome::Refused { op_index, .. }) if is_refused && op_index == refusing => {
                told.unknown -= 1;
                self.summary.refused += 1;
                Ok(true)
            }
            Ok(other) => Err(format!("a transfer came to {other:?}")),
            Err(KernelError::Overloaded(_) | KernelError::DiskFull(_)) => {
                told.unknown -= 1;
                Ok(false)
            }
            Err(_) => Ok(false),
        }
    }

    /// Reads the count of its own transfers, and two keys that only change together, waiting for nothing but
    /// their shards.
    async fn look(&mut self, node: &Running) -> Result<bool, String> {
        let begun = self.told.lock().get(&self.number).copied().unwrap_or_default();
        let (count_key, twin_keys) =
            (key("count", self.number), TWINS.map(|twin| key(twin, self.number)));
        let slot = |key: &String| Slot::of_key(key.as_bytes());
        let twin_slots: Vec<Slot> = twin_keys.iter().map(slot).collect();
        let looking = async {
            if !node.kernel.has_all() {
                let twins = numbers_of(&*node.kernel, &twin_keys).await?;
                let count = numbers_of(&*node.kernel, std::slice::from_ref(&count_key)).await?;
                return Ok(((twins[0], twins[1]), count[0]));
            }
            let twins = node.kernel.read_slots(&twin_slots, |view| {
                Ok((number_of(view, &twin_keys[0])?, number_of(view, &twin_keys[1])?))
            });
            let twins = twins.await?;
            let count_slot = [slot(&count_key)];
            let count = node.kernel.read_slots(&count_slot, |view| number_of(view, &count_key));
            Ok::<_, KernelError>((twins, count.await?))
        };
        let looked = task::timeout(PATIENCE, looking).await.ok_or("a look never ends")?;
        let Ok((twins, count)) = looked else { return Ok(false) };
        if twins.0 != twins.1 {
            return Err(format!(
                "of two keys that change together one is {} and the other {}",
                twins.0, twins.1
            ));
        }
        let told = self.told.lock().get(&self.number).copied().unwrap_or_default();
        if count < begun.count || count > told.count + told.unknown {
            return Err(format!(
                "{count} transfers are seen by themselves, and {begun:?} were told"
            ));
        }
        self.summary.reads += 1;
        Ok(true)
    }

    /// Reads all accounts and the count of its own transfers at one moment.
    pub(super) async fn read(&mut self, node: &Running) -> Result<bool, String> {
        let begun = self.told.lock().get(&self.number).copied().unwrap_or_default();
        let own = key("count", self.number);
        let read_all = |view: View<'_>| {
            let accounts: Result<i64, StoreError> =
                (0..ACCOUNTS).map(|account| number_of(view, &key("account", account))).sum();
            Ok((accounts?, number_of(view, &own)?))
        };
        if !node.kernel.has_all() {
            let accounts = (0..ACCOUNTS).map(|account| key("account", account));
            let keys: Vec<String> = accounts.chain([own]).collect();
            let read = task::timeout(PATIENCE, numbers_of(&*node.kernel, &keys)).await;
            let Ok(mut numbers) = read.ok_or("a read never ends")? else { return Ok(false) };
            let count = numbers.pop().unwrap_or_default();
            return self.check(begun, (numbers.iter().sum(), count));
        }
        let barrier = task::timeout(PATIENCE, node.kernel.pass_read_barrier()).await;
        if barrier.ok_or("a read barrier never ends")?.is_err() {
            return Ok(false);
        }
        let read = match self.reading {
            Reading::Whole | Reading::BackedUpApart | Reading::FollowsApart | Reading::WithRoom => {
                node.kernel.read(read_all)
            }
            Reading::Apart => {
                let mut found = None;
                let mut read = |views: &[(ShardId, View<'_>)]| {
                    found = SpreadState::new(views, &self.map).view().map(read_all);
                };
                let read = apart(&node.shards(), &[], &mut read);
                let missing = || KernelError::Unavailable("no shards".to_owned());
                read.and_then(|()| found.ok_or_else(missing)?.map_err(KernelError::from))
            }
        };
        let Ok(found) = read else { return Ok(false) };
        self.check(begun, found)
    }

    /// Holds what all accounts hold together, and the count of its own transfers, to what was told before.
    fn check(&mut self, begun: Told, (sum, count): (i64, i64)) -> Result<bool, String> {
        if sum != 0 {
            return Err(format!("all accounts hold {sum}"));
        }
        let told = self.told.lock().get(&self.number).copied().unwrap_or_default();
        if count < begun.count || count > told.count + told.unknown {
            return Err(format!("{count} transfers are seen, and {begun:?} were told"));
        }
        self.summary.reads += 1;
        Ok(true)
    }
}
