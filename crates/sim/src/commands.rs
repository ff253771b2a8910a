//! Random commands over all four machines.
//!
//! Names come from small sets, so that commands meet: what one creates another deletes, expects or
//! refuses to overwrite. Half of the checks are drawn from the state they will meet, so that they hold.

mod topics;

use bytes::Bytes;
use proteus_machine::View;
use proteus_shard_machine::{Check, Minitransaction, Op, cache, table, topic, tree};
use proteus_store::StoreError;
use proteus_types::{CommitTs, NodeId, ShardId};

use crate::random::Random;

/// Names of each kind that commands choose from.
const NAMES: u64 = 4;

/// Id of the first table that a catalog creates.
pub const FIRST_TABLE: u32 = 16384;

/// Commands of the cache. K stands for a key, F for a field or member, V for a value, N for a small
/// number, S for a score, T for milliseconds, I for an id in a stream, G for a group.
const CACHE_COMMANDS: &[&str] = &[
    "APPEND K V",
    "BITFIELD K SET u8 3 N INCRBY i5 9 N",
    "BITOP XOR K K K",
    "COPY K K",
    "COPY K K DB 1 REPLACE",
    "DECRBY K N",
    "DEL K K",
    "EXPIRE K N",
    "FLUSHALL",
    "FLUSHDB",
    "GEOADD K N N F",
    "GETDEL K",
    "GETEX K PX T",
    "GETSET K V",
    "HDEL K F F F",
    "HGETALL K",
    "HINCRBY K F N",
    "HINCRBYFLOAT K F 1.5",
    "HPERSIST K FIELDS 2 F F",
    "HPEXPIRE K T FIELDS 2 F F",
    "HPEXPIREAT K 1 FIELDS 1 F",
    "HSET K F V F V F V F V",
    "HSETNX K F V",
    "INCRBY K N",
    "INCRBYFLOAT K 0.1",
    "LINSERT K BEFORE V V",
    "LMOVE K K LEFT RIGHT",
    "LMPOP 2 K K LEFT COUNT 3",
    "LPOP K",
    "LPUSH K V V V V V V",
    "LREM K N V",
    "LSET K N V",
    "LTRIM K N N",
    "MGET K K",
    "MOVE K 1",
    "MSET K V K V",
    "MSETNX K V K V",
    "PERSIST K",
    "PEXPIRE K T",
    "PEXPIREAT K T",
    "PFADD K F F F",
    "PFMERGE K K",
    "PSETEX K T V",
    "RENAME K K",
    "RENAMENX K K",
    "RPOP K N",
    "RPOPLPUSH K K",
    "RPUSH K V V V V V V V",
    "SADD K F F F F F F",
    "SDIFFSTORE K K K",
    "SET K V",
    "SET K V",
    "SET K V PX T",
    "SET K V XX KEEPTTL",
    "SET K V NX GET",
    "SETBIT K 40 1",
    "SETRANGE K 5 V",
    "SINTERSTORE K K K",
    "SMOVE K K F",
    "SORT K ALPHA STORE K",
    "SPOP K",
    "SPOP K 3",
    "SREM K F F",
    "SUNIONSTORE K K K",
    "SWAPDB 0 1",
    "XACK K G I I",
    "XADD K * F V",
    "XADD K I F V",
    "XADD K MAXLEN 3 * F V F V",
    "XAUTOCLAIM K G F 0 0 COUNT 3",
    "XCLAIM K G F 0 I I FORCE",
    "XDEL K I I",
    "XGROUP CREATE K G 0 MKSTREAM",
    "XGROUP CREATECONSUMER K G F",
    "XGROUP DELCONSUMER K G F",
    "XGROUP DESTROY K G",
    "XGROUP SETID K G $",
    "XREADGROUP GROUP G F COUNT 3 STREAMS K >",
    "XREADGROUP GROUP G F STREAMS K 0",
    "XTRIM K MAXLEN 2",
    "ZADD K S F S F S F S F",
    "ZADD K GT CH S F",
    "ZINCRBY K N F",
    "ZMPOP 1 K MAX COUNT 2",
    "ZPOPMIN K",
    "ZRANGESTORE K K 0 N",
    "ZREM K F F",
    "ZREMRANGEBYRANK K 0 N",
    "ZREMRANGEBYSCORE K N inf",
    "ZUNIONSTORE K 2 K K",
    "PUBLISH F V",
    "BLPOP K K 0",
    "BZPOPMAX K 0",
];

