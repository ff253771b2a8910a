//! PROTEUS.CACHE and PROTEUS.EVENTS: what follows from a change in the same commit. Not of Redis.

use bytes::Bytes;
use proteus_kernel_api::cache::commands::shortened;
use proteus_kernel_api::cache::{
    DATABASE_COUNT, Declaration, DeclarationKind, DerivedEntry, EventTarget, KeyPart, Op,
    RecordedEvents, Refresh, Reply, declarations, parse_integer,
};
use proteus_kernel_api::{KernelError, Minitransaction, Outcome, table, topic};

use super::{help, unknown, word};
use crate::errors::{SYNTAX, of_kernel, wrong_arity};
use crate::events::{ALL_CLASSES, event_bits};
use crate::reply::text;
use crate::session::Session;

/// Rows whose entries are made in one proposal.
const FILL_ROWS: usize = 256;

const CACHE_HELP: &[&str] = &[
    "PROTEUS.CACHE <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "CREATE <name> TABLE <table> KEY <key> [DB <db>] [PX <milliseconds>]",
    "       (INVALIDATE | VALUE <column> | JSON | HASH [<column> ...])",
    "    Let the entry of a row be removed or written anew in the commit that changes the row.",
    "    <key> names columns in braces: user:{id}.",
    "FILL <name>",
    "    Make the entries of all rows that are there, and return how many rows there were.",
    "DROP <name>",
    "    End a declaration. Entries stay.",
    "LIST",
    "    Return all declarations.",
    "HELP",
    "    Print this help.",
];

const EVENTS_HELP: &[&str] = &[
    "PROTEUS.EVENTS <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "CREATE <name> (STREAM <key> [STREAMDB <db>] [MAXLEN <count>] | TOPIC <topic>)",
    "       [MATCH <pattern>] [DB <db>] [CLASSES <letters>]",
    "    Write keyspace events to a stream or a topic in the commits that cause them.",
    "    <letters> are those of notify-keyspace-events, A if not given.",
    "DROP <name>",
    "    End a declaration. The stream stays.",
    "LIST",
    "    Return all declarations.",
    "HELP",
    "    Print this help.",
];

/// The text and columns of a key like `user:{id}`; `{{` and `}}` stand for a brace.
fn key_parts(pattern: &[u8]) -> Result<Vec<KeyPart>, Reply> {
    let mut parts = Vec::new();
    let mut plain = Vec::new();
    let mut rest = pattern;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'{' | b'}' if after.first() == Some(byte) => {
                plain.push(*byte);
                rest = &after[1..];
            }
            b'{' => {
                let Some(end) = after.iter().position(|byte| *byte == b'}') else {
                    return Err(Reply::error("ERR the key has a brace that is not closed"));
                };
                if !plain.is_empty() {
                    parts.push(KeyPart::Text(std::mem::take(&mut plain)));
                }
                let column = String::from_utf8_lossy(&after[..end]).into_owned();
                parts.push(KeyPart::Column(column));
                rest = &after[end + 1..];
            }
            b'}' => return Err(Reply::error("ERR the key has a brace that was not opened")),
            byte => plain.push(*byte),
        }
    }
    if !plain.is_empty() {
        parts.push(KeyPart::Text(plain));
    }
    Ok(parts)
}

fn pattern_of(parts: &[KeyPart]) -> String {
    let part = |part: &KeyPart| match part {
        KeyPart::Text(text) => String::from_utf8_lossy(text).replace('{', "{{").replace('}', "}}"),
        KeyPart::Column(column) => format!("{{{column}}}"),
    };
    parts.iter().map(part).collect()
}

fn database(argument: Option<&Bytes>) -> Result<u8, Reply> {
    let db = argument.and_then(|text| parse_integer(text)).and_then(|db| u8::try_from(db).ok());
    db.filter(|db| *db < DATABASE_COUNT).ok_or(crate::errors::DB_OUT_OF_RANGE)
}

fn positive(argument: Option<&Bytes>, name: &str) -> Result<u64, Reply> {
    let number = argument.and_then(|text| parse_integer(text)).and_then(|n| u64::try_from(n).ok());
    number
        .filter(|number| *number > 0)
        .ok_or_else(|| Reply::Error(format!("ERR {name} must be a positive integer").into()))
}

fn string(argument: &Bytes) -> String {
    String::from_utf8_lossy(argument).into_owned()
}

