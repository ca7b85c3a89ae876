//! `diskimage convert`: an image into a raw disk, or into an image of another format.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use diskimage::checksum::{Algorithm, Digest};
use diskimage::container::Compressed;
use diskimage::convert::Report;
use diskimage::disk::{GrownDisk, PartDisk};
use diskimage::storage::Access;
use diskimage::target::{Existing, FilePatch, FileTarget, FilesTarget, SpillTarget, StreamTarget};
use diskimage::writer::{Forward, Full};
use diskimage::{
    Chain, Convert, Error, ErrorKind, Format, OpenOptions, Progress, Result, Target, VirtualDisk,
    Writer,
};
use serde_json::json;

use crate::args::{Cache, ConvertArgs, Output, Room, When, argument_bytes};
use crate::bounds::Bounds;
use crate::checksum::{digest_line, job_of};
use crate::image::Spec;
use crate::joined::Joined;
use crate::paced::Paced;
use crate::package::Aim;
use crate::size::human_size;
use crate::watch::{Show, Signals, shown, watched};
use crate::{image, output, report};

pub(crate) fn run(args: &ConvertArgs, bounds: &Bounds) -> u8 {
    let (aim, format) = match args.aimed.aim(args.output_format) {
        Ok(aim) => aim,
        Err(error) => return report::fail(&error, &args.source),
    };
    if let Some(help) = args.written.help(format) {
        print!("{help}");
        return report::OK;
    }
    // a pipe that nobody reads blocks for ever, and leaves no file to clean up
    let signals = Signals::catch(to_stdout(args));
    match convert(args, (aim, format), bounds, &signals) {
        Ok((report, digests)) => conclude(args, format, bounds, &report, &digests),
        Err(error) => {
            let stream = to_stdout(args) && error.kind() == ErrorKind::Io;
            let file = if stream { Path::new("standard output") } else { &*args.source };
            report::error(&error, file);
            report::code(&error, signals.caught())
        }
    }
}

fn to_stdout(args: &ConvertArgs) -> bool {
    args.target.as_os_str() == "-"
}

fn convert(
    args: &ConvertArgs,
    (aim, format): (Option<Aim>, Format),
    bounds: &Bounds,
    signals: &Signals,
) -> Result<(Report, Vec<Digest>)> {
    let mut spec = args.written.parse(aim.as_ref(), format, args.backing.as_deref())?;
    if let Some(aim) = aim.filter(|_| spec.backing.is_some()) {
        aim.refuse_backing()?;
    }
    if args.compress {
        spec.compress()?;
    }
    if args.dedupe {
        spec.dedupe()?;
    }
    spec.set_room(args.preallocation)?;
    spec.set_name(&args.target);
    // where qemu-img prints it, unless the disk or the report goes there
    let to_stderr = to_stdout(args) || args.output == Output::Json;
    let show = shown(args.work.progress, Show::at_once(to_stderr), false);
    let progress = bounds.progress();
    watched(show, signals, &progress, || write(args, spec, aim, bounds, &progress, signals))
}

