//! Layer: what a format implements for one image file.

use std::fmt::Debug;
use std::sync::Arc;

use crate::check::{Checking, Patch, RepairScope, Repaired};
use crate::error::{Error, ErrorKind, Result};
use crate::finding::Finding;
use crate::format::Format;
use crate::storage::Storage;

/// One image file, read by its format's rules. It knows its own file only: what it needs from
/// other files it *names* as [`Reference`]s, and others open them (or refuse to).
///
/// # The law of mappings
///
/// [`map`](Layer::map) answers for any `offset` below [`size`](Layer::size) and any `max` of at
/// least 1. The answer is 1..=`max` bytes long, never reaches beyond the size, is the same each
/// time, and its kind does not depend on where the query starts. It reads no more than the tables
/// that hold the entry at `offset`.
///
/// # A format of one's own
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::chain::{Chain, ChainImage};
/// use diskimage::layer::{Description, Mapping, MappingKind, Source};
/// use diskimage::storage::MemoryStorage;
/// use diskimage::{Checking, Error, ErrorKind, Format, Layer, Result, Storage, conformance};
///
/// /// 512 bytes of something, and then the disk.
/// #[derive(Debug)]
/// struct Headed(Arc<dyn Storage>);
///
/// impl Layer for Headed {
///     fn format(&self) -> Format {
///         Format::Raw
///     }
///
///     fn size(&self) -> u64 {
///         self.0.size() - 512
///     }
///
///     fn cluster_size(&self) -> Option<u64> {
///         None
///     }
///
///     fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
///         let kind = MappingKind::Stored { source: Source::Own, offset: offset + 512 };
///         Ok(Mapping { length: max.min(self.size() - offset), kind })
///     }
///
///     fn describe(&self) -> Result<Description> {
///         Ok(Description::default())
///     }
///
///     fn check(&self, _: &Checking) -> Result<()> {
///         Err(Error::other(ErrorKind::Unsupported, "has nothing to check"))
///     }
/// }
///
/// let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new([[1; 512], [2; 512]].concat()));
/// let layer = Box::new(Headed(Arc::clone(&storage)));
/// let disk = Chain::new(ChainImage::new("headed".into(), layer, storage), Vec::new());
/// conformance::check(&disk, Some(&[2; 512])).expect("the law of extents");
/// ```
pub trait Layer: Send + Sync + Debug {
    /// The format.
    fn format(&self) -> Format;

    /// The virtual size, bytes.
    fn size(&self) -> u64;

    /// The unit of allocation (cluster, grain, block), bytes: a power of two, where there is one.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use diskimage::format::LayerOptions;
    /// # use diskimage::format::qcow2::Qcow2Options;
    /// # use diskimage::storage::MemoryStorage;
    /// # use diskimage::target::StreamTarget;
    /// # use diskimage::{Convert, Format, Target};
    /// use diskimage::Layer;
    /// use diskimage::format::raw::RawLayer;
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = StreamTarget::new(&mut bytes);
    /// # let options = Qcow2Options::new().cluster_size(4096);
    /// # Convert::new().create(Box::new(options.writer(1 << 20)?), &target)?;
    /// # Box::new(target).finish()?;
    /// # let storage = Arc::new(MemoryStorage::new(bytes));
    /// let layer = Format::Qcow2.open(storage, &LayerOptions::default())?;
    /// assert_eq!((layer.cluster_size(), layer.stores_long_runs()), (Some(4096), false));
    /// // a raw disk is one run, and has no unit
    /// let raw = RawLayer::new(Arc::new(MemoryStorage::new(vec![7; 1000])));
    /// assert_eq!((raw.size(), raw.cluster_size(), raw.stores_long_runs()), (1000, None, true));
    /// assert!(raw.storage().is_none()); // it is as it is on the medium: there is no log
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    fn cluster_size(&self) -> Option<u64>;

    /// The size of a sector as the guest sees it, bytes, where the image says.
    fn sector_size(&self) -> Option<u64> {
        None
    }

