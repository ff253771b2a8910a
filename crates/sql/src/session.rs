//! A session: prepared statements, transaction state, and the way of each statement.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{self, Statement};
use proteus_kernel_api::Durability;
use proteus_kernel_api::table::{ColumnType, Row, Value};

use crate::access;
use crate::ddl;
use crate::depth::{self, Deep};
use crate::describe;
use crate::engine::{Engine, RowStream};
use crate::error::{SqlError, sqlstate};
use crate::eval::EvalError;
use crate::insert;
use crate::mutate;
use crate::names;
use crate::point;
use crate::procedures::Calls;
use crate::rewrite;
use crate::settings::{self, Settings};
use crate::statement::{Changed, Context, parse_bounded};
use crate::transaction::Transaction;
use crate::types::{ResultColumn, TEXT};

/// How often a statement alone in its transaction is repeated when another commit came between.
const CONFLICT_RETRIES_MAX: usize = 32;

/// Savepoints that one transaction may hold.
const SAVEPOINTS_MAX: usize = 1000;

/// A statement that was parsed.
#[derive(Debug, Clone)]
pub struct Parsed {
    statement: Arc<Statement>,
    is_deep: bool,
}

/// A statement that was parsed, with the types of its parameters and result.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The statement; `None` for empty text.
    pub statement: Option<Parsed>,
    /// Types of its parameters, in order.
    pub parameter_types: Vec<ColumnType>,
    /// Columns of its result, if it has one.
    pub columns: Option<Vec<ResultColumn>>,
}

/// What a statement did.
pub enum Execution {
    /// The text was empty.
    Empty,
    /// It has a result. The tag stands before the count of rows.
    Rows {
        /// The result's columns.
        columns: Vec<ResultColumn>,
        /// The result's rows.
        rows: RowStream,
        /// Command tag, without the count.
        tag: &'static str,
    },
    /// It has none.
    Done {
        /// Command tag.
        tag: String,
        /// Something the client may want to know.
        notice: Option<SqlError>,
    },
    /// Prepared statements are to be forgotten, which the face holds.
    Deallocate {
        /// Which; `None` for all.
        name: Option<String>,
    },
}

impl std::fmt::Debug for Execution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Execution::Empty => f.write_str("Empty"),
            Execution::Rows { tag, .. } => write!(f, "Rows({tag})"),
            Execution::Deallocate { name } => write!(f, "Deallocate({name:?})"),
            Execution::Done { tag, .. } => write!(f, "Done({tag})"),
        }
    }
}

/// Where a session's transaction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    /// None is under way.
    Idle,
    /// In a transaction block.
    InTransaction,
    /// In a transaction block that failed.
    Failed,
}

enum State {
    Idle,
    /// Statements sent together without BEGIN: they commit together.
    Implicit(Transaction),
    Explicit {
        transaction: Transaction,
        savepoints: Vec<(String, Transaction)>,
    },
    Failed {
        savepoints: Vec<(String, Transaction)>,
    },
}

/// One client's session.
pub struct SqlSession {
    engine: Arc<Engine>,
    user: String,
    database: String,
    state: State,
    /// Its settings.
    pub settings: Settings,
}

impl SqlSession {
    /// A session of `user`.
    pub fn new(engine: Arc<Engine>, user: &str, database: &str) -> SqlSession {
        SqlSession {
            engine,
            user: user.to_owned(),
            database: database.to_owned(),
            state: State::Idle,
            settings: Settings::default(),
        }
    }

    /// Where its transaction stands.
    pub fn status(&self) -> TransactionStatus {
        match self.state {
            State::Idle | State::Implicit(_) => TransactionStatus::Idle,
            State::Explicit { .. } => TransactionStatus::InTransaction,
            State::Failed { .. } => TransactionStatus::Failed,
        }
    }

    /// Parses text into statements; empty if there is none in it.
    ///
    /// # Errors
    /// 42601, and the transaction block has failed.
    pub fn parse(&mut self, sql: &str) -> Result<Vec<Parsed>, SqlError> {
        match parse_bounded(sql) {
            Ok((statements, is_deep)) => {
                let parsed = |statement| Parsed { statement: Arc::new(statement), is_deep };
                Ok(statements.into_iter().map(parsed).collect())
            }
            Err(error) => {
                self.fail();
                Err(error)
            }
        }
    }

