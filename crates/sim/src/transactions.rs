//! Transactions over rows, as the SQL engine makes them: they read at one timestamp, then commit what they
//! write with checks that nobody has written it since.
//!
//! ```text
//!   bank    transfers between accounts        the total is always the same (no torn snapshot, no lost update)
//!   pair    counts one of two rows            of any two snapshots one is the older of both rows (no long fork)
//!   duty    goes off duty if another is on    somebody is on duty (no write skew, with the rows read checked too)
//! ```
//! Sources: Berenson and others, "A critique of ANSI SQL isolation levels" (1995); Cerone, Bernardi and
//! Gotsman, "A framework for transactional consistency models" (2015), for the long fork.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proteus_env::task;
use proteus_kernel::Shard;
use proteus_machine::View;
use proteus_shard_machine::{Minitransaction, Outcome, table};
use proteus_store::StoreError;
use proteus_types::CommitTs;

use crate::commands::FIRST_TABLE;
use crate::random::Random;
use crate::replica::Machine;

/// A proposal is answered within this, in simulated time.
const PATIENCE: Duration = Duration::from_secs(120);

/// The ledger's comes before it.
const TABLE: table::TableId = table::TableId(FIRST_TABLE + 1);

/// Rows: accounts, then the pair, then who is on duty.
const ACCOUNTS: i64 = 5;
const OPENING: i64 = 100;
const PAIR: [i64; 2] = [10, 11];
const DUTY: [i64; 2] = [20, 21];

/// Creates the table and its rows, in one commit.
pub fn creation() -> Minitransaction {
    let column = |name: &str| table::Column {
        name: name.to_owned(),
        column_type: table::ColumnType::BigInt,
        not_null: true,
        default: None,
    };
    let definition = table::Definition {
        schema: "public".to_owned(),
        name: "transactions".to_owned(),
        columns: vec![column("id"), column("value")],
        primary_key: vec![0],
        source: table::Source::Rows,
    };
    let create = table::Op::CreateTable { id: None, definition, if_not_exists: false };
    let reserve = Minitransaction::of(create);
    let accounts = (0..ACCOUNTS).map(|id| (id, OPENING));
    let rows = accounts.chain(PAIR.map(|id| (id, 0))).chain(DUTY.map(|id| (id, 1)));
    rows.fold(reserve, |creation, (id, value)| creation.op(put(id, value)))
}

fn put(id: i64, value: i64) -> table::Op {
    let row = vec![table::Value::Int(id), table::Value::Int(value)];
    table::Op::PutRow {
        table: TABLE,
        key: table::RowKey::FromColumns,
        row,
        mode: table::PutMode::Upsert,
    }
}

fn key_of(id: i64) -> Vec<u8> {
    let mut key = Vec::new();
    table::Value::Int(id).encode_key(&mut key);
    key
}

/// What a transaction reads: all rows at one timestamp.
#[derive(Debug, Clone)]
struct Snapshot {
    read_ts: CommitTs,
    rows: BTreeMap<i64, i64>,
}

impl Snapshot {
    fn of(view: View<'_>) -> Result<Snapshot, StoreError> {
        let mut rows = BTreeMap::new();
        for id in (0..ACCOUNTS).chain(PAIR).chain(DUTY) {
            let row = table::rows::get(view.state, TABLE, &key_of(id), view.applied_ts)?;
            if let Some(table::Value::Int(value)) = row.as_ref().and_then(|row| row.get(1)) {
                rows.insert(id, *value);
            }
        }
        Ok(Snapshot { read_ts: view.applied_ts, rows })
    }

    fn value(&self, id: i64) -> i64 {
        self.rows.get(&id).copied().unwrap_or(0)
    }

    fn unchanged(&self, id: i64) -> table::Check {
        table::Check::RowUnchangedSince { table: TABLE, key: key_of(id), read_ts: self.read_ts }
    }

    /// A transaction that writes these rows.
    fn write(&self, rows: &[(i64, i64)]) -> Minitransaction {
        rows.iter().fold(Minitransaction::default(), |transaction, (id, value)| {
            transaction.check(self.unchanged(*id)).op(put(*id, *value))
        })
    }
}

