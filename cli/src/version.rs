//! `diskimage --version`: the version, and what this build has.

use std::ffi::OsString;
use std::io::{self, Write};
use std::sync::OnceLock;

use crate::report;

/// Prints what is asked for, if nothing else is: a program that looks whether the command is there waits
/// for it.
pub(crate) fn asked(given: &[OsString]) -> Option<u8> {
    let [_, asked] = given else { return None };
    let version = match asked.to_str()? {
        "-V" => env!("CARGO_PKG_VERSION"),
        "--version" => long(),
        _ => return None,
    };
    Some(report::printed(writeln!(io::stdout(), "diskimage {version}")))
}

/// All of it.
pub(crate) fn long() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        let has = |wanted: bool| {
            let names = diskimage::FEATURES.iter().filter(|(_, on)| *on == wanted);
            let names: Vec<_> = names.map(|(name, _)| *name).collect();
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        };
        let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
        let sandbox = if cfg!(target_os = "linux") { "Landlock, seccomp" } else { "none" };
        format!(
            "{}\nfeatures: {}\nleft out: {}\nsystem: {os} {arch}\nsandbox: {sandbox}",
            env!("CARGO_PKG_VERSION"),
            has(true),
            has(false)
        )
    })
}
