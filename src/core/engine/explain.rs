//! Everything about one name, for an operator: where it comes from, who may read it, how it is kept, what
//! happens next. Nothing is fetched for it.

use crate::core::access::Rule;
use crate::core::effect::ReadRequest;
use crate::core::engine::Engine;
use crate::core::engine::composing::View;
use crate::core::engine::control::{FileStatus, State};
use crate::core::error::Fault;
use crate::core::generation::{Body, Generation, Next, Piece, Validity};
use crate::core::locks::Scope;
use crate::core::name::{IdentityId, Ino, SourceId};
use crate::core::policy::{Renew, SourcePolicy};
use crate::core::source::{Fetch, Source};
use crate::core::time::{BootTime, UnixTime};
use crate::core::tree::{Node, OnExpiry};

/// What happens to a source next, by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upcoming {
    /// Nothing: what is there ends when its time is over.
    Nothing,
    /// Its read is on its way.
    Fetching,
    /// Its read waits for a token.
    WaitsForToken,
    /// It is read then.
    Fetch(BootTime),
    /// Vault is asked then whether it has changed.
    Revalidate(BootTime),
    /// Its lease is renewed then.
    Renew(BootTime),
    /// The renewal of its lease is on its way.
    Renewing,
    /// A new one is fetched then, before this one ends.
    Replace(BootTime),
}

impl Upcoming {
    /// Whether it lets what is there live on, or brings a successor.
    pub fn keeps(self) -> bool {
        self != Upcoming::Nothing
    }
}

/// What keeps a generation valid, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// KV, or something else that costs nothing to read again.
    Kv,
    /// Vault replaces it in place (a static role).
    Static,
    /// A lease.
    Lease,
    /// An end of its own, that nothing can move.
    OwnEnd,
}

impl Kind {
    /// Of a generation.
    pub(super) fn of<B>(generation: &Generation<B>) -> Kind {
        match generation.validity {
            Validity::Kv { .. } => Kind::Kv,
            Validity::Static { .. } => Kind::Static,
            Validity::Leased(_) => Kind::Lease,
            Validity::Fixed { .. } => Kind::OwnEnd,
        }
    }
}

/// One result that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Of which source.
    pub source: SourceId,
    /// Whether opens get it.
    pub current: bool,
    /// When it was issued.
    pub issued: UnixTime,
    /// When it ends, if nothing extends it.
    pub expires: Option<BootTime>,
    /// How many handles are open on it, of all files that show it.
    pub handles: usize,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A file, and how it stands.
    File(Box<FileStatus>),
    /// A directory that holds what Vault has.
    Directory {
        /// Whether it is listed in Vault.
        listed: bool,
        /// Whether it shows the fields of a secret.
        fields: bool,
    },
    /// A directory of declared names: these.
    Names(Vec<String>),
}

/// Where something comes from and how it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Who reads it.
    pub identity: IdentityId,
    /// What is read.
    pub request: ReadRequest,
    /// How long it is kept.
    pub policy: SourcePolicy,
    /// What becomes of it at its end.
    pub on_expiry: OnExpiry,
    /// The field that is shown, if the name says so.
    pub field: Option<String>,
    /// What else is read, where several secrets make the file; they are kept as their own files say.
    pub more: Vec<ReadRequest>,
}

/// Everything about one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Details {
    /// The name.
    pub name: String,
    /// What it stands for.
    pub subject: Subject,
    /// Where it comes from; `None`: it only holds names.
    pub origin: Option<Origin>,
    /// Who may read it.
    pub rule: Rule,
    /// What is held, the current one first.
    pub held: Vec<Held>,
    /// What happens next.
    pub next: Upcoming,
    /// The names that share what is held.
    pub shared_with: Vec<String>,
    /// What kind of error the last one was.
    pub fault: Option<Fault>,
    /// Its words.
    pub error: Option<String>,
    /// The name whose lock covers it.
    pub locked_by: Option<Scope>,
}

