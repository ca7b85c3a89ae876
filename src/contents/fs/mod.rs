//! The superblocks that are known: one function each, which answers `None` where it is not there.

use crate::error::{Error, Result};
use crate::text::printable;

use super::superblock::{Kind, Superblock, Usage};
use super::view::View;

mod apple;
mod image;
mod linux;
mod member;
mod microsoft;
mod optical;

pub(super) use optical::ElTorito;

type Recognise = fn(&View<'_>) -> Result<Option<Superblock>>;

/// Every parser. Members of something larger and encrypted volumes come first: what lies in them is
/// not theirs to tell.
const ALL: &[Recognise] = &[
    member::linux_raid,
    member::lvm2,
    member::luks,
    microsoft::bitlocker,
    member::zfs,
    member::bcache,
    microsoft::fat,
    microsoft::ntfs,
    microsoft::exfat,
    microsoft::refs,
    linux::ext,
    linux::xfs,
    linux::btrfs,
    linux::f2fs,
    linux::bcachefs,
    linux::swap,
    linux::squashfs,
    linux::erofs,
    apple::hfs,
    apple::apfs,
    optical::udf,
    optical::iso9660,
    image::kernel,
    image::cpio,
];

/// All superblocks in `view` that are `wanted`, and the first error met on the way.
pub(super) fn recognise(
    view: &View<'_>,
    wanted: impl Fn(&Superblock) -> bool,
) -> (Vec<Superblock>, Option<Error>) {
    let (mut found, mut failed) = (Vec::new(), None);
    for recognise in ALL {
        match recognise(view) {
            Ok(Some(mut superblock)) => {
                superblock.offset = superblock.offset.saturating_add(view.start);
                let inner = matches!(superblock.kind.usage(), Usage::Member | Usage::Encrypted);
                if wanted(&superblock) {
                    found.push(superblock);
                    if inner {
                        break;
                    }
                }
            }
            Ok(None) => {}
            Err(error) => {
                failed.get_or_insert(error);
            }
        }
    }
    (found, failed)
}

/// The boot catalog of an ISO 9660 file system in `view`.
pub(super) fn el_torito(view: &View<'_>) -> Result<Option<ElTorito>> {
    optical::el_torito(view)
}

/// Bytes up to the first zero, without spaces behind, as printable text; `None` if that is nothing.
fn label(bytes: &[u8]) -> Option<String> {
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    let end = text.iter().rposition(|&byte| byte != b' ').map_or(0, |last| last.saturating_add(1));
    let text = text.get(..end).unwrap_or_default();
    (!text.is_empty()).then(|| printable(text))
}

/// The same for 16-bit characters.
pub(super) fn wide_label(units: impl Iterator<Item = u16>) -> Option<String> {
    let units = units.take_while(|&unit| unit != 0);
    let text: String =
        char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    label(text.as_bytes())
}

/// Little-endian 16-bit characters.
pub(super) fn wide_le(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.as_chunks::<2>().0.iter().map(|&pair| u16::from_le_bytes(pair))
}

/// Big-endian 16-bit characters.
fn wide_be(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.as_chunks::<2>().0.iter().map(|&pair| u16::from_be_bytes(pair))
}

/// A UUID whose bytes lie in the order of its text; `None` if all are zero.
fn uuid(bytes: [u8; 16]) -> Option<String> {
    (bytes != [0; 16]).then(|| crate::text::uuid(&bytes))
}

/// A serial number of four bytes as `1234-ABCD`.
fn serial(number: u32) -> String {
    format!("{:04X}-{:04X}", number.wrapping_shr(16), number & 0xffff)
}
