//! Writer: what a format implements so that a disk can be written as an image of it.
//!
//! The opposite of a [`Layer`](crate::layer::Layer). The disk is cut into units. Any thread encodes
//! a unit at any time; where the encoded units go is said in the order of the disk, so that the same
//! disk becomes the same bytes by any number of threads; and the bytes are written by all threads
//! again. A writer opens and writes no file: it tells a [`Plan`] what belongs where.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use crate::error::Result;
use crate::num::{Pow2, to_u64, to_usize};
use crate::seed::Seed;

/// How one image is laid out. The runs of the disk come one after the other, without gaps.
///
/// # A format of one's own
///
/// ```
/// use diskimage::disk::EmptyDisk;
/// use diskimage::num::Pow2;
/// use diskimage::target::StreamTarget;
/// use diskimage::writer::{Forward, Map, Plan, Run, RunKind};
/// use diskimage::{Convert, Result, Target, Writer};
///
/// /// 512 bytes of something, and then the disk.
/// #[derive(Debug)]
/// struct Headed(u64);
///
/// impl Writer for Headed {
///     fn size(&self) -> u64 {
///         self.0
///     }
///
///     fn unit(&self) -> Pow2 {
///         Pow2::PAGE
///     }
///
///     fn forward(&self) -> Forward {
///         Forward::Always
///     }
///
///     fn file_size(&self, _: &dyn Map) -> Result<u64> {
///         Ok(self.0 + 512)
///     }
///
///     fn begin(&mut self, _: Option<&dyn Map>, plan: &mut Plan) -> Result<()> {
///         plan.bytes(0, vec![1; 512]);
///         Ok(())
///     }
///
///     fn place(&mut self, runs: &[Run], _: Option<&dyn Map>, plan: &mut Plan) -> Result<()> {
///         for run in runs {
///             let (start, end) = (run.guest.start, run.guest.end.min(self.0));
///             match run.kind {
///                 RunKind::Plain(from) => plan.plain(start + 512, from, end - start),
///                 _ => plan.zeros(start + 512, end - start),
///             }
///         }
///         Ok(())
///     }
///
///     fn finish(&mut self, _: &mut Plan) -> Result<()> {
///         Ok(())
///     }
/// }
///
/// let mut image = Vec::new();
/// let target = StreamTarget::new(&mut image);
/// Convert::new().image(&EmptyDisk(1 << 20), Box::new(Headed(1 << 20)), None, &target)?;
/// Box::new(target).finish()?;
/// assert_eq!((image.len(), image[511], image[512]), ((1 << 20) + 512, 1, 0));
/// # Ok::<(), diskimage::Error>(())
/// ```
///
/// # What it tells beforehand
///
/// ```
/// use diskimage::Writer;
/// use diskimage::format::qcow2::Qcow2Options;
/// use diskimage::writer::{Forward, Full};
///
/// let writer = Qcow2Options::new().writer((1 << 30) - 100)?;
/// assert_eq!(writer.size(), 1 << 30); // in whole sectors
/// assert_eq!(writer.unit().size(), 64 << 10);
/// assert_eq!(writer.forward(), Forward::ByMap);
/// assert!(writer.encoder().is_none()); // nothing is compressed
/// assert!(writer.files().is_empty() && !writer.has_parent() && !writer.needs_map());
/// assert!(!writer.wants_checksums() && !writer.wants_digests());
/// assert!(writer.longest_run() >= writer.unit().size());
/// assert!(writer.file_size(&Full)? > 1 << 30); // with its tables
/// # Ok::<(), diskimage::Error>(())
/// ```
pub trait Writer: Send + Debug {
    /// The virtual size that the image tells, bytes: the disk's, or that rounded up.
    fn size(&self) -> u64;

    /// What is encoded and placed at a time. All runs start at whole units.
    fn unit(&self) -> Pow2;

    /// What units are encoded by; `None` where they are stored as they are.
    fn encoder(&self) -> Option<Arc<dyn Encoder>> {
        None
    }

    /// Whether its bytes can be written in the order of the file.
    fn forward(&self) -> Forward;

