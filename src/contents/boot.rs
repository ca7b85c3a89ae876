//! What a disk could be started from.

use std::fmt;

use super::fs::ElTorito;
use super::table::TableKind;
use super::{Contents, Role};

/// The part of the first sector that holds code; behind it lie the disk's number and the table.
const CODE: usize = 440;

/// What a disk could be started from. That something is there does not mean that it works.
///
/// ```
/// # use std::{path::Path, sync::Arc};
/// # use diskimage::{Format, OpenOptions, storage::MemoryStorage};
/// use diskimage::contents::{self, Bounds};
///
/// let mut bytes = vec![0; 1 << 20];
/// bytes[..2].copy_from_slice(&[0xeb, 0xfe]); // code
/// // the table's first entry: active, EFI system partition, from sector 1 on, 2047 sectors
/// bytes[446..462].copy_from_slice(&[0x80, 0, 2, 0, 0xef, 0, 0, 0, 1, 0, 0, 0, 0xff, 7, 0, 0]);
/// bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
/// # let storage = Arc::new(MemoryStorage::new(bytes));
/// # let disk = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("disk"))?;
/// let boot = contents::look(&disk, &Bounds::default())?.boot;
/// assert!(boot.by_bios() && boot.by_uefi());
/// assert_eq!((boot.active, boot.efi_system), (Some(1), Some(1)));
/// assert!(boot.to_string().starts_with("has what a BIOS boots (boot sector, active part"));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Boot {
    /// The first sector ends with 0x55 0xaa.
    pub signature: bool,
    /// There is something where the first sector has its code.
    pub code: bool,
    /// The number of the partition that an MBR marks as active, or a GPT as one that a BIOS boots.
    pub active: Option<u32>,
    /// The number of the EFI system partition.
    pub efi_system: Option<u32>,
    /// The number of the partition that GRUB keeps its second stage in, on a GPT.
    pub bios_boot: Option<u32>,
    /// El Torito's catalog has an image for a BIOS.
    pub el_torito_bios: bool,
    /// El Torito's catalog has an image for UEFI.
    pub el_torito_efi: bool,
}

impl Boot {
    /// Whether there is something for a BIOS: a boot sector with code, or El Torito's image.
    #[must_use]
    pub fn by_bios(&self) -> bool {
        (self.signature && self.code) || self.el_torito_bios
    }

    /// Whether there is something for UEFI: an EFI system partition, or El Torito's image.
    #[must_use]
    pub fn by_uefi(&self) -> bool {
        self.efi_system.is_some() || self.el_torito_efi
    }
}

/// A sentence for people.
impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bios = Vec::new();
        if self.signature && self.code {
            bios.push("boot sector".to_owned());
            bios.extend(self.active.map(|number| format!("active partition {number}")));
            bios.extend(self.bios_boot.map(|number| format!("BIOS boot partition {number}")));
        }
        bios.extend(self.el_torito_bios.then(|| "El Torito".to_owned()));
        let mut efi = Vec::new();
        efi.extend(self.efi_system.map(|number| format!("EFI system partition {number}")));
        efi.extend(self.el_torito_efi.then(|| "El Torito".to_owned()));
        match (bios.is_empty(), efi.is_empty()) {
            (true, true) => f.write_str("nothing to boot from was found"),
            (false, true) => write!(f, "has what a BIOS boots ({})", bios.join(", ")),
            (true, false) => write!(f, "has what UEFI boots ({})", efi.join(", ")),
            (false, false) => {
                let (bios, efi) = (bios.join(", "), efi.join(", "));
                write!(f, "has what a BIOS boots ({bios}) and what UEFI boots ({efi})")
            }
        }
    }
}

pub(super) fn judge(sector: &[u8], contents: &Contents, catalog: ElTorito) -> Boot {
    const SYSTEM: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
    const BIOS_BOOT: &str = "21686148-6449-6e6f-744e-656564454649";
    let table = contents.table.as_ref().map(|table| table.kind);
    let number = |wanted: &dyn Fn(&super::Partition) -> bool| {
        contents.partitions.iter().find(|one| wanted(one)).map(|one| one.number)
    };
    Boot {
        signature: crate::partition::mbr::is_signed(sector),
        code: sector.get(..CODE).is_some_and(|code| code.iter().any(|&byte| byte != 0)),
        active: number(&|one| one.bootable && one.role != Role::Logical),
        efi_system: number(&|one| match table {
            Some(TableKind::Gpt) => one.kind.id == SYSTEM,
            _ => one.kind.id == "0xef",
        }),
        bios_boot: number(&|one| one.kind.id == BIOS_BOOT),
        el_torito_bios: catalog.bios,
        el_torito_efi: catalog.efi,
    }
}
