//! Running a composite's steps, each at most once as far as anyone can know, and undoing them.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::design::{Design, StepDesign};
use super::{fill, is_done, step_of};
use crate::blueprint::{Context, EffectState, Step};
use crate::host::{Command, Exit, Ran, Run};

/// Undoing is best effort: it must not hold a lease's end up for long.
const UNDO_LIMIT: Duration = Duration::from_mins(1);
/// Of a failing command's output.
const TAIL: usize = 2048;

/// The names of the steps that are done.
pub(super) async fn done(ctx: &Context) -> Result<BTreeSet<String>, Step> {
    let all = ctx.effects.all().await?;
    Ok(all
        .iter()
        .filter(|(_, state)| is_done(state))
        .filter_map(|(name, _)| step_of(name))
        .map(str::to_owned)
        .collect())
}

/// Whether these parts are asked for together for the first time.
pub(super) async fn first_asked(ctx: &Context, parts: &[&str]) -> Result<bool, Step> {
    let state = ctx.effects.begin(&format!("ask:{}", parts.join(",")), Value::Null).await?;
    Ok(state == EffectState::Fresh)
}

/// Runs a step to its end.
pub(super) async fn run(ctx: &Context, step: &StepDesign) -> Result<(), Step> {
    let effect = format!("step:{}", step.name);
    match ctx.effects.begin(&effect, json!({"part": step.part, "run": step.run})).await? {
        EffectState::Done(_) => return Ok(()),
        // Cut short: nobody knows how far it came, so what it did is undone before it runs again.
        EffectState::Begun => undo(ctx, step).await?,
        EffectState::Fresh => {}
    }
    let ran = execute(ctx, step, &step.run, step.timeout).await?;
    if ran.succeeded() {
        ctx.effects.done(&effect, json!({"exit_code": 0})).await?;
        return Ok(());
    }
    let how = match ran.exit {
        Some(Exit::Code(127)) => format!("found no program {:?}", step.run[0]),
        Some(Exit::Code(code)) => format!("ended with exit code {code}"),
        Some(Exit::Signal(signal)) => format!("was killed by signal {signal}"),
        None => format!("took longer than its {} s", step.timeout.as_secs()),
    };
    Err(Step::refuse(format!("the step {:?} ({}) {how}", step.name, step.run.join(" ")), tail(&ran)))
}

/// Undoes what was begun, the last first. What cannot be undone is left to the end of its part.
pub(super) async fn undo_all(ctx: &Context, design: &Design) -> Result<(), Step> {
    let begun = ctx.effects.all().await?;
    for step in design.steps.iter().rev() {
        still_ours(ctx)?;
        if begun.iter().any(|(name, _)| step_of(name) == Some(step.name.as_str()))
            && let Err(problem) = undo(ctx, step).await
        {
            tracing::warn!(resource = %ctx.resource.id, step = step.name, ?problem, "a step was not undone");
        }
    }
    for (name, _) in begun {
        // Whoever has it now must find what is to be undone.
        still_ours(ctx)?;
        ctx.effects.undone(&name).await?;
    }
    Ok(())
}

/// The claim may have been lost meanwhile: then another daemon takes it down.
fn still_ours(ctx: &Context) -> Result<(), Step> {
    if ctx.cancel.is_cancelled() { Err(Step::stumble("cancelled", "")) } else { Ok(()) }
}

async fn undo(ctx: &Context, step: &StepDesign) -> Result<(), Step> {
    let Some((met, place)) = ctx.needs.get(&step.part).and_then(|met| Some((met, met.place.as_ref()?))) else {
        return Ok(());
    };
    place.host.end_strays(met.lease.id.as_str()).await?;
    if step.undo.is_empty() {
        return Ok(());
    }
    let ran = execute(ctx, step, &step.undo, step.timeout.min(UNDO_LIMIT)).await?;
    if !ran.succeeded() {
        tracing::warn!(resource = %ctx.resource.id, step = step.name, tail = tail(&ran), "undo failed");
    }
    Ok(())
}

async fn execute(ctx: &Context, step: &StepDesign, words: &[String], timeout: Duration) -> Result<Ran, Step> {
    let place = ctx.place_of(&step.part)?;
    // The folder of a lease on a host is made when it is first used.
    place.host.make_folder(&place.root).await?;
    let command = Command {
        argv: words.to_vec(),
        cwd: place.root.clone(),
        env: fill(ctx, step.env.iter())?,
        // Of the part, so that its strays end with it.
        lease_id: ctx.needs[&step.part].lease.id.to_string(),
        ..Command::default()
    };
    tokio::select! {
        // Dropping it kills the tree.
        ran = place.host.run(Run { command, input: Vec::new(), timeout }) => Ok(ran?),
        () = ctx.cancel.cancelled() => Err(Step::stumble("cancelled", "")),
    }
}

/// What it said last: on stderr, or else on stdout.
fn tail(ran: &Ran) -> String {
    if !ran.stderr_tail.trim().is_empty() {
        return ran.stderr_tail.clone();
    }
    let start = ran.stdout.len().saturating_sub(TAIL);
    String::from_utf8_lossy(&ran.stdout[start..]).into_owned()
}
