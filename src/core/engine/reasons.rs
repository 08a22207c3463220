//! Why names can't be read, as extended attributes of the directory that they are in.
//!
//! The kernel wants to know a file's mode before it asks for an attribute of it, and a file that can't be
//! resolved has none: its own `user.leasefs.error` is out of reach just when it matters. So its directory
//! has it too, as `user.leasefs.error.NAME`. Asking for it fetches nothing.

use crate::core::access::{Caller, Rule, Verdict, may_read};
use crate::core::effect::Outcome;
use crate::core::engine::Engine;
use crate::core::engine::control::{XattrValue, error_of};
use crate::core::error::FsError;
use crate::core::generation::Body;
use crate::core::name::{Ino, NAME_MAX};
use crate::core::source::Source;
use crate::core::time::BootTime;
use crate::core::tree::Node;

/// What stands before the name.
const PREFIX: &str = "user.leasefs.error.";

/// The kernel takes no longer list of attributes, in bytes (`XATTR_LIST_MAX`, limits.h).
const LIST_MAX: usize = 65536;

impl<B: Body> Engine<B> {
    /// Why a name of this directory could not be read, for a caller who may read it.
    pub(super) fn directory_xattr(
        &self,
        now: BootTime,
        caller: &Caller,
        directory: Ino,
        attribute: &str,
    ) -> Outcome<XattrValue> {
        let failed = attribute.strip_prefix(PREFIX).and_then(|name| {
            let child = self.tree.number(directory, name);
            self.tree.slot(child).filter(|slot| slot.parent == directory && slot.name == name)?;
            self.reason_of(now, child)
        });
        let Some((rule, reason)) = failed else { return Outcome::Done(Err(FsError::NoSuchAttribute)) };
        match may_read(caller, &rule) {
            Verdict::NeedGroups => Outcome::NeedGroups,
            Verdict::Deny => Outcome::Done(Err(FsError::CallerDenied)),
            Verdict::Allow => Outcome::Done(Ok(XattrValue::Text(reason.to_owned()))),
        }
    }

    /// The attributes that this directory has, for a caller who may read the names that they are about; as
    /// many as the kernel takes.
    pub(super) fn directory_xattr_names(
        &self,
        now: BootTime,
        caller: &Caller,
        directory: Ino,
    ) -> Outcome<Vec<String>> {
        let mut names = Vec::new();
        let mut bytes = 0;
        for name in self.names_in(now, directory) {
            let child = self.tree.number(directory, &name);
            let Some((rule, _)) = self.reason_of(now, child) else { continue };
            let attribute = format!("{PREFIX}{name}");
            bytes += attribute.len() + 1;
            match may_read(caller, &rule) {
                Verdict::NeedGroups => return Outcome::NeedGroups,
                Verdict::Allow if bytes > LIST_MAX => break,
                Verdict::Allow if attribute.len() <= NAME_MAX => names.push(attribute),
                Verdict::Allow | Verdict::Deny => {}
            }
        }
        Outcome::Done(Ok(names))
    }

    /// Why a name could not be read, and who may read it.
    fn reason_of(&self, now: BootTime, ino: Ino) -> Option<(Rule, &str)> {
        let locked = self.lock_of(ino).map(|lock| lock.reason.as_str());
        let (rule, failure) = match &self.tree.slot(ino)?.node {
            Node::Directory => None,
            Node::File(_) | Node::Field(_) => {
                let view = self.file_of(ino)?;
                let sources: Vec<&Source<B>> =
                    view.sources.iter().map(|id| self.sources.get(&id)).collect::<Option<_>>()?;
                Some((view.rule, error_of(&sources, self.showing(now, &view).as_ref())))
            }
            Node::FieldDirectory(index) => {
                let spec = &self.field_dirs[*index];
                Some((spec.rule, self.sources.get(&spec.source)?.failure.as_ref()))
            }
            Node::TreeDirectory(directory) => {
                let secret = self.known_secret_of(directory).and_then(|id| self.sources.get(&id));
                let failure = self.list_failure(ino).or_else(|| secret?.failure.as_ref());
                Some((self.trees[directory.tree.0 as usize].rule, failure))
            }
        }?;
        let failed = failure.map(|failure| failure.reason.as_str());
        Some((rule, locked.or(failed)?))
    }
}
