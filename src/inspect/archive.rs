//! Judging an archive that passes by: each file in it as an image that passes by.

use std::collections::BTreeMap;
use std::path::Path;

use crate::container::{Archive, Container, Forward, MEMBER, Member, TarReader, is_text};
use crate::error::Result;
use crate::format::Format;
use crate::format::probe::Probe;
use crate::inside::{Seen, capacities, compare};

use super::facts::Facts;
use super::inside::Inside;
use super::{Inspect, Verdict};

/// Of more files than this nothing is remembered; no archive of disks has as many.
const MOST_FILES: usize = 512;
/// Texts are kept of so many files: a description and a manifest.
const MOST_TEXTS: usize = 4;

impl Inspect {
    /// Has an archive of the format of `facts` pass by, `path` by name. Adds what is in it, and gives
    /// whether all of it passed: not if something in it is refused for good.
    pub(super) fn pass_archive<F>(
        &self,
        forward: &mut Forward<F>,
        path: &Path,
        facts: &mut Facts,
    ) -> Result<bool>
    where
        F: FnMut(&mut [u8]) -> Result<usize>,
    {
        let format = facts.format.unwrap_or(Format::Tar);
        let (mut members, mut texts, mut seen) = (Vec::new(), Vec::new(), BTreeMap::new());
        let mut reader = TarReader::new(forward, &self.limits);
        while let Some(member) = reader.next()? {
            if member.is_file() {
                let wanted = format == Format::Ova && is_text(&member) && texts.len() < MOST_TEXTS;
                let mut text = wanted.then(Vec::new);
                let verdict = self.pass_member(reader.source, &member, text.as_mut())?;
                texts.extend(text.map(|text| (member.data, text)));
                // which files of an OVA are disks is for its description to say
                if verdict.early && format != Format::Ova {
                    facts.inside.push(Inside { name: member.name, facts: verdict.facts });
                    return Ok(false);
                }
                if seen.len() < MOST_FILES {
                    seen.insert(member.header, verdict.facts);
                }
            }
            members.push(member);
        }
        let findings = reader.findings;
        forward.drain()?;
        let archive = Archive::of_passed(path, format, members, texts, findings)?;
        describe(&archive, seen, facts)?;
        Ok(true)
    }

    /// Has the content of `member` pass by; adds what is stored of it to `text`.
    fn pass_member<F>(
        &self,
        source: &mut Forward<F>,
        member: &Member,
        mut text: Option<&mut Vec<u8>>,
    ) -> Result<Verdict>
    where
        F: FnMut(&mut [u8]) -> Result<usize>,
    {
        let mut stream = self.inner().stream();
        let (mut behind, mut from) = (0u64, member.data);
        for (start, length) in member.runs() {
            stream.push_zeros(start.saturating_sub(behind));
            source.pass(MEMBER, from, length, |piece| {
                stream.push(piece);
                if let Some(text) = &mut text {
                    text.extend_from_slice(piece);
                }
                Ok(())
            })?;
            behind = start.saturating_add(length);
            from = from.saturating_add(length);
        }
        stream.push_zeros(member.size.saturating_sub(behind));
        Ok(stream.finish())
    }
}

/// Adds to `facts` what the archive says of itself, and what was `seen` of the disks in it.
fn describe(archive: &Archive, mut seen: BTreeMap<u64, Facts>, facts: &mut Facts) -> Result<()> {
    let mut findings = archive.describe().findings;
    let is_disk =
        |member: &&Member| seen.get(&member.header).is_some_and(|f| Archive::is_disk(&probed(f)));
    let disks = match archive.named_disks() {
        Ok(Some(named)) => Ok(named),
        Ok(None) => archive
            .files_to_look_at()
            .map(|files| files.into_iter().filter(is_disk).collect::<Vec<_>>()),
        Err(error) => Err(error),
    };
    let told = disks.as_deref().unwrap_or_default();
    let capacities = capacities(archive);
    for member in told {
        let capacity = capacities.get(member.plain_name()).copied();
        if let Some(one) = seen.get(&member.header).and_then(look) {
            compare(member, capacity, &one, &mut findings);
        }
    }
    // what signatures tell was said
    findings.retain(|new| facts.findings.iter().all(|old| old.code != new.code));
    facts.findings.extend(findings);
    for member in disks? {
        if let Some(inner) = seen.remove(&member.header) {
            facts.inside.push(Inside { name: member.name.clone(), facts: inner });
        }
    }
    match facts.inside.is_empty() {
        // an error that lists what there is
        true => Err(archive.no_disk()),
        false => Ok(()),
    }
}

fn probed(facts: &Facts) -> Probe {
    Probe { matches: facts.matches.clone(), size: Some(facts.file_size) }
}

/// What the look at a file came to; `None` where what matters was not seen.
fn look(facts: &Facts) -> Option<Seen<'_>> {
    let found = probed(facts);
    match (facts.virtual_size, &facts.error) {
        _ if found.matches.is_empty() => Some(Seen::Unknown),
        _ if Container::format_of(&found).is_some() => Some(Seen::Container),
        (Some(size), _) => Some(Seen::Disk(size)),
        (None, Some(error)) => Some(Seen::Unreadable(error)),
        (None, None) => None,
    }
}