    /// Whether the [map](Map) of the disk must be all that decides what is stored, wherever it is
    /// written to: a table before the data has to be right at once.
    ///
    /// ```
    /// use diskimage::Writer;
    /// use diskimage::container::GceOptions;
    /// use diskimage::format::qcow2::Qcow2Options;
    ///
    /// // the header of a sparse member of a tar archive lists its data, and lies before them
    /// assert!(GceOptions::new().writer(1 << 30)?.needs_map());
    /// assert!(!Qcow2Options::new().writer(1 << 30)?.needs_map());
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    fn needs_map(&self) -> bool {
        false
    }

    /// The files that it lays out beside the one that is named for the image, in the order of their
    /// offsets: [`FilesTarget`](crate::target::FilesTarget) takes them. Default: none.
    fn files(&self) -> &[ImageFile] {
        &[]
    }

    /// Whether what is absent from the image is another one's, which it names. Default: no.
    ///
    /// ```
    /// use diskimage::Writer;
    /// use diskimage::disk::EmptyDisk;
    /// use diskimage::format::qcow2::Qcow2Options;
    /// use diskimage::target::StreamTarget;
    /// use diskimage::{Convert, ErrorKind};
    ///
    /// let writer = Qcow2Options::new().backing("base.raw", Some("raw")).writer(1 << 20)?;
    /// assert!(writer.has_parent());
    /// // so that it cannot be forgotten what the disk is to differ from
    /// let target = StreamTarget::new(std::io::sink());
    /// let written = Convert::new().image(&EmptyDisk(1 << 20), Box::new(writer), None, &target);
    /// assert_eq!(written.unwrap_err().kind(), ErrorKind::InvalidInput);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    fn has_parent(&self) -> bool {
        false
    }

    /// Whether runs of data are to have [checksums](Run::checksum).
    fn wants_checksums(&self) -> bool {
        false
    }

    /// Whether each unit of data is to be a run with a [digest](Run::digest).
    fn wants_digests(&self) -> bool {
        false
    }

    /// The longest run that does not make a plan too large to hold, bytes: whole units.
    fn longest_run(&self) -> u64 {
        u64::MAX
    }

    /// The size of the file, or of all files, bytes, if `map` decides what is stored and nothing is
    /// encoded.
    ///
    /// ```
    /// use diskimage::Writer;
    /// use diskimage::format::vhdx::VhdxOptions;
    /// use diskimage::writer::Full;
    ///
    /// let size = |fixed| VhdxOptions::new().fixed(fixed).writer(1 << 30)?.file_size(&Full);
    /// assert_eq!(size(true)?, size(false)?); // of a disk that is full
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    fn file_size(&self, map: &dyn Map) -> Result<u64>;

    /// What the file starts with. `map` tells beforehand which runs come, where that is asked for.
    fn begin(&mut self, map: Option<&dyn Map>, plan: &mut Plan) -> Result<()>;

    /// Gives the next runs their places.
    fn place(&mut self, runs: &[Run], map: Option<&dyn Map>, plan: &mut Plan) -> Result<()>;

    /// What is left to write when all runs have their places. The file ends with it.
    fn finish(&mut self, plan: &mut Plan) -> Result<()>;
}

/// A file that belongs to an image beside the one that is named for it. Some of the offsets that a
/// [`Plan`] speaks of are its own; those before the first such file's are of the file that is named.
///
/// ```
/// use diskimage::format::vmdk::{Subformat, VmdkOptions};
///
/// let options = VmdkOptions::new().subformat(Subformat::MonolithicFlat).name("disk.vmdk");
/// let writer = options.writer(1 << 20)?;
/// let [flat] = writer.files() else { panic!("one file beside the descriptor") };
/// assert_eq!(flat.name, "disk-flat.vmdk");
/// assert_eq!(flat.range.end - flat.range.start, 1 << 20);
/// assert!(flat.whole); // zeros at its end are a part of it
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFile {
    /// Its name: no path, since it lies beside the other.
    pub name: String,
    /// Its offsets. The first of them is its first byte, and nothing is written behind the last.
    pub range: Range<u64>,
    /// Whether it has all of them; else it ends with what is written last.
    pub whole: bool,
}

