//! Where the bytes of a disk lie, as one image says.

use crate::error::Result;

/// Which file a layer's bytes lie in.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::format::LayerOptions;
/// use diskimage::layer::{MappingKind, Source};
/// use diskimage::storage::MemoryStorage;
/// use diskimage::{ErrorKind, Format};
///
/// // a VMDK of two files, of which this one names the other
/// let descriptor = "# Disk DescriptorFile\nversion=1\nCID=0000beef\nparentCID=ffffffff\n\
///     createType=\"monolithicFlat\"\nRW 8 FLAT \"disk-flat.vmdk\" 0\n";
/// let storage = Arc::new(MemoryStorage::new(descriptor.into()));
/// let mut layer = Format::Vmdk.open(storage, &LayerOptions::default())?;
/// let error = layer.map(512, 512).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Denied); // nobody has handed it over
///
/// layer.attach(0, Arc::new(MemoryStorage::new(vec![7; 8 * 512])))?;
/// let kind = layer.map(512, 512)?.kind;
/// assert_eq!(kind, MappingKind::Stored { source: Source::Reference(0), offset: 512 });
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The image file itself.
    Own,
    /// The file behind the reference of this number.
    Reference(usize),
}

/// The first run of bytes at a mapped offset.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::Layer;
/// use diskimage::format::raw::RawLayer;
/// use diskimage::layer::{Mapping, MappingKind, Source};
/// use diskimage::storage::MemoryStorage;
///
/// let layer = RawLayer::new(Arc::new(MemoryStorage::new(vec![7; 4096])));
/// let mapping = layer.map(1024, u64::MAX)?;
/// let kind = MappingKind::Stored { source: Source::Own, offset: 1024 };
/// assert_eq!(mapping, Mapping { length: 3072, kind });
/// assert_eq!(mapping.reach().end, 4096); // of the file
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// How many bytes, at least one.
    pub length: u64,
    /// What they are.
    pub kind: MappingKind,
}

impl Mapping {
    /// The answer for a unit of `unit` bytes that is `first`, from its byte `within` on. What
    /// follows is joined while it is of the same kind and place, as far as `max` needs: what is
    /// wrong with a later unit is found out when it is its turn.
    pub(crate) fn joined(
        first: MappingKind,
        unit: u64,
        within: u64,
        max: u64,
        mut rest: impl Iterator<Item = Result<MappingKind>>,
    ) -> Self {
        let mut length = unit;
        while length.saturating_sub(within) < max {
            let Some(Ok(next)) = rest.next() else { break };
            if !first.continues_with(length, &next) {
                break;
            }
            length = length.saturating_add(unit);
        }
        let kind = match first {
            MappingKind::Stored { source, offset } => {
                MappingKind::Stored { source, offset: offset.saturating_add(within) }
            }
            other => other,
        };
        Self { length: length.saturating_sub(within).min(max), kind }
    }
}

/// What a layer knows of a run of guest bytes.
///
/// ```
/// # use std::path::Path;
/// # use std::sync::Arc;
/// # use diskimage::format::LayerOptions;
/// # use diskimage::format::qcow2::Qcow2Options;
/// # use diskimage::storage::MemoryStorage;
/// # use diskimage::target::SpillTarget;
/// # use diskimage::{Convert, Format, OpenOptions, Target};
/// use diskimage::layer::MappingKind;
///
/// # let mut disk = vec![0; 1 << 20];
/// # disk[..64 << 10].fill(7);
/// # let storage = Arc::new(MemoryStorage::new(disk));
/// # let disk = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("disk"))?;
/// # let mut bytes = Vec::new();
/// # let target = SpillTarget::new(&mut bytes, &std::env::temp_dir(), 1 << 20)?;
/// # let writer = Qcow2Options::new().compressed(true).writer(1 << 20)?;
/// # Convert::new().image(&disk, Box::new(writer), None, &target)?;
/// # Box::new(target).finish()?;
/// # let storage = Arc::new(MemoryStorage::new(bytes));
/// // a compressed QCOW2 of 1 MiB of which the first cluster holds a byte 7 everywhere
/// let layer = Format::Qcow2.open(storage, &LayerOptions::default())?;
/// assert_eq!(layer.map(0, u64::MAX)?.kind, MappingKind::Encoded);
/// let mut byte = [0];
/// layer.read_encoded(&mut byte, 0x8000)?;
/// assert_eq!(byte, [7]);
/// // and the others are a parent's, if it has one
/// assert_eq!(layer.map(0x1_0000, u64::MAX)?.kind, MappingKind::Parent { stored: None });
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MappingKind {
    /// Stored as they are. Whoever reads them checks that the file is that long, and sees to holes.
    Stored {
        /// The file.
        source: Source,
        /// The byte offset in it.
        offset: u64,
    },
    /// Stored compressed: [`Layer::read_encoded`](super::Layer::read_encoded) tells.
    Encoded,
    /// Zeros.
    Zero {
        /// Whether the image says so itself, rather than nothing having been written.
        allocated: bool,
        /// Where room is set aside for them, if it is.
        stored: Option<(Source, u64)>,
    },
    /// Not in this image: the parent's bytes, or zeros if there is no parent.
    Parent {
        /// Where room is set aside for them in this image, if it is.
        stored: Option<(Source, u64)>,
    },
}

