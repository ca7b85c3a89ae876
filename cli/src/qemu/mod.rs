//! qemu-img's command line: called as `qemu-img`, or as `diskimage qemu-img`, the command takes that
//! program's arguments, and answers in its words, forms and exit codes, so that programs which call
//! it work unchanged. The work is that of our own commands, and so is their care: docs/qemu-img.md
//! tells what differs.

mod check;
mod commit;
mod compare;
mod convert;
mod create;
mod dd;
mod existing;
mod getopt;
mod help;
mod in_place;
mod info;
mod map;
mod measure;
mod rebase;
mod resize;
mod size;
mod snapshot;
mod source;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use diskimage::{Error, Format};

use crate::args::{Command, OpenArgs, Output};
use crate::bounds::{BoundArgs, Bounds};
use crate::{report, sandbox};

use getopt::{Given, Opt, Takes, flag, long, own, value};

/// The name that messages begin with.
const NAME: &str = "qemu-img";

/// The version of qemu-img whose command line this is, for callers that ask for it.
const VERSION: &str = "10.0.2";

/// The arguments behind the name, if the command is called as qemu-img: by a link, or by its first
/// argument.
pub(crate) fn arguments(args: impl IntoIterator<Item = OsString>) -> Option<Vec<OsString>> {
    let mut args = args.into_iter();
    let called = args.next()?;
    let called = Path::new(&called).file_name()?;
    if called == NAME || called == "qemu-img.exe" {
        return Some(args.collect());
    }
    (args.next()? == NAME).then(|| args.collect())
}

/// What all parts of a run go by.
struct Session {
    bounds: Bounds,
    sandbox: bool,
}

impl Session {
    /// Gives up what `command` does not need, where that was asked for, and starts to watch the time.
    /// Then it looks whether the files that may be none are disks.
    fn begin(
        &self,
        command: &mut Command,
        unknown: impl IntoIterator<Item = (String, PathBuf)>,
    ) -> Result<(), Failure> {
        if self.sandbox {
            sandbox::enter_for(command, &self.bounds, true);
        }
        self.bounds.watch(command.main_file());
        let mut unknown = unknown.into_iter();
        unknown.try_for_each(|(shown, path)| source::refuse_container(&shown, &path))
    }

    /// The same for what changes an image in place.
    fn begin_change(
        &self,
        open: &OpenArgs,
        file: &Path,
        unknown: Option<(String, PathBuf)>,
    ) -> Result<(), Failure> {
        if self.sandbox {
            sandbox::enter_to_change(open, file);
        }
        self.bounds.watch(file);
        unknown.map_or(Ok(()), |(shown, path)| source::refuse_container(&shown, &path))
    }

    /// What reads an image before all that is needed is known does not go with the sandbox.
    fn not_in_sandbox(&self, what: &str) -> Result<(), Failure> {
        if self.sandbox {
            return Err(Failure::new(format!("{what} does not go with --sandbox")));
        }
        Ok(())
    }
}

/// What ends a call before its work begins.
struct Failure {
    /// Who says so, where it is not the program but one of its commands.
    by: Option<String>,
    text: String,
    /// What is said to look at.
    help: Option<String>,
    code: u8,
}

impl Failure {
    /// A sentence behind the program's name.
    fn new(text: impl Into<String>) -> Self {
        Self { by: None, text: text.into(), help: None, code: report::ERROR }
    }

    /// The same with a hint at the help of a command.
    fn usage(command: &str, text: impl Into<String>) -> Self {
        Self { help: Some(format!("{NAME} {command} --help")), ..Self::new(text) }
    }

    /// What is wrong with an image, in qemu-img's words.
    fn open(name: &str, text: impl std::fmt::Display) -> Self {
        Self::new(format!("Could not open '{name}': {text}"))
    }

    fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    fn tell(self) -> u8 {
        report::line(&format!("{}: {}", self.by.as_deref().unwrap_or(NAME), self.text));
        if let Some(help) = self.help {
            report::line(&format!("Try '{help}' for more info"));
        }
        self.code
    }
}

/// An error about `file`, told, with its exit code.
fn failed(error: &Error, file: &Path) -> u8 {
    report::fail(error, file)
}

/// A command of qemu-img.
struct Subcommand {
    name: &'static str,
    what: &'static str,
    operands: &'static str,
    options: &'static [Opt],
    ours: &'static [Opt],
    run: fn(&Session, &Given) -> Result<u8, Failure>,
}

