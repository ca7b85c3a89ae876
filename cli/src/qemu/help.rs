//! The help and the version, for callers that look at them.

use std::io::Write;

use super::getopt::{Opt, Takes};
use super::{MISSING, NAME, SUBCOMMANDS, Subcommand, VERSION};
use crate::report;

/// A line as qemu-img prints it, that callers read a version from; then whose it is.
fn version_text() -> String {
    format!(
        "{NAME} version {VERSION} (diskimage {}, not QEMU's own)\n\
         The command line of {NAME} {VERSION}, as far as diskimage has it\n",
        env!("CARGO_PKG_VERSION")
    )
}

pub(super) fn version() -> u8 {
    print(&version_text())
}

pub(super) fn general() -> u8 {
    let mut text = version_text();
    text.push_str(&format!(
        "\nUsage:\n\n  {NAME} [standard options] COMMAND [--help | command options]\n\n\
         Standard options:\n  -h, --help\n  -V, --version\n  -T, --trace TRACE (without effect)\n\n\
         Recognized commands (run {NAME} COMMAND --help for command-specific help):\n\n"
    ));
    for command in SUBCOMMANDS {
        text.push_str(&format!("  {} - {}\n", command.name, command.what));
    }
    text.push_str("\nNot there:\n\n");
    for (name, instead) in MISSING {
        text.push_str(&format!("  {name} - {instead}\n"));
    }
    text.push_str(
        "\nSupported image formats:\n\n  bochs cloop dmg luks parallels qcow qcow2 qed raw vdi vhdx \
         vmdk vpc\n\n\
         No file that an image names is opened unless that is allowed: with --allow-external (the\n\
         image's folder and below) or --allow-external=DIR, or for all calls by the variable\n\
         DISKIMAGE_ALLOW_EXTERNAL=DIR. Files without a signature are read with -f raw, --assume-raw\n\
         or DISKIMAGE_ASSUME_RAW=1 only.\n",
    );
    print(&text)
}

pub(super) fn of(command: &Subcommand) -> u8 {
    let mut text = format!(
        "{}.  Usage:\n\n  {NAME} {} [options] {}\n\nOptions:\n  -h, --help\n",
        command.what, command.name, command.operands
    );
    for option in command.options.iter().chain(command.ours) {
        text.push_str(&line(option));
    }
    print(&text)
}

fn line(option: &Opt) -> String {
    let value = match option.takes {
        Takes::Nothing => String::new(),
        Takes::Value(what) => format!(" {what}"),
        Takes::Maybe(what) => format!("[={what}]"),
    };
    let short = option.short.map(|short| format!("-{short}, ")).unwrap_or_default();
    let ours = if option.own { "  (diskimage's own)" } else { "" };
    format!("  {short}--{}{value}{ours}\n", option.name)
}

fn print(text: &str) -> u8 {
    report::printed(std::io::stdout().lock().write_all(text.as_bytes()))
}
