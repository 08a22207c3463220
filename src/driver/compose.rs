//! Joins the values of several secrets to the bytes of a file. Pure: it is called with the engine's lock held.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::plan::{Format, MountPlan};
use crate::core::compose::Compose;
use crate::core::error::{Failure, Fault};
use crate::core::name::FileId;
use crate::secret::SecretBytes;

/// How each file of several secrets is made.
#[derive(Clone, Debug)]
pub struct Composer {
    formats: HashMap<FileId, Format>,
}

impl Composer {
    /// For the files of a mount.
    pub fn new(plan: &MountPlan) -> Composer {
        let several = plan.files.iter().enumerate().filter(|(_, file)| file.spec.sources.are_several());
        let formats = several.map(|(index, file)| (FileId(index as u32), file.format.clone()));
        Composer { formats: formats.collect() }
    }
}

impl Compose<SecretBytes> for Composer {
    fn compose(&self, file: FileId, _parts: &[Arc<SecretBytes>]) -> Result<SecretBytes, Failure> {
        let reason = match self.formats.get(&file) {
            Some(Format::Raw { .. } | Format::Json { .. }) => {
                "this format shows one secret, and several are named"
            }
            None => "this file shows one secret",
        };
        Err(Failure::new(Fault::Unusable, reason))
    }
}
