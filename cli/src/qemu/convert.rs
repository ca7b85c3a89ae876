//! `qemu-img convert`.

use std::io::{self, Write};
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};

use diskimage::Format;

use super::getopt::Given;
use super::{CacheMode, Failure, Session, existing, snapshot, source, written_format};
use crate::args::{Cache, Command, ConvertArgs, OpenArgs, Output, Room, When, WorkArgs};
use crate::deferred::Deferred;
use crate::image::{TargetArgs, split};
use crate::package::AimArgs;
use crate::report;
use crate::size::parse_size;

/// The largest block of zeros that is left out.
const MOST_SPARSE: u64 = 16 << 20;

pub(super) fn run(session: &Session, given: &Given) -> Result<u8, Failure> {
    let as_opts = given.has("target-image-opts");
    if as_opts && !given.has("no-create") {
        return Err(Failure::new("--target-image-opts requires use of -n flag"));
    }
    let format = written_format(given.text("target-format"))?;
    let options = given.all("target-options").map(|text| text.to_string_lossy().into_owned());
    let backing_format = given.text("backing-format");
    let settled = settled(format, options.collect(), backing_format)?;
    if let Some(help) = settled.target.help(format) {
        return Ok(report::printed(io::stdout().lock().write_all(help.as_bytes())));
    }
    let (args, unknown) = plan(session, given, (format, settled))?;
    let mut command = Command::Convert(Deferred(args));
    session.begin(&mut command, unknown)?;
    let Command::Convert(Deferred(args)) = command else { return Ok(report::USAGE) };
    match crate::convert::run(&args, &session.bounds) {
        // what was lost is told; the caller asked to go on
        report::LOST if args.salvage => Ok(report::OK),
        code => Ok(code),
    }
}

fn plan(
    session: &Session,
    given: &Given,
    (mut format, mut settled): (Format, Settled),
) -> Result<(ConvertArgs, Vec<(String, PathBuf)>), Failure> {
    let written = CacheMode::given(given, "target-cache", "cache")?;
    let read = CacheMode::given(given, "source-cache", "source cache")?;
    let sparse = sparse(given)?;
    let threads = threads(given)?;
    let rate = rate(given)?;
    let ([first, more @ ..], Some(target)) = split_operands(given) else {
        return Err(Failure::new("Must specify image file name"));
    };
    let backing = given.last("backing").filter(|name| !name.is_empty()).map(PathBuf::from);
    let has_backing = backing.is_some() || settled.backing.is_some();
    let says_format = settled.target.backing_format.is_some() || settled.names_format;
    let single_only = |what: &str| Failure::new(format!("{what} only possible with single source"));
    for (wrong, failure) in [
        (
            has_backing && !says_format,
            Failure::new("Use of backing file requires explicit backing format"),
        ),
        (
            given.has("skip-broken-bitmaps") && !given.has("bitmaps"),
            Failure::new("Use of --skip-broken-bitmaps requires --bitmaps"),
        ),
        (
            given.has("target-is-zero") && !given.has("no-create"),
            Failure::new("--target-is-zero requires use of -n flag"),
        ),
        (
            given.has("copy-range-offloading") && sparse.is_some(),
            Failure::new("Cannot enable copy offloading when -S is used"),
        ),
        (given.has("bitmaps") && !more.is_empty(), single_only("Copying bitmaps")),
        (has_backing && !more.is_empty(), single_only("Having a backing file for the target")),
        (given.has("source-snapshot") && !more.is_empty(), single_only("Using a snapshot")),
    ] {
        if wrong {
            return Err(failure);
        }
    }
    let open = |name| source::existing(given, name, "source-format", "source-image-opts");
    let first = open(first)?;
    let mut unknown = Vec::from_iter(first.unknown());
    let mut more_sources = Vec::new();
    for name in more {
        let image = open(name)?;
        if image.format != first.format {
            return Err(Failure::new("several sources have to be of one format, which -f names"));
        }
        unknown.extend(image.unknown());
        more_sources.push(image.path);
    }
    let open = source::open_args(given, first.format)?;
    let snapshot = match given.text("source-snapshot") {
        Some(parameter) => Some(snapshot::named(session, &parameter, &open, &first.path)?),
        None => None,
    };
    // Proxmox says by this that the target reads as zeros
    let zeroed = target.as_encoded_bytes().strip_prefix(b"zeroinit:");
    let name = zeroed.map(super::getopt::os);
    let target = source::target(name.as_ref().unwrap_or(target), given.has("target-image-opts"))?;
    if let Some(named) = target.format {
        format = named;
    }
    let mut no_create = given.has("no-create");
    if no_create {
        source::look(&report::printable(&target.path), &target.path)?;
    }
    let mut grow_to = 0;
    if no_create && format == Format::Qcow2 {
        let sources: Vec<&Path> =
            [&first.path].into_iter().chain(&more_sources).map(PathBuf::as_path).collect();
        let size = existing::size_of(session, &open, &sources)?;
        grow_to = existing::anew(session, &target.path, &mut settled.target, size)?;
        no_create = false;
    }
    let target_is_zero = no_create && (given.has("target-is-zero") || zeroed.is_some());
    let cache = if read == Some(CacheMode::Direct) { Cache::Drop } else { Cache::Keep };
    let args = ConvertArgs {
        compress: given.has("compress"),
        bitmaps: given.has("bitmaps"),
        skip_broken_bitmaps: given.has("skip-broken-bitmaps"),
        backing,
        snapshot,
        sparse,
        cache,
        direct: written == Some(CacheMode::Direct),
        no_sync: written == Some(CacheMode::Unsafe),
        no_create,
        target_is_zero,
        work: WorkArgs { progress: given.has("progress") && !given.has("quiet"), threads },
        rate,
        more_sources,
        grow_to,
        salvage: given.has("salvage"),
        ..plain((first.path, target.path), open, format, settled.target)
    };
    Ok((args, unknown))
}

