//! Reading keys wherever they are: on this node, or by asking one that has a replica.
//!
//! What one shard can answer is asked of that. A command that reads keys of several is carried out here, on all that
//! belongs to these keys, which is fetched so that each commit over several shards is in all of it or in none.
//! Commands about all keys are asked of every shard.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proteus_env::{random, task};
use proteus_kernel::{Way, ask_whole};
use proteus_kernel_api::cache::spread::{Joining, Reach, divide, reach_of_call, sum_replies};
use proteus_kernel_api::cache::{self, Answer, Call, Question, Reply, Rows};
use proteus_kernel_api::{KernelError, Minitransaction, Outcome, View};
use proteus_types::{SLOT_COUNT, ShardId, Slot, SlotMap};

use crate::router::{RETRY, Router, TRIES_MAX};

/// Stretches of slots that one SCAN looks at until it finds a key.
const STRETCHES_MAX: usize = 16;

impl Router {
    /// As after every commit that was acknowledged before this call.
    pub(crate) async fn ask(self, question: Question) -> Result<Answer, KernelError> {
        if self.shards.is_whole() {
            return self.ask_first(&question).await;
        }
        for _ in 0..TRIES_MAX {
            match self.ask_once(&question).await? {
                Answer::Elsewhere => task::sleep(RETRY).await,
                Answer::TooLarge => {
                    let (bytes, bytes_max) = (cache::ROWS_BYTES_MAX, cache::ROWS_BYTES_MAX);
                    return Err(KernelError::TooLarge { bytes, bytes_max });
                }
                answer => return Ok(answer),
            }
        }
        let reason = "keys are on their way to another shard";
        Err(KernelError::Overloaded(reason.to_owned()))
    }

    /// Asks the first shard, which is the only one.
    async fn ask_first(&self, question: &Question) -> Result<Answer, KernelError> {
        if let Some(barrier) = self.first_barrier() {
            barrier.await?;
        }
        let mut answer = Err(KernelError::unknown_answer());
        self.meta.read(&mut |view| answer = question.answer(view).map_err(KernelError::from))?;
        answer
    }

    async fn ask_once(&self, question: &Question) -> Result<Answer, KernelError> {
        let map = self.shards.map();
        let shards: BTreeSet<ShardId> =
            question.slots().into_iter().map(|slot| map.shard_of(slot)).collect();
        if let (Some(shard), 1) = (shards.first(), shards.len()) {
            return self.ask_shard(*shard, question).await;
        }
        match question {
            Question::Command(call) if shards.is_empty() => self.ask_without_keys(&map, call).await,
            Question::Command(call) | Question::Waiting(call) => {
                let is_waiting = matches!(question, Question::Waiting(_));
                self.answer_over(&map, call, is_waiting).await
            }
            Question::Revisions { db, keys } => {
                let of = |keys| Question::Revisions { db: *db, keys };
                let take = |answer| match answer {
                    Answer::Revisions(revisions) => Ok(revisions),
                    other => Err(other),
                };
                self.of_keys(&map, keys, of, take, Answer::Revisions).await
            }
            Question::Parcels { db, keys } => {
                let of = |keys| Question::Parcels { db: *db, keys };
                let take = |answer| match answer {
                    Answer::Parcels(parcels) => Ok(parcels),
                    other => Err(other),
                };
                self.of_keys(&map, keys, of, take, Answer::Parcels).await
            }
            Question::Figures => self
                .figures(&map)
                .await
                .map(|(used_bytes, counts)| Answer::Figures { used_bytes, counts }),
            _ => Ok(Answer::Nothing),
        }
    }

    async fn ask_shard(&self, shard: ShardId, question: &Question) -> Result<Answer, KernelError> {
        let stopping = || KernelError::Unavailable("the node is stopping".to_owned());
        match self.commits.way(shard)? {
            Way::Away(away) => {
                let answer = away.ask(&question.encode()).await?;
                Answer::decode(&answer).ok_or_else(KernelError::unknown_answer)
            }
            Way::Here(here) => {
                if let Some(barrier) = here.read_barrier() {
                    barrier.await.unwrap_or_else(|_| Err(stopping()))?;
                }
                let mut answer = Err(stopping());
                here.read(&mut |view| {
                    answer = question.answer_of_shard(view).map_err(KernelError::from);
                })?;
                answer
            }
        }
    }

