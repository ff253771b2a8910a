//! Unions, intersections and differences of sorted sets.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Bounds, select, store, with_scores, without_scores};
use crate::commands::sets::counted_keys;
use crate::commands::{Arguments, failure};
use crate::exec::{Exec, Result, SYNTAX, WRONG_TYPE, error};
use crate::head::Kind;
use crate::number::{parse_float, parse_integer};
use crate::reply::Reply;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Union,
    Intersection,
    Difference,
}

#[derive(Debug, Clone, Copy)]
enum Aggregate {
    Sum,
    Min,
    Max,
}

impl Aggregate {
    fn of(self, a: f64, b: f64) -> f64 {
        match self {
            // Infinities of both signs add up to nothing.
            Aggregate::Sum => {
                let sum = a + b;
                if sum.is_nan() { 0.0 } else { sum }
            }
            Aggregate::Min => a.min(b),
            Aggregate::Max => a.max(b),
        }
    }
}

/// Members and scores of a sorted set, or of a set, whose members score 1.
fn scored_members(x: &Exec<'_>, key: &[u8]) -> Result<Vec<(Bytes, f64)>> {
    let Some(head) = x.head(key)? else { return Ok(Vec::new()) };
    match head.kind {
        Kind::SortedSet => match x.collection(key, Kind::SortedSet)? {
            None => Ok(Vec::new()),
            Some(held) => select(x, &held, &Bounds::Rank(0, -1), false, 0, usize::MAX),
        },
        Kind::Set => match x.collection(key, Kind::Set)? {
            None => Ok(Vec::new()),
            Some(held) => {
                let members = super::super::sets::members(x, &held)?;
                Ok(members.into_iter().map(|member| (member, 1.0)).collect())
            }
        },
        _ => error(WRONG_TYPE),
    }
}

pub(super) fn combine(x: &mut Exec<'_>, a: &[Bytes], how: How, is_store: bool) -> Result {
    let at = if is_store { 2 } else { 1 };
    let name = a.word(0).to_ascii_lowercase();
    let key_count = match parse_integer(a.at(at)?) {
        None => return error(crate::exec::NOT_AN_INTEGER),
        Some(count) if count < 1 => {
            return failure(format!("ERR at least 1 input key is needed for '{name}' command"));
        }
        Some(count) => usize::try_from(count).unwrap_or(usize::MAX),
    };
    let Some(keys) = a.from(at + 1).get(..key_count) else { return error(SYNTAX) };
    for key in keys {
        // Redis looks at the keys before it reads the options.
        if x.head(key)?.is_some_and(|head| !matches!(head.kind, Kind::SortedSet | Kind::Set)) {
            return error(WRONG_TYPE);
        }
    }
    let (mut weights, mut aggregate, mut scores) = (vec![1.0; key_count], Aggregate::Sum, false);
    let mut place = at + 1 + key_count;
    while place < a.len() {
        match a.word(place).as_str() {
            "WEIGHTS" if how != How::Difference && place + key_count < a.len() => {
                for (index, weight) in weights.iter_mut().enumerate() {
                    let text = a.at(place + 1 + index)?;
                    let Some(number) = parse_float(text) else {
                        return error("ERR weight value is not a float");
                    };
                    *weight = number;
                }
                place += key_count;
            }
            "AGGREGATE" if how != How::Difference && place + 1 < a.len() => {
                aggregate = match a.word(place + 1).as_str() {
                    "SUM" => Aggregate::Sum,
                    "MIN" => Aggregate::Min,
                    "MAX" => Aggregate::Max,
                    _ => return error(SYNTAX),
                };
                place += 1;
            }
            "WITHSCORES" if !is_store => scores = true,
            _ => return error(SYNTAX),
        }
        place += 1;
    }
    let combined = combined(x, keys, &weights, aggregate, how)?;
    if is_store {
        let event = match how {
            How::Union => "zunionstore",
            How::Intersection => "zinterstore",
            How::Difference => "zdiffstore",
        };
        return store(x, a.at(1)?, &combined, event);
    }
    Ok(if scores { with_scores(combined) } else { without_scores(combined) })
}

/// The combined members in the order of score, then member.
fn combined(
    x: &Exec<'_>,
    keys: &[Bytes],
    weights: &[f64],
    aggregate: Aggregate,
    how: How,
) -> Result<Vec<(Bytes, f64)>> {
    let mut inputs = Vec::with_capacity(keys.len());
    for key in keys {
        inputs.push(scored_members(x, key)?);
    }
    let weighted = |score: f64, weight: f64| {
        let product = score * weight;
        if product.is_nan() { 0.0 } else { product }
    };
    // How many inputs had the member, and its score so far.
    let mut all: BTreeMap<Bytes, (usize, f64)> = BTreeMap::new();
    for (index, (input, weight)) in inputs.into_iter().zip(weights).enumerate() {
        for (member, score) in input {
            let score = weighted(score, *weight);
            match all.get_mut(&member) {
                Some((count, present)) => {
                    *count += 1;
                    if how != How::Difference {
                        *present = aggregate.of(*present, score);
                    }
                }
                None if index == 0 || how == How::Union => {
                    all.insert(member, (1, score));
                }
                None => {}
            }
        }
    }
    let wanted = |count: usize| match how {
        How::Union => true,
        How::Intersection => count == keys.len(),
        How::Difference => count == 1,
    };
    let mut found: Vec<(Bytes, f64)> = all
        .into_iter()
        .filter(|(_, (count, _))| wanted(*count))
        .map(|(member, (_, score))| (member, score))
        .collect();
    found.sort_by(|a, b| a.1.total_cmp(&b.1).then_with(|| a.0.cmp(&b.0)));
    Ok(found)
}

pub(super) fn zintercard(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let (keys, limit) = counted_keys(a, 1)?;
    let weights = vec![1.0; keys.len()];
    let found = combined(x, keys, &weights, Aggregate::Sum, How::Intersection)?;
    Ok(Reply::count(found.len().min(limit)))
}
