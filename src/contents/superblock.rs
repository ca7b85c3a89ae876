//! What was recognised by its superblock.

use crate::finding::Finding;

/// What a superblock is to the bytes around it.
///
/// ```
/// use diskimage::contents::{Kind, Usage};
///
/// let members = Kind::ALL.iter().filter(|kind| kind.usage() == Usage::Member);
/// let names: Vec<_> = members.map(|kind| kind.name()).collect();
/// assert_eq!(names, ["bcache", "LVM2_member", "linux_raid_member", "zfs_member"]);
/// assert_eq!(Usage::Member.as_str(), "member");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Usage {
    /// Files lie in it.
    FileSystem,
    /// It is a part of a larger whole: a volume group, an array, a pool.
    Member,
    /// What lies in it is encrypted.
    Encrypted,
    /// Something else.
    Other,
}

impl Usage {
    /// The name in lower case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FileSystem => "filesystem",
            Self::Member => "member",
            Self::Encrypted => "encrypted",
            Self::Other => "other",
        }
    }
}

macro_rules! kinds {
    ($($variant:ident $usage:ident $name:literal, $description:literal;)+) => {
        /// A kind of superblock.
        ///
        /// ```
        /// use diskimage::contents::{Kind, Usage};
        ///
        /// let mut all = Kind::ALL.iter();
        /// let kind = all.find(|kind| kind.name() == "crypto_LUKS").expect("blkid's name");
        /// assert_eq!((*kind, kind.usage()), (Kind::Luks, Usage::Encrypted));
        /// assert_eq!(kind.description(), "LUKS encrypted volume");
        /// ```
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Kind {
            $(#[doc = $description] $variant,)+
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name, `TYPE` in the words of `blkid` where it has one.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// What it is, in a few words.
            #[must_use]
            pub fn description(self) -> &'static str {
                match self {
                    $(Self::$variant => $description,)+
                }
            }

            /// What it is to the bytes around it.
            #[must_use]
            pub fn usage(self) -> Usage {
                match self {
                    $(Self::$variant => Usage::$usage,)+
                }
            }
        }
    };
}

kinds! {
    Ext2 FileSystem "ext2", "ext2 file system";
    Ext3 FileSystem "ext3", "ext3 file system";
    Ext4 FileSystem "ext4", "ext4 file system";
    Ext4dev FileSystem "ext4dev", "ext4 file system under development";
    Jbd Other "jbd", "external journal of ext3 or ext4";
    Xfs FileSystem "xfs", "XFS file system";
    Btrfs FileSystem "btrfs", "Btrfs file system";
    F2fs FileSystem "f2fs", "F2FS file system";
    Bcachefs FileSystem "bcachefs", "bcachefs file system";
    Bcache Member "bcache", "bcache device";
    Swap Other "swap", "Linux swap space";
    Swsuspend Other "swsuspend", "Linux swap space that holds a suspended system";
    Squashfs FileSystem "squashfs", "SquashFS file system";
    Erofs FileSystem "erofs", "EROFS file system";
    Vfat FileSystem "vfat", "FAT file system";
    Exfat FileSystem "exfat", "exFAT file system";
    Ntfs FileSystem "ntfs", "NTFS file system";
    Refs FileSystem "ReFS", "ReFS file system";
    BitLocker Encrypted "BitLocker", "volume encrypted by BitLocker";
    Hfs FileSystem "hfs", "HFS file system";
    HfsPlus FileSystem "hfsplus", "HFS+ file system";
    Apfs FileSystem "apfs", "APFS container";
    Iso9660 FileSystem "iso9660", "ISO 9660 file system";
    Udf FileSystem "udf", "UDF file system";
    Lvm2 Member "LVM2_member", "LVM2 physical volume";
    LinuxRaid Member "linux_raid_member", "Linux software RAID member";
    Zfs Member "zfs_member", "member of a ZFS pool";
    Luks Encrypted "crypto_LUKS", "LUKS encrypted volume";
    LinuxKernel Other "linux-kernel", "Linux kernel";
    Cpio Other "cpio", "cpio archive (initial ramdisk)";
}

/// A superblock that was recognised, and what it says of itself. All texts are free of control
/// characters; they are the guest's own words, and nothing proves them.
///
/// ```
/// # use std::{path::Path, sync::Arc};
/// # use diskimage::{Format, OpenOptions, storage::MemoryStorage};
/// use diskimage::contents::{self, Bounds, Kind};
///
/// // swap space: its header lies in the second KiB of its first page, whose end is the signature
/// let mut bytes = vec![0; 64 << 10];
/// bytes[1024..1032].copy_from_slice(&[1, 0, 0, 0, 15, 0, 0, 0]); // its version, the last page
/// bytes[1036..1052].copy_from_slice(&[0xab; 16]); // its UUID
/// bytes[1052..1056].copy_from_slice(b"page"); // its label
/// bytes[0x1000 - 10..0x1000].copy_from_slice(b"SWAPSPACE2");
/// # let storage = Arc::new(MemoryStorage::new(bytes));
/// # let disk = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("swap"))?;
/// let contents = contents::look(&disk, &Bounds::default())?;
/// let [swap] = &contents.superblocks[..] else { panic!("nothing else fits") };
/// assert_eq!((swap.kind, swap.offset), (Kind::Swap, 0x1000 - 10));
/// assert_eq!(swap.label.as_deref(), Some("page"));
/// assert_eq!(swap.uuid.as_deref(), Some("abababab-abab-abab-abab-abababababab"));
/// assert_eq!((swap.size, swap.block_size), (Some(64 << 10), Some(4096)));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Superblock {
    /// What it is.
    pub kind: Kind,
    /// Where on the disk the superblock lies, bytes.
    pub offset: u64,
    /// The version, as `blkid` prints it.
    pub version: Option<String>,
    /// The label.
    pub label: Option<String>,
    /// The UUID, or the serial number in the place of one, as `blkid` prints it.
    pub uuid: Option<String>,
    /// The identifier of this device, where several have one `uuid`.
    pub uuid_sub: Option<String>,
    /// How many bytes it takes, by its own word.
    pub size: Option<u64>,
    /// The unit it gives room away in, bytes.
    pub block_size: Option<u64>,
    /// What is odd about it, without a place.
    pub(super) odd: Vec<Finding>,
}

impl Superblock {
    /// One at `offset` of its view; where that starts on the disk is added later.
    pub(super) fn new(kind: Kind, offset: u64) -> Self {
        Self {
            kind,
            offset,
            version: None,
            label: None,
            uuid: None,
            uuid_sub: None,
            size: None,
            block_size: None,
            odd: Vec::new(),
        }
    }
}