const OBJECT: Opt = long("object", Takes::Value("OBJDEF"));
const IMAGE_OPTS: Opt = long("image-opts", Takes::Nothing);
const SHARE: Opt = flag('U', "force-share");
const OUTPUT: Opt = long("output", Takes::Value("human|json"));
const ALLOW: Opt = own("allow-external", Takes::Maybe("DIR"));

/// What is ours, of commands that read disks.
const OURS: &[Opt] = &[
    ALLOW,
    own("assume-raw", Takes::Nothing),
    own("trust-broken", Takes::Nothing),
    own("join", Takes::Maybe("yes|no")),
    own("resolve", Takes::Value("NAME=FILE")),
];

const SUBCOMMANDS: &[Subcommand] = &[
    Subcommand {
        name: "check",
        what: "Check basic image integrity",
        operands: "FILENAME",
        options: &[
            flag('q', "quiet"),
            value('f', "format", "FMT"),
            IMAGE_OPTS,
            value('T', "cache", "CACHE"),
            SHARE,
            OUTPUT,
            value('r', "repair", "leaks|all"),
            OBJECT,
        ],
        ours: &[],
        run: check::run,
    },
    Subcommand {
        name: "commit",
        what: "Commit image to its backing file",
        operands: "FILENAME",
        options: &[
            flag('q', "quiet"),
            flag('p', "progress"),
            value('f', "format", "FMT"),
            IMAGE_OPTS,
            value('t', "cache", "CACHE_MODE"),
            flag('d', "drop"),
            value('b', "base", "BASE_IMG"),
            value('r', "rate", "RATE"),
            OBJECT,
        ],
        ours: OURS,
        run: commit::run,
    },
    Subcommand {
        name: "compare",
        what: "Check if two images have the same contents",
        operands: "FILENAME1 FILENAME2",
        options: &[
            flag('q', "quiet"),
            flag('p', "progress"),
            value('f', "a-format", "FMT").or(&["format"]),
            value('F', "b-format", "FMT"),
            IMAGE_OPTS,
            flag('s', "strict"),
            value('T', "cache", "CACHE"),
            SHARE,
            OBJECT,
        ],
        ours: OURS,
        run: compare::run,
    },
    Subcommand {
        name: "convert",
        what: "Copy one image to another with optional format conversion",
        operands: "SRC_FILENAME [SRC_FILENAME2 [...]] TGT_FILENAME",
        options: &[
            flag('q', "quiet"),
            flag('p', "progress"),
            value('f', "source-format", "SRC_FMT").or(&["format"]),
            long("source-image-opts", Takes::Nothing).or(&["image-opts"]),
            value('l', "source-snapshot", "SNAPSHOT").or(&["snapshot"]),
            value('T', "source-cache", "CACHE"),
            value('O', "target-format", "TGT_FMT").or(&["output-format"]),
            long("target-image-opts", Takes::Nothing),
            value('o', "target-options", "TGT_OPTS").or(&["options"]),
            flag('c', "compress"),
            value('t', "target-cache", "CACHE"),
            value('B', "backing", "FILENAME"),
            value('F', "backing-format", "FMT"),
            flag('n', "no-create"),
            long("target-is-zero", Takes::Nothing),
            value('S', "sparse-size", "SIZE"),
            long("bitmaps", Takes::Nothing),
            long("skip-broken-bitmaps", Takes::Nothing),
            SHARE,
            value('r', "rate", "RATE").or(&["rate-limit"]),
            value('m', "parallel", "N"),
            flag('C', "copy-range-offloading"),
            long("salvage", Takes::Nothing),
            flag('W', "oob-writes"),
            OBJECT,
        ],
        ours: OURS,
        run: convert::run,
    },
    Subcommand {
        name: "create",
        what: "Create and format new image file",
        operands: "FILENAME [SIZE]",
        options: &[
            flag('q', "quiet"),
            value('f', "format", "FMT"),
            value('o', "options", "FMT_OPTS"),
            value('b', "backing", "FILENAME"),
            value('F', "backing-format", "FMT"),
            flag('u', "backing-unsafe"),
            OBJECT,
        ],
        ours: &[ALLOW],
        run: create::run,
    },
    Subcommand {
        name: "dd",
        what: "Copy input to output with optional format conversion",
        operands: "[bs=BLOCK_SIZE] [count=BLOCKS] [skip=BLOCKS] [isize=SIZE] [osize=SIZE] \
                   [if=INPUT] [of=OUTPUT]",
        options: &[
            value('f', "format", "FMT"),
            IMAGE_OPTS,
            value('O', "output-format", "OUTPUT_FMT"),
            SHARE,
            OBJECT,
            flag('n', "no-create"),
        ],
        ours: OURS,
        run: dd::run,
    },
    Subcommand {
        name: "info",
        what: "Display information about image",
        operands: "FILENAME",
        options: &[
            value('f', "format", "FMT"),
            IMAGE_OPTS,
            flag('b', "backing-chain"),
            SHARE,
            OUTPUT,
            OBJECT,
        ],
        ours: OURS,
        run: info::run,
    },
    Subcommand {
        name: "map",
        what: "Dump image metadata",
        operands: "FILENAME",
        options: &[
            value('f', "format", "FMT"),
            IMAGE_OPTS,
            value('s', "start-offset", "OFFSET"),
            value('l', "max-length", "LENGTH"),
            OUTPUT,
            SHARE,
            OBJECT,
        ],
        ours: OURS,
        run: map::run,
    },
    Subcommand {
        name: "measure",
        what: "Calculate file size required for a new image",
        operands: "(--size SIZE | FILENAME)",
        options: &[
            value('O', "target-format", "FMT").or(&["output-format"]),
            value('s', "size", "SIZE"),
            value('f', "format", "FMT"),
            IMAGE_OPTS,
            value('o', "options", "OPTIONS"),
            value('l', "snapshot", "SNAPSHOT"),
            OUTPUT,
            SHARE,
            OBJECT,
        ],
        ours: OURS,
        run: measure::run,
    },
    Subcommand {
        name: "rebase",
        what: "Change backing file of the image",
        operands: "FILENAME",
        options: &[
            flag('q', "quiet"),
            flag('p', "progress"),
            value('f', "format", "FMT"),
            IMAGE_OPTS,
            value('t', "cache", "CACHE"),
            value('b', "backing", "BACKING_FILENAME"),
            value('F', "backing-format", "BACKING_FMT"),
            value('T', "backing-cache", "BACKING_CACHE"),
            flag('u', "backing-unsafe"),
            OBJECT,
            flag('c', "compress"),
            SHARE,
        ],
        ours: OURS,
        run: rebase::run,
    },
    Subcommand {
        name: "resize",
        what: "Resize a raw or qcow2 image to the new size",
        operands: "FILENAME [+-]SIZE",
        options: &[
            flag('q', "quiet"),
            value('f', "format", "FMT"),
            IMAGE_OPTS,
            long("shrink", Takes::Nothing),
            long("preallocation", Takes::Value("off|falloc|full")),
            OBJECT,
        ],
        ours: &[ALLOW, own("resolve", Takes::Value("NAME=FILE"))],
        run: resize::run,
    },
    Subcommand {
        name: "snapshot",
        what: "List or manipulate snapshots within image",
        operands: "FILENAME",
        options: &[
            flag('q', "quiet"),
            value('f', "format", "FMT"),
            IMAGE_OPTS,
            SHARE,
            OBJECT,
            flag('l', "list"),
            value('c', "create", "SNAPSHOT"),
            value('a', "apply", "SNAPSHOT"),
            value('d', "delete", "SNAPSHOT"),
        ],
        ours: &[],
        run: snapshot::run,
    },
];

