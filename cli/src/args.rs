//! The command line.

use std::ffi::OsString;
use std::num::{NonZeroU64, NonZeroUsize};
use std::ops::Range;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use diskimage::checksum::Algorithm;
use diskimage::target::{Preallocation, Reflink};
use diskimage::{Format, RepairScope, Result};

use crate::bounds::BoundArgs;
use crate::deferred::Deferred;
use crate::examples;
use crate::explain::{EXPLAIN_HELP, ExplainArgs};
use crate::image::TargetArgs;
use crate::lint::{LINT_EXIT_CODES, LintArgs};
use crate::manual::{CompletionsArgs, ManArgs};
use crate::package::{AimArgs, parse_target};
use crate::picture::{Picture, picture_parser};
use crate::size::parse_size;
use crate::style::Colour;
use crate::suggest::{self, did_you_mean, named};

mod open;

pub(crate) use open::{BackingArgs, Joined, OpenArgs, parse_pair};

/// Exit codes of all commands, for the help. A paragraph is a line, which fits any terminal.
const EXIT_CODES: &str = "\
Exit codes: 0 success, 1 error, 2 wrong usage, 124 not done within --timeout, 130 interrupted. \
Where they say more:
  probe: 0 every file is of a known kind, 1 one is not, 2 an error
  inspect, lint: 3 an image is refused
  check: 2 the image is corrupt, 3 it has leaked clusters only, 63 there is nothing to check
  checksum --check: 1 something is not as it is listed, or cannot be read
  compare: 0 the same, 1 different, 2 not opened, 3 its map is not read, 4 its data are not read
  convert --salvage: 3 something was lost
About several files the worst counts: an error before what is corrupt or refused.

With --output json a command answers for programs; errors are on standard error all the same.";

/// The exit codes of `check`, for its help.
const CHECK_EXIT_CODES: &str = "\
Exit codes: 0 nothing is wrong (or no longer, after a repair), 1 an error, or something could not be \
read, 2 the image is corrupt (or the usage wrong), 3 only leaked clusters, 63 nothing in this format \
can be checked.

A repair writes into the image. It refuses a file that another process holds a lock on, as QEMU does \
while it runs; programs that take no locks cannot be seen: see to it that none uses the image.";

/// The exit codes of `inspect`, for its help.
const INSPECT_EXIT_CODES: &str = "\
Exit codes: 0 allowed, 3 refused (with the reasons), 1 an error: nothing can be said.
No other file is opened, whatever the image names.

Policies: `strict` takes whole images that stand alone and of which nothing is odd; `openstack` \
decides as OpenStack's format inspector, and refuses parents that it does not see; `permissive` \
takes all that can be read without going wrong. A TOML file starts from one and changes it:
    base = \"openstack\"
    formats = [\"qcow2\", \"raw\"]
    max-virtual-size = \"2T\"
    allowed = [\"backing-file\", \"external-reference\"]

Examples:
    diskimage inspect --declared qcow2 --policy openstack upload.qcow2
    curl -s URL | tee upload.img | diskimage inspect --checksum sha256 -";

/// What stands below the help of the whole.
fn after_all() -> String {
    format!("{EXIT_CODES}\n\n{}", examples::ALL)
}

/// What stands below the help of `check`.
fn after_check() -> String {
    format!("{CHECK_EXIT_CODES}\n\n{}", examples::CHECK)
}

#[derive(Debug, Parser)]
#[command(name = "diskimage", version, long_version = crate::version::long(), about,
    after_help = after_all(), max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) shared: Shared,
}

