//! Links the C compiler's unwinder into the command, where that can be had: to load it as a library of its
//! own takes a tenth of a short call.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    let is_gnu = is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu");
    if !is_gnu || env::var_os("HOST") != env::var_os("TARGET") {
        return;
    }
    let linker = env::var_os("RUSTC_LINKER").unwrap_or_else(|| OsString::from("cc"));
    let asked = Command::new(&linker).arg("-print-file-name=libgcc_eh.a").output();
    let Ok(found) = asked else { return };
    // of what is not there the name comes back as it is
    let path = String::from_utf8_lossy(&found.stdout);
    if found.status.success() && Path::new(path.trim()).is_absolute() {
        println!("cargo::rustc-link-lib=static=gcc_eh");
    }
}