/// How it went.
#[derive(Debug, Default, Clone, Copy)]
pub struct Transacted {
    /// Transactions that committed.
    pub committed: u64,
    /// Those that met another.
    pub conflicts: u64,
    /// Those of which nobody knows.
    pub unknown: u64,
    /// Snapshots that were compared.
    pub snapshots: u64,
}

#[derive(Debug, Default)]
struct Seen {
    went: Transacted,
    /// The pair's counts, as snapshots showed them: with each of the first the least and greatest second.
    pairs: BTreeMap<i64, (i64, i64)>,
    /// Counts of the pair that were acknowledged, and that may have happened.
    counted: [u64; 2],
    perhaps: [u64; 2],
}

impl Seen {
    fn hold(&mut self, snapshot: &Snapshot) -> Result<(), String> {
        self.went.snapshots += 1;
        let total: i64 = (0..ACCOUNTS).map(|id| snapshot.value(id)).sum();
        if total != ACCOUNTS * OPENING {
            return Err(format!("the accounts hold {total} together: {snapshot:?}"));
        }
        if DUTY.iter().all(|id| snapshot.value(*id) == 0) {
            return Err(format!("nobody is on duty: {snapshot:?}"));
        }
        let [x, y] = PAIR.map(|id| snapshot.value(id));
        let seconds = self.pairs.entry(x).or_insert((y, y));
        *seconds = (seconds.0.min(y), seconds.1.max(y));
        let before = self.pairs.range(..x).map(|(_, (_, greatest))| *greatest).max();
        let after = self.pairs.range(x + 1..).map(|(_, (least, _))| *least).min();
        if before.is_some_and(|before| before > y) || after.is_some_and(|after| after < y) {
            return Err(format!(
                "a snapshot shows {x} and {y} of the pair, and another one of them older and one newer: {:?}",
                self.pairs
            ));
        }
        Ok(())
    }
}

/// Clients that make transactions.
pub struct Transactions {
    random: Random,
    seen: Arc<Mutex<Seen>>,
    /// Whether those on duty have what they read checked, as they must.
    checks_reads: bool,
}

impl Transactions {
    /// Clients whose choices follow from `random`.
    pub fn new(random: &mut Random, checks_reads: bool) -> Transactions {
        Transactions { random: random.fork(), seen: Arc::default(), checks_reads }
    }

    /// Some transactions on these nodes.
    ///
    /// # Errors
    /// What cannot be true.
    pub async fn work<M: Machine>(&mut self, shards: &[Arc<Shard<M>>]) -> Result<(), String> {
        if shards.is_empty() {
            return Ok(());
        }
        let clients = (0..2 + self.random.below(4)).map(|_| {
            let mut random = self.random.fork();
            let seen = self.seen.clone();
            let checks_reads = self.checks_reads;
            async move {
                for _ in 0..1 + random.below(5) {
                    let shard = random.pick(shards);
                    transact(&shard, &mut random, &seen, checks_reads).await?;
                }
                Ok(())
            }
        });
        futures::future::join_all(clients).await.into_iter().collect()
    }

    /// What the rows hold in the end is what was counted.
    ///
    /// # Errors
    /// If an update was lost, or made twice.
    pub fn settle<M: Machine>(&self, shards: &[Arc<Shard<M>>]) -> Result<Transacted, String> {
        let mut seen = self.seen.lock();
        for shard in shards {
            let Some(snapshot) = snapshot(shard)? else { continue };
            seen.hold(&snapshot)?;
            for (place, id) in PAIR.into_iter().enumerate() {
                let (least, most) =
                    (seen.counted[place], seen.counted[place] + seen.perhaps[place]);
                let value = snapshot.value(id).unsigned_abs();
                if value < least || value > most {
                    return Err(format!(
                        "row {id} counts {value}, and between {least} and {most} were to be counted"
                    ));
                }
            }
        }
        Ok(seen.went)
    }
}

fn snapshot<M: Machine>(shard: &Shard<M>) -> Result<Option<Snapshot>, String> {
    let mut read = None;
    if shard.read(&mut |view| read = Some(Snapshot::of(view))).is_err() {
        return Ok(None);
    }
    let snapshot = read.transpose().map_err(|fault| format!("rows cannot be read: {fault}"))?;
    // A node that is not brought up yet has no rows.
    Ok(snapshot.filter(|snapshot| !snapshot.rows.is_empty()))
}

