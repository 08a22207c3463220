//! The names that a configuration puts into the tree, and how two of them can be at odds.

use std::collections::BTreeMap;

use crate::config::report::{Place, Report};
use crate::core::name::FileName;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file.
    File,
    /// A directory whose entries are the fields of a secret.
    Fields,
    /// A directory whose entries are a part of Vault.
    Tree,
}

/// All names declared.
#[derive(Default)]
pub(super) struct Names {
    declared: BTreeMap<FileName, (Kind, Place)>,
}

impl Names {
    /// Declares a name; complains if it was declared before.
    pub fn add(&mut self, name: FileName, kind: Kind, place: &Place, report: &Report) {
        if let Some((_, first)) = self.declared.get(&name) {
            let pointer = first.pointer(place);
            report.complain(
                place,
                format!("the name {:?} is declared by {pointer}, too: choose another one", name.as_str()),
            );
            return;
        }
        self.declared.insert(name, (kind, place.clone()));
    }

    /// Complains about each name that lies below another one that can't have it there.
    pub fn finish(self, report: &Report) {
        for (name, (_, place)) in &self.declared {
            for (slash, _) in name.as_str().match_indices('/') {
                let above = FileName::new(&name.as_str()[..slash]).ok();
                let Some((kind, above)) = above.and_then(|above| self.declared.get(&above)) else { continue };
                // Whatever was written later is the more likely mistake.
                let first = place.file == above.file && place.line < above.line;
                let (here, there) = if first { (above, place) } else { (place, above) };
                let there = there.pointer(here);
                let message = match kind {
                    Kind::File => {
                        format!("is at odds with {there}: a name is a file or a directory, so rename one")
                    }
                    Kind::Fields => format!(
                        "is at odds with {there}: a [dir] without `names` shows the secret's fields and \
                         nothing else, so rename one or move it out"
                    ),
                    Kind::Tree => format!(
                        "is at odds with {there}: a [tree] shows what Vault has and nothing else, \
                         so rename one or move it out"
                    ),
                };
                report.complain(here, message);
            }
        }
    }
}
