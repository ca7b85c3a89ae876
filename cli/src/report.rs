//! Exit codes, and errors as people read them.

use std::io::{self, Write};
use std::path::Path;
use std::sync::OnceLock;

use diskimage::{Error, ErrorKind};

/// All is well.
pub(crate) const OK: u8 = 0;
/// An error.
pub(crate) const ERROR: u8 = 1;
/// The command line makes no sense.
pub(crate) const USAGE: u8 = 2;
/// Something could not be read, and was replaced by zeros as asked for.
pub(crate) const LOST: u8 = 3;

/// `inspect`: the image is refused.
pub(crate) const REFUSED: u8 = 3;

/// The time that was allowed is over: what timeout(1) ends with.
pub(crate) const TIMED_OUT: u8 = 124;

/// `check`: the image is corrupt.
pub(crate) const CORRUPT: u8 = 2;
/// `check`: there are leaked clusters, and nothing else.
pub(crate) const LEAKS: u8 = 3;
/// `check`: the format has nothing to check.
pub(crate) const NOT_CHECKED: u8 = 63;

/// The name that messages begin with, where it is another one.
static NAME: OnceLock<&'static str> = OnceLock::new();

/// Begins messages with this name from now on.
pub(crate) fn speak_as(name: &'static str) {
    // it is said once
    let _ = NAME.set(name);
}

/// Prints `diskimage: FILE: what is wrong (at offset 0x…): what to do`.
pub(crate) fn error(error: &Error, file: &Path) {
    let name = printable(error.file().unwrap_or(file));
    let advice = error.advice().map(|advice| format!(": {advice}")).unwrap_or_default();
    // who calls qemu-img may not be able to change its arguments
    let is_called = NAME.get().is_some() && error.kind() == ErrorKind::Denied;
    let more =
        if is_called { ", or with DISKIMAGE_ALLOW_EXTERNAL=DIR in the environment" } else { "" };
    message(&format!("{name}: {error}{advice}{more}"));
}

/// Prints a line to standard error. Names are escaped where they come from; this is the net below.
pub(crate) fn message(text: &str) {
    line(&format!("{}: {text}", NAME.get().unwrap_or(&"diskimage")));
}

/// Prints a line to standard error that says itself whose it is.
pub(crate) fn line(text: &str) {
    // there is nobody left to tell if this fails
    let _ = writeln!(io::stderr(), "{}", diskimage::text::printable_str(text));
}

/// Prints what is wrong with the command line, or the help. An argument that a terminal would obey
/// is shown escaped, and then without colours.
pub(crate) fn usage(error: &clap::Error) {
    let plain = error.render().to_string();
    let safe: Vec<_> = plain.split('\n').map(diskimage::text::printable_str).collect();
    let safe = safe.join("\n");
    // there is nobody left to tell if this fails
    let _ = if safe == plain { error.print() } else { write!(io::stderr(), "{safe}") };
}

/// The exit code for an error.
pub(crate) fn code(error: &Error, signal: Option<u8>) -> u8 {
    stop_code(error, signal).unwrap_or(ERROR)
}

/// The exit code of what was stopped, by a signal or since its time was over.
pub(crate) fn stop_code(error: &Error, signal: Option<u8>) -> Option<u8> {
    match (error.kind(), signal) {
        (ErrorKind::Cancelled, Some(signal)) => Some(128 + signal),
        (ErrorKind::Cancelled, None) => Some(ERROR),
        (ErrorKind::TimedOut, _) => Some(TIMED_OUT),
        _ => None,
    }
}

/// Reports an error and gives its exit code.
pub(crate) fn fail(failure: &Error, file: &Path) -> u8 {
    error(failure, file);
    code(failure, None)
}

/// The outcome of printing an answer: a reader that went away is no failure.
pub(crate) fn printed(result: io::Result<()>) -> u8 {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => OK,
        Err(error) => {
            message(&format!("cannot write the answer: {error}"));
            ERROR
        }
        Ok(()) => OK,
    }
}

/// A file's name, safe to print.
pub(crate) fn printable(path: &Path) -> String {
    diskimage::text::printable(path.as_os_str().as_encoded_bytes())
}
