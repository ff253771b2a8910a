//! One connection: startup, authentication, and the two query protocols.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::{FutureExt, StreamExt};
use proteus_env::{net::TcpStream, task};
use proteus_face::{Connection, ConnectionError, Meter};
use proteus_kernel_api::table::{ColumnType, Row, Value};
use proteus_sql::{
    Execution, Prepared, REPORTED, ResultColumn, RowStream, SqlError, SqlSession,
    TransactionStatus, sqlstate, type_modifier, type_oid, type_size,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};

use crate::PostgresFace;
use crate::cancel::{Interrupt, Registered};
use crate::errors::{put_error, put_fatal, put_notice};
use crate::options;
use crate::values::{Format, decode, format_at, put_value, type_of_oid};
use crate::wire::{
    self, MESSAGE_BYTES_MAX, Malformed, Named, PASSWORD_BYTES_MAX, Request, Startup, put_message,
    put_string,
};

/// Output that gathers before it is written, in bytes.
const OUTPUT_BYTES: usize = 64 * 1024;

/// Input that is read at once, in bytes.
const INPUT_BYTES: usize = 16 * 1024;

/// Prepared statements that one session may hold.
const STATEMENTS_MAX: usize = 10_000;

/// Portals that one session may hold.
const PORTALS_MAX: usize = 1_000;

/// How long a client may take to authenticate.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client may leave its output unread.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a query without rows yet looks whether its client is still there.
const CLIENT_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How often a client may ask for encryption before it begins.
const NEGOTIATIONS_MAX: usize = 4;

type Served<T = ()> = Result<T, ConnectionError>;

/// Serves one connection.
pub async fn serve(face: Arc<PostgresFace>, connection: Connection) -> Served {
    let socket = Socket {
        connection,
        input: BytesMut::with_capacity(INPUT_BYTES),
        output: BytesMut::with_capacity(INPUT_BYTES),
    };
    let begun = task::timeout(STARTUP_TIMEOUT, async {
        let Some((mut socket, startup)) = negotiate(socket).await? else { return Ok(None) };
        let begun = begin(&face, &mut socket, startup).await?;
        Ok::<_, ConnectionError>(begun.map(|(sql, registered)| (socket, sql, registered)))
    });
    let Some(begun) = begun.await else {
        return Err(ConnectionError::Limit("no session within the time for startup".to_owned()));
    };
    let Some((socket, sql, registered)) = begun? else { return Ok(()) };
    let mut session = Session {
        face,
        socket,
        sql,
        registered,
        statements: HashMap::new(),
        portals: HashMap::new(),
        is_skipping: false,
    };
    session.run().await
}

struct Socket {
    connection: Connection,
    input: BytesMut,
    output: BytesMut,
}

impl Socket {
    /// Reads more input; `false` at its end.
    async fn fill(&mut self) -> Served<bool> {
        self.input.reserve(INPUT_BYTES);
        Ok(self.connection.stream.read_buf(&mut self.input).await? > 0)
    }

    /// Writes what has gathered.
    async fn flush(&mut self) -> Served {
        if self.output.is_empty() {
            return Ok(());
        }
        let written = self.connection.stream.write_all(&self.output);
        match task::timeout(WRITE_TIMEOUT, written).await {
            Some(written) => written?,
            None => return Err(ConnectionError::Limit("the client does not read".to_owned())),
        }
        self.output.clear();
        Ok(())
    }

    async fn flush_if_large(&mut self) -> Served {
        if self.output.len() >= OUTPUT_BYTES { self.flush().await } else { Ok(()) }
    }

    /// Tells the client why the connection ends.
    async fn refuse(&mut self, code: &'static str, message: &str) -> Served {
        put_fatal(&mut self.output, code, message);
        self.flush().await
    }

    async fn malformed<T>(&mut self, error: Malformed) -> Served<T> {
        // The client may be gone or speak another protocol; the reason is logged either way.
        let _ = self.refuse(sqlstate::PROTOCOL_VIOLATION, &error.0).await;
        Err(ConnectionError::Malformed(error.0))
    }
}

