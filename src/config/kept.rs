//! A configuration as it was accepted, to be read again whatever has become of its files since.
//!
//! Holds the texts of all files, and what they took from the environment and from the accounts of the host. No
//! secret: those have no place in a configuration, and of a variable that holds a credential only its name is kept.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::complaint::Complaints;
use crate::config::environment::{Answers, Environment};
use crate::config::load;
use crate::config::plan::MountPlan;
use crate::config::texts::Texts;

/// What a configuration was read from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    path: PathBuf,
    owner: (u32, u32),
    home: Option<PathBuf>,
    answers: Answers,
    texts: Texts,
}

impl Kept {
    /// What it means: the same as when it was kept.
    ///
    /// # Errors
    /// [`Complaints`]: this leasefs reads it in another way than the one that has kept it.
    pub fn plan(&self) -> Result<MountPlan, Complaints> {
        let Kept { path, owner, home, answers, texts } = self.clone();
        load(&path, &Environment::noted_before(owner, home, answers, texts))
    }
}

/// As [`load`], with what is needed to read it again. `environment` must not have been used before.
///
/// # Errors
/// As [`load`].
pub fn load_to_keep(path: &Path, environment: &Environment) -> Result<(MountPlan, Kept), Complaints> {
    let plan = load(path, environment)?;
    let (answers, texts) = environment.notes();
    let (owner, home) = ((environment.uid, environment.gid), environment.home.clone());
    Ok((plan, Kept { path: path.to_owned(), owner, home, answers, texts }))
}
