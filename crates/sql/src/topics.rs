//! Topics as tables: read-only, one row a record.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result as EngineResult;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use parking_lot::Mutex;
use proteus_kernel_api::Kernel;
use proteus_kernel_api::table::{
    Column, ColumnType, Definition, Row, Source, TableId, TableInfo, Value,
};
use proteus_kernel_api::topic::batch::{BatchError, BatchHeader, decode_records};
use proteus_kernel_api::topic::read::{
    self, AbortedTransaction, ReadLimit, StoredBatch, Stretch, TopicInfo,
};
use proteus_kernel_api::topic::tiering::{ObjectRange, batches_of_part};
use proteus_objects::Objects;
use proteus_schemas::avro::Decoder;
use proteus_schemas::state::Kind;
use proteus_schemas::{Registry, wire_format};

use crate::batch::batch_of;
use crate::error::SqlError;
use crate::provider::fields;
use crate::types::TEXT;
use crate::value_text::parse_value;

/// Bytes of record batches that one read of a partition asks for.
const READ_BYTES_MAX: usize = 1024 * 1024;

/// A record of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRecord {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp, in milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
}

/// Reads topics for SQL.
#[async_trait]
pub trait TopicReader: Send + Sync + 'static {
    /// Whether there is such a topic.
    ///
    /// # Errors
    /// If the kernel cannot read.
    fn exists(&self, topic: &str) -> Result<bool, SqlError>;

    /// Offsets of each partition: the first kept (inclusive) and the end (exclusive) of what may be
    /// read.
    ///
    /// # Errors
    /// If the kernel cannot read.
    fn partitions(&self, topic: &str) -> Result<Vec<(i64, i64)>, SqlError>;

    /// Records of a partition from `offset` (inclusive), about `bytes_max` of them, and the offset
    /// where the next read starts.
    ///
    /// # Errors
    /// If the kernel cannot read, or the batches cannot be decoded.
    async fn read(
        &self,
        topic: &str,
        partition: usize,
        offset: i64,
        bytes_max: usize,
    ) -> Result<(Vec<TopicRecord>, i64), SqlError>;

    /// What a record says, as JSON; null if it is not readable.
    fn json_of(&self, value: &[u8]) -> serde_json::Value {
        serde_json::from_slice(value).unwrap_or_default()
    }
}

/// Schemas whose decoders are remembered.
const DECODERS_MAX: usize = 1000;

/// The topics of a kernel.
pub struct KernelTopics {
    kernel: Arc<dyn Kernel>,
    objects: Option<Objects>,
    schemas: Registry,
    /// By the schema's id, which never means another; `None`: its values are not Avro.
    decoders: Mutex<HashMap<i32, Option<Arc<Decoder>>>>,
}

impl KernelTopics {
    /// Reads the topics of `kernel`, and old records from the object store, if there is one.
    pub fn new(kernel: Arc<dyn Kernel>, objects: Option<Objects>) -> KernelTopics {
        let schemas = Registry::new(kernel.clone());
        KernelTopics { kernel, objects, schemas, decoders: Mutex::default() }
    }

    /// What reads values that were written with a schema; `None` if there is no such schema, `Some(None)` if
    /// it is not Avro's.
    fn decoder(&self, id: i32) -> Option<Option<Arc<Decoder>>> {
        if let Some(decoder) = self.decoders.lock().get(&id) {
            return Some(decoder.clone());
        }
        let found = self.schemas.read(|state| {
            let body = state.schema(id).ok()?;
            let decoder = match body.kind {
                Kind::Avro => Some(Decoder::new(&body.text, &state.referred(body).ok()?).ok()?),
                Kind::Json | Kind::Protobuf => None,
            };
            Some(decoder.map(Arc::new))
        });
        let decoder = found.ok().flatten()?;
        let mut decoders = self.decoders.lock();
        if decoders.len() >= DECODERS_MAX {
            decoders.clear();
        }
        decoders.insert(id, decoder.clone());
        Some(decoder)
    }

