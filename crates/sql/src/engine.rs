//! What all sessions share, and the way of a query through the query engine.

use std::pin::Pin;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::catalog::TableProvider;
use datafusion::catalog::cte_worktable::CteWorkTable;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{ParamValues, Result as EngineResult, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::error::DataFusionError;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner, RelationPlanner};
use datafusion::logical_expr::{
    AggregateUDF, Expr, HigherOrderUDF, LogicalPlan, ScalarUDF, TableSource, WindowUDF,
};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::{ExecutionPlan, displayable, execute_stream};
use datafusion::prelude::SessionConfig;
use datafusion::sql::planner::{ParserOptions, PlannerContext, SqlToRel};
use datafusion::sql::sqlparser::ast;
use futures::{Stream, StreamExt};
use proteus_kernel_api::Kernel;
use proteus_kernel_api::table::{ColumnType, Row, Source, TableInfo, Value};

use crate::batch::{rows_of, scalar_of};
use crate::catalog::Catalog;
use crate::checked::CheckedArithmetic;
use crate::error::SqlError;
use crate::names::PUBLIC;
use crate::procedures::Procedures;
use crate::provider::RowsProvider;
use crate::snapshot::Snapshot;
use crate::system;
use crate::topics::{TopicProvider, TopicReader};
use crate::transaction::Transaction;
use crate::types::{ResultColumn, arrow_type, column_type_from_arrow};

/// The schema under which a query of ours names the table whose rows it looks for, with their keys.
pub const TARGET_SCHEMA: &str = "proteus$target";

/// Limits of the SQL engine.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Memory that queries of all sessions may hold at once, in bytes. Nothing spills to disk: a
    /// query that needs more fails with 53200.
    pub query_memory_bytes_max: usize,
    /// Parallel partitions of one query's joins and aggregates.
    pub query_partitions: usize,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions { query_memory_bytes_max: 512 * 1024 * 1024, query_partitions: 1 }
    }
}

/// What all sessions share.
pub struct Engine {
    /// The kernel.
    pub kernel: Arc<dyn Kernel>,
    /// The catalog.
    pub catalog: Catalog,
    /// Procedures of other faces' machines.
    pub procedures: Procedures,
    /// Reads topics.
    pub topics: Arc<dyn TopicReader>,
    state: SessionState,
}

/// Rows of a result, in batches.
pub type RowStream = Pin<Box<dyn Stream<Item = Result<Vec<Row>, SqlError>> + Send>>;

impl Engine {
    /// An engine over a kernel.
    ///
    /// # Errors
    /// If the query engine refuses its options.
    pub fn new(
        kernel: Arc<dyn Kernel>,
        topics: Arc<dyn TopicReader>,
        options: &EngineOptions,
    ) -> Result<Arc<Engine>, SqlError> {
        let mut config = SessionConfig::new()
            .with_target_partitions(options.query_partitions)
            .with_batch_size(crate::snapshot::CHUNK_ROWS)
            .with_information_schema(false);
        let sql = &mut config.options_mut().sql_parser;
        sql.dialect = datafusion::config::Dialect::PostgreSQL;
        sql.map_string_types_to_utf8view = false;
        sql.default_null_ordering = "nulls_max".to_owned();
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_limit(options.query_memory_bytes_max, 1.0)
            .with_disk_manager_builder(
                DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled),
            )
            .build_arc()?;
        let mut state = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(runtime)
            .with_default_features()
            .with_analyzer_rule(Arc::new(CheckedArithmetic))
            .with_physical_optimizer_rule(Arc::new(YieldingJoins))
            .build();
        system::functions::register(&mut state)?;
        let catalog = Catalog::new(kernel.clone());
        Ok(Arc::new(Engine { kernel, catalog, procedures: Procedures::default(), topics, state }))
    }
}

/// Makes joins give way to other work now and then. A join can make billions of rows of a few that it
/// has read; without this, an aggregate above it would neither end when it is cancelled nor leave its
/// thread to others.
#[derive(Debug)]
struct YieldingJoins;

impl PhysicalOptimizerRule for YieldingJoins {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> EngineResult<Arc<dyn ExecutionPlan>> {
        let wrapped = plan.transform_up(|plan| {
            if plan.name().ends_with("JoinExec") {
                return Ok(Transformed::yes(Arc::new(CooperativeExec::new(plan)) as _));
            }
            Ok(Transformed::no(plan))
        });
        wrapped.map(|wrapped| wrapped.data)
    }

