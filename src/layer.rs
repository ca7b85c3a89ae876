//! Layer: what a format implements for one image file.

use std::fmt::Debug;
use std::sync::Arc;

use crate::check::{Checking, Patch, RepairScope, Repaired};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Format;
use crate::storage::Storage;

mod description;
mod mapping;

pub use description::{Description, Snapshot, Value};
pub use mapping::{DirtyBitmap, Mapping, MappingKind, Reach, Source};

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
