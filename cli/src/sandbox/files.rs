//! The rules about files.

use std::path::Path;

use landlock::{
    AccessFs, BitFlags, PathBeneath, PathFd, RulesetCreated, RulesetCreatedAttr, RulesetError,
    RulesetStatus,
};

/// Rules that are being put together. What does not exist gets none: opening it tells so later.
pub(super) struct Rules(pub(super) RulesetCreated);

impl Rules {
    /// Allows this of one file or device; of a folder of that name, nothing.
    pub(super) fn file(
        &mut self,
        path: &Path,
        access: BitFlags<AccessFs>,
    ) -> Result<(), RulesetError> {
        if path.is_dir() { Ok(()) } else { self.folder(path, access) }
    }

    /// Allows this below a folder.
    pub(super) fn folder(
        &mut self,
        path: &Path,
        access: BitFlags<AccessFs>,
    ) -> Result<(), RulesetError> {
        let Ok(place) = PathFd::new(path) else { return Ok(()) };
        (&mut self.0).add_rule(PathBeneath::new(place, access))?;
        Ok(())
    }

    /// Nothing else from now on.
    pub(super) fn restrict(self) -> Result<RulesetStatus, RulesetError> {
        Ok(self.0.restrict_self()?.ruleset)
    }
}
