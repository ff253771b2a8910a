//! PostgreSQL's spellings that the query engine does not know, put into words that it does.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator, Expr, Ident, ObjectName, Query, SelectItem, SetExpr, TableFactor,
    VisitMut, VisitorMut,
};

use crate::engine::QueryScope;
use crate::error::SqlError;
use crate::names;
use crate::types::column_type_of;

/// Rewrites a statement for the query engine.
///
/// # Errors
/// 42P01 for `'name'::regclass` of a table that is not there.
pub fn rewrite(
    mut statement: ast::Statement,
    scope: &QueryScope,
) -> Result<ast::Statement, SqlError> {
    if let ast::Statement::Query(query) = &statement
        && !query.locks.is_empty()
    {
        return Err(SqlError::unsupported("SELECT … FOR UPDATE or FOR SHARE")
            .hint("Nothing is locked: of two transactions that change one row, the second fails with 40001."));
    }
    let mut rewriter = Rewriter { scope };
    if let ControlFlow::Break(error) = VisitMut::visit(&mut statement, &mut rewriter) {
        return Err(error);
    }
    if let ast::Statement::Query(query) = &mut statement {
        name_columns(&mut query.body);
    }
    Ok(statement)
}

struct Rewriter<'a> {
    scope: &'a QueryScope,
}

impl VisitorMut for Rewriter<'_> {
    type Break = SqlError;

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
        if let Some(replacement) = catalog_subquery(expr) {
            *expr = replacement;
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
        match self.replacement(expr) {
            Ok(Some(replacement)) => *expr = replacement,
            Ok(None) => {}
            Err(error) => return ControlFlow::Break(error),
        }
        ControlFlow::Continue(())
    }
}

