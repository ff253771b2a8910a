//! What must hold of any entries applied to any replica.
//!
//! [`check`] draws entries from a seed and holds the composed machine to each of the claims in
//! `docs/testing.md`. A failure is cut down to few entries before it is reported.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use proteus_shard_machine::{Minitransaction, Op, Outcome, cache, table, topic, tree};
use proteus_store::{DiskStore, LayeredStore, StoreError};
use proteus_types::{CommitTs, LogIndex, Term};

use crate::commands::Generator;
use crate::random::Random;
use crate::replica::{
    Applied, Bytewise, Entry, Machine, applied_index, apply_entry, bytewise, difference, view,
};

/// Entries of one run.
const ENTRIES: u64 = 120;

/// The time of the first entry, in milliseconds since the Unix epoch.
const START_MS: u64 = 1_700_000_000_000;

/// Beyond every span after which something becomes due, in milliseconds.
const LONG_MS: u64 = 3 * 24 * 60 * 60 * 1000;

/// What was drawn: entries, and whether each command was made to abort.
#[derive(Debug, Clone)]
pub struct Script {
    entries: Vec<(Entry, Vec<bool>)>,
}

/// Holds `M` to every claim, with the entries of `seed`.
///
/// # Errors
/// What does not hold, with the entries that show it.
pub fn check<M: Machine>(seed: u64) -> Result<(), String> {
    let script = draw::<M>(seed).map_err(|fault| fault.to_string())?;
    let Err(claim) = hold::<M>(seed, &script) else { return Ok(()) };
    let (script, claim) = shrink::<M>(seed, script, claim);
    let shown: Vec<String> = script.entries.iter().map(|(entry, _)| format!("{entry:?}")).collect();
    Err(format!("{claim}\nwith {} entries:\n{}", shown.len(), shown.join("\n")))
}

/// How many commands of `seed` committed and how many aborted, by the machine of their first op: whether
/// the commands drawn still meet.
///
/// # Errors
/// If the replica stops.
pub fn yields<M: Machine>(seed: u64) -> Result<BTreeMap<(u8, bool), u64>, String> {
    let count = || -> Result<BTreeMap<(u8, bool), u64>, StoreError> {
        let mut counts = BTreeMap::new();
        let script = draw::<M>(seed)?;
        let (_, outcomes) = in_memory::<M>(&script)?;
        for ((entry, dooms), applied) in script.entries.iter().zip(&outcomes) {
            for ((command, is_doomed), (outcome, _)) in
                entry.commands.iter().zip(dooms).zip(applied)
            {
                let machine = match command.ops.first() {
                    Some(Op::Tree(_)) => 1,
                    Some(Op::Topic(_)) => 2,
                    Some(Op::Cache(_)) => 3,
                    Some(Op::Table(_)) => 4,
                    None => 0,
                };
                if !is_doomed {
                    let is_committed = matches!(outcome, Outcome::Committed { .. });
                    *counts.entry((machine, is_committed)).or_default() += 1;
                }
            }
        }
        Ok(counts)
    };
    count().map_err(|fault| fault.to_string())
}

/// Draws entries by applying them, so that checks can be drawn from the state they will meet.
fn draw<M: Machine>(seed: u64) -> Result<Script, StoreError> {
    let mut random = Random::new(seed);
    let mut generator = Generator::new(random.fork());
    let mut store = LayeredStore::in_memory();
    let mut last_ts = CommitTs::from_physical_ms(START_MS);
    let beginning = Entry { first_ts: last_ts, commands: generator.beginning() };
    last_ts = beginning.last_ts();
    apply_entry::<M>(&mut store, LogIndex(1), &beginning)?;
    let mut entries = vec![(beginning.clone(), vec![false; beginning.commands.len()])];
    for index in 2..=ENTRIES {
        if random.chance(40) {
            let step_ms = random.pick(&[1, 50, 3_000, 61_000, 400_000, LONG_MS]);
            last_ts = CommitTs::from_physical_ms(last_ts.physical_ms() + random.below(step_ms) + 1);
        }
        let mut commands = Vec::new();
        let mut dooms = Vec::new();
        if random.chance(20) {
            commands = M::due(view(&store, last_ts), random.pick(&[1, 3, 1_000]))?;
            dooms = vec![false; commands.len()];
        }
        for _ in 0..random.below(4) {
            let is_doomed = random.chance(20);
            let view = view(&store, last_ts);
            commands.push(match is_doomed {
                true => generator.doomed(view)?,
                false => generator.minitransaction(view)?,
            });
            dooms.push(is_doomed);
        }
        let entry = Entry { first_ts: last_ts.plus(1 + random.below(3)), commands };
        last_ts = entry.last_ts();
        apply_entry::<M>(&mut store, LogIndex(index), &entry)?;
        entries.push((entry, dooms));
    }
    Ok(Script { entries })
}