    /// Understands a statement: types of parameters and result. `given` are the types that the
    /// client declares.
    ///
    /// # Errors
    /// What is wrong with it, and the transaction block has failed.
    pub async fn prepare(
        &mut self,
        parsed: Option<Parsed>,
        given: &[Option<ColumnType>],
    ) -> Result<Prepared, SqlError> {
        let Some(parsed) = parsed else {
            return Ok(Prepared { statement: None, parameter_types: Vec::new(), columns: None });
        };
        self.refuse_if_failed(&parsed.statement)?;
        self.catch_up(&parsed.statement, true).await?;
        let result = if parsed.is_deep {
            depth::on_large_stack(|| self.describe(parsed, given))
        } else {
            self.describe(parsed, given)
        };
        if result.is_err() {
            self.fail();
        }
        result
    }

    fn describe(&self, parsed: Parsed, given: &[Option<ColumnType>]) -> Result<Prepared, SqlError> {
        let mut transaction = match &self.state {
            State::Implicit(transaction) | State::Explicit { transaction, .. } => {
                transaction.clone()
            }
            State::Idle | State::Failed { .. } => Transaction::begin(self.engine.kernel.as_ref())?,
        };
        let context = self.context(&mut transaction, &[], 0, false);
        let (parameter_types, columns) =
            describe::describe(&context, &parsed.statement, given, &self.settings)?;
        Ok(Prepared { statement: Some(parsed), parameter_types, columns })
    }