impl Rewriter<'_> {
    fn replacement(&self, expr: &mut Expr) -> Result<Option<Expr>, SqlError> {
        match expr {
            Expr::BinaryOp { op, .. } => {
                if let BinaryOperator::PGCustomBinaryOperator(path) = op
                    && let Some(plain) = path.last().and_then(|symbol| operator(symbol))
                {
                    *op = plain;
                }
                Ok(None)
            }
            Expr::Collate { expr, .. } => Ok(Some(take(expr))),
            Expr::Function(function) => self.function(function),
            Expr::Cast { expr: inner, data_type, .. } => self.cast(inner, data_type),
            Expr::Identifier(ident) if ident.quote_style.is_none() => {
                Ok(self.session_value(&ident.value.to_lowercase(), false))
            }
            _ => Ok(None),
        }
    }

    fn function(&self, function: &mut ast::Function) -> Result<Option<Expr>, SqlError> {
        let Some(name) = names::function_name(function) else { return Ok(None) };
        if let Some(value) = self.session_value(&name, true) {
            return Ok(Some(value));
        }
        if let "pg_column_default" | "pg_get_indexdef" | "pg_get_constraintdef" = name.as_str() {
            return self.object_text(&name, function).map(Some);
        }
        if name == "array_to_string" && is_catalog_array(function) {
            return Ok(Some(null_text()));
        }
        if function.name.0.len() > 1 {
            function.name = ObjectName::from(vec![Ident::new(name)]);
        }
        Ok(None)
    }

    /// A function over object ids becomes a CASE over those that there are.
    fn object_text(&self, name: &str, function: &ast::Function) -> Result<Expr, SqlError> {
        let ast::FunctionArguments::List(list) = &function.args else { return Ok(null_text()) };
        let argument =
            |index: usize| list.args.get(index).map(ToString::to_string).unwrap_or_default();
        let mut arms = String::new();
        for (oid, number, text) in crate::system::object_texts(self.scope)? {
            let text = text.replace('\'', "''");
            let condition = match (name, number) {
                ("pg_column_default", 1..) => {
                    format!("{} = {oid} AND {} = {number}", argument(0), argument(1))
                }
                ("pg_get_indexdef", 0) if list.args.len() == 1 => {
                    format!("{} = {oid}", argument(0))
                }
                ("pg_get_indexdef", 0..) if list.args.len() > 1 => {
                    format!("{} = {oid} AND {} = {number}", argument(0), argument(1))
                }
                ("pg_get_constraintdef", -1) => format!("{} = {oid}", argument(0)),
                _ => continue,
            };
            arms.push_str(&format!(" WHEN {condition} THEN '{text}'"));
        }
        if arms.is_empty() {
            return Ok(null_text());
        }
        let parsed = crate::statement::parse(&format!("SELECT CASE{arms} END"))?.pop();
        Ok(parsed.and_then(single_expression).unwrap_or_else(null_text))
    }

    fn session_value(&self, name: &str, is_call: bool) -> Option<Expr> {
        let text = match name {
            "current_user" | "session_user" | "current_role" => &self.scope.user,
            "user" if !is_call => return None,
            "current_catalog" | "current_database" => &self.scope.database,
            "current_schema" => names::PUBLIC,
            _ => return None,
        };
        Some(text_literal(text))
    }

    fn cast(
        &self,
        inner: &mut Expr,
        data_type: &mut ast::DataType,
    ) -> Result<Option<Expr>, SqlError> {
        let full_name = data_type.to_string().to_lowercase();
        let name = full_name.trim_start_matches("pg_catalog.").trim_matches('"');
        let plain = match name {
            "regclass" => {
                if let Some(text) = literal_text(inner) {
                    return self.table_oid(&text).map(Some);
                }
                ast::DataType::Text
            }
            "regtype" | "regproc" | "regprocedure" | "regoper" | "regnamespace" | "regrole"
            | "name" | "char" | "text" | "int2vector" | "oidvector" | "xid" | "pg_lsn"
            | "citext" | "json" | "jsonb" | "uuid" => ast::DataType::Text,
            "text[]" | "_text" => return Ok(Some(take_expr(inner))),
            "oid" | "xid8" | "cid" | "int8" => ast::DataType::BigInt(None),
            "int4" => ast::DataType::Integer(None),
            "int2" => ast::DataType::SmallInt(None),
            "bool" => ast::DataType::Boolean,
            "float8" => ast::DataType::Double(ast::ExactNumberInfo::None),
            "varchar" => ast::DataType::Text,
            _ if column_type_of(data_type).is_ok() => return Ok(None),
            _ => return Ok(None),
        };
        *data_type = plain;
        Ok(None)
    }

    fn table_oid(&self, text: &str) -> Result<Expr, SqlError> {
        if text.parse::<u32>().is_ok() {
            return Ok(number_literal(text));
        }
        let name = text.rsplit('.').next().unwrap_or(text).trim_matches('"');
        let found = crate::system::relation_oid(name, self.scope)?;
        let oid = found.ok_or_else(|| SqlError::undefined_table(text))?;
        Ok(number_literal(&oid.to_string()))
    }
}

/// Whether the first argument is an array of the catalogs, which are all empty here.
fn is_catalog_array(function: &ast::Function) -> bool {
    let ast::FunctionArguments::List(list) = &function.args else { return false };
    let first = list.args.first().map(ToString::to_string).unwrap_or_default();
    ["acl", "options", "CAST(NULL"].iter().any(|part| first.contains(part))
}

fn take(expr: &mut Box<Expr>) -> Expr {
    take_expr(expr)
}

fn take_expr(expr: &mut Expr) -> Expr {
    std::mem::replace(expr, Expr::value(ast::Value::Null))
}

fn text_literal(text: &str) -> Expr {
    Expr::value(ast::Value::SingleQuotedString(text.to_owned()))
}

fn number_literal(text: &str) -> Expr {
    Expr::value(ast::Value::Number(text.to_owned(), false))
}

fn literal_text(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(value) => match &value.value {
            ast::Value::SingleQuotedString(text) => Some(text.clone()),
            _ => None,
        },
        _ => None,
    }
}

