//! The log of external effects, as a blueprint sees it.

use async_trait::async_trait;
use serde_json::Value;

use crate::blueprint::{EffectState, Effects};
use crate::error::Result;
use crate::model::id::ResourceId;
use crate::store::{Claim, Store};

/// Effects of one resource.
pub(super) struct ResourceEffects {
    pub(super) store: Store,
    pub(super) resource: ResourceId,
    /// Of the step that writes them: only as long as it is its own.
    pub(super) claim: Option<Claim>,
}

#[async_trait]
impl Effects for ResourceEffects {
    async fn begin(&self, name: &str, request: Value) -> Result<EffectState> {
        Ok(match self.store.begin_effect(&self.resource, name, &request, self.claim.as_ref()).await? {
            None => EffectState::Fresh,
            Some(None) => EffectState::Begun,
            Some(Some(outcome)) => EffectState::Done(outcome),
        })
    }

    async fn done(&self, name: &str, outcome: Value) -> Result<()> {
        self.store.finish_effect(&self.resource, name, &outcome, self.claim.as_ref()).await
    }

    async fn undone(&self, name: &str) -> Result<()> {
        self.store.forget_effect(&self.resource, name, self.claim.as_ref()).await
    }

    async fn all(&self) -> Result<Vec<(String, EffectState)>> {
        let logged = self.store.effects_of(&self.resource).await?;
        Ok(logged
            .into_iter()
            .map(|(name, outcome)| (name, outcome.map_or(EffectState::Begun, EffectState::Done)))
            .collect())
    }
}