    fn context<'a>(
        &'a self,
        transaction: &'a mut Transaction,
        parameters: &'a [(Value, ColumnType)],
        now_ms: u64,
        is_alone: bool,
    ) -> Context<'a> {
        Context {
            engine: &self.engine,
            transaction,
            parameters,
            now_ms,
            user: &self.user,
            database: &self.database,
            is_alone,
        }
    }

    fn fail(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle | State::Implicit(_) => State::Idle,
            State::Explicit { savepoints, .. } | State::Failed { savepoints } => {
                State::Failed { savepoints }
            }
        };
    }

    /// The result of a statement broke off while it was read; its transaction block has failed.
    pub fn abort(&mut self) {
        self.fail();
    }

    fn refuse_if_failed(&self, statement: &Statement) -> Result<(), SqlError> {
        let ends = matches!(statement, Statement::Commit { .. } | Statement::Rollback { .. });
        if ends || !matches!(self.state, State::Failed { .. }) {
            return Ok(());
        }
        Err(SqlError::new(
            sqlstate::FAILED_TRANSACTION,
            "current transaction is aborted, commands ignored until end of transaction block",
        ))
    }

    /// Before a transaction begins to read: waits until this node has what was acknowledged anywhere, or as
    /// much of it as the session asks for.
    async fn catch_up(&self, statement: &Statement, is_last: bool) -> Result<(), SqlError> {
        if !matches!(self.state, State::Idle) || !access::may_read(statement) {
            return Ok(());
        }
        let begins_reading = || match statement {
            Statement::StartTransaction { modes, .. } => {
                settings::begins_reading(&self.settings, modes)
            }
            statement => is_last && access::only_reads(statement),
        };
        let kernel = &self.engine.kernel;
        let barrier = match self.settings.max_staleness().filter(|_| begins_reading()) {
            Some(staleness_max) => kernel.read_barrier_within(staleness_max),
            None => kernel.read_barrier(),
        };
        if let Some(barrier) = barrier {
            barrier.await?;
        }
        Ok(())
    }

    /// Executes a statement. `is_last` says that nothing follows it in its implicit transaction.
    ///
    /// # Errors
    /// What went wrong; an explicit transaction block has failed then, an implicit one is undone.
    pub async fn execute(
        &mut self,
        prepared: &Prepared,
        values: Vec<Value>,
        is_last: bool,
    ) -> Result<Execution, SqlError> {
        let Some(parsed) = &prepared.statement else { return Ok(Execution::Empty) };
        let statement = &parsed.statement;
        self.refuse_if_failed(statement)?;
        if values.len() != prepared.parameter_types.len() {
            let message = format!(
                "{} parameters were given, but the statement has {}",
                values.len(),
                prepared.parameter_types.len()
            );
            return Err(SqlError::new(sqlstate::PROTOCOL_VIOLATION, message));
        }
        let parameters: Vec<(Value, ColumnType)> =
            values.into_iter().zip(prepared.parameter_types.iter().copied()).collect();
        self.catch_up(statement, is_last).await?;
        let result = match statement.as_ref() {
            Statement::StartTransaction { .. }
            | Statement::Commit { .. }
            | Statement::Rollback { .. }
            | Statement::Savepoint { .. }
            | Statement::ReleaseSavepoint { .. } => self.control(statement).await,
            Statement::Set(_)
            | Statement::Reset(_)
            | Statement::ShowVariable { .. }
            | Statement::Discard { .. }
            | Statement::Deallocate { .. } => self.setting(statement),
            _ => {
                let running = self.transactional(statement, &parameters, is_last);
                let result = Deep::new(running, parsed.is_deep).await;
                match result {
                    Ok(Execution::Rows { columns, rows, tag }) if parsed.is_deep => {
                        Ok(Execution::Rows { columns, rows: depth::deep_rows(rows), tag })
                    }
                    other => other,
                }
            }
        };
        if result.is_err() {
            self.fail();
        }
        if matches!(self.state, State::Idle) {
            self.settings.end_local();
        }
        result
    }

    /// How durable commits of this session are.
    fn durability(&self) -> Durability {
        self.settings.durability().unwrap_or(self.engine.kernel.durability())
    }

    /// Commits what statements sent together have done, if there is no transaction block.
    ///
    /// # Errors
    /// As a COMMIT.
    pub async fn finish_implicit(&mut self) -> Result<(), SqlError> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Implicit(transaction) => {
                let durability = self.durability();
                self.settings.end_local();
                transaction.commit(self.engine.kernel.as_ref(), durability).await
            }
            other => {
                self.state = other;
                Ok(())
            }
        }
    }

    async fn transactional(
        &mut self,
        statement: &Statement,
        parameters: &[(Value, ColumnType)],
        is_last: bool,
    ) -> Result<Execution, SqlError> {
        if self.settings.is_read_only() {
            access::refuse_change(statement)?;
        }
        let is_alone = is_last && matches!(self.state, State::Idle);
        if is_alone {
            return self.alone(statement, parameters).await;
        }
        let now_ms = self.engine.kernel.read(|view| Ok(view.now_ms))?;
        let (mut transaction, savepoints) = match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle | State::Failed { .. } => {
                (Transaction::begin(self.engine.kernel.as_ref())?, None)
            }
            State::Implicit(transaction) => (transaction, None),
            State::Explicit { transaction, savepoints } => (transaction, Some(savepoints)),
        };
        let before = transaction.clone();
        let mut context = self.context(&mut transaction, parameters, now_ms, false);
        let result = run(&mut context, statement).await;
        let transaction = if result.is_ok() { transaction } else { before };
        self.state = match savepoints {
            Some(savepoints) => State::Explicit { transaction, savepoints },
            None => State::Implicit(transaction),
        };
        result
    }

    /// A statement that is a transaction by itself: repeated if another commit came between, since
    /// nobody has seen anything of it.
    async fn alone(
        &mut self,
        statement: &Statement,
        parameters: &[(Value, ColumnType)],
    ) -> Result<Execution, SqlError> {
        let mut attempt = 0;
        loop {
            let mut transaction = Transaction::begin(self.engine.kernel.as_ref())?;
            let now_ms = self.engine.kernel.read(|view| Ok(view.now_ms))?;
            let mut context = self.context(&mut transaction, parameters, now_ms, true);
            let execution = run(&mut context, statement).await?;
            match transaction.commit(self.engine.kernel.as_ref(), self.durability()).await {
                Ok(()) => return Ok(execution),
                Err(error)
                    if error.code == sqlstate::SERIALIZATION_FAILURE
                        && attempt < CONFLICT_RETRIES_MAX
                        && !matches!(statement, Statement::Call(_)) =>
                {
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn control(&mut self, statement: &Statement) -> Result<Execution, SqlError> {
        match statement {
            Statement::StartTransaction { modes, statements, .. } => {
                if !statements.is_empty() {
                    return Err(SqlError::unsupported("BEGIN … END blocks"));
                }
                let begun = self.begin()?;
                settings::begin(&mut self.settings, modes)?;
                Ok(begun)
            }
            Statement::Commit { chain: false, .. } => self.commit().await,
            Statement::Rollback { chain: false, savepoint: None } => Ok(self.rollback()),
            Statement::Rollback { chain: false, savepoint: Some(name) } => {
                self.rollback_to(&names::fold(name))
            }
            Statement::Savepoint { name } => self.savepoint(names::fold(name)),
            Statement::ReleaseSavepoint { name } => self.release(&names::fold(name)),
            other => Err(SqlError::unsupported(other)),
        }
    }

    fn begin(&mut self) -> Result<Execution, SqlError> {
        let tag = "BEGIN".to_owned();
        let mut notice = None;
        self.state = match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle => State::Explicit {
                transaction: Transaction::begin(self.engine.kernel.as_ref())?,
                savepoints: Vec::new(),
            },
            State::Implicit(transaction) => State::Explicit { transaction, savepoints: Vec::new() },
            other => {
                let message = "there is already a transaction in progress";
                notice = Some(SqlError::new(sqlstate::ACTIVE_TRANSACTION, message));
                other
            }
        };
        Ok(Execution::Done { tag, notice })
    }

    async fn commit(&mut self) -> Result<Execution, SqlError> {
        let done = |tag: &str, notice| Execution::Done { tag: tag.to_owned(), notice };
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Explicit { transaction, .. } | State::Implicit(transaction) => {
                transaction.commit(self.engine.kernel.as_ref(), self.durability()).await?;
                Ok(done("COMMIT", None))
            }
            State::Failed { .. } => Ok(done("ROLLBACK", None)),
            State::Idle => Ok(done("COMMIT", Some(no_transaction()))),
        }
    }

    fn rollback(&mut self) -> Execution {
        let notice = match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle => Some(no_transaction()),
            _ => None,
        };
        Execution::Done { tag: "ROLLBACK".to_owned(), notice }
    }

    fn savepoint(&mut self, name: String) -> Result<Execution, SqlError> {
        let State::Explicit { transaction, savepoints } = &mut self.state else {
            return Err(no_block("SAVEPOINT"));
        };
        if savepoints.len() >= SAVEPOINTS_MAX {
            let message = format!("a transaction can hold at most {SAVEPOINTS_MAX} savepoints");
            return Err(SqlError::new(sqlstate::PROGRAM_LIMIT, message));
        }
        savepoints.push((name, transaction.clone()));
        Ok(Execution::Done { tag: "SAVEPOINT".to_owned(), notice: None })
    }

    fn rollback_to(&mut self, name: &str) -> Result<Execution, SqlError> {
        let mut savepoints = match std::mem::replace(&mut self.state, State::Idle) {
            State::Explicit { savepoints, .. } | State::Failed { savepoints } => savepoints,
            other => {
                self.state = other;
                return Err(no_block("ROLLBACK TO SAVEPOINT"));
            }
        };
        let Some(position) = savepoints.iter().rposition(|(other, _)| other == name) else {
            self.state = State::Failed { savepoints };
            return Err(no_savepoint(name));
        };
        savepoints.truncate(position + 1);
        let Some((_, transaction)) = savepoints.last().cloned() else {
            return Err(no_savepoint(name));
        };
        self.state = State::Explicit { transaction, savepoints };
        Ok(Execution::Done { tag: "ROLLBACK".to_owned(), notice: None })
    }

    fn release(&mut self, name: &str) -> Result<Execution, SqlError> {
        let State::Explicit { savepoints, .. } = &mut self.state else {
            return Err(no_block("RELEASE SAVEPOINT"));
        };
        let position = savepoints.iter().rposition(|(other, _)| other == name);
        savepoints.truncate(position.ok_or_else(|| no_savepoint(name))?);
        Ok(Execution::Done { tag: "RELEASE".to_owned(), notice: None })
    }

    fn setting(&mut self, statement: &Statement) -> Result<Execution, SqlError> {
        let done = |tag: &str| Ok(Execution::Done { tag: tag.to_owned(), notice: None });
        match statement {
            Statement::Set(set) => {
                let is_local = settings::is_local(set);
                for (name, value) in settings::assignments(set)? {
                    let is_begun = !matches!(self.state, State::Idle);
                    if is_begun && self.settings.lets_change(&name, &value) {
                        let message = "transaction read-write mode must be set before any query";
                        return Err(SqlError::new(sqlstate::ACTIVE_TRANSACTION, message));
                    }
                    if is_local {
                        self.settings.set_local(&name, &value)?;
                    } else if value.eq_ignore_ascii_case("default") {
                        self.settings.reset(Some(&name));
                    } else {
                        self.settings.set(&name, &value)?;
                    }
                }
                done("SET")
            }
            Statement::Reset(reset) => {
                match &reset.reset {
                    ast::Reset::ALL => self.settings.reset(None),
                    ast::Reset::ConfigurationParameter(name) => {
                        self.settings.reset(Some(&names::parts(name)?.join(".")));
                    }
                }
                done("RESET")
            }
            Statement::Discard { .. } => {
                if !matches!(self.state, State::Idle) {
                    let message = "DISCARD ALL cannot run inside a transaction block";
                    return Err(SqlError::new(sqlstate::ACTIVE_TRANSACTION, message));
                }
                self.settings.reset(None);
                done("DISCARD ALL")
            }
            Statement::Deallocate { name, .. } => {
                let is_all = name.quote_style.is_none() && name.value.eq_ignore_ascii_case("all");
                let name = if is_all { None } else { Some(names::fold(name)) };
                Ok(Execution::Deallocate { name })
            }
            Statement::ShowVariable { variable } => {
                let (columns, rows) = describe::show(variable, &self.settings)?;
                Ok(rows_execution(columns, rows, "SHOW"))
            }
            other => Err(SqlError::unsupported(other)),
        }
    }
}

