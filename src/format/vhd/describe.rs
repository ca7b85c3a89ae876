//! What a VHD image says of itself. qemu-img has nothing specific for it; the names are ours.

use crate::finding::{Code, Finding};
use crate::layer::{Description, Layer, Value};
use crate::num::to_u64;
use crate::text::{printable, uuid};

use super::footer::{CopyState, DiskType, FooterPlace, Geometry};
use super::header::DynamicHeader;
use super::layer::VhdLayer;
use super::layout::*;

pub(super) fn describe(layer: &VhdLayer) -> Description {
    Description {
        dirty: layer.footer().saved_state,
        details: details(layer),
        findings: findings(layer),
        ..Description::default()
    }
}

fn details(layer: &VhdLayer) -> Vec<(&'static str, Value)> {
    let (footer, copies) = (layer.footer(), layer.copies());
    let mut details = vec![("type", Value::from(footer.disk_type.name()))];
    if let Some(header) = layer.header() {
        details.push(("block-size", header.block.size().into()));
        details.push(("table-entries", header.max_table_entries.into()));
    }
    let by_geometry = footer.is_sized_by_geometry();
    let trimmed = |name: &[u8; 4]| printable(name.trim_ascii_end());
    let creation_time = EPOCH.saturating_add(footer.time_stamp.into());
    details.extend([
        ("version", version(footer.version).into()),
        ("creator-application", trimmed(&footer.creator_application).into()),
        ("creator-version", version(footer.creator_version).into()),
        ("creator-host-os", trimmed(&footer.creator_host_os).into()),
        ("creation-time", creation_time.into()),
        ("original-size", footer.original_size.into()),
        ("current-size", footer.current_size.into()),
        ("geometry", geometry(footer.geometry)),
        ("size-from", if by_geometry { "geometry" } else { "current-size" }.into()),
        ("uuid", uuid(&footer.unique_id).into()),
        ("temporary", (footer.features & FEATURE_TEMPORARY != 0).into()),
        ("saved-state", footer.saved_state.into()),
        ("footer-used", copies.used.name().into()),
        ("footer", copy_state(copies.end).into()),
    ]);
    if let Some(header) = layer.header() {
        let header_state = if header.is_intact() { "valid" } else { "damaged" };
        details.push(("footer-copy", copy_state(copies.start).into()));
        details.push(("header", header_state.into()));
        if footer.disk_type == DiskType::Differencing {
            details.extend(parent(header));
        }
    }
    details
}

fn parent(header: &DynamicHeader) -> Vec<(&'static str, Value)> {
    let mut details = vec![("parent-uuid", Value::from(uuid(&header.parent_unique_id)))];
    if header.parent_time_stamp != 0 {
        let time = EPOCH.saturating_add(header.parent_time_stamp.into());
        details.push(("parent-modification-time", time.into()));
    }
    if let Some(name) = &header.parent_name {
        details.push(("parent-name", name.as_str().into()));
    }
    let locators = header.locators.iter().map(|locator| {
        let mut map = vec![("platform", Value::from(printable(&locator.platform_code)))];
        if let Some(name) = &locator.name {
            map.push(("name", name.as_str().into()));
        }
        Value::Map(map)
    });
    details.push(("parent-locators", Value::List(locators.collect())));
    details
}

fn version(version: u32) -> String {
    format!("{}.{}", version >> 16, version & 0xffff)
}

fn geometry(geometry: Geometry) -> Value {
    Value::Map(vec![
        ("cylinders", u64::from(geometry.cylinders).into()),
        ("heads", u64::from(geometry.heads).into()),
        ("sectors", u64::from(geometry.sectors).into()),
    ])
}

fn copy_state(state: CopyState) -> &'static str {
    match state {
        CopyState::Missing => "missing",
        CopyState::Damaged { .. } => "damaged",
        CopyState::Valid => "valid",
    }
}