fn operator(symbol: &str) -> Option<BinaryOperator> {
    Some(match symbol {
        "~" => BinaryOperator::PGRegexMatch,
        "~*" => BinaryOperator::PGRegexIMatch,
        "!~" => BinaryOperator::PGRegexNotMatch,
        "!~*" => BinaryOperator::PGRegexNotIMatch,
        "~~" => BinaryOperator::PGLikeMatch,
        "!~~" => BinaryOperator::PGNotLikeMatch,
        "=" => BinaryOperator::Eq,
        "<>" => BinaryOperator::NotEq,
        "<" => BinaryOperator::Lt,
        "<=" => BinaryOperator::LtEq,
        ">" => BinaryOperator::Gt,
        ">=" => BinaryOperator::GtEq,
        "+" => BinaryOperator::Plus,
        "-" => BinaryOperator::Minus,
        _ => return None,
    })
}

/// Correlated subqueries over catalogs, which the query engine cannot run: what they would find.
/// Columns have no collation of their own, and defaults are found by a function.
fn catalog_subquery(expr: &Expr) -> Option<Expr> {
    match expr {
        Expr::Subquery(query) => {
            let tables = tables_of(query);
            let has = |name: &str| tables.iter().any(|table| table == name);
            if has("pg_attrdef") {
                let call = "pg_column_default(a.attrelid, a.attnum)";
                let statement = crate::statement::parse(&format!("SELECT {call}")).ok()?.pop()?;
                return single_expression(statement);
            }
            let is_empty = [
                "pg_collation",
                "pg_description",
                "pg_inherits",
                "pg_foreign_table",
                "pg_constraint",
            ];
            let is_of_publications = query.to_string().contains("prattrs");
            (is_of_publications || is_empty.iter().any(|name| has(name))).then(null_text)
        }
        // No constraint here is deferrable, and the catalogs' arrays are empty.
        Expr::Exists { subquery, negated } if subquery.to_string().contains("condeferr") => {
            Some(Expr::value(ast::Value::Boolean(*negated)))
        }
        Expr::AnyOp { right, .. } => {
            let right = right.to_string();
            let is_catalog_array =
                ["stxkind", "polroles", "prattrs"].iter().any(|name| right.contains(name));
            is_catalog_array.then(|| Expr::value(ast::Value::Boolean(false)))
        }
        Expr::Function(function) if names::function_name(function).as_deref() == Some("array") => {
            matches!(function.args, ast::FunctionArguments::Subquery(_)).then(null_text)
        }
        _ => None,
    }
}

/// The expression of `SELECT expression`.
fn single_expression(statement: ast::Statement) -> Option<Expr> {
    let ast::Statement::Query(query) = statement else { return None };
    let SetExpr::Select(select) = *query.body else { return None };
    match select.projection.into_iter().next() {
        Some(SelectItem::UnnamedExpr(expr)) => Some(expr),
        _ => None,
    }
}

fn null_text() -> Expr {
    Expr::Cast {
        kind: ast::CastKind::Cast,
        expr: Box::new(Expr::value(ast::Value::Null)),
        data_type: ast::DataType::Text,
        array: false,
        format: None,
    }
}

fn tables_of(query: &Query) -> Vec<String> {
    let SetExpr::Select(select) = query.body.as_ref() else { return Vec::new() };
    let mut tables = Vec::new();
    for from in &select.from {
        let joined = from.joins.iter().map(|join| &join.relation);
        for factor in std::iter::once(&from.relation).chain(joined) {
            if let TableFactor::Table { name, .. } = factor
                && let Ok(relation) = names::relation(name)
            {
                tables.push(relation.name);
            }
        }
    }
    tables
}

