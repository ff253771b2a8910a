//! Integer arithmetic that fails with 22003 instead of wrapping around.
//!
//! The query engine's `+ - *` and unary minus wrap on overflow, as arrow's fastest kernels do. A rule
//! behind its type coercion replaces them, where both sides are integers, by functions over the
//! checked kernels. It is a rule of the analyzer, before constants are folded, so that no constant
//! wraps either. Types are found from the operands alone: asking the engine for the type of a nested
//! call walks all that is below it, each time, and a chain of a thousand operators would take minutes.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Datum, Scalar};
use datafusion::arrow::compute::kernels::numeric;
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::error::ArrowError;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result as EngineResult, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    BinaryExpr, Cast, ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::optimizer::AnalyzerRule;

/// The rule.
#[derive(Debug)]
pub struct CheckedArithmetic;

impl AnalyzerRule for CheckedArithmetic {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> EngineResult<LogicalPlan> {
        plan.transform_up_with_subqueries(rewrite_plan).map(|rewritten| rewritten.data)
    }

    fn name(&self) -> &str {
        "checked_arithmetic"
    }
}

fn rewrite_plan(plan: LogicalPlan) -> EngineResult<Transformed<LogicalPlan>> {
    let mut schema = merge_schema(&plan.inputs());
    if let LogicalPlan::TableScan(scan) = &plan {
        schema.merge(&DFSchema::try_from_qualified_schema(
            scan.table_name.clone(),
            &scan.source.schema(),
        )?);
    }
    let names = NamePreserver::new(&plan);
    plan.map_expressions(|expr| {
        let name = names.save(&expr);
        let rewritten = expr.transform_up(|expr| rewrite(expr, &schema))?;
        Ok(rewritten.update_data(|expr| name.restore(expr)))
    })
}

fn rewrite(expr: Expr, schema: &DFSchema) -> EngineResult<Transformed<Expr>> {
    let (op, arguments) = match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let kernel = match op {
                Operator::Plus => Kernel::Add,
                Operator::Minus => Kernel::Subtract,
                Operator::Multiply => Kernel::Multiply,
                _ => return Ok(Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right }))),
            };
            match (integer_type(&left, schema), integer_type(&right, schema)) {
                (Some(a), Some(b)) if a == b => ((kernel, a), vec![*left, *right]),
                _ => return Ok(Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right }))),
            }
        }
        Expr::Negative(inner) => match integer_type(&inner, schema) {
            Some(data_type) => {
                let zero = ScalarValue::new_zero(&data_type)?;
                ((Kernel::Subtract, data_type), vec![Expr::Literal(zero, None), *inner])
            }
            None => return Ok(Transformed::no(Expr::Negative(inner))),
        },
        other => return Ok(Transformed::no(other)),
    };
    let function = Checked { kernel: op.0, data_type: op.1, signature: any_two() };
    let function = Arc::new(ScalarUDF::from(function));
    Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(function, arguments))))
}

/// The type of `expr`, if it is an integer's.
fn integer_type(expr: &Expr, schema: &DFSchema) -> Option<DataType> {
    let data_type = match expr {
        Expr::ScalarFunction(call) => match call.func.inner().downcast_ref::<Checked>() {
            Some(checked) => checked.data_type.clone(),
            None => expr.get_type(schema).ok()?,
        },
        Expr::Cast(Cast { field, .. }) => field.data_type().clone(),
        Expr::Literal(value, _) => value.data_type(),
        _ => expr.get_type(schema).ok()?,
    };
    data_type.is_integer().then_some(data_type)
}

fn any_two() -> Signature {
    Signature::any(2, Volatility::Immutable)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kernel {
    Add,
    Subtract,
    Multiply,
}

/// One operator over one integer type.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Checked {
    kernel: Kernel,
    data_type: DataType,
    signature: Signature,
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &str {
        match self.kernel {
            Kernel::Add => "checked_add",
            Kernel::Subtract => "checked_subtract",
            Kernel::Multiply => "checked_multiply",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> EngineResult<DataType> {
        Ok(self.data_type.clone())
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> EngineResult<ColumnarValue> {
        let kernel: fn(&dyn Datum, &dyn Datum) -> Result<ArrayRef, ArrowError> = match self.kernel {
            Kernel::Add => numeric::add,
            Kernel::Subtract => numeric::sub,
            Kernel::Multiply => numeric::mul,
        };
        let is_scalar =
            arguments.args.iter().all(|value| matches!(value, ColumnarValue::Scalar(_)));
        let operands = arguments.args.iter().map(operand).collect::<EngineResult<Vec<_>>>()?;
        let [left, right] = operands.as_slice() else {
            return datafusion::common::internal_err!("{} takes two arguments", self.name());
        };
        let result = kernel(left.as_ref(), right.as_ref())?;
        if is_scalar {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}

fn operand(value: &ColumnarValue) -> EngineResult<Box<dyn Datum>> {
    Ok(match value {
        ColumnarValue::Array(array) => Box::new(array.clone()),
        ColumnarValue::Scalar(scalar) => Box::new(Scalar::new(scalar.to_array()?)),
    })
}
