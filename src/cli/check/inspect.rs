//! Asks Vault about each path of a plan. Only KV is ever read, and the definitions of roles; whatever might mint
//! is only asked about.

use std::collections::BTreeMap;

use crate::cli::check::identity::{Capabilities, Leases, Sessions, allows};
use crate::cli::check::lifetime;
use crate::cli::check::report::{PathCheck, Readable, is_outage, names_of_source, policy_line};
use crate::cli::check::rights::Rights;
use crate::config::plan::{FilePlan, Format, MountPlan};
use crate::core::effect::{EngineHint, ReadRequest};
use crate::core::error::{Failure, Fault};
use crate::core::name::{IdentityId, SourceId, VaultPath};
use crate::core::policy::OnIdle;
use crate::core::source::SourceSpec;
use crate::core::sources::Sources;
use crate::core::tree::TreeSpec;
use crate::render::{self, NoText, RenderError};
use crate::secret::SecretBytes;
use crate::vault::engine::{ApiCall, Capability, list_call, read_call};
use crate::vault::{EngineMount, Token, TokenInfo, Vault};

/// How many secrets of a tree's first directory are asked about.
const SAMPLE: usize = 20;

/// How many of a secret's fields a message names.
const FIELDS: usize = 10;

/// Asks about every path of a plan, in its order: sources, then trees.
pub(super) async fn paths(vault: &impl Vault, plan: &MountPlan, sessions: &mut Sessions) -> Vec<PathCheck> {
    let mut checks = BTreeMap::new();
    for index in 0..plan.identities.len() {
        let identity = IdentityId(index as u32);
        let subjects = Subject::of_identity(plan, identity);
        let Some(token) = sessions.token(identity) else {
            let name = sessions.name(identity);
            for subject in subjects {
                let mut check = subject.blank(plan, &name);
                check.unreadable("the identity can't log in");
                checks.insert(subject.place(plan), check);
            }
            continue;
        };
        let mut located = Vec::new();
        for subject in subjects {
            located.push(Located::new(vault, &token, plan, subject, &sessions.name(identity)).await);
        }
        let (mut rights, mut leases) = (Rights::default(), Leases::default());
        for one in &located {
            one.claim(&mut rights, &mut leases);
        }
        let roles = located.iter().filter_map(Located::role).map(|role| role.to_string()).collect();
        let capabilities = sessions.capabilities(vault, identity, &rights, roles, leases).await;
        let info = sessions.info(identity);
        for mut one in located {
            one.verdict(vault, &token, plan, capabilities.as_ref()).await;
            if let (Some(capabilities), Some(info)) = (&capabilities, info) {
                one.look_at_role(vault, &token, capabilities, info).await;
            }
            checks.insert(one.subject.place(plan), one.check);
        }
    }
    checks.into_values().collect()
}

