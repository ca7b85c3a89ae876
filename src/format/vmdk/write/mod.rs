//! How a VMDK is written: one file, its descriptor inside.

use std::borrow::Cow;

use super::layout::*;
use crate::codec::{Deflate, Wrapper};
use crate::error::{Detail, ErrorKind, Result};
use crate::num::{Pow2, to_u64, to_usize};
use crate::writer::Writer;

mod sparse;
mod stream;

pub use sparse::SparseWriter;
pub use stream::StreamWriter;

/// The subformats that are written, by their `createType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subformat {
    /// `monolithicSparse`: grains as they are, tables before them.
    MonolithicSparse,
    /// `streamOptimized`: compressed grains, tables behind them, a footer, all with markers.
    StreamOptimized,
}

impl Subformat {
    /// The word of the descriptor.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::MonolithicSparse => "monolithicSparse",
            Self::StreamOptimized => "streamOptimized",
        }
    }
}

/// What a VMDK is to be like: a builder. The default is what qemu-img writes: monolithicSparse,
/// grains of 64 KiB, an IDE adapter, virtual hardware version 4.
#[derive(Debug, Clone)]
pub struct VmdkOptions {
    subformat: Subformat,
    adapter: String,
    hardware: u32,
    level: i32,
    name: String,
    seed: String,
}

impl Default for VmdkOptions {
    fn default() -> Self {
        Self {
            subformat: Subformat::MonolithicSparse,
            adapter: "ide".into(),
            hardware: 4,
            level: Deflate::DEFAULT_LEVEL,
            name: "disk.vmdk".into(),
            seed: String::new(),
        }
    }
}

/// The adapters that a descriptor may name ("The Disk Database").
pub const ADAPTERS: &[&str] = &["ide", "buslogic", "lsilogic", "legacyESX"];

#[derive(Debug, thiserror::Error)]
enum WriteDetail {
    #[error("there is no adapter type '{0}'")]
    Adapter(String),
    #[error("the file's name cannot stand in a descriptor: {0}")]
    Name(&'static str),
    #[error("a disk of {0} bytes is more than a sparse VMDK maps: {1}")]
    TooLarge(u64, u64),
    #[error("the file grows beyond 2 TiB, where entries of a grain table end")]
    PastEntries,
}

impl Detail for WriteDetail {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::PastEntries => ErrorKind::Unsupported,
            _ => ErrorKind::InvalidInput,
        }
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::Adapter(_) => format!("choose among {}", ADAPTERS.join(", ")).into(),
            Self::Name(_) => "name it otherwise".into(),
            Self::TooLarge(..) | Self::PastEntries => "choose another format".into(),
        })
    }
}

/// A grain: 64 KiB, as everybody has it.
const GRAIN_BITS: u32 = 16;
/// Entries of a grain table.
const GTES: u64 = 512;
/// Bytes of a grain table: 512 entries of 32 bits.
const TABLE_BYTES: u64 = 2048;
/// Sectors of the embedded descriptor.
const DESCRIPTOR_SECTORS: u64 = 20;
/// The largest disk: 64 TiB, whose grain directory has 8 MiB.
const MAX_SIZE: u64 = 64 << 40;

impl VmdkOptions {
    /// The default options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Which kind of VMDK. Default: monolithicSparse.
    #[must_use]
    pub fn subformat(mut self, subformat: Subformat) -> Self {
        self.subformat = subformat;
        self
    }

    /// The kind that was chosen.
    #[must_use]
    pub fn is_compressed(&self) -> bool {
        self.subformat == Subformat::StreamOptimized
    }

    /// The adapter that the disk is to hang on: one of [`ADAPTERS`]. Default: `ide`.
    #[must_use]
    pub fn adapter(mut self, adapter: impl Into<String>) -> Self {
        self.adapter = adapter.into();
        self
    }

    /// `virtualHWVersion`. Default: 4.
    #[must_use]
    pub fn hardware_version(mut self, version: u32) -> Self {
        self.hardware = version;
        self
    }

    /// How hard grains are compressed, as [`Deflate::new`] has it. Default: 6.
    #[must_use]
    pub fn level(mut self, level: i32) -> Self {
        self.level = level;
        self
    }

    /// The name of the file, which its descriptor repeats. Default: `disk.vmdk`.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// What the content identifier derives from beside the content; of a stream, whose descriptor
    /// comes before its content, beside the size. Default: nothing.
    #[must_use]
    pub fn seed(mut self, seed: impl Into<String>) -> Self {
        self.seed = seed.into();
        self
    }