    /// Batches that stand in a part of an object, from the one that holds `offset` on.
    async fn read_object(
        &self,
        topic: &str,
        range: &ObjectRange,
        offset: i64,
    ) -> Result<Vec<StoredBatch>, SqlError> {
        let failed = |reason: String| {
            let message = format!("topic \"{topic}\", offset {offset}: {reason}");
            SqlError::new(crate::error::sqlstate::INTERNAL, message)
        };
        let Some(objects) = &self.objects else {
            return Err(failed("the records are in an object store that this node has not".into()));
        };
        let part = objects
            .read(&range.name.path(), range.bytes.clone())
            .await
            .map_err(|error| failed(error.to_string()))?;
        batches_of_part(&part, offset).map_err(|error| failed(error.to_string()))
    }

    fn topic(&self, name: &str) -> Result<TopicInfo, SqlError> {
        let found = self.kernel.read(|view| read::topic_by_name(view.state, name))?;
        found.ok_or_else(|| SqlError::undefined_table(name))
    }
}

#[async_trait]
impl TopicReader for KernelTopics {
    fn exists(&self, topic: &str) -> Result<bool, SqlError> {
        Ok(self.kernel.read(|view| read::topic_by_name(view.state, topic))?.is_some())
    }

    fn partitions(&self, topic: &str) -> Result<Vec<(i64, i64)>, SqlError> {
        let topic = self.topic(topic)?;
        let mut ends = Vec::new();
        for number in 0..topic.partition_count {
            let found =
                self.kernel.read(|view| read::partition(view.state, topic.topic_id, number))?;
            let end = found.map(|info| (info.log_start_offset, info.last_stable_offset));
            ends.push(end.unwrap_or((0, 0)));
        }
        Ok(ends)
    }

    async fn read(
        &self,
        topic: &str,
        partition: usize,
        offset: i64,
        bytes_max: usize,
    ) -> Result<(Vec<TopicRecord>, i64), SqlError> {
        let topic_id = self.topic(topic)?.topic_id;
        let number = u32::try_from(partition).unwrap_or(u32::MAX);
        let limit = ReadLimit::BytesOrFirst(bytes_max);
        // No record of a transaction that is open or was aborted is a row.
        let stretch = self.kernel.read(|view| {
            let Some(info) = read::partition(view.state, topic_id, number)? else {
                return Ok(Stretch::Here(Vec::new()));
            };
            let end = info.last_stable_offset;
            read::read_batches(view.state, topic_id, number, offset, end, limit)
        })?;
        let batches = match stretch {
            Stretch::Here(batches) => batches,
            Stretch::InObject(range) => self.read_object(topic, &range, offset).await?,
        };
        let end = batches.last().map_or(offset, StoredBatch::end_offset);
        // A transaction that ended below the last stable offset has ended for good.
        let aborted = self
            .kernel
            .read(|view| read::aborted_transactions(view.state, topic_id, number, offset, end))?;
        let mut records = Vec::new();
        let mut next = offset;
        for stored in batches {
            // Decompressing happens here, after the kernel's lock was given back.
            let damaged = |error: BatchError| {
                let message = format!("topic \"{topic}\", offset {}: {error}", stored.base_offset);
                SqlError::new(crate::error::sqlstate::INTERNAL, message)
            };
            let header = BatchHeader::parse(&stored.bytes).map_err(damaged)?;
            next = stored.end_offset();
            let covers = |one: &AbortedTransaction| one.covers(&header, stored.base_offset);
            if header.is_control() || aborted.iter().any(covers) {
                continue;
            }
            for record in decode_records(&stored.bytes, stored.base_offset).map_err(damaged)? {
                let record = record.map_err(damaged)?;
                records.push(TopicRecord {
                    offset: record.offset,
                    timestamp_ms: record.timestamp_ms,
                    key: record.key.map(|bytes| bytes.to_vec()),
                    value: record.value.map(|bytes| bytes.to_vec()),
                });
            }
        }
        Ok((records, next))
    }