/// What qemu-img has and we have not, and what to do instead.
const MISSING: &[(&str, &str)] = &[
    ("amend", "convert the image with the options that it is to have"),
    ("bench", "measure with fio, or a benchmark of your own"),
    ("bitmap", "copy bitmaps with convert --bitmaps, or use QEMU's own qemu-img"),
];

/// Runs qemu-img's command line, without the program's name.
pub(crate) fn run(args: &[OsString], bounds: BoundArgs) -> u8 {
    report::speak_as(NAME);
    // who watches qemu-img asks for its progress by this signal, which is not to end it
    #[cfg(unix)]
    let _ = signal_hook::flag::register(signal_hook::consts::SIGUSR1, std::sync::Arc::default());
    let session = Session { sandbox: bounds.sandbox, bounds: Bounds::new(bounds) };
    call(&session, args).unwrap_or_else(Failure::tell)
}

fn call(session: &Session, args: &[OsString]) -> Result<u8, Failure> {
    const STANDARD: &[Opt] =
        &[flag('h', "help"), flag('V', "version"), value('T', "trace", "TRACE")];
    let hint =
        |text: String| Failure { help: Some(format!("{NAME} --help")), ..Failure::new(text) };
    let given = getopt::parse(&[STANDARD], args, true, |_| false).map_err(hint)?;
    if given.has("help") {
        return Ok(help::general());
    }
    if given.has("version") {
        return Ok(help::version());
    }
    let Some((command, args)) = given.operands.split_first() else {
        return Err(hint("Not enough arguments".into()));
    };
    let name = command.to_string_lossy();
    if let Some((missing, instead)) = MISSING.iter().find(|(missing, _)| *missing == name) {
        return Err(Failure::new(format!("diskimage has no '{missing}': {instead}")));
    }
    let Some(command) = SUBCOMMANDS.iter().find(|command| command.name == name) else {
        return Err(hint(format!("Command not found: {name}")));
    };
    // a size may begin with a minus
    let is_size = |arg: &[u8]| {
        command.name == "resize" && arg.get(1).is_some_and(|digit| digit.is_ascii_digit())
    };
    if asks_for_help(command, args, is_size) {
        return Ok(help::of(command));
    }
    match getopt::parse(&[command.options, command.ours], args, false, is_size) {
        Ok(given) => {
            encryption(&given)?;
            (command.run)(session, &given)
        }
        Err(text) => Err(Failure {
            by: Some(format!("{NAME} {}", command.name)),
            ..Failure::usage(command.name, text)
        }),
    }
}

