//! What Google Compute Engine imports: a gzip file (RFC 1952) of a tar archive in GNU's old format
//! with one file, `disk.raw`, whose holes are left out ("Manually import boot disks": `tar
//! --format=oldgnu -Sczf`).
//!
//! The map of the file comes before its data, so the map of the disk says what is stored. It is one
//! stream of deflate: its pieces are encoded by all threads, and end at whole bytes.

use std::ops::Range;
use std::sync::Arc;

use super::pack;
use crate::codec::DeflatePieces;
use crate::error::{Error, ErrorKind, Result};
use crate::num::{Pow2, to_u64};
use crate::writer::{Encoder, Forward, Map, Plan, Run, RunKind, Writer};

/// What such a file is to be like: a builder.
///
/// ```
/// use diskimage::container::GceOptions;
/// use diskimage::disk::EmptyDisk;
/// use diskimage::target::StreamTarget;
/// use diskimage::{Convert, Target, Writer};
///
/// let mut out = Vec::new();
/// let writer = GceOptions::new().level(9).time(1_700_000_000).writer(10 << 30)?;
/// let target = StreamTarget::new(&mut out);
/// Convert::new().image(&EmptyDisk(10 << 30), Box::new(writer), None, &target)?;
/// Box::new(target).finish()?;
/// assert!(out.starts_with(&[0x1f, 0x8b]) && out.len() < 10_000); // gzip, and nothing but a map
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct GceOptions {
    level: i32,
    time: u64,
}

impl Default for GceOptions {
    fn default() -> Self {
        Self { level: DeflatePieces::DEFAULT_LEVEL, time: 0 }
    }
}

/// What is encoded at a time, and the smallest hole that is left out.
const UNIT_BITS: u32 = 18;
/// More runs of data than this are in no map: small holes are stored then, as zeros.
const MOST_RUNS: usize = 4096;
/// The longest run of a plan: zeros in it may be stored, some hundred bytes for each unit.
const LONGEST: u64 = 1 << 30;
/// What Compute Engine calls the disk.
const NAME: &str = "disk.raw";
/// The header of a gzip file: deflate, no name, no time, no system.
const GZIP: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// What a piece may take up beyond its bytes.
const SLACK: u64 = 128;

impl GceOptions {
    /// The default options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How hard it is compressed, as [`DeflatePieces::new`] has it. Default: 6.
    #[must_use]
    pub fn level(mut self, level: i32) -> Self {
        self.level = level;
        self
    }

    /// The time of the file in the archive, seconds since 1970 began. Default: 0.
    #[must_use]
    pub fn time(mut self, seconds: u64) -> Self {
        self.time = seconds;
        self
    }

    /// What writes a disk of `size` bytes that way. Compute Engine takes whole GiB only
    /// ([`Platform::rounded_size`](crate::platform::Platform::rounded_size)); any size is written.
    pub fn writer(&self, size: u64) -> Result<GceWriter> {
        let unit = Pow2::from_bits(UNIT_BITS).unwrap_or(Pow2::PAGE);
        if i64::try_from(unit.ceil(size)).is_err() {
            let message = format!("a file of {size} bytes is more than an archive can say");
            return Err(Error::other(ErrorKind::InvalidInput, message));
        }
        let deflate = DeflatePieces::new(self.level)?;
        let zeros = vec![0; crate::num::to_usize(unit.size())];
        let mut encoded = Vec::new();
        deflate.encode(&zeros, &mut encoded)?;
        Ok(GceWriter {
            size,
            unit,
            time: self.time,
            encoder: Arc::new(Pieces(deflate)),
            zeros: (encoded, crc32fast::hash(&zeros)),
            at: 0,
            archive: 0,
            least: 0,
            data: 0,
            checksum: crc32fast::Hasher::new(),
            stored: Vec::new(),
            next: 0,
        })
    }
}

#[derive(Debug)]
struct Pieces(DeflatePieces);

impl Encoder for Pieces {
    fn encode(&self, unit: &[u8], _guest: u64, out: &mut Vec<u8>) -> Result<bool> {
        self.0.encode(unit, out)?;
        Ok(true)
    }
}

