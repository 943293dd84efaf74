//! The kinds that are built in.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Blueprint, composite, local_host, port, remote_host, storage, webroot, working_copy};
use crate::host::Host;
use crate::model::Kind;

/// What the built-in kinds say of themselves, by name.
pub static KINDS: [&Kind; 7] = [
    &composite::KIND,
    &local_host::KIND,
    &port::KIND,
    &remote_host::KIND,
    &storage::KIND,
    &webroot::KIND,
    &working_copy::KIND,
];

/// Facts that each built-in type promises; a name that ends in `.*` stands for many.
pub(super) const FACTS: &[(&str, &[&str])] = &[
    ("host", local_host::FACTS),
    ("port", port::FACTS),
    ("storage", storage::FACTS),
    ("webroot", webroot::FACTS),
    ("working-copy", working_copy::FACTS),
];

/// The built-in kinds that need no more than the machine that the daemon runs on; `remote-host` is added by whoever has
/// a way to reach boxes.
pub fn all(local: Arc<dyn Host>) -> Vec<Arc<dyn Blueprint>> {
    vec![
        Arc::new(composite::Composite),
        Arc::new(local_host::LocalHost::new(local)),
        Arc::new(port::Port),
        Arc::new(storage::Storage),
        Arc::new(webroot::Webroot),
        Arc::new(working_copy::WorkingCopy::default()),
    ]
}

/// Kinds by name.
#[derive(Clone)]
pub struct Registry {
    kinds: Vec<Arc<dyn Blueprint>>,
}

impl Registry {
    /// Of these kinds; of two with one name the first is found.
    #[must_use]
    pub fn new(mut kinds: Vec<Arc<dyn Blueprint>>) -> Self {
        kinds.sort_by_key(|kind| kind.describe().kind);
        Self { kinds }
    }

    /// The kind of that name.
    #[must_use]
    pub fn find(&self, kind: &str) -> Option<&Arc<dyn Blueprint>> {
        self.kinds.iter().find(|known| known.describe().kind == kind)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Blueprint>> {
        self.kinds.iter()
    }
}

/// Where the folder of a lease on a host is: `leases/<id>` under the host's data folder.
#[must_use]
pub fn lease_folder(host: &dyn Host, lease: &str) -> PathBuf {
    host.data_dir().join("leases").join(lease)
}
