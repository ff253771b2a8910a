//! A transaction: what it reads at, what it wrote, and the one minitransaction it becomes.

use std::collections::BTreeMap;
use std::sync::Arc;

use proteus_kernel_api::table::{
    self, Definition, PutMode, Refusal as TableRefusal, RowKey, TableId, TableInfo,
};
use proteus_kernel_api::{
    Check, CommitTs, Durability, Kernel, Minitransaction, Op, Outcome, Refusal,
};

use crate::error::{SqlError, sqlstate};
use crate::snapshot::{Snapshot, Write, Writes};

/// Rows that one transaction may write, so that its memory and its log entry stay bounded.
pub const WRITES_MAX: usize = 500_000;

/// Placeholders for row ids start here: above every real one.
const NEW_ROW_IDS_START: u64 = 1 << 63;

/// A change to the catalog, before it commits.
#[derive(Debug, Clone)]
enum CatalogWrite {
    Create(Arc<TableInfo>),
    Drop(Arc<TableInfo>),
}

/// Checks and ops of other machines that commit with the transaction.
#[derive(Debug, Clone, Default)]
pub struct CrossFace {
    checks: Vec<(Check, String)>,
    ops: Vec<(Op, String)>,
}

impl CrossFace {
    /// Adds a check; `what` names it in the error if it does not hold.
    pub fn check(&mut self, check: impl Into<Check>, what: impl Into<String>) {
        self.checks.push((check.into(), what.into()));
    }

    /// Adds an op; `what` names it in the error if it is refused.
    pub fn op(&mut self, op: impl Into<Op>, what: impl Into<String>) {
        self.ops.push((op.into(), what.into()));
    }
}

/// A transaction under way. Cloning it is cheap: a savepoint is a clone.
#[derive(Clone)]
pub struct Transaction {
    read_ts: CommitTs,
    writes: BTreeMap<TableId, Arc<Writes>>,
    write_count: usize,
    names: BTreeMap<TableId, Arc<TableInfo>>,
    catalog: Vec<CatalogWrite>,
    new_row_ids: u64,
    /// Checks and ops of other machines.
    pub cross_face: CrossFace,
}

impl Transaction {
    /// A transaction that reads what has committed by now.
    ///
    /// # Errors
    /// If the kernel cannot read.
    pub fn begin(kernel: &dyn Kernel) -> Result<Transaction, SqlError> {
        let read_ts = kernel.read(|view| Ok(view.applied_ts))?;
        Ok(Transaction {
            read_ts,
            writes: BTreeMap::new(),
            write_count: 0,
            names: BTreeMap::new(),
            catalog: Vec::new(),
            new_row_ids: NEW_ROW_IDS_START,
            cross_face: CrossFace::default(),
        })
    }

    /// What a statement of this transaction reads now.
    pub fn snapshot(&self, kernel: &Arc<dyn Kernel>) -> Snapshot {
        Snapshot::new(kernel.clone(), self.read_ts, self.writes.clone())
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        let cross_face = &self.cross_face;
        self.writes.is_empty()
            && self.catalog.is_empty()
            && cross_face.ops.is_empty()
            && cross_face.checks.is_empty()
    }

    /// What the transaction did to the table of this name: `Some(None)` if it dropped it.
    pub fn table(&self, name: &str) -> Option<Option<Arc<TableInfo>>> {
        self.catalog.iter().rev().find_map(|write| match write {
            CatalogWrite::Create(table) if table.definition.name == name => {
                Some(Some(table.clone()))
            }
            CatalogWrite::Drop(table) if table.definition.name == name => Some(None),
            _ => None,
        })
    }

    /// Changes `tables` as the transaction did.
    pub fn overlay_tables(&self, tables: &mut Vec<TableInfo>) {
        for write in &self.catalog {
            match write {
                CatalogWrite::Create(table) => tables.push(table.as_ref().clone()),
                CatalogWrite::Drop(table) => tables.retain(|other| other.id != table.id),
            }
        }
    }

    /// Remembers a table to be created under a reserved id.
    pub fn create_table(&mut self, id: TableId, definition: Definition) {
        self.catalog.push(CatalogWrite::Create(Arc::new(TableInfo {
            id,
            definition,
            feed: None,
            tells_rows: false,
        })));
    }

