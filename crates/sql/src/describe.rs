//! Types of a statement's parameters and result, without executing it.

use datafusion::arrow::datatypes::DataType;
use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, OnConflictAction,
    OnInsert, SetExpr, Statement, Visit, Visitor,
};
use proteus_kernel_api::table::{ColumnType, Row, TableInfo, Value};

use crate::engine::columns_of;
use crate::error::{SqlError, sqlstate};
use crate::eval::placeholder_number;
use crate::insert;
use crate::mutate;
use crate::names;
use crate::point;
use crate::returning::Returning;
use crate::rewrite;
use crate::settings::Settings;
use crate::statement::Context;
use crate::types::{ResultColumn, TEXT, column_type_from_arrow, column_type_of};

/// Most parameters of a statement; the protocol counts them in 16 bits.
const PARAMETERS_MAX: usize = 65_535;

/// Types of parameters, as far as they are known.
struct Parameters {
    types: Vec<Option<ColumnType>>,
}

impl Parameters {
    fn learn(&mut self, number: usize, column_type: ColumnType) {
        if let Some(place) = number.checked_sub(1).and_then(|index| self.types.get_mut(index)) {
            place.get_or_insert(column_type);
        }
    }

    /// An expression of a type: its parameters have that type too, unless something closer decides.
    fn learn_expr(&mut self, expr: &Expr, column_type: ColumnType) {
        if let Some(number) = placeholder_number(expr) {
            self.learn(number, column_type);
            return;
        }
        match expr {
            Expr::Nested(expr) | Expr::UnaryOp { expr, .. } => self.learn_expr(expr, column_type),
            Expr::BinaryOp {
                left,
                op:
                    BinaryOperator::Plus
                    | BinaryOperator::Minus
                    | BinaryOperator::Multiply
                    | BinaryOperator::Divide
                    | BinaryOperator::Modulo
                    | BinaryOperator::StringConcat,
                right,
            } => {
                self.learn_expr(left, column_type);
                self.learn_expr(right, column_type);
            }
            Expr::Function(function) => {
                for expr in call_arguments(function).unwrap_or_default() {
                    self.learn_expr(expr, column_type);
                }
            }
            _ => {}
        }
    }
}

/// Finds the highest parameter, and parameters that are cast.
#[derive(Default)]
struct Placeholders {
    count: usize,
    casts: Vec<(usize, ColumnType)>,
    comparisons: Vec<(Expr, Expr)>,
}

impl Visitor for Placeholders {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> std::ops::ControlFlow<()> {
        if let Some(number) = placeholder_number(expr) {
            self.count = self.count.max(number);
        }
        match expr {
            Expr::Cast { expr, data_type, .. } => {
                if let (Some(number), Ok(column_type)) =
                    (placeholder_number(expr), column_type_of(data_type))
                {
                    self.casts.push((number, column_type));
                }
            }
            Expr::BinaryOp { left, op, right } if is_comparison(op) => {
                for (one, other) in [(left, right), (right, left)] {
                    if placeholder_number(one).is_some() {
                        self.comparisons.push((one.as_ref().clone(), other.as_ref().clone()));
                    }
                }
            }
            _ => {}
        }
        std::ops::ControlFlow::Continue(())
    }
}

fn is_comparison(op: &BinaryOperator) -> bool {
    matches!(
        op,
        BinaryOperator::Eq
            | BinaryOperator::NotEq
            | BinaryOperator::Lt
            | BinaryOperator::LtEq
            | BinaryOperator::Gt
            | BinaryOperator::GtEq
    )
}

type Described = (Vec<ColumnType>, Option<Vec<ResultColumn>>);

