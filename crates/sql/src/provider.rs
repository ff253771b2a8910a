//! A table as the query engine reads it: chunk by chunk at the snapshot, within a range of keys.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{BinaryArray, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result as EngineResult;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use proteus_kernel_api::table::{ColumnType, Definition, Row, TableInfo, Value, prefix_end};

use crate::batch::{batch_of, value_of};
use crate::error::SqlError;
use crate::snapshot::Snapshot;
use crate::types::arrow_type;

/// The hidden column that holds a row's encoded key, in queries that find the rows to change.
pub const ROW_KEY_COLUMN: &str = "__proteus_row_key";

/// A table at a snapshot. It has no write hooks: rows are changed by key, by this crate alone.
#[derive(Debug)]
pub struct RowsProvider {
    snapshot: Snapshot,
    table: Arc<TableInfo>,
    schema: SchemaRef,
}

impl RowsProvider {
    /// The table as it is declared.
    pub fn new(snapshot: Snapshot, table: Arc<TableInfo>) -> RowsProvider {
        let schema = Arc::new(Schema::new(fields(&table.definition)));
        RowsProvider { snapshot, table, schema }
    }

    /// The table with [`ROW_KEY_COLUMN`] as its last column.
    pub fn with_row_key(snapshot: Snapshot, table: Arc<TableInfo>) -> RowsProvider {
        let mut fields = fields(&table.definition);
        fields.push(Field::new(ROW_KEY_COLUMN, DataType::Binary, false));
        RowsProvider { snapshot, table, schema: Arc::new(Schema::new(fields)) }
    }
}

/// The table's columns as the query engine's.
pub fn fields(definition: &Definition) -> Vec<Field> {
    let field = |column: &proteus_kernel_api::table::Column| {
        Field::new(&column.name, arrow_type(column.column_type), !column.not_null)
    };
    definition.columns.iter().map(field).collect()
}

#[async_trait]
impl TableProvider for RowsProvider {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> EngineResult<Vec<TableProviderFilterPushDown>> {
        // Inexact: the engine holds the filter again, so a range may be too wide, never too narrow.
        let support = |filter: &&Expr| match bound_of(filter, &self.table.definition) {
            Some(_) => TableProviderFilterPushDown::Inexact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> EngineResult<Arc<dyn ExecutionPlan>> {
        let (start, end) = key_range(filters, &self.table.definition);
        let indexes =
            projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let schema = Arc::new(self.schema.project(&indexes)?);
        let stream = RowsStream {
            snapshot: self.snapshot.clone(),
            table: self.table.clone(),
            indexes,
            schema: schema.clone(),
            start,
            end,
        };
        let limit = if filters.is_empty() { limit } else { None };
        Ok(Arc::new(StreamingTableExec::try_new(
            schema,
            vec![Arc::new(stream)],
            None,
            Vec::new(),
            false,
            limit,
        )?))
    }
}

struct RowsStream {
    snapshot: Snapshot,
    table: Arc<TableInfo>,
    /// Positions of the wanted columns; the one after the last is the row key.
    indexes: Vec<usize>,
    schema: SchemaRef,
    start: Vec<u8>,
    end: Option<Vec<u8>>,
}

impl fmt::Debug for RowsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rows of {}", self.table.definition.name)
    }
}

impl PartitionStream for RowsStream {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let scan = self.snapshot.scan(&self.table, self.start.clone(), self.end.clone());
        let (table, indexes) = (self.table.clone(), self.indexes.clone());
        let schema = self.schema.clone();
        let batches = futures::stream::try_unfold(scan, move |mut scan| {
            let next = next_batch(&mut scan, &table, &indexes, &schema);
            async move {
                // A long scan shares its thread with other connections between chunks.
                tokio::task::yield_now().await;
                let next = next.map_err(|error| DataFusionError::External(Box::new(error)))?;
                Ok(next.map(|batch| (batch, scan)))
            }
        });
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), batches))
    }
}

fn next_batch(
    scan: &mut crate::snapshot::Scan,
    table: &TableInfo,
    indexes: &[usize],
    schema: &SchemaRef,
) -> Result<Option<RecordBatch>, SqlError> {
    let Some(chunk) = scan.next_chunk()? else { return Ok(None) };
    let columns = &table.definition.columns;
    let (keys, rows): (Vec<Vec<u8>>, Vec<Row>) = chunk.into_iter().unzip();
    let wanted: Vec<(usize, ColumnType)> = indexes
        .iter()
        .map(|index| (*index, columns.get(*index).map_or(ColumnType::Bytea, |c| c.column_type)))
        .collect();
    let Some(key_position) = indexes.iter().position(|index| *index == columns.len()) else {
        return batch_of(schema, &wanted, &rows).map(Some);
    };
    let others: Vec<(usize, ColumnType)> =
        wanted.into_iter().filter(|(index, _)| *index < columns.len()).collect();
    let other_schema = Arc::new(Schema::new(
        schema.fields().iter().filter(|f| f.name() != ROW_KEY_COLUMN).cloned().collect::<Vec<_>>(),
    ));
    let batch = batch_of(&other_schema, &others, &rows)?;
    let mut arrays = batch.columns().to_vec();
    let keys = BinaryArray::from_iter_values(keys);
    arrays.insert(key_position, Arc::new(keys));
    Ok(Some(RecordBatch::try_new(schema.clone(), arrays)?))
}

