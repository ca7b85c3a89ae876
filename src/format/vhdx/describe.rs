//! What a VHDX image says of itself. qemu-img has nothing format-specific for it; the keys are ours.

use crate::error::Result;
use crate::finding::{Code, Finding};
use crate::layer::{Description, Layer, Value};

use super::layer::VhdxLayer;
use super::layout::{HEADER_OFFSETS, REGION_TABLE_OFFSETS};
use super::log::LogState;
use super::scan::scan;

pub(super) fn describe(layer: &VhdxLayer) -> Result<Description> {
    Ok(Description {
        encrypted: false,
        dirty: layer.log() != LogState::Empty,
        snapshots: Vec::new(),
        details: details(layer),
        findings: findings(layer)?,
    })
}

fn details(layer: &VhdxLayer) -> Vec<(&'static str, Value)> {
    let (headers, regions, metadata) = (layer.headers(), layer.regions(), layer.metadata());
    let header = &headers.current;
    let kind = match (&metadata.parent_locator, metadata.leave_blocks_allocated) {
        (Some(_), _) => "differencing",
        (None, true) => "fixed",
        (None, false) => "dynamic",
    };
    let mut details = vec![
        ("type", Value::from(kind)),
        ("block-size", metadata.block.size().into()),
        ("logical-sector-size", metadata.logical_sector.size().into()),
        ("physical-sector-size", metadata.physical_sector_size.into()),
        ("creator", headers.creator.clone().into()),
        ("virtual-disk-id", metadata.virtual_disk_id.to_string().into()),
        ("file-write-guid", header.file_write_guid.to_string().into()),
        ("data-write-guid", header.data_write_guid.to_string().into()),
        (
            "header",
            Value::Map(vec![
                ("used", copy_number(header.offset, HEADER_OFFSETS).into()),
                ("sequence-number", header.sequence_number.into()),
                ("other-valid", headers.damaged.is_none().into()),
            ]),
        ),
        (
            "region-table",
            Value::Map(vec![
                ("used", copy_number(regions.offset, REGION_TABLE_OFFSETS).into()),
                ("other-valid", regions.damaged.is_none().into()),
            ]),
        ),
        ("log", log(layer)),
    ];
    if let Some(locator) = &metadata.parent_locator {
        let text = |bytes: &[u8]| Value::from(String::from_utf8_lossy(bytes).into_owned());
        let entries = locator
            .entries
            .iter()
            .map(|(key, value)| Value::Map(vec![("key", text(key)), ("value", text(value))]));
        details.push(("parent-locator", Value::List(entries.collect())));
    }
    details
}

/// 1 or 2.
fn copy_number(offset: u64, [first, _]: [u64; 2]) -> u32 {
    if offset == first { 1 } else { 2 }
}

fn log(layer: &VhdxLayer) -> Value {
    let header = &layer.headers().current;
    let state = match layer.log() {
        LogState::Empty => "empty",
        LogState::Replayed { .. } => "replayed-in-memory",
        LogState::Ignored => "ignored",
    };
    let mut log = vec![
        ("state", Value::from(state)),
        ("offset", header.log_offset.into()),
        ("length", header.log_length.into()),
    ];
    if !header.log_guid.is_nil() {
        log.push(("guid", header.log_guid.to_string().into()));
    }
    if let LogState::Replayed { entries, sequence_number, sectors, zeros, .. } = layer.log() {
        log.push(("entries", entries.into()));
        log.push(("sequence-number", sequence_number.into()));
        log.push(("sectors-written", sectors.into()));
        log.push(("bytes-zeroed", zeros.into()));
    }
    Value::Map(log)
}