    fn json_of(&self, value: &[u8]) -> serde_json::Value {
        let read = |json: &[u8]| serde_json::from_slice(json).unwrap_or_default();
        // No JSON begins with a zero byte.
        match wire_format(value).and_then(|(id, rest)| Some((self.decoder(id)?, rest))) {
            Some((Some(decoder), rest)) => decoder.decode(rest).unwrap_or_default(),
            Some((None, rest)) => read(rest),
            None => read(value),
        }
    }
}

/// A topic as a table.
pub struct TopicProvider {
    source: Arc<TopicSource>,
    schema: SchemaRef,
}

struct TopicSource {
    reader: Arc<dyn TopicReader>,
    topic: String,
    table: Arc<TableInfo>,
    /// Whether columns are those of the declaration, taken from values of JSON or Avro.
    is_declared: bool,
}

impl fmt::Debug for TopicProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "topic {}", self.source.topic)
    }
}

impl TopicProvider {
    /// The topic with the columns that every topic has.
    pub fn raw(reader: Arc<dyn TopicReader>, topic: &str) -> TopicProvider {
        let table = Arc::new(TableInfo {
            id: TableId(0),
            definition: raw_definition(topic),
            feed: None,
            tells_rows: false,
        });
        TopicProvider::over(reader, topic, table, false)
    }

    /// The topic with the columns of a declared table.
    pub fn declared(
        reader: Arc<dyn TopicReader>,
        topic: &str,
        table: Arc<TableInfo>,
    ) -> TopicProvider {
        TopicProvider::over(reader, topic, table, true)
    }

    fn over(
        reader: Arc<dyn TopicReader>,
        topic: &str,
        table: Arc<TableInfo>,
        is_declared: bool,
    ) -> TopicProvider {
        let schema = Arc::new(Schema::new(fields(&table.definition)));
        let source = TopicSource { reader, topic: topic.to_owned(), table, is_declared };
        TopicProvider { source: Arc::new(source), schema }
    }
}

/// The columns that every topic has.
pub fn raw_definition(topic: &str) -> Definition {
    let column = |name: &str, column_type| Column {
        name: name.to_owned(),
        column_type,
        not_null: false,
        default: None,
    };
    Definition {
        schema: crate::names::PUBLIC.to_owned(),
        name: topic.to_owned(),
        columns: vec![
            column("partition", ColumnType::Integer),
            column("offset", ColumnType::BigInt),
            column("timestamp", ColumnType::Timestamp),
            column("key", TEXT),
            column("value", TEXT),
        ],
        primary_key: Vec::new(),
        source: Source::Topic { topic: topic.to_owned() },
    }
}

#[async_trait]
impl TableProvider for TopicProvider {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> EngineResult<Arc<dyn ExecutionPlan>> {
        let indexes =
            projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let schema = Arc::new(self.schema.project(&indexes)?);
        let stream = TopicStream { source: self.source.clone(), indexes, schema: schema.clone() };
        let streams: Vec<Arc<dyn PartitionStream>> = vec![Arc::new(stream)];
        Ok(Arc::new(StreamingTableExec::try_new(schema, streams, None, Vec::new(), false, limit)?))
    }
}

#[derive(Clone)]
struct TopicStream {
    source: Arc<TopicSource>,
    indexes: Vec<usize>,
    schema: SchemaRef,
}

impl fmt::Debug for TopicStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "records of {}", self.source.topic)
    }
}

/// Where a scan stands. The ends are fixed when it starts, so that it ends.
struct TopicScan {
    partitions: Vec<(i64, i64)>,
    partition: usize,
    offset: i64,
}

impl PartitionStream for TopicStream {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let this = self.clone();
        let batches = futures::stream::try_unfold(None, move |scan| {
            let this = this.clone();
            async move {
                tokio::task::yield_now().await;
                let next = this.next_batch(scan).await;
                next.map_err(|error| DataFusionError::External(Box::new(error)))
            }
        });
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), batches))
    }
}

type NextBatch = Option<(datafusion::arrow::array::RecordBatch, Option<TopicScan>)>;

