//! The formats: their names, and how each one's file becomes a [`Layer`].
//!
//! ```
//! use std::sync::Arc;
//!
//! use diskimage::Format;
//! use diskimage::format::LayerOptions;
//! use diskimage::format::qcow2::Qcow2Options;
//! use diskimage::storage::MemoryStorage;
//!
//! # let mut bytes = Vec::new();
//! # let target = diskimage::target::StreamTarget::new(&mut bytes);
//! let writer = Box::new(Qcow2Options::new().backing("base.raw", Some("raw")).writer(1 << 30)?);
//! # diskimage::Convert::new().create(writer, &target)?;
//! # diskimage::Target::finish(Box::new(target))?;
//! // `bytes` is what it makes of an empty disk
//! // one file by the rules of its format: what it names is not opened
//! let storage = Arc::new(MemoryStorage::new(bytes));
//! let layer = Format::Qcow2.open(storage, &LayerOptions::default())?;
//! assert_eq!((layer.format(), layer.size()), (Format::Qcow2, 1 << 30));
//! assert_eq!(layer.references()[0].names, [b"base.raw"]);
//! # Ok::<(), diskimage::Error>(())
//! ```

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Detail, ErrorKind, Result};
use crate::layer::Layer;
use crate::limits::Limits;
use crate::storage::Storage;

pub mod android_sparse;
pub mod asif;
mod blocks;
pub mod bochs;
pub mod cloop;
pub mod dmg;
mod fault;
mod glance;
pub mod luks;
pub mod parallels;
mod parent;
pub mod probe;
pub mod qcow;
pub mod qcow2;
pub mod qed;
pub mod raw;
pub mod sparseimage;
mod twolevel;
mod units;
pub mod vdi;
pub mod vhd;
pub mod vhdx;
pub mod vmdk;
mod whole;

pub use glance::Glance;

/// What a kind of file is to a disk.
///
/// ```
/// use diskimage::Format;
/// use diskimage::format::Class;
///
/// assert_eq!(Format::Vmdk.class(), Class::Image);
/// assert_eq!(Format::Ext.class(), Class::Content);
/// let wrappers = Format::ALL.iter().filter(|format| format.class() == Class::Wrapper);
/// for format in wrappers {
///     println!("{}: {}", format.name(), format.description()); // gzip: gzip-compressed file
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// It describes a virtual disk: reading it takes a parser.
    Image,
    /// It is the plain content of a disk: a partition table, a file system.
    Content,
    /// It holds other files: an archive, a compressed file.
    Wrapper,
}