async fn transact<M: Machine>(
    shard: &Shard<M>,
    random: &mut Random,
    seen: &Mutex<Seen>,
    checks_reads: bool,
) -> Result<(), String> {
    let Some(snapshot) = snapshot(shard)? else { return Ok(()) };
    seen.lock().hold(&snapshot)?;
    let counts = random.below(2) as usize;
    let (transaction, is_count) = match random.below(5) {
        0..=1 => {
            let (from, to) =
                (random.below(ACCOUNTS as u64) as i64, random.below(ACCOUNTS as u64) as i64);
            if from == to {
                return Ok(());
            }
            let amount = random.below(20) as i64;
            let rows = [(from, snapshot.value(from) - amount), (to, snapshot.value(to) + amount)];
            (snapshot.write(&rows), false)
        }
        2 => {
            let id = PAIR[counts];
            (snapshot.write(&[(id, snapshot.value(id) + 1)]), true)
        }
        3 => {
            let own = random.pick(&DUTY);
            let is_off = snapshot.value(own) == 0;
            let others_are_on = DUTY.iter().any(|id| *id != own && snapshot.value(*id) == 1);
            if !is_off && !others_are_on {
                return Ok(());
            }
            let transaction = snapshot.write(&[(own, i64::from(is_off))]);
            let others = DUTY.into_iter().filter(|id| *id != own && checks_reads);
            let transaction = others.fold(transaction, |all, id| all.check(snapshot.unchanged(id)));
            (transaction, false)
        }
        // Reads, and that is all.
        _ => return Ok(()),
    };
    if random.chance(40) {
        task::sleep(Duration::from_millis(random.below(200))).await;
    }
    let proposal = task::timeout(PATIENCE, shard.propose(&[transaction])).await;
    let outcomes = proposal.ok_or("a transaction was never answered")?;
    let outcome = outcomes.ok().and_then(|outcomes| outcomes.into_iter().next());
    let mut seen = seen.lock();
    match outcome {
        Some(Outcome::Committed { .. }) => {
            seen.went.committed += 1;
            seen.counted[counts] += u64::from(is_count);
        }
        Some(Outcome::CheckFailed { .. }) => seen.went.conflicts += 1,
        None => {
            seen.went.unknown += 1;
            seen.perhaps[counts] += u64::from(is_count);
        }
        Some(other) => return Err(format!("a transaction was answered {other:?}")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(change: &[(i64, i64)]) -> Snapshot {
        let accounts = (0..ACCOUNTS).map(|id| (id, OPENING));
        let mut rows: BTreeMap<i64, i64> =
            accounts.chain(PAIR.map(|id| (id, 0))).chain(DUTY.map(|id| (id, 1))).collect();
        rows.extend(change.iter().copied());
        Snapshot { read_ts: CommitTs::ZERO, rows }
    }

    fn held(snapshots: &[Snapshot]) -> Result<(), String> {
        let mut seen = Seen::default();
        snapshots.iter().try_for_each(|snapshot| seen.hold(snapshot))
    }

    #[test]
    fn what_isolation_forbids_is_found() {
        let [x, y] = PAIR;
        assert_eq!(held(&[snapshot(&[(0, 90), (1, 110)]), snapshot(&[(x, 1)])]), Ok(()));
        assert_eq!(
            held(&[snapshot(&[(x, 1)]), snapshot(&[(x, 1), (y, 1)]), snapshot(&[])]),
            Ok(())
        );
        assert!(held(&[snapshot(&[(0, 90)])]).is_err(), "money lost");
        assert!(held(&[snapshot(&[(x, 1)]), snapshot(&[(y, 1)])]).is_err(), "a long fork");
        assert!(held(&[snapshot(&[(y, 1)]), snapshot(&[(x, 1)])]).is_err(), "a long fork");
        assert!(held(&[snapshot(&[(DUTY[0], 0), (DUTY[1], 0)])]).is_err(), "write skew");
    }
}