/// Whether help is asked for, in all that can be read as options.
fn asks_for_help(command: &Subcommand, args: &[OsString], is_size: impl Fn(&[u8]) -> bool) -> bool {
    let is_help = |arg: &OsString| matches!(arg.to_str(), Some("-h" | "--help"));
    // the value of an option is none, so all before it has to make sense
    args.iter().position(is_help).is_some_and(|at| {
        let options = [command.options, command.ours];
        let before = getopt::parse(&options, &args[..at], false, &is_size);
        before.is_ok() && !args[..at].iter().any(|arg| arg == "--")
    })
}

/// Secrets are taken, since nothing needs them; other objects are not known.
fn encryption(given: &Given) -> Result<(), Failure> {
    for object in given.all("object") {
        let object = object.to_string_lossy();
        let kind = object.split(',').next().unwrap_or_default();
        if !matches!(kind.strip_prefix("qom-type=").unwrap_or(kind), "secret") {
            return Err(Failure::new(format!(
                "the object '{kind}' is not known: diskimage takes 'secret' only"
            )));
        }
    }
    Ok(())
}

/// The form of the answer.
fn output(command: &str, given: &Given) -> Result<Output, Failure> {
    match given.text("output").as_deref() {
        None | Some("human") => Ok(Output::Human),
        Some("json") => Ok(Output::Json),
        Some(other) => Err(Failure::usage(
            command,
            format!("--output expects 'human' or 'json' not '{other}'"),
        )),
    }
}

/// The only operand.
fn one_file<'a>(command: &str, given: &'a Given) -> Result<&'a OsString, Failure> {
    match &*given.operands {
        [file] => Ok(file),
        _ => Err(Failure::usage(command, "Expecting one image file name")),
    }
}

/// How the system's cache is used, as qemu-img names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CacheMode {
    /// Past the cache.
    Direct,
    /// Through it, and on the medium in the end.
    Cached,
    /// Through it, and nobody waits for the medium.
    Unsafe,
}

impl CacheMode {
    fn of(name: &str) -> Option<Self> {
        match name {
            "none" | "off" | "directsync" => Some(Self::Direct),
            "writeback" | "writethrough" => Some(Self::Cached),
            "unsafe" => Some(Self::Unsafe),
            _ => None,
        }
    }

    /// The mode that an option names.
    fn given(given: &Given, option: &str, what: &str) -> Result<Option<Self>, Failure> {
        let Some(name) = given.text(option) else { return Ok(None) };
        let wrong = || Failure::new(format!("Invalid {what} option: {name}"));
        Self::of(&name).map(Some).ok_or_else(wrong)
    }
}

/// A format that images are written in.
fn written_format(name: Option<String>) -> Result<Format, Failure> {
    let Some(name) = name else { return Ok(Format::Raw) };
    let written = crate::package::parse_target(&name).ok();
    let written = written.filter(|format| crate::image::WRITTEN.contains(format));
    written.ok_or_else(|| Failure::new(format!("Unknown file format '{name}'")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_decides() {
        let of = |args: &[&str]| {
            let found = arguments(args.iter().map(OsString::from));
            found.map(|args| args.into_iter().map(|a| a.into_string().unwrap()).collect::<Vec<_>>())
        };
        assert_eq!(of(&["/usr/bin/qemu-img", "info", "x"]).unwrap(), ["info", "x"]);
        assert_eq!(of(&["diskimage", "qemu-img", "info"]).unwrap(), ["info"]);
        assert_eq!(of(&["qemu-img"]).unwrap().len(), 0);
        assert_eq!(of(&["diskimage", "info", "qemu-img"]), None);
        assert_eq!(of(&["diskimage"]), None);
    }
}