fn no_transaction() -> SqlError {
    SqlError::new(sqlstate::NO_ACTIVE_TRANSACTION, "there is no transaction in progress")
}

fn no_block(what: &str) -> SqlError {
    let message = format!("{what} can only be used in transaction blocks");
    SqlError::new(sqlstate::NO_ACTIVE_TRANSACTION, message)
}

fn no_savepoint(name: &str) -> SqlError {
    SqlError::new(sqlstate::INVALID_SAVEPOINT, format!("savepoint \"{name}\" does not exist"))
}

fn rows_execution(columns: Vec<ResultColumn>, rows: Vec<Row>, tag: &'static str) -> Execution {
    Execution::Rows { columns, rows: Box::pin(futures::stream::iter([Ok(rows)])), tag }
}

fn changed(changed: Changed, verb: &str, tag: &'static str) -> Execution {
    match changed.returning {
        Some((columns, rows)) => rows_execution(columns, rows, tag),
        None => Execution::Done { tag: format!("{verb} {}", changed.count), notice: None },
    }
}

async fn run(context: &mut Context<'_>, statement: &Statement) -> Result<Execution, SqlError> {
    let done = |tag: &str, notice| Ok(Execution::Done { tag: tag.to_owned(), notice });
    match statement {
        Statement::Query(query) => query_statement(context, query).await,
        Statement::Explain { statement, .. } => explain(context, statement).await,
        Statement::Insert(insert) => {
            Ok(changed(insert::insert(context, insert).await?, "INSERT 0", "INSERT 0"))
        }
        Statement::Update(update) => {
            Ok(changed(mutate::update(context, update).await?, "UPDATE", "UPDATE"))
        }
        Statement::Delete(delete) => {
            Ok(changed(mutate::delete(context, delete).await?, "DELETE", "DELETE"))
        }
        Statement::Truncate(truncate) => {
            for target in &truncate.table_names {
                mutate::truncate(context, &target.name)?;
            }
            done("TRUNCATE TABLE", None)
        }
        Statement::CreateTable(create) => {
            let is_new = ddl::create_table(context, create).await?;
            let notice = (!is_new).then(|| {
                let message = format!("relation \"{}\" already exists, skipping", create.name);
                SqlError::new(sqlstate::DUPLICATE_TABLE, message)
            });
            done("CREATE TABLE", notice)
        }
        Statement::Drop { object_type, if_exists, names, .. } => {
            let missing = ddl::drop(context, object_type, *if_exists, names)?;
            let notice = missing.first().map(|name| {
                let message = format!("table \"{name}\" does not exist, skipping");
                SqlError::new("00000", message)
            });
            done("DROP TABLE", notice)
        }
        Statement::Call(function) => {
            call(context, function)?;
            done("CALL", None)
        }
        // Statistics and space are looked after without being asked.
        Statement::Analyze(_) => done("ANALYZE", None),
        Statement::Vacuum(_) => done("VACUUM", None),
        other => {
            let text = other.to_string();
            let verb: Vec<&str> = text.split_whitespace().take(2).collect();
            Err(SqlError::unsupported(verb.join(" ")))
        }
    }
}

