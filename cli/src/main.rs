//! The `diskimage` command: what virtual-disk images are, what is in them, whether they are whole and
//! may pass, their conversion, their checksums and their differences.

mod args;
mod bounds;
mod check;
mod checklist;
mod checksum;
mod compare;
mod container;
mod contents;
mod convert;
mod create;
mod image;
mod info;
mod inspect;
mod lint;
mod manifest;
mod map;
mod measure;
mod output;
mod paced;
mod package;
mod policy;
mod probe;
mod qemu;
mod report;
mod sandbox;
mod size;
mod watch;

use std::process::ExitCode;

use args::{Args, Command};
use bounds::{BoundArgs, Bounds};
use clap::Parser;

fn main() -> ExitCode {
    if let Some(args) = qemu::arguments(std::env::args_os()) {
        return ExitCode::from(qemu::run(&args, BoundArgs::default()));
    }
    let mut args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // help and version go to standard output and are no failure
            let code = if error.use_stderr() { report::USAGE } else { report::OK };
            report::usage(&error);
            return ExitCode::from(code);
        }
    };
    if let Command::QemuImg(called) = args.command {
        return ExitCode::from(qemu::run(&called.args, args.bounds));
    }
    let asked = args.bounds.sandbox;
    let bounds = Bounds::new(args.bounds);
    if asked || args.command.is_sandboxed() {
        args.command.settle_threads();
        if args.command.may_spill() {
            bounds.prepare_spill();
        }
        sandbox::enter(&args.command.needs(), asked);
    }
    bounds.watch(args.command.main_file());
    let code = match args.command {
        Command::Probe(args) => probe::run(&args),
        Command::Info(args) => info::run(&args, &bounds),
        Command::Inspect(args) => inspect::run(&args, &bounds),
        Command::Lint(args) => lint::run(&args, &bounds),
        Command::Map(args) => map::run(&args, &bounds),
        Command::Check(args) => check::run(&args, &bounds),
        Command::Convert(args) => convert::run(&args, &bounds),
        Command::Create(args) => create::run(&args, &bounds),
        Command::Measure(args) => measure::run(&args, &bounds),
        Command::Checksum(args) => checksum::run(&args, &bounds),
        Command::Compare(args) => compare::run(&args, &bounds),
        // gone before this
        Command::QemuImg(_) => report::USAGE,
    };
    ExitCode::from(code)
}
