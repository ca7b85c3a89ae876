//! The words that OpenStack's image service has for formats. Sources: "Disk and Container Formats" in
//! Glance's user guide, and the lists `disk_formats` and `container_formats` of its image schema;
//! `gpt` is what the format inspector of oslo.utils, by which Glance looks at uploads, calls a raw disk
//! with such a table.

use crate::format::probe::Probe;
use crate::format::{Class, Format};

/// What an image is to be called when it is uploaded. `None` where Glance has no word, or where
/// this one file does not tell.
///
/// ```
/// use diskimage::Format;
///
/// let glance = Format::Vhd.glance();
/// assert_eq!((glance.disk_format, glance.container_format), (Some("vhd"), Some("bare")));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Glance {
    /// `disk_format`: one of [`DISK_FORMATS`](Self::DISK_FORMATS).
    pub disk_format: Option<&'static str>,
    /// `container_format`: one of [`CONTAINER_FORMATS`](Self::CONTAINER_FORMATS).
    pub container_format: Option<&'static str>,
}

impl Glance {
    /// Every word for a disk.
    ///
    /// ```
    /// use diskimage::Format;
    /// use diskimage::format::Glance;
    ///
    /// // each of them is a name that `Format` parses
    /// let formats: diskimage::Result<Vec<Format>> =
    ///     Glance::DISK_FORMATS.iter().map(|word| word.parse()).collect();
    /// assert!(formats?.contains(&Format::Qcow2));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub const DISK_FORMATS: &[&str] =
        &["ami", "ari", "aki", "vhd", "vhdx", "vmdk", "raw", "qcow2", "vdi", "iso", "ploop", "gpt"];
    /// Every word for what is around it.
    ///
    /// ```
    /// use diskimage::Format;
    /// use diskimage::format::Glance;
    ///
    /// let around = Format::Ova.glance().container_format;
    /// assert!(around.is_some_and(|word| Glance::CONTAINER_FORMATS.contains(&word)));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub const CONTAINER_FORMATS: &[&str] =
        &["bare", "ovf", "ova", "aki", "ari", "ami", "docker", "compressed"];
}

impl Format {
    /// What Glance calls it. An `ami` is a raw disk by its bytes, and is called `raw` here; of an
    /// archive or a compressed file only what is inside would tell the disk's format; a tar archive
    /// may be a `docker` container or not.
    ///
    /// ```
    /// use diskimage::Format;
    ///
    /// assert_eq!(Format::Parallels.glance().disk_format, Some("ploop"));
    /// // a file system lies on a raw disk
    /// assert_eq!(Format::Ext.glance().disk_format, Some("raw"));
    /// let gzip = Format::Gzip.glance();
    /// assert_eq!((gzip.disk_format, gzip.container_format), (None, Some("compressed")));
    /// ```
    #[must_use]
    pub fn glance(self) -> Glance {
        let disk_format = match self {
            Self::Qcow2 => Some("qcow2"),
            Self::Vmdk => Some("vmdk"),
            Self::Vhd => Some("vhd"),
            Self::Vhdx => Some("vhdx"),
            Self::Vdi => Some("vdi"),
            Self::Parallels => Some("ploop"),
            Self::Iso | Self::Udf => Some("iso"),
            Self::Gpt => Some("gpt"),
            Self::LinuxKernel => Some("aki"),
            Self::Cpio => Some("ari"),
            Self::Raw => Some("raw"),
            _ if self.class() == Class::Content => Some("raw"),
            _ => None,
        };
        let container_format = match self {
            Self::LinuxKernel => Some("aki"),
            Self::Cpio => Some("ari"),
            Self::Ova => Some("ova"),
            Self::Ovf => Some("ovf"),
            Self::Tar => None,
            _ if self.class() == Class::Wrapper => Some("compressed"),
            _ => Some("bare"),
        };
        Glance { disk_format, container_format }
    }
}

impl Probe {
    /// What Glance calls the file: nothing where no format fits, or more than one does.
    ///
    /// ```
    /// use diskimage::format::probe::probe_bytes;
    ///
    /// let upload = b"QFI\xfb\0\0\0\x03";
    /// assert_eq!(probe_bytes(upload, None).glance().disk_format, Some("qcow2"));
    /// assert_eq!(probe_bytes(b"nothing of note", None).glance().disk_format, None);
    /// ```
    #[must_use]
    pub fn glance(&self) -> Glance {
        let has = |format| self.matches.iter().any(|m| m.format == format);
        let mut images = self.images();
        let format = match (images.next(), images.next()) {
            (Some(only), None) => Some(only.format),
            (Some(_), Some(_)) => None,
            // a kernel for x86 starts with a boot sector, a disc may have a partition table
            (None, _) if has(Format::LinuxKernel) && !has(Format::Gpt) && !has(Format::Mbr) => {
                Some(Format::LinuxKernel)
            }
            (None, _) if self.is_raw_disk() => [Format::Iso, Format::Udf, Format::Gpt]
                .into_iter()
                .find(|&format| has(format))
                .or(Some(Format::Raw)),
            (None, _) => self.matches.first().map(|m| m.format),
        };
        format.map(Format::glance).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::probe::probe_bytes;

    #[test]
    fn every_word_is_one_of_glances_and_names_a_format_here() {
        for &format in Format::ALL {
            let words = format.glance();
            assert!(words.disk_format.is_none_or(|word| Glance::DISK_FORMATS.contains(&word)));
            let container = words.container_format;
            assert!(container.is_none_or(|word| Glance::CONTAINER_FORMATS.contains(&word)));
        }
        for word in Glance::DISK_FORMATS {
            let format: Format = word.parse().unwrap();
            let back = format.glance().disk_format.unwrap();
            assert_eq!(back, if *word == "ami" { "raw" } else { word });
        }
    }

    #[test]
    fn a_probe_has_the_words_of_what_was_found() {
        let words = |bytes: &[u8]| {
            let found = probe_bytes(bytes, None).glance();
            (found.disk_format, found.container_format)
        };
        let mut disc = vec![0; 0x9000];
        disc[0x8001..0x8006].copy_from_slice(b"CD001");
        assert_eq!(words(&disc), (Some("iso"), Some("bare")));
        disc[510..512].copy_from_slice(b"\x55\xaa");
        disc[512..520].copy_from_slice(b"EFI PART");
        assert_eq!(words(&disc), (Some("iso"), Some("bare")), "a hybrid is a disc");
        disc[0x8001] = 0;
        assert_eq!(words(&disc), (Some("gpt"), Some("bare")));
        disc[512] = 0;
        assert_eq!(words(&disc), (Some("raw"), Some("bare")));
        disc[0x202..0x206].copy_from_slice(b"HdrS");
        assert_eq!(words(&disc), (Some("aki"), Some("aki")));
        assert_eq!(words(b"070701"), (Some("ari"), Some("ari")));
        assert_eq!(words(b"QFI\xfb\0\0\0\x03"), (Some("qcow2"), Some("bare")));
        assert_eq!(words(b"QFI\xfb\0\0\0\x01"), (None, Some("bare")));
        assert_eq!(words(b"\x1f\x8b\x08"), (None, Some("compressed")));
        assert_eq!(words(b"nothing of note"), (None, None));
        let mut both = b"QFI\xfb\0\0\0\x03".to_vec();
        both.resize(0x40, 0);
        both.extend(b"\x7f\x10\xda\xbe");
        assert_eq!(words(&both), (None, None), "more than one fits");
    }
}