    /// Asks all shards, so that their answers belong together.
    async fn ask_all(
        &self,
        map: &SlotMap,
        question_of: impl Fn(ShardId) -> Question,
    ) -> Result<Vec<(ShardId, Answer)>, KernelError> {
        let questions: Vec<(ShardId, Vec<u8>)> =
            map.shards().iter().map(|shard| (*shard, question_of(*shard).encode())).collect();
        let answers = ask_whole(&self.commits, &questions).await?;
        let decode = |(shard, answer): (ShardId, Vec<u8>)| {
            Ok((shard, Answer::decode(&answer).ok_or_else(KernelError::unknown_answer)?))
        };
        answers.into_iter().map(decode).collect()
    }

    /// A command whose keys are in several shards, or are only known to it.
    async fn answer_over(
        &self,
        map: &SlotMap,
        call: &Call,
        is_waiting: bool,
    ) -> Result<Answer, KernelError> {
        let Reach::Keys(keys) = reach_of_call(call) else { return Ok(Answer::Nothing) };
        let op = cache::Op::Command(call.clone());
        let same = |a: &Bytes, b: &Bytes| map.shard_of_key(a) == map.shard_of_key(b);
        if let Some((Joining::Sum, parts)) = divide(&op, &same) {
            return self.sum_over(map, &parts).await;
        }
        let rows = match self.rows_over(map, call.db, keys.into_iter()).await? {
            Ok(rows) => rows,
            Err(other) => return Ok(other),
        };
        let state = Rows::state(rows);
        let mut at = None;
        self.meta.read(&mut |view| at = Some((view.now_ms, view.applied_ts)))?;
        let (now_ms, applied_ts) = at.ok_or_else(KernelError::unknown_answer)?;
        let view = View { state: &state, now_ms, applied_ts };
        let question = if is_waiting {
            Question::Waiting(call.clone())
        } else {
            Question::Command(call.clone())
        };
        Ok(question.answer(view)?)
    }

    /// All that belongs to keys of several shards, at one moment, or what a shard has answered instead.
    pub(crate) async fn rows_over(
        &self,
        map: &SlotMap,
        db: u8,
        keys: impl Iterator<Item = &Bytes>,
    ) -> Result<Result<Vec<Rows>, Answer>, KernelError> {
        let mut of: BTreeMap<ShardId, Vec<Bytes>> = BTreeMap::new();
        for key in keys {
            of.entry(map.shard_of_key(key)).or_default().push(key.clone());
        }
        for keys in of.values_mut() {
            keys.sort_unstable();
            keys.dedup();
        }
        let question_of = |shard| match of.get(&shard) {
            Some(keys) => Question::Rows { db, keys: keys.clone() },
            None => Question::Nothing,
        };
        let mut rows: Vec<Rows> = Vec::new();
        for (_, answer) in self.ask_all(map, question_of).await? {
            match answer {
                Answer::Rows(found) => rows.push(found),
                Answer::Nothing => {}
                other => return Ok(Err(other)),
            }
        }
        Ok(Ok(rows))
    }

    /// The sum of what each shard answers to its part of a command.
    async fn sum_over(&self, map: &SlotMap, parts: &[cache::Op]) -> Result<Answer, KernelError> {
        let part_of = |op: &cache::Op| {
            let cache::Op::Command(call) = op else { return None };
            Some((map.shard_of_key(call.arguments.get(1)?), call.clone()))
        };
        let parts: BTreeMap<ShardId, Call> = parts.iter().filter_map(part_of).collect();
        let question_of = |shard| match parts.get(&shard) {
            Some(call) => Question::Command(call.clone()),
            None => Question::Nothing,
        };
        let mut replies = Vec::new();
        for (_, answer) in self.ask_all(map, question_of).await? {
            match answer {
                Answer::Reply(reply) => replies.push(reply),
                Answer::Nothing => {}
                other => return Ok(other),
            }
        }
        sum_replies(&replies).map(Answer::Reply).ok_or_else(KernelError::unknown_answer)
    }

