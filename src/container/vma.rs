//! The header of a Proxmox VMA archive: which devices it holds. Their content is not read. The
//! layout is that of `vma_spec.txt` in Proxmox' `pve-qemu`; all numbers are big-endian, but for the
//! lengths in the blob.

use std::path::Path;
use std::sync::Arc;

use md5::{Digest, Md5};

use super::error::Fault;
use crate::bytes::BeCursor;
use crate::error::{Error, Result};
use crate::finding::{Code, Finding};
use crate::layer::{Description, Value};
use crate::limits::Limits;
use crate::num::{to_u64, to_usize};
use crate::storage::{Storage, read_vec};

const MAGIC: &[u8] = b"VMA\0";
/// Where the blob of names and configurations starts at the earliest: behind the devices.
const FIXED: u64 = 12_288;
const MD5: std::ops::Range<usize> = 32..48;
/// Where the names of configurations and the devices lie.
const CONFIG_NAMES: usize = 2044;
const CONFIGS: usize = 256;
const DEVICES: usize = 4096;
const DEVICE: usize = 32;

/// What the header says.
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use diskimage::container::Container;
/// use diskimage::storage::MemoryStorage;
/// use diskimage::{Format, Limits, Storage};
///
/// let mut header = vec![0; 12_800];
/// header[..8].copy_from_slice(b"VMA\0\0\0\0\x01"); // magic and version
/// header[24..32].copy_from_slice(&1_700_000_000u64.to_be_bytes()); // ctime
/// let blob = [12_288u32, 512, 12_800].map(u32::to_be_bytes); // its offset, its size, the header's
/// header[48..60].copy_from_slice(blob.as_flattened());
/// header[4128..4132].copy_from_slice(&1u32.to_be_bytes()); // device 1: its name in the blob
/// header[4136..4144].copy_from_slice(&(10u64 << 30).to_be_bytes()); // and its size
/// header[12_289..12_303].copy_from_slice(b"\x0c\0drive-scsi0\0"); // the length is little-endian
/// # use md5::Digest;
/// # let digest = md5::Md5::digest(&header);
/// # header[32..48].copy_from_slice(&digest); // of the header without it
///
/// let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(header));
/// let (path, limits) = (Path::new("vm.vma"), Limits::default());
/// let Some(Container::Vma(vma)) = Container::open_as(Format::Vma, &storage, path, &limits)? else {
///     panic!("it is one");
/// };
/// assert_eq!(vma.created, 1_700_000_000);
/// assert_eq!(vma.devices, [(b"drive-scsi0".to_vec(), 10 << 30)]);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Vma {
    storage: Arc<dyn Storage>,
    /// `uuid`, in the byte order of its text form.
    pub uuid: [u8; 16],
    /// `ctime`: seconds since 1970 began.
    pub created: i64,
    /// The devices: their names and sizes in bytes.
    pub devices: Vec<(Vec<u8>, u64)>,
    /// The names of the configurations that it holds.
    pub configs: Vec<Vec<u8>>,
}

impl Vma {
    /// Reads and verifies the header of `storage`; `path` is its name.
    ///
    /// ```
    /// use std::path::Path;
    /// use std::sync::Arc;
    ///
    /// use diskimage::container::Vma;
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::{ErrorKind, Limits, Storage};
    ///
    /// let header = [&b"VMA\0\0\0\0\x01"[..], &[0; 12_280]].concat();
    /// let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(header));
    /// let error = Vma::read(&storage, Path::new("vm.vma"), &Limits::default()).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Corrupt); // it tells of no blob
    /// assert_eq!(error.offset(), Some(48));
    /// ```
    pub fn read(storage: &Arc<dyn Storage>, path: &Path, limits: &Limits) -> Result<Self> {
        Self::parse(storage, limits).map_err(|error| error.in_file(path))
    }

    fn parse(storage: &Arc<dyn Storage>, limits: &Limits) -> Result<Self> {
        let wrong = |at: u64, what: &str| Error::new(Fault::Corrupt(what.to_owned())).at(at);
        let start = read_vec(storage, "the header", 0, 60)?;
        let mut cursor = BeCursor::new(&start, 0);
        if cursor.bytes(4, "the magic")? != MAGIC {
            return Err(wrong(0, "is no VMA archive: its magic is missing"));
        }
        let version = cursor.u32("the version")?;
        if version != 1 {
            return Err(Error::new(Fault::Unsupported("a VMA archive of an unknown version")).at(4));
        }
        let uuid = *cursor.bytes(16, "the uuid")?.first_chunk().unwrap_or(&[0; 16]);
        let created = cursor.u64("the time of creation")?.cast_signed();
        let stored = cursor.bytes(16, "the checksum")?.to_vec();
        let blob_at = u64::from(cursor.u32("the offset of the blob")?);
        let blob_size = u64::from(cursor.u32("the size of the blob")?);
        let size = u64::from(cursor.u32("the size of the header")?);
        let limit = limits.max_directory_size;
        if size > limit {
            return Err(Error::new(Fault::TooLarge { what: "the header", size, limit }).at(56));
        }
        let fits = blob_at >= FIXED && blob_at.saturating_add(blob_size) <= size;
        if !fits {
            return Err(wrong(48, "the blob of names does not lie within the header"));
        }
        let mut header = read_vec(storage, "the header", 0, to_usize(size))?;
        if let Some(field) = header.get_mut(MD5) {
            field.fill(0);
        }
        if Md5::digest(&header)[..] != stored {
            return Err(wrong(32, "the MD5 of the header is wrong"));
        }
        let blob = header.get(to_usize(blob_at)..).and_then(|rest| rest.get(..to_usize(blob_size)));
        let blob = blob.unwrap_or_default();
        let (mut devices, mut configs) = (Vec::new(), Vec::new());
        for table in header.get(DEVICES..to_usize(FIXED)).unwrap_or_default().chunks_exact(DEVICE) {
            let mut device = BeCursor::new(table, to_u64(DEVICES));
            let pointer = device.u32("a device")?;
            device.u32("a device")?;
            let size = device.u64("the size of a device")?;
            if pointer != 0 {
                let name = text(blob, pointer);
                devices.push((name.ok_or_else(|| wrong(blob_at, "a device has no name"))?, size));
            }
        }
        let names = header.get(CONFIG_NAMES..).unwrap_or_default();
        let mut names = BeCursor::new(names, to_u64(CONFIG_NAMES));
        for _ in 0..CONFIGS {
            let pointer = names.u32("the name of a configuration")?;
            if pointer != 0 {
                let name = text(blob, pointer);
                configs.push(name.ok_or_else(|| wrong(blob_at, "a configuration has no name"))?);
            }
        }
        Ok(Self { storage: Arc::clone(storage), uuid, created, devices, configs })
    }