/// Agrees on encryption, if the client asks for it, up to its first message that is about something
/// else; `None` if the client leaves before.
async fn negotiate(mut socket: Socket) -> Served<Option<(Socket, Startup)>> {
    let mut negotiations = 0;
    loop {
        match wire::decode_startup(&mut socket.input) {
            Err(error) => return socket.malformed(error).await,
            Ok(None) => {
                if !socket.fill().await? {
                    return Ok(None);
                }
            }
            Ok(Some(Startup::Ssl | Startup::Gss)) if negotiations == NEGOTIATIONS_MAX => {
                return Ok(None);
            }
            Ok(Some(Startup::Ssl)) if socket.connection.upgrade.is_some() => {
                negotiations += 1;
                socket.output.put_u8(b'S');
                socket.flush().await?;
                if !socket.input.is_empty() {
                    // Sent before there was encryption, by whoever stands between.
                    let error = Malformed("bytes were sent between SSLRequest and TLS".to_owned());
                    return Err(ConnectionError::Malformed(error.0));
                }
                socket.connection = socket.connection.encrypt().await?;
            }
            Ok(Some(Startup::Ssl | Startup::Gss)) => {
                negotiations += 1;
                socket.output.put_u8(b'N');
                socket.flush().await?;
            }
            Ok(Some(startup)) => return Ok(Some((socket, startup))),
        }
    }
}

/// Begins a session; `None` if there is none to begin.
async fn begin(
    face: &PostgresFace,
    socket: &mut Socket,
    startup: Startup,
) -> Served<Option<(SqlSession, Registered)>> {
    let (minor, parameters) = match startup {
        Startup::Session { minor, parameters } => (minor, parameters),
        Startup::Cancel { session, secret } => {
            face.cancels.cancel(session, secret);
            return Ok(None);
        }
        Startup::Ssl | Startup::Gss => return Ok(None),
    };
    let Connection { stream, upgrade, .. } = &socket.connection;
    if !stream.is_encrypted() && upgrade.as_ref().is_some_and(|upgrade| upgrade.is_required) {
        let message = "this server accepts encrypted connections only; use sslmode=require";
        socket.refuse("28000", message).await?;
        return Ok(None);
    }
    let parameter = |name: &str| {
        parameters.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())
    };
    let Some(user) = parameter("user") else {
        socket.refuse("28000", "no PostgreSQL user name specified in startup packet").await?;
        return Ok(None);
    };
    if minor > 0 {
        put_message(&mut socket.output, b'v', |into| {
            into.put_u32(0);
            into.put_u32(0);
        });
    }
    if !authenticate(face, socket, &user).await? {
        return Ok(None);
    }
    let database = parameter("database").unwrap_or_else(|| user.clone());
    let mut sql = SqlSession::new(face.engine.clone(), &user, &database);
    let given = options::settings(&parameter("options").unwrap_or_default());
    for (name, value) in given.iter().chain(&parameters) {
        let is_setting = !["user", "database", "replication", "options"].contains(&name.as_str());
        // What a client asks for in passing and we have not is no reason to turn it away.
        if is_setting && let Err(error) = sql.settings.set(name, value) {
            tracing::debug!(name, %error, "a startup parameter is ignored");
        }
    }
    let registered = face.cancels.register();
    greet(socket, &sql, &registered);
    socket.flush().await?;
    Ok(Some((sql, registered)))
}