/// What all commands have.
#[derive(Debug, clap::Args)]
pub(crate) struct Shared {
    /// Colours in what people read: auto has them on a terminal unless NO_COLOR is set, and elsewhere
    /// if CLICOLOR_FORCE is
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "WHEN",
        default_value = "auto",
        display_order = 900
    )]
    pub(crate) color: Colour,
    // behind what has no heading of its own
    #[command(flatten)]
    pub(crate) bounds: BoundArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Tells what files are, like file(1): every format that fits
    #[command(after_help = examples::PROBE)]
    Probe(Deferred<ProbeArgs>),
    /// Describes an image: format, sizes, snapshots, what it needs and what is odd about it
    #[command(after_help = examples::INFO)]
    Info(Deferred<InfoArgs>),
    /// Says in plain sentences what an image is, who made it, what it needs, what is wrong with it
    /// and what to do next
    #[command(after_help = EXPLAIN_HELP)]
    Explain(Deferred<ExplainArgs>),
    /// Judges an image from a stranger: is it what it is said to be, whole, alone, and allowed?
    #[command(after_help = INSPECT_EXIT_CODES)]
    Inspect(Deferred<InspectArgs>),
    /// Tells what a cloud or a hypervisor would refuse of images, why, and what mends it
    #[command(after_help = LINT_EXIT_CODES)]
    Lint(Deferred<LintArgs>),
    /// Lists where data, zeros and holes of the disk are, or draws it
    #[command(after_help = examples::MAP)]
    Map(Deferred<MapArgs>),
    /// Reads all tables of an image, tells what is wrong with them, and repairs what can be
    #[command(after_help = after_check())]
    Check(Deferred<CheckArgs>),
    /// Converts an image to a raw disk, or to an image of another format
    #[command(after_help = examples::CONVERT)]
    Convert(Deferred<ConvertArgs>),
    /// Makes an empty image
    #[command(after_help = examples::CREATE)]
    Create(Deferred<CreateArgs>),
    /// Tells how large an image of a disk would be, without writing it
    #[command(after_help = examples::MEASURE)]
    Measure(Deferred<MeasureArgs>),
    /// Computes checksums of what a guest sees, whatever the format, and checks them
    #[command(after_help = examples::CHECKSUM)]
    Checksum(Deferred<ChecksumArgs>),
    /// Compares the content of two images, whatever their formats
    #[command(after_help = examples::COMPARE)]
    Compare(Deferred<CompareArgs>),
    /// Prints what a shell completes arguments by: bash, zsh, fish, elvish or PowerShell
    #[command(after_help = examples::COMPLETIONS)]
    Completions(Deferred<CompletionsArgs>),
    /// Prints a manual page for man(1), or writes all of them
    #[command(after_help = examples::MAN)]
    Man(Deferred<ManArgs>),
    /// Takes the command line of qemu-img, as a link of that name does
    #[command(disable_help_flag = true, after_help = examples::QEMU_IMG)]
    QemuImg(Deferred<QemuImgArgs>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Human,
    /// For programs: qemu-img's field names where it has them
    Json,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ProbeArgs {
    /// The files, or FILE#MEMBER in an archive; - is standard input
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Takes folders too, and all files in them and below; links are not followed
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Answers in the words of OpenStack's Glance: disk_format and container_format
    #[arg(long)]
    pub(crate) glance: bool,
    /// The form of the answer
    #[arg(long, value_enum, default_value = "human")]
    pub(crate) output: Output,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct InfoArgs {
    /// The image, or an archive: FILE#MEMBER is what lies in one
    pub(crate) file: PathBuf,
    /// More of them; in JSON the answer is then an array
    #[arg(value_name = "FILE")]
    pub(crate) more: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) open: OpenArgs,
    /// Describes the backing files too (see --allow-external)
    #[arg(long)]
    pub(crate) backing_chain: bool,
    /// Lists what lies on the disk that a guest sees: partitions with their types, sizes and file
    /// systems with labels and UUIDs, as disktype and blkid would
    #[arg(long)]
    pub(crate) contents: bool,
    /// The form of the answer
    #[arg(long, value_enum, default_value = "human")]
    pub(crate) output: Output,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct InspectArgs {
    /// The image; - reads it from standard input, once, and stops as soon as it is refused
    pub(crate) file: PathBuf,
    /// More of them; in JSON the answer is then an array, and the worst exit code counts
    #[arg(value_name = "FILE")]
    pub(crate) more: Vec<PathBuf>,
    /// What the image is said to be: it is refused if it is anything else
    #[arg(long, value_name = "FORMAT", value_parser = named(parse_format, suggest::formats), hide_possible_values = true)]
    pub(crate) declared: Option<Format>,
    /// What may pass: strict, openstack, permissive, or a TOML file
    #[arg(long, value_name = "POLICY", default_value = "strict")]
    pub(crate) policy: String,
    /// Takes the image for this format instead of detecting it, as a reader that is told so will
    #[arg(short, long, value_name = "FORMAT", value_parser = named(parse_format, suggest::formats), hide_possible_values = true)]
    pub(crate) format: Option<Format>,
    /// Keeps what the process could do; without this it gives up all but reading the image, where
    /// the system can do that
    #[arg(long, conflicts_with = "sandbox")]
    pub(crate) no_sandbox: bool,
    /// Computes a checksum of the bytes of standard input on the way; can be given several times
    #[arg(long, value_name = "ALGORITHM", value_parser = named(parse_algorithm, suggest::algorithms), hide_possible_values = true)]
    pub(crate) checksum: Vec<Algorithm>,
    /// The form of the answer
    #[arg(long, value_enum, default_value = "human")]
    pub(crate) output: Output,
}

#[derive(Debug, clap::Args)]
pub(crate) struct MapArgs {
    /// The image
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) open: OpenArgs,
    /// Maps an internal snapshot, by identifier or name
    #[arg(long, value_name = "ID_OR_NAME")]
    pub(crate) snapshot: Option<OsString>,
    /// The first guest byte
    #[arg(short, long, value_name = "SIZE", default_value = "0", value_parser = parse_size)]
    pub(crate) start_offset: u64,
    /// How many guest bytes
    #[arg(short = 'l', long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) max_length: Option<u64>,
    /// Draws the map instead: into FILE.svg, or without a name in characters on the terminal
    #[arg(long, value_name = "FILE.svg", num_args = 0..=1, value_parser = picture_parser(),
        conflicts_with = "output")]
    pub(crate) picture: Option<Option<Picture>>,
    /// The form of the answer
    #[arg(long, value_enum, default_value = "human")]
    pub(crate) output: Output,
}