/// Whether a file can be written from its first byte to its last, without ever going back.
///
/// ```
/// use diskimage::Writer;
/// use diskimage::format::qcow2::Qcow2Options;
/// use diskimage::format::vdi::VdiOptions;
/// use diskimage::format::vmdk::{Subformat, VmdkOptions};
/// use diskimage::writer::Forward;
///
/// let stream = VmdkOptions::new().subformat(Subformat::StreamOptimized).writer(1 << 30)?;
/// assert_eq!(stream.forward(), Forward::Always);
/// // its tables lie before the data, and are known from the map
/// assert_eq!(Qcow2Options::new().writer(1 << 30)?.forward(), Forward::ByMap);
/// // its header counts the blocks: such an image goes to a stream by way of a `SpillTarget`
/// assert_eq!(VdiOptions::new().writer(1 << 30)?.forward(), Forward::Never);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forward {
    /// No: what lies at its start is known in the end only.
    Never,
    /// If the [map](Map) of the disk is all that decides what is stored.
    ByMap,
    /// Always.
    Always,
}

/// Encodes units, by any number of threads at once.
///
/// ```
/// use diskimage::Result;
/// use diskimage::writer::Encoder;
///
/// /// One byte for a unit that is the same byte everywhere.
/// #[derive(Debug)]
/// struct Same;
///
/// impl Encoder for Same {
///     fn encode(&self, unit: &[u8], _guest: u64, out: &mut Vec<u8>) -> Result<bool> {
///         let Some((first, rest)) = unit.split_first() else { return Ok(false) };
///         let is_same = !rest.is_empty() && rest.iter().all(|byte| byte == first);
///         out.extend(is_same.then_some(first));
///         Ok(is_same)
///     }
/// }
///
/// let mut out = Vec::new();
/// assert!(Same.encode(&[7; 4096], 0, &mut out)?);
/// assert!(!Same.encode(&[7, 8, 9], 4096, &mut out)?);
/// assert_eq!(out, [7]);
/// # Ok::<(), diskimage::Error>(())
/// ```
pub trait Encoder: Send + Sync + Debug {
    /// Appends the encoded form of `unit` to `out`. `false`, with nothing appended, where that would
    /// be no shorter: the unit is then stored as it is. A format that has no such units never says so.
    ///
    /// `guest` is the unit's place on the disk.
    fn encode(&self, unit: &[u8], guest: u64, out: &mut Vec<u8>) -> Result<bool>;
}

/// What is known of a disk before it is read: where its data are.
///
/// How large an image will be of which only the first half is data:
///
/// ```
/// use std::ops::Range;
///
/// use diskimage::format::qcow2::Qcow2Options;
/// use diskimage::writer::Map;
/// use diskimage::{Result, Writer};
///
/// struct DataUpTo(u64);
///
/// impl Map for DataUpTo {
///     fn runs(&self, range: Range<u64>, tell: &mut dyn FnMut(Range<u64>, bool)) -> Result<()> {
///         let middle = self.0.clamp(range.start, range.end);
///         for (run, data) in [(range.start..middle, true), (middle..range.end, false)] {
///             if !run.is_empty() {
///                 tell(run, data);
///             }
///         }
///         Ok(())
///     }
/// }
///
/// let writer = Qcow2Options::new().writer(1 << 30)?;
/// let size = writer.file_size(&DataUpTo(512 << 20))?;
/// assert!((512 << 20..513 << 20).contains(&size));
/// # Ok::<(), diskimage::Error>(())
/// ```
pub trait Map {
    /// Tells the runs of data (`true`) and zeros that tile `range`, each as long as it can be. The
    /// range and all runs are whole units, the end of the disk rounded up.
    fn runs(&self, range: Range<u64>, tell: &mut dyn FnMut(Range<u64>, bool)) -> Result<()>;
}

