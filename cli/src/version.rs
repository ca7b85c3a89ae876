//! `diskimage --version`: the version, and what this build has.

use std::sync::OnceLock;

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