/// Draws commands.
#[derive(Debug)]
pub struct Generator {
    random: Random,
    /// Tables with lower ids are left alone.
    first_table: u32,
    /// Whether everything of a machine may be removed at once.
    clears: bool,
    /// Of a key that was looked at.
    revision: cache::Revision,
}

impl Generator {
    /// Commands over anything.
    pub fn new(random: Random) -> Generator {
        Generator {
            random,
            first_table: FIRST_TABLE,
            clears: true,
            revision: cache::Revision::ABSENT,
        }
    }

    /// Commands that leave the first table, and keys that others own, alone.
    #[must_use]
    pub fn beside_others(random: Random) -> Generator {
        Generator {
            random,
            first_table: FIRST_TABLE + 1,
            clears: false,
            revision: cache::Revision::ABSENT,
        }
    }

    /// One to four ops, perhaps with checks; over one machine or several.
    ///
    /// # Errors
    /// If the state cannot be read.
    pub fn minitransaction(&mut self, view: View<'_>) -> Result<Minitransaction, StoreError> {
        let mut drawn = Minitransaction::default();
        if self.random.chance(20) {
            for _ in 0..=self.random.below(2) {
                drawn.checks.push(self.check(view)?);
            }
        }
        let op_count = if self.random.chance(60) { 1 } else { 2 + self.random.below(3) };
        for _ in 0..op_count {
            let op = match self.random.below(10) {
                0 if self.random.chance(70) => self.transaction_op(view)?.into(),
                0 => self.tiering_op(view)?.into(),
                _ => self.op(),
            };
            drawn.ops.push(op);
        }
        Ok(drawn)
    }

    /// Creates some of everything, so that what follows has something to meet.
    pub fn beginning(&mut self) -> Vec<Minitransaction> {
        let mut ops: Vec<Op> = Vec::new();
        for number in 1..=2u8 {
            ops.push(
                tree::Op::CreateSession {
                    session: tree::SessionId(number.into()),
                    password: [number; 16],
                    timeout_ms: 5_000,
                }
                .into(),
            );
            ops.push(
                topic::Op::CreateTopic {
                    name: format!("t{number}"),
                    topic_id: topic::TopicId([number; 16]),
                    partition_count: 3,
                    config: self.settings(),
                }
                .into(),
            );
            let mut definition = self.definition();
            definition.name = format!("n{number}");
            ops.push(table::Op::CreateTable { id: None, definition, if_not_exists: false }.into());
        }
        for (path, kind) in [("/a", tree::NodeKind::Persistent), ("/b", tree::NodeKind::Container)]
        {
            let new_node = tree::NewNode { kind, ..tree::NewNode::persistent(path, None) };
            ops.push(tree::Op::Create(new_node).into());
        }
        ops.into_iter().map(Minitransaction::of).collect()
    }

    /// As [`Generator::minitransaction`], with a check or an op somewhere that refuses on any state.
    ///
    /// # Errors
    /// As [`Generator::minitransaction`].
    pub fn doomed(&mut self, view: View<'_>) -> Result<Minitransaction, StoreError> {
        let mut drawn = self.minitransaction(view)?;
        self.doom(&mut drawn);
        Ok(drawn)
    }