    /// What the image needs from other files, in a fixed order.
    ///
    /// What has to be fetched before a VMDK of several files can be read:
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::Format;
    /// use diskimage::format::LayerOptions;
    /// use diskimage::storage::MemoryStorage;
    ///
    /// let descriptor = "# Disk DescriptorFile\nversion=1\nCID=0000beef\nparentCID=ffffffff\n\
    ///     createType=\"twoGbMaxExtentFlat\"\nRW 8 FLAT \"disk-f001.vmdk\" 0\n\
    ///     RW 8 FLAT \"disk-f002.vmdk\" 0\n";
    /// let storage = Arc::new(MemoryStorage::new(descriptor.into()));
    /// let layer = Format::Vmdk.open(storage, &LayerOptions::default())?;
    /// let names: Vec<_> = layer.references().iter().map(|file| file.printable_name()).collect();
    /// assert_eq!(names, ["disk-f001.vmdk", "disk-f002.vmdk"]);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    fn references(&self) -> &[Reference] {
        &[]
    }

    /// Hands over the file behind the data-file or extent reference number `index`. Until then,
    /// mappings that need it are errors of kind [`Denied`](ErrorKind::Denied). Extents are not
    /// looked into before.
    fn attach(&mut self, index: usize, storage: Arc<dyn Storage>) -> Result<()> {
        let _ = (index, storage);
        Ok(())
    }

    /// The bytes of the image file as this layer sees them, where they differ from what is on the
    /// medium because a log of pending writes was applied in memory. [`Source::Own`] means these.
    fn storage(&self) -> Option<Arc<dyn Storage>> {
        None
    }

    /// What tells that this image is the parent that a child means, where the format has that.
    fn identity(&self) -> Option<Identity> {
        None
    }

    /// What the guest knows the disk by, a UUID in the byte order of its text form, where the format has
    /// that: a child has its parent's (VHDX, 2.6.2.3).
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use diskimage::format::LayerOptions;
    /// # use diskimage::storage::MemoryStorage;
    /// # use diskimage::target::SpillTarget;
    /// # use diskimage::{Convert, Format, Layer, Result, Target};
    /// use diskimage::format::vhdx::VhdxOptions;
    ///
    /// # fn open(options: VhdxOptions) -> Result<Box<dyn Layer>> {
    /// #     let mut bytes = Vec::new();
    /// #     let target = SpillTarget::new(&mut bytes, &std::env::temp_dir(), 16 << 20)?;
    /// #     Convert::new().create(Box::new(options.writer(1 << 20)?), &target)?;
    /// #     Box::new(target).finish()?;
    /// #     Format::Vhdx.open(Arc::new(MemoryStorage::new(bytes)), &LayerOptions::default())
    /// # }
    /// // each is written and opened again
    /// let base = open(VhdxOptions::new().logical_sector_size(4096))?;
    /// let options = VhdxOptions::new().logical_sector_size(4096);
    /// let child = open(options.parent("base.vhdx", &*base)?)?;
    /// assert_eq!(child.disk_id(), base.disk_id()); // to the guest it is one disk
    /// assert_ne!(child.identity(), base.identity());
    /// assert_eq!(child.sector_size(), Some(4096));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    fn disk_id(&self) -> Option<[u8; 16]> {
        None
    }

    /// What changes whenever the guest's data do, where the format has such a mark: a child notes
    /// its parent's, and so can tell that the parent was written to (VDI).
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use diskimage::format::LayerOptions;
    /// # use diskimage::format::vdi::VdiOptions;
    /// # use diskimage::storage::MemoryStorage;
    /// # use diskimage::target::SpillTarget;
    /// # use diskimage::{Convert, Format, Target};
    /// # let mut bytes = Vec::new();
    /// # let target = SpillTarget::new(&mut bytes, &std::env::temp_dir(), 4 << 20)?;
    /// # Convert::new().create(Box::new(VdiOptions::new().writer(1 << 20)?), &target)?;
    /// # Box::new(target).finish()?;
    /// # let open = |bytes: &[u8]| {
    /// #     let storage = Arc::new(MemoryStorage::new(bytes.to_vec()));
    /// #     Format::Vdi.open(storage, &LayerOptions::default())
    /// # };
    /// # let mut written = bytes.clone();
    /// # written[0x198] ^= 0xff; // uuidModify, which VirtualBox draws anew
    /// // a VDI, and the same after a machine has written to it
    /// let (before, after) = (open(&bytes)?, open(&written)?);
    /// assert_eq!(before.identity(), after.identity());
    /// assert_ne!(before.modification(), after.modification());
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    fn modification(&self) -> Option<Identity> {
        None
    }

    /// The same, where an image has more than one such thing: a VMDK may have a content identifier
    /// and a UUID.
    fn identities(&self) -> Vec<Identity> {
        Vec::from_iter(self.identity())
    }

    /// Whether `parent` is the image that this one was made upon, as far as the formats tell.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use diskimage::format::LayerOptions;
    /// # use diskimage::storage::MemoryStorage;
    /// # use diskimage::target::SpillTarget;
    /// # use diskimage::{Convert, Format, Layer, Result, Target};
    /// use diskimage::format::vhd::VhdOptions;
    ///
    /// # fn open(options: VhdOptions) -> Result<Box<dyn Layer>> {
    /// #     let mut bytes = Vec::new();
    /// #     let target = SpillTarget::new(&mut bytes, &std::env::temp_dir(), 1 << 20)?;
    /// #     Convert::new().create(Box::new(options.writer(1 << 20)?), &target)?;
    /// #     Box::new(target).finish()?;
    /// #     Format::Vhd.open(Arc::new(MemoryStorage::new(bytes)), &LayerOptions::default())
    /// # }
    /// // each is written and opened again
    /// let base = open(VhdOptions::new().seed("base"))?;
    /// let other = open(VhdOptions::new().seed("other"))?;
    /// let child = open(VhdOptions::new().parent("base.vhd", &*base)?)?;
    /// assert!(base.identity().is_some());
    /// child.check_parent(&*base)?;
    /// assert!(child.check_parent(&*other).is_err());
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    fn check_parent(&self, parent: &dyn Layer) -> Result<()> {
        let _ = parent;
        Ok(())
    }

    /// Whether guest bytes are stored in runs so long that the file's holes are worth asking for
    /// each of them: raw and fixed images. For the others that is done only where the file takes
    /// up clearly less room than its length.
    fn stores_long_runs(&self) -> bool {
        false
    }

    /// Whether the guest data can be given out at all; asked when a disk is opened, not when an
    /// image is described. Encrypted data without a key, or an image marked as corrupt, cannot.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use diskimage::format::LayerOptions;
    /// # use diskimage::format::qcow2::Qcow2Options;
    /// # use diskimage::storage::MemoryStorage;
    /// # use diskimage::target::StreamTarget;
    /// # use diskimage::{Convert, Format, Target};
    /// use diskimage::{Code, ErrorKind};
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = StreamTarget::new(&mut bytes);
    /// # Convert::new().create(Box::new(Qcow2Options::new().writer(1 << 20)?), &target)?;
    /// # Box::new(target).finish()?;
    /// bytes[79] |= 1 << 1; // the "corrupt bit" of a QCOW2's incompatible features
    /// # let storage = Arc::new(MemoryStorage::new(bytes));
    /// let layer = Format::Qcow2.open(storage, &LayerOptions::default())?;
    /// assert_eq!(layer.check_readable().unwrap_err().kind(), ErrorKind::Corrupt);
    /// // and yet it can be described
    /// assert!(layer.describe()?.findings.iter().any(|finding| finding.code == Code::Corrupt));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    fn check_readable(&self) -> Result<()> {
        Ok(())
    }

    /// What the guest bytes from `offset` on are.
    fn map(&self, offset: u64, max: u64) -> Result<Mapping>;

    /// How far into its own file the image reaches for the guest's bytes from `offset` on, for as
    /// many of them as one page of its tables tells. Unlike [`map`](Layer::map) it asks no key.
    fn reach(&self, offset: u64) -> Result<Reach> {
        Ok(self.map(offset, u64::MAX)?.reach())
    }

    /// Where in its file the table lies that leads to all others, if it has tables.
    fn tables_at(&self) -> Option<u64> {
        None
    }

    /// How many of the guest's bytes one page of the tables maps, where pages lie scattered in the
    /// file and one of them can be passed over for the next ones.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use diskimage::format::LayerOptions;
    /// # use diskimage::format::qcow2::Qcow2Options;
    /// # use diskimage::format::raw::RawLayer;
    /// # use diskimage::storage::MemoryStorage;
    /// # use diskimage::target::StreamTarget;
    /// # use diskimage::{Convert, Format, Layer, Target};
    /// # let mut bytes = Vec::new();
    /// # let target = StreamTarget::new(&mut bytes);
    /// # Convert::new().create(Box::new(Qcow2Options::new().writer(1 << 40)?), &target)?;
    /// # Box::new(target).finish()?;
    /// # let storage = Arc::new(MemoryStorage::new(bytes));
    /// let layer = Format::Qcow2.open(storage, &LayerOptions::default())?;
    /// // 8192 entries of 8 bytes, for a cluster of 64 KiB each
    /// assert_eq!(layer.page_span(), Some(512 << 20));
    /// # let layer = RawLayer::new(Arc::new(MemoryStorage::new(Vec::new())));
    /// # assert_eq!((layer.page_span(), layer.tables_at()), (None, None));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    fn page_span(&self) -> Option<u64> {
        None
    }

    /// Decodes guest bytes that [`map`](Layer::map) called encoded, from `offset` on.
    fn read_encoded(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let _ = (buf, offset);
        Err(Error::other(ErrorKind::InvalidInput, "nothing is encoded in this format"))
    }

    /// The dirty bitmaps that it keeps, with all their bits: an error if these take up more than `max`
    /// bytes.
    fn dirty_bitmaps(&self, max: u64) -> Result<Vec<DirtyBitmap>> {
        let _ = max;
        Ok(Vec::new())
    }

    /// What the image says of itself.
    fn describe(&self) -> Result<Description>;

    /// Reads the tables whole, and tells what contradicts itself or the specification. An error of
    /// kind [`Unsupported`](ErrorKind::Unsupported) where the format has nothing to check.
    fn check(&self, checking: &Checking) -> Result<()>;

    /// Writes what mends the image, as far as that can be proven, so that it can stop between any
    /// two writes; see [`Patch`]. `checking` says with how much memory and how many threads, and
    /// whom to tell how far it is; it is not for findings.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::check::DryRun;
    /// use diskimage::format::raw::RawLayer;
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::{Checking, ErrorKind, Layer, RepairScope};
    ///
    /// // a raw disk has nothing to mend but its partition table, and here is none
    /// let layer = RawLayer::new(Arc::new(MemoryStorage::new(vec![0; 1 << 20])));
    /// let mut plan = DryRun::new();
    /// let error = layer.repair(RepairScope::All, &Checking::new(), &mut plan).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Unsupported);
    /// assert!(plan.writes.is_empty());
    /// ```
    fn repair(
        &self,
        scope: RepairScope,
        checking: &Checking,
        patch: &mut dyn Patch,
    ) -> Result<Repaired> {
        let _ = (scope, checking, patch);
        let message = format!("images in the format '{}' are not repaired", self.format());
        Err(Error::other(ErrorKind::Unsupported, message))
    }
}

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
    /// Stored compressed: [`Layer::read_encoded`] tells.
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