/// Opens the disk and writes it.
fn write(
    args: &ConvertArgs,
    mut spec: Spec,
    aim: Option<Aim>,
    bounds: &Bounds,
    progress: &Arc<Progress>,
    signals: &Signals,
) -> Result<(Report, Vec<Digest>)> {
    let format = spec.format;
    let sources = args.more_sources.len() as u64 + 1;
    let (limits, buffers) = bounds.limits(sources + u64::from(spec.backing.is_some()));
    let options = |source: &Path| -> Result<OpenOptions> {
        let options = args.open.options(source)?.limits(limits.clone());
        let mut options = options.progress(Arc::clone(progress));
        if let Some(snapshot) = &args.snapshot {
            options = options.snapshot(argument_bytes(snapshot));
        }
        Ok(bounds.spilling(options))
    };
    let options_of_first = options(&args.source)?;
    if let Some(compressed) = decodable(args, &spec, &options_of_first)? {
        let job = Convert::new().progress(Arc::clone(progress));
        if let Some(done) = decode(args, &compressed, job, signals)? {
            return Ok(done);
        }
    }
    let mut disks = vec![options_of_first.open(&args.source)?];
    for source in &args.more_sources {
        disks.push(options(source)?.open(source)?);
    }
    bounds.tell_spilled();
    if args.bitmaps {
        spec.bitmaps(&disks[0], args.snapshot.is_some(), args.skip_broken_bitmaps)?;
    }
    let backing = spec.open_backing(&args.target, &args.open, |options| {
        options.limits(limits.clone()).progress(Arc::clone(progress))
    })?;
    let joined = Joined::new(&disks);
    let whole: &dyn VirtualDisk = if disks.len() == 1 { &disks[0] } else { &joined };
    let part = args.part.as_ref().map(|range| PartDisk::new(whole, range.clone()));
    let whole = part.as_ref().map_or(whole, |part| -> &dyn VirtualDisk { part });
    spec.packages.look_at(format, whole);
    let disk = Sized::new(&disks, whole, args.grow_to, aim.as_ref())?;
    let writer = spec.writer(disk.size())?;
    let mut target = open_target(args, &spec, writer.as_deref(), &disk, backing.as_ref())?;
    if let Some(rate) = args.rate {
        target = Box::new(Paced::new(target, rate.get(), Arc::clone(progress)));
    }
    disk.tell(&args.target, aim.as_ref());
    if args.direct {
        for storage in disks.iter().flat_map(Chain::storages) {
            storage.advise(Access::Direct)?;
        }
    }
    let forget = args.cache == Cache::Drop;
    let mut job = Convert::new()
        .reflink(args.reflink.into())
        .forget(forget)
        .max_memory(buffers)
        .salvage(args.salvage)
        .progress(Arc::clone(progress));
    if let Some(granularity) = args.sparse {
        job = job.sparse(granularity);
    }
    if let Some(threads) = args.work.threads {
        job = job.threads(threads);
    }
    let below = backing.as_ref().map(|disk| -> &dyn VirtualDisk { disk });
    let disk = disk.disk();
    let done = match (&*args.checksum, writer) {
        ([], None) => (job.run(disk, &*target)?, Vec::new()),
        ([], Some(writer)) => (job.image(disk, writer, below, &*target)?, Vec::new()),
        (some, None) => job_of(some).convert(&job, disk, &*target)?,
        (some, Some(writer)) => job_of(some).image(&job, disk, writer, below, &*target)?,
    };
    if signals.caught().is_some() {
        return Err(Error::other(ErrorKind::Cancelled, "stopped on request"));
    }
    if args.replaces_source {
        unused(&args.source, disks.first(), progress)?;
    }
    target.finish()?;
    Ok(done)
}

/// Sees to it that the image at `path`, which is to be replaced, is still the one that was read, and
/// that no other process uses it.
pub(crate) fn unused(path: &Path, disk: Option<&Chain>, progress: &Arc<Progress>) -> Result<()> {
    let read = disk.and_then(|disk| disk.images().first()?.storage()?.identity());
    FilePatch::open(path, read, Arc::clone(progress)).map(drop)
}

/// The disk, of the size that it is to have.
struct Sized<'a> {
    /// What it is read from.
    chains: &'a [Chain],
    whole: &'a dyn VirtualDisk,
    grown: GrownDisk<'a>,
}

impl<'a> Sized<'a> {
    fn new(
        chains: &'a [Chain],
        whole: &'a dyn VirtualDisk,
        least: u64,
        aim: Option<&Aim>,
    ) -> Result<Self> {
        let size = whole.size().max(least);
        let size = aim.map_or(Ok(size), |aim| aim.size(size))?;
        Ok(Self { chains, whole, grown: GrownDisk::new(whole, size) })
    }

    fn size(&self) -> u64 {
        self.grown.size()
    }

    fn disk(&self) -> &dyn VirtualDisk {
        if self.size() == self.whole.size() { self.whole } else { &self.grown }
    }

    /// Tells that the size is another one.
    fn tell(&self, target: &Path, aim: Option<&Aim>) {
        if let Some(aim) = aim {
            aim.tell(target, self.whole.size(), self.size());
        }
    }
}

