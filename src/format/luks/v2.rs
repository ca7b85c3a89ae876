//! Version 2: two binary headers, each with an area of JSON that says all else.

use crate::bytes::BeCursor;
use crate::error::Result;
use crate::finding::{Code, Finding};
use crate::layer::Value;
use crate::num::to_u64;
use crate::storage::{Storage, read_vec};

use super::text;

#[cfg(feature = "luks")]
mod json;
#[cfg(not(feature = "luks"))]
#[path = "v2/no_json.rs"]
mod json;

use json::Metadata;

/// The length of the binary header.
const BINARY: usize = 4096;
/// The sizes that a header can have, with its JSON area (section 2.1, table 1).
const SIZES: [u64; 9] =
    [16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20];

/// The header.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::format::luks::{Header, LuksLayer};
/// use diskimage::storage::MemoryStorage;
///
/// let mut container = vec![0; 16 << 10];
/// let mut put = |at: usize, field: &[u8]| container[at..at + field.len()].copy_from_slice(field);
/// put(0, b"LUKS\xba\xbe\0\x02");
/// put(8, &[16u64 << 10, 3].map(u64::to_be_bytes).concat()); // hdr_size, seqid
/// put(24, b"backup");
/// put(72, b"sha256");
/// put(168, b"6a4a8b3e-0a5c-4b5f-9a3f-1f2e3d4c5b6a");
/// let layer = LuksLayer::open(Arc::new(MemoryStorage::new(container)))?;
/// let Header::Two(header) = layer.header() else { panic!("a header of version 2") };
/// assert_eq!((header.header_size, header.sequence), (16 << 10, 3));
/// assert_eq!((&*header.label, &*header.checksum_algorithm), ("backup", "sha256"));
/// assert!(header.uuid.starts_with("6a4a8b3e"));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct Luks2 {
    /// `hdr_size`.
    pub header_size: u64,
    /// `seqid`.
    pub sequence: u64,
    /// `label`.
    pub label: String,
    /// `csum_alg`.
    pub checksum_algorithm: String,
    /// `uuid`.
    pub uuid: String,
    /// `subsystem`.
    pub subsystem: String,
    metadata: Metadata,
    findings: Vec<Finding>,
}

impl Luks2 {
    pub(super) fn read(storage: &dyn Storage) -> Result<Self> {
        let header = read_vec(storage, "the header", 0, BINARY)?;
        let mut cursor = BeCursor::new(&header, 0);
        cursor.bytes(8, "the magic")?;
        let header_size = cursor.u64("the header field hdr_size")?;
        let mut found = Self {
            header_size,
            sequence: cursor.u64("the header field seqid")?,
            label: text(cursor.bytes(48, "the label")?),
            checksum_algorithm: text(cursor.bytes(32, "the header field csum_alg")?),
            uuid: {
                cursor.bytes(64, "the salt")?;
                text(cursor.bytes(40, "the UUID")?)
            },
            subsystem: text(cursor.bytes(48, "the subsystem")?),
            metadata: Metadata::default(),
            findings: Vec::new(),
        };
        let at = cursor.u64("the header field hdr_offset")?;
        let mut odd =
            |text: String, at| found.findings.push(Finding::new(Code::InvalidEntry, text).at(at));
        if at != 0 {
            odd(format!("the header says that it is at {at:#x}"), 256);
        }
        if !SIZES.contains(&header_size) {
            odd(format!("the header says that it has {header_size:#x} bytes"), 8);
        } else if header_size > storage.size() {
            let text = format!("the header ends at {header_size:#x}, behind the end of the file");
            found.findings.push(Finding::new(Code::Truncated, text).at(8));
        } else {
            found.read_metadata(storage)?;
        }
        Ok(found)
    }

    /// Reads the JSON, from the second header where the checksum of the first one is wrong.
    fn read_metadata(&mut self, storage: &dyn Storage) -> Result<()> {
        let length = crate::num::to_usize(self.header_size);
        let area = read_vec(storage, "the header", 0, length)?;
        let is_right = json::checksum(&area, &self.checksum_algorithm);
        if is_right == Some(false) {
            let text = format!("the {} of the first header is wrong", self.checksum_algorithm);
            self.findings.push(Finding::new(Code::ChecksumMismatch, text).at(448));
            let end = self.header_size.saturating_mul(2);
            if end <= storage.size() {
                let second = read_vec(storage, "the second header", self.header_size, length)?;
                if second.starts_with(b"SKUL\xba\xbe\0\x02")
                    && json::checksum(&second, &self.checksum_algorithm) == Some(true)
                {
                    let text = "the second header is right, and was used";
                    self.findings.push(Finding::new(Code::RedundantCopyDamaged, text).at(0));
                    return self.take(&second, self.header_size);
                }
            }
        }
        self.take(&area, 0)
    }

    fn take(&mut self, area: &[u8], at: u64) -> Result<()> {
        let json = area.get(BINARY..).unwrap_or_default();
        let json = json.split(|&byte| byte == 0).next().unwrap_or_default();
        match Metadata::parse(json) {
            Ok(metadata) => self.metadata = metadata,
            Err(text) => {
                let at = at.saturating_add(to_u64(BINARY));
                self.findings.push(Finding::new(Code::InvalidEntry, text).at(at));
            }
        }
        Ok(())
    }

    /// How many bytes of a file of this size are encrypted data.
    pub(super) fn payload(&self, size: u64) -> u64 {
        let left = size.saturating_sub(self.metadata.payload_offset.unwrap_or(size));
        self.metadata.payload_size.unwrap_or(left)
    }

    pub(super) fn describe(&self) -> Vec<(&'static str, Value)> {
        let mut details = vec![
            ("version", 2u32.into()),
            ("uuid", Value::from(&*self.uuid)),
            ("header-size", self.header_size.into()),
            ("sequence", self.sequence.into()),
        ];
        for (name, value) in [("label", &self.label), ("subsystem", &self.subsystem)] {
            if !value.is_empty() {
                details.push((name, Value::from(&**value)));
            }
        }
        details.extend(self.metadata.details.clone());
        details
    }

    /// What is odd, where so many bytes are left for the data.
    pub(super) fn findings(&self, payload: u64) -> Vec<Finding> {
        let mut findings = self.findings.clone();
        if payload == 0 && self.metadata.payload_offset.is_some_and(|offset| offset > 0) {
            let text = "the payload starts behind the end of the file";
            findings.push(Finding::new(Code::Truncated, text));
        }
        findings
    }
}