/// What an image needs from another file.
///
/// ```
/// # use std::sync::Arc;
/// # use diskimage::format::LayerOptions;
/// # use diskimage::format::qcow2::Qcow2Options;
/// # use diskimage::storage::MemoryStorage;
/// # use diskimage::target::StreamTarget;
/// # use diskimage::{Convert, Format, Target};
/// use diskimage::layer::Role;
///
/// # let mut bytes = Vec::new();
/// # let target = StreamTarget::new(&mut bytes);
/// # let options = Qcow2Options::new().backing("base\u{1b}.qcow2", Some("qcow2"));
/// # Convert::new().create(Box::new(options.writer(1 << 20)?), &target)?;
/// # Box::new(target).finish()?;
/// # let storage = Arc::new(MemoryStorage::new(bytes));
/// let layer = Format::Qcow2.open(storage, &LayerOptions::default())?;
/// let backing = &layer.references()[0];
/// assert_eq!(backing.role, Role::Parent);
/// assert_eq!(backing.format.as_deref(), Some(&b"qcow2"[..]));
/// // a stranger wrote it: as it is, and as it may be printed
/// assert_eq!(backing.names, [b"base\x1b.qcow2"]);
/// assert_eq!(backing.printable_name(), r"base\x1b.qcow2");
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// What for.
    pub role: Role,
    /// The names it is known under, as bytes, the preferred one first. Never empty.
    pub names: Vec<Vec<u8>>,
    /// The format the image says that file has, in the image's own word.
    pub format: Option<Vec<u8>>,
    /// The offset in this file of the structure that names it.
    pub offset: u64,
}