/// How to go through a whole disk.
#[derive(Debug, clap::Args)]
pub(crate) struct WorkArgs {
    /// Shows progress: a bar on a terminal, else lines as qemu-img's
    #[arg(short, long)]
    pub(crate) progress: bool,
    /// Threads [default: one for each processor]
    #[arg(short = 'm', long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ChecksumArgs {
    /// The images; with --check, lists of checksums as sha256sum writes them
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// The algorithm: sha256, sha512, sha1, md5, blake3, crc32 or blkhash; several are computed in
    /// one pass [default: sha256]
    #[arg(short, long, value_name = "ALGORITHM", value_parser = named(parse_algorithm, suggest::algorithms), hide_possible_values = true)]
    pub(crate) algorithm: Vec<Algorithm>,
    #[command(flatten)]
    pub(crate) open: OpenArgs,
    /// Takes an internal snapshot, by identifier or name
    #[arg(long, value_name = "ID_OR_NAME", conflicts_with = "check")]
    pub(crate) snapshot: Option<OsString>,
    /// Reads lists of checksums and checks the images that they name
    #[arg(short, long)]
    pub(crate) check: bool,
    /// Names the algorithm in each line, as is done where there are several
    #[arg(long, conflicts_with_all = ["check", "blocks"])]
    pub(crate) tag: bool,
    /// Writes a manifest: the checksum of each block of this size, in JSON
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "check")]
    pub(crate) blocks: Option<u64>,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
    /// The form of the answer
    #[arg(long, value_enum, default_value = "human")]
    pub(crate) output: Output,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CompareArgs {
    /// The first image
    pub(crate) first: PathBuf,
    /// The second image
    #[arg(required_unless_present = "manifest")]
    pub(crate) second: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) open: OpenArgs,
    /// Takes the second image for this format instead of detecting it
    #[arg(short = 'F', long, value_name = "FORMAT", value_parser = named(parse_format, suggest::formats), hide_possible_values = true)]
    pub(crate) second_format: Option<Format>,
    /// Images that differ in size, or in what their maps say, differ
    #[arg(short, long)]
    pub(crate) strict: bool,
    /// Prints nothing but errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Lists all ranges that differ, not the first only
    #[arg(long, conflicts_with = "strict")]
    pub(crate) all: bool,
    /// Compares with a manifest that `checksum --blocks` wrote, and names the ranges that differ
    #[arg(long, value_name = "FILE", conflicts_with_all = ["second", "strict", "second_format"])]
    pub(crate) manifest: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
    /// The form of the answer
    #[arg(long, value_enum, default_value = "human")]
    pub(crate) output: Output,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CheckArgs {
    /// The image; no other file is opened
    pub(crate) file: PathBuf,
    /// More of them; in JSON the answer is then an array, and the worst exit code counts
    #[arg(value_name = "FILE")]
    pub(crate) more: Vec<PathBuf>,
    /// Takes the image for this format instead of detecting it
    #[arg(short, long, value_name = "FORMAT", value_parser = named(parse_format, suggest::formats), hide_possible_values = true)]
    pub(crate) format: Option<Format>,
    /// Repairs leaked clusters only, or all that can be proven; the guest's data stay as they are
    #[arg(short, long, value_enum, value_name = "WHAT")]
    pub(crate) repair: Option<Scope>,
    /// Tells what a repair would write, and writes nothing
    #[arg(long, requires = "repair")]
    pub(crate) dry_run: bool,
    /// Shows progress if it takes longer than a second
    #[arg(short, long)]
    pub(crate) progress: bool,
    /// Threads [default: one for each processor]
    #[arg(short = 'm', long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// The form of the answer
    #[arg(long, value_enum, default_value = "human")]
    pub(crate) output: Output,
}