async fn query_statement(
    context: &mut Context<'_>,
    query: &ast::Query,
) -> Result<Execution, SqlError> {
    if let Some(select) = point::select(context, query)?
        && let Some(rows) = select.run(context)?
    {
        return Ok(rows_execution(select.columns, rows, "SELECT"));
    }
    let scope = context.query_scope();
    let statement = Statement::Query(Box::new(query.clone()));
    let statement = rewrite::rewrite(statement, &scope)?;
    let plan = scope.plan(statement, &context.parameter_types())?;
    let (mut columns, rows) = scope.run(plan, context.parameters).await?;
    describe::name_columns(query, &mut columns);
    Ok(Execution::Rows { columns, rows, tag: "SELECT" })
}

async fn explain(context: &mut Context<'_>, statement: &Statement) -> Result<Execution, SqlError> {
    let scope = context.query_scope();
    let lines = match statement {
        Statement::Query(query) if point::select(context, query)?.is_some() => {
            vec!["Point read by primary key".to_owned()]
        }
        Statement::Query(_) => {
            let statement = rewrite::rewrite(statement.clone(), &scope)?;
            let plan = scope.plan(statement, &context.parameter_types())?;
            scope.explain(plan, context.parameters).await?
        }
        _ => return Err(SqlError::unsupported("EXPLAIN of anything but a query")),
    };
    let rows = lines.into_iter().map(|line| vec![Value::Text(line)]).collect();
    Ok(rows_execution(vec![ResultColumn::computed("QUERY PLAN", TEXT)], rows, "EXPLAIN"))
}