/// The map of a disk that is all data.
///
/// ```
/// use diskimage::Writer;
/// use diskimage::format::vdi::VdiOptions;
/// use diskimage::writer::{Full, Map};
///
/// let mut runs = Vec::new();
/// Full.runs(0..1 << 20, &mut |run, data| runs.push((run, data)))?;
/// assert_eq!(runs, [(0..1 << 20, true)]);
/// // the most that has to be set aside for a file
/// let writer = VdiOptions::new().writer(1 << 30)?;
/// assert!(writer.file_size(&Full)? > 1 << 30);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Full;

impl Map for Full {
    fn runs(&self, range: Range<u64>, tell: &mut dyn FnMut(Range<u64>, bool)) -> Result<()> {
        if !range.is_empty() {
            tell(range, true);
        }
        Ok(())
    }
}

/// A run of the disk: whole units, the end of the disk rounded up.
///
/// As a writer gets them that [wants checksums](Writer::wants_checksums):
///
/// ```
/// use diskimage::writer::{Run, RunKind};
///
/// let data = [7; 4096];
/// let mut run = Run::new(0..4096, RunKind::Plain(0));
/// run.checksum = [crc32fast::hash(&data), crc32c::crc32c(&data)];
/// let zeros = Run::new(4096..1 << 20, RunKind::Absent);
/// assert_eq!(run.guest.end, zeros.guest.start); // no gap
/// assert_eq!((zeros.checksum, zeros.digest), ([0, 0], None));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The guest bytes.
    pub guest: Range<u64>,
    /// What they are.
    pub kind: RunKind,
    /// The CRC-32 and the CRC-32C of data before they are encoded, if the writer wants them; else 0.
    pub checksum: [u32; 2],
    /// The BLAKE3 of data before they are encoded, if the writer [wants it](Writer::wants_digests):
    /// the run is one unit then.
    pub digest: Option<[u8; 32]>,
}

impl Run {
    /// A run without checksums.
    #[must_use]
    pub fn new(guest: Range<u64>, kind: RunKind) -> Self {
        Self { guest, kind, checksum: [0; 2], digest: None }
    }
}

/// A checksum of data and where on the disk they are, and where zeros are that the parent does not
/// have, however they come in runs: what identifiers derive from.
///
/// ```
/// use std::ops::Range;
///
/// use diskimage::writer::{Checksum, Run, RunKind};
///
/// let run = |guest: Range<u64>, data: &[u8]| {
///     let checksum = [crc32fast::hash(data), crc32c::crc32c(data)];
///     Run { checksum, ..Run::new(guest, RunKind::Plain(0)) }
/// };
/// let (mut whole, mut halves) = (Checksum::default(), Checksum::default());
/// whole.add(&run(0..8192, &[7; 8192]));
/// halves.add(&run(0..4096, &[7; 4096]));
/// halves.add(&run(4096..8192, &[7; 4096]));
/// assert_eq!(whole.value(), halves.value());
/// // what the UUIDs of an image are made of
/// let uuid = |sum: &Checksum| sum.seed(1 << 20, "").identifier("disk");
/// assert_eq!(uuid(&whole), uuid(&halves));
/// halves.add(&run(8192..12288, &[8; 4096]));
/// assert_ne!(uuid(&whole), uuid(&halves));
/// ```
#[derive(Debug, Clone, Default)]
pub struct Checksum {
    data: crc32fast::Hasher,
    second: u32,
    places: Places,
    zeros: Places,
}

/// A checksum of ranges that come one after the other.
#[derive(Debug, Clone, Default)]
struct Places {
    before: crc32fast::Hasher,
    /// The last one, which the next may go on with.
    last: Range<u64>,
}

impl Places {
    fn add(&mut self, range: &Range<u64>) {
        if self.last.end == range.start {
            self.last.end = range.end;
            return;
        }
        let last = std::mem::replace(&mut self.last, range.clone());
        self.before.update(&last.start.to_le_bytes());
        self.before.update(&last.end.to_le_bytes());
    }

    fn value(&self) -> crc32fast::Hasher {
        let mut all = self.before.clone();
        all.update(&self.last.start.to_le_bytes());
        all.update(&self.last.end.to_le_bytes());
        all
    }
}

