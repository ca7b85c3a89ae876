//! The `diskimage` command: what virtual-disk images are, what is in them, whether they are whole and
//! may pass, their conversion, their checksums and their differences.

mod args;
mod check;
mod checklist;
mod checksum;
mod compare;
mod contents;
mod convert;
mod info;
mod inspect;
mod manifest;
mod map;
mod output;
mod policy;
mod probe;
mod report;
mod size;
mod watch;

use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // help and version go to standard output and are no failure
            let code = if error.use_stderr() { report::USAGE } else { report::OK };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let code = match args.command {
        Command::Probe(args) => probe::run(&args),
        Command::Info(args) => info::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Map(args) => map::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Checksum(args) => checksum::run(&args),
        Command::Compare(args) => compare::run(&args),
    };
    ExitCode::from(code)
}