/// `TABLE t KEY k [DB n] [PX ms] INVALIDATE | VALUE c | JSON | HASH [c …]`.
fn entry(options: &[Bytes]) -> Result<DerivedEntry, Reply> {
    let (mut source, mut key, mut db, mut expire_ms) = (None, None, 0, None);
    let mut rest = options;
    let refresh = loop {
        let Some((option, after)) = rest.split_first() else { return Err(SYNTAX) };
        match (option.to_ascii_uppercase().as_slice(), after) {
            (b"INVALIDATE", []) => break Refresh::Invalidate,
            (b"JSON", []) => break Refresh::Json,
            (b"VALUE", [column]) => break Refresh::Column(string(column)),
            (b"HASH", columns) => break Refresh::Hash(columns.iter().map(string).collect()),
            (b"TABLE", [name, ..]) => source = Some(string(name)),
            (b"KEY", [pattern, ..]) => key = Some(key_parts(pattern)?),
            (b"DB", [_, ..]) => db = database(after.first())?,
            (b"PX", [_, ..]) => expire_ms = Some(positive(after.first(), "PX")?),
            _ => return Err(SYNTAX),
        }
        rest = &after[1..];
    };
    let (Some(source), Some(key)) = (source, key) else { return Err(SYNTAX) };
    let (schema, table) = match source.split_once('.') {
        Some((schema, table)) => (schema.to_owned(), table.to_owned()),
        None => ("public".to_owned(), source),
    };
    Ok(DerivedEntry { schema, table, db, key, refresh, expire_ms })
}

/// `STREAM k [STREAMDB n] [MAXLEN n] | TOPIC t`, and `[MATCH p] [DB n] [CLASSES l]`.
fn recorded(options: &[Bytes]) -> Result<RecordedEvents, Reply> {
    let (mut pattern, mut event_db, mut event_classes) =
        (b"*".to_vec(), None, ALL_CLASSES.to_vec());
    let (mut stream, mut topic, mut stream_db, mut length_max) = (None, None, None, None);
    if !options.len().is_multiple_of(2) {
        return Err(SYNTAX);
    }
    for pair in options.chunks_exact(2) {
        let value = Some(&pair[1]);
        match pair[0].to_ascii_uppercase().as_slice() {
            b"STREAM" => stream = Some(pair[1].to_vec()),
            b"STREAMDB" => stream_db = Some(database(value)?),
            b"TOPIC" => topic = Some(string(&pair[1])),
            b"MATCH" => pattern = pair[1].to_vec(),
            b"DB" => event_db = Some(database(value)?),
            b"MAXLEN" => length_max = Some(positive(value, "MAXLEN")?),
            b"CLASSES" => {
                let mut classes = Vec::new();
                for letter in pair[1].iter() {
                    match letter {
                        b'A' => classes.extend_from_slice(ALL_CLASSES),
                        // Which channel is a question of messages only.
                        b'K' | b'E' => {}
                        letter if event_bits(*letter).is_some() => classes.push(*letter),
                        _ => {
                            return Err(Reply::error(
                                "ERR Invalid event class character. Use 'Ag$lshzxetdn'.",
                            ));
                        }
                    }
                }
                classes.sort_unstable();
                classes.dedup();
                event_classes = classes;
            }
            _ => return Err(SYNTAX),
        }
    }
    let target = match (stream, topic) {
        (Some(key), None) => EventTarget::Stream { key, db: stream_db.unwrap_or(0), length_max },
        (None, Some(topic)) if stream_db.is_none() && length_max.is_none() => {
            EventTarget::Topic(topic)
        }
        _ => return Err(SYNTAX),
    };
    Ok(RecordedEvents { pattern, db: event_db, classes: event_classes, target })
}