fn findings(layer: &VhdxLayer) -> Result<Vec<Finding>> {
    let (headers, regions) = (layer.headers(), layer.regions());
    let mut findings = Vec::new();
    for reference in layer.references() {
        let name = reference.printable_name();
        let text = format!("needs the {} '{name}'", reference.role.noun());
        findings.push(Finding::new(Code::BackingFile, text).at(reference.offset));
    }
    for (name, damaged) in [("header", headers.damaged), ("region table", regions.damaged)] {
        if let Some(offset) = damaged {
            let text = format!("one of the two {name}s is damaged; the other one was used");
            findings.push(Finding::new(Code::RedundantCopyDamaged, text).at(offset));
        }
    }
    if regions.contradicts {
        let text = "the two region tables differ; the first one was used";
        findings.push(Finding::new(Code::CheckError, text).at(regions.offset));
    }
    match layer.log() {
        LogState::Empty => {}
        LogState::Replayed { entries, .. } => {
            let text =
                format!("has a log of {entries} pending entries, which is read as if applied");
            findings.push(Finding::new(Code::LogDirty, text).at(headers.current.log_offset));
        }
        LogState::Ignored => {
            let text = "has a damaged log of pending writes, which is ignored";
            findings.push(Finding::new(Code::LogDirty, text).at(headers.current.log_offset));
        }
    }
    let unknown_regions = regions.unknown().map(|region| region.guid);
    for guid in unknown_regions.chain(layer.metadata().unknown.iter().copied()) {
        let text = format!("needs a structure that is not known: {guid}");
        findings.push(Finding::new(Code::UnknownFeature, text));
    }
    let block_size = layer.metadata().block.size();
    if layer.looks_over() {
        findings.extend(scan(layer.bat(), block_size, layer.size(), layer.max_table_size())?);
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::super::layout::*;
    use super::super::testing::{Builder, FIRST_BLOCK, Image, LogEntry};
    use super::*;

    fn codes(image: &Image) -> Vec<&'static str> {
        let description = image.trust().unwrap().describe().unwrap();
        description.findings.iter().map(|finding| finding.code.as_str()).collect()
    }

    fn image() -> Image {
        let mut builder = Builder::new(1 << 20, 4 << 20);
        builder.data(0, vec![1; 1 << 20]);
        builder.data(1, vec![2; 1 << 20]);
        builder.build()
    }

    #[test]
    fn the_details_say_what_it_is() {
        let detail = |builder: &Builder, key: &str| {
            let details = builder.build().open().unwrap().describe().unwrap().details;
            details.into_iter().find(|(name, _)| *name == key).map(|(_, value)| value)
        };
        let mut builder = Builder::new(2 << 20, 4 << 20);
        assert_eq!(detail(&builder, "type"), Some("dynamic".into()));
        assert_eq!(detail(&builder, "block-size"), Some((2u64 << 20).into()));
        assert_eq!(detail(&builder, "creator"), Some("diskimage tests".into()));
        let guid = "00000002-0002-0002-0000-000000000002";
        assert_eq!(detail(&builder, "data-write-guid"), Some(guid.into()));
        assert_eq!(detail(&builder, "parent-locator"), None);
        builder.fixed();
        assert_eq!(detail(&builder, "type"), Some("fixed".into()));
        builder.parent(guid, &[("relative_path", "p")]);
        assert_eq!(detail(&builder, "type"), Some("differencing".into()));
        let entry =
            |key: &str, value: &str| Value::Map(vec![("key", key.into()), ("value", value.into())]);
        let entries = vec![entry("parent_linkage", guid), entry("relative_path", "p")];
        assert_eq!(detail(&builder, "parent-locator"), Some(Value::List(entries)));
        let image = builder.build();
        assert_eq!(codes(&image), ["backing-file"]);
    }

    #[test]
    fn what_is_odd_is_found() {
        assert!(codes(&image()).is_empty());
        type Change = fn(&mut Image);
        let cases: [(Change, &[&str]); 9] = [
            (|i| i.bytes[HEADER_OFFSETS[0] as usize] = 0, &["redundant-copy-damaged"]),
            (|i| i.bytes[REGION_TABLE_OFFSETS[1] as usize] = 0, &["redundant-copy-damaged"]),
            (|i| i.region_table(1, |table| table[100] = 1), &["check-error"]),
            (|i| i.region(2, super::super::Guid::of(9, 9, 9, 9), 64 << 20, 1 << 20, 1), {
                &["unknown-feature"]
            }),
            (|i| i.mark_log(), &["log-dirty"]),
            (|i| i.set_bat(2, FIRST_BLOCK | 6), &["check-error"]),
            (|i| i.set_bat(2, 5), &["check-error"]),
            (|i| i.set_bat(3, 6 << 20 | 6), &["truncated"]),
            (|i| i.bytes.truncate((6 << 20) - 1), &["truncated"]),
        ];
        for (change, wanted) in cases {
            let mut image = image();
            change(&mut image);
            assert_eq!(codes(&image), wanted);
        }
        let mut image = image();
        image.mark_log();
        image.put_log(0, &LogEntry::new(1, 0, image.bytes.len(), Vec::new()));
        assert_eq!(codes(&image), ["log-dirty"]);
        let description = image.open().unwrap().describe().unwrap();
        assert!(description.dirty);
        assert!(description.findings[0].message.contains("1 pending"));
    }

    #[test]
    fn a_bitmap_that_shares_its_place_is_found() {
        let mut builder = Builder::new(1 << 20, 4 << 20);
        builder.parent("00000002-0002-0002-0000-000000000002", &[("relative_path", "p")]);
        builder.partial(1, vec![1; 1 << 20], vec![true; 2048]);
        let mut image = builder.build();
        assert_eq!(codes(&image), ["backing-file"]);
        image.set_bitmap(0, FIRST_BLOCK | 6);
        assert_eq!(codes(&image), ["backing-file", "check-error"]);
        image.set_bitmap(0, 6 | 8);
        assert_eq!(codes(&image), ["backing-file", "check-error"]);
    }
}
