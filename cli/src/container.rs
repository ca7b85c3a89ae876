//! Containers in words: what `info` says of archives and compressed files.

use std::io::{self, Write};
use std::path::Path;

use diskimage::container::{Container, Member};
use diskimage::inside::{InnerDisk, disks};
use diskimage::layer::Description;
use diskimage::text::printable;
use diskimage::{Contents, Finding, OpenOptions, Result};
use serde_json::{Value, json};

use crate::size::human_size;
use crate::{output, report, style};

/// How many members are listed.
const MOST_MEMBERS: usize = 1000;

/// All that is shown of a container.
pub(crate) struct Facts<'a> {
    path: &'a Path,
    container: &'a Container,
    description: Description,
    disks: Vec<InnerDisk>,
    findings: Vec<Finding>,
    /// What lies on the disk inside, where that was asked for.
    disk: Option<Contents>,
}

impl<'a> Facts<'a> {
    pub(crate) fn new(
        path: &'a Path,
        container: &'a Container,
        options: &OpenOptions,
        disk: Option<Contents>,
    ) -> Result<Self> {
        let mut description = container.describe()?;
        let (disks, more) = match container {
            Container::Archive(archive) => disks(archive, options)?,
            _ => (Vec::new(), Vec::new()),
        };
        let mut findings = std::mem::take(&mut description.findings);
        findings.extend(more);
        Ok(Self { path, container, description, disks, findings, disk })
    }

    fn members(&self) -> &[Member] {
        match self.container {
            Container::Archive(archive) => archive.members(),
            _ => &[],
        }
    }

    fn actual_size(&self) -> u64 {
        let storage = self.container.storage();
        storage.allocated_size().unwrap_or_else(|| storage.size())
    }

    pub(crate) fn json(&self) -> Value {
        let mut object = json!({
            "filename": output::text_of(self.path.as_os_str().as_encoded_bytes()),
            "format": self.container.format().name(),
            "actual-size": self.actual_size(),
        });
        if let Container::Archive(_) = self.container {
            let members = self.members().iter().take(MOST_MEMBERS).map(|member| {
                json!({
                    "name": output::text_of(&member.name),
                    "type": member.kind.noun(),
                    "size": member.size,
                    "offset": member.data,
                    "stored": member.stored,
                    "sparse": member.is_sparse(),
                })
            });
            object["members"] = Value::Array(members.collect());
            object["more-members"] = json!(self.members().len().saturating_sub(MOST_MEMBERS));
            let disks = self.disks.iter().map(|disk| {
                json!({
                    "name": output::text_of(&disk.name),
                    "format": disk.format.map(diskimage::Format::name),
                    "virtual-size": disk.virtual_size,
                    "capacity": disk.capacity,
                    "error": disk.error.as_ref().map(ToString::to_string),
                })
            });
            object["disks"] = Value::Array(disks.collect());
        }
        if !self.description.details.is_empty() {
            object["format-specific"] = json!({
                "type": self.container.format().name(),
                "data": output::described_map(&self.description.details),
            });
        }
        if let Some(disk) = &self.disk {
            object["disk-contents"] = crate::contents::json(disk);
        }
        object["findings"] = output::findings(&self.findings);
        object
    }

    pub(crate) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let format = self.container.format();
        let mut line = |key: &str, value: &str| writeln!(out, "{}{value}", style::key(key));
        line("image", &report::printable(self.path))?;
        line("format", &format!("{} ({})", format.name(), format.description()))?;
        let bytes = self.actual_size();
        line("disk size", &format!("{} ({bytes} bytes)", human_size(bytes)))?;
        if !self.description.details.is_empty() {
            writeln!(out, "{}", style::heading(format_args!("{} details:", format.name())))?;
            crate::info::print_details(out, &self.description.details, 4)?;
        }
        if !self.members().is_empty() {
            writeln!(out, "{}", style::heading("members:"))?;
            for member in self.members().iter().take(MOST_MEMBERS) {
                let sparse = match member.is_sparse() {
                    true => format!(", {} stored", human_size(member.stored)),
                    false => String::new(),
                };
                let kind = match member.is_file() {
                    true => human_size(member.size),
                    false => member.kind.noun().to_owned(),
                };
                writeln!(out, "    {} ({kind}{sparse})", printable(&member.name))?;
            }
            let more = self.members().len().saturating_sub(MOST_MEMBERS);
            if more > 0 {
                writeln!(out, "    … and {more} more")?;
            }
        }
        if !self.disks.is_empty() {
            writeln!(out, "{}", style::heading("disks inside, named as FILE#MEMBER:"))?;
        }
        for disk in &self.disks {
            let format = disk.format.map_or("unknown", diskimage::Format::name);
            let size =
                disk.virtual_size.map(|size| format!(", {} ({size} bytes)", human_size(size)));
            let size = size.unwrap_or_default();
            writeln!(out, "    {}: {format}{size}", printable(&disk.name))?;
        }
        crate::contents::print_with_findings(self.disk.as_ref(), &self.findings, out)
    }
}