/// The names that PostgreSQL gives to a result's columns; `None` where the query engine's stands.
pub fn result_names(query: &Query, width: usize) -> Vec<Option<String>> {
    let mut body = query.body.as_ref();
    loop {
        match body {
            SetExpr::SetOperation { left, .. } => body = left,
            SetExpr::Query(query) => body = query.body.as_ref(),
            _ => break,
        }
    }
    let SetExpr::Select(select) = body else { return vec![None; width] };
    let is_wild = |item: &SelectItem| {
        matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..))
    };
    let wild_count = select.projection.iter().filter(|item| is_wild(item)).count();
    let plain_count = select.projection.len() - wild_count;
    if wild_count > 1 || plain_count > width {
        return vec![None; width];
    }
    let mut names = Vec::with_capacity(width);
    for item in &select.projection {
        match item {
            item if is_wild(item) => names.extend(vec![None; width - plain_count]),
            SelectItem::ExprWithAlias { alias, .. } => names.push(Some(names::fold(alias))),
            SelectItem::UnnamedExpr(expr) => names.push(Some(column_name(expr))),
            _ => names.push(None),
        }
    }
    names.resize(width, None);
    names
}

fn column_name(expr: &Expr) -> String {
    match expr {
        Expr::Identifier(ident) => names::fold(ident),
        Expr::CompoundIdentifier(parts) => parts.last().map(names::fold).unwrap_or_default(),
        Expr::Function(function) => {
            names::function_name(function).unwrap_or_else(|| "?column?".to_owned())
        }
        Expr::Cast { expr, data_type, .. } => match column_name(expr).as_str() {
            "?column?" => {
                column_type_of(data_type).map_or_else(|_| data_type.to_string(), internal_name)
            }
            name => name.to_owned(),
        },
        Expr::Nested(expr) | Expr::Collate { expr, .. } => column_name(expr),
        Expr::Case { .. } => "case".to_owned(),
        Expr::Exists { .. } => "exists".to_owned(),
        Expr::Extract { .. } => "extract".to_owned(),
        Expr::Substring { .. } => "substring".to_owned(),
        Expr::Value(value) if matches!(value.value, ast::Value::Boolean(_)) => "bool".to_owned(),
        _ => "?column?".to_owned(),
    }
}

fn internal_name(column_type: proteus_kernel_api::table::ColumnType) -> String {
    use proteus_kernel_api::table::ColumnType as Type;
    match column_type {
        Type::Bool => "bool",
        Type::SmallInt => "int2",
        Type::Integer => "int4",
        Type::BigInt => "int8",
        Type::Real => "float4",
        Type::Double => "float8",
        Type::Text { length_max: None } => "text",
        Type::Text { .. } => "varchar",
        Type::Bytea => "bytea",
        Type::Timestamp => "timestamp",
        Type::TimestampTz => "timestamptz",
        Type::Date => "date",
        Type::Numeric { .. } => "numeric",
        Type::Json => "jsonb",
    }
    .to_owned()
}

/// The query engine wants distinct names: gives one to each unnamed or repeated expression.
fn name_columns(body: &mut SetExpr) {
    let select = match body {
        SetExpr::Select(select) => select,
        SetExpr::Query(query) => return name_columns(&mut query.body),
        SetExpr::SetOperation { left, right, .. } => {
            name_columns(left);
            return name_columns(right);
        }
        _ => return,
    };
    let mut seen = std::collections::BTreeSet::new();
    for (index, item) in select.projection.iter_mut().enumerate() {
        match item {
            SelectItem::UnnamedExpr(expr) => {
                let name = match &*expr {
                    Expr::Identifier(ident) => names::fold(ident),
                    // The engine tells `a.x` and `b.x` apart by itself.
                    other => other.to_string(),
                };
                if !seen.insert(name) {
                    let alias = Ident::with_quote('"', format!("__proteus_{index}"));
                    *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
                }
            }
            SelectItem::ExprWithAlias { alias, .. } if !seen.insert(names::fold(alias)) => {
                *alias = Ident::with_quote('"', format!("__proteus_{index}"));
            }
            _ => {}
        }
    }
}
