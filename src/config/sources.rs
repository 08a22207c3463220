//! Which Vault reads a mount needs: files that name the same secret share one read, so they must agree on
//! how it is kept.

use std::collections::BTreeMap;

use crate::config::file::Slot;
use crate::config::keys::{ENGINE, Keys, ON_IDLE, RENEW};
use crate::config::report::{Place, Report};
use crate::config::value::spelled;
use crate::core::effect::{EngineHint, ReadRequest};
use crate::core::name::{IdentityId, SourceId};
use crate::core::policy::Renew;
use crate::core::source::SourceSpec;
use crate::core::tree::TreeSpec;

/// The sources found so far.
#[derive(Default)]
pub(super) struct Sources {
    specs: Vec<SourceSpec>,
    /// What declared each of them first.
    firsts: Vec<First>,
    /// By identity and request, leaving aside the engine: two opinions on it would make two reads of one
    /// secret.
    known: BTreeMap<(IdentityId, ReadRequest), SourceId>,
}

struct First {
    place: Place,
    keys: Keys,
}

impl Sources {
    /// The source for one read; complains if it is known already and is to be kept differently.
    pub fn add(
        &mut self,
        identity: IdentityId,
        request: ReadRequest,
        keys: &Keys,
        place: &Place,
        report: &Report,
    ) -> SourceId {
        let read = (identity, ReadRequest { engine: EngineHint::Auto, ..request.clone() });
        if let Some(known) = self.known.get(&read) {
            if let Some(first) = self.firsts.get(known.0 as usize) {
                agree(first, keys, place, report);
            }
            if let Some(spec) = self.specs.get_mut(known.0 as usize).filter(|_| keys.is_required()) {
                // What one file requires is there for all of them.
                spec.policy.renew = Renew::Required;
            }
            return *known;
        }
        let id = SourceId(u32::try_from(self.specs.len()).unwrap_or(u32::MAX));
        self.specs.push(SourceSpec { identity, request, policy: keys.policy(), fields: false });
        self.firsts.push(First { place: place.clone(), keys: keys.clone() });
        self.known.insert(read, id);
        id
    }

    /// Remembers that a directory shows the fields of a source.
    pub fn show_fields(&mut self, id: SourceId) {
        if let Some(spec) = self.specs.get_mut(id.0 as usize) {
            spec.fields = true;
        }
    }

    /// All sources; those that a tree shows, too, have their fields shown.
    pub fn finish(mut self, trees: &[TreeSpec]) -> Vec<SourceSpec> {
        for spec in &mut self.specs {
            spec.fields |= trees.iter().any(|tree| shows(tree, spec));
        }
        self.specs
    }
}

fn shows(tree: &TreeSpec, source: &SourceSpec) -> bool {
    let request = &source.request;
    let rest = request.path.as_str().strip_prefix(tree.prefix.as_str());
    source.identity == tree.identity
        && request.engine == tree.engine
        && request.params.is_none()
        && request.version.is_none()
        && rest.is_some_and(|rest| rest.starts_with('/'))
}

/// Complains about every key that two files of one source see differently.
fn agree(first: &First, keys: &Keys, place: &Place, report: &Report) {
    let word = |words: &[(&'static str, _)], value| {
        words.iter().find(|(_, known)| *known == value).map_or("unset", |(word, _)| *word).to_owned()
    };
    // What is required is kept, whatever the other file says of it, unless that lets it end.
    let required = first.keys.is_required() || keys.is_required();
    let renew = |keys: &Keys| match keys.renew.unwrap_or(Renew::InUse) {
        Renew::InUse | Renew::Always | Renew::Required if required => word(&RENEW, Renew::Always),
        renew => word(&RENEW, renew),
    };
    let engine = |keys: &Keys| {
        ENGINE.iter().find(|(_, known)| *known == keys.engine()).map_or("unset", |(word, _)| *word).to_owned()
    };
    let idle = |keys: &Keys| keys.policy().idle_timeout.map_or("unset".to_owned(), spelled);
    let on_idle = |keys: &Keys| {
        let value = keys.policy().on_idle;
        ON_IDLE.iter().find(|(_, known)| *known == value).map_or("unset", |(word, _)| *word).to_owned()
    };
    let (a, b) = (&first.keys, keys);
    let views = [
        ("max-age", at(&a.max_age), at(&b.max_age), spelled(a.policy().max_age), spelled(b.policy().max_age)),
        ("grace", at(&a.grace), at(&b.grace), spelled(a.policy().grace), spelled(b.policy().grace)),
        ("renew", at(&a.renew), at(&b.renew), renew(a), renew(b)),
        ("idle-timeout", at(&a.idle_timeout), at(&b.idle_timeout), idle(a), idle(b)),
        ("pin", at(&a.pin), at(&b.pin), spelled(a.policy().pin), spelled(b.policy().pin)),
        ("on-idle", at(&a.on_idle), at(&b.on_idle), on_idle(a), on_idle(b)),
        ("engine", at(&a.engine), at(&b.engine), engine(a), engine(b)),
    ];
    for (key, theirs, ours, their_value, our_value) in views {
        let (Seen::Well(_), Seen::Well(ours)) = (theirs, ours) else { continue };
        if their_value == our_value {
            continue;
        }
        report.complain(
            &place.of_key(key, ours),
            format!(
                "is {our_value} here and {their_value} for {}, which shows the same secret and so \
                 shares its lease: write the same `{key}` in both",
                first.place.pointer()
            ),
        );
    }
}

/// How a key was seen.
enum Seen<'a> {
    /// As it is meant, and where it was written, if it was.
    Well(Option<&'a Place>),
    /// It was complained about already.
    Badly,
}

fn at<T>(slot: &Slot<T>) -> Seen<'_> {
    match slot {
        Slot::Absent => Seen::Well(None),
        Slot::Bad => Seen::Badly,
        Slot::Is(word) => Seen::Well(Some(&word.place)),
    }
}
