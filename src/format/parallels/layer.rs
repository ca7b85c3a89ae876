//! An expandable image by itself as a layer.

use std::sync::Arc;

use crate::check::Checking;
use crate::error::Result;
use crate::finding::{Code, Finding};
use crate::format::{Format, LayerOptions};
use crate::layer::{Description, Layer, Mapping, Value};
use crate::limits::Limits;
use crate::num::Pow2;
use crate::storage::Storage;

use super::check;
use super::expandable::*;
use super::extension::sections;

/// An expandable Parallels image as a layer.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::Layer;
/// use diskimage::format::LayerOptions;
/// use diskimage::format::parallels::ParallelsLayer;
/// use diskimage::layer::{MappingKind, Source};
/// use diskimage::storage::MemoryStorage;
///
/// # let mut image = vec![0; 2 * 4096];
/// # let mut put = |at: usize, field: &[u8]| image[at..at + field.len()].copy_from_slice(field);
/// # put(0, b"WithoutFreeSpace");
/// # put(16, &[2u32, 16, 1, 8, 2].map(u32::to_le_bytes).concat());
/// # put(36, &16u64.to_le_bytes());
/// # put(64, &[8u32, 0].map(u32::to_le_bytes).concat());
/// // a BAT that counts in sectors: the first of two clusters is at sector 8
/// let storage = Arc::new(MemoryStorage::new(image));
/// let layer = ParallelsLayer::open(storage, &LayerOptions::default())?;
/// assert!(!layer.header().is_ext);
/// let stored = layer.map(512, u64::MAX)?;
/// let offset = 8 * 512 + 512;
/// assert_eq!(stored.kind, MappingKind::Stored { source: Source::Own, offset });
/// assert!(matches!(layer.map(4096, 1)?.kind, MappingKind::Zero { .. }));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct ParallelsLayer {
    image: Expandable,
    limits: Limits,
}

impl ParallelsLayer {
    /// Opens `storage` as an expandable image.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::parallels::{IN_USE, MAGIC_EXT, ParallelsLayer};
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::{Code, Layer};
    ///
    /// # let mut image = MAGIC_EXT.to_vec();
    /// # image.extend([2, 16, 4, 2048, 2].map(u32::to_le_bytes).concat());
    /// # image.extend(4096u64.to_le_bytes());
    /// # image.extend([IN_USE, 0, 0].map(u32::to_le_bytes).concat());
    /// # image.extend([0; 16]);
    /// // an image that was not closed is read, and says so
    /// let storage = Arc::new(MemoryStorage::new(image));
    /// let layer = ParallelsLayer::open(storage, &LayerOptions::default())?;
    /// let description = layer.describe()?;
    /// assert!(description.dirty);
    /// assert!(description.findings.iter().any(|finding| finding.code == Code::Dirty));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn open(storage: Arc<dyn Storage>, options: &LayerOptions) -> Result<Self> {
        let image = Expandable::open(storage, options)?;
        Ok(Self { image, limits: options.limits.clone() })
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.image.header
    }

    /// What is odd about the header alone.
    fn findings(&self) -> Vec<Finding> {
        let header = &self.image.header;
        let mut findings = vec![Finding::new(Code::Ploop, "is in Parallels' format").at(0)];
        match header.in_use {
            IN_USE => {
                let text = "was not closed properly: its BAT may not be what was written last";
                findings.push(Finding::new(Code::Dirty, text).at(AT_IN_USE));
            }
            0 | CLOSED => {}
            other => {
                let text = format!("the header field in_use is {other:#x}, which means nothing");
                findings.push(Finding::new(Code::Unusual, text).at(AT_IN_USE));
            }
        }
        findings
    }
}

impl Layer for ParallelsLayer {
    fn format(&self) -> Format {
        Format::Parallels
    }

    fn size(&self) -> u64 {
        self.image.header.size()
    }

    fn cluster_size(&self) -> Option<u64> {
        Pow2::from_size(self.image.header.cluster()).map(Pow2::size)
    }

    fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
        self.image.map(offset, max)
    }

    fn describe(&self) -> Result<Description> {
        let header = &self.image.header;
        let [heads, cylinders] = header.geometry;
        let geometry = vec![("cylinders", cylinders.into()), ("heads", heads.into())];
        let magic = if header.is_ext { MAGIC_EXT } else { MAGIC };
        let mut details = vec![
            ("magic", String::from_utf8_lossy(magic).into_owned().into()),
            ("cluster-size", header.cluster().into()),
            ("data-offset", header.data_start().into()),
            ("geometry", Value::Map(geometry)),
            ("empty", (header.flags & EMPTY_IMAGE != 0).into()),
        ];
        let mut findings = self.findings();
        if header.ext_off != 0 {
            match sections(&self.image.storage, header, &self.limits) {
                Ok(sections) => details.push(("extension", Value::List(sections))),
                // the disk can be read without it
                Err(error) if error.kind() != crate::ErrorKind::Io => {
                    let text = format!("the format extension cannot be read: {error}");
                    findings.push(Finding::new(Code::Unreadable, text).at(AT_EXT_OFF));
                }
                Err(error) => return Err(error),
            }
        }
        let dirty = header.in_use == IN_USE;
        Ok(Description { dirty, details, findings, ..Description::default() })
    }

    fn check(&self, checking: &Checking) -> Result<()> {
        check::check(&self.image, checking)
    }
}