async fn authenticate(face: &PostgresFace, socket: &mut Socket, user: &str) -> Served<bool> {
    if face.accounts.is_open() {
        return Ok(true);
    }
    // AuthenticationCleartextPassword.
    put_message(&mut socket.output, b'R', |into| into.put_u32(3));
    socket.flush().await?;
    loop {
        match wire::decode(&mut socket.input, PASSWORD_BYTES_MAX) {
            Err(error) => return socket.malformed(error).await,
            Ok(None) => {
                if !socket.fill().await? {
                    return Ok(false);
                }
            }
            Ok(Some(Request::Password(bytes))) => {
                let password = bytes.strip_suffix(&[0]).unwrap_or(&bytes);
                if face.accounts.verify(user, password).is_ok() {
                    return Ok(true);
                }
                let message = format!("password authentication failed for user \"{user}\"");
                socket.refuse(sqlstate::INVALID_AUTHORIZATION, &message).await?;
                return Ok(false);
            }
            Ok(Some(_)) => {
                let error = Malformed("a request before authentication".to_owned());
                return socket.malformed(error).await;
            }
        }
    }
}

/// Appends AuthenticationOk, the parameters, a cancel key and ReadyForQuery.
fn greet(socket: &mut Socket, sql: &SqlSession, registered: &Registered) {
    let output = &mut socket.output;
    put_message(output, b'R', |into| into.put_u32(0));
    for (name, reported) in REPORTED {
        put_parameter(output, reported, &sql.settings.get(name).unwrap_or_default());
    }
    put_message(output, b'K', |into| {
        into.put_u32(registered.id);
        into.put_u32(registered.secret);
    });
    put_ready(output, TransactionStatus::Idle);
}

fn put_parameter(into: &mut BytesMut, name: &str, value: &str) {
    put_message(into, b'S', |into| {
        put_string(into, name);
        put_string(into, value);
    });
}

fn put_ready(into: &mut BytesMut, status: TransactionStatus) {
    let code = match status {
        TransactionStatus::Idle => b'I',
        TransactionStatus::InTransaction => b'T',
        TransactionStatus::Failed => b'E',
    };
    put_message(into, b'Z', |into| into.put_u8(code));
}

fn put_complete(into: &mut BytesMut, tag: &str) {
    put_message(into, b'C', |into| put_string(into, tag));
}

/// A prepared statement with its parameters' object ids as the client is told them.
struct Statement {
    prepared: Arc<Prepared>,
    parameter_oids: Vec<u32>,
}

/// A statement with parameters, perhaps half read.
struct Portal {
    prepared: Arc<Prepared>,
    parameters: Vec<Value>,
    formats: Vec<i16>,
    running: Option<Running>,
    finished: Option<Finished>,
}

/// How a portal ended.
#[derive(Clone, Copy)]
enum Finished {
    /// All its rows are read; asked again, it has none.
    Rows(&'static str),
    /// It has done what it does, once.
    Done,
}

/// A result under way.
struct Running {
    columns: Vec<ResultColumn>,
    rows: RowStream,
    pending: std::vec::IntoIter<Row>,
    tag: &'static str,
    row_count: u64,
}

impl Running {
    fn new(columns: Vec<ResultColumn>, rows: RowStream, tag: &'static str) -> Running {
        Running { columns, rows, pending: Vec::new().into_iter(), tag, row_count: 0 }
    }

    /// The next row, unless the query is to end before it is there.
    async fn next(
        &mut self,
        interrupt: &Interrupt,
        stream: &TcpStream,
    ) -> Result<Option<Row>, Failure> {
        loop {
            if let Some(row) = self.pending.next() {
                return Ok(Some(row));
            }
            let rows = tokio::select! {
                biased;
                () = interrupt.raised() => {
                    let message = "canceling statement due to user request";
                    return Err(SqlError::new(sqlstate::QUERY_CANCELED, message).into());
                }
                // Before the rows, which may use up what the runtime lets this task do at once.
                () = client_gone(stream) => {
                    let left = std::io::Error::from(std::io::ErrorKind::ConnectionAborted);
                    return Err(ConnectionError::Io(left).into());
                }
                rows = self.rows.next() => rows,
            };
            match rows {
                Some(rows) => self.pending = rows?.into_iter(),
                None => return Ok(None),
            }
        }
    }