/// What is repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scope {
    Leaks,
    All,
}

impl From<Scope> for RepairScope {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Leaks => Self::Leaks,
            Scope::All => Self::All,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct ConvertArgs {
    /// The image to read; FILE#MEMBER is one in an archive
    pub(crate) source: PathBuf,
    /// The file or block device to write; - is standard output
    pub(crate) target: PathBuf,
    #[command(flatten)]
    pub(crate) open: OpenArgs,
    /// The format to write: raw, qcow2, vmdk, vpc (VHD), vhdx, vdi, ova, or gce (Compute Engine's tar.gz)
    /// [default: raw, or what suits --for]
    #[arg(short = 'O', long, value_name = "FORMAT", value_parser = named(parse_target, suggest::targets), hide_possible_values = true)]
    pub(crate) output_format: Option<Format>,
    #[command(flatten)]
    pub(crate) aimed: AimArgs,
    #[command(flatten)]
    pub(crate) written: TargetArgs,
    /// Compresses what is written
    #[arg(short, long)]
    pub(crate) compress: bool,
    /// Copies the persistent bitmaps of a qcow2, which backup programs go by, into a qcow2
    #[arg(long)]
    pub(crate) bitmaps: bool,
    /// Leaves bitmaps out that were not saved properly, instead of refusing them
    #[arg(long, requires = "bitmaps")]
    pub(crate) skip_broken_bitmaps: bool,
    /// Stores clusters of the same content once; qcow2 only
    #[arg(long)]
    pub(crate) dedupe: bool,
    /// Writes only what differs from this image, which becomes the backing file: named as from the
    /// folder of the target
    #[arg(short = 'B', long, value_name = "FILE")]
    pub(crate) backing: Option<PathBuf>,
    /// Converts an internal snapshot, by identifier or name
    #[arg(short = 'l', long, value_name = "ID_OR_NAME")]
    pub(crate) snapshot: Option<OsString>,
    /// Leaves blocks of zeros of this size out of the file; 0 writes everything [default: 4k for
    /// what is not copied or shared by the kernel]
    #[arg(short = 'S', long, value_name = "SIZE", value_parser = parse_granularity)]
    pub(crate) sparse: Option<u64>,
    /// Shares stored data with the image (XFS, Btrfs): where it works, always or not at all, or
    /// never, nor lets the kernel copy them
    #[arg(long, value_enum, default_value = "auto", value_name = "WHEN")]
    pub(crate) reflink: When,
    /// Sets room on the medium aside for the whole disk: falloc at once, full by writing zeros too
    #[arg(
        long,
        value_enum,
        default_value = "off",
        value_name = "HOW",
        conflicts_with = "no_create"
    )]
    pub(crate) preallocation: Room,
    /// What the system's cache does with the files: keep them, or drop them so that a large
    /// conversion does not push everything else out
    #[arg(long, value_enum, default_value = "keep")]
    pub(crate) cache: Cache,
    /// Reads and writes past the system's cache (O_DIRECT)
    #[arg(long)]
    pub(crate) direct: bool,
    /// Does not wait until the file is on its medium, as qemu-img does not: faster, but a power
    /// failure soon afterwards may leave it damaged under its name
    #[arg(long)]
    pub(crate) no_sync: bool,
    /// Writes into a target that exists and keeps its size
    #[arg(short = 'n', long)]
    pub(crate) no_create: bool,
    /// With -n: the target is known to read as zeros
    #[arg(long, requires = "no_create")]
    pub(crate) target_is_zero: bool,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
    /// Writes no more than this in a second, so as to leave others their share of the medium
    #[arg(short = 'r', long, value_name = "SIZE", value_parser = parse_rate)]
    pub(crate) rate: Option<NonZeroU64>,
    /// Images whose disks follow that of the source; given by the command line of qemu-img
    #[arg(skip)]
    pub(crate) more_sources: Vec<PathBuf>,
    /// The least that the disk is to have, bytes; given by the command line of qemu-img
    #[arg(skip)]
    pub(crate) grow_to: u64,
    /// The bytes of the disk that are written, if not all are; given by the command line of qemu-img
    #[arg(skip)]
    pub(crate) part: Option<Range<u64>>,
    /// Whether the target takes the place of the source; given by the command line of qemu-img
    #[arg(skip)]
    pub(crate) replaces_source: bool,
    /// Computes a checksum of what is written in the same pass; can be given several times
    #[arg(long, value_name = "ALGORITHM", value_parser = named(parse_algorithm, suggest::algorithms), hide_possible_values = true)]
    pub(crate) checksum: Vec<Algorithm>,
    /// Reads on past damage: writes zeros there, lists what was lost and ends with exit code 3
    #[arg(long)]
    pub(crate) salvage: bool,
    /// The form of the report; people get one only if something was lost
    #[arg(long, value_enum, default_value = "human")]
    pub(crate) output: Output,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// The file to write
    pub(crate) file: PathBuf,
    /// The size of the disk, as 10G; without it, that of the backing file
    #[arg(value_parser = parse_size)]
    pub(crate) size: Option<u64>,
    /// The format to write [default: raw, or what suits --for]
    #[arg(short, long, value_name = "FORMAT", value_parser = named(parse_target, suggest::targets), hide_possible_values = true)]
    pub(crate) format: Option<Format>,
    #[command(flatten)]
    pub(crate) aimed: AimArgs,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// The backing file, whose content the disk has at first: named as from the folder of the image
    #[arg(short, long, value_name = "FILE")]
    pub(crate) backing: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) open: BackingArgs,
    /// Does not wait until the file is on its medium
    #[arg(long)]
    pub(crate) no_sync: bool,
    /// Names the backing file without looking at it; given by the command line of qemu-img
    #[arg(skip)]
    pub(crate) unopened: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct MeasureArgs {
    /// The image to read
    #[arg(required_unless_present_any = ["size", "options"])]
    pub(crate) file: Option<PathBuf>,
    /// Measures for an empty disk of this size instead
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "file")]
    pub(crate) size: Option<u64>,
    #[command(flatten)]
    pub(crate) open: OpenArgs,
    /// Measures for an internal snapshot, by identifier or name
    #[arg(short = 'l', long, value_name = "ID_OR_NAME", conflicts_with = "size")]
    pub(crate) snapshot: Option<OsString>,
    /// The format to write [default: raw, or what suits --for]
    #[arg(short = 'O', long, value_name = "FORMAT", value_parser = named(parse_target, suggest::targets), hide_possible_values = true)]
    pub(crate) output_format: Option<Format>,
    #[command(flatten)]
    pub(crate) aimed: AimArgs,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Estimates the size of compressed data too, from samples
    #[arg(short, long)]
    pub(crate) compress: bool,
    /// The form of the answer
    #[arg(long, value_enum, default_value = "human")]
    pub(crate) output: Output,
}