fn about(name: String, declaration: Declaration) -> Reply {
    let number = |number: u64| Reply::Integer(i64::try_from(number).unwrap_or(i64::MAX));
    let mut rows = vec![(text("name"), text(name))];
    match declaration {
        Declaration::Entry(entry) => {
            let (refresh, columns) = match entry.refresh {
                Refresh::Invalidate => ("invalidate", Vec::new()),
                Refresh::Column(column) => ("value", vec![column]),
                Refresh::Json => ("json", Vec::new()),
                Refresh::Hash(columns) => ("hash", columns),
            };
            rows.extend([
                (text("table"), text(format!("{}.{}", entry.schema, entry.table))),
                (text("key"), text(pattern_of(&entry.key))),
                (text("db"), Reply::Integer(entry.db.into())),
                (text("refresh"), text(refresh)),
                (text("columns"), Reply::Array(columns.into_iter().map(text).collect())),
                (text("px"), entry.expire_ms.map_or(Reply::Nil, number)),
            ]);
        }
        Declaration::Events(events) => {
            match events.target {
                EventTarget::Stream { key, db, length_max } => rows.extend([
                    (text("stream"), Reply::Bulk(Bytes::from(key))),
                    (text("streamdb"), Reply::Integer(db.into())),
                    (text("maxlen"), length_max.map_or(Reply::Nil, number)),
                ]),
                EventTarget::Topic(topic) => rows.push((text("topic"), text(topic))),
            }
            rows.extend([
                (text("match"), Reply::Bulk(Bytes::from(events.pattern))),
                (text("db"), events.db.map_or(Reply::Nil, |db| Reply::Integer(db.into()))),
                (text("classes"), Reply::Bulk(Bytes::from(events.classes))),
            ]);
        }
    }
    Reply::Map(rows)
}

impl Session {
    pub(super) async fn proteus_cache(&mut self, arguments: &[Bytes]) -> Reply {
        match (word(arguments).as_slice(), arguments.len()) {
            (b"CREATE", count) if count > 3 => match entry(&arguments[3..]) {
                Err(error) => error,
                Ok(entry) => match self.misfit(&entry) {
                    Some(error) => error,
                    None => self.declare(&arguments[2], Declaration::Entry(entry)).await,
                },
            },
            (b"FILL", 3) => self.fill(&arguments[2]).await,
            (b"FILL", _) => wrong_arity("proteus.cache|fill"),
            (b"HELP", 2) => help(CACHE_HELP),
            _ => self.about_declarations("proteus.cache", DeclarationKind::Entry, arguments).await,
        }
    }

    pub(super) async fn proteus_events(&mut self, arguments: &[Bytes]) -> Reply {
        match (word(arguments).as_slice(), arguments.len()) {
            (b"CREATE", count) if count > 3 => match recorded(&arguments[3..]) {
                Err(error) => error,
                Ok(events) => match self.missing_topic(&events) {
                    Some(error) => error,
                    None => self.declare(&arguments[2], Declaration::Events(events)).await,
                },
            },
            (b"HELP", 2) => help(EVENTS_HELP),
            _ => {
                self.about_declarations("proteus.events", DeclarationKind::Events, arguments).await
            }
        }
    }

    /// The refusal of a topic that is not there.
    fn missing_topic(&self, events: &RecordedEvents) -> Option<Reply> {
        let EventTarget::Topic(name) = &events.target else { return None };
        match self.face.kernel.read(|view| topic::read::topic_by_name(view.state, name)) {
            Ok(Some(_)) => None,
            Ok(None) => {
                let name = shortened(name.as_bytes(), 128);
                Some(Reply::Error(format!("ERR there is no topic '{name}'").into()))
            }
            Err(error) => Some(of_kernel(&error)),
        }
    }

    async fn about_declarations(
        &self,
        command: &str,
        kind: DeclarationKind,
        arguments: &[Bytes],
    ) -> Reply {
        match (word(arguments).as_slice(), arguments.len()) {
            (b"DROP", 3) => {
                let op = Op::Revoke { name: string(&arguments[2]), kind };
                match self.face.kernel.commit(Minitransaction::of(op)).await {
                    Ok(outcome) => crate::blocked::reply_of(outcome),
                    Err(error) => of_kernel(&error),
                }
            }
            (b"LIST", 2) => match self.face.kernel.read(|view| declarations(view.state, kind)) {
                Ok(all) => {
                    Reply::Array(all.into_iter().map(|(name, what)| about(name, what)).collect())
                }
                Err(error) => of_kernel(&error),
            },
            (b"CREATE" | b"DROP" | b"LIST" | b"HELP", _) => {
                let word = String::from_utf8_lossy(&word(arguments)).to_lowercase();
                wrong_arity(&format!("{command}|{word}"))
            }
            _ => unknown(command, arguments),
        }
    }

    async fn declare(&self, name: &Bytes, declaration: Declaration) -> Reply {
        let op = Op::Declare { name: string(name), declaration };
        match self.face.kernel.commit(Minitransaction::of(op)).await {
            Ok(outcome) => crate::blocked::reply_of(outcome),
            Err(error) => of_kernel(&error),
        }
    }