impl Reference {
    /// The preferred name, safe to print.
    #[must_use]
    pub fn printable_name(&self) -> String {
        self.names.first().map(|name| crate::text::printable(name)).unwrap_or_default()
    }
}

/// What an image needs another file for.
///
/// ```
/// use diskimage::layer::{Reference, Role};
///
/// fn sentence(reference: &Reference) -> String {
///     format!("it needs the {} '{}'", reference.role.noun(), reference.printable_name())
/// }
///
/// let names = vec![b"disk-flat.vmdk".to_vec()];
/// let extent = Reference { role: Role::Extent, names, format: None, offset: 512 };
/// assert_eq!(sentence(&extent), "it needs the extent file 'disk-flat.vmdk'");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// The bytes that the image does not have itself: a backing file, a parent.
    Parent,
    /// The guest data of an image that holds only the tables.
    DataFile,
    /// A part of the disk.
    Extent,
}

impl Role {
    /// The noun for messages.
    #[must_use]
    pub fn noun(self) -> &'static str {
        match self {
            Self::Parent => "backing file",
            Self::DataFile => "data file",
            Self::Extent => "extent file",
        }
    }
}

/// What identifies an image as some child's parent.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::Format;
/// use diskimage::format::LayerOptions;
/// use diskimage::layer::Identity;
/// use diskimage::storage::MemoryStorage;
///
/// let descriptor = "# Disk DescriptorFile\nversion=1\nCID=0000beef\nparentCID=ffffffff\n\
///     createType=\"monolithicFlat\"\nRW 8 FLAT \"disk-flat.vmdk\" 0\n";
/// let storage = Arc::new(MemoryStorage::new(descriptor.into()));
/// let layer = Format::Vmdk.open(storage, &LayerOptions::default())?;
/// // what a child of it has as its parentCID
/// assert_eq!(layer.identities(), [Identity::ContentId(0xbeef)]);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Identity {
    /// A UUID in the byte order of its text form (VHD, VHDX, VDI).
    Uuid([u8; 16]),
    /// A VMDK's content identifier.
    ContentId(u32),
}

