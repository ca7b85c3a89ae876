//! `diskimage map`: where data, zeros and holes are.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use diskimage::{
    Chain, Error, Extent, ExtentKind, Format, Progress, Result, VirtualDisk, VirtualDiskExt,
};

use crate::args::{MapArgs, Output, argument_bytes};
use crate::bar::Answer;
use crate::bounds::Bounds;
use crate::picture::{Grid, Kind, Picture};
use crate::size::human_size;
use crate::watch::{Files, Watch};
use crate::{picture, report, style};

pub(crate) fn run(args: &MapArgs, bounds: &Bounds) -> u8 {
    // a picture is printed when all of it is known
    let watch = Watch::reading(bounds.progress(), Files::of(1), args.picture.is_none());
    match watch.all(|| answer(args, bounds, &watch.progress)) {
        Ok(printed) => report::printed(printed),
        Err(error) => report::fail(&error, &args.file),
    }
}

fn answer(args: &MapArgs, bounds: &Bounds, progress: &Arc<Progress>) -> Result<io::Result<()>> {
    let disk = open(args, bounds, progress)?;
    match args.output {
        Output::Json => write(args, &disk, progress, &mut Json::new(&disk)),
        Output::Human => write(args, &disk, progress, &mut Human { disk: &disk }),
    }
}

/// Opens the disk that is mapped.
pub(crate) fn open(args: &MapArgs, bounds: &Bounds, progress: &Arc<Progress>) -> Result<Chain> {
    let options = args.open.options(&args.file)?.limits(bounds.limits(1).0);
    let mut options = bounds.spilling(options).progress(Arc::clone(progress));
    if let Some(snapshot) = &args.snapshot {
        options = options.snapshot(argument_bytes(snapshot));
    }
    let disk = options.open(&args.file)?;
    bounds.tell_spilled();
    Ok(disk)
}

/// Writes the map in this form.
pub(crate) fn write(
    args: &MapArgs,
    disk: &Chain,
    progress: &Progress,
    form: &mut dyn Form,
) -> Result<io::Result<()>> {
    let end = args.max_length.map_or(u64::MAX, |max| args.start_offset.saturating_add(max));
    progress.start(end.min(disk.size()).saturating_sub(args.start_offset));
    let extents = disk.extents(args.start_offset..end).inspect(|extent| {
        progress.advance(extent.as_ref().map_or(0, |extent| extent.length));
    });
    let merged = Merged { extents, pending: None, failed: None };
    if let Some(picture) = &args.picture {
        let picture = picture.as_ref().unwrap_or(&Picture::Terminal);
        return draw(args, disk, end, merged, picture);
    }
    let mut out = BufWriter::new(Answer::new());
    // the answer is written as it is found, so that a map of any length takes no memory
    if let Err(error) = form.start(&mut out) {
        return Ok(Err(error));
    }
    for extent in merged {
        let extent = match extent {
            Ok(extent) => extent,
            Err(error) => {
                // what was found so far stays readable
                let _ = form.end(&mut out).and_then(|()| out.flush());
                return Err(error);
            }
        };
        if let Err(error) = form.extent(&mut out, &extent) {
            return Ok(Err(error));
        }
    }
    Ok(form.end(&mut out).and_then(|()| out.flush()))
}

/// Draws the map up to `end`. Nothing is drawn of one that cannot be read to its end.
fn draw(
    args: &MapArgs,
    disk: &Chain,
    end: u64,
    map: impl Iterator<Item = Result<Extent>>,
    picture: &Picture,
) -> Result<io::Result<()>> {
    let width = style::width();
    let shape = match picture {
        Picture::Terminal => picture::shape(width),
        Picture::File(_) => picture::SHAPE,
    };
    let mut grid = Grid::new(&args.file, disk, (args.start_offset, end), shape);
    for extent in map {
        grid.add(&extent?);
    }
    match picture {
        Picture::File(path) => picture::write(&grid, path, disk).map(Ok),
        Picture::Terminal => {
            let mut out = BufWriter::new(Answer::new());
            Ok(picture::print(&grid, width, &mut out).and_then(|()| out.flush()))
        }
    }
}

/// Joins neighbours that are of one kind.
struct Merged<I> {
    extents: I,
    pending: Option<Extent>,
    /// What ended it, told after all that was found before.
    failed: Option<Error>,
}

impl<I: Iterator<Item = Result<Extent>>> Iterator for Merged<I> {
    type Item = Result<Extent>;

