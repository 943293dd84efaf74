//! `composite`: several resources made and leased as one, from a document.
//!
//! Its parts are leases like any other, so the engine makes what can be made together at once; steps run in here.

mod design;
mod parameter;
mod plan;
mod steps;
mod template;

use std::collections::BTreeSet;

use async_trait::async_trait;
use serde_json::{Value, json};

use self::design::{Design, LEASE_ID};
use self::template::{PARAMETERS, Reference, Template};
use super::complaint::Complaints;
use super::{Blueprint, Context, EffectState, Endpoint, HOST_ATTRIBUTE, Need, Step, settle};
use crate::error::{Error, Reason, Result};
use crate::model::pool::Demand;
use crate::model::{Kind, LeaseSpec, StringMap};

/// What it is; its type, interfaces, needs and attributes are those of its document.
pub static KIND: Kind = Kind {
    kind: "composite",
    resource_type: "composite",
    interfaces: &[],
    needs: &[],
    config: &[],
    attributes: &[],
    leases_per_resource: 1,
    max_resources: None,
    rank: 0,
    stays: false,
    reused_by_attributes: true,
    instant: true,
    registration: None,
};

/// Makes what documents describe.
pub struct Composite;

/// Checks a configuration, with the place of each complaint.
pub fn check(path: &str, config: &Value, complaints: &mut Complaints) {
    Design::read(path, config, complaints);
}

#[async_trait]
impl Blueprint for Composite {
    fn describe(&self) -> &'static Kind {
        &KIND
    }

    fn resource_type(&self, config: &Value) -> String {
        of(config).resource_type
    }

    fn config_schema(&self) -> Value {
        schema()
    }

    fn interfaces(&self, config: &Value) -> Vec<String> {
        of(config).interfaces()
    }

    fn needs(&self, config: &Value) -> Vec<String> {
        of(config).parts.into_values().map(|part| part.resource_type).collect()
    }

    fn demand(&self, config: &Value) -> Vec<Demand> {
        let placed = |part: &design::Part| part.attributes.contains_key(HOST_ATTRIBUTE.name);
        let parts = of(config).parts.into_values();
        parts.map(|part| Demand { placed: placed(&part), resource_type: part.resource_type }).collect()
    }

    fn check_config(&self, config: &Value) -> Result<()> {
        let mut complaints = Complaints::default();
        check("config", config, &mut complaints);
        complaints.finish()
    }

    fn admit(&self, config: &Value, attributes: &StringMap) -> Result<StringMap> {
        let parameters = of(config).parameters;
        let mut complaints = Vec::new();
        for (key, value) in attributes {
            match parameters.get(key) {
                None => {
                    let known: Vec<&str> = parameters.keys().map(String::as_str).collect();
                    let hint = if known.is_empty() {
                        "it takes none".to_owned()
                    } else {
                        format!("known are {}", known.join(", "))
                    };
                    complaints.push(format!("unknown attribute {key:?}, {hint}"));
                }
                Some(parameter) => {
                    complaints.extend(parameter.check(value).err().map(|why| format!("attribute {key:?}: {why}")));
                }
            }
        }
        let mut filled = attributes.clone();
        for (name, parameter) in &parameters {
            match &parameter.default {
                Some(default) => drop(filled.entry(name.clone()).or_insert_with(|| default.clone())),
                None if attributes.contains_key(name) => {}
                None => complaints.push(format!("attribute {name:?} is missing and has no default")),
            }
        }
        if complaints.is_empty() {
            Ok(filled)
        } else {
            Err(Error::new(Reason::InvalidAttribute, complaints.join("; ")))
        }
    }

    async fn build(&self, ctx: &Context) -> Step {
        settle(build(ctx).await)
    }

    async fn clean(&self, ctx: &Context) -> Step {
        settle(ctx.end_lease_processes().await.map(|()| Step::done()))
    }

    async fn destroy(&self, ctx: &Context) -> Step {
        settle(steps::undo_all(ctx, &of(&ctx.blueprint.config)).await.map(|()| Step::done()))
    }

    fn endpoint(&self, ctx: &Context, interface: &str) -> Option<Endpoint> {
        let design = of(&ctx.blueprint.config);
        Some(Endpoint::Via(ctx.needs.get(design.exporter(interface)?)?.lease.id.clone()))
    }
}

/// A configuration that was checked when it was written.
fn of(config: &Value) -> Design {
    Design::read("config", config, &mut Complaints::default())
}