impl Checksum {
    /// Adds the next run of data, or of zeros.
    ///
    /// What is absent is passed over.
    pub fn add(&mut self, run: &Run) {
        match run.kind {
            RunKind::Absent => {}
            RunKind::Zero => self.zeros.add(&run.guest),
            RunKind::Plain(_) | RunKind::Packed(_) => {
                let length = run.guest.end.saturating_sub(run.guest.start);
                let [first, second] = run.checksum;
                self.data.combine(&crc32fast::Hasher::new_with_initial_len(first, length));
                self.second = crc32c::crc32c_combine(self.second, second, to_usize(length));
                self.places.add(&run.guest);
            }
        }
    }

    /// The checksum of all: 64 bits of which no half tells the other.
    #[must_use]
    pub fn value(&self) -> u64 {
        let mut all = self.places.value();
        all.update(&self.data.clone().finalize().to_le_bytes());
        if self.zeros.last.end > 0 {
            all.update(&self.zeros.value().finalize().to_le_bytes());
        }
        u64::from(self.second).wrapping_shl(32) | u64::from(all.finalize())
    }

    /// What identifiers derive from: all of it, the size of the disk, and `text`.
    #[must_use]
    pub fn seed(&self, size: u64, text: &str) -> Seed {
        let numbers = [size.to_le_bytes(), self.value().to_le_bytes()].concat();
        Seed::new([&*numbers, text.as_bytes()].concat())
    }
}

/// What a run is.
///
/// ```
/// use diskimage::writer::{Run, RunKind};
///
/// /// How many bytes of its run an image holds.
/// fn held(run: &Run) -> u64 {
///     match &run.kind {
///         RunKind::Absent | RunKind::Zero => 0,
///         RunKind::Plain(_) => run.guest.end - run.guest.start,
///         RunKind::Packed(encoded) => encoded.len() as u64,
///     }
/// }
///
/// assert_eq!(held(&Run::new(0..0x1_0000, RunKind::Packed(0..900))), 900);
/// assert_eq!(held(&Run::new(0..0x1_0000, RunKind::Plain(0))), 0x1_0000);
/// assert_eq!(held(&Run::new(0..0x1_0000, RunKind::Zero)), 0);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunKind {
    /// Not stored: zeros, or what the backing file has.
    Absent,
    /// Zeros, whatever the backing file has.
    Zero,
    /// Data as they are: where they start in what was read.
    Plain(usize),
    /// One unit, encoded: where it lies in what was encoded.
    Packed(Range<usize>),
}