/// Leaves out whatever is not needed for the claim to fail.
fn shrink<M: Machine>(seed: u64, mut script: Script, mut claim: String) -> (Script, String) {
    let fails = |candidate: &Script, claim: &mut String| match hold::<M>(seed, candidate) {
        Err(found) => {
            *claim = found;
            true
        }
        Ok(()) => false,
    };
    let mut size = script.entries.len() / 2;
    while size > 0 {
        let mut start = 0;
        while start < script.entries.len() {
            let mut candidate = script.clone();
            candidate.entries.drain(start..(start + size).min(script.entries.len()));
            if fails(&candidate, &mut claim) {
                script = candidate;
            } else {
                start += size;
            }
        }
        size /= 2;
    }
    (script, claim)
}

fn hold<M: Machine>(seed: u64, script: &Script) -> Result<(), String> {
    let held = || -> Result<Result<(), String>, StoreError> {
        if let Err(claim) = encodings_are_stable::<M>(script)? {
            return Ok(Err(claim));
        }
        let (memory, outcomes) = in_memory::<M>(script)?;
        let (again, outcomes_again) = in_memory::<M>(script)?;
        let expected = bytewise(&memory)?;
        if let Some(difference) = difference(&expected, &bytewise(&again)?) {
            return Ok(Err(format!("the same entries leave different bytes: {difference}")));
        }
        if outcomes != outcomes_again {
            return Ok(Err("the same entries have different outcomes".to_owned()));
        }
        for claim in [
            aborted_leave_no_trace::<M>(script)?,
            checkpoints_change_nothing::<M>(seed, script, &expected, &outcomes)?,
            time_settles::<M>(memory, last_ts(script))?,
        ] {
            if claim.is_err() {
                return Ok(claim);
            }
        }
        Ok(Ok(()))
    };
    held().unwrap_or_else(|fault| Err(format!("the replica stopped: {fault}")))
}

fn last_ts(script: &Script) -> CommitTs {
    script.entries.last().map_or(CommitTs::from_physical_ms(START_MS), |(entry, _)| entry.last_ts())
}

fn in_memory<M: Machine>(script: &Script) -> Result<(LayeredStore, Vec<Vec<Applied>>), StoreError> {
    let mut store = LayeredStore::in_memory();
    let mut outcomes = Vec::new();
    for (index, (entry, _)) in (1..).zip(&script.entries) {
        outcomes.push(apply_entry::<M>(&mut store, LogIndex(index), entry)?);
    }
    Ok((store, outcomes))
}

fn encodings_are_stable<M: Machine>(script: &Script) -> Result<Result<(), String>, StoreError> {
    for command in script.entries.iter().flat_map(|(entry, _)| &entry.commands) {
        let mut encoded = Vec::new();
        M::encode(command, &mut encoded);
        encoded.extend_from_slice(b"next");
        let (decoded, rest) = M::decode(&encoded)?;
        let mut again = Vec::new();
        M::encode(&decoded, &mut again);
        again.extend_from_slice(rest);
        if decoded != *command || rest != b"next" || again != encoded {
            return Ok(Err(format!("a command does not come back from the log: {command:?}")));
        }
    }
    Ok(Ok(()))
}

