//! `diskimage map --picture`: where data, zeros and holes lie, at a glance. A picture has so many
//! cells whatever the size of the disk; each tells of a range of it.

mod svg;
mod terminal;

use std::path::{Path, PathBuf};

use clap::builder::{OsStringValueParser, TypedValueParser};
use diskimage::{Chain, Extent, ExtentKind, VirtualDisk};

pub(crate) use svg::{SHAPE, write};
pub(crate) use terminal::{print, shape};

use crate::size::{UNITS, human_size, sized};

/// The smallest cell: a sector.
const SMALLEST: u64 = 512;
/// How many images of a chain are told from each other; those below count as one.
const LAYERS: usize = 8;

/// Where a picture goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Picture {
    /// To standard output, in characters.
    Terminal,
    /// Into a file, as SVG.
    File(PathBuf),
}

/// Reads the argument of `--picture`.
pub(crate) fn picture_parser() -> impl TypedValueParser<Value = Picture> {
    OsStringValueParser::new().try_map(|name| parse_picture(Path::new(&name)))
}

fn parse_picture(path: &Path) -> Result<Picture, String> {
    if path.as_os_str() == "-" {
        return Ok(Picture::Terminal);
    }
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("svg")) {
        return Ok(Picture::File(path.to_owned()));
    }
    // an image that stands behind --picture by mistake must not be written over
    Err("the name of a picture ends with .svg; for one on the terminal write --picture=-".into())
}

/// What bytes of a disk are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Data,
    Compressed,
    Zero,
    Hole,
    Unallocated,
}

impl Kind {
    /// All of them; where several are in one cell, the first ones matter most.
    pub(crate) const ALL: [Self; 5] =
        [Self::Data, Self::Compressed, Self::Zero, Self::Hole, Self::Unallocated];

    pub(crate) fn of(kind: ExtentKind) -> Self {
        match kind {
            ExtentKind::Stored(_) => Self::Data,
            ExtentKind::Encoded => Self::Compressed,
            ExtentKind::Zero { allocated: true, .. } => Self::Zero,
            ExtentKind::Hole(_) => Self::Hole,
            ExtentKind::Zero { allocated: false, .. } => Self::Unallocated,
        }
    }

    /// The word in a map.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Compressed => "compressed",
            Self::Zero => "zero",
            Self::Hole => "hole",
            Self::Unallocated => "unallocated",
        }
    }

    /// What that means, for a legend.
    fn meaning(self) -> &'static str {
        match self {
            Self::Data => "stored as they are",
            Self::Compressed => "stored compressed",
            Self::Zero => "zeros, says an image",
            Self::Hole => "zeros: the file has a hole",
            Self::Unallocated => "zeros: never written",
        }
    }
}

/// Bytes, and in how many ranges of the map they lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sum {
    bytes: u64,
    ranges: u64,
}

impl Sum {
    fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.ranges += 1;
    }
}

/// What lies in the range of a cell: bytes of each kind, and bytes that each image has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Cell {
    kinds: [u64; Kind::ALL.len()],
    layers: [u64; LAYERS],
}

/// An image of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    name: String,
    format: &'static str,
    sum: Sum,
}

/// A picture, without a form yet.
#[derive(Debug)]
pub(crate) struct Grid {
    /// The file and what it is.
    title: String,
    about: String,
    start: u64,
    end: u64,
    /// How many bytes a cell tells of: a power of two.
    cell: u64,
    columns: usize,
    cells: Vec<Cell>,
    kinds: [Sum; Kind::ALL.len()],
    sources: Vec<Source>,
}