    /// What is asked of each of some keys, which are in several shards: `take` picks it from a shard's answer, `join`
    /// puts all together in the keys' order.
    async fn of_keys<T: Clone>(
        &self,
        map: &SlotMap,
        keys: &[Bytes],
        question_of: impl Fn(Vec<Bytes>) -> Question,
        take: impl Fn(Answer) -> Result<Vec<T>, Answer>,
        join: impl Fn(Vec<T>) -> Answer,
    ) -> Result<Answer, KernelError> {
        let of = |shard: ShardId| -> Vec<Bytes> {
            keys.iter().filter(|key| map.shard_of_key(key) == shard).cloned().collect()
        };
        let mut found = BTreeMap::new();
        for (shard, answer) in self.ask_all(map, |shard| question_of(of(shard))).await? {
            match take(answer) {
                Ok(answers) => found.extend(of(shard).into_iter().zip(answers)),
                Err(other) => return Ok(other),
            }
        }
        let all: Option<Vec<T>> = keys.iter().map(|key| found.get(key).cloned()).collect();
        all.map(join).ok_or_else(KernelError::unknown_answer)
    }

    /// What all keys take, and how many each database has.
    async fn figures(&self, map: &SlotMap) -> Result<(u64, Vec<(u64, u64)>), KernelError> {
        let (mut used, mut sums) = (0u64, Vec::new());
        for (_, answer) in self.ask_all(map, |_| Question::Figures).await? {
            let Answer::Figures { used_bytes, counts } = answer else {
                return Err(KernelError::unknown_answer());
            };
            used = used.saturating_add(used_bytes);
            sums.resize(sums.len().max(counts.len()), (0u64, 0u64));
            for (sum, count) in sums.iter_mut().zip(counts) {
                *sum = (sum.0.saturating_add(count.0), sum.1.saturating_add(count.1));
            }
        }
        Ok((used, sums))
    }

    async fn ask_without_keys(&self, map: &SlotMap, call: &Call) -> Result<Answer, KernelError> {
        let reply = match reach_of_call(call) {
            Reach::Whole(_) => {
                let name = call.arguments.first().map(|name| name.to_ascii_lowercase());
                match name.as_deref() {
                    Some(b"dbsize") => {
                        let (_, counts) = self.figures(map).await?;
                        let count = counts.get(usize::from(call.db)).map_or(0, |count| count.0);
                        Reply::Integer(i64::try_from(count).unwrap_or(i64::MAX))
                    }
                    Some(b"keys") => self.keys(map, call).await?,
                    Some(b"randomkey") => self.random_key(map, call).await?,
                    Some(b"scan") => self.scan(map, call).await?,
                    _ => self.sort(call).await?,
                }
            }
            _ => {
                return self.ask_first(&Question::Command(call.clone())).await;
            }
        };
        Ok(Answer::Reply(reply))
    }

    /// SORT_RO by or of keys that it does not name.
    async fn sort(&self, call: &Call) -> Result<Reply, KernelError> {
        let whole = Minitransaction::of(cache::Op::Command(call.clone()));
        match self.carry_out_together(&whole).await? {
            Outcome::Committed { replies, .. } => match replies.into_iter().next() {
                Some(proteus_kernel_api::Reply::Cache(reply)) => Ok(reply),
                _ => Err(KernelError::unknown_answer()),
            },
            Outcome::CheckFailed { refusal, .. } | Outcome::Refused { refusal, .. } => {
                Ok(Reply::Error(refusal.to_string().into()))
            }
        }
    }

    async fn keys(&self, map: &SlotMap, call: &Call) -> Result<Reply, KernelError> {
        let mut all = Vec::new();
        for (_, answer) in self.ask_all(map, |_| Question::Command(call.clone())).await? {
            match answer {
                Answer::Reply(Reply::Array(keys)) => all.extend(keys),
                Answer::Reply(other) => return Ok(other),
                _ => return Err(KernelError::unknown_answer()),
            }
        }
        Ok(Reply::Array(all))
    }