/// The compressed file with a raw disk in it that is read, where it can be written as it is decoded:
/// into a new file, whose size need not be known. What goes to standard output cannot be taken back
/// once its end shows that it is no raw disk.
fn decodable(args: &ConvertArgs, spec: &Spec, options: &OpenOptions) -> Result<Option<Compressed>> {
    let takes = !args.no_create
        && !args.salvage
        && !args.direct
        && args.snapshot.is_none()
        && args.rate.is_none()
        && args.more_sources.is_empty()
        && args.part.is_none()
        && args.grow_to == 0
        && spec.format == Format::Raw
        && spec.room == Room::Off
        && args.reflink != When::Always
        && !args.checksum.contains(&Algorithm::Blkhash)
        && !to_stdout(args)
        && std::fs::metadata(&args.target).map_or(true, |target| target.is_file());
    if takes { options.open_compressed_disk(&args.source) } else { Ok(None) }
}

/// Writes the disk as it is decoded. `None` if it turns out to be no raw disk.
fn decode(
    args: &ConvertArgs,
    compressed: &Compressed,
    mut job: Convert,
    signals: &Signals,
) -> Result<Option<(Report, Vec<Digest>)>> {
    if let Some(granularity) = args.sparse {
        job = job.sparse(granularity);
    }
    if let Some(threads) = args.work.threads {
        job = job.threads(threads);
    }
    let target = FileTarget::create(&args.target, 0)?;
    image::refuse_own_source(&target, &args.target, [&**compressed.storage()])?;
    let target = target.forget(args.cache == Cache::Drop).durable(!args.no_sync);
    let done = match &*args.checksum {
        [] => job.run_compressed(compressed, &target)?.map(|report| (report, Vec::new())),
        some => job_of(some).convert_compressed(&job, compressed, &target)?,
    };
    let Some(done) = done else { return Ok(None) };
    if signals.caught().is_some() {
        return Err(Error::other(ErrorKind::Cancelled, "stopped on request"));
    }
    target.resize(done.0.size)?;
    Box::new(target).finish()?;
    Ok(Some(done))
}

fn open_target(
    args: &ConvertArgs,
    spec: &Spec,
    writer: Option<&dyn Writer>,
    disk: &Sized<'_>,
    backing: Option<&Chain>,
) -> Result<Box<dyn Target>> {
    if to_stdout(args) {
        return to_stream(spec, writer, backing.is_some());
    }
    let (size, (room, how)) = match writer {
        None => (disk.size(), (disk.size(), spec.room.into())),
        Some(writer) => (0, spec.room_of(writer)?),
    };
    // the image itself may be replaced once it was read, but nothing else that is
    let own = disk.chains.first().and_then(|chain| chain.images().first()?.storage()?.identity());
    let own = own.filter(|_| args.replaces_source);
    let read = disk.chains.iter().flat_map(Chain::storages);
    let read = read.filter(|storage| own.is_none() || storage.identity() != own);
    let read = read.chain(backing.into_iter().flat_map(Chain::storages));
    if let Some(writer) = writer.filter(|writer| !writer.files().is_empty() && !args.no_create) {
        let target = FilesTarget::create(&args.target, writer.files())?;
        let target = target.forget(args.cache == Cache::Drop).durable(!args.no_sync);
        image::refuse_own_source(target.main(), &args.target, read)?;
        return Ok(Box::new(if args.direct { target.direct()? } else { target }));
    }
    let target = if args.no_create {
        if writer.is_some() {
            let message = "only a raw disk is written into what exists";
            return Err(Error::other(ErrorKind::InvalidInput, message)
                .advise("leave -n out: a device is written in place anyway"));
        }
        let content = if args.target_is_zero { Existing::Zeros } else { Existing::Unknown };
        FileTarget::existing(&args.target, size, content)?
    } else {
        FileTarget::create(&args.target, size)?.preallocate(room, how)?
    };
    let mut target = target.forget(args.cache == Cache::Drop).durable(!args.no_sync);
    if args.direct {
        target = target.direct()?;
    }
    image::refuse_own_source(&target, &args.target, read)?;
    spec.packages.wrap(spec.format, Box::new(target), writer.map_or(0, Writer::size))
}