    /// Adds a check or an op that refuses on any state.
    pub fn doom(&mut self, minitransaction: &mut Minitransaction) {
        let nowhere = "/nowhere".to_owned();
        let no_table = table::TableId(1);
        if self.random.chance(30) {
            let check = match self.random.below(3) {
                0 => tree::Check::SessionAlive { session: tree::SessionId(-7) }.into(),
                1 => table::Check::TableUnchanged { table: no_table }.into(),
                _ => tree::Check::NodeVersion { path: nowhere, version: 0 }.into(),
            };
            minitransaction.checks.push(check);
            return;
        }
        let op = match self.random.below(3) {
            0 => tree::Op::CheckNode {
                path: nowhere,
                expected: tree::Expected::default(),
                by: tree::Credentials::TRUSTED,
            }
            .into(),
            1 => table::Op::DeleteRow { table: no_table, key: vec![1] }.into(),
            _ => topic::Op::DeleteTopic { topic_id: topic::TopicId([0xEE; 16]) }.into(),
        };
        let place = self.random.below(minitransaction.ops.len() as u64 + 1) as usize;
        minitransaction.ops.insert(place, op);
    }

    /// An op of any machine.
    pub fn op(&mut self) -> Op {
        match self.random.below(4) {
            0 => self.tree_op().into(),
            1 => self.topic_op().into(),
            2 => self.cache_op().into(),
            _ => self.table_op().into(),
        }
    }

    fn check(&mut self, view: View<'_>) -> Result<Check, StoreError> {
        let is_true = self.random.chance(60);
        Ok(match self.random.below(6) {
            0 => {
                let path = self.path();
                match tree::stat(view.state, &path)? {
                    Some(stat) if is_true => tree::Check::NodeExists {
                        path,
                        czxid: Some(stat.czxid),
                        owner: (stat.ephemeral_owner > 0)
                            .then_some(tree::SessionId(stat.ephemeral_owner)),
                    },
                    None if is_true => tree::Check::NodeAbsent { path },
                    _ => tree::Check::NodeVersion { path, version: self.random.below(3) as i32 },
                }
                .into()
            }
            1 => tree::Check::SessionAlive { session: self.session() }.into(),
            2 => {
                let (group, topic_id, partition) = (self.group(), self.topic_id(), 0);
                let found = topic::read::committed_offset(view.state, &group, topic_id, partition)?;
                let expected = if is_true { found.map(|found| found.offset) } else { Some(77) };
                topic::Check::CommittedOffset { group, topic_id, partition, expected }.into()
            }
            3 => {
                let key = self.key();
                let revision = if is_true {
                    cache::revision(view.state, view.now_ms, 0, &key)?
                } else {
                    cache::Revision::ABSENT
                };
                // What is to be evicted later may by then be another.
                self.revision = revision;
                if self.random.chance(20) {
                    let name = "setting 1".to_owned();
                    let value = cache::setting(view.state, &name)?.filter(|_| is_true);
                    return Ok(cache::Check::SettingIs { name, value }.into());
                }
                cache::Check::Unchanged { db: 0, key, revision }.into()
            }
            4 => table::Check::TableUnchanged { table: self.table() }.into(),
            _ => {
                let read_ts = if is_true { view.applied_ts } else { CommitTs(1) };
                let (table, key) = (self.table(), self.row_key());
                table::Check::RowUnchangedSince { table, key, read_ts }.into()
            }
        })
    }

    fn path(&mut self) -> String {
        let mut path = String::new();
        for _ in 0..=self.random.pick(&[0, 0, 1, 1, 1, 2]) {
            path.push('/');
            path.push_str(self.random.pick(&["a", "b", "c"]));
        }
        path
    }

    /// Mostly 0 or 1, which are more often there than not.
    fn low_number(&mut self) -> u64 {
        let bound = if self.random.chance(75) { 2 } else { NAMES };
        self.random.below(bound)
    }

    fn session(&mut self) -> tree::SessionId {
        tree::SessionId(self.low_number() as i64 + 1)
    }

    fn data(&mut self) -> Option<Bytes> {
        self.random.chance(80).then(|| self.bytes(40))
    }

    fn bytes(&mut self, length_max: u64) -> Bytes {
        let length = self.random.below(length_max + 1);
        (0..length).map(|_| self.random.number() as u8).collect::<Vec<u8>>().into()
    }