/// Types of the parameters, and the columns of the result if there is one.
///
/// # Errors
/// What is wrong with the statement.
pub fn describe(
    context: &Context<'_>,
    statement: &Statement,
    given: &[Option<ColumnType>],
    settings: &Settings,
) -> Result<Described, SqlError> {
    let mut found = Placeholders::default();
    let _ = Visit::visit(statement, &mut found);
    let count = found.count.max(given.len());
    if count > PARAMETERS_MAX {
        let message = format!("a statement can have at most {PARAMETERS_MAX} parameters");
        return Err(SqlError::new(sqlstate::PROGRAM_LIMIT, message));
    }
    let mut parameters = Parameters { types: vec![None; count] };
    for (place, given) in parameters.types.iter_mut().zip(given) {
        *place = *given;
    }
    for (number, column_type) in found.casts {
        parameters.learn(number, column_type);
    }
    let columns = match statement {
        Statement::Query(query) => Some(describe_query(context, query, &mut parameters)?),
        Statement::Insert(insert) => describe_insert(context, insert, &mut parameters)?,
        Statement::Update(update) => {
            let read = mutate::read_update(context, update)?;
            for (expr, column_type) in read.typed_values() {
                parameters.learn_expr(expr, column_type);
            }
            learn_comparisons(&mut parameters, &found.comparisons, read.table());
            if parameters.types.iter().any(Option::is_none) {
                learn_plan(context, read.query()?, &mut parameters)?;
            }
            returning_columns(update.returning.as_deref(), read.table())?
        }
        Statement::Delete(delete) => {
            let (target, using, selection) = mutate::read_delete(context, delete)?;
            learn_comparisons(&mut parameters, &found.comparisons, &target.table);
            if parameters.types.iter().any(Option::is_none) {
                let query = mutate::delete_query(&target, &using, selection)?;
                learn_plan(context, query, &mut parameters)?;
            }
            returning_columns(delete.returning.as_deref(), &target.table)?
        }
        Statement::ShowVariable { variable } => Some(show(variable, settings)?.0),
        Statement::Explain { .. } => Some(vec![ResultColumn::computed("QUERY PLAN", TEXT)]),
        _ => None,
    };
    let types = parameters.types.into_iter().map(|known| known.unwrap_or(TEXT)).collect();
    Ok((types, columns))
}

fn learn_comparisons(parameters: &mut Parameters, comparisons: &[(Expr, Expr)], table: &TableInfo) {
    for (placeholder, other) in comparisons {
        if let (Some(number), Ok(index)) =
            (placeholder_number(placeholder), crate::returning::column_index(other, table))
            && let Some(column) = table.definition.columns.get(index)
        {
            parameters.learn(number, column.column_type);
        }
    }
}

fn learn_plan(
    context: &Context<'_>,
    statement: Statement,
    parameters: &mut Parameters,
) -> Result<Vec<ResultColumn>, SqlError> {
    let scope = context.query_scope();
    let statement = rewrite::rewrite(statement, &scope)?;
    let plan = scope.plan(statement.clone(), &parameters.types)?;
    let mut has_learned = false;
    for (name, data_type) in plan.get_parameter_types()? {
        let number = name.strip_prefix('$').and_then(|number| number.parse::<usize>().ok());
        if let (Some(number), Some(data_type)) = (number, data_type)
            && data_type != DataType::Null
        {
            parameters.learn(number, column_type_from_arrow(&data_type));
            has_learned = true;
        }
    }
    if parameters.types.is_empty() && !has_learned {
        return Ok(columns_of(&plan));
    }
    // With all types known, those of the result are final.
    let types: Vec<Option<ColumnType>> =
        parameters.types.iter().map(|known| Some(known.unwrap_or(TEXT))).collect();
    Ok(columns_of(&scope.plan(statement, &types)?))
}

fn describe_query(
    context: &Context<'_>,
    query: &ast::Query,
    parameters: &mut Parameters,
) -> Result<Vec<ResultColumn>, SqlError> {
    if let Some(select) = point::select(context, query)? {
        for (number, column_type) in select.parameter_types() {
            parameters.learn(number, column_type);
        }
        return Ok(select.columns);
    }
    let statement = Statement::Query(Box::new(query.clone()));
    let mut columns = learn_plan(context, statement, parameters)?;
    name_columns(query, &mut columns);
    Ok(columns)
}