/// Something that is read.
#[derive(Clone, Copy)]
pub(super) enum Subject<'a> {
    Source { id: SourceId, spec: &'a SourceSpec },
    Tree { index: usize, spec: &'a TreeSpec },
}

impl<'a> Subject<'a> {
    /// All of a plan that an identity reads.
    fn of_identity(plan: &'a MountPlan, identity: IdentityId) -> Vec<Subject<'a>> {
        Subject::all(plan)
            .filter(|subject| match subject {
                Subject::Source { spec, .. } => spec.identity == identity,
                Subject::Tree { spec, .. } => spec.identity == identity,
            })
            .collect()
    }

    /// All of a plan.
    pub(super) fn all(plan: &'a MountPlan) -> impl Iterator<Item = Subject<'a>> {
        let sources = plan.sources.iter().enumerate();
        let trees = plan.trees.iter().enumerate();
        sources
            .map(|(index, spec)| Subject::Source { id: SourceId(index as u32), spec })
            .chain(trees.map(|(index, spec)| Subject::Tree { index, spec }))
    }

    /// Who reads it.
    pub(super) fn identity(&self) -> IdentityId {
        match self {
            Subject::Source { spec, .. } => spec.identity,
            Subject::Tree { spec, .. } => spec.identity,
        }
    }

    /// Nothing is known yet.
    pub(super) fn blank(&self, plan: &MountPlan, identity: &str) -> PathCheck {
        match self {
            Subject::Source { id, spec } => {
                PathCheck::new(spec.request.path.as_str(), identity, names_of_source(plan, *id))
            }
            Subject::Tree { spec, .. } => {
                PathCheck::new(&format!("{}/", spec.prefix), identity, vec![format!("{}/", spec.name)])
            }
        }
    }

    /// Where it stands in the report.
    fn place(&self, plan: &MountPlan) -> usize {
        match self {
            Subject::Source { id, .. } => id.0 as usize,
            Subject::Tree { index, .. } => plan.sources.len() + index,
        }
    }
}

/// A subject, its engine and the call that it needs.
struct Located<'a> {
    subject: Subject<'a>,
    mount: Option<EngineMount>,
    /// `None`: it is known already that it can't work.
    call: Option<ApiCall>,
    check: PathCheck,
}

impl<'a> Located<'a> {
    async fn new(
        vault: &impl Vault,
        token: &Token,
        plan: &MountPlan,
        subject: Subject<'a>,
        identity: &str,
    ) -> Located<'a> {
        let mut check = subject.blank(plan, identity);
        let (path, hint) = match subject {
            Subject::Source { spec, .. } => (&spec.request.path, spec.request.engine),
            Subject::Tree { spec, .. } => (&spec.prefix, spec.engine),
        };
        let mount = match vault.mount_of(token, path).await {
            Ok(mount) => Some(mount),
            Err(failure) => {
                if !matches!(failure.fault, Fault::Denied | Fault::NotFound) {
                    check.fail(failure);
                    return Located { subject, mount: None, call: None, check };
                }
                None
            }
        };
        check.engine = mount.as_ref().map(engine_name);
        if let Some(trouble) = mount.as_ref().and_then(|mount| contradiction(mount, hint, subject)) {
            check.unreadable(trouble);
            return Located { subject, mount, call: None, check };
        }
        let call = match subject {
            Subject::Source { spec, .. } => read_call(mount.as_ref(), &spec.request),
            Subject::Tree { spec, .. } => Ok(list_call(mount.as_ref(), &spec.prefix)),
        };
        let call = match call {
            Ok(call) => Some(call),
            Err(failure) => {
                check.fail(failure);
                None
            }
        };
        check.needs = match subject {
            Subject::Source { .. } => call.iter().map(policy_line).collect(),
            Subject::Tree { spec, .. } => tree_needs(mount.as_ref(), spec),
        };
        Located { subject, mount, call, check }
    }

    /// Says what it needs of a token.
    fn claim(&self, rights: &mut Rights, leases: &mut Leases) {
        rights_of(self, rights);
        if self.may_mint() {
            leases.some = true;
            leases.given_back |= match self.subject {
                Subject::Source { spec, .. } => spec.policy.on_idle == OnIdle::Revoke,
                Subject::Tree { .. } => false,
            };
        }
    }

    /// The role that it obtains credentials by.
    fn role(&self) -> Option<VaultPath> {
        match self.subject {
            Subject::Source { spec, .. } => lifetime::role_of(self.mount.as_ref()?, &spec.request.path),
            Subject::Tree { .. } => None,
        }
    }

    /// Reads the definition of its role, if that is allowed: whether it exists, and how long its leases live.
    async fn look_at_role(
        &mut self,
        vault: &impl Vault,
        token: &Token,
        capabilities: &Capabilities,
        info: &TokenInfo,
    ) {
        let Subject::Source { spec, .. } = self.subject else { return };
        let (Some(role), Some(mount), Some(_)) = (self.role(), &self.mount, &self.call) else { return };
        let call = ApiCall { path: role.to_string(), capability: Capability::Read };
        if self.check.readable != Readable::Yes || allows(capabilities, &call) != Some(true) {
            return;
        }
        let request =
            ReadRequest { path: role.clone(), params: None, version: None, engine: EngineHint::Other };
        match vault.read(token, &request).await {
            Ok(definition) => {
                let Some(lifetime) = lifetime::of_role(mount, &definition.data) else { return };
                self.check.lease_seconds = lifetime.lease.map(|lease| lease.as_secs());
                self.check.max_lease_seconds = lifetime.longest.map(|longest| longest.as_secs());
                self.check.warnings.extend(lifetime::remarks(lifetime, spec.policy.grace, info));
            }
            Err(failure) if failure.fault == Fault::NotFound => {
                self.check.unreadable(format!("there is no role at {role}: create it, or correct the path"));
            }
            // It was a look for nothing more than advice.
            Err(_) => {}
        }
    }

    /// Whether reading it might make a credential.
    fn may_mint(&self) -> bool {
        match self.subject {
            Subject::Source { spec, .. } => !self.is_kv(spec.request.engine),
            Subject::Tree { .. } => false,
        }
    }

    /// Which engine the configuration says it is.
    fn hint(&self) -> EngineHint {
        match self.subject {
            Subject::Source { spec, .. } => spec.request.engine,
            Subject::Tree { spec, .. } => spec.engine,
        }
    }

    /// Whether it is KV for certain.
    fn is_kv(&self, hint: EngineHint) -> bool {
        match hint {
            EngineHint::Kv1 | EngineHint::Kv2 => true,
            EngineHint::Other => false,
            EngineHint::Auto => self.mount.as_ref().is_some_and(EngineMount::is_kv),
        }
    }

    async fn verdict(
        &mut self,
        vault: &impl Vault,
        token: &Token,
        plan: &MountPlan,
        capabilities: Option<&Capabilities>,
    ) {
        let Some(call) = self.call.clone() else { return };
        let allowed = capabilities.and_then(|capabilities| allows(capabilities, &call));
        if allowed == Some(false) {
            self.deny(&call);
            return;
        }
        if self.mount.is_none() && self.hint() == EngineHint::Auto {
            // The policy would allow it, and still Vault names no engine.
            self.check.unreadable("no engine is mounted there: check the first part of the path".to_owned());
            return;
        }
        self.check.readable = if allowed == Some(true) { Readable::Yes } else { Readable::Unknown };
        match self.subject {
            Subject::Source { id, spec } if self.is_kv(spec.request.engine) => {
                self.read(vault, token, plan, id, &spec.request).await;
            }
            Subject::Source { .. } => {}
            Subject::Tree { spec, .. } => self.list(vault, token, spec).await,
        }
    }

    fn deny(&mut self, call: &ApiCall) {
        let lines = self.check.needs.join(" and ");
        let mut trouble = format!("the policy does not allow {}: add {lines}", call.capability.as_str());
        if self.mount.is_none() {
            trouble.push_str(", or, on KV v2, the same with `data/` after the mount");
        }
        self.check.unreadable(trouble);
    }

    /// Reads a KV secret and renders its files, so that a missing field is found.
    async fn read(
        &mut self,
        vault: &impl Vault,
        token: &Token,
        plan: &MountPlan,
        id: SourceId,
        request: &ReadRequest,
    ) {
        let secret = match vault.read(token, request).await {
            Ok(secret) => secret,
            Err(failure) if failure.fault == Fault::NotFound => {
                let reason = failure.reason;
                self.check.unreadable(format!("{reason}: write it, or correct the path"));
                return;
            }
            Err(failure) => return self.check.fail(failure),
        };
        self.check.readable = Readable::Yes;
        for FilePlan { spec, format } in
            plan.files.iter().filter(|file| file.spec.sources == Sources::one(id))
        {
            if let Err(error) = render::file(&secret.data, format) {
                let known = fields_for(&error, &secret.data);
                self.check.flaw(format!("{}: {error}{known}", spec.name));
            }
        }
        self.remark_on_kinds(plan, id, &secret.data);
        if plan.field_dirs.iter().any(|dir| dir.source == id)
            && let Err(error) = render::fields(&secret.data)
        {
            self.check.flaw(error.to_string());
        }
    }

    /// Warns of fields that are shown as they are and are no texts.
    fn remark_on_kinds(&mut self, plan: &MountPlan, id: SourceId, values: &SecretBytes) {
        let shows_all = plan.field_dirs.iter().any(|dir| dir.source == id);
        let is_shown = |name: &str| {
            let mut files = plan.files.iter().filter(|file| file.spec.sources == Sources::one(id));
            shows_all
                || files.any(|file| match &file.format {
                    Format::Raw { field } => field == name,
                    _ => false,
                })
        };
        for (name, kind) in render::other_than_texts(values).unwrap_or_default() {
            if !is_shown(&name) {
                continue;
            }
            let kind = match kind {
                NoText::Number => "a number, which KV may have rounded",
                NoText::Truth => "true or false",
                NoText::Null => "null",
                NoText::Structure => "a list or an object",
            };
            let advice = "the file shows its JSON: write it as a text";
            self.check.warnings.push(format!("the field {name:?} is no text but {kind}; {advice}"));
        }
    }

    /// Lists a prefix and asks whether what lies there may be read.
    async fn list(&mut self, vault: &impl Vault, token: &Token, spec: &TreeSpec) {
        let names = match vault.list(token, &spec.prefix).await {
            Ok(names) => names,
            Err(failure) => return self.check.fail(failure),
        };
        self.check.readable = Readable::Yes;
        if names.is_empty() {
            self.check
                .warnings
                .push("nothing is there yet, or the path is not the one that is meant".to_owned());
            return;
        }
        let secrets = names.iter().filter(|name| !name.ends_with('/'));
        let call = |name: &String| entry_call(self.mount.as_ref(), spec, name);
        let calls: Vec<ApiCall> = secrets.filter_map(call).take(SAMPLE).collect();
        let asked: Vec<String> = calls.iter().map(|call| call.path.clone()).collect();
        let Ok(capabilities) = vault.capabilities(token, &asked).await else { return };
        let denied = calls.iter().filter(|call| allows(&capabilities, call) == Some(false)).count();
        if denied == 0 {
            return;
        }
        let lines = self.check.needs.join(" and ");
        let trouble = format!("{denied} of the first {} secrets may not be read: add {lines}", calls.len());
        self.check.flaw(trouble);
    }
}

impl PathCheck {
    fn fail(&mut self, failure: Failure) {
        self.outage |= is_outage(failure.fault);
        self.unreadable(failure.reason);
    }
}

/// The policy lines that show a whole tree: to list it, and to read what is listed.
fn tree_needs(mount: Option<&EngineMount>, spec: &TreeSpec) -> Vec<String> {
    let ApiCall { path, capability } = list_call(mount, &spec.prefix);
    let list = ApiCall { path: format!("{path}*"), capability };
    [Some(list), entry_call(mount, spec, "*")].iter().flatten().map(policy_line).collect()
}

/// What a path needs, for [`Rights`].
fn rights_of(one: &Located<'_>, rights: &mut Rights) {
    let Some(call) = &one.call else { return };
    rights.need(call.clone());
    if let Subject::Tree { spec, .. } = one.subject {
        rights.need_below(call.clone());
        if let Some(entry) = entry_call(one.mount.as_ref(), spec, "*") {
            let path = entry.path.trim_end_matches('*').to_owned();
            rights.need_below(ApiCall { path, ..entry });
        }
    }
}

/// What it takes to read an entry of a tree's first directory.
fn entry_call(mount: Option<&EngineMount>, spec: &TreeSpec, name: &str) -> Option<ApiCall> {
    let prefix = mount.map_or_else(|| spec.prefix.clone(), |mount| mount.canonical(&spec.prefix));
    let path = prefix.join(name).ok()?;
    let request = ReadRequest { path, params: None, version: None, engine: spec.engine };
    read_call(mount, &request).ok()
}

/// The engine as a table names it.
fn engine_name(mount: &EngineMount) -> String {
    match mount.kv_version {
        Some(version) => format!("{} v{version}", mount.kind),
        None => mount.kind.clone(),
    }
}

/// What is wrong if the configuration says one thing of an engine and Vault another.
fn contradiction(mount: &EngineMount, hint: EngineHint, subject: Subject<'_>) -> Option<String> {
    let found = engine_name(mount);
    let right = match hint {
        EngineHint::Auto => match subject {
            Subject::Source { .. } => true,
            Subject::Tree { .. } if mount.is_kv() => true,
            Subject::Tree { .. } => {
                return Some(format!(
                    "{}/ is of type {found}: a tree needs KV; write a file or a dir",
                    mount.path
                ));
            }
        },
        EngineHint::Kv1 => mount.is_kv() && !mount.is_kv2(),
        EngineHint::Kv2 => mount.is_kv2(),
        EngineHint::Other => !mount.is_kv(),
    };
    (!right).then(|| format!("{}/ is of type {found}: correct `engine`, or leave it out", mount.path))
}

/// The fields that a secret does have, if one is missing.
fn fields_for(error: &RenderError, values: &SecretBytes) -> String {
    let RenderError::NoSuchField { .. } = error else { return String::new() };
    let Ok(fields) = render::fields(values) else { return String::new() };
    let mut names: Vec<String> = fields.iter().map(|(name, _)| format!("{name:?}")).collect();
    if names.is_empty() {
        return String::new();
    }
    if names.len() > FIELDS {
        names.truncate(FIELDS);
        names.push("…".to_owned());
    }
    format!(": it has {}", names.join(", "))
}