fn call(context: &mut Context<'_>, function: &ast::Function) -> Result<(), SqlError> {
    let name = names::parts(&function.name)?.join(".");
    let mut arguments = Vec::new();
    for expr in describe::call_arguments(function)? {
        let scope = context.constants();
        let value = if let Some(number) = crate::eval::placeholder_number(expr) {
            crate::eval::Scope::parameter(&scope, number).map_or(Value::Null, |(value, _)| value)
        } else {
            literal_argument(expr, &scope)?
        };
        arguments.push(value);
    }
    let procedures = &context.engine.procedures;
    let mut calls = Calls {
        cross_face: &mut context.transaction.cross_face,
        kernel: context.engine.kernel.as_ref(),
        now_ms: context.now_ms,
    };
    procedures.call(&name, &arguments, &mut calls)
}

/// A number stays a number; everything else is as text.
fn literal_argument(expr: &ast::Expr, scope: &dyn crate::eval::Scope) -> Result<Value, SqlError> {
    crate::eval::evaluate_value(expr, scope).map_err(|error| match error {
        EvalError::Sql(error) => error,
        EvalError::Unsupported => SqlError::unsupported(format!("argument {expr} of a CALL"))
            .hint("Arguments can be literals, parameters, and arithmetic and || over them."),
    })
}
