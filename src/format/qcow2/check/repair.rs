//! Repair.

use crate::check::{Checking, Patch, RepairScope, Repaired};
use crate::error::Result;

use super::super::Qcow2Layer;

pub(in super::super) fn repair(
    _layer: &Qcow2Layer,
    _scope: RepairScope,
    _checking: &Checking,
    _patch: &mut dyn Patch,
) -> Result<Repaired> {
    Ok(Repaired::default())
}