    fn name(&self) -> &str {
        "yielding_joins"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// What the names in one query mean.
pub struct QueryScope {
    /// The engine.
    pub engine: Arc<Engine>,
    /// The transaction that the query belongs to.
    pub transaction: Transaction,
    /// What it reads.
    pub snapshot: Snapshot,
    /// The session's user.
    pub user: String,
    /// The session's database.
    pub database: String,
}

impl QueryScope {
    /// The table of this name in `public`, as the transaction sees it.
    ///
    /// # Errors
    /// If the kernel cannot read.
    pub fn table(&self, name: &str) -> Result<Option<Arc<TableInfo>>, SqlError> {
        match self.transaction.table(name) {
            Some(own) => Ok(own),
            None => Ok(self.engine.catalog.table(name)?),
        }
    }

    /// All tables, as the transaction sees them.
    ///
    /// # Errors
    /// If the kernel cannot read.
    pub fn tables(&self) -> Result<Vec<TableInfo>, SqlError> {
        let mut tables = self.engine.catalog.tables()?;
        self.transaction.overlay_tables(&mut tables);
        Ok(tables)
    }

    fn provider(
        &self,
        schema: Option<&str>,
        name: &str,
    ) -> Result<Arc<dyn TableProvider>, SqlError> {
        if let Some(found) = system::table(schema, name, self)? {
            return Ok(found);
        }
        match schema {
            None | Some(PUBLIC | TARGET_SCHEMA) => {}
            Some(schema) => return Err(SqlError::undefined_table(&format!("{schema}.{name}"))),
        }
        if let Some(table) = self.table(name)? {
            let snapshot = self.snapshot.clone();
            return Ok(match &table.definition.source {
                Source::Topic { topic } => {
                    let topics = self.engine.topics.clone();
                    Arc::new(TopicProvider::declared(topics, topic, table.clone()))
                }
                Source::Rows if schema == Some(TARGET_SCHEMA) => {
                    Arc::new(RowsProvider::with_row_key(snapshot, table))
                }
                Source::Rows => Arc::new(RowsProvider::new(snapshot, table)),
            });
        }
        if self.engine.topics.exists(name)? {
            return Ok(Arc::new(TopicProvider::raw(self.engine.topics.clone(), name)));
        }
        Err(SqlError::undefined_table(name))
    }

    /// Plans a query. Parameters whose type is not known yet are `None`.
    ///
    /// # Errors
    /// What is wrong with the query.
    pub fn plan(
        &self,
        statement: ast::Statement,
        parameter_types: &[Option<ColumnType>],
    ) -> Result<LogicalPlan, SqlError> {
        let fields = parameter_types.iter().map(|column_type| {
            column_type.map(|t| -> FieldRef { Arc::new(Field::new("", arrow_type(t), true)) })
        });
        let mut context = PlannerContext::new().with_prepare_param_data_types(fields.collect());
        let sql_options = &self.engine.state.config().options().sql_parser;
        let names = Names { scope: self, state: &self.engine.state };
        let planner = SqlToRel::new_with_options(&names, ParserOptions::from(sql_options));
        Ok(planner.sql_statement_to_plan_with_context(statement, &mut context)?)
    }

    /// Runs a plan.
    ///
    /// # Errors
    /// What is wrong with the query, or the kernel's error.
    pub async fn run(
        &self,
        plan: LogicalPlan,
        parameters: &[(Value, ColumnType)],
    ) -> Result<(Vec<ResultColumn>, RowStream), SqlError> {
        let plan = bind(plan, parameters)?;
        let mut state = self.engine.state.clone();
        state.mark_start_execution();
        let columns = columns_of(&plan);
        let physical = state.create_physical_plan(&plan).await?;
        let batches = execute_stream(physical, state.task_ctx())?;
        let rows = batches.map(|batch| rows_of(&batch?));
        Ok((columns, Box::pin(rows)))
    }

    /// The plan's text, one operator a line.
    ///
    /// # Errors
    /// As [`QueryScope::run`].
    pub async fn explain(
        &self,
        plan: LogicalPlan,
        parameters: &[(Value, ColumnType)],
    ) -> Result<Vec<String>, SqlError> {
        let plan = bind(plan, parameters)?;
        let physical = self.engine.state.create_physical_plan(&plan).await?;
        let text = displayable(physical.as_ref()).indent(false).to_string();
        Ok(text.lines().map(str::to_owned).collect())
    }
}

fn bind(plan: LogicalPlan, parameters: &[(Value, ColumnType)]) -> Result<LogicalPlan, SqlError> {
    if parameters.is_empty() {
        return Ok(plan);
    }
    let scalars: Vec<_> =
        parameters.iter().map(|(value, column_type)| scalar_of(value, *column_type)).collect();
    Ok(plan.with_param_values(ParamValues::from(scalars))?)
}

/// The columns of a plan's result.
pub fn columns_of(plan: &LogicalPlan) -> Vec<ResultColumn> {
    let column = |field: &FieldRef| {
        ResultColumn::computed(field.name(), column_type_from_arrow(field.data_type()))
    };
    plan.schema().fields().iter().map(column).collect()
}

/// Resolves names for the planner.
struct Names<'a> {
    scope: &'a QueryScope,
    state: &'a SessionState,
}

impl ContextProvider for Names<'_> {
    fn get_table_source(&self, name: TableReference) -> EngineResult<Arc<dyn TableSource>> {
        let provider = self
            .scope
            .provider(name.schema(), name.table())
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        Ok(provider_as_source(provider))
    }

    fn get_table_function_source(
        &self,
        name: &str,
        arguments: Vec<Expr>,
    ) -> EngineResult<Arc<dyn TableSource>> {
        let function = self.state.table_functions().get(name).ok_or_else(|| {
            let message = format!("function {name} does not exist");
            let error = SqlError::new(crate::error::sqlstate::UNDEFINED_FUNCTION, message);
            DataFusionError::External(Box::new(error))
        })?;
        let arguments = datafusion::catalog::TableFunctionArgs::new(&arguments, self.state);
        Ok(provider_as_source(function.create_table_provider_with_args(arguments)?))
    }

    fn create_cte_work_table(
        &self,
        name: &str,
        schema: datafusion::arrow::datatypes::SchemaRef,
    ) -> EngineResult<Arc<dyn TableSource>> {
        Ok(provider_as_source(Arc::new(CteWorkTable::new(name, schema))))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        self.state.expr_planners()
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        self.state.relation_planners()
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.state.scalar_functions().get(name).cloned()
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.state.higher_order_functions().get(name).cloned()
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.state.aggregate_functions().get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.state.window_functions().get(name).cloned()
    }

    fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        self.state.config_options()
    }

    fn udf_names(&self) -> Vec<String> {
        self.state.scalar_functions().keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        self.state.higher_order_functions().keys().cloned().collect()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.state.aggregate_functions().keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        self.state.window_functions().keys().cloned().collect()
    }
}
