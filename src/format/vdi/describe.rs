//! What a VDI image says of itself. qemu-img has nothing specific for it; the names are ours.

use crate::finding::{Code, Finding};
use crate::layer::{Description, Layer, Value};
use crate::text::{printable, uuid};

use super::header::Header;
use super::layer::VdiLayer;
use super::layout::{AT_BLOCKS_ALLOCATED, FLAG_ZERO_EXPAND};

pub(super) fn describe(layer: &VdiLayer) -> Description {
    Description {
        details: details(layer.header()),
        findings: findings(layer),
        ..Description::default()
    }
}

fn details(header: &Header) -> Vec<(&'static str, Value)> {
    let mut details = vec![
        ("type", Value::from(header.image_type.name())),
        ("block-size", header.block.size().into()),
        ("block-extra", header.block_extra.into()),
        ("blocks", header.blocks.into()),
        ("blocks-allocated", header.blocks_allocated.into()),
        ("version", format!("{}.{}", header.version >> 16, header.version & 0xffff).into()),
        ("creator", printable(header.file_info.trim_ascii()).into()),
    ];
    if !header.comment.is_empty() {
        details.push(("comment", printable(&header.comment).into()));
    }
    if header.geometry != [0; 3] {
        let [cylinders, heads, sectors] = header.geometry;
        let geometry = vec![
            ("cylinders", Value::from(cylinders)),
            ("heads", heads.into()),
            ("sectors", sectors.into()),
        ];
        details.push(("geometry", Value::Map(geometry)));
    }
    details.push(("zero-expand", (header.flags & FLAG_ZERO_EXPAND != 0).into()));
    details.push(("uuid", uuid(&header.uuid).into()));
    details.push(("modification-uuid", uuid(&header.modification_uuid).into()));
    if let Some(parent) = &header.parent_uuid {
        details.push(("parent-uuid", uuid(parent).into()));
    }
    if let Some(state) = &header.parent_modification_uuid {
        details.push(("parent-modification-uuid", uuid(state).into()));
    }
    details
}

fn findings(layer: &VdiLayer) -> Vec<Finding> {
    let header = layer.header();
    let mut findings = Vec::new();
    for reference in layer.references() {
        let text = format!("needs the {} '{}'", reference.role.noun(), reference.printable_name());
        findings.push(Finding::new(Code::BackingFile, text).at(reference.offset));
    }
    if header.blocks_allocated > header.blocks {
        let (allocated, blocks) = (header.blocks_allocated, header.blocks);
        let text = format!("says that {allocated} blocks are in the file, of {blocks} in all");
        findings.push(Finding::new(Code::CheckError, text).at(AT_BLOCKS_ALLOCATED));
    } else if let Some(end) = missing_end(layer) {
        let size = layer.file_size();
        let text = format!("the file ends at {size:#x}, its blocks take it to {end:#x}");
        findings.push(Finding::new(Code::Truncated, text).at(size));
    }
    findings
}

/// Where the file would have to reach for all blocks that the header counts, if it does not. The
/// part of the last block that is beyond the disk may be left out.
fn missing_end(layer: &VdiLayer) -> Option<u64> {
    let header = layer.header();
    let last = header.blocks_allocated.checked_sub(1)?;
    let beyond = header.block.ceil(header.size).saturating_sub(header.size);
    let end = header.block_data(last).saturating_add(header.block.size()).saturating_sub(beyond);
    (end > layer.file_size()).then_some(end)
}
