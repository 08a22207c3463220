//! What `leasefs explain` can tell beyond the engine: policies, as far as Vault has said which engine serves a
//! path, and what the configuration shows.

use std::collections::HashMap;

use crate::config::plan::{Format, MountPlan};
use crate::control::Lore;
use crate::control::protocol::Needs;
use crate::core::effect::{EngineHint, ReadRequest};
use crate::core::name::IdentityId;
use crate::vault::client::Client;
use crate::vault::engine::read_call;

/// What is known of a plan.
pub(super) struct PlanLore {
    client: Client,
    shown: HashMap<String, String>,
}

impl PlanLore {
    /// Of a plan and the client that carries it out.
    pub(super) fn new(plan: &MountPlan, client: Client) -> PlanLore {
        let files = plan.files.iter();
        let shown = files.map(|file| (file.spec.name.as_str().to_owned(), shown(&file.format))).collect();
        PlanLore { client, shown }
    }
}

impl Lore for PlanLore {
    fn needs(&self, identity: IdentityId, request: &ReadRequest) -> Option<Needs> {
        let mount = self.client.known_mount(identity, &request.path);
        // On KV version 2 the path to be allowed depends on where the engine is mounted.
        let depends =
            matches!(request.engine, EngineHint::Auto | EngineHint::Kv2) && request.params.is_none();
        let call = read_call(mount.as_ref(), request).ok().filter(|_| mount.is_some() || !depends)?;
        Some(Needs { capability: call.capability.as_str().to_owned(), path: call.path })
    }

    fn shows(&self, file: &str) -> Option<String> {
        self.shown.get(file).cloned()
    }
}

/// What a format shows, in words.
fn shown(format: &Format) -> String {
    match format {
        Format::Raw { field } => format!("the field {field:?}"),
        Format::Json { field: Some(field) } => format!("the field {field:?} as JSON"),
        Format::Json { field: None } => "all fields as JSON".to_owned(),
    }
}