/// One command an entry, with the state before and after.
fn aborted_leave_no_trace<M: Machine>(script: &Script) -> Result<Result<(), String>, StoreError> {
    let mut store = LayeredStore::in_memory();
    let mut before = bytewise(&store)?;
    for (entry, dooms) in &script.entries {
        for (place, (command, is_doomed)) in entry.commands.iter().zip(dooms).enumerate() {
            let commit_ts = entry.first_ts.plus(place as u64);
            let position = proteus_machine::Position::new(
                proteus_types::ShardId::META,
                Term(1),
                LogIndex(1),
                commit_ts,
            );
            let mut changes = Vec::new();
            let outcome = M::apply(&mut store, position, command, &mut changes)?;
            let after = bytewise(&store)?;
            match outcome {
                Outcome::Committed { replies, .. } => {
                    if *is_doomed || replies.len() != command.ops.len() {
                        return Ok(Err(format!("committed in part: {command:?}")));
                    }
                }
                Outcome::CheckFailed { .. } | Outcome::Refused { .. } => {
                    if let Some(difference) = difference(&before, &after) {
                        return Ok(Err(format!(
                            "an aborted commit left {difference}: {command:?}"
                        )));
                    }
                    if !changes.is_empty() {
                        return Ok(Err(format!("an aborted commit was announced: {command:?}")));
                    }
                }
            }
            before = after;
        }
    }
    Ok(Ok(()))
}

/// Checkpoints at random moments, and crashes at some: the store is reopened where it was last
/// checkpointed, and the entries behind are applied again.
fn checkpoints_change_nothing<M: Machine>(
    seed: u64,
    script: &Script,
    expected: &Bytewise,
    outcomes: &[Vec<Applied>],
) -> Result<Result<(), String>, StoreError> {
    let directory = tempfile::tempdir().map_err(|error| StoreError::Io {
        location: "a temporary directory".to_owned(),
        message: error.to_string(),
    })?;
    let mut random = Random::new(seed ^ 0xC4EC);
    let mut store = open(directory.path())?;
    let mut writing = None;
    let mut crashes_left = 2;
    let mut next = 0;
    while next < script.entries.len() {
        let index = LogIndex(next as u64 + 1);
        if apply_entry::<M>(&mut store, index, &script.entries[next].0)? != outcomes[next] {
            return Ok(Err(format!("entry {} has another outcome over a checkpoint", index.0)));
        }
        next += 1;
        match random.below(10) {
            0 if writing.is_none() => writing = store.freeze(),
            1 => {
                if let Some(checkpoint) = writing.take() {
                    checkpoint.write()?;
                    store.release_frozen();
                }
            }
            // Written, but the memory not yet given back: both layers say the same.
            2 => {
                if let Some(checkpoint) = &writing {
                    checkpoint.write()?;
                }
            }
            3 if crashes_left > 0 && random.chance(30) => {
                crashes_left -= 1;
                writing = None;
                drop(std::mem::take(&mut store));
                store = open(directory.path())?;
                next = usize::try_from(applied_index(&store)?.0).unwrap_or(usize::MAX);
            }
            _ => {}
        }
    }
    Ok(match difference(expected, &bytewise(&store)?) {
        Some(difference) => Err(format!("memory and checkpoints differ: {difference}")),
        None => Ok(()),
    })
}

fn open(directory: &Path) -> Result<LayeredStore, StoreError> {
    Ok(LayeredStore::over(DiskStore::open(directory)?))
}

/// Applies what is due until nothing is; says so if that does not end.
fn settle<M: Machine>(
    store: &mut LayeredStore,
    ts: &mut CommitTs,
) -> Result<Result<(), String>, StoreError> {
    for _ in 0..1_000 {
        let due = M::due(view(store, *ts), 100)?;
        if due.is_empty() {
            return Ok(Ok(()));
        }
        let entry = Entry { first_ts: ts.plus(1), commands: due };
        *ts = entry.last_ts();
        apply_entry::<M>(store, applied_index(store)?.next(), &entry)?;
    }
    let due = M::due(view(store, *ts), 3)?;
    Ok(Err(format!("what is due stays due when it is applied: {due:?}")))
}