    fn complete_tag(&self) -> String {
        match self.tag {
            "SHOW" | "EXPLAIN" => self.tag.to_owned(),
            tag => format!("{tag} {}", self.row_count),
        }
    }
}

struct Session {
    face: Arc<PostgresFace>,
    socket: Socket,
    sql: SqlSession,
    registered: Registered,
    statements: HashMap<String, Statement>,
    portals: HashMap<String, Portal>,
    /// After an error in the extended protocol: until Sync, nothing is done.
    is_skipping: bool,
}

/// What goes wrong within a request: what the client is told, or what ends the connection.
enum Failure {
    Sql(SqlError),
    Connection(ConnectionError),
}

impl From<SqlError> for Failure {
    fn from(error: SqlError) -> Failure {
        Failure::Sql(error)
    }
}

impl From<ConnectionError> for Failure {
    fn from(error: ConnectionError) -> Failure {
        Failure::Connection(error)
    }
}

impl Session {
    async fn run(&mut self) -> Served {
        loop {
            match wire::decode(&mut self.socket.input, MESSAGE_BYTES_MAX) {
                Err(error) => return self.socket.malformed(error).await,
                Ok(Some(Request::Terminate)) => return Ok(()),
                Ok(Some(request)) => self.handle(request).await?,
                Ok(None) => {
                    let mut shutdown = self.socket.connection.shutdown.clone();
                    let is_open = tokio::select! {
                        filled = self.socket.fill() => filled?,
                        () = shutdown.requested() => {
                            let message = "terminating connection because the node stops";
                            return self.socket.refuse("57P01", message).await;
                        }
                    };
                    if !is_open {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn handle(&mut self, request: Request) -> Served {
        if self.is_skipping && !matches!(request, Request::Sync) {
            return Ok(());
        }
        self.registered.interrupt.reset();
        let started = self.face.clock.elapsed();
        let meters = &self.face.meters;
        let meter: Option<Meter> = match &request {
            Request::Query(_) => Some(meters.query.clone()),
            Request::Parse { .. } => Some(meters.parse.clone()),
            Request::Bind { .. } => Some(meters.bind.clone()),
            Request::Describe(_) => Some(meters.describe.clone()),
            Request::Execute { .. } => Some(meters.execute.clone()),
            Request::Sync => Some(meters.sync.clone()),
            _ => None,
        };
        let is_extended = !matches!(request, Request::Query(_) | Request::Sync);
        let result = self.dispatch(request).await;
        if let Some(meter) = meter {
            meter.observe(self.face.clock.elapsed().saturating_sub(started), result.is_err());
        }
        match result {
            Ok(()) => {}
            Err(Failure::Connection(error)) => return Err(error),
            Err(Failure::Sql(error)) => {
                self.sql.abort();
                put_error(&mut self.socket.output, &error);
                self.is_skipping = is_extended;
                if !is_extended {
                    self.ready().await?;
                }
            }
        }
        self.socket.flush_if_large().await
    }

    async fn dispatch(&mut self, request: Request) -> Result<(), Failure> {
        match request {
            Request::Query(text) => {
                self.query(&text).await?;
                self.sql.finish_implicit().await?;
                Ok(self.ready().await?)
            }
            Request::Parse { name, query, parameter_oids } => {
                self.parse(name, &query, parameter_oids).await
            }
            Request::Bind { portal, statement, parameter_formats, parameters, result_formats } => {
                self.bind(portal, &statement, &parameter_formats, &parameters, result_formats)
            }
            Request::Describe(named) => self.describe(&named),
            Request::Close(named) => {
                match named {
                    Named::Statement(name) => drop(self.statements.remove(&name)),
                    Named::Portal(name) => drop(self.portals.remove(&name)),
                }
                put_message(&mut self.socket.output, b'3', |_| {});
                Ok(())
            }
            Request::Execute { portal, rows_max } => self.execute(&portal, rows_max).await,
            Request::Flush => Ok(self.socket.flush().await?),
            Request::Sync => {
                self.is_skipping = false;
                self.sql.finish_implicit().await?;
                Ok(self.ready().await?)
            }
            Request::FunctionCall => Err(SqlError::unsupported("the function call message").into()),
            // After a refused COPY the client's data may still be on its way.
            Request::Copy | Request::Password(_) | Request::Terminate => Ok(()),
        }
    }

    async fn ready(&mut self) -> Served {
        let status = self.sql.status();
        if status == TransactionStatus::Idle {
            self.portals.clear();
        }
        put_ready(&mut self.socket.output, status);
        self.socket.flush().await
    }

    async fn query(&mut self, text: &str) -> Result<(), Failure> {
        let statements = self.sql.parse(text)?;
        if statements.is_empty() {
            put_message(&mut self.socket.output, b'I', |_| {});
            return Ok(());
        }
        let count = statements.len();
        for statement in statements {
            // Types need not be known beforehand where there are no parameters.
            let prepared =
                Prepared { statement: Some(statement), parameter_types: Vec::new(), columns: None };
            let execution = self.execute_statement(&prepared, Vec::new(), count == 1).await?;
            match execution {
                Execution::Empty => put_message(&mut self.socket.output, b'I', |_| {}),
                Execution::Done { tag, notice } => self.done(&tag, notice.as_ref()),
                Execution::Deallocate { name } => self.deallocate(name)?,
                Execution::Rows { columns, rows, tag } => {
                    put_row_description(&mut self.socket.output, &columns, &[])?;
                    let mut running = Running::new(columns, rows, tag);
                    self.send_rows(&mut running, &[], 0).await?;
                    put_complete(&mut self.socket.output, &running.complete_tag());
                }
            }
        }
        Ok(())
    }

    /// Executes a statement and reports settings that it changed.
    async fn execute_statement(
        &mut self,
        prepared: &Prepared,
        parameters: Vec<Value>,
        is_last: bool,
    ) -> Result<Execution, SqlError> {
        let before = self.reported();
        let execution = self.sql.execute(prepared, parameters, is_last).await?;
        for ((name, reported), before) in REPORTED.iter().zip(before) {
            let value = self.sql.settings.get(name).unwrap_or_default();
            if value != before {
                put_parameter(&mut self.socket.output, reported, &value);
            }
        }
        Ok(execution)
    }

    fn reported(&self) -> Vec<String> {
        let value = |(name, _): &(&str, &str)| self.sql.settings.get(name).unwrap_or_default();
        REPORTED.iter().map(value).collect()
    }

    fn deallocate(&mut self, name: Option<String>) -> Result<(), SqlError> {
        let tag = match name {
            None => {
                self.statements.clear();
                "DEALLOCATE ALL"
            }
            Some(name) => {
                self.statements.remove(&name).ok_or_else(|| no_statement(&name))?;
                "DEALLOCATE"
            }
        };
        put_complete(&mut self.socket.output, tag);
        Ok(())
    }

    fn done(&mut self, tag: &str, notice: Option<&SqlError>) {
        if let Some(notice) = notice {
            put_notice(&mut self.socket.output, notice);
        }
        put_complete(&mut self.socket.output, tag);
    }

    /// Sends rows, at most `rows_max` unless that is 0; `true` if all are sent.
    async fn send_rows(
        &mut self,
        running: &mut Running,
        formats: &[i16],
        rows_max: u32,
    ) -> Result<bool, Failure> {
        let columns: Vec<(ColumnType, Format)> = running
            .columns
            .iter()
            .enumerate()
            .map(|(index, column)| Ok((column.column_type, format_at(formats, index)?)))
            .collect::<Result<_, SqlError>>()?;
        let mut sent = 0;
        while rows_max == 0 || sent < rows_max {
            let socket = self.socket.connection.stream.socket();
            let row = running.next(&self.registered.interrupt, socket).await?;
            let Some(row) = row else { return Ok(true) };
            put_message(&mut self.socket.output, b'D', |into| {
                into.put_u16(u16::try_from(row.len()).unwrap_or(u16::MAX));
                for (value, (column_type, format)) in row.iter().zip(&columns) {
                    put_value(into, value, *column_type, *format);
                }
            });
            sent += 1;
            running.row_count += 1;
            self.socket.flush_if_large().await?;
        }
        Ok(false)
    }

    async fn parse(&mut self, name: String, query: &str, oids: Vec<u32>) -> Result<(), Failure> {
        if !name.is_empty() && self.statements.contains_key(&name) {
            let message = format!("prepared statement \"{name}\" already exists");
            return Err(SqlError::new(sqlstate::DUPLICATE_STATEMENT, message).into());
        }
        if self.statements.len() >= STATEMENTS_MAX {
            let message =
                format!("a session can hold at most {STATEMENTS_MAX} prepared statements");
            return Err(SqlError::new(sqlstate::PROGRAM_LIMIT, message).into());
        }
        let mut parsed = self.sql.parse(query)?;
        if parsed.len() > 1 {
            let message = "cannot insert multiple commands into a prepared statement";
            return Err(SqlError::new(sqlstate::SYNTAX_ERROR, message).into());
        }
        let given = oids.iter().map(|oid| type_of_oid(*oid)).collect::<Result<Vec<_>, _>>()?;
        let prepared = self.sql.prepare(parsed.pop(), &given).await?;
        let oid = |(index, column_type): (usize, &ColumnType)| match oids.get(index) {
            Some(given) if *given != 0 && *given != 705 => *given,
            _ => type_oid(*column_type),
        };
        let parameter_oids = prepared.parameter_types.iter().enumerate().map(oid).collect();
        self.statements.insert(name, Statement { prepared: Arc::new(prepared), parameter_oids });
        put_message(&mut self.socket.output, b'1', |_| {});
        Ok(())
    }

    fn bind(
        &mut self,
        portal: String,
        statement: &str,
        formats: &[i16],
        parameters: &[Option<Bytes>],
        result_formats: Vec<i16>,
    ) -> Result<(), Failure> {
        let statement = self.statements.get(statement).ok_or_else(|| no_statement(statement))?;
        let types = &statement.prepared.parameter_types;
        if parameters.len() != types.len() {
            let message = format!(
                "bind message supplies {} parameters, but the prepared statement requires {}",
                parameters.len(),
                types.len()
            );
            return Err(SqlError::new(sqlstate::PROTOCOL_VIOLATION, message).into());
        }
        let mut values = Vec::with_capacity(parameters.len());
        let typed = types.iter().zip(&statement.parameter_oids);
        for (index, (bytes, (column_type, oid))) in parameters.iter().zip(typed).enumerate() {
            values.push(match bytes {
                None => Value::Null,
                Some(bytes) => decode(bytes, format_at(formats, index)?, *oid, *column_type)?,
            });
        }
        if self.portals.len() >= PORTALS_MAX {
            let message = format!("a session can hold at most {PORTALS_MAX} portals");
            return Err(SqlError::new(sqlstate::PROGRAM_LIMIT, message).into());
        }
        let prepared = statement.prepared.clone();
        let bound = Portal {
            prepared,
            parameters: values,
            formats: result_formats,
            running: None,
            finished: None,
        };
        self.portals.insert(portal, bound);
        put_message(&mut self.socket.output, b'2', |_| {});
        Ok(())
    }

    fn describe(&mut self, named: &Named) -> Result<(), Failure> {
        let output = &mut self.socket.output;
        let (prepared, formats) = match named {
            Named::Statement(name) => {
                let statement = self.statements.get(name).ok_or_else(|| no_statement(name))?;
                put_message(output, b't', |into| {
                    let count = statement.parameter_oids.len();
                    into.put_u16(u16::try_from(count).unwrap_or(u16::MAX));
                    statement.parameter_oids.iter().for_each(|oid| into.put_u32(*oid));
                });
                (&statement.prepared, &[][..])
            }
            Named::Portal(name) => {
                let portal = self.portals.get(name).ok_or_else(|| no_portal(name))?;
                (&portal.prepared, portal.formats.as_slice())
            }
        };
        match &prepared.columns {
            Some(columns) => put_row_description(output, columns, formats)?,
            None => put_message(output, b'n', |_| {}),
        }
        Ok(())
    }

    async fn execute(&mut self, name: &str, rows_max: u32) -> Result<(), Failure> {
        // The portal is out of the map while it runs; an error ends it anyway.
        let mut portal = self.portals.remove(name).ok_or_else(|| no_portal(name))?;
        match portal.finished {
            None => {}
            Some(Finished::Rows(tag)) => {
                put_complete(&mut self.socket.output, &format!("{tag} 0"));
                self.portals.insert(name.to_owned(), portal);
                return Ok(());
            }
            Some(Finished::Done) => {
                let message = format!("portal \"{name}\" cannot be run again");
                return Err(SqlError::new("55000", message).into());
            }
        }
        if portal.running.is_none() {
            // Sync is next: the statement is a transaction by itself.
            let is_last = rows_max == 0 && self.socket.input.chunk().first() == Some(&b'S');
            let parameters = std::mem::take(&mut portal.parameters);
            match self.execute_statement(&portal.prepared, parameters, is_last).await? {
                Execution::Empty => {
                    put_message(&mut self.socket.output, b'I', |_| {});
                    portal.finished = Some(Finished::Done);
                }
                Execution::Done { tag, notice } => {
                    self.done(&tag, notice.as_ref());
                    portal.finished = Some(Finished::Done);
                }
                Execution::Deallocate { name } => {
                    self.deallocate(name)?;
                    portal.finished = Some(Finished::Done);
                }
                Execution::Rows { columns, rows, tag } => {
                    portal.running = Some(Running::new(columns, rows, tag));
                }
            }
        }
        if let Some(mut running) = portal.running.take() {
            if self.send_rows(&mut running, &portal.formats, rows_max).await? {
                put_complete(&mut self.socket.output, &running.complete_tag());
                portal.finished = Some(Finished::Rows(running.tag));
            } else {
                put_message(&mut self.socket.output, b's', |_| {});
                portal.running = Some(running);
            }
        }
        self.portals.insert(name.to_owned(), portal);
        Ok(())
    }
}

/// Resolves once the client has closed its side. What it sent before may still be unread here, so
/// reading would not tell.
async fn client_gone(stream: &TcpStream) {
    loop {
        task::sleep(CLIENT_CHECK_INTERVAL).await;
        if let Some(Ok(ready)) = stream.ready(Interest::READABLE).now_or_never()
            && ready.is_read_closed()
        {
            return;
        }
    }
}

fn no_statement(name: &str) -> SqlError {
    let message = format!("prepared statement \"{name}\" does not exist");
    SqlError::new(sqlstate::INVALID_STATEMENT_NAME, message)
}

fn no_portal(name: &str) -> SqlError {
    SqlError::new(sqlstate::INVALID_CURSOR_NAME, format!("portal \"{name}\" does not exist"))
}

fn put_row_description(
    into: &mut BytesMut,
    columns: &[ResultColumn],
    formats: &[i16],
) -> Result<(), SqlError> {
    let formats: Vec<Format> =
        (0..columns.len()).map(|index| format_at(formats, index)).collect::<Result<_, _>>()?;
    put_message(into, b'T', |into| {
        into.put_u16(u16::try_from(columns.len()).unwrap_or(u16::MAX));
        for (column, format) in columns.iter().zip(formats) {
            let (table, position) = column.origin.map_or((0, 0), |(id, position)| (id.0, position));
            put_string(into, &column.name);
            into.put_u32(table);
            into.put_u16(position);
            into.put_u32(type_oid(column.column_type));
            into.put_i16(type_size(column.column_type));
            into.put_i32(type_modifier(column.column_type));
            into.put_i16(if format == Format::Binary { 1 } else { 0 });
        }
    });
    Ok(())
}