impl TopicStream {
    async fn next_batch(&self, scan: Option<TopicScan>) -> Result<NextBatch, SqlError> {
        let source = &self.source;
        let mut scan = match scan {
            Some(scan) => scan,
            None => {
                let partitions = source.reader.partitions(&source.topic)?;
                let offset = partitions.first().map_or(0, |(first, _)| *first);
                TopicScan { partitions, partition: 0, offset }
            }
        };
        let end = loop {
            match scan.partitions.get(scan.partition) {
                None => return Ok(None),
                Some((_, end)) if scan.offset < *end => break *end,
                Some(_) => {
                    scan.partition += 1;
                    let next = scan.partitions.get(scan.partition);
                    scan.offset = next.map_or(0, |(first, _)| *first);
                }
            }
        };
        let (records, next) =
            source.reader.read(&source.topic, scan.partition, scan.offset, READ_BYTES_MAX).await?;
        let rows: Vec<Row> = records
            .into_iter()
            .filter(|record| (scan.offset..end).contains(&record.offset))
            .map(|record| source.row_of(scan.partition, record))
            .collect();
        // A read without progress would be repeated for ever.
        scan.offset = if next > scan.offset { next } else { end };
        let columns = &source.table.definition.columns;
        let wanted: Vec<(usize, ColumnType)> = self
            .indexes
            .iter()
            .filter_map(|index| columns.get(*index).map(|column| (*index, column.column_type)))
            .collect();
        Ok(Some((batch_of(&self.schema, &wanted, &rows)?, Some(scan))))
    }
}

impl TopicSource {
    fn row_of(&self, partition: usize, record: TopicRecord) -> Row {
        let text = |bytes: Option<Vec<u8>>| {
            bytes.map_or(Value::Null, |b| Value::Text(String::from_utf8_lossy(&b).into_owned()))
        };
        if !self.is_declared {
            return vec![
                Value::Int(i64::try_from(partition).unwrap_or(i64::MAX)),
                Value::Int(record.offset),
                Value::Timestamp(record.timestamp_ms.saturating_mul(1000)),
                text(record.key),
                text(record.value),
            ];
        }
        let json =
            record.value.map_or(serde_json::Value::Null, |value| self.reader.json_of(&value));
        let columns = &self.table.definition.columns;
        columns.iter().map(|column| json_field(&json, column)).collect()
    }
}

