//! The log of external effects: the intent is durable before the effect happens. Who has lost the claim of the step that an
//! effect belongs to writes nothing.

use serde_json::Value;

use super::row::{Columns, from_json, json};
use super::statement::sql;
use super::{Claim, Store};
use crate::error::Result;
use crate::model::id::ResourceId;

/// An effect as it is written down: its name and, when it is done, its outcome.
type Logged = (String, Option<Value>);

impl Store {
    /// Writes an intent unless it is there; answers what was known before: `None` nothing, `Some(None)` begun,
    /// `Some(Some(outcome))` done.
    pub async fn begin_effect(
        &self,
        resource: &ResourceId,
        name: &str,
        request: &Value,
        claim: Option<&Claim>,
    ) -> Result<Option<Option<Value>>> {
        let (resource, name, request) = (resource.to_string(), name.to_owned(), json(request));
        let claim = claim.cloned();
        self.write(move |tx| {
            let (resource, name, request) = (resource.clone(), name.clone(), request.clone());
            let claim = claim.clone();
            Box::pin(async move {
                tx.keep(claim.as_ref()).await?;
                let known = sql("SELECT state, outcome FROM effect WHERE subject = $1 AND name = $2")
                    .bind(resource.clone())
                    .bind(name.clone());
                if let Some(row) = tx.fetch_one(known).await? {
                    let columns = Columns::of(&row);
                    let done = columns.text("state")? == "DONE";
                    return Ok(Some(if done { Some(from_json("outcome", &columns.text("outcome")?)?) } else { None }));
                }
                let statement = sql(
                    "INSERT INTO effect (subject, name, state, request, outcome, time) VALUES ($1, $2, 'BEGUN', $3, 'null', $4) \
                     ON CONFLICT (subject, name) DO NOTHING",
                )
                .bind(resource)
                .bind(name)
                .bind(request)
                .bind(tx.now());
                if tx.execute(statement).await? == 0 {
                    return Err(tx.overtaken("the same effect has just been begun elsewhere".to_owned()));
                }
                Ok(None)
            })
        })
        .await
    }

    /// Writes an outcome.
    pub async fn finish_effect(
        &self,
        resource: &ResourceId,
        name: &str,
        outcome: &Value,
        claim: Option<&Claim>,
    ) -> Result<()> {
        let (resource, name, outcome) = (resource.to_string(), name.to_owned(), json(outcome));
        let claim = claim.cloned();
        self.write(move |tx| {
            let statement = sql("UPDATE effect SET state = 'DONE', outcome = $1 WHERE subject = $2 AND name = $3")
                .bind(outcome.clone())
                .bind(resource.clone())
                .bind(name.clone());
            let claim = claim.clone();
            Box::pin(async move {
                tx.keep(claim.as_ref()).await?;
                tx.execute(statement).await.map(|_| ())
            })
        })
        .await
    }

    /// Forgets an effect that was undone.
    pub async fn forget_effect(&self, resource: &ResourceId, name: &str, claim: Option<&Claim>) -> Result<()> {
        let (resource, name) = (resource.to_string(), name.to_owned());
        let claim = claim.cloned();
        self.write(move |tx| {
            let statement =
                sql("DELETE FROM effect WHERE subject = $1 AND name = $2").bind(resource.clone()).bind(name.clone());
            let claim = claim.clone();
            Box::pin(async move {
                tx.keep(claim.as_ref()).await?;
                tx.execute(statement).await.map(|_| ())
            })
        })
        .await
    }

    /// All effects of a resource, in order of their beginning.
    pub async fn effects_of(&self, resource: &ResourceId) -> Result<Vec<Logged>> {
        sql("SELECT name, state, outcome FROM effect WHERE subject = $1 ORDER BY time, name")
            .bind(resource.to_string())
            .fetch_all(self.readers())
            .await?
            .iter()
            .map(|row| {
                let columns = Columns::of(row);
                let done = columns.text("state")? == "DONE";
                let outcome = if done { Some(from_json("outcome", &columns.text("outcome")?)?) } else { None };
                Ok((columns.text("name")?, outcome))
            })
            .collect()
    }
}

impl super::Tx {
    /// Forgets all effects of a resource that is gone.
    pub async fn forget_effects(&mut self, resource: &ResourceId) -> Result<()> {
        let statement = sql("DELETE FROM effect WHERE subject = $1").bind(resource.to_string());
        self.execute(statement).await.map(|_| ())
    }
}