/// `column operator value`, with the column part of the primary key.
struct KeyBound {
    /// Position of the column within the primary key.
    part: usize,
    operator: Operator,
    value: Value,
}

fn bound_of(filter: &Expr, definition: &Definition) -> Option<KeyBound> {
    let Expr::BinaryExpr(binary) = filter else { return None };
    let (column, scalar, operator) = match (binary.left.as_ref(), binary.right.as_ref()) {
        (Expr::Column(column), Expr::Literal(scalar, _)) => (column, scalar, binary.op),
        (Expr::Literal(scalar, _), Expr::Column(column)) => (column, scalar, binary.op.swap()?),
        _ => return None,
    };
    let is_range = matches!(
        operator,
        Operator::Eq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq
    );
    let index = definition.column_index(&column.name)?;
    let part = definition.primary_key.iter().position(|key| *key as usize == index)?;
    let value = value_of(scalar, definition.columns.get(index)?.column_type)?;
    (is_range && !value.is_null()).then_some(KeyBound { part, operator, value })
}

/// The keys that can satisfy `filters`: start (inclusive) and end (exclusive, `None` for all).
fn key_range(filters: &[Expr], definition: &Definition) -> (Vec<u8>, Option<Vec<u8>>) {
    let bounds: Vec<KeyBound> =
        filters.iter().filter_map(|filter| bound_of(filter, definition)).collect();
    let mut prefix = Vec::new();
    for part in 0..definition.primary_key.len() {
        let of_part = || bounds.iter().filter(|bound| bound.part == part);
        if let Some(bound) = of_part().find(|bound| bound.operator == Operator::Eq) {
            bound.value.encode_key(&mut prefix);
            continue;
        }
        let with = |value: &Value| {
            let mut key = prefix.clone();
            value.encode_key(&mut key);
            key
        };
        let start = of_part()
            .filter(|bound| matches!(bound.operator, Operator::Gt | Operator::GtEq))
            .map(|bound| with(&bound.value))
            .max();
        let end = of_part()
            .filter_map(|bound| match bound.operator {
                Operator::Lt => Some(with(&bound.value)),
                Operator::LtEq => Some(prefix_end(&with(&bound.value))),
                _ => None,
            })
            .min();
        let whole_end = (!prefix.is_empty()).then(|| prefix_end(&prefix));
        return (start.unwrap_or(prefix), end.or(whole_end));
    }
    let end = (!prefix.is_empty()).then(|| prefix_end(&prefix));
    (prefix, end)
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{col, lit};
    use proteus_kernel_api::table::{Column, Source};

    use super::*;

    fn definition() -> Definition {
        let column = |name: &str| Column {
            name: name.to_owned(),
            column_type: ColumnType::Integer,
            not_null: true,
            default: None,
        };
        Definition {
            schema: "public".to_owned(),
            name: "t".to_owned(),
            columns: vec![column("v"), column("a"), column("b")],
            primary_key: vec![1, 2],
            source: Source::Rows,
        }
    }

    fn key(values: &[i64]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for value in values {
            Value::Int(*value).encode_key(&mut bytes);
        }
        bytes
    }

    #[test]
    fn ranges_follow_the_primary_key() {
        let range = |filters: &[Expr]| key_range(filters, &definition());
        assert_eq!(range(&[]), (vec![], None));
        assert_eq!(range(&[col("v").eq(lit(1))]), (vec![], None));
        assert_eq!(range(&[col("b").eq(lit(1))]), (vec![], None));
        assert_eq!(range(&[col("a").eq(lit(1))]), (key(&[1]), Some(prefix_end(&key(&[1])))));
        assert_eq!(
            range(&[col("a").eq(lit(1)), col("b").gt(lit(5)), lit(9).gt(col("b"))]),
            (key(&[1, 5]), Some(key(&[1, 9])))
        );
        assert_eq!(range(&[col("a").lt_eq(lit(3))]), (vec![], Some(prefix_end(&key(&[3])))));
        // A bound that the column's type cannot hold exactly is left to the engine.
        assert_eq!(range(&[col("a").gt(lit(1.5))]), (vec![], None));
        assert_eq!(range(&[col("a").gt(lit(1_i64 << 40))]), (vec![], None));
    }
}