/// What an image says of itself.
///
/// ```
/// # use std::sync::Arc;
/// # use diskimage::format::LayerOptions;
/// # use diskimage::format::qcow2::Qcow2Options;
/// # use diskimage::storage::MemoryStorage;
/// # use diskimage::target::StreamTarget;
/// # use diskimage::{Convert, Format, Target};
/// use diskimage::Code;
/// use diskimage::layer::Value;
///
/// # let mut bytes = Vec::new();
/// # let target = StreamTarget::new(&mut bytes);
/// # let options = Qcow2Options::new().extended_l2(true).backing("base.raw", Some("raw"));
/// # Convert::new().create(Box::new(options.writer(1 << 20)?), &target)?;
/// # Box::new(target).finish()?;
/// # let storage = Arc::new(MemoryStorage::new(bytes));
/// let layer = Format::Qcow2.open(storage, &LayerOptions::default())?;
/// let description = layer.describe()?;
/// assert!(!description.encrypted && !description.dirty && description.snapshots.is_empty());
/// assert!(description.details.contains(&("extended-l2", Value::Bool(true))));
/// assert_eq!(description.findings[0].code, Code::BackingFile);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Description {
    /// Whether the guest data are encrypted.
    pub encrypted: bool,
    /// Whether the image was left in the middle of something.
    pub dirty: bool,
    /// The internal snapshots.
    pub snapshots: Vec<Snapshot>,
    /// What only this format has, as ordered keys and values; empty if nothing.
    pub details: Vec<(&'static str, Value)>,
    /// What is odd, dangerous or broken.
    pub findings: Vec<Finding>,
}