/// Lays out such a file; see [`GceOptions::writer`].
///
/// ```
/// use diskimage::Writer;
/// use diskimage::container::GceOptions;
/// use diskimage::platform::Platform;
///
/// let size = Platform::Gce.rounded_size(700 << 20).expect("whole GiB");
/// let writer = GceOptions::new().writer(size)?;
/// assert_eq!(writer.size(), 1 << 30);
/// assert!(writer.needs_map()); // what is stored is told before it comes
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct GceWriter {
    size: u64,
    unit: Pow2,
    time: u64,
    encoder: Arc<Pieces>,
    /// A unit of zeros, encoded, and its CRC-32.
    zeros: (Vec<u8>, u32),
    /// Where the next piece goes.
    at: u64,
    /// Bytes of the archive so far.
    archive: u64,
    /// How many it has at least, without what marks its end.
    least: u64,
    /// How many bytes of data are still to come: whole units.
    data: u64,
    checksum: crc32fast::Hasher,
    /// The runs of the disk that are stored, whole units.
    stored: Vec<Range<u64>>,
    /// The first of them that is not passed yet.
    next: usize,
}

impl GceWriter {
    /// Writes bytes that are not of the disk.
    fn put(&mut self, bytes: &[u8], plan: &mut Plan) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut encoded = Vec::new();
        self.encoder.0.encode(bytes, &mut encoded)?;
        self.checksum.update(bytes);
        self.archive = self.archive.saturating_add(to_u64(bytes.len()));
        let length = to_u64(encoded.len());
        plan.bytes(self.at, encoded);
        self.at = self.at.saturating_add(length);
        Ok(())
    }

    /// Counts a unit of the disk that takes up `length` bytes.
    fn count(&mut self, checksum: u32, length: u64) -> Result<()> {
        let unit = self.unit.size();
        self.checksum.combine(&crc32fast::Hasher::new_with_initial_len(checksum, unit));
        self.archive = self.archive.saturating_add(unit);
        self.at = self.at.saturating_add(length);
        let left = self.data.checked_sub(unit);
        self.data = left.ok_or_else(changed)?;
        Ok(())
    }

    /// Stores what is zeros in `range` and yet belongs to a run that is stored.
    fn put_zeros(&mut self, range: &Range<u64>, plan: &mut Plan) -> Result<()> {
        while let Some(run) = self.stored.get(self.next).cloned() {
            let (start, end) = (run.start.max(range.start), run.end.min(range.end));
            let mut at = start;
            while at < end {
                let (encoded, checksum) = self.zeros.clone();
                let length = to_u64(encoded.len());
                plan.bytes(self.at, encoded);
                self.count(checksum, length)?;
                at = at.saturating_add(self.unit.size());
            }
            if run.end > range.end {
                break;
            }
            self.next = self.next.saturating_add(1);
        }
        Ok(())
    }
}

/// The header of the file in the archive, of which these runs are stored: whole units.
fn header(stored: &[Range<u64>], size: u64, time: u64) -> Vec<u8> {
    let cut = |run: &Range<u64>| run.start..run.end.min(size);
    let runs: Vec<_> = stored.iter().map(cut).collect();
    let whole = match runs.as_slice() {
        [] => size == 0,
        [only] => *only == (0..size),
        _ => false,
    };
    match whole {
        true => pack::header(pack::OLD_GNU, NAME, size, time),
        false => pack::sparse_header(NAME, size, &runs, time),
    }
}

/// How many bytes there are in these runs.
fn sum(runs: &[Range<u64>]) -> u64 {
    let length = |run: &Range<u64>| run.end.saturating_sub(run.start);
    runs.iter().map(length).fold(0, u64::saturating_add)
}

#[cold]
fn changed() -> Error {
    let message =
        "where the disk's data lie is not what it was at the start: the image is changing";
    Error::other(ErrorKind::Io, message).advise("see to it that nobody writes to it")
}

/// The runs of data, whole units; not more than [`MOST_RUNS`], for which small holes are taken in.
fn runs_of(map: &dyn Map, size: u64, unit: Pow2) -> Result<Vec<Range<u64>>> {
    let end = unit.ceil(size);
    let (mut runs, mut step) = (Vec::new(), unit);
    map.runs(0..end, &mut |run, data| {
        if !data || run.is_empty() {
            return;
        }
        add(&mut runs, &run, step, end);
        while runs.len() > MOST_RUNS {
            step = Pow2::from_size(step.size().saturating_mul(2)).unwrap_or(step);
            let finer = std::mem::take(&mut runs);
            finer.iter().for_each(|run| add(&mut runs, run, step, end));
        }
    })?;
    Ok(runs)
}

fn add(runs: &mut Vec<Range<u64>>, run: &Range<u64>, step: Pow2, end: u64) {
    let run = step.floor(run.start)..step.ceil(run.end).min(end);
    match runs.last_mut() {
        Some(last) if run.start <= last.end => last.end = last.end.max(run.end),
        _ => runs.push(run),
    }
}

impl Writer for GceWriter {
    fn size(&self) -> u64 {
        self.size
    }

    fn unit(&self) -> Pow2 {
        self.unit
    }

