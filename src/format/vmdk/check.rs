//! Whether an image is whole: what can be said of the descriptor, and of each sparse extent in the
//! image's own file. The tables themselves are held against each other by [`tables`](super::tables).

use crate::check::Checking;
use crate::error::{Error, ErrorKind, Result};
use crate::finding::{Code, Finding};
use crate::format::whole::note_unused;
use crate::layer::{Layer, Role};
use crate::text::printable;

use super::descriptor::Descriptor;
use super::error::VmdkDetail;
use super::header::read_footer;
use super::layer::VmdkLayer;
use super::layout::*;
use super::part::{Content, Part};
use super::sparse::{Kind, Sparse};
use super::tables::{Summary, check_tables};

pub(super) fn check(layer: &VmdkLayer, checking: &Checking) -> Result<()> {
    if let Some((detail, at)) = layer.damage() {
        let code = match detail {
            VmdkDetail::FooterMismatch(_) => Code::FooterMismatch,
            VmdkDetail::Footer(_) => Code::FooterMissing,
            _ => Code::NewlineMangled,
        };
        checking.corruption(Finding::new(code, detail.to_string()).at(at));
    }
    if let Some(descriptor) = layer.descriptor() {
        check_descriptor(descriptor, checking);
    }
    let (mut others, mut total) = (Vec::new(), Summary::default());
    let (mut clusters, mut compressed) = (0u64, 0u64);
    for part in layer.parts() {
        match (&part.content, part.sparse()) {
            (_, Some(sparse)) => {
                let summary = check_sparse(sparse, checking)?;
                clusters = clusters.saturating_add(sparse.grain().count(sparse.capacity()));
                if sparse.compressed() {
                    compressed = compressed.saturating_add(summary.allocated);
                }
                total.allocated = total.allocated.saturating_add(summary.allocated);
                total.fragmented = total.fragmented.saturating_add(summary.fragmented);
                total.end = total.end.max(summary.end);
            }
            (Content::Zero, None) => {}
            (_, None) if part.reference.is_some() => others.push(part),
            _ => {}
        }
    }
    tell_others(layer, &others, checking);
    if layer.parts().iter().any(|part| part.sparse().is_some()) {
        let mut report = checking.report();
        report.total_clusters = Some(clusters);
        report.allocated_clusters = Some(total.allocated);
        report.fragmented_clusters = Some(total.fragmented);
        report.compressed_clusters = Some(compressed);
        report.image_end_offset = Some(total.end);
    }
    Ok(())
}

/// What a descriptor says that makes no sense, though it can be read.
fn check_descriptor(descriptor: &Descriptor, checking: &Checking) {
    let note = |text: String, key: &str| {
        let found = Finding::new(Code::Unusual, text).at(descriptor.at(key));
        checking.note(found.in_structure("descriptor"));
    };
    if descriptor.cid.is_none() {
        note(
            "has no content identifier: children cannot tell it from others".to_owned(),
            "createtype",
        );
    }
    for key in &descriptor.repeated {
        note(
            format!("has the key {} twice, with different values", printable(key.as_bytes())),
            key,
        );
    }
    let parent = descriptor.parent_cid.is_some_and(|cid| cid != CID_NO_PARENT);
    let names_parent = descriptor.parent_hint().is_some();
    if names_parent && !parent && descriptor.parent_uuid().is_none() {
        let detail = VmdkDetail::ParentContradiction.to_string();
        let found =
            Finding::new(Code::InvalidEntry, detail).at(descriptor.at("parentfilenamehint"));
        checking.corruption(found.in_structure("descriptor"));
    } else if parent && !names_parent {
        note("has a parent, but does not name its file".to_owned(), "parentcid");
    }
}

/// Says which parts were not looked at, since they are other files.
fn tell_others(layer: &VmdkLayer, others: &[&Part], checking: &Checking) {
    let Some(first) = others.first() else { return };
    let name = first.line.as_ref().map(|line| printable(&line.name)).unwrap_or_default();
    let text = match others.len() {
        1 => format!("the extent '{name}' is another file, and was not checked"),
        count => {
            format!("{count} extents are other files, '{name}' the first: they were not checked")
        }
    };
    let at = layer.references().iter().find(|r| r.role == Role::Extent).map_or(0, |r| r.offset);
    let note = Finding::new(Code::NotChecked, text).at(at).in_structure("descriptor");
    checking.note(note.fix("check each of them by its own name"));
}

fn check_sparse(sparse: &Sparse, checking: &Checking) -> Result<Summary> {
    if let Some(error) = sparse.damaged() {
        let text =
            format!("the primary grain directory is damaged, the redundant one is used: {error}");
        let at = error.offset().unwrap_or_default();
        let found = Finding::new(Code::RedundantCopyDamaged, text).at(at);
        let found = found.in_structure("grain directory");
        checking.corruption(found.fix("--repair all restores it from the redundant one"));
    }
    if let Kind::Hosted(header) = &sparse.kind
        && header.gd_offset == GD_AT_END
        && header.has_markers()
        && let Err((detail, at)) = read_footer(sparse.storage(), header)?
    {
        checking.corruption(Finding::new(Code::FooterMissing, detail.to_string()).at(at));
    }
    let size = sparse.storage().size();
    let summary = match check_tables(sparse, checking, u64::MAX) {
        Ok(summary) => summary,
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            checking.unreadable(unreadable(&error));
            return Ok(Summary::default());
        }
        Err(error) => return Err(error),
    };
    if let Some(front) = sparse.overhead().filter(|&front| summary.lowest_grain >= front)
        && !summary.damaged
        && sparse.damaged().is_none()
        && !sparse.compressed()
    {
        let behind = size.saturating_sub(front);
        note_unused(checking, behind.saturating_sub(summary.taken_behind));
    }
    if let Some((index, at)) = summary.unmarked {
        let text = format!(
            "no marker announces grain table {index}: who reads the stream without seeking loses \
             the way"
        );
        let note = Finding::new(Code::Unusual, text).at(at);
        checking.note(note.in_structure("grain table marker"));
    }
    if summary.misaligned {
        let text = "grains do not lie at distances of whole grains";
        checking.note(Finding::new(Code::Unusual, text).at(sparse.directory_place()));
    }
    Ok(summary)
}

fn unreadable(error: &Error) -> Finding {
    let found = Finding::new(Code::Unreadable, error.to_string());
    found.at(error.offset().unwrap_or_default()).in_structure("grain directory")
}

/// Looks over as many of the tables as `budget` bytes hold, and the last one: one finding of each
/// sort.
pub(super) fn look_over(sparse: &Sparse, budget: u64) -> Vec<Finding> {
    let checking = Checking::new().max_memory(1 << 20).max_findings(16);
    // a directory that cannot be read is found out by reading the disk
    let Ok(summary) = check_tables(sparse, &checking, budget) else { return Vec::new() };
    let mut findings: Vec<Finding> = Vec::new();
    for found in checking.into_report().findings {
        let beyond = found.code == Code::BeyondEnd && found.structure.as_deref() == Some("grain");
        let same = |other: &Finding| other.structure == found.structure;
        if !beyond && !findings.iter().any(same) {
            let at = found.offset.unwrap_or_default();
            let mut told = Finding::new(Code::CheckError, found.message).at(at);
            told.structure = found.structure;
            findings.push(told);
        }
    }
    let (end, size) = (summary.furthest, sparse.storage().size());
    if end > size {
        let text = format!("the file ends at {size:#x}, its tables speak of {end:#x}");
        findings.push(Finding::new(Code::Truncated, text).at(size));
    }
    findings
}