    /// A key of a shard that is drawn by how many keys each has.
    async fn random_key(&self, map: &SlotMap, call: &Call) -> Result<Reply, KernelError> {
        let counted = self.ask_all(map, |_| Question::Figures).await?;
        let count = |answer: &Answer| match answer {
            Answer::Figures { counts, .. } => {
                counts.get(usize::from(call.db)).map_or(0, |count| count.0)
            }
            _ => 0,
        };
        let mut left: Vec<(ShardId, u64)> =
            counted.iter().map(|(shard, answer)| (*shard, count(answer))).collect();
        left.retain(|(_, count)| *count > 0);
        while !left.is_empty() {
            let total: u64 = left.iter().map(|(_, count)| *count).sum();
            let mut drawn = random::random_u64() % total.max(1);
            let at = left.iter().position(|(_, count)| {
                let is_it = drawn < *count;
                drawn = drawn.saturating_sub(*count);
                is_it
            });
            let (shard, _) = left.swap_remove(at.unwrap_or(0));
            match self.ask_shard(shard, &Question::Command(call.clone())).await? {
                // All of its keys have expired.
                Answer::Reply(Reply::Nil) => {}
                Answer::Reply(reply) => return Ok(reply),
                _ => return Err(KernelError::unknown_answer()),
            }
        }
        Ok(Reply::Nil)
    }

    /// One page of the keys in the order of their slots, from the shard that has them.
    async fn scan(&self, map: &SlotMap, call: &Call) -> Result<Reply, KernelError> {
        let mut call = call.clone();
        for _ in 0..STRETCHES_MAX {
            let text = call.arguments.get(1).and_then(|text| std::str::from_utf8(text).ok());
            let cursor = text.and_then(|text| text.parse::<u64>().ok());
            let slot =
                cursor.and_then(|cursor| u16::try_from(cursor >> 32).ok()).and_then(Slot::new);
            let Some(slot) = slot else {
                // Its error, or its end.
                let answer = self.ask_shard(ShardId::META, &Question::Command(call)).await?;
                let Answer::Reply(reply) = answer else {
                    return Err(KernelError::unknown_answer());
                };
                return Ok(reply);
            };
            let range = map
                .ranges()
                .find(|range| range.last >= slot.number())
                .ok_or_else(KernelError::unknown_answer)?;
            let answer = self.ask_shard(range.shard, &Question::Command(call.clone())).await?;
            let (next, found) = match answer {
                Answer::Reply(Reply::Array(parts)) => match <[Reply; 2]>::try_from(parts) {
                    Ok([Reply::Bulk(next), Reply::Array(found)]) => (next, found),
                    _ => return Err(KernelError::unknown_answer()),
                },
                Answer::Reply(other) => return Ok(other),
                _ => return Err(KernelError::unknown_answer()),
            };
            let is_in_range = |key: &Reply| match key {
                Reply::Bulk(key) => Slot::of_key(key).number() <= range.last,
                _ => true,
            };
            let found: Vec<Reply> = found.into_iter().filter(is_in_range).collect();
            let next: u64 =
                std::str::from_utf8(&next).ok().and_then(|n| n.parse().ok()).unwrap_or(0);
            let behind = (u64::from(range.last) + 1) << 32;
            let next = match range.last + 1 {
                SLOT_COUNT => next,
                _ if next == 0 || next >= behind => behind,
                _ => next,
            };
            if !found.is_empty() || next == 0 {
                let cursor = Reply::text(next.to_string());
                return Ok(Reply::Array(vec![cursor, Reply::Array(found)]));
            }
            if let Some(cursor) = call.arguments.get_mut(1) {
                *cursor = Bytes::from(next.to_string());
            }
        }
        let cursor = call.arguments.get(1).cloned().unwrap_or_default();
        Ok(Reply::Array(vec![Reply::Bulk(cursor), Reply::Array(Vec::new())]))
    }
}