/// What follows is read as qemu-img reads it.
#[derive(Debug, clap::Args)]
pub(crate) struct QemuImgArgs {
    /// A command of qemu-img and its arguments: `diskimage qemu-img --help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    pub(crate) args: Vec<OsString>,
}

/// When stored data are shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum When {
    Auto,
    Always,
    Never,
}

impl From<When> for Reflink {
    fn from(when: When) -> Self {
        match when {
            When::Auto => Self::Auto,
            When::Always => Self::Always,
            When::Never => Self::Never,
        }
    }
}

/// What room is set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Room {
    Off,
    Falloc,
    Full,
}

impl From<Room> for Preallocation {
    fn from(room: Room) -> Self {
        match room {
            Room::Off => Self::Off,
            Room::Falloc => Self::Falloc,
            Room::Full => Self::Full,
        }
    }
}

/// What the system's cache does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Cache {
    Keep,
    Drop,
}

fn parse_granularity(text: &str) -> Result<u64, String> {
    let size = parse_size(text)?;
    let fits = size == 0 || (size >= 512 && size.is_power_of_two());
    fits.then_some(size).ok_or_else(|| "it must be 0 or a power of two of at least 512".into())
}

fn parse_rate(text: &str) -> Result<NonZeroU64, String> {
    NonZeroU64::new(parse_size(text)?).ok_or_else(|| "nothing would ever be written".into())
}

fn parse_algorithm(name: &str) -> Result<Algorithm, String> {
    name.parse().map_err(|error: diskimage::Error| {
        let advice = error.advice().unwrap_or_default();
        format!("{error}: {}", suggest::with_guess(name, suggest::algorithms(), advice))
    })
}

pub(crate) fn parse_format(name: &str) -> Result<Format, String> {
    name.parse().map_err(|error: diskimage::Error| {
        format!("{error}{}", did_you_mean(name, suggest::formats()))
    })
}

/// The bytes of an argument.
pub(crate) fn argument_bytes(argument: &OsString) -> Vec<u8> {
    argument.as_encoded_bytes().to_vec()
}
