//! Demand that can never fit is refused at the door, and types that need each other in a circle at configuration.

use std::collections::{BTreeMap, BTreeSet};

use super::{Rules, is_registered, leases_of, limit_of};
use crate::model::Blueprint;
use crate::model::pool::Demand;

/// Why a type can never be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeverFits {
    /// What there is not enough of.
    pub message: String,
}

/// How deep types may need each other.
const MAX_DEPTH: usize = 16;

type Needs<'n> = dyn Fn(&Blueprint) -> Vec<Demand> + 'n;

/// What there is to count with.
#[derive(Clone, Copy)]
pub struct Suppliers<'s> {
    /// All blueprints, by name.
    pub blueprints: &'s [Blueprint],
    /// Leases that the registered resources of a blueprint take at once, all together.
    pub registered: &'s dyn Fn(&Blueprint) -> i64,
}

/// Whether all the limits together can hold one lease served by `blueprint` with all that it needs.
///
/// # Errors
/// What there is not enough of, with numbers.
pub fn can_ever_fit(
    blueprint: &Blueprint,
    placed: bool,
    suppliers: Suppliers<'_>,
    rules: &dyn Rules,
    needs: &Needs<'_>,
) -> Result<(), NeverFits> {
    let all = suppliers.blueprints;
    let mut wanted = BTreeMap::new();
    add_up(blueprint, placed, all, needs, &mut wanted, 0)?;
    *wanted.entry(blueprint.resource_type.clone()).or_insert(0) += 1;
    for (resource_type, count) in &wanted {
        let makers: Vec<&Blueprint> =
            all.iter().filter(|maker| maker.resource_type == *resource_type && maker.enabled).collect();
        if makers.is_empty() {
            return Err(NeverFits {
                message: format!("it needs a {resource_type}, and no enabled blueprint makes one"),
            });
        }
        let capacity = makers.iter().try_fold(0_i64, |sum, maker| {
            if is_registered(maker, rules) {
                return Some(sum.saturating_add((suppliers.registered)(maker)));
            }
            Some(sum.saturating_add(limit_of(maker, rules)?.saturating_mul(leases_of(maker, rules))))
        });
        if capacity == Some(0) && makers.iter().all(|maker| is_registered(maker, rules)) {
            return Err(NeverFits {
                message: format!(
                    "it needs a {resource_type}, and none is registered; `drydock host add` registers one"
                ),
            });
        }
        if let Some(capacity) = capacity.filter(|capacity| capacity < count) {
            return Err(NeverFits {
                message: format!(
                    "it needs {count} leases on a {resource_type} at once, and all limits together allow {capacity}"
                ),
            });
        }
    }
    Ok(())
}

/// Adds up what building by `blueprint` takes, for the maker of each needed type that comes first by name.
fn add_up(
    blueprint: &Blueprint,
    placed: bool,
    all: &[Blueprint],
    needs: &Needs<'_>,
    wanted: &mut BTreeMap<String, i64>,
    depth: usize,
) -> Result<(), NeverFits> {
    if depth > MAX_DEPTH {
        return Err(NeverFits {
            message: format!("{} needs more than {MAX_DEPTH} types below each other", blueprint.name),
        });
    }
    for need in needs(blueprint) {
        if placed && need.resource_type == "host" {
            continue;
        }
        *wanted.entry(need.resource_type.clone()).or_insert(0) += 1;
        if let Some(maker) = all.iter().find(|maker| maker.resource_type == need.resource_type && maker.enabled) {
            add_up(maker, need.placed, all, needs, wanted, depth + 1)?;
        }
    }
    Ok(())
}

/// A circle of types that need each other, as `a needs b needs a`; `None` when there is none.
#[must_use]
pub fn circle(all: &[Blueprint], needs: &Needs<'_>) -> Option<String> {
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for blueprint in all {
        let of = edges.entry(blueprint.resource_type.clone()).or_default();
        of.extend(needs(blueprint).into_iter().map(|need| need.resource_type));
    }
    let mut done = BTreeSet::new();
    edges.keys().find_map(|start| walk(start, &edges, &mut Vec::new(), &mut done))
}

fn walk(
    at: &str,
    edges: &BTreeMap<String, BTreeSet<String>>,
    path: &mut Vec<String>,
    done: &mut BTreeSet<String>,
) -> Option<String> {
    if let Some(index) = path.iter().position(|seen| seen == at) {
        let mut circle = path[index..].to_vec();
        circle.push(at.to_owned());
        return Some(circle.join(" needs "));
    }
    if !done.insert(at.to_owned()) {
        return None;
    }
    path.push(at.to_owned());
    let found = edges.get(at).into_iter().flatten().find_map(|next| walk(next, edges, path, done));
    path.pop();
    found
}