/// Once what is due was applied nothing is overdue; and when everything is deleted and time has
/// passed, nothing but counters is left.
fn time_settles<M: Machine>(
    mut store: LayeredStore,
    last_ts: CommitTs,
) -> Result<Result<(), String>, StoreError> {
    let mut ts = last_ts;
    // Long enough, after the deletions, for what is remembered of producers longest: seven days.
    for pass in 0..6 {
        if let Err(claim) = settle::<M>(&mut store, &mut ts)? {
            return Ok(Err(claim));
        }
        if let Err(claim) = nothing_is_overdue(&store, ts)? {
            return Ok(Err(claim));
        }
        if pass == 1 {
            let commands = deletions(&store)?;
            let entry = Entry { first_ts: ts.plus(1), commands };
            ts = entry.last_ts();
            let applied = apply_entry::<M>(&mut store, LogIndex(1), &entry)?;
            let is_refused =
                |(outcome, _): &&Applied| !matches!(outcome, Outcome::Committed { .. });
            if let Some((outcome, _)) = applied.iter().find(is_refused) {
                return Ok(Err(format!("what is there cannot be deleted: {outcome:?}")));
            }
        }
        ts = CommitTs::from_physical_ms(ts.physical_ms() + LONG_MS);
    }
    // What was in the object store is forgotten once it was deleted there.
    let garbage = topic::tiering::garbage_objects(&store, usize::MAX)?;
    let object_ids = garbage.iter().map(|name| name.object_id).collect();
    let forget = Minitransaction::of(topic::Op::ForgetObjects { object_ids });
    let entry = Entry { first_ts: ts.plus(1), commands: vec![forget] };
    apply_entry::<M>(&mut store, LogIndex(1), &entry)?;
    // Each of these is one key however much was there before: see `docs/data-format.md`.
    const COUNTERS_MAX: usize = 8;
    let left = bytewise(&store)?;
    if left.len() > COUNTERS_MAX {
        let keys: Vec<String> = left.keys().map(|key| key.escape_ascii().to_string()).collect();
        return Ok(Err(format!("deleted things leave keys behind: {}", keys.join(" "))));
    }
    Ok(Ok(()))
}

fn nothing_is_overdue(
    store: &LayeredStore,
    ts: CommitTs,
) -> Result<Result<(), String>, StoreError> {
    let now_ms = ts.physical_ms();
    let mut live = 0;
    for (db, key) in keys_of_cache(store)? {
        if cache::revision(store, now_ms, db, &key)? != cache::Revision::ABSENT {
            live += 1;
        }
    }
    let counts = cache::database_counts(view(store, ts))?;
    let counted: u64 = counts.iter().map(|(keys, _)| keys).sum();
    if counted != live {
        return Ok(Err(format!("{counted} keys are counted, {live} have not expired")));
    }
    for db in 0..2 {
        let (told, found) =
            (cache::sums(view(store, ts), db)?, cache::recount(view(store, ts), db)?);
        if told != found {
            return Ok(Err(format!("database {db} sums up to {told:?}, its keys to {found:?}")));
        }
    }
    for path in paths(store)? {
        let Some(node) = tree::node(store, &path)? else { continue };
        let stat = node.stat();
        let due_ms = match node.kind() {
            tree::NodeKind::Container if stat.cversion > 0 => {
                let emptied_ms = CommitTs(stat.pzxid.0.cast_unsigned()).physical_ms();
                Some(emptied_ms + tree::CONTAINER_LINGER_MS)
            }
            tree::NodeKind::TimeToLive(ttl_ms) => Some(stat.mtime_ms.cast_unsigned() + ttl_ms),
            _ => None,
        };
        if stat.num_children == 0 && due_ms.is_some_and(|due_ms| due_ms <= now_ms) {
            return Ok(Err(format!("{path} of kind {:?} is overdue", node.kind())));
        }
    }
    Ok(Ok(()))
}