/// Gives a result's columns the names that PostgreSQL would.
pub fn name_columns(query: &ast::Query, columns: &mut [ResultColumn]) {
    let names = rewrite::result_names(query, columns.len());
    for (column, name) in columns.iter_mut().zip(names) {
        if let Some(name) = name {
            column.name = name;
        }
    }
}

fn describe_insert(
    context: &Context<'_>,
    insert: &ast::Insert,
    parameters: &mut Parameters,
) -> Result<Option<Vec<ResultColumn>>, SqlError> {
    let (table, columns) = insert::target(context, insert)?;
    let column_type = |index: usize| table.definition.columns.get(index).map(|c| c.column_type);
    if let Some(query) = &insert.source {
        match query.body.as_ref() {
            SetExpr::Values(values) => {
                for row in &values.rows {
                    for (expr, index) in row.content.iter().zip(&columns) {
                        if let Some(column_type) = column_type(*index) {
                            parameters.learn_expr(expr, column_type);
                        }
                    }
                }
            }
            body => {
                if let SetExpr::Select(select) = body {
                    for (item, index) in select.projection.iter().zip(&columns) {
                        if let (
                            ast::SelectItem::UnnamedExpr(expr)
                            | ast::SelectItem::ExprWithAlias { expr, .. },
                            Some(column_type),
                        ) = (item, column_type(*index))
                            && placeholder_number(expr).is_some()
                        {
                            parameters.learn_expr(expr, column_type);
                        }
                    }
                }
                learn_plan(context, Statement::Query(query.clone()), parameters)?;
            }
        }
    }
    if let Some(OnInsert::OnConflict(on)) = &insert.on
        && let OnConflictAction::DoUpdate(update) = &on.action
    {
        for assignment in &update.assignments {
            let index = insert::assigned_column(&table, &assignment.target)?;
            if let Some(column_type) = column_type(index) {
                parameters.learn_expr(&assignment.value, column_type);
            }
        }
    }
    returning_columns(insert.returning.as_deref(), &table)
}

fn returning_columns(
    items: Option<&[ast::SelectItem]>,
    table: &TableInfo,
) -> Result<Option<Vec<ResultColumn>>, SqlError> {
    items.map(|items| Returning::new(items, table).map(Returning::columns)).transpose()
}

/// The result of SHOW.
///
/// # Errors
/// 42704 if there is no such setting.
pub fn show(
    variable: &[ast::Ident],
    settings: &Settings,
) -> Result<(Vec<ResultColumn>, Vec<Row>), SqlError> {
    let words: Vec<String> =
        variable.iter().map(|ident| names::fold(ident).to_lowercase()).collect();
    let name = match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["transaction", "isolation", "level"] => "transaction_isolation".to_owned(),
        ["time", "zone"] => "timezone".to_owned(),
        ["all"] => {
            let columns = ["name", "setting"].map(|name| ResultColumn::computed(name, TEXT));
            let row = |(name, value): (&str, String)| {
                vec![Value::Text(name.to_owned()), Value::Text(value)]
            };
            return Ok((columns.to_vec(), settings.all().into_iter().map(row).collect()));
        }
        _ => words.join("."),
    };
    let value = settings.get(&name).ok_or_else(|| {
        SqlError::new("42704", format!("unrecognized configuration parameter \"{name}\""))
    })?;
    Ok((vec![ResultColumn::computed(name, TEXT)], vec![vec![Value::Text(value)]]))
}

/// The arguments of a call.
///
/// # Errors
/// 0A000 for named arguments and subqueries.
pub fn call_arguments(function: &ast::Function) -> Result<Vec<&Expr>, SqlError> {
    match &function.args {
        FunctionArguments::None => Ok(Vec::new()),
        FunctionArguments::List(list) => list
            .args
            .iter()
            .map(|argument| match argument {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Ok(expr),
                other => Err(SqlError::unsupported(format!("argument {other}"))),
            })
            .collect(),
        FunctionArguments::Subquery(_) => Err(SqlError::unsupported("a subquery as arguments")),
    }
}
