//! What a statement does with data, by its kind: what a transaction that only reads may hold, and what may read
//! a state that is a little old.

use datafusion::sql::sqlparser::ast::{Query, SetExpr, Statement};

use crate::error::{SqlError, sqlstate};

/// Whether a statement that begins a transaction, or is one by itself, looks at any data.
pub fn may_read(statement: &Statement) -> bool {
    !matches!(
        statement,
        Statement::Set(_)
            | Statement::Reset(_)
            | Statement::ShowVariable { .. }
            | Statement::Discard { .. }
            | Statement::Deallocate { .. }
            | Statement::Commit { .. }
            | Statement::Rollback { .. }
    )
}

/// Whether a statement does nothing but read.
pub fn only_reads(statement: &Statement) -> bool {
    match statement {
        Statement::Query(query) => is_plain(query),
        Statement::Explain { statement, .. } => only_reads(statement),
        _ => false,
    }
}

fn is_plain(query: &Query) -> bool {
    let has_plain_parts =
        query.with.iter().flat_map(|with| &with.cte_tables).all(|part| is_plain(&part.query));
    has_plain_parts && query.locks.is_empty() && is_plain_body(&query.body)
}

fn is_plain_body(body: &SetExpr) -> bool {
    match body {
        SetExpr::Query(query) => is_plain(query),
        SetExpr::SetOperation { left, right, .. } => is_plain_body(left) && is_plain_body(right),
        SetExpr::Select(_) | SetExpr::Values(_) | SetExpr::Table(_) => true,
        _ => false,
    }
}

/// Refuses what changes something, in a transaction that only reads.
///
/// # Errors
/// 25006.
pub fn refuse_change(statement: &Statement) -> Result<(), SqlError> {
    let verb = match statement {
        Statement::Insert(_) => "INSERT",
        Statement::Update(_) => "UPDATE",
        Statement::Delete(_) => "DELETE",
        Statement::Truncate(_) => "TRUNCATE TABLE",
        Statement::CreateTable(_) => "CREATE TABLE",
        Statement::Drop { .. } => "DROP TABLE",
        Statement::Call(_) => "CALL",
        // Others change nothing, or there are none.
        _ => return Ok(()),
    };
    let message = format!("cannot execute {verb} in a read-only transaction");
    Err(SqlError::new(sqlstate::READ_ONLY_TRANSACTION, message))
}

#[cfg(test)]
mod tests {
    use crate::statement::parse_bounded;

    use super::*;

    #[test]
    fn only_what_reads_and_locks_nothing_only_reads() {
        let only_reads = |sql| only_reads(&parse_bounded(sql).unwrap().0[0]);
        for sql in [
            "SELECT 1",
            "VALUES (1)",
            "(SELECT 1) UNION ALL SELECT a FROM t",
            "WITH x AS (SELECT 1) SELECT * FROM x",
            "EXPLAIN SELECT 1",
        ] {
            assert!(only_reads(sql), "{sql}");
        }
        for sql in [
            "SELECT * FROM t FOR UPDATE",
            "WITH x AS (SELECT * FROM t FOR SHARE) SELECT * FROM x",
            "INSERT INTO t VALUES (1)",
            "BEGIN",
            "CALL p()",
        ] {
            assert!(!only_reads(sql), "{sql}");
        }
    }
}