/// Databases and keys of the cache, expired or not: from the places of its first kind, which are a
/// database, six bytes that the key determines, and the key.
fn keys_of_cache(store: &LayeredStore) -> Result<Vec<(u8, Bytes)>, StoreError> {
    let prefix = [<cache::Cache as proteus_machine::Machine>::SPACE, 1];
    let found = bytewise(store)?;
    let keys = found.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(&prefix));
    Ok(keys.map(|(key, _)| (key[2], Bytes::copy_from_slice(&key[9..]))).collect())
}

/// Znodes that are in every tree.
const BUILT_IN: [&str; 4] = ["/", "/zookeeper", "/zookeeper/config", "/zookeeper/quota"];

/// Paths of all znodes that a client made, children before their parents.
fn paths(store: &LayeredStore) -> Result<Vec<String>, StoreError> {
    let mut found = vec!["/".to_owned()];
    let mut next = 0;
    while let Some(path) = found.get(next).cloned() {
        next += 1;
        for name in tree::children(store, &path)?.map(|(names, _)| names).unwrap_or_default() {
            found.push(tree::path::join(&path, &name));
        }
    }
    found.retain(|path| !BUILT_IN.contains(&path.as_str()));
    found.reverse();
    Ok(found)
}

/// Commands that delete everything that is there.
fn deletions(store: &LayeredStore) -> Result<Vec<Minitransaction>, StoreError> {
    let mut commands = vec![
        Minitransaction::of(cache::Op::command(&["FLUSHALL"])),
        Minitransaction::of(cache::Op::command(&["SCRIPT", "FLUSH"])),
    ];
    for kind in [cache::DeclarationKind::Entry, cache::DeclarationKind::Events] {
        for (name, _) in cache::declarations(store, kind)? {
            commands.insert(0, Minitransaction::of(cache::Op::Revoke { name, kind }));
        }
    }
    for cache::ChosenLeader { shard, node, .. } in cache::chosen_leaders(store)? {
        commands.push(Minitransaction::of(cache::Op::ChooseLeader { shard, node, keep_ms: 0 }));
    }
    for (name, _) in cache::settings(store, "")? {
        commands.push(Minitransaction::of(cache::Op::PutSetting { name, value: None }));
    }
    for path in paths(store)? {
        let by = tree::Credentials::TRUSTED;
        commands.push(Minitransaction::of(tree::Op::Delete { path, version: None, by }));
    }
    for (session, _) in tree::sessions(store, None, usize::MAX)? {
        commands.push(Minitransaction::of(tree::Op::CloseSession { session }));
    }
    for topic in topic::read::topics(store)? {
        commands.push(Minitransaction::of(topic::Op::DeleteTopic { topic_id: topic.topic_id }));
    }
    for (user, credential) in topic::credentials::credentials(store, usize::MAX)? {
        let mechanism = credential.mechanism;
        commands.push(Minitransaction::of(topic::Op::RemoveCredential { user, mechanism }));
    }
    let acls = topic::acls::acls(store)?;
    commands.push(Minitransaction::of(topic::Op::RemoveAcls { acls }));
    for (entity, values) in topic::quotas::quotas(store)? {
        let changes = values.into_keys().map(|name| (name, None)).collect();
        commands.push(Minitransaction::of(topic::Op::SetQuotas { entity, changes }));
    }
    for group in topic::groups::configured(store, usize::MAX)? {
        let settings = topic::groups::settings(store, &group)?;
        let config = settings.into_keys().map(|name| (name, None)).collect();
        commands.push(Minitransaction::of(topic::Op::ConfigureGroup { group, config }));
    }
    for table in table::catalog::tables(store)? {
        commands.push(Minitransaction::of(table::Op::DropTable { table: table.id }));
    }
    Ok(commands)
}