    /// Remembers a table to be dropped.
    pub fn drop_table(&mut self, table: &Arc<TableInfo>) {
        self.forget_writes(table.id);
        let created = |write: &CatalogWrite| matches!(write, CatalogWrite::Create(created) if created.id == table.id);
        if self.catalog.iter().any(created) {
            self.catalog.retain(|write| !created(write));
        } else {
            self.catalog.push(CatalogWrite::Drop(table.clone()));
        }
    }

    fn forget_writes(&mut self, table: TableId) {
        if let Some(writes) = self.writes.remove(&table) {
            self.write_count -= writes.len();
        }
    }

    /// A placeholder key for a row that gets its row id when it commits.
    pub fn new_row_key(&mut self) -> Vec<u8> {
        self.new_row_ids += 1;
        self.new_row_ids.to_be_bytes().to_vec()
    }

    /// Remembers the write of a row.
    ///
    /// # Errors
    /// 54000 if the transaction has written too many.
    pub fn write(
        &mut self,
        table: &Arc<TableInfo>,
        key: Vec<u8>,
        write: Write,
    ) -> Result<(), SqlError> {
        if self.write_count >= WRITES_MAX {
            return Err(too_many_writes());
        }
        self.names.entry(table.id).or_insert_with(|| table.clone());
        let writes = Arc::make_mut(self.writes.entry(table.id).or_default());
        match writes.get_mut(&key) {
            Some(before) => before.row = write.row,
            None => {
                writes.insert(key, write);
                self.write_count += 1;
            }
        }
        Ok(())
    }

    /// The write of this row, if there is one.
    pub fn own_write(&self, table: TableId, key: &[u8]) -> Option<&Write> {
        self.writes.get(&table)?.get(key)
    }

    /// Commits, as durable as asked for: checks and ops of everything written, in one minitransaction.
    ///
    /// # Errors
    /// 40001 if another transaction changed a row that this one wrote, or a check does not hold;
    /// 23505 if another inserted a row under the same key.
    pub async fn commit(self, kernel: &dyn Kernel, durability: Durability) -> Result<(), SqlError> {
        if self.is_empty() {
            return Ok(());
        }
        let (mini, cross_face, names) = self.into_minitransaction();
        let (check_start, op_start) =
            (mini.checks.len() - cross_face.0.len(), mini.ops.len() - cross_face.1.len());
        match kernel.commit_at(durability, mini).await? {
            Outcome::Committed { .. } => Ok(()),
            Outcome::CheckFailed { check_index, refusal } => {
                let what = check_index.checked_sub(check_start).and_then(|i| cross_face.0.get(i));
                Err(match what {
                    Some(what) => check_failed(what, &refusal),
                    None => sql_error(&refusal, &names),
                })
            }
            Outcome::Refused { op_index, refusal } => {
                let what = op_index.checked_sub(op_start).and_then(|i| cross_face.1.get(i));
                Err(match what {
                    Some(what) => op_refused(what, &refusal),
                    None => sql_error(&refusal, &names),
                })
            }
        }
    }

    #[allow(clippy::type_complexity, reason = "taken apart at once by its only caller")]
    fn into_minitransaction(
        self,
    ) -> (Minitransaction, (Vec<String>, Vec<String>), BTreeMap<TableId, Arc<TableInfo>>) {
        let mut mini = Minitransaction::default();
        for write in self.catalog {
            mini.ops.push(match write {
                CatalogWrite::Create(table) => {
                    let definition = table.definition.clone();
                    table::Op::CreateTable { id: Some(table.id), definition, if_not_exists: false }
                        .into()
                }
                CatalogWrite::Drop(table) => table::Op::DropTable { table: table.id }.into(),
            });
        }
        for (table, writes) in self.writes {
            let has_row_ids =
                self.names.get(&table).is_some_and(|info| info.definition.has_row_ids());
            let writes = Arc::try_unwrap(writes).unwrap_or_else(|shared| shared.as_ref().clone());
            for (key, write) in writes {
                push_write(&mut mini, table, key, write, self.read_ts, has_row_ids);
            }
        }
        let mut what = (Vec::new(), Vec::new());
        for (check, name) in self.cross_face.checks {
            mini.checks.push(check);
            what.0.push(name);
        }
        for (op, name) in self.cross_face.ops {
            mini.ops.push(op);
            what.1.push(name);
        }
        (mini, what, self.names)
    }
}

