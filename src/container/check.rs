//! Checking an archive: the hashes of its manifest.

use std::collections::HashSet;

use super::Archive;
#[cfg(feature = "checksum")]
use super::manifest::{Algorithm, Entry};
use super::ova::Manifest;
use crate::check::Checking;
use crate::error::{Error, Result};
use crate::finding::{Code, Finding};
use crate::text::printable;

/// In a longer manifest no line is verified.
const MAX_ENTRIES: usize = 1 << 10;

impl Archive {
    /// Tells `checking` what the directory, the description and the manifest contradict: the hashes
    /// of the manifest are verified, for which all members that it names are read.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::container::Archive;
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::{Checking, Code, Format, Limits, Storage};
    ///
    /// # fn member(name: &str, content: &[u8]) -> Vec<u8> {
    /// #     let mut header = [0; 512];
    /// #     header[..name.len()].copy_from_slice(name.as_bytes());
    /// #     header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    /// #     header[148..156].fill(b' ');
    /// #     header[156] = b'0';
    /// #     header[257..265].copy_from_slice(b"ustar\x0000");
    /// #     let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    /// #     header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    /// #     let padding = vec![0; content.len().next_multiple_of(512) - content.len()];
    /// #     [&header[..], content, &padding].concat()
    /// # }
    /// let file = r#"<File id="f" href="web.vmdk"/>"#;
    /// let text = format!("<Envelope><References>{file}</References></Envelope>");
    /// let tar = [member("web.ovf", text.as_bytes()), vec![0; 1024]].concat();
    /// let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(tar));
    /// let archive = Archive::read(&storage, "web.ova".as_ref(), Format::Ova, &Limits::default())?;
    /// let checking = Checking::new();
    /// archive.check(&checking)?;
    /// let report = checking.into_report();
    /// assert_eq!(report.corruptions, 1);
    /// assert!(report.codes.contains(&Code::MissingMember)); // there is no web.vmdk
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn check(&self, checking: &Checking) -> Result<()> {
        for finding in self.describe().findings {
            match finding.code {
                Code::Ova | Code::NotChecked => checking.note(finding),
                code if code.severity() >= crate::finding::Severity::Error => {
                    checking.corruption(finding);
                }
                _ => checking.note(finding),
            }
        }
        let here = |error: Error| error.in_file(&self.path);
        // a manifest that cannot be read is among the findings
        let manifest = match self.manifest() {
            Err(error) if error.is_no_damage() => return Err(error),
            other => other.ok().flatten(),
        };
        let Some(Manifest { entries, .. }) = manifest else { return Ok(()) };
        let wrong = |code: Code, text: String, at: u64| {
            checking.corruption(Finding::new(code, text).at(at).in_structure("manifest"));
        };
        if entries.len() > MAX_ENTRIES {
            let text = format!(
                "the manifest has more than {MAX_ENTRIES} lines: no hash of it was verified"
            );
            checking.note(Finding::new(Code::NotChecked, text));
            return Ok(());
        }
        let mut seen = HashSet::new();
        for entry in &entries {
            checking.watcher().check()?;
            let name = printable(&entry.name);
            // each member is read once, however many lines name it
            if !seen.insert(super::plain(&entry.name)) {
                let text = format!("the manifest names '{name}' more than once");
                wrong(Code::InvalidEntry, text, entry.at);
                continue;
            }
            let member = match self.find(&entry.name) {
                Ok(member) => member,
                Err(error) => {
                    let text = format!("the manifest names '{name}': {}", error.detail());
                    wrong(Code::MissingMember, text, entry.at);
                    continue;
                }
            };
            // its holes may be of any size, and in an OVA there are none
            if member.is_sparse() {
                let text = format!("the hash of the sparse member '{name}' was not verified");
                checking.note(Finding::new(Code::NotChecked, text));
                continue;
            }
            #[cfg(feature = "checksum")]
            if hash(self, member, entry).map_err(here)? != entry.hash {
                let algorithm = entry.algorithm.name();
                let text = format!("the {algorithm} of '{name}' is not that of the manifest");
                wrong(Code::ChecksumMismatch, text, member.header);
            }
            #[cfg(not(feature = "checksum"))]
            {
                let _ = (member, here);
                let text = format!("the hash of '{name}' was not verified by this build");
                checking.note(Finding::new(Code::NotChecked, text));
            }
        }
        Ok(())
    }
}

/// Hashes a member by the algorithm of its line.
#[cfg(feature = "checksum")]
fn hash(archive: &Archive, member: &super::Member, entry: &Entry) -> Result<Vec<u8>> {
    use sha2::digest::DynDigest;
    use std::io::BufRead;
    let mut hasher: Box<dyn DynDigest> = match entry.algorithm {
        Algorithm::Sha1 => Box::new(sha1::Sha1::default()),
        Algorithm::Sha256 => Box::new(sha2::Sha256::default()),
        Algorithm::Sha512 => Box::new(sha2::Sha512::default()),
    };
    let content = archive.open(member)?;
    let end = content.size();
    let mut reader = super::StorageReader::new(content, 0, end);
    loop {
        let length = match reader.fill_buf() {
            Ok([]) => return Ok(hasher.finalize().into_vec()),
            Ok(bytes) => {
                hasher.update(bytes);
                bytes.len()
            }
            Err(error) => return Err(from_io(error)),
        };
        reader.consume(length);
    }
}

/// The error that a reader of this crate wraps.
#[cfg(feature = "checksum")]
fn from_io(error: std::io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(own) => own,
        Err(other) => Error::io("read", other),
    }
}