/// What goes where in the file.
///
/// A format in which every unit of the disk has a header of 8 bytes, its place and its length:
///
/// ```
/// use diskimage::writer::{Plan, Run, RunKind};
/// # use std::path::Path;
/// # use std::sync::Arc;
/// # use diskimage::num::Pow2;
/// # use diskimage::storage::MemoryStorage;
/// # use diskimage::target::StreamTarget;
/// # use diskimage::writer::{Encoder, Forward, Map};
/// # use diskimage::{Convert, Format, OpenOptions, Result, Target, Writer};
/// # #[derive(Debug)]
/// # struct Same;
/// # impl Encoder for Same {
/// #     fn encode(&self, unit: &[u8], _guest: u64, out: &mut Vec<u8>) -> Result<bool> {
/// #         let is_same = unit.iter().all(|byte| *byte == unit[0]);
/// #         out.extend(is_same.then_some(unit[0]));
/// #         Ok(is_same)
/// #     }
/// # }
/// # #[derive(Debug)]
/// # struct Chunks {
/// #     size: u64,
/// #     end: u64,
/// # }
/// # impl Chunks {
/// fn place_run(&mut self, run: &Run, plan: &mut Plan) {
///     let (start, mut length) = (run.guest.start, run.guest.end - run.guest.start);
///     if let RunKind::Packed(encoded) = &run.kind {
///         length = encoded.len() as u64; // of one unit
///     }
///     let numbers = [start as u32, length as u32];
///     plan.bytes(self.end, numbers.into_iter().flat_map(u32::to_le_bytes).collect());
///     self.end += 8;
///     match &run.kind {
///         RunKind::Plain(from) => plan.plain(self.end, *from, length),
///         RunKind::Packed(encoded) => plan.packed(self.end, encoded.clone()),
///         RunKind::Absent | RunKind::Zero => plan.zeros(self.end, length),
///     }
///     self.end += length;
/// }
/// # }
/// # impl Writer for Chunks {
/// #     fn size(&self) -> u64 {
/// #         self.size
/// #     }
/// #     fn unit(&self) -> Pow2 {
/// #         Pow2::PAGE
/// #     }
/// #     fn encoder(&self) -> Option<Arc<dyn Encoder>> {
/// #         Some(Arc::new(Same))
/// #     }
/// #     fn forward(&self) -> Forward {
/// #         Forward::Always
/// #     }
/// #     fn file_size(&self, _: &dyn Map) -> Result<u64> {
/// #         Ok(self.size + 8)
/// #     }
/// #     fn begin(&mut self, _: Option<&dyn Map>, _: &mut Plan) -> Result<()> {
/// #         Ok(())
/// #     }
/// #     fn place(&mut self, runs: &[Run], _: Option<&dyn Map>, plan: &mut Plan) -> Result<()> {
/// #         runs.iter().for_each(|run| self.place_run(run, plan));
/// #         Ok(())
/// #     }
/// #     fn finish(&mut self, _: &mut Plan) -> Result<()> {
/// #         Ok(())
/// #     }
/// # }
/// # let mut bytes = vec![7; 4096];
/// # bytes.extend((0..4096u32).map(|i| (i % 251) as u8));
/// # let storage = Arc::new(MemoryStorage::new(bytes));
/// # let disk = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("disk"))?;
/// # let mut image = Vec::new();
/// # let target = StreamTarget::new(&mut image);
/// # Convert::new().image(&disk, Box::new(Chunks { size: 8192, end: 0 }), None, &target)?;
/// # Box::new(target).finish()?;
///
/// // of a unit that is encoded to one byte, and one that is stored as it is
/// assert_eq!(image.len(), 8 + 1 + 8 + 4096);
/// assert_eq!(image[..9], [0, 0, 0, 0, 1, 0, 0, 0, 7]);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Plan {
    writes: Vec<Write>,
}

/// One thing to write.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) offset: u64,
    pub(crate) bytes: Bytes,
}

/// The bytes to write.
#[derive(Debug)]
pub(crate) enum Bytes {
    /// A part of what was read.
    Plain(Range<usize>),
    /// A part of what was encoded.
    Packed(Range<usize>),
    /// A table or the like.
    Own(Vec<u8>),
    /// So many zeros: nothing, where the file is zeros already.
    Zeros(u64),
}

impl Plan {
    /// Data as they are go to `offset`.
    pub fn plain(&mut self, offset: u64, from: usize, length: u64) {
        let range = from..from.saturating_add(to_usize(length));
        if let Some(Write { offset: start, bytes: Bytes::Plain(last) }) = self.writes.last_mut()
            && last.end == range.start
            && start.saturating_add(to_u64(last.len())) == offset
        {
            last.end = range.end;
            return;
        }
        self.writes.push(Write { offset, bytes: Bytes::Plain(range) });
    }

    /// An encoded unit goes to `offset`.
    pub fn packed(&mut self, offset: u64, range: Range<usize>) {
        if let Some(Write { offset: start, bytes: Bytes::Packed(last) }) = self.writes.last_mut()
            && last.end == range.start
            && start.saturating_add(to_u64(last.len())) == offset
        {
            last.end = range.end;
            return;
        }
        self.writes.push(Write { offset, bytes: Bytes::Packed(range) });
    }

    /// These bytes go to `offset`.
    pub fn bytes(&mut self, offset: u64, bytes: Vec<u8>) {
        self.writes.push(Write { offset, bytes: Bytes::Own(bytes) });
    }

    /// From `offset` on the file reads as zeros.
    pub fn zeros(&mut self, offset: u64, length: u64) {
        self.writes.push(Write { offset, bytes: Bytes::Zeros(length) });
    }

    pub(crate) fn push(&mut self, write: Write) {
        self.writes.push(write);
    }

    pub(crate) fn take(&mut self) -> Vec<Write> {
        std::mem::take(&mut self.writes)
    }
}
