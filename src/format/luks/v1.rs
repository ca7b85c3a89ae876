//! Version 1: a header of 592 bytes with eight key slots.

use crate::bytes::BeCursor;
use crate::error::Result;
use crate::finding::{Code, Finding};
use crate::layer::Value;
use crate::storage::{Storage, read_vec};

use super::{cipher, text};

/// The length of the header, `phdr`.
const HEADER_SIZE: usize = 592;
/// `LUKS_KEY_ENABLED`: a slot in use.
const ENABLED: u32 = 0x00ac_71f3;
/// `LUKS_KEY_DISABLED`: one that is not.
const DISABLED: u32 = 0x0000_dead;

/// The header, `phdr`.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::format::luks::{Header, LuksLayer};
/// use diskimage::storage::MemoryStorage;
///
/// let mut container = vec![0; 4096];
/// let mut put = |at: usize, field: &[u8]| container[at..at + field.len()].copy_from_slice(field);
/// put(0, b"LUKS\xba\xbe\0\x01");
/// put(8, b"aes");
/// put(40, b"xts-plain64");
/// put(72, b"sha256");
/// put(104, &[4096u32, 64].map(u32::to_be_bytes).concat()); // payload-offset, key-bytes
/// let layer = LuksLayer::open(Arc::new(MemoryStorage::new(container)))?;
/// let Header::One(header) = layer.header() else { panic!("a header of version 1") };
/// assert_eq!((&*header.cipher_name, &*header.cipher_mode), ("aes", "xts-plain64"));
/// assert_eq!((&*header.hash_spec, header.payload_offset, header.key_bytes), ("sha256", 4096, 64));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Luks1 {
    /// `cipher-name`, such as `aes`.
    pub cipher_name: String,
    /// `cipher-mode`, such as `xts-plain64`.
    pub cipher_mode: String,
    /// `hash-spec`, such as `sha256`.
    pub hash_spec: String,
    /// `payload-offset`, sectors.
    pub payload_offset: u32,
    /// `key-bytes`.
    pub key_bytes: u32,
    /// `mk-digest-iter`.
    pub digest_iterations: u32,
    /// `uuid`.
    pub uuid: String,
    /// The key slots.
    pub slots: Vec<KeySlot>,
}

/// A key slot.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::format::luks::{Header, LuksLayer};
/// use diskimage::storage::MemoryStorage;
///
/// let mut container = vec![0; 4096];
/// let mut put = |at: usize, field: &[u8]| container[at..at + field.len()].copy_from_slice(field);
/// put(0, b"LUKS\xba\xbe\0\x01");
/// put(208, &[0x00ac_71f3u32, 100_000].map(u32::to_be_bytes).concat()); // active, iterations
/// put(248, &[8u32, 4000].map(u32::to_be_bytes).concat()); // key-material-offset, stripes
/// let layer = LuksLayer::open(Arc::new(MemoryStorage::new(container)))?;
/// let Header::One(header) = layer.header() else { panic!("a header of version 1") };
/// let used: Vec<_> = header.slots.iter().filter(|slot| slot.is_active()).collect();
/// assert_eq!(used.len(), 1);
/// assert_eq!((used[0].iterations, used[0].offset, used[0].stripes), (100_000, 8, 4000));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeySlot {
    /// `active`.
    pub active: u32,
    /// `iterations`.
    pub iterations: u32,
    /// `key-material-offset`, sectors.
    pub offset: u32,
    /// `stripes`.
    pub stripes: u32,
}

impl KeySlot {
    /// Whether it holds a key.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.active == ENABLED
    }
}

fn bytes(sectors: u32) -> u64 {
    u64::from(sectors) << 9
}

impl Luks1 {
    pub(super) fn read(storage: &dyn Storage) -> Result<Self> {
        let header = read_vec(storage, "the header", 0, HEADER_SIZE)?;
        let mut cursor = BeCursor::new(&header, 0);
        cursor.bytes(8, "the magic")?;
        let mut found = Self {
            cipher_name: text(cursor.bytes(32, "the cipher's name")?),
            cipher_mode: text(cursor.bytes(32, "the cipher's mode")?),
            hash_spec: text(cursor.bytes(32, "the hash")?),
            payload_offset: cursor.u32("the payload's offset")?,
            key_bytes: cursor.u32("the length of the key")?,
            digest_iterations: {
                cursor.bytes(52, "the digest of the key")?;
                cursor.u32("the iterations of the digest")?
            },
            uuid: text(cursor.bytes(40, "the UUID")?),
            slots: Vec::new(),
        };
        for _ in 0..8 {
            let (active, iterations) = (cursor.u32("a key slot")?, cursor.u32("a key slot")?);
            cursor.bytes(32, "a key slot")?;
            let (offset, stripes) = (cursor.u32("a key slot")?, cursor.u32("a key slot")?);
            found.slots.push(KeySlot { active, iterations, offset, stripes });
        }
        Ok(found)
    }

    /// How many bytes of a file of this size are encrypted data.
    pub(super) fn payload(&self, size: u64) -> u64 {
        size.saturating_sub(bytes(self.payload_offset))
    }

    /// Whether the data are in another file: nothing is left for them in this one.
    fn is_detached(&self) -> bool {
        self.payload_offset == 0
    }

    pub(super) fn describe(&self) -> Vec<(&'static str, Value)> {
        let slot = |slot: &KeySlot| {
            let mut values = vec![("active", slot.is_active().into())];
            if slot.is_active() {
                values.push(("iters", slot.iterations.into()));
            }
            values.push(("key-offset", bytes(slot.offset).into()));
            if slot.is_active() {
                values.push(("stripes", slot.stripes.into()));
            }
            Value::Map(values)
        };
        let mut details = vec![("version", 1u32.into())];
        details.extend(cipher(&self.cipher_name, &self.cipher_mode, self.key_bytes.into()));
        details.extend([
            ("hash-alg", Value::from(&*self.hash_spec)),
            ("uuid", Value::from(&*self.uuid)),
            ("payload-offset", bytes(self.payload_offset).into()),
            ("master-key-iters", self.digest_iterations.into()),
            ("detached-header", self.is_detached().into()),
            ("slots", Value::List(self.slots.iter().map(slot).collect())),
        ]);
        details
    }

    /// What is odd, where so many bytes are left for the data.
    pub(super) fn findings(&self, payload: u64) -> Vec<Finding> {
        let mut findings = Vec::new();
        if payload == 0 && !self.is_detached() {
            let text = format!("the payload starts at {:#x}", bytes(self.payload_offset));
            let text = text + ", behind the end of the file";
            findings.push(Finding::new(Code::Truncated, text).at(104));
        }
        if !self.slots.iter().any(KeySlot::is_active) {
            findings.push(Finding::new(Code::Unusual, "no key slot is in use").at(208));
        }
        for (number, slot) in (0u64..).zip(&self.slots) {
            if slot.active != ENABLED && slot.active != DISABLED {
                let text =
                    format!("key slot {number} is neither in use nor free: {:#x}", slot.active);
                let at = number.saturating_mul(48).saturating_add(208);
                findings.push(Finding::new(Code::InvalidEntry, text).at(at));
            }
        }
        findings
    }
}
