//! What lies on a disk, or in a container, in sentences.

use diskimage::contents::{self, Bounds, Partition, Superblock, TableKind};
use diskimage::inspect::{Facts, Inside};
use diskimage::text::printable;
use diskimage::{
    Contents, ExtentKind, Finding, Format, Progress, Result, VirtualDisk, VirtualDiskExt,
};

use super::{counted, sentence, with_article};
use crate::size::{human_size, sized};

/// So many partitions or members are listed; `info` lists all.
const MOST: usize = 16;

/// What a look at the disk brought.
pub(super) struct Inner {
    contents: Contents,
    stored: u64,
    compressed: u64,
}

impl Inner {
    pub(super) fn look(disk: &dyn VirtualDisk, progress: &Progress) -> Result<Self> {
        let contents = contents::look(disk, &Bounds::default())?;
        let (mut stored, mut compressed) = (0, 0);
        progress.start(disk.size());
        for extent in disk.extents(0..disk.size()) {
            let extent = extent?;
            progress.check()?;
            progress.advance(extent.length);
            match extent.kind {
                ExtentKind::Stored(_) => stored += extent.length,
                ExtentKind::Encoded => compressed += extent.length,
                ExtentKind::Hole(_) | ExtentKind::Zero { .. } => {}
            }
        }
        Ok(Self { contents, stored, compressed })
    }

    /// How much of the disk is in use.
    pub(super) fn usage(&self) -> String {
        let (all, compressed) = (self.stored + self.compressed, self.compressed);
        if all == 0 {
            return "No part of the disk is stored: it is all zeros.".to_owned();
        }
        if all == self.contents.size && compressed == 0 {
            return "All of it is stored.".to_owned();
        }
        let how = match compressed {
            0 => String::new(),
            _ if compressed == all => ", compressed".to_owned(),
            _ => format!(", {} of that compressed", human_size(compressed)),
        };
        let rest = if all == self.contents.size { "" } else { "; the rest are zeros without room" };
        format!("{} of the disk are stored{how}{rest}.", human_size(all))
    }

    pub(super) fn findings(&self) -> &[Finding] {
        &self.contents.findings
    }

    pub(super) fn sentences(&self) -> Vec<String> {
        let contents = &self.contents;
        let mut told = Vec::new();
        if let Some(table) = &contents.table {
            let name = match table.kind {
                TableKind::Gpt => "a GPT",
                _ => "an MBR",
            };
            let colon = if contents.partitions.is_empty() { "." } else { ":" };
            let count = counted(contents.partitions.len() as u64, "partition");
            told.push(format!("The disk has {name} with {count}{colon}"));
            told.extend(contents.partitions.iter().take(MOST).map(partition));
            if contents.partitions.len() > MOST {
                told.push(format!("and {} more.", contents.partitions.len() - MOST));
            }
        }
        for one in &contents.superblocks {
            told.push(format!("The disk as a whole holds {}.", superblock(one)));
        }
        if let Some(error) = &contents.error {
            told.push(sentence(&format!("a part of it could not be read: {error}")));
        }
        if told.is_empty() && self.stored + self.compressed == 0 {
            told.push("Nothing: no byte of the disk was ever written.".to_owned());
        } else if told.is_empty() {
            told.push(
                "No partition table and no file system that is known: it may be encrypted, or hold \
                 something else."
                    .to_owned(),
            );
        } else {
            let boot = contents.boot.to_string();
            let boot = if boot.starts_with("has ") { format!("it {boot}") } else { boot };
            told.push(sentence(&boot));
        }
        told
    }
}

fn partition(one: &Partition) -> String {
    let kind = one.kind.name.map_or_else(|| format!("type {}", one.kind.id), str::to_owned);
    let name = one.name.as_ref().filter(|name| !name.is_empty());
    let name = name.map(|name| format!(" '{name}'")).unwrap_or_default();
    let holds: Vec<_> = one.superblocks.iter().map(superblock).collect();
    let holds = match (&one.error, holds.is_empty()) {
        (Some(error), _) => format!("; it could not be read: {error}"),
        (None, true) => String::new(),
        (None, false) => format!(", with {}", holds.join(" and ")),
    };
    format!("{}. {}: {kind}{name}{holds}", one.number, human_size(one.length))
}

fn superblock(one: &Superblock) -> String {
    let version = one.version.as_ref().map(|version| format!(" {version}")).unwrap_or_default();
    let label = one.label.as_ref().filter(|label| !label.is_empty());
    let label = label.map(|label| format!(", label '{label}'")).unwrap_or_default();
    format!("{}{version}{label}", with_article(one.kind.description()))
}

/// What lies in an archive or a compressed file.
pub(super) fn of_container(facts: &Facts) -> Vec<String> {
    let mut told = Vec::new();
    list(&facts.inside, &mut told);
    let more = told.len().saturating_sub(MOST);
    told.truncate(MOST);
    if more > 0 {
        told.push(format!("and {more} more."));
    }
    if told.is_empty() {
        told.push(match &facts.error {
            Some(error) => sentence(&format!("nobody could look: {error}")),
            None => "No disk was found in it, or nobody could look.".to_owned(),
        });
    }
    told
}

fn list(inside: &[Inside], told: &mut Vec<String>) {
    for one in inside {
        let format = one.facts.format.unwrap_or(Format::Raw);
        let size = one.facts.virtual_size.map(|size| format!(" of {}", sized(size)));
        let name = match one.name.is_empty() {
            true => "Inside is".to_owned(),
            false => format!("'{}' is", printable(&one.name)),
        };
        let trouble = one.facts.error.as_ref().map(|error| format!("; it cannot be read: {error}"));
        told.push(format!(
            "{name} {}{}{}.",
            with_article(format.description()),
            size.unwrap_or_default(),
            trouble.unwrap_or_default()
        ));
        list(&one.facts.inside, told);
    }
}