/// The field of a JSON object that a column names; null if it is missing or of another type.
fn json_field(json: &serde_json::Value, column: &Column) -> Value {
    let text = match json.get(&column.name) {
        None | Some(serde_json::Value::Null) => return Value::Null,
        Some(serde_json::Value::String(text)) if column.column_type != ColumnType::Json => {
            text.clone()
        }
        Some(other) => other.to_string(),
    };
    parse_value(&text, column.column_type).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::{Bytes, BytesMut};
    use proteus_kernel_api::topic::batch::{NewRecord, frame_batch, put_batch};
    use proteus_kernel_api::topic::tiering::{NewObject, ObjectId, ObjectName, movable_batches};
    use proteus_kernel_api::topic::{Op, TopicId};
    use proteus_kernel_api::{Minitransaction, Outcome};

    use super::*;

    #[tokio::test]
    async fn old_records_are_read_from_the_object_store() {
        let kernel = proteus_testkit::memory_kernel();
        let directory = tempfile::tempdir().unwrap();
        let objects = Objects::open(&directory.path().to_string_lossy()).unwrap();
        let (topic_id, object_id) = (TopicId([1; 16]), ObjectId([2; 16]));
        let config = [
            ("remote.storage.enable", "true"),
            ("retention.ms", "-1"),
            ("local.retention.ms", "0"),
            ("segment.bytes", "150"),
        ];
        let config = config.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = BTreeMap::from(config);
        let mut ops =
            vec![Op::CreateTopic { name: "t".to_owned(), topic_id, partition_count: 1, config }];
        for number in 0..4 {
            let value = Some(Bytes::from(format!("record {number}")));
            let batch = frame_batch(&[NewRecord { value, ..NewRecord::default() }], number);
            ops.push(Op::Append { topic_id, partition: 0, batch: batch.unwrap() });
        }
        ops.push(Op::ReserveObject { topic_id, partition: 0, object_id });
        for op in ops {
            let outcome = kernel.commit(Minitransaction::of(op)).await.unwrap();
            assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
        }
        let old =
            kernel.read(|view| movable_batches(view.state, topic_id, 0, view.now_ms)).unwrap();
        assert!(!old.is_empty() && old.len() < 4, "some records move: {}", old.len());
        let mut bytes = BytesMut::new();
        for batch in &old {
            put_batch(&mut bytes, batch.base_offset, batch.leader_epoch, &batch.bytes);
        }
        let name = ObjectName { topic_id, partition: 0, object_id };
        objects.put(&name.path(), vec![bytes.freeze()]).await.unwrap();
        let object = NewObject::of(object_id, &old);
        let moved = kernel.commit(Minitransaction::of(Op::MoveToObject { object })).await.unwrap();
        assert!(matches!(moved, Outcome::Committed { .. }), "{moved:?}");

        let topics = KernelTopics::new(kernel.clone(), Some(objects));
        let mut found = Vec::new();
        let mut offset = 0;
        while offset < 4 {
            let (records, next) = topics.read("t", 0, offset, 1).await.unwrap();
            found.extend(records.into_iter().filter(|record| record.offset >= offset));
            assert!(next > offset, "it gets on");
            offset = next;
        }
        let values: Vec<_> = found.iter().filter_map(|record| record.value.clone()).collect();
        let expected: Vec<_> = (0..4).map(|n| format!("record {n}").into_bytes()).collect();
        assert_eq!(values, expected);
        let without = KernelTopics::new(kernel, None);
        assert!(without.read("t", 0, 0, 1).await.is_err(), "and not passed over without it");
    }

    #[tokio::test]
    async fn values_in_the_wire_format_are_read_with_their_schema() {
        use proteus_schemas::state::{Body, Record};
        let kernel = proteus_testkit::memory_kernel();
        let registry = Registry::new(kernel.clone());
        let put = |version: i32, kind: Kind, text: &str| Record::Put {
            subject: "t-value".to_owned(),
            version,
            id: version,
            body: Body { kind, references: Vec::new(), text: text.to_owned() },
            is_deleted: false,
        };
        let avro = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"},
            {"name":"day","type":{"type":"int","logicalType":"date"}}]}"#;
        let changes = vec![put(1, Kind::Avro, avro), put(2, Kind::Json, "{}")];
        registry.change(|_| Ok((changes.clone(), ()))).await.unwrap();
        let topics = KernelTopics::new(kernel, None);
        let expected = serde_json::json!({"a": -3, "day": "1970-01-02"});
        assert_eq!(topics.json_of(&[0, 0, 0, 0, 1, 5, 2]), expected);
        assert_eq!(topics.json_of(b"\0\0\0\0\x02{\"a\":1}"), serde_json::json!({"a": 1}));
        assert_eq!(topics.json_of(b"{\"a\":1}"), serde_json::json!({"a": 1}));
        for unreadable in [&[0, 0, 0, 0, 1, 5][..], &[0, 0, 0, 0, 9, 5, 2], &[0, 1], b"text"] {
            assert_eq!(topics.json_of(unreadable), serde_json::Value::Null, "{unreadable:?}");
        }
    }

    #[test]
    fn fields_of_another_type_are_null() {
        let json = serde_json::json!({"a": 1, "b": "2", "c": "x", "d": {"e": 1}, "t": "2024-01-01T00:00:00"});
        let field = |name: &str, column_type| {
            let column =
                Column { name: name.to_owned(), column_type, not_null: false, default: None };
            json_field(&json, &column)
        };
        assert_eq!(field("a", ColumnType::Integer), Value::Int(1));
        assert_eq!(field("a", ColumnType::Double), Value::Float(1.0));
        assert_eq!(field("b", ColumnType::BigInt), Value::Int(2));
        assert_eq!(field("c", ColumnType::BigInt), Value::Null);
        assert_eq!(field("d", TEXT), Value::Text("{\"e\":1}".to_owned()));
        assert_eq!(field("t", ColumnType::Timestamp), Value::Timestamp(1_704_067_200_000_000));
        assert_eq!(field("missing", TEXT), Value::Null);
    }
}