impl Grid {
    /// An empty one for the bytes from `start` to `end` of a disk, of so many columns and at most so
    /// many rows.
    pub(crate) fn new(
        path: &Path,
        disk: &Chain,
        (start, end): (u64, u64),
        (columns, rows): (usize, usize),
    ) -> Self {
        let end = end.min(disk.size());
        let start = start.min(end);
        let most = (columns * rows) as u64;
        let cell = (end - start).div_ceil(most).next_power_of_two().max(SMALLEST);
        let count = usize::try_from((end - start).div_ceil(cell)).unwrap_or(0);
        let sources = disk.images().iter().map(|image| Source {
            name: crate::report::printable(image.path()),
            format: image.layer().format().name(),
            sum: Sum::default(),
        });
        let top = disk.images().first();
        let format = top.map(|image| image.layer().format());
        Self {
            title: crate::report::printable(path),
            about: about(format, disk.size(), start..end),
            start,
            end,
            cell,
            columns,
            cells: vec![Cell::default(); count],
            kinds: Default::default(),
            sources: sources.collect(),
        }
    }

    /// Takes a range of the map up; those of one picture do not overlap.
    pub(crate) fn add(&mut self, extent: &Extent) {
        let (mut at, end) = (extent.start.max(self.start), extent.end().min(self.end));
        if at >= end {
            return;
        }
        let kind = Kind::of(extent.kind);
        self.kinds[kind as usize].add(end - at);
        let depth = extent.depth as usize;
        let has_image = kind != Kind::Unallocated;
        if let Some(source) = self.sources.get_mut(depth).filter(|_| has_image) {
            source.sum.add(end - at);
        }
        while at < end {
            let index = (at - self.start) / self.cell;
            let next = self.start.saturating_add((index + 1).saturating_mul(self.cell)).min(end);
            let Some(cell) = usize::try_from(index).ok().and_then(|i| self.cells.get_mut(i)) else {
                return;
            };
            cell.kinds[kind as usize] += next - at;
            if has_image {
                cell.layers[depth.min(LAYERS - 1)] += next - at;
            }
            at = next;
        }
    }

    /// Whether there is more than one image to tell from the others.
    fn is_chain(&self) -> bool {
        self.sources.len() > 1
    }

    fn rows(&self) -> impl Iterator<Item = (u64, &[Cell])> {
        let row = self.cell.saturating_mul(self.columns as u64);
        let rows = self.cells.chunks(self.columns).zip(0..);
        rows.map(move |(cells, index): (_, u64)| (self.start + index * row, cells))
    }

    /// `1.5 GiB (1610612736 bytes), 37.5 %, in 12 ranges`.
    fn amount(&self, sum: Sum) -> String {
        let share = sum.bytes as f64 * 100.0 / (self.end - self.start).max(1) as f64;
        let share = match share {
            _ if sum.bytes == 0 => "0".to_owned(),
            share if share < 0.01 => "less than 0.01".to_owned(),
            share if share > 99.99 && sum.bytes < self.end - self.start => "over 99.99".to_owned(),
            share => format!("{share:.2}").trim_end_matches('0').trim_end_matches('.').to_owned(),
        };
        let ranges = if sum.ranges == 1 { "range" } else { "ranges" };
        format!("{}, {share} %, in {} {ranges}", sized(sum.bytes), sum.ranges)
    }
}

fn about(format: Option<diskimage::Format>, size: u64, shown: std::ops::Range<u64>) -> String {
    let format = format.map(|format| format!("{} ({}), ", format.description(), format.name()));
    let part = if shown == (0..size) {
        String::new()
    } else {
        format!(", shown from byte {} to byte {}", shown.start, shown.end)
    };
    format!("{}disk of {}{part}", format.unwrap_or_default(), sized(size))
}

/// A place on the disk, for people but not rounded: `1.5 MiB`, `1152 KiB`.
fn exact(bytes: u64) -> String {
    let unit = (bytes.checked_ilog2().unwrap_or(0) / 10) as usize;
    // a quarter has two digits, an eighth has three
    let quarters = 1u64 << (unit * 10).saturating_sub(2);
    if bytes.is_multiple_of(quarters) {
        return human_size(bytes);
    }
    let (mut bytes, mut unit) = (bytes, 0);
    while bytes.is_multiple_of(1024) {
        bytes /= 1024;
        unit += 1;
    }
    format!("{bytes} {}", UNITS[unit])
}

