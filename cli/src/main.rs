//! The `diskimage` command: what virtual-disk images are, what is in them, whether they are whole and
//! may pass, their conversion, their checksums and their differences.

mod args;
mod bar;
mod bounds;
mod check;
mod checklist;
mod checksum;
mod compare;
mod container;
mod contents;
mod convert;
mod create;
mod deferred;
mod examples;
mod explain;
mod image;
mod info;
mod inspect;
mod joined;
mod lint;
mod manifest;
mod manual;
mod map;
mod measure;
mod output;
mod paced;
mod package;
mod parse;
mod picture;
mod policy;
mod probe;
mod qemu;
mod report;
mod sandbox;
mod several;
mod size;
mod style;
mod suggest;
mod version;
mod watch;

use std::process::ExitCode;

use args::Command;
use bounds::{BoundArgs, Bounds};
use style::Colour;

fn main() -> ExitCode {
    let given: Vec<_> = std::env::args_os().collect();
    if let Some(args) = qemu::arguments(given.iter().cloned()) {
        return ExitCode::from(qemu::run(&args, BoundArgs::default()));
    }
    if let Some(version) = version::asked(&given) {
        return ExitCode::from(version);
    }
    let asked = Colour::asked(given.iter().skip(1));
    asked.settle();
    let mut args = match parse::parse(asked, &given) {
        Ok(args) => args,
        Err(error) => {
            // help and version go to standard output and are no failure
            let code = if error.use_stderr() { report::USAGE } else { report::OK };
            report::usage(&error);
            return ExitCode::from(code);
        }
    };
    let args::Shared { color, bounds } = args.shared;
    color.settle();
    if let Command::QemuImg(called) = args.command {
        return ExitCode::from(qemu::run(&called.args, bounds));
    }
    let asked = bounds.sandbox;
    let bounds = Bounds::new(bounds);
    log_if_asked();
    if (asked || args.command.is_sandboxed()) && args.command.reads_images() {
        sandbox::enter_for(&mut args.command, &bounds, asked);
        log::debug!("the process has given up what this command does not need");
    }
    bounds.watch(args.command.main_file());
    let code = match args.command {
        Command::Probe(args) => probe::run(&args, &bounds),
        Command::Info(args) => info::run(&args, &bounds),
        Command::Explain(args) => explain::run(&args, &bounds),
        Command::Inspect(args) => inspect::run(&args, &bounds),
        Command::Lint(args) => lint::run(&args, &bounds),
        Command::Map(args) => map::run(&args, &bounds),
        Command::Check(args) => check::run(&args, &bounds),
        Command::Convert(args) => convert::run(&args, &bounds),
        Command::Create(args) => create::run(&args, &bounds),
        Command::Measure(args) => measure::run(&args, &bounds),
        Command::Checksum(args) => checksum::run(&args, &bounds),
        Command::Compare(args) => compare::run(&args, &bounds),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
        // gone before this
        Command::QemuImg(_) => report::USAGE,
    };
    ExitCode::from(code)
}

/// Tells on standard error what RUST_LOG asks for: nothing, where it is not set.
fn log_if_asked() {
    if std::env::var_os("RUST_LOG").is_none_or(|wanted| wanted.is_empty()) {
        return;
    }
    let mut logger = env_logger::Builder::from_default_env();
    logger.format(|out, record| {
        use std::io::Write;
        let text = record.args().to_string();
        let text = diskimage::text::printable_str(&text);
        writeln!(out, "diskimage: {}: {text}", record.level().as_str().to_ascii_lowercase())
    });
    logger.init();
}