    /// Two clients, and sometimes the node itself.
    fn credentials(&mut self) -> tree::Credentials {
        let identity = |scheme: &str, id: String| tree::Identity { scheme: scheme.to_owned(), id };
        match self.random.below(4) {
            0 => tree::Credentials::TRUSTED,
            number => tree::Credentials::of(&[
                identity("ip", format!("10.0.0.{number}")),
                identity("digest", format!("u{}:h", number % 2)),
            ]),
        }
    }

    /// Mostly open to everyone, so that the tree does not close up.
    fn acl(&mut self) -> tree::Acl {
        if self.random.chance(85) {
            return tree::Acl::OPEN;
        }
        let (scheme, id) = self.random.pick(&[
            ("world", "anyone"),
            ("digest", "u0:h"),
            ("digest", "u1:h"),
            ("ip", "10.0.0.0/31"),
        ]);
        let permissions = self.random.below(32) as i32;
        let (scheme, id) = (scheme.to_owned(), id.to_owned());
        tree::Acl::new(vec![tree::AclEntry { permissions, scheme, id }])
    }

    fn tree_op(&mut self) -> tree::Op {
        let (path, session, by) = (self.path(), self.session(), self.credentials());
        let version = self.random.chance(15).then(|| self.random.below(3) as i32);
        let timeout_ms = self.random.below(30_000) as u32;
        match self.random.below(24) {
            0..=7 => tree::Op::Create(tree::NewNode {
                path,
                data: self.data(),
                acl: self.acl(),
                kind: match self.random.below(5) {
                    0 => tree::NodeKind::Ephemeral(session),
                    1 => tree::NodeKind::Container,
                    2 => tree::NodeKind::TimeToLive(self.random.below(100_000)),
                    _ => tree::NodeKind::Persistent,
                },
                sequential: self.random.chance(15),
                keep_existing: self.random.chance(10),
                by,
            }),
            8..=9 => tree::Op::Delete { path, version, by },
            10 => tree::Op::DeleteIfPresent { path, version, by },
            11..=12 => {
                // The tree keeps long data apart from short data.
                let is_long = self.random.chance(20);
                let data = if is_long { Some(self.bytes(600)) } else { self.data() };
                tree::Op::SetData { path, data, version, by }
            }
            13 => tree::Op::SetAcl { path, acl: self.acl(), version, by },
            14 => {
                let expected = tree::Expected { version, ..tree::Expected::default() };
                tree::Op::CheckNode { path, expected, by }
            }
            15..=16 => tree::Op::CreateSession { session, password: [7; 16], timeout_ms },
            17 => tree::Op::SetSessionTimeout { session, timeout_ms },
            18 => tree::Op::CloseSession { session },
            19 => {
                let count_max = self.random.below(5) as u32;
                tree::Op::DeleteSubtree { path, count_max, by }
            }
            20 => tree::Op::CheckAbsent { path, version, by },
            21..=22 => self.quota_op(by),
            _ => tree::Op::RemoveOverdue { path, due_ms: self.random.below(1 << 41) },
        }
    }

    /// A step towards a quota on a subtree, or away from it.
    fn quota_op(&mut self, by: tree::Credentials) -> tree::Op {
        let root = "/zookeeper/quota";
        let limited = format!("{root}/{}", self.random.pick(&["a", "b"]));
        let limits = format!("{limited}/zookeeper_limits");
        let (path, text) = match self.random.below(5) {
            0 => (limited, String::new()),
            1 | 2 => {
                let (soft, hard) = (self.random.below(4), self.random.below(9));
                (limits, format!("count={soft},bytes=20=;countHardLimit={hard}"))
            }
            3 => (format!("{limited}/zookeeper_stats"), String::new()),
            _ => return tree::Op::DeleteSubtree { path: limited, count_max: 3, by },
        };
        let data = Some(Bytes::from(text));
        tree::Op::Create(tree::NewNode { by, ..tree::NewNode::persistent(path, data) })
    }

