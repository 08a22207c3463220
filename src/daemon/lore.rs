//! What `leasefs explain` can tell beyond the engine: policies, as far as Vault has said which engine serves a
//! path, and what the configuration shows.

use std::collections::HashMap;

use crate::config::plan::{Format, MountPlan};
use crate::control::Lore;
use crate::control::protocol::Needs;
use crate::core::effect::{EngineHint, ReadRequest};
use crate::core::name::IdentityId;
use crate::render::{Content, Decode, FieldPath, Names, PemPart};
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
    let part = |field: &Option<FieldPath>, whole: &str| match field {
        Some(field) => format!("the field {field:?}"),
        None => whole.to_owned(),
    };
    match &format.content {
        Content::Raw { field, decode: Decode::Nothing } => format!("the field {field:?}"),
        Content::Raw { field, decode: Decode::Base64 } => format!("the field {field:?}, decoded from base64"),
        Content::Json { field } => format!("{} as JSON", part(field, "all fields")),
        Content::Env { field } => format!("{} as shell variables", part(field, "all fields")),
        Content::Yaml { field } => format!("{} as YAML", part(field, "all fields")),
        Content::Properties { field } => format!("{} as Java properties", part(field, "all fields")),
        Content::PemBundle { field, parts } => {
            let parts = parts.iter().map(|part| match part {
                PemPart::Certificate => "certificate",
                PemPart::Chain => "chain",
                PemPart::Key => "key",
            });
            let parts: Vec<&str> = parts.collect();
            format!("{} of {} as one PEM file", parts.join(", "), part(field, "the secret"))
        }
        Content::Template(template) => match template.names() {
            Names::Fields => "a template with its fields".to_owned(),
            Names::Sources(aliases) => {
                let names: Vec<&str> = aliases.iter().map(|alias| alias.name.as_str()).collect();
                format!("a template with the secrets {}", names.join(", "))
            }
        },
    }
}