macro_rules! formats {
    ($($variant:ident $class:ident $name:literal $(| $alias:literal)*, $description:literal;)+) => {
        /// A kind of file that can be told by its bytes.
        ///
        /// ```
        /// use diskimage::Format;
        ///
        /// assert_eq!("vhd".parse::<Format>()?, Format::Vhd);
        /// assert_eq!(Format::Vhd.to_string(), "vpc"); // qemu-img's name
        /// assert!(Format::ALL.iter().filter(|format| format.is_read()).count() >= 15);
        /// # Ok::<(), diskimage::Error>(())
        /// ```
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Format {
            $(#[doc = $description] $variant,)+
        }

        impl Format {
            /// Every format.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name, such as `qcow2`; qemu-img's where it has one.
            ///
            /// ```
            /// use diskimage::Format;
            ///
            /// assert_eq!((Format::Vhd.name(), Format::Vhdx.name()), ("vpc", "vhdx"));
            /// let names: diskimage::Result<Vec<Format>> =
            ///     Format::ALL.iter().map(|format| format.name().parse()).collect();
            /// assert_eq!(names?, Format::ALL);
            /// # Ok::<(), diskimage::Error>(())
            /// ```
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// What it is, in a few words.
            ///
            /// ```
            /// use diskimage::Format;
            ///
            /// assert_eq!(Format::Vhd.description(), "Microsoft VHD image");
            /// ```
            #[must_use]
            pub fn description(self) -> &'static str {
                match self {
                    $(Self::$variant => $description,)+
                }
            }

            /// What it is to a disk.
            ///
            /// ```
            /// use diskimage::Format;
            /// use diskimage::format::Class;
            ///
            /// assert_eq!(Format::Raw.class(), Class::Image);
            /// assert_eq!(Format::Gpt.class(), Class::Content); // it lies on a raw disk
            /// assert_eq!(Format::Ova.class(), Class::Wrapper);
            /// ```
            #[must_use]
            pub fn class(self) -> Class {
                match self {
                    $(Self::$variant => Class::$class,)+
                }
            }

            fn by_name(name: &str) -> Option<Self> {
                match name {
                    $($name $(| $alias)* => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

formats! {
    Raw Image "raw" | "img" | "ami", "raw disk";
    Qcow2 Image "qcow2", "QEMU QCOW2 image";
    Qcow Image "qcow", "QEMU QCOW version 1 image";
    Qed Image "qed", "QEMU QED image";
    Vmdk Image "vmdk", "VMware VMDK image";
    Vhd Image "vpc" | "vhd", "Microsoft VHD image";
    Vhdx Image "vhdx", "Microsoft VHDX image";
    Vdi Image "vdi", "VirtualBox VDI image";
    Parallels Image "parallels" | "ploop" | "hdd", "Parallels image";
    Luks Image "luks", "LUKS encrypted container";
    Dmg Image "dmg" | "udif", "Apple disk image (UDIF)";
    EncryptedDmg Image "encrypted-dmg", "encrypted Apple disk image";
    SparseImage Image "sparseimage", "Apple sparse image";
    Asif Image "asif", "Apple sparse image format (ASIF)";
    AndroidSparse Image "android-sparse" | "simg", "Android sparse image";
    Cloop Image "cloop", "compressed loop image (cloop)";
    Bochs Image "bochs", "Bochs growing disk image";
    Ewf Image "ewf" | "e01", "Expert Witness (EWF) evidence image";
    Vma Image "vma", "Proxmox VMA archive";
    Ova Wrapper "ova", "OVA archive of a virtual machine";
    Ovf Wrapper "ovf", "OVF description of a virtual machine";
    Tar Wrapper "tar", "tar archive";
    Zip Wrapper "zip", "ZIP archive";
    SevenZip Wrapper "7z", "7-Zip archive";
    Gzip Wrapper "gzip", "gzip-compressed file";
    Xz Wrapper "xz", "xz-compressed file";
    ZstdFile Wrapper "zstd", "zstd-compressed file";
    Bzip2 Wrapper "bzip2", "bzip2-compressed file";
    Lz4 Wrapper "lz4", "LZ4-compressed file";
    Gpt Content "gpt", "GPT partition table";
    Mbr Content "mbr", "MBR partition table";
    Iso Content "iso", "ISO 9660 file system";
    Udf Content "udf", "UDF file system";
    Ext Content "ext", "ext2/3/4 file system";
    Xfs Content "xfs", "XFS file system";
    Btrfs Content "btrfs", "Btrfs file system";
    Ntfs Content "ntfs", "NTFS file system";
    Exfat Content "exfat", "exFAT file system";
    Fat Content "fat", "FAT file system";
    HfsPlus Content "hfsplus", "HFS+ file system";
    Apfs Content "apfs", "APFS container";
    Lvm2 Content "lvm2", "LVM2 physical volume";
    LinuxRaid Content "linux-raid", "Linux software RAID member";
    Swap Content "swap", "Linux swap space";
    Squashfs Content "squashfs", "SquashFS file system";
    Erofs Content "erofs", "EROFS file system";
    BootSector Content "boot-sector", "boot sector";
    LinuxKernel Content "aki-bzimage" | "aki", "Linux kernel (bzImage)";
    Cpio Content "ari-cpio" | "ari", "cpio archive (initial ramdisk)";
}

impl Format {
    /// Whether this crate reads the disk inside.
    ///
    /// ```
    /// use diskimage::Format;
    ///
    /// assert!(Format::Vmdk.is_read() && Format::Dmg.is_read());
    /// assert!(!Format::Luks.is_read() && !Format::Zip.is_read());
    /// ```
    #[must_use]
    pub fn is_read(self) -> bool {
        matches!(
            self,
            Self::Raw
                | Self::Qcow2
                | Self::Vmdk
                | Self::Vhd
                | Self::Vhdx
                | Self::Vdi
                | Self::Qcow
                | Self::Qed
                | Self::Parallels
                | Self::Cloop
                | Self::Bochs
                | Self::Dmg
                | Self::SparseImage
                | Self::Asif
                | Self::AndroidSparse
        )
    }

    /// Whether this crate opens images of it at all: those that are read, and LUKS containers, which
    /// are described, and whose disk is refused.
    ///
    /// ```
    /// use diskimage::Format;
    ///
    /// assert!(Format::Luks.is_described() && !Format::Luks.is_read());
    /// assert!(!Format::Ewf.is_described()); // known by its name only
    /// ```
    #[must_use]
    pub fn is_described(self) -> bool {
        self.is_read() || self == Self::Luks
    }

    /// Opens `storage` as one image of this format. Names of other files are taken up, not
    /// followed; see [`Layer::references`]. The plain content of a disk (a partition table, an ISO
    /// 9660 file system) opens as the raw disk that it lies on.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::format::LayerOptions;
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::{ErrorKind, Format};
    ///
    /// let storage = Arc::new(MemoryStorage::new(vec![0; 4096]));
    /// // any bytes are a raw disk, and so is what a file system lies on
    /// let layer = Format::Ext.open(storage.clone(), &LayerOptions::default())?;
    /// assert_eq!((layer.format(), layer.size()), (Format::Raw, 4096));
    /// // the other formats look for their own signature
    /// let error = Format::Vhdx.open(storage, &LayerOptions::default()).unwrap_err();
    /// assert_eq!((error.kind(), error.offset()), (ErrorKind::InvalidInput, Some(0)));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn open(self, storage: Arc<dyn Storage>, options: &LayerOptions) -> Result<Box<dyn Layer>> {
        if options.snapshot.is_some() && self != Self::Qcow2 {
            return Err(FormatDetail::NoSnapshots(self.name()).into());
        }
        match self {
            Self::Raw => Ok(Box::new(raw::RawLayer::new(storage))),
            _ if self.class() == Class::Content => Ok(Box::new(raw::RawLayer::new(storage))),
            Self::Qcow2 => Ok(Box::new(qcow2::Qcow2Layer::open(storage, options)?)),
            Self::Qcow => Ok(Box::new(qcow::QcowLayer::open(storage, options)?)),
            Self::Qed => Ok(Box::new(qed::QedLayer::open(storage, options)?)),
            Self::Parallels => parallels::open(storage, options),
            Self::Cloop => Ok(Box::new(cloop::CloopLayer::open(storage, options)?)),
            Self::Bochs => Ok(Box::new(bochs::BochsLayer::open(storage, options)?)),
            Self::AndroidSparse => {
                Ok(Box::new(android_sparse::AndroidSparseLayer::open(storage, options)?))
            }
            Self::SparseImage => {
                Ok(Box::new(sparseimage::SparseImageLayer::open(storage, options)?))
            }
            Self::Asif => Ok(Box::new(asif::AsifLayer::open(storage, options)?)),
            Self::Luks => Ok(Box::new(luks::LuksLayer::open(storage)?)),
            Self::Dmg => Ok(Box::new(dmg::DmgLayer::open(storage, options)?)),
            Self::EncryptedDmg => Err(FormatDetail::Encrypted(self.description()).into()),
            Self::Vhd => Ok(Box::new(vhd::VhdLayer::open(storage, options)?)),
            Self::Vdi => Ok(Box::new(vdi::VdiLayer::open(storage, options)?)),
            Self::Vhdx => Ok(Box::new(vhdx::VhdxLayer::open(storage, options)?)),
            Self::Vmdk => Ok(Box::new(vmdk::VmdkLayer::open(storage, options)?)),
            Self::Ovf => Err(FormatDetail::NoDisk(self.description()).into()),
            _ => Err(FormatDetail::NotRead(self.name()).into()),
        }
    }
}

impl FromStr for Format {
    type Err = crate::Error;

    /// qemu-img's names, the world's and Glance's, in any case: `vpc` and `vhd` are the same, and so
    /// are `parallels` and `ploop`, `raw` and `ami`.
    fn from_str(name: &str) -> Result<Self> {
        Self::by_name(&name.to_ascii_lowercase())
            .ok_or_else(|| FormatDetail::UnknownName(crate::text::printable_str(name)).into())
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How a format's file is opened.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::format::LayerOptions;
/// use diskimage::format::qcow2::Qcow2Options;
/// use diskimage::storage::MemoryStorage;
/// use diskimage::{ErrorKind, Format};
///
/// # let mut bytes = Vec::new();
/// # let target = diskimage::target::StreamTarget::new(&mut bytes);
/// let writer = Box::new(Qcow2Options::new().writer(1 << 40)?);
/// # diskimage::Convert::new().create(writer, &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `bytes` is what it makes of an empty disk
/// let mut options = LayerOptions::default();
/// options.limits.max_table_size = 4096; // an L1 table of no more than 512 entries
/// options.look_over = 0; // describing it reads no tables
/// let storage = Arc::new(MemoryStorage::new(bytes));
/// let error = Format::Qcow2.open(storage, &options).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::LimitExceeded);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LayerOptions {
    /// The bounds.
    pub limits: Limits,
    /// The internal snapshot to read, by identifier or else by name.
    pub snapshot: Option<Vec<u8>>,
    /// Whether to read what is marked as corrupt or has unknown incompatible features.
    pub trust_broken: bool,
    /// How many bytes of tables [`describe`](Layer::describe) may look over in search of what is
    /// missing or broken. Zero: none, since the caller does so. Default: 1 MiB.
    pub look_over: u64,
    /// Whether to read only what the disk needs: no tables of snapshots or bitmaps, which may lie
    /// far behind what maps the disk.
    pub disk_only: bool,
}

impl Default for LayerOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            snapshot: None,
            trust_broken: false,
            look_over: 1 << 20,
            disk_only: false,
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum FormatDetail {
    #[error("no format is called '{0}'")]
    UnknownName(String),
    #[error("the format '{0}' is known by name only and not read yet")]
    NotRead(&'static str),
    #[error("is the {0}; its disks are the files that it names")]
    NoDisk(&'static str),
    #[error("is {0}; encrypted images are not read yet")]
    Encrypted(&'static str),
    #[error("the format '{0}' has no internal snapshots")]
    NoSnapshots(&'static str),
}

impl Detail for FormatDetail {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownName(_) | Self::NoSnapshots(_) => ErrorKind::InvalidInput,
            Self::NotRead(_) | Self::NoDisk(_) | Self::Encrypted(_) => ErrorKind::Unsupported,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_formats() {
        for &format in Format::ALL {
            assert_eq!(format.name().parse::<Format>().unwrap(), format);
        }
        assert_eq!("VHD".parse::<Format>().unwrap(), Format::Vhd);
        assert_eq!("ploop".parse::<Format>().unwrap(), Format::Parallels);
        assert!("nbd".parse::<Format>().is_err());
    }
}
