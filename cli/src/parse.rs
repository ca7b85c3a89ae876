//! From arguments to a command.

use std::ffi::{OsStr, OsString};
use std::mem::ManuallyDrop;

use clap::{Args as _, CommandFactory, FromArgMatches};

use crate::args::{self, Args, Shared};
use crate::style::Colour;

/// The arguments; what is wrong with them is told in colours where these are asked for.
pub(crate) fn parse(colour: Colour, given: &[OsString]) -> Result<Args, clap::Error> {
    if let Some(args) = alone(given) {
        return Ok(args);
    }
    // it is never taken apart: that takes a tenth of what a short call does, and nobody needs the memory
    let mut command = ManuallyDrop::new(Args::command().color(colour.into()));
    let mut matches = command.try_get_matches_from_mut(given)?;
    Args::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

/// The same where the first argument is a command, and all others are right: the other commands, and
/// all that the help says, are not put together then, which takes longer than most calls.
fn alone(given: &[OsString]) -> Option<Args> {
    let command = described(given.get(1)?)?;
    let root = Shared::augment_args(clap::Command::new("diskimage")).subcommand(command);
    let mut root = ManuallyDrop::new(root.disable_help_subcommand(true));
    let mut matches = root.try_get_matches_from_mut(given).ok()?;
    Args::from_arg_matches_mut(&mut matches).ok()
}

/// A command of this name with its arguments, and nothing else.
fn described(name: &OsStr) -> Option<clap::Command> {
    fn of<T: clap::Args>(name: &'static str) -> clap::Command {
        T::augment_args(clap::Command::new(name))
    }
    Some(match name.to_str()? {
        "probe" => of::<args::ProbeArgs>("probe"),
        "info" => of::<args::InfoArgs>("info"),
        "explain" => of::<crate::explain::ExplainArgs>("explain"),
        "inspect" => of::<args::InspectArgs>("inspect"),
        "lint" => of::<crate::lint::LintArgs>("lint"),
        "map" => of::<args::MapArgs>("map"),
        "check" => of::<args::CheckArgs>("check"),
        "convert" => of::<args::ConvertArgs>("convert"),
        "create" => of::<args::CreateArgs>("create"),
        "measure" => of::<args::MeasureArgs>("measure"),
        "checksum" => of::<args::ChecksumArgs>("checksum"),
        "compare" => of::<args::CompareArgs>("compare"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        std::iter::once("diskimage").chain(text.split(' ')).map(OsString::from).collect()
    }

    #[test]
    fn what_is_right_is_understood_alike_without_the_other_commands() {
        for text in [
            "probe -r a b",
            "info --contents x --output=json --timeout 5",
            "convert -O qcow2 -o cluster_size=4k a b -p --color always",
            "create -f raw x 10G",
            "measure --size 1G",
            "checksum -a sha1 --check x",
            "compare --manifest m x",
            "map x --picture -",
            "lint --for azure x",
            "check -r all --dry-run x",
            "inspect --no-sandbox -",
            "explain --max-memory 1M x",
        ] {
            let alone = alone(&words(text)).unwrap_or_else(|| panic!("{text}"));
            let whole = Args::try_parse_from(words(text)).unwrap();
            assert_eq!(format!("{alone:?}"), format!("{whole:?}"));
        }
        // what is wrong, or asks for help, is told by the whole
        for text in ["", "convert --help", "-V", "probe", "help convert", "inof x", "lint x"] {
            assert!(alone(&words(text)).is_none(), "{text}");
        }
    }

    #[test]
    fn every_command_that_reads_images_is_described_alone() {
        let root = Args::command();
        for command in root.get_subcommands() {
            let name = command.get_name();
            let has = described(OsStr::new(name)).is_some();
            assert_eq!(has, !matches!(name, "completions" | "man" | "qemu-img"), "{name}");
        }
    }
}
