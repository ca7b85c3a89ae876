//! The sandbox of Linux: Landlock for files and the network, seccomp for all other calls.

use landlock::{
    ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetStatus, Scope, make_bitflags,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit};

use super::{Needs, files};

/// The version of Landlock whose rights are given up, as far as the kernel knows them: files since
/// the first, TCP since the fourth, signals and abstract sockets since the sixth (Linux 6.12).
const LANDLOCK: ABI = ABI::V6;

/// Gives up all but `needs`; tells what could not be.
pub(super) fn enter(needs: &Needs) -> Vec<String> {
    let mut missing = Vec::new();
    // no memory of a stranger's file ends in a core dump, and nobody attaches
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(Resource::Core, none);
    match restrict_files(needs) {
        Ok(RulesetStatus::FullyEnforced) => {}
        Ok(RulesetStatus::PartiallyEnforced) => {
            missing.push("this kernel knows a part of Landlock only (all of it since 6.12)".into());
        }
        Ok(RulesetStatus::NotEnforced) => missing.push("this kernel has no Landlock".into()),
        Err(error) => missing.push(format!("Landlock: {error}")),
    }
    if let Err(why) = calls::restrict(needs) {
        missing.push(format!("seccomp: {why}"));
    }
    missing
}

/// Landlock: opens only what is needed, connects to nothing, signals nobody. It sets
/// `PR_SET_NO_NEW_PRIVS` too.
fn restrict_files(needs: &Needs) -> Result<RulesetStatus, landlock::RulesetError> {
    let read = make_bitflags!(AccessFs::{ReadFile});
    let write = make_bitflags!(AccessFs::{ReadFile | WriteFile | Truncate | IoctlDev});
    // a new file starts without a name, gets one by a link or takes the place of an old one, and
    // its folder is brought to the medium
    let create = make_bitflags!(AccessFs::{
        ReadFile | WriteFile | Truncate | MakeReg | RemoveFile | ReadDir
    });
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?;
    let mut rules = files::Rules(ruleset);
    for file in &needs.files {
        rules.file(file, read)?;
    }
    for file in &needs.written {
        rules.file(file, write)?;
    }
    for folder in &needs.folders {
        rules.folder(folder, read)?;
    }
    for folder in &needs.created_in {
        rules.folder(folder, create)?;
    }
    rules.restrict()
}

#[cfg(not(any(
    target_arch = "x86_64",
    all(target_arch = "aarch64", target_endian = "little"),
    target_arch = "riscv64"
)))]
mod calls {
    pub(super) fn restrict(_needs: &super::Needs) -> Result<(), String> {
        Err("not for this processor".into())
    }
}

#[cfg(any(
    target_arch = "x86_64",
    all(target_arch = "aarch64", target_endian = "little"),
    target_arch = "riscv64"
))]
#[path = "calls.rs"]
mod calls;