impl<B: Body> Engine<B> {
    /// Everything about a name; `None` if the mount does not show it. A file of a tree may be named that
    /// nobody has looked up.
    pub fn explain(&mut self, now: BootTime, name: &str) -> Option<Details> {
        let scope = Scope::new(name).ok()?;
        let path = scope.as_str();
        let mut details = match self.tree.find(path) {
            Some(ino) => self.explain_known(now, ino)?,
            None => self.explain_unseen(now, path)?,
        };
        if let Some((by, lock)) = self.locks.covering(path) {
            details.locked_by = Some(by.clone());
            details.error = Some(lock.reason.clone());
            details.fault = None;
        }
        Some(details)
    }

    fn explain_known(&self, now: BootTime, ino: Ino) -> Option<Details> {
        let name = self.tree.path(ino);
        let blank = |subject, rule| Details {
            name: name.clone(),
            subject,
            origin: None,
            rule,
            held: Vec::new(),
            next: Upcoming::Nothing,
            shared_with: Vec::new(),
            fault: None,
            error: None,
            locked_by: None,
        };
        match &self.tree.slot(ino)?.node {
            Node::Directory => {
                let names = self.tree.declared_children(ino).map(|(name, _)| name.to_owned()).collect();
                Some(blank(Subject::Names(names), self.directory))
            }
            Node::File(_) | Node::Field(_) => {
                let View { sources, piece, rule } = self.file_of(ino)?;
                let status = self.file_status(now, ino)?;
                let on_expiry = if self.vanishes(ino) { OnExpiry::Vanish } else { OnExpiry::Refetch };
                let error = status.error.clone();
                let details = blank(Subject::File(Box::new(status)), rule);
                let mut details = self.with_source(now, sources.first(), on_expiry, details);
                for id in sources.iter().skip(1) {
                    self.add_source(id, &mut details);
                }
                details.shared_with.retain(|other| *other != name);
                details.error = error;
                if let (Piece::Field(field), Some(origin)) = (piece, &mut details.origin) {
                    origin.field = Some(field);
                }
                Some(details)
            }
            Node::FieldDirectory(index) => {
                let spec = &self.field_dirs[*index];
                let subject = Subject::Directory { listed: false, fields: true };
                let details = blank(subject, Rule { mode: self.directory.mode, ..spec.rule });
                let mut details = self.with_source(now, spec.source, spec.on_expiry, details);
                details.shared_with.retain(|other| *other != name);
                Some(details)
            }
            Node::TreeDirectory(directory) => {
                let spec = &self.trees[directory.tree.0 as usize];
                let subject = Subject::Directory { listed: directory.folder, fields: directory.secret };
                let details = blank(subject, Rule { mode: self.directory.mode, ..spec.rule });
                let mut details = match self.known_secret_of(directory).filter(|_| directory.secret) {
                    Some(id) => self.with_source(now, id, spec.on_expiry, details),
                    None => details,
                };
                details.origin.get_or_insert_with(|| Origin {
                    identity: spec.identity,
                    request: ReadRequest {
                        path: directory.path.clone(),
                        params: None,
                        version: None,
                        engine: spec.engine,
                    },
                    policy: spec.policy,
                    on_expiry: spec.on_expiry,
                    field: None,
                    more: Vec::new(),
                });
                if let Some(failure) = self.list_failure(ino) {
                    (details.fault, details.error) = (Some(failure.fault), Some(failure.reason.clone()));
                }
                Some(details)
            }
        }
    }