    /// What writes a disk of `size` bytes that way; sizes are rounded up to whole sectors.
    pub fn writer(&self, size: u64) -> Result<Box<dyn Writer>> {
        if !ADAPTERS.contains(&&*self.adapter) {
            let adapter = crate::text::printable_str(&self.adapter);
            return Err(WriteDetail::Adapter(adapter).into());
        }
        if self.name.contains(|c: char| c == '"' || c.is_control()) {
            return Err(WriteDetail::Name("it has quotation marks or control characters").into());
        }
        if self.name.len() > 1024 {
            return Err(WriteDetail::Name("it is too long").into());
        }
        if size > MAX_SIZE {
            return Err(WriteDetail::TooLarge(size, MAX_SIZE).into());
        }
        let size = Pow2::SECTOR.ceil(size);
        match self.subformat {
            Subformat::MonolithicSparse => Ok(Box::new(SparseWriter::new(self, size))),
            Subformat::StreamOptimized => {
                let deflate = Deflate::new(self.level, Wrapper::Zlib)?;
                Ok(Box::new(StreamWriter::new(self, size, deflate)))
            }
        }
    }

    /// The descriptor ("The VMDK Descriptor"), as many sectors as it has room for.
    fn descriptor(&self, size: u64, cid: u32) -> Vec<u8> {
        let sectors = Pow2::SECTOR.count(size);
        let heads: u64 = if self.adapter == "ide" { 16 } else { 255 };
        let track = 63u64;
        let cylinders = sectors.checked_div(heads.saturating_mul(track)).unwrap_or_default();
        // QEMU's words where both say the same; without the encoding readers take their own
        let text = format!(
            "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID={cid:08x}\n\
             parentCID=ffffffff\ncreateType=\"{}\"\n\n# Extent description\n\
             RW {sectors} SPARSE \"{}\"\n\n# The Disk Data Base\n#DDB\n\n\
             ddb.virtualHWVersion = \"{}\"\nddb.geometry.cylinders = \"{cylinders}\"\n\
             ddb.geometry.heads = \"{heads}\"\nddb.geometry.sectors = \"{track}\"\n\
             ddb.adapterType = \"{}\"\nddb.toolsVersion = \"2147483647\"\n",
            self.subformat.name(),
            self.name,
            self.hardware,
            self.adapter,
        );
        let mut bytes = text.into_bytes();
        bytes.resize(to_usize(sectors_of(DESCRIPTOR_SECTORS)), 0);
        bytes
    }

    /// A content identifier from the seed and `more`. The two that mean something else are avoided.
    fn cid(&self, more: &[u8]) -> u32 {
        let mut hash = crc32fast::Hasher::new();
        hash.update(self.seed.as_bytes());
        hash.update(&[0]);
        hash.update(more);
        match hash.finalize() {
            0 | CID_NO_PARENT | 0xffff_fffe => 1,
            cid => cid,
        }
    }
}

fn sectors_of(count: u64) -> u64 {
    count.saturating_mul(SECTOR)
}

/// The fields of a header that differ.
#[derive(Debug, Clone, Copy)]
struct Fields {
    version: u32,
    flags: u32,
    /// Bytes of the disk.
    size: u64,
    rgd_offset: u64,
    gd_offset: u64,
    overhead: u64,
    compress_algorithm: u16,
}

/// A `SparseExtentHeader`.
fn header(fields: &Fields) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(SPARSE_MAGIC.to_le_bytes());
    header.extend(fields.version.to_le_bytes());
    header.extend(fields.flags.to_le_bytes());
    let grain = Pow2::from_bits(GRAIN_BITS).map_or(0, |grain| Pow2::SECTOR.index(grain.size()));
    let numbers = [Pow2::SECTOR.count(fields.size), grain, 1, DESCRIPTOR_SECTORS];
    numbers.iter().for_each(|number| header.extend(number.to_le_bytes()));
    header.extend(u32::try_from(GTES).unwrap_or_default().to_le_bytes());
    let places = [fields.rgd_offset, fields.gd_offset, fields.overhead];
    places.iter().for_each(|number| header.extend(number.to_le_bytes()));
    header.push(0); // uncleanShutdown
    header.extend(NEWLINE_TEST);
    header.extend(fields.compress_algorithm.to_le_bytes());
    header.resize(HEADER_LENGTH, 0);
    header
}

/// Table entries as they lie in the file, whole sectors.
fn entries(values: &[u32]) -> Vec<u8> {
    let mut bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let whole = Pow2::SECTOR.ceil(to_u64(bytes.len()));
    bytes.resize(to_usize(whole), 0);
    bytes
}

/// The sector that `offset` lies at, as an entry tells it.
fn entry_of(offset: u64) -> Result<u32> {
    Ok(u32::try_from(Pow2::SECTOR.index(offset)).map_err(|_| WriteDetail::PastEntries)?)
}

/// How many grains and grain tables map `size` bytes.
fn counts(size: u64) -> (u64, u64) {
    let grains = Pow2::from_bits(GRAIN_BITS).map_or(0, |grain| grain.count(size));
    (grains, grains.div_ceil(GTES))
}
