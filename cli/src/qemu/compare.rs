//! `qemu-img compare`.

use super::getopt::Given;
use super::{CacheMode, Failure, Session, source};
use crate::args::{Command, CompareArgs, Output, WorkArgs};
use crate::deferred::Deferred;
use crate::report;

/// An image cannot be opened, or the options make no sense.
const OPEN: u8 = 2;

pub(super) fn run(session: &Session, given: &Given) -> Result<u8, Failure> {
    let [first, second] = &*given.operands else {
        return Err(Failure::usage("compare", "Expecting two image file names"));
    };
    let fail = |failure: Failure| failure.with_code(OPEN);
    CacheMode::given(given, "cache", "source cache").map_err(fail)?;
    let first = source::existing(given, first, "a-format", "image-opts").map_err(fail)?;
    let second = source::existing(given, second, "b-format", "image-opts").map_err(fail)?;
    let unknown = [first.unknown(), second.unknown()].into_iter().flatten();
    let args = CompareArgs {
        open: source::open_args(given, first.format)?,
        first: first.path,
        second: Some(second.path),
        second_format: second.format,
        strict: given.has("strict"),
        quiet: given.has("quiet"),
        all: false,
        manifest: None,
        work: WorkArgs { progress: given.has("progress"), threads: None },
        output: Output::Human,
    };
    let mut command = Command::Compare(Deferred(args));
    session.begin(&mut command, unknown).map_err(fail)?;
    let Command::Compare(Deferred(args)) = command else { return Ok(report::USAGE) };
    Ok(crate::compare::run(&args, &session.bounds))
}