    pub(super) fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    pub(super) fn describe(&self) -> Description {
        let text = |bytes: &[u8]| Value::Text(crate::text::printable(bytes));
        let devices = self.devices.iter().map(|(name, size)| {
            Value::Map(vec![("name", text(name)), ("size", Value::Number(*size))])
        });
        let configs = self.configs.iter().map(|name| text(name));
        let details = vec![
            ("uuid", Value::Text(crate::text::uuid(&self.uuid))),
            ("created", Value::Number(self.created.unsigned_abs())),
            ("devices", Value::List(devices.collect())),
            ("configurations", Value::List(configs.collect())),
        ];
        let told = "the disks in a VMA archive are not read: extract them with Proxmox' vma first";
        let findings = vec![Finding::new(Code::NotChecked, told)];
        Description { details, findings, ..Description::default() }
    }
}

/// The text at a place of the blob: its length in two bytes, little-endian, and an end mark.
fn text(blob: &[u8], pointer: u32) -> Option<Vec<u8>> {
    let rest = blob.get(usize::try_from(pointer).ok()?..)?;
    let length = u16::from_le_bytes(*rest.first_chunk()?);
    let text = rest.get(2..)?.get(..usize::from(length))?;
    let text = text.split(|&b| b == 0).next()?;
    (!text.is_empty()).then(|| text.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    /// A header with one device and one configuration.
    fn header() -> Vec<u8> {
        let mut blob = vec![0];
        let mut add = |text: &[u8]| {
            let at = blob.len() as u32;
            blob.extend((text.len() as u16).to_le_bytes());
            blob.extend(text);
            at
        };
        let (config, data, device) =
            (add(b"qemu-server.conf\0"), add(b"memory: 512\n"), add(b"drive-scsi0\0"));
        let size = (FIXED as usize + blob.len()).next_multiple_of(512);
        let mut out = vec![0; size];
        out[..4].copy_from_slice(MAGIC);
        out[7] = 1;
        out[8..24].copy_from_slice(&[7; 16]);
        out[24..32].copy_from_slice(&1_700_000_000u64.to_be_bytes());
        out[48..52].copy_from_slice(&(FIXED as u32).to_be_bytes());
        out[52..56].copy_from_slice(&(blob.len() as u32).to_be_bytes());
        out[56..60].copy_from_slice(&(size as u32).to_be_bytes());
        out[CONFIG_NAMES..CONFIG_NAMES + 4].copy_from_slice(&config.to_be_bytes());
        out[CONFIG_NAMES + 1024..CONFIG_NAMES + 1028].copy_from_slice(&data.to_be_bytes());
        out[DEVICES + DEVICE..DEVICES + DEVICE + 4].copy_from_slice(&device.to_be_bytes());
        out[DEVICES + DEVICE + 8..DEVICES + DEVICE + 16]
            .copy_from_slice(&(1u64 << 30).to_be_bytes());
        out[FIXED as usize..][..blob.len()].copy_from_slice(&blob);
        let sum = Md5::digest(&out);
        out[MD5].copy_from_slice(&sum);
        out
    }

    fn read(bytes: Vec<u8>) -> Result<Vma> {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(bytes));
        Vma::read(&storage, Path::new("x.vma"), &Limits::default())
    }

    #[test]
    fn devices_and_configurations_are_named() {
        let vma = read(header()).unwrap();
        assert_eq!(vma.devices, [(b"drive-scsi0".to_vec(), 1 << 30)]);
        assert_eq!(vma.configs, [b"qemu-server.conf".to_vec()]);
        assert_eq!((vma.uuid, vma.created), ([7; 16], 1_700_000_000));
    }

    #[test]
    fn a_header_that_is_cut_off_or_changed_is_an_error() {
        let whole = header();
        for cut in [0, 3, 59, 100, 12_288, whole.len() - 1] {
            assert!(read(whole[..cut].to_vec()).is_err(), "{cut}");
        }
        for at in (0..whole.len()).step_by(97) {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            assert!(read(bad).is_err(), "byte {at}");
        }
    }
}