    fn key(&mut self) -> Bytes {
        self.random.pick(&[
            Bytes::from_static(b"k"),
            Bytes::from_static(b"k\0"),
            Bytes::from_static(b"k\0\x01"),
            Bytes::from_static(b"\xFF"),
        ])
    }

    /// Of events of all keys, or of entries that follow from the rows of a table.
    fn declaration(&mut self, key: Bytes) -> cache::Declaration {
        if self.random.chance(50) {
            return cache::Declaration::Events(cache::RecordedEvents {
                pattern: b"*".to_vec(),
                db: None,
                classes: b"g$lshzxet".to_vec(),
                target: match self.random.chance(70) {
                    true => {
                        cache::EventTarget::Stream { key: key.to_vec(), db: 1, length_max: Some(3) }
                    }
                    false => cache::EventTarget::Topic(format!("t{}", self.random.below(NAMES))),
                },
            });
        }
        let refresh = match self.random.below(4) {
            0 => cache::Refresh::Invalidate,
            1 => cache::Refresh::Json,
            2 => cache::Refresh::Hash(Vec::new()),
            _ => cache::Refresh::Column("value".to_owned()),
        };
        cache::Declaration::Entry(cache::DerivedEntry {
            schema: "public".to_owned(),
            table: format!("n{}", self.random.below(NAMES)),
            db: 0,
            key: vec![
                cache::KeyPart::Text(b"row ".to_vec()),
                cache::KeyPart::Column("id".to_owned()),
            ],
            refresh,
            expire_ms: self.random.chance(50).then_some(1_000),
        })
    }

    fn cache_op(&mut self) -> cache::Op {
        if self.random.chance(5) {
            let key = self.key();
            return match self.random.below(10) {
                0 => cache::Op::Expire { db: 0, key, expire_at_ms: self.random.below(1 << 41) },
                1 => cache::Op::ExpireFields { db: 0, key },
                2 => cache::Op::Reclaim { id: self.random.below(1 << 20) + (1 << 40) },
                3 | 4 => {
                    let name = format!("setting {}", self.random.below(3));
                    cache::Op::PutSetting { name, value: self.random.chance(70).then_some(key) }
                }
                5 => cache::Op::Invalidate { db: 0, key },
                9 => cache::Op::ChooseLeader {
                    shard: ShardId(self.random.below(3) as u32),
                    node: NodeId(self.random.below(3)),
                    keep_ms: self.random.below(2) * self.random.below(1 << 20),
                },
                6 => cache::Op::Declare {
                    name: format!("declaration {}", self.random.below(3)),
                    declaration: self.declaration(key),
                },
                7 => cache::Op::Revoke {
                    name: format!("declaration {}", self.random.below(3)),
                    kind: self
                        .random
                        .pick(&[cache::DeclarationKind::Entry, cache::DeclarationKind::Events]),
                },
                _ => cache::Op::Evict { db: 0, key, revision: self.revision },
            };
        }
        let mut template = self.random.pick(CACHE_COMMANDS);
        if !self.clears && (template.starts_with("FLUSH") || template.starts_with("SWAPDB")) {
            template = "DEL K K";
        }
        let arguments = if self.random.chance(3) {
            self.script()
        } else {
            template.split(' ').map(|word| self.cache_argument(word)).collect()
        };
        let db = if self.random.chance(90) { 0 } else { 1 };
        let call = cache::Call { db, seed: self.random.number(), origin: 0, arguments };
        if self.random.chance(5) { cache::Op::OrRefuse(call) } else { cache::Op::Command(call) }
    }