/// A conversion without any option.
pub(super) fn plain(
    (source, target): (PathBuf, PathBuf),
    open: OpenArgs,
    format: Format,
    written: TargetArgs,
) -> ConvertArgs {
    ConvertArgs {
        source,
        target,
        open,
        output_format: Some(format),
        aimed: AimArgs::default(),
        written,
        compress: false,
        bitmaps: false,
        skip_broken_bitmaps: false,
        dedupe: false,
        backing: None,
        snapshot: None,
        sparse: None,
        reflink: When::Auto,
        preallocation: Room::Off,
        cache: Cache::Keep,
        direct: false,
        no_sync: false,
        no_create: false,
        target_is_zero: false,
        work: WorkArgs { progress: false, threads: None },
        rate: None,
        more_sources: Vec::new(),
        grow_to: 0,
        part: None,
        replaces_source: false,
        checksum: Vec::new(),
        salvage: false,
        output: Output::Human,
    }
}

/// The sources and the target.
fn split_operands(given: &Given) -> (&[std::ffi::OsString], Option<&std::ffi::OsString>) {
    match given.operands.split_last() {
        Some((target, sources)) => (sources, Some(target)),
        None => (&[], None),
    }
}

fn sparse(given: &Given) -> Result<Option<u64>, Failure> {
    let Some(text) = given.text("sparse-size") else { return Ok(None) };
    let what = "Invalid buffer size for sparse output specified";
    let size = parse_size(&text).map_err(|_| Failure::new(format!("{what}: '{text}'.")))?;
    if size % 512 != 0 || size > MOST_SPARSE {
        return Err(Failure::new(format!(
            "{what}. Valid sizes are multiples of 512 up to {MOST_SPARSE}. Select 0 to disable \
             sparse detection (fully allocates output)."
        )));
    }
    // our blocks are powers of two: as much as was asked for is written out, or more
    Ok(Some(if size == 0 { 0 } else { size.next_power_of_two() }))
}

fn threads(given: &Given) -> Result<Option<NonZeroUsize>, Failure> {
    let Some(text) = given.text("parallel") else { return Ok(None) };
    let what = "Invalid number of coroutines specified";
    let number: usize = text.parse().map_err(|_| Failure::new(format!("{what}: '{text}'.")))?;
    match NonZeroUsize::new(number).filter(|number| number.get() <= 16) {
        Some(number) => Ok(Some(number)),
        None => Err(Failure::new(format!("{what}. Must be between 1 and 16."))),
    }
}

pub(super) fn rate(given: &Given) -> Result<Option<NonZeroU64>, Failure> {
    let Some(text) = given.text("rate") else { return Ok(None) };
    let wrong = || Failure::new(format!("Invalid rate limit specified: '{text}'."));
    // none at all is no limit
    parse_size(&text).map(NonZeroU64::new).map_err(|_| wrong())
}

/// What the options of a target come to.
pub(super) struct Settled {
    pub(super) target: TargetArgs,
    /// The size, which is one of them.
    pub(super) size: Option<u64>,
    /// The backing file, if the options name it.
    pub(super) backing: Option<String>,
    /// Whether the options name its format.
    pub(super) names_format: bool,
}

/// The options of a format: those that are qemu-img's alone are settled here.
pub(super) fn settled(
    format: Format,
    options: Vec<String>,
    backing_format: Option<String>,
) -> Result<Settled, Failure> {
    let parse = |name: &String| {
        name.parse().map_err(|_| Failure::new(format!("Unknown file format '{name}'")))
    };
    let backing_format = backing_format.as_ref().map(parse).transpose()?;
    let mut settled = Settled {
        target: TargetArgs { options: Vec::new(), seed: None, backing_format },
        size: None,
        backing: None,
        names_format: false,
    };
    let mut forces_size = false;
    for (key, value) in options.iter().flat_map(|options| split(options)) {
        match &*key {
            "size" => {
                let wrong = |_| Failure::new(format!("Invalid image size specified: '{value}'."));
                settled.size = Some(parse_size(&value).map_err(wrong)?);
                continue;
            }
            // hints to the file system
            "extent_size_hint" => continue,
            "nocow" if matches!(&*value, "off" | "no" | "false") => continue,
            "encryption" if matches!(&*value, "off" | "no" | "false") => continue,
            key if key.starts_with("encrypt") || key.ends_with("key-secret") => {
                return Err(Failure::new(format!(
                    "diskimage does not write encrypted images, as '{key}' asks for"
                )));
            }
            "preallocation" if format == Format::Raw && value == "metadata" => {
                return Err(Failure::new("Unsupported preallocation mode: metadata"));
            }
            "backing_file" => settled.backing = Some(value.clone()),
            "backing_fmt" => settled.names_format = true,
            "force_size" => forces_size = true,
            _ => {}
        }
        let pair = if matches!(&*key, "help" | "?") { key } else { format!("{key}={value}") };
        let pair = pair.replace(',', ",,");
        settled.target.options.push(pair);
    }
    if format == Format::Vhd && !forces_size {
        // the default there: the size is rounded up to a geometry of the disk
        settled.target.options.push("force_size=off".into());
    }
    Ok(settled)
}
