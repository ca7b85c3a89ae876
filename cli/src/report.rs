//! Exit codes, and errors as people read them.

use std::io::{self, Write};
use std::path::Path;
use std::sync::OnceLock;

use diskimage::{Error, ErrorKind};

use crate::bar::above;
use crate::style;

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

/// Whether another program's command line was called.
pub(crate) fn is_called() -> bool {
    NAME.get().is_some()
}

/// Prints `diskimage: FILE: what is wrong (at offset 0x…): what to do`.
pub(crate) fn error(error: &Error, file: &Path) {
    let name = printable(error.file().unwrap_or(file));
    let advice = error.advice().map(|advice| format!(": {advice}")).unwrap_or_default();
    // who calls qemu-img may not be able to change its arguments
    let is_called = is_called() && error.kind() == ErrorKind::Denied;
    let more =
        if is_called { ", or with DISKIMAGE_ALLOW_EXTERNAL=DIR in the environment" } else { "" };
    let text = format!("{name}: {error}{advice}{more}");
    match NAME.get() {
        Some(_) => message(&text),
        None => start(&style::complaint("diskimage"), &text),
    }
}

/// Prints a line to standard error. Names are escaped where they come from; this is the net below.
pub(crate) fn message(text: &str) {
    start(&NAME.get().unwrap_or(&"diskimage"), text);
}

fn start(whose: &dyn std::fmt::Display, text: &str) {
    // there is nobody left to tell if this fails
    let _ = above(|| writeln!(io::stderr(), "{whose}: {}", diskimage::text::printable_str(text)));
}

/// Prints a line to standard error that says itself whose it is.
pub(crate) fn line(text: &str) {
    // there is nobody left to tell if this fails
    let _ = above(|| writeln!(io::stderr(), "{}", diskimage::text::printable_str(text)));
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

/// The worse of two exit codes of one call about several files: an error says more than what was
/// found, and what is corrupt is worse than what only takes up room.
pub(crate) fn worse(one: u8, other: u8) -> u8 {
    let rank = |code: u8| match code {
        OK => 0,
        NOT_CHECKED => 1,
        LEAKS => 2,
        CORRUPT => 3,
        ERROR => 4,
        _ => 5,
    };
    if rank(other) > rank(one) { other } else { one }
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

/// A file's name as a shell takes it.
pub(crate) fn quoted(path: &Path) -> String {
    let bytes = path.as_os_str().as_encoded_bytes();
    let text = printable(path);
    let start = if bytes.starts_with(b"-") { "./" } else { "" };
    if text.as_bytes() != bytes {
        return format!("{start}{}", quoted_bytes(bytes));
    }
    let plain = |c: char| c.is_alphanumeric() || "/._-+,:=@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return format!("{start}{text}");
    }
    format!("'{start}{}'", text.replace('\'', "'\\''"))
}

/// What cannot be shown as it is, as bash, zsh and ksh take it (POSIX.1-2024, 2.2.4).
fn quoted_bytes(bytes: &[u8]) -> String {
    let mut out = String::from("$'");
    for &byte in bytes {
        match byte {
            b'\'' | b'\\' => out.extend(['\\', char::from(byte)]),
            b' '..=b'~' => out.push(char::from(byte)),
            // octal: a digit that follows is none of its own
            _ => out.push_str(&format!("\\{byte:03o}")),
        }
    }
    out.push('\'');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_be_pasted_into_a_shell() {
        for (name, shown) in [
            ("dir/a.qcow2", "dir/a.qcow2"),
            ("-f.raw", "./-f.raw"),
            ("a b", "'a b'"),
            ("-it's", r"'./-it'\''s'"),
            ("a#b", "'a#b'"),
            ("", "''"),
            ("a\n1\u{202e}'\\", r"$'a\0121\342\200\256\'\\'"),
            ("-\u{1b}", r"./$'-\033'"),
        ] {
            assert_eq!(quoted(Path::new(name)), shown);
        }
    }
}