async fn build(ctx: &Context) -> Result<Step, Step> {
    let design = of(&ctx.blueprint.config);
    let met: BTreeSet<&str> = ctx.needs.keys().map(String::as_str).collect();
    let mut done = steps::done(ctx).await?;
    loop {
        let next = plan::next(&design, &met, &done);
        if next.complete {
            return Ok(Step::Ready(fill(ctx, design.facts.iter())?));
        }
        // New parts are asked for before a step holds us up; those that were asked for already are on their way.
        if next.run.is_empty() || (!next.ask.is_empty() && steps::first_asked(ctx, &next.ask).await?) {
            return Ok(Step::Needs(next.ask.iter().map(|name| need(ctx, &design, name)).collect::<Result<_, _>>()?));
        }
        let runs = next.run.iter().map(|&nth| steps::run(ctx, &design.steps[nth]));
        for (outcome, &nth) in futures::future::join_all(runs).await.into_iter().zip(&next.run) {
            outcome?;
            done.insert(design.steps[nth].name.clone());
        }
    }
}

fn need(ctx: &Context, design: &Design, name: &str) -> Result<Need, Step> {
    let part = design.parts.get(name).ok_or_else(|| Step::refuse(format!("there is no part {name:?}"), ""))?;
    Ok(Need {
        name: name.to_owned(),
        spec: LeaseSpec {
            resource_type: part.resource_type.clone(),
            attributes: fill(ctx, part.attributes.iter())?,
            resource_labels: part.resource_labels.clone(),
            ..LeaseSpec::default()
        },
    })
}

/// Templates with what is known of the parts and the parameters.
fn fill<'a>(ctx: &Context, templates: impl Iterator<Item = (&'a String, &'a Template)>) -> Result<StringMap, Step> {
    templates.map(|(key, template)| Ok((key.clone(), template.render(|reference| look_up(ctx, reference))?))).collect()
}

fn look_up(ctx: &Context, reference: &Reference) -> Result<String, Step> {
    let Reference { of, key } = reference;
    if of == PARAMETERS {
        // A part of another composite comes without the defaults that the door fills in.
        let default = || of_default(&ctx.blueprint.config, key);
        let value = ctx.resource.attributes.get(key).cloned().or_else(default);
        return value.ok_or_else(|| Step::refuse(format!("the parameter {key:?} was not given"), ""));
    }
    let met = ctx.needs.get(of).ok_or_else(|| Step::stumble(format!("the part {of:?} is not there any more"), ""))?;
    if key == LEASE_ID {
        return Ok(met.lease.id.to_string());
    }
    met.lease.facts.get(key).cloned().ok_or_else(|| {
        let known: Vec<&str> = met.lease.facts.keys().map(String::as_str).collect();
        Step::refuse(format!("the part {of:?} has no fact {key:?}; it has {}", known.join(", ")), "")
    })
}

fn of_default(config: &Value, parameter: &str) -> Option<String> {
    self::of(config).parameters.get(parameter)?.default.clone()
}

/// As [`Design::read`] takes it.
fn schema() -> Value {
    let text = json!({"type": "string"});
    let texts = json!({"type": "array", "items": text});
    let scalars = json!({"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}});
    let object = |required: &[&str], properties: Value| json!({"type": "object", "additionalProperties": false, "required": required, "properties": properties});
    let map = |of: Value| json!({"type": "object", "additionalProperties": of});
    let parameter = json!({
        "type": {"type": "string", "enum": ["string", "integer", "bool", "choice", "size", "span"]},
        "default": {"type": ["string", "number", "boolean"]}, "choices": texts, "about": text,
    });
    let part = json!({"type": text, "attributes": scalars, "resource_labels": scalars, "after": texts});
    let step = json!({"name": text, "part": text, "run": texts, "timeout": text, "undo": texts, "env": scalars});
    object(
        &["type", "needs"],
        json!({
            "type": text,
            "parameters": map(object(&[], parameter)),
            "needs": map(object(&["type"], part)),
            "steps": {"type": "array", "items": object(&["name", "part", "run"], step)},
            "exports": map(text.clone()),
            "facts": scalars,
        }),
    )
}

/// Whether an effect is of a step, and of which.
fn step_of(name: &str) -> Option<&str> {
    name.strip_prefix("step:")
}

/// Whether a step's effect says that it is done.
fn is_done(state: &EffectState) -> bool {
    matches!(state, EffectState::Done(_))
}