    /// A script that reads and writes by what it finds, by its seed and by the order of a table.
    fn script(&mut self) -> Vec<Bytes> {
        let text = "local t = {} for i = 1, 20 do t['k' .. math.random(99)] = i end              local n = 0 for k, v in pairs(t) do n = n * 31 % 65536 + v + #k end              if redis.call('EXISTS', KEYS[1]) == 1 then redis.pcall('APPEND', KEYS[1], n) else              redis.call('SET', KEYS[1], n .. redis.call('TIME')[1]) end return {n, KEYS[1]}";
        [&b"EVAL"[..], text.as_bytes(), b"1", &self.key()]
            .into_iter()
            .map(Bytes::copy_from_slice)
            .collect()
    }

    /// What a word of a template stands for.
    fn cache_argument(&mut self, word: &str) -> Bytes {
        match word {
            "K" => self.key(),
            "F" if self.random.chance(20) => self.key(),
            "F" => format!("f{}", self.random.below(200)).into(),
            "V" if self.random.chance(50) => (self.random.below(9) as i64 - 4).to_string().into(),
            "V" if self.random.chance(5) => self.bytes(300),
            "V" => self.bytes(30),
            "N" => (self.random.below(7) as i64 - 3).to_string().into(),
            "S" => self.random.pick(&["0", "1.5", "-2", "inf", "-inf", "3e10"]).into(),
            "T" => self.random.below(20_000).to_string().into(),
            "I" => format!("{}-{}", self.random.below(5), self.random.below(5)).into(),
            "G" => self.group().into(),
            word => Bytes::copy_from_slice(word.as_bytes()),
        }
    }

    fn table(&mut self) -> table::TableId {
        table::TableId(self.first_table + self.low_number() as u32)
    }

    fn row_key(&mut self) -> Vec<u8> {
        let mut key = Vec::new();
        table::Value::Int(self.random.below(6) as i64).encode_key(&mut key);
        key
    }

    fn table_op(&mut self) -> table::Op {
        let table = self.table();
        match self.random.below(20) {
            0 => table::Op::ReserveTableId,
            1..=3 => table::Op::CreateTable {
                id: self.random.chance(30).then_some(table),
                definition: self.definition(),
                if_not_exists: self.random.chance(30),
            },
            4 if self.random.chance(50) => table::Op::DropTable { table },
            4 => {
                let topic_id = self.topic_id();
                let target = self.random.chance(80).then_some(table::FeedTarget(topic_id.0));
                table::Op::SetFeed { table, target, tells_rows: self.random.chance(60) }
            }
            5..=13 => table::Op::PutRow {
                table,
                key: match self.random.below(8) {
                    0..=2 => table::RowKey::NewRowId,
                    3 => table::RowKey::RowId(self.random.below(4)),
                    _ => table::RowKey::FromColumns,
                },
                row: vec![
                    table::Value::Int(self.random.below(6) as i64),
                    match self.random.below(4) {
                        0 => table::Value::Null,
                        1 if self.random.chance(20) => table::Value::Int(3),
                        _ => table::Value::Text(format!("v{}", self.random.below(99))),
                    },
                ],
                mode: self.random.pick(&[table::PutMode::InsertOnly, table::PutMode::Upsert]),
            },
            14..=17 => table::Op::DeleteRow { table, key: self.row_key() },
            18 if self.random.chance(50) => {
                table::Op::TellFeed { table, rows_max: self.random.below(4) as u32 }
            }
            18 => table::Op::TellRow { table, key: self.row_key() },
            _ => table::Op::CollectVersions {
                horizon: CommitTs(self.random.below(1 << 20)),
                count_max: self.random.below(20) as u32,
            },
        }
    }

    fn definition(&mut self) -> table::Definition {
        let column = |name: &str, column_type, not_null| table::Column {
            name: name.to_owned(),
            column_type,
            not_null,
            default: None,
        };
        let has_key = self.random.chance(70);
        table::Definition {
            schema: "public".to_owned(),
            name: format!("n{}", self.random.below(NAMES)),
            columns: vec![
                column("id", table::ColumnType::BigInt, has_key),
                column("value", table::ColumnType::Text { length_max: None }, false),
            ],
            primary_key: if has_key { vec![0] } else { Vec::new() },
            source: table::Source::Rows,
        }
    }
}