    /// Makes the entries of a declaration's rows as if each had just changed, piece by piece. Rows that change
    /// meanwhile are made anew by that; one that is gone has none.
    async fn fill(&self, name: &Bytes) -> Reply {
        match self.try_fill(&string(name)).await {
            Ok(Some(count)) => Reply::Integer(count),
            Ok(None) => Reply::error("ERR there is no declaration of that name"),
            Err(error) => of_kernel(&error),
        }
    }

    async fn try_fill(&self, name: &str) -> Result<Option<i64>, KernelError> {
        let kernel = &self.face.kernel;
        let found = kernel.read(|view| {
            let all = declarations(view.state, DeclarationKind::Entry)?;
            let Some((_, Declaration::Entry(entry))) =
                all.into_iter().find(|(other, _)| other == name)
            else {
                return Ok(None);
            };
            table::catalog::table_by_name(view.state, &entry.schema, &entry.table)
                .map(|table| Some(table.map(|table| table.id)))
        })?;
        let table = match found {
            None => return Ok(None),
            // Without the table there are no rows.
            Some(None) => return Ok(Some(0)),
            Some(Some(table)) => table,
        };
        let (mut start, mut count) = (Vec::new(), 0);
        loop {
            let chunk = kernel.read(|view| {
                let (state, ts) = (view.state, view.applied_ts);
                table::rows::scan_chunk(state, table, &start, None, ts, FILL_ROWS)
            })?;
            let row_count = chunk.rows.len();
            let tell = |(key, _): (Vec<u8>, table::Row)| table::Op::TellRow { table, key };
            let told = chunk.rows.into_iter().map(tell);
            // Over several shards one commit of many rows costs little more than of one.
            let told: Vec<Minitransaction> = match kernel.is_spread() {
                true if row_count == 0 => Vec::new(),
                true => vec![told.fold(Minitransaction::default(), Minitransaction::op)],
                false => told.map(Minitransaction::of).collect(),
            };
            // A table that was dropped meanwhile refuses, and has no rows.
            let outcomes = if told.is_empty() { Vec::new() } else { kernel.propose(told).await? };
            for outcome in outcomes {
                if let Outcome::Committed { replies, .. } = outcome {
                    count += i64::try_from(replies.len()).unwrap_or(0);
                }
            }
            match chunk.next_key {
                Some(next) => start = next,
                None => return Ok(Some(count)),
            }
        }
    }

    /// Why no entry could follow from the table's rows.
    fn misfit(&self, entry: &DerivedEntry) -> Option<Reply> {
        let read = self
            .face
            .kernel
            .read(|view| table::catalog::table_by_name(view.state, &entry.schema, &entry.table));
        let refused = |why: String| Some(Reply::Error(format!("ERR {why}").into()));
        let definition = match read {
            Ok(Some(found)) => found.definition,
            Ok(None) => {
                let name = shortened(entry.table.as_bytes(), 128);
                return refused(format!("there is no table '{name}'"));
            }
            Err(error) => return Some(of_kernel(&error)),
        };
        if !matches!(definition.source, table::Source::Rows) {
            return refused("the table's rows are a topic's records".to_owned());
        }
        let in_key = entry.key.iter().filter_map(|part| match part {
            KeyPart::Column(column) => Some(column),
            KeyPart::Text(_) => None,
        });
        if in_key.clone().next().is_none() {
            return refused("the key names no column: name one in braces".to_owned());
        }
        let refreshed: &[String] = match &entry.refresh {
            Refresh::Column(column) => std::slice::from_ref(column),
            Refresh::Hash(columns) => columns,
            Refresh::Invalidate | Refresh::Json => &[],
        };
        let missing =
            in_key.chain(refreshed).find(|column| definition.column_index(column).is_none())?;
        let name = shortened(missing.as_bytes(), 128);
        refused(format!("the table has no column '{name}'"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_columns_in_braces() {
        let parts = key_parts(b"user:{id}:{{x}}").unwrap();
        let expected = [
            KeyPart::Text(b"user:".to_vec()),
            KeyPart::Column("id".to_owned()),
            KeyPart::Text(b":{x}".to_vec()),
        ];
        assert_eq!(parts, expected);
        assert_eq!(pattern_of(&parts), "user:{id}:{{x}}");
        assert!(key_parts(b"a{b").is_err() && key_parts(b"a}b").is_err());
    }
}