fn push_write(
    mini: &mut Minitransaction,
    table: TableId,
    key: Vec<u8>,
    write: Write,
    read_ts: CommitTs,
    has_row_ids: bool,
) {
    if write.is_based {
        mini.checks
            .push(table::Check::RowUnchangedSince { table, key: key.clone(), read_ts }.into());
    }
    let mode = if write.is_based { PutMode::Upsert } else { PutMode::InsertOnly };
    match write.row {
        Some(row) => {
            let row_id = key.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes));
            let key = match (has_row_ids, write.is_new_row_id, row_id) {
                (true, false, Some(id)) => RowKey::RowId(id),
                (true, ..) => RowKey::NewRowId,
                (false, ..) => RowKey::FromColumns,
            };
            mini.ops.push(table::Op::PutRow { table, key, row, mode }.into());
        }
        // What the transaction itself inserted and removed again leaves no trace.
        None if !write.is_based => {}
        None => mini.ops.push(table::Op::DeleteRow { table, key }.into()),
    }
}

fn check_failed(what: &str, refusal: &Refusal) -> SqlError {
    let message = format!("could not commit: {what} does not hold: {refusal}");
    SqlError::new(sqlstate::SERIALIZATION_FAILURE, message)
}

fn op_refused(what: &str, refusal: &Refusal) -> SqlError {
    SqlError::new("P0001", format!("{what} was refused: {refusal}"))
        .detail("Nothing of the transaction has happened.")
}

/// Why the kernel refused, in SQL's terms.
pub fn sql_error(refusal: &Refusal, names: &BTreeMap<TableId, Arc<TableInfo>>) -> SqlError {
    let Refusal::Table(refusal) = refusal else {
        return SqlError::new(sqlstate::INTERNAL, refusal.to_string());
    };
    let name = |table: &TableId| {
        names.get(table).map_or_else(|| table.0.to_string(), |t| t.definition.name.clone())
    };
    match refusal {
        TableRefusal::RowChanged { table, .. } => serialization_failure(&name(table)),
        TableRefusal::ReadTooOld => {
            SqlError::new(sqlstate::SERIALIZATION_FAILURE, refusal.to_string())
        }
        TableRefusal::TableMissing(table) => SqlError::undefined_table(&name(table)),
        TableRefusal::TableExists(table) => {
            SqlError::new(sqlstate::DUPLICATE_TABLE, format!("relation \"{table}\" already exists"))
        }
        TableRefusal::DefinitionInvalid(message) => {
            SqlError::new(sqlstate::INVALID_TABLE_DEFINITION, message.clone())
        }
        TableRefusal::DuplicateKey { table, .. } => unique_violation(&name(table)),
        TableRefusal::RowInvalid { message, .. } => {
            SqlError::new(sqlstate::NOT_NULL_VIOLATION, message.clone())
        }
    }
}

fn serialization_failure(table: &str) -> SqlError {
    SqlError::new(
        sqlstate::SERIALIZATION_FAILURE,
        "could not serialize access due to concurrent update",
    )
    .detail(format!("Another transaction changed a row of \"{table}\" that this one wrote."))
    .hint("Repeat the transaction.")
}

/// 23505 for a table's primary key.
pub fn unique_violation(table: &str) -> SqlError {
    SqlError::new(
        sqlstate::UNIQUE_VIOLATION,
        format!("duplicate key value violates unique constraint \"{table}_pkey\""),
    )
}

/// Reserves an id for a table to be created when a transaction commits.
///
/// # Errors
/// If the kernel cannot commit.
pub async fn reserve_table_id(kernel: &dyn Kernel) -> Result<TableId, SqlError> {
    let outcome = kernel.commit(Minitransaction::of(table::Op::ReserveTableId)).await?;
    if let Outcome::Committed { replies, .. } = outcome
        && let Some(proteus_kernel_api::Reply::Table(table::Reply::TableIdReserved(id))) =
            replies.first()
    {
        return Ok(*id);
    }
    Err(SqlError::new(sqlstate::INTERNAL, "the kernel reserved no table id"))
}

/// 54000 for a transaction that writes too much.
pub fn too_many_writes() -> SqlError {
    let message = format!("a transaction can write at most {WRITES_MAX} rows");
    SqlError::new(sqlstate::PROGRAM_LIMIT, message)
        .hint("Split the work into several transactions.")
}