/// Standard output, behind a temporary file where the image cannot be written forward.
fn to_stream(
    spec: &Spec,
    writer: Option<&dyn Writer>,
    has_backing: bool,
) -> Result<Box<dyn Target>> {
    if spec.room != Room::Off {
        let message = "room can be set aside in a file only, not in standard output";
        return Err(
            Error::other(ErrorKind::InvalidInput, message).advise("leave preallocation at off")
        );
    }
    if let Some(files) = writer.map(Writer::files).filter(|files| !files.is_empty()) {
        let count = files.len().saturating_add(1);
        let message = format!("the image consists of {count} files, and standard output is one");
        return Err(Error::other(ErrorKind::InvalidInput, message)
            .advise("name a file, or choose an image of one file"));
    }
    let by_position = match writer {
        // its description is written last
        Some(_) if spec.format == Format::Ova => true,
        Some(writer) => match writer.forward() {
            Forward::Never => true,
            Forward::ByMap => has_backing,
            Forward::Always => false,
        },
        None => false,
    };
    if let Some(writer) = writer.filter(|_| by_position) {
        let folder = std::env::temp_dir();
        let limit = writer.file_size(&Full)?.saturating_add(spec.packages.overhead(spec.format));
        report::message(&format!(
            "standard output: this image cannot be written from start to end: it goes through a \
             temporary file of at most {} in {}",
            human_size(limit),
            report::printable(&folder)
        ));
        let target = Box::new(SpillTarget::new(io::stdout(), &folder, limit)?);
        return spec.packages.wrap(spec.format, target, writer.size());
    }
    Ok(Box::new(StreamTarget::new(io::stdout())))
}

/// Tells what was lost and the checksums, if any, and the exit code.
fn conclude(
    args: &ConvertArgs,
    format: Format,
    bounds: &Bounds,
    done: &Report,
    digests: &[Digest],
) -> u8 {
    let lost = done.lost.iter().map(|range| (range.start, range.end - range.start));
    let mut code = report::OK;
    for (start, length) in lost.clone() {
        let name = report::printable(&args.source);
        report::message(&format!("{name}: lost {length} bytes at guest offset {start:#x}"));
        code = report::LOST;
    }
    // nobody knows the checksum of a content that could not be read
    let of_content = if done.lost.is_empty() { digests } else { &[] };
    // a raw disk is its content, unless an existing target goes on behind it
    let is_raw = format == Format::Raw && !holds_more(args, done.size);
    let of_file = if is_raw { digests } else { &[] };
    if args.output == Output::Json && !to_stdout(args) {
        let lost = lost.map(|(start, length)| json!({ "start": start, "length": length }));
        let mut answer = json!({
            "virtual-size": done.size,
            "data-written": done.written,
            "spilled": bounds.spilled(),
            "lost": lost.collect::<Vec<_>>(),
        });
        if !digests.is_empty() {
            answer["content-checksums"] = output::digests(of_content);
            answer["file-checksums"] = output::digests(of_file);
        }
        return code.max(report::printed(output::print_json(&answer)));
    }
    // the disk goes to standard output
    let mut out: Box<dyn Write> =
        if to_stdout(args) { Box::new(io::stderr()) } else { Box::new(io::stdout()) };
    let content = of_content.iter().map(|digest| (digest, Path::new("content of the disk")));
    for (digest, name) in content.chain(of_file.iter().map(|digest| (digest, &*args.target))) {
        let mut line = digest_line(digest, name, true);
        line.push(b'\n');
        code = code.max(report::printed(out.write_all(&line)));
    }
    code
}

/// Whether the target is larger than the disk.
fn holds_more(args: &ConvertArgs, size: u64) -> bool {
    let holds = || std::fs::metadata(&args.target).ok().filter(|target| target.is_file());
    args.no_create && holds().is_none_or(|target| target.len() != size)
}
