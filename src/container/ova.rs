//! What is special about an OVA: the description, the manifest, the certificate (DSP0243, section 6).

use super::error::Fault;
use super::manifest::{self, Entry};
use super::ovf::{self, Ovf};
use super::{Archive, Member, MemberKind, count, small};
use crate::error::{Error, Result};
use crate::finding::{Code, Finding};
use crate::layer::{Description, Value};
use crate::text::{printable, printable_str};

/// How many of the disks and files that a description names are told.
const MOST_TOLD: usize = 256;

/// Whether a member is a text that is read when an OVA is described.
pub(crate) fn is_text(member: &Member) -> bool {
    let name = member.name.to_ascii_lowercase();
    let limits = [(&b".ovf"[..], ovf::MAX_SIZE), (b".mf", manifest::MAX_SIZE)];
    limits.iter().any(|(extension, limit)| name.ends_with(extension) && member.size <= *limit)
}

/// A manifest, its lines, and where it makes no sense.
pub(super) struct Manifest<'a> {
    member: &'a Member,
    pub(super) entries: Vec<Entry>,
    wrong: Option<u64>,
}

impl Archive {
    /// The first member of such an extension.
    pub(super) fn with_extension(&self, extension: &[u8]) -> Option<&Member> {
        self.members.iter().find(|member| {
            let ends = member.name.to_ascii_lowercase().ends_with(extension);
            ends && member.kind == MemberKind::File
        })
    }

    pub(super) fn read_ovf(&self) -> Result<Ovf> {
        let member = self.with_extension(b".ovf").ok_or(Fault::Ovf("there is none".into()))?;
        let here = |error: Error| error.at(member.data).in_file(&self.path);
        let text = small(&self.open(member)?, "the OVF description", ovf::MAX_SIZE);
        Ovf::parse(&text.map_err(here)?).map_err(here)
    }

    pub(super) fn is_chunked(&self, name: &[u8]) -> bool {
        let files = self.ovf().map(|ovf| &*ovf.files).unwrap_or_default();
        files.iter().any(|file| file.chunked && file.href.as_bytes() == name)
    }

    pub(super) fn manifest(&self) -> Result<Option<Manifest<'_>>> {
        let Some(member) = self.with_extension(b".mf") else { return Ok(None) };
        let here = |error: Error| error.at(member.data).in_file(&self.path);
        let text = small(&self.open(member)?, "the manifest", manifest::MAX_SIZE).map_err(here)?;
        let (entries, wrong) = manifest::parse(&text);
        Ok(Some(Manifest { member, entries, wrong }))
    }

    pub(super) fn describe_ova(&self, description: &mut Description) {
        description.findings.push(Finding::new(Code::Ova, "an OVA archive: the disks are inside"));
        let text = |text: &str| Value::Text(text.to_owned());
        let mut details = Vec::new();
        match &self.ovf {
            Some(Ok(ovf)) => {
                for (key, value) in [
                    ("name", &ovf.system),
                    ("operating-system", &ovf.operating_system),
                    ("firmware", &ovf.firmware),
                ] {
                    details.extend(value.as_deref().map(|value| (key, text(value))));
                }
                if ovf.systems != 1 {
                    details.push(("virtual-machines", count(ovf.systems)));
                }
                let disks = ovf.disks.iter().take(MOST_TOLD).map(|disk| self.told(ovf, disk));
                details.push(("disks", Value::List(disks.collect())));
                description.findings.extend(self.compare_files(ovf));
            }
            Some(Err(error)) => {
                let finding = Finding::new(Code::Unreadable, error.detail().to_string());
                description.findings.push(match error.offset() {
                    Some(at) => finding.at(at),
                    None => finding,
                });
            }
            None => {}
        }
        match self.manifest() {
            Ok(Some(Manifest { member, entries, wrong })) => {
                let algorithm = entries.first().map_or("", |entry| entry.algorithm.name());
                let name = printable(&member.name);
                let told =
                    format!("{name} ({} files, {algorithm}); verified by check", entries.len());
                details.push(("manifest", text(told.trim())));
                description.findings.extend(wrong.map(|at| {
                    let at = member.data.saturating_add(at);
                    Finding::new(Code::InvalidEntry, "a line of the manifest makes no sense").at(at)
                }));
            }
            Ok(None) => {}
            Err(error) => {
                let told = error.detail().to_string();
                description.findings.push(Finding::new(Code::Unreadable, told));
            }
        }
        if let Some(certificate) = self.with_extension(b".cert") {
            details.push(("certificate", text(&printable(&certificate.name))));
        }
        description.details = details;
    }

    fn told(&self, ovf: &Ovf, disk: &super::OvfDisk) -> Value {
        let text = |text: &str| Value::Text(text.to_owned());
        let mut told = vec![("id", text(&disk.id))];
        if let Some(file) = ovf.file_of(disk) {
            told.push(("file", text(&file.href)));
            told.extend(file.compression.as_deref().map(|word| ("compression", text(word))));
            if file.chunked {
                told.push(("chunked", Value::Bool(true)));
            }
        }
        told.extend(disk.capacity.map(|bytes| ("capacity", Value::Number(bytes))));
        told.extend(disk.format.as_deref().map(|format| ("format", text(format))));
        told.extend(disk.parent_ref.as_deref().map(|parent| ("parent", text(parent))));
        Value::Map(told)
    }

    /// What the list of files contradicts in the archive.
    pub(super) fn compare_files(&self, ovf: &Ovf) -> Vec<Finding> {
        let mut findings = Vec::new();
        for file in ovf.files.iter().take(MOST_TOLD) {
            let href = printable_str(&file.href);
            if file.chunked {
                let text =
                    format!("'{href}' is stored in chunks (ovf:chunkSize), which are not read");
                findings.push(Finding::new(Code::NotChecked, text));
                continue;
            }
            let found = self.members.iter().find(|m| m.plain_name() == file.href.as_bytes());
            match (found, file.size) {
                (None, _) => {
                    let text =
                        format!("the description names the file '{href}', which is not there");
                    findings.push(Finding::new(Code::MissingMember, text));
                }
                (Some(member), Some(size)) if member.size != size => {
                    let text = format!(
                        "the description says that '{href}' has {size} bytes, it has {}",
                        member.size
                    );
                    findings.push(Finding::new(Code::SizeMismatch, text).at(member.header));
                }
                _ => {}
            }
        }
        let ids: Vec<_> = ovf.files.iter().map(|file| &*file.id).collect();
        for disk in ovf.disks.iter().take(MOST_TOLD) {
            let missing = disk.file_ref.as_deref().filter(|id| !ids.contains(id));
            findings.extend(missing.map(|id| {
                let (disk, id) = (printable_str(&disk.id), printable_str(id));
                let text = format!(
                    "the disk '{disk}' is in the file '{id}', which the description does not name"
                );
                Finding::new(Code::MissingMember, text)
            }));
        }
        findings
    }
}