    fn encoder(&self) -> Option<Arc<dyn Encoder>> {
        let encoder: Arc<dyn Encoder> = Arc::<Pieces>::clone(&self.encoder);
        Some(encoder)
    }

    fn forward(&self) -> Forward {
        Forward::ByMap
    }

    fn needs_map(&self) -> bool {
        true
    }

    fn wants_checksums(&self) -> bool {
        true
    }

    fn longest_run(&self) -> u64 {
        LONGEST
    }

    fn file_size(&self, map: &dyn Map) -> Result<u64> {
        let stored = runs_of(map, self.size, self.unit)?;
        let (header, data) = (header(&stored, self.size, self.time), sum(&stored));
        let pieces = self.unit.index(data).saturating_add(2).saturating_mul(SLACK);
        let archive = pack::whole(to_u64(header.len()).saturating_add(data));
        Ok(archive.saturating_add(pieces))
    }

    fn begin(&mut self, map: Option<&dyn Map>, plan: &mut Plan) -> Result<()> {
        let none = || Error::other(ErrorKind::InvalidInput, "the map of the disk must be known");
        self.stored = runs_of(map.ok_or_else(none)?, self.size, self.unit)?;
        self.data = sum(&self.stored);
        // of the last unit only what belongs to the disk is of the file
        let last = self.stored.last().map_or(0, |last| last.end.saturating_sub(self.size));
        let file = self.data.saturating_sub(last);
        let header = header(&self.stored, self.size, self.time);
        let filled = file.saturating_add(to_u64(pack::padding(file)));
        self.least = to_u64(header.len()).saturating_add(filled);
        plan.bytes(0, GZIP.to_vec());
        self.at = to_u64(GZIP.len());
        self.put(&header, plan)
    }

    fn place(&mut self, runs: &[Run], _map: Option<&dyn Map>, plan: &mut Plan) -> Result<()> {
        for run in runs {
            match &run.kind {
                RunKind::Packed(range) => {
                    let length = to_u64(range.len());
                    plan.packed(self.at, range.clone());
                    self.count(run.checksum[0], length)?;
                }
                RunKind::Absent | RunKind::Zero => self.put_zeros(&run.guest, plan)?,
                // the encoder takes everything
                RunKind::Plain(_) => return Err(changed()),
            }
        }
        Ok(())
    }

    fn finish(&mut self, plan: &mut Plan) -> Result<()> {
        if self.data != 0 {
            return Err(changed());
        }
        // units that reach beyond the end of the disk end in zeros, as the archive does
        let length = pack::whole(self.least).max(self.archive);
        let length = length.checked_next_multiple_of(pack::RECORD).unwrap_or(length);
        let rest = crate::num::to_usize(length.saturating_sub(self.archive));
        self.put(&vec![0; rest], plan)?;
        let mut end = DeflatePieces::END.to_vec();
        end.extend(self.checksum.clone().finalize().to_le_bytes());
        let [a, b, c, d, ..] = self.archive.to_le_bytes();
        end.extend([a, b, c, d]);
        plan.bytes(self.at, end);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writer::Full;

    /// Data in every other unit.
    struct Striped;

    impl Map for Striped {
        fn runs(&self, range: Range<u64>, tell: &mut dyn FnMut(Range<u64>, bool)) -> Result<()> {
            let unit = 1 << UNIT_BITS;
            for at in range.step_by(unit) {
                let number = at >> UNIT_BITS;
                tell(at..at + unit as u64, number.is_multiple_of(2));
            }
            Ok(())
        }
    }

    #[test]
    fn a_map_of_many_runs_is_made_coarser_and_never_loses_any() {
        let unit = Pow2::from_bits(UNIT_BITS).unwrap();
        let size = 20_000u64 << UNIT_BITS;
        let runs = runs_of(&Striped, size, unit).unwrap();
        assert!(runs.len() <= MOST_RUNS && !runs.is_empty(), "{}", runs.len());
        for number in (0..20_000u64).step_by(2) {
            let at = number << UNIT_BITS;
            assert!(runs.iter().any(|run| run.contains(&at)), "{number}");
        }
        let few = runs_of(&Striped, 100 << UNIT_BITS, unit).unwrap();
        assert_eq!(few.len(), 50);
        assert_eq!(runs_of(&Full, 1, unit).unwrap(), vec![0..unit.size(); 1]);
        assert_eq!(runs_of(&Full, 0, unit).unwrap(), []);
    }

    #[test]
    fn an_image_that_changes_meanwhile_is_an_error() {
        let mut writer = GceOptions::new().writer(1 << 20).unwrap();
        let mut plan = Plan::default();
        writer.begin(Some(&Full), &mut plan).unwrap();
        assert!(writer.finish(&mut plan).unwrap_err().to_string().contains("is changing"));
    }
}