fn findings(layer: &VhdLayer) -> Vec<Finding> {
    let footer = layer.footer();
    let mut findings = Vec::new();
    for reference in layer.references() {
        let text = format!("needs the {} '{}'", reference.role.noun(), reference.printable_name());
        findings.push(Finding::new(Code::BackingFile, text).at(reference.offset));
    }
    copy_findings(layer, &mut findings);
    if footer.geometry_mismatches() {
        let (used, other) = match footer.is_sized_by_geometry() {
            true => ("geometry", "Current Size"),
            false => ("Current Size", "geometry"),
        };
        let text = format!(
            "the geometry makes up {} bytes, Current Size is {}: the {used} is taken, since '{}' \
             made it; readers that take the {other} see another disk",
            footer.geometry_size(),
            footer.current_size,
            printable(footer.creator_application.trim_ascii_end()),
        );
        findings.push(Finding::new(Code::GeometryMismatch, text).at(used_offset(layer, 48)));
    }
    if footer.saved_state {
        let text = "belongs to a machine in saved state: what it held in memory is not in here";
        findings.push(Finding::new(Code::Dirty, text).at(used_offset(layer, 84)));
    }
    match layer.header() {
        None => fixed_findings(layer, &mut findings),
        Some(header) => header_findings(header, &mut findings),
    }
    if layer.looks_over()
        && layer.copies().end != CopyState::Valid
        && let Some(end) = layer.missing_end()
    {
        let size = layer.copies().file_size;
        let text = format!("the file ends at {size:#x}, a block reaches to {end:#x}");
        findings.push(Finding::new(Code::Truncated, text).at(size));
    }
    findings
}

/// Where in the file the field lies that is `field` bytes into the footer.
fn used_offset(layer: &VhdLayer, field: u64) -> u64 {
    let copies = layer.copies();
    let start = match copies.used {
        FooterPlace::Start => 0,
        FooterPlace::End => copies.end_offset.unwrap_or_default(),
    };
    start.saturating_add(field)
}

fn copy_findings(layer: &VhdLayer, findings: &mut Vec<Finding>) {
    let copies = layer.copies();
    let end = copies.end_offset.unwrap_or(copies.file_size);
    let fixed = layer.footer().disk_type == DiskType::Fixed;
    if fixed {
        if copies.start == CopyState::Valid {
            let text = "the disk's own first sector looks like the copy of a footer: readers that \
                        go by the start of the file take it for one";
            findings.push(Finding::new(Code::FooterMismatch, text).at(0));
        }
    } else if copies.differ {
        let text = format!(
            "the footer and its copy at the start differ; the one at the {} is taken",
            copies.used.name()
        );
        findings.push(Finding::new(Code::FooterMismatch, text).at(end));
    }
    let places = [
        ("footer at the end", copies.end, end),
        ("copy of the footer at the start", copies.start, 0),
    ];
    for (name, state, at) in places.into_iter().take(if fixed { 1 } else { 2 }) {
        let text = match state {
            CopyState::Valid => continue,
            CopyState::Missing => format!("the {name} is missing"),
            CopyState::Damaged { .. } => format!("the {name} has a wrong checksum"),
        };
        findings.push(Finding::new(Code::FooterMissing, text).at(at));
    }
    let used = match copies.used {
        FooterPlace::Start => copies.start,
        FooterPlace::End => copies.end,
    };
    if used != CopyState::Valid {
        let text = "no copy of the footer has the right checksum";
        let at = used_offset(layer, to_u64(FOOTER_CHECKSUM));
        findings.push(Finding::new(Code::CheckError, text).at(at));
    }
}

fn fixed_findings(layer: &VhdLayer, findings: &mut Vec<Finding>) {
    let (footer, held) = (layer.footer(), layer.copies().data_end());
    let (size, largest) = (layer.size(), layer.size().max(footer.current_size));
    if held < size {
        let text = format!("a fixed disk of {size} bytes, of which the file holds {held}");
        findings.push(Finding::new(Code::Truncated, text).at(held));
    } else if held > largest {
        let text = format!(
            "{} bytes lie between the end of the fixed disk and its footer",
            held.saturating_sub(largest)
        );
        findings.push(Finding::new(Code::FooterMismatch, text).at(largest));
    }
}

fn header_findings(header: &DynamicHeader, findings: &mut Vec<Finding>) {
    if !header.is_intact() {
        let text = "the dynamic header has a wrong checksum";
        let at = header.offset.saturating_add(to_u64(HEADER_CHECKSUM));
        findings.push(Finding::new(Code::CheckError, text).at(at));
    }
    for locator in &header.locators {
        if let Some(problem) = locator.problem {
            let code = printable(&locator.platform_code);
            let text = format!("the parent locator '{code}' is not used: {problem}");
            findings.push(Finding::new(Code::CheckError, text).at(locator.offset));
        }
    }
}