/// An internal snapshot.
///
/// ```
/// # use std::path::Path;
/// # use std::sync::Arc;
/// # use diskimage::format::qcow2::Qcow2Options;
/// # use diskimage::storage::MemoryStorage;
/// # use diskimage::target::StreamTarget;
/// # use diskimage::{Convert, Target};
/// use diskimage::text::printable;
/// use diskimage::{OpenOptions, VirtualDisk};
///
/// # let mut bytes = Vec::new();
/// # let target = StreamTarget::new(&mut bytes);
/// # Convert::new().create(Box::new(Qcow2Options::new().writer(1 << 20)?), &target)?;
/// # Box::new(target).finish()?;
/// # // a snapshot of the empty disk: a table entry behind all else, which shares the L1 table
/// # bytes.resize(bytes.len().next_multiple_of(64 << 10), 0);
/// # let table = bytes.len() as u64;
/// # let mut entry = bytes[40..48].to_vec(); // l1_table_offset
/// # entry.extend_from_slice(&bytes[36..40]); // l1_size
/// # entry.extend([0, 1, 0, 9]); // lengths of the ID and of the name
/// # entry.extend(1_700_000_000u32.to_be_bytes()); // date_sec
/// # entry.extend([0; 4 + 8 + 4]); // date_nsec, vm_clock_nsec, vm_state_size
/// # entry.extend(16u32.to_be_bytes()); // extra data: the size of the state, and of the disk
/// # entry.extend([0; 8]);
/// # entry.extend((1u64 << 20).to_be_bytes());
/// # entry.extend(b"1installed\0\0\0\0\0\0\0");
/// # bytes.extend(entry);
/// # bytes[60..64].copy_from_slice(&1u32.to_be_bytes()); // nb_snapshots
/// # bytes[64..72].copy_from_slice(&table.to_be_bytes()); // snapshots_offset
/// # let storage = Arc::new(MemoryStorage::new(bytes));
/// # let path = Path::new("disk.qcow2");
/// let image = OpenOptions::new().open_image_storage(storage.clone(), path)?;
/// let snapshot = &image.layer().describe()?.snapshots[0];
/// assert_eq!(printable(&snapshot.name), "installed");
/// assert_eq!((snapshot.date_sec, snapshot.vm_state_size), (1_700_000_000, 0));
/// // the disk as it was then
/// let disk = OpenOptions::new().snapshot(&*snapshot.id).open_storage(storage, path)?;
/// assert_eq!(disk.size(), snapshot.virtual_size);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The identifier, as bytes.
    pub id: Vec<u8>,
    /// The name, as bytes.
    pub name: Vec<u8>,
    /// The size of the disk then, bytes.
    pub virtual_size: u64,
    /// The size of the saved machine state, bytes; zero if none.
    pub vm_state_size: u64,
    /// When it was taken: seconds since 1970 began, UTC.
    pub date_sec: u32,
    /// And nanoseconds.
    pub date_nsec: u32,
    /// How long the machine had run, nanoseconds.
    pub vm_clock_nsec: u64,
    /// How many instructions it had run, where recorded.
    pub icount: Option<u64>,
}

/// A value of a description: a tree that any output form can show. These are all kinds there will be, so
/// that no form leaves one out.
///
/// ```
/// use diskimage::layer::Value;
/// use diskimage::text::printable_str;
///
/// fn show(value: &Value) -> String {
///     match value {
///         Value::Bool(yes) => yes.to_string(),
///         Value::Number(number) => number.to_string(),
///         Value::Text(text) => printable_str(text),
///         Value::List(values) => values.iter().map(show).collect::<Vec<_>>().join(", "),
///         Value::Map(pairs) => {
///             let pair = |(key, value): &(_, _)| format!("{key}: {}", show(value));
///             pairs.iter().map(pair).collect::<Vec<_>>().join("; ")
///         }
///     }
/// }
///
/// let bitmaps = Value::List(vec!["monday".into(), "tuesday".into()]);
/// let details = Value::Map(vec![("compat", "1.1".into()), ("bitmaps", bitmaps)]);
/// assert_eq!(show(&details), "compat: 1.1; bitmaps: monday, tuesday");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Yes or no.
    Bool(bool),
    /// A number.
    Number(u64),
    /// Text; may hold anything a file says, so make it printable before it meets a terminal.
    Text(String),
    /// Several values.
    List(Vec<Self>),
    /// Named values in order.
    Map(Vec<(&'static str, Self)>),
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Number(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Number(value.into())
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}