    fn next(&mut self) -> Option<Self::Item> {
        for next in self.extents.by_ref() {
            match (next, &mut self.pending) {
                (Ok(next), Some(pending)) if pending.continues_with(&next) => {
                    pending.length += next.length;
                }
                (Ok(next), pending) => {
                    if let Some(done) = pending.replace(next) {
                        return Some(Ok(done));
                    }
                }
                (Err(error), _) => self.failed = Some(error),
            }
        }
        self.pending.take().map(Ok).or_else(|| self.failed.take().map(Err))
    }
}

/// A form of the answer.
pub(crate) trait Form {
    fn start(&mut self, out: &mut dyn Write) -> io::Result<()>;
    fn extent(&mut self, out: &mut dyn Write, extent: &Extent) -> io::Result<()>;
    fn end(&mut self, out: &mut dyn Write) -> io::Result<()>;
}

/// qemu-img's: an array with an object on each line.
pub(crate) struct Json<'a> {
    disk: &'a Chain,
    first: bool,
    line: String,
}

impl<'a> Json<'a> {
    pub(crate) fn new(disk: &'a Chain) -> Self {
        Self { disk, first: true, line: String::new() }
    }
}

impl Form for Json<'_> {
    fn start(&mut self, out: &mut dyn Write) -> io::Result<()> {
        write!(out, "[")
    }

    fn extent(&mut self, out: &mut dyn Write, extent: &Extent) -> io::Result<()> {
        let (present, zero, compressed) = match extent.kind {
            ExtentKind::Stored(_) => (true, false, false),
            ExtentKind::Hole(_) => (true, true, false),
            ExtentKind::Encoded => (true, false, true),
            ExtentKind::Zero { allocated, .. } => (allocated, true, false),
        };
        // where a format stores data the file may have a hole: qemu-img calls that both
        let image = self.disk.images().get(extent.depth as usize);
        let is_raw = image.is_some_and(|image| image.layer().format() == Format::Raw);
        let data = !zero || (matches!(extent.kind, ExtentKind::Hole(_)) && !is_raw);
        let separator = if std::mem::take(&mut self.first) { "" } else { ",\n" };
        let word = |value: bool| if value { "true" } else { "false" };
        // put together by hand, since a map can have millions of lines and holds only numbers
        let line = &mut self.line;
        line.clear();
        let mut number = itoa::Buffer::new();
        for (before, value) in [
            ("{\"start\": ", extent.start),
            (", \"length\": ", extent.length),
            (", \"depth\": ", extent.depth.into()),
        ] {
            line.push_str(before);
            line.push_str(number.format(value));
        }
        for (before, value) in [
            (", \"present\": ", present),
            (", \"zero\": ", zero),
            (", \"data\": ", data),
            (", \"compressed\": ", compressed),
        ] {
            line.push_str(before);
            line.push_str(word(value));
        }
        if let Some(location) = extent.kind.location() {
            line.push_str(", \"offset\": ");
            line.push_str(number.format(location.offset));
        }
        line.push('}');
        out.write_all(separator.as_bytes())?;
        out.write_all(line.as_bytes())
    }

    fn end(&mut self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "]")
    }
}

struct Human<'a> {
    disk: &'a Chain,
}

impl Form for Human<'_> {
    fn start(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let titles = format_args!(
            "{:<20}{:<20}{:>11}  {:<13}{:<20}FILE",
            "START", "LENGTH", "", "KIND", "OFFSET"
        );
        writeln!(out, "{}", style::heading(titles))
    }

    fn extent(&mut self, out: &mut dyn Write, extent: &Extent) -> io::Result<()> {
        let kind = Kind::of(extent.kind).word();
        let location = extent.kind.location();
        let offset = location.map(|location| format!("{:#x}", location.offset));
        // what is nowhere has no file; what is compressed lies in the image of that depth
        let path = match (location, extent.kind) {
            (Some(location), _) => self.disk.storage(location.storage).and_then(|s| s.path()),
            (None, ExtentKind::Encoded) => {
                self.disk.images().get(extent.depth as usize).map(|image| image.path())
            }
            (None, _) => None,
        };
        let line = format!(
            "{:<20}{:<20}{:>11}  {kind:<13}{:<20}{}",
            format!("{:#x}", extent.start),
            format!("{:#x}", extent.length),
            human_size(extent.length),
            offset.unwrap_or_default(),
            path.map(report::printable).unwrap_or_default(),
        );
        writeln!(out, "{}", line.trim_end())
    }

    fn end(&mut self, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
}