    /// A file of a tree, or of a directory of fields, that the kernel does not know.
    fn explain_unseen(&mut self, now: BootTime, path: &str) -> Option<Details> {
        let (id, field) = self.unseen_field(path)?;
        let (directory, _) = path.rsplit_once('/')?;
        let dir = self.field_dirs.iter().find(|dir| dir.name.as_str() == directory);
        let tree = || self.trees.iter().find(|tree| Scope::Name(tree.name.clone()).covers(path));
        let (rule, on_expiry) = dir
            .map(|dir| (dir.rule, dir.on_expiry))
            .or_else(|| tree().map(|tree| (tree.rule, tree.on_expiry)))?;
        let source = self.sources.get(&id)?;
        let status = FileStatus {
            name: path.to_owned(),
            state: if self.locks.covering(path).is_some() { State::Locked } else { State::Idle },
            path: source.spec.request.path.as_str().to_owned(),
            identity: source.spec.identity,
            size: None,
            version: None,
            issued: None,
            expires: None,
            lease: None,
            readers: 0,
            error: None,
            vanished: false,
            required: source.spec.policy.renew == Renew::Required,
            kind: None,
            duration: None,
            next: Upcoming::Nothing,
        };
        let blank = Details {
            name: path.to_owned(),
            subject: Subject::File(Box::new(status)),
            origin: None,
            rule,
            held: Vec::new(),
            next: Upcoming::Nothing,
            shared_with: Vec::new(),
            fault: None,
            error: None,
            locked_by: None,
        };
        let mut details = self.with_source(now, id, on_expiry, blank);
        if let Some(origin) = &mut details.origin {
            origin.field = Some(field);
        }
        self.drop_if_idle(id);
        Some(details)
    }

    fn with_source(&self, now: BootTime, id: SourceId, on_expiry: OnExpiry, blank: Details) -> Details {
        let Some(source) = self.sources.get(&id) else { return blank };
        let held = self.held(id, source);
        let failure = source.failure.as_ref().or(source.renewal_failure.as_ref());
        Details {
            origin: Some(Origin {
                identity: source.spec.identity,
                request: source.spec.request.clone(),
                policy: source.spec.policy,
                on_expiry,
                field: None,
                more: Vec::new(),
            }),
            held: held.collect(),
            next: self.upcoming(now, id),
            shared_with: self.names_of(id),
            fault: failure.map(|failure| failure.fault),
            error: failure.map(|failure| failure.reason.clone()),
            ..blank
        }
    }

    /// Adds another secret of a file that shows several.
    fn add_source(&self, id: SourceId, details: &mut Details) {
        let Some(source) = self.sources.get(&id) else { return };
        if let Some(origin) = &mut details.origin {
            origin.more.push(source.spec.request.clone());
        }
        details.held.extend(self.held(id, source));
        details.shared_with.extend(self.names_of(id));
        details.shared_with.sort();
        details.shared_with.dedup();
        let failure = source.failure.as_ref().or(source.renewal_failure.as_ref());
        details.fault = details.fault.or(failure.map(|failure| failure.fault));
    }

    fn held(&self, id: SourceId, source: &Source<B>) -> impl Iterator<Item = Held> {
        let ranked = [(&source.current, true), (&source.previous, false)].into_iter();
        ranked.filter_map(|(one, current)| Some((one.as_ref()?, current))).map(move |(one, current)| Held {
            source: id,
            current,
            issued: one.issued,
            expires: Some(self.end_of(one)).filter(|end| *end != BootTime::NEVER),
            handles: one.handles.len(),
        })
    }

    /// What happens to a source next, by itself.
    pub(super) fn upcoming(&self, now: BootTime, id: SourceId) -> Upcoming {
        let Some(source) = self.sources.get(&id) else { return Upcoming::Nothing };
        match source.fetch {
            Fetch::InFlight { .. } => return Upcoming::Fetching,
            Fetch::Queued { not_before: BootTime::NEVER, .. } => return Upcoming::WaitsForToken,
            Fetch::Queued { not_before, .. } => return Upcoming::Fetch(not_before),
            Fetch::Idle => {}
        }
        let lease = source.current.as_ref().and_then(Generation::lease);
        if lease.is_some_and(|lease| matches!(lease.next, Next::Renewing { .. })) {
            return Upcoming::Renewing;
        }
        let Some(at) = self.upkeep_time(now, id) else { return Upcoming::Nothing };
        if at == BootTime::NEVER {
            return Upcoming::Nothing;
        }
        match (&source.current, lease.map(|lease| lease.next)) {
            (None, _) => Upcoming::Fetch(at),
            (Some(_), Some(Next::Renew { .. })) => Upcoming::Renew(at),
            (Some(current), None) if current.is_free() => Upcoming::Revalidate(at),
            (Some(_), _) => Upcoming::Replace(at),
        }
    }
}