/// `text` in at most `most` characters: what is left out is in its middle.
fn shortened(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text.to_owned();
    }
    let (head, tail) = (most / 2, (most - 1) / 2);
    let start: String = text.chars().take(head).collect();
    let end: String = text.chars().skip(count - tail).collect();
    format!("{start}…{end}")
}

#[cfg(test)]
mod tests {
    use diskimage::{Location, StorageId};

    use super::*;

    pub(super) fn grid(size: u64, columns: usize, rows: usize, images: usize) -> Grid {
        let cell = size.div_ceil((columns * rows) as u64).next_power_of_two().max(SMALLEST);
        let source =
            |i| Source { name: format!("image {i}"), format: "qcow2", sum: Sum::default() };
        Grid {
            title: "test.qcow2".to_owned(),
            about: about(Some(diskimage::Format::Qcow2), size, 0..size),
            start: 0,
            end: size,
            cell,
            columns,
            cells: vec![Cell::default(); size.div_ceil(cell) as usize],
            kinds: Default::default(),
            sources: (0..images).map(source).collect(),
        }
    }

    pub(super) fn extent(start: u64, length: u64, depth: u32, kind: Kind) -> Extent {
        let at = Location { storage: StorageId(0), offset: 0 };
        let kind = match kind {
            Kind::Data => ExtentKind::Stored(at),
            Kind::Compressed => ExtentKind::Encoded,
            Kind::Hole => ExtentKind::Hole(at),
            Kind::Zero => ExtentKind::Zero { allocated: true, stored: None },
            Kind::Unallocated => ExtentKind::Zero { allocated: false, stored: None },
        };
        Extent { start, length, depth, kind }
    }

    #[test]
    fn cells_add_up_to_the_whole_for_any_size() {
        for size in [1, 511, 512, 513, 1 << 20, (1 << 20) + 1, 64 << 40, u64::MAX] {
            let mut grid = grid(size, 64, 64, 2);
            assert!(grid.cells.len() <= 64 * 64, "{size}");
            let third = size.div_ceil(3);
            let mut at = 0;
            for (index, kind) in [Kind::Data, Kind::Zero, Kind::Unallocated].into_iter().enumerate()
            {
                let length = third.min(size - at);
                if length > 0 {
                    grid.add(&extent(at, length, index as u32 % 2, kind));
                    at += length;
                }
            }
            let in_cells: u64 = grid.cells.iter().flat_map(|cell| cell.kinds).sum();
            let in_kinds: u64 = grid.kinds.iter().map(|sum| sum.bytes).sum();
            assert_eq!((in_cells, in_kinds), (size, size));
            let of_images: u64 = grid.cells.iter().flat_map(|cell| cell.layers).sum();
            assert_eq!(of_images, size - grid.kinds[Kind::Unallocated as usize].bytes);
        }
    }

    #[test]
    fn a_picture_is_not_written_over_an_image() {
        assert_eq!(parse_picture(Path::new("-")), Ok(Picture::Terminal));
        assert_eq!(parse_picture(Path::new("a/b.SVG")), Ok(Picture::File("a/b.SVG".into())));
        for name in ["disk.qcow2", "svg", ".svg", "x.svg.raw", ""] {
            assert!(parse_picture(Path::new(name)).is_err(), "{name}");
        }
    }

    #[test]
    fn places_are_not_rounded() {
        for (bytes, text) in [
            (0, "0 B"),
            (513, "513 B"),
            (1536, "1.5 KiB"),
            (1_179_648, "1152 KiB"),
            (1_310_720, "1.25 MiB"),
            ((40 << 40) + (1 << 39), "40.5 TiB"),
            ((40 << 40) + 1, "43980465111041 B"),
        ] {
            assert_eq!(exact(bytes), text);
        }
    }

    #[test]
    fn long_names_keep_both_their_ends() {
        assert_eq!(shortened("abcdefghij", 10), "abcdefghij");
        assert_eq!(shortened("abcdefghijk", 10), "abcde…hijk");
    }
}