impl MappingKind {
    /// Whether `next`, which starts `length` bytes further, is of the same kind and place.
    pub(crate) fn continues_with(&self, length: u64, next: &Self) -> bool {
        let further = |place: Option<(Source, u64)>| {
            place.map(|(source, offset)| (source, offset.saturating_add(length)))
        };
        match (*self, *next) {
            (Self::Stored { source, offset }, Self::Stored { source: s, offset: o }) => {
                further(Some((source, offset))) == Some((s, o))
            }
            (Self::Encoded, Self::Encoded) => true,
            (Self::Zero { allocated, stored }, Self::Zero { allocated: a, stored: s }) => {
                allocated == a && further(stored) == s
            }
            (Self::Parent { stored }, Self::Parent { stored: s }) => further(stored) == s,
            _ => false,
        }
    }
}

impl Mapping {
    /// How far into the image's own file it reaches.
    #[must_use]
    pub fn reach(&self) -> Reach {
        let (end, encoded) = match self.kind {
            MappingKind::Stored { source: Source::Own, offset } => {
                (offset.saturating_add(self.length), false)
            }
            MappingKind::Encoded => (0, true),
            _ => (0, false),
        };
        Reach { length: self.length, end, encoded }
    }
}

/// How far an image's file is needed for a run of guest bytes.
///
/// What of a QCOW2 has to be there to read the start of its disk:
///
/// ```
/// # use std::path::Path;
/// # use std::sync::Arc;
/// # use diskimage::format::LayerOptions;
/// # use diskimage::format::qcow2::Qcow2Options;
/// # use diskimage::storage::MemoryStorage;
/// # use diskimage::target::StreamTarget;
/// # use diskimage::{Convert, Format, OpenOptions, Storage, Target};
/// # let storage = Arc::new(MemoryStorage::new(vec![7; 1 << 20]));
/// # let disk = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("disk"))?;
/// # let mut bytes = Vec::new();
/// # let target = StreamTarget::new(&mut bytes);
/// # Convert::new().image(&disk, Box::new(Qcow2Options::new().writer(1 << 20)?), None, &target)?;
/// # Box::new(target).finish()?;
/// # let storage = Arc::new(MemoryStorage::new(bytes));
/// # let size = storage.size();
/// let layer = Format::Qcow2.open(storage, &LayerOptions::default())?;
/// let reach = layer.reach(0)?;
/// assert!(!reach.encoded);
/// assert_eq!(reach.length, 1 << 20); // as far as one page of its tables tells
/// assert!(reach.end < size); // behind the data lie counts of clusters, which nobody reads
/// assert!(layer.tables_at().is_some_and(|l1| l1 < reach.end));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// How many guest bytes, at least one.
    pub length: u64,
    /// Where in the file the last byte that is stored for them ends; zero if none is.
    pub end: u64,
    /// Whether any of them are stored compressed.
    pub encoded: bool,
}

/// Which parts of a disk were written to since somebody began to watch: what incremental backups go by.
///
/// ```
/// # use std::sync::Arc;
/// # use diskimage::format::LayerOptions;
/// # use diskimage::storage::MemoryStorage;
/// # use diskimage::target::SpillTarget;
/// # use diskimage::{Convert, Format, Target};
/// use diskimage::format::qcow2::Qcow2Options;
/// use diskimage::layer::DirtyBitmap;
///
/// let since_monday = DirtyBitmap {
///     name: b"since-monday".to_vec(),
///     granularity: 64 << 10,
///     auto: true,
///     is_consistent: true,
///     bits: vec![0b0000_0101, 0], // of 1 MiB, the first and the third 64 KiB
/// };
/// let writer = Qcow2Options::new().bitmaps(vec![since_monday.clone()]).writer(1 << 20)?;
/// # let mut bytes = Vec::new();
/// # let target = SpillTarget::new(&mut bytes, &std::env::temp_dir(), 16 << 20)?;
/// # Convert::new().create(Box::new(writer), &target)?;
/// # Box::new(target).finish()?;
/// # let storage = Arc::new(MemoryStorage::new(bytes));
/// // when that is written, and opened again
/// let layer = Format::Qcow2.open(storage, &LayerOptions::default())?;
/// assert_eq!(layer.dirty_bitmaps(1 << 20)?, [since_monday]);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirtyBitmap {
    /// The name, as bytes.
    pub name: Vec<u8>,
    /// How many guest bytes a bit stands for: a power of two.
    pub granularity: u64,
    /// Whether whoever writes to the image next is to go on with it.
    pub auto: bool,
    /// Whether it was saved properly; else its bits mean nothing, and there are none.
    pub is_consistent: bool,
    /// A bit for each so many guest bytes, the least significant one of a byte first.
    pub bits: Vec<u8>,
}
