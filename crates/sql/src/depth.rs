//! Deep statements: bounded, and run on a stack of their own.
//!
//! Parser, planner and optimiser walk expressions by recursion, and a stack that overflows ends the
//! process. So a statement's chains of operators are counted before it is parsed, and whatever is
//! not small runs on a stack that is large enough for the longest chain accepted.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll};

use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::Token;
use futures::Stream;

use crate::engine::RowStream;
use crate::error::{SqlError, sqlstate};
use proteus_kernel_api::table::Row;

/// Operators that one expression may chain: `a OR b OR …`. Lists, as `IN (…)` takes, are not chains.
const CHAIN_MAX: usize = 1_000;

/// Set operations and joins in one statement.
const RELATIONS_MAX: usize = 200;

/// Operators and parentheses up to which a statement runs on the ordinary stack.
const SHALLOW_MAX: usize = 24;

/// The large stack, in bytes. Its pages are taken from the system only as they are touched.
const STACK_BYTES: usize = 256 * 1024 * 1024;

/// How deep a text's statements are.
///
/// # Errors
/// 54001 if they are deeper than is accepted.
pub fn is_deep(tokens: &[Token]) -> Result<bool, SqlError> {
    let mut chains = vec![0usize];
    let (mut total, mut relations, mut longest) = (0usize, 0usize, 0usize);
    for token in tokens {
        match token {
            Token::Whitespace(_)
            | Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::Placeholder(_)
            | Token::Period => {}
            Token::SemiColon => {
                chains = vec![0];
                relations = 0;
            }
            Token::Comma => {
                total += 1;
                if let Some(chain) = chains.last_mut() {
                    *chain = 0;
                }
            }
            Token::LParen | Token::LBracket => {
                total += 1;
                chains.push(0);
            }
            Token::RParen | Token::RBracket => {
                if chains.len() > 1 {
                    chains.pop();
                }
            }
            Token::Word(word) if !is_operator(word.keyword) => {
                let is_relation = matches!(
                    word.keyword,
                    Keyword::UNION
                        | Keyword::EXCEPT
                        | Keyword::INTERSECT
                        | Keyword::JOIN
                        | Keyword::FROM
                );
                relations += usize::from(is_relation);
            }
            _ => {
                total += 1;
                if let Some(chain) = chains.last_mut() {
                    *chain += 1;
                    longest = longest.max(*chain);
                }
            }
        }
        if longest > CHAIN_MAX || relations > RELATIONS_MAX {
            return Err(too_complex());
        }
    }
    Ok(total > SHALLOW_MAX || relations > SHALLOW_MAX)
}

fn too_complex() -> SqlError {
    SqlError::new(sqlstate::STATEMENT_TOO_COMPLEX, "statement is too complex")
        .detail(format!(
            "An expression may chain {CHAIN_MAX} operators, a statement {RELATIONS_MAX} relations."
        ))
        .hint("Use IN (…) or a table instead of a chain of ORs.")
}

/// Refuses statements over too many relations: a list after FROM becomes a chain of joins.
///
/// # Errors
/// 54001.
pub fn check_relations(statement: &ast::Statement) -> Result<(), SqlError> {
    // Rows to insert are the largest statements there are, and have no relations.
    if let ast::Statement::Insert(insert) = statement
        && insert
            .source
            .as_ref()
            .is_some_and(|source| matches!(*source.body, ast::SetExpr::Values(_)))
    {
        return Ok(());
    }
    let mut count = 0usize;
    let visited = ast::visit_relations(statement, |_| {
        count += 1;
        if count > RELATIONS_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if visited.is_break() { Err(too_complex()) } else { Ok(()) }
}

fn is_operator(keyword: Keyword) -> bool {
    matches!(
        keyword,
        Keyword::AND
            | Keyword::OR
            | Keyword::NOT
            | Keyword::IS
            | Keyword::IN
            | Keyword::LIKE
            | Keyword::ILIKE
            | Keyword::SIMILAR
            | Keyword::BETWEEN
            | Keyword::COLLATE
            | Keyword::AT
            | Keyword::CASE
            | Keyword::OVERLAPS
            | Keyword::DIV
            | Keyword::XOR
    )
}

/// Runs `function` on a large stack.
pub fn on_large_stack<T>(function: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(STACK_BYTES / 2, STACK_BYTES, function)
}

/// A future or stream that runs on a large stack if it is deep.
pub struct Deep<F> {
    inner: Pin<Box<F>>,
    is_deep: bool,
}

impl<F> Deep<F> {
    /// Wraps `inner`.
    pub fn new(inner: F, is_deep: bool) -> Deep<F> {
        Deep { inner: Box::pin(inner), is_deep }
    }
}

impl<F: Future> Future for Deep<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if !self.is_deep {
            return self.inner.as_mut().poll(context);
        }
        let inner = self.inner.as_mut();
        on_large_stack(|| inner.poll(context))
    }
}

/// The rows of a deep statement.
struct DeepRows {
    inner: Option<RowStream>,
}

impl Stream for DeepRows {
    type Item = Result<Vec<Row>, SqlError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut self.inner {
            Some(inner) => on_large_stack(|| inner.as_mut().poll_next(context)),
            None => Poll::Ready(None),
        }
    }
}

impl Drop for DeepRows {
    fn drop(&mut self) {
        // A plan is as deep to take down as it was to build.
        let inner = self.inner.take();
        on_large_stack(|| drop(inner));
    }
}

/// Rows that are made on a large stack.
pub fn deep_rows(rows: RowStream) -> RowStream {
    Box::pin(DeepRows { inner: Some(rows) })
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;

    use super::*;

    fn depth(sql: &str) -> Result<bool, &'static str> {
        let tokens = Tokenizer::new(&PostgreSqlDialect {}, sql).tokenize().unwrap();
        is_deep(&tokens).map_err(|error| error.code)
    }

    #[test]
    fn chains_are_bounded_and_lists_are_not() {
        assert_eq!(depth("SELECT a + 1 FROM t WHERE b = 2 AND c = 3"), Ok(false));
        assert_eq!(depth(&format!("SELECT {}1", "1 + ".repeat(500))), Ok(true));
        assert_eq!(depth(&format!("SELECT {}1", "1 + ".repeat(2000))), Err("54001"));
        assert_eq!(depth(&format!("SELECT {}true", "a = 1 OR ".repeat(2000))), Err("54001"));
        assert_eq!(depth(&format!("SELECT 1{}", " UNION SELECT 1, 2".repeat(500))), Err("54001"));
        assert_eq!(depth(&format!("SELECT a IN ({}1)", "1, ".repeat(100_000))), Ok(true));
        assert_eq!(
            depth(&format!("INSERT INTO t VALUES {}(1)", "(1, -1), ".repeat(10_000))),
            Ok(true)
        );
    }
}
