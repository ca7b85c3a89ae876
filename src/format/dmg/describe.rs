//! What a DMG says of itself.

use std::collections::BTreeSet;

use crate::finding::{Code, Finding};
use crate::layer::{Description, Value};
use crate::num::{Pow2, to_u64};
use crate::text::printable_str;

use super::blocks::{Kind, Table};
use super::header::Checksum;
use super::layer::DmgLayer;

/// The longest name of a table that is told.
const LONGEST_NAME: usize = 255;

/// What `hdiutil` calls an image whose chunks are compressed in this way.
fn type_of(kinds: &BTreeSet<Kind>) -> &'static str {
    let mut encoded = kinds.iter().filter(|kind| kind.is_encoded());
    match (encoded.next(), encoded.next()) {
        (None, _) => "UDRO",
        (Some(Kind::Adc), None) => "UDCO",
        (Some(Kind::Zlib), None) => "UDZO",
        (Some(Kind::Bzip2), None) => "UDBZ",
        (Some(Kind::Lzfse), None) => "ULFO",
        (Some(Kind::Lzma), None) => "ULMO",
        _ => "mixed",
    }
}

fn checksum(checksum: Checksum) -> Option<Value> {
    match checksum {
        Checksum::None => None,
        Checksum::Crc32(sum) => Some(format!("crc32 {sum:08x}").into()),
        Checksum::Other(kind) => Some(format!("type {kind}").into()),
    }
}

fn table(table: &Table) -> Value {
    let name: String = table.name.chars().take(LONGEST_NAME).collect();
    let bytes = |sectors| Pow2::SECTOR.offset_of(sectors).unwrap_or(u64::MAX);
    let mut values = vec![
        ("name", name.into()),
        ("start", bytes(table.start).into()),
        ("size", bytes(table.sectors).into()),
    ];
    values.extend(checksum(table.checksum).map(|sum| ("checksum", sum)));
    Value::Map(values)
}

pub(super) fn describe(layer: &DmgLayer) -> Description {
    let (header, blocks) = (&layer.header, &layer.blocks);
    let kinds: BTreeSet<Kind> = blocks.chunks.iter().map(|chunk| chunk.kind).collect();
    let codecs = kinds.iter().filter_map(|kind| kind.codec()).map(Value::from).collect();
    let mut details = vec![
        ("type", type_of(&kinds).into()),
        ("compression", Value::List(codecs)),
        ("chunks", to_u64(blocks.chunks.len()).into()),
    ];
    details.extend(checksum(header.data_checksum).map(|sum| ("data-checksum", sum)));
    details.extend(checksum(header.master_checksum).map(|sum| ("master-checksum", sum)));
    details.push(("partitions", Value::List(blocks.tables.iter().map(table).collect())));
    let mut findings = Vec::new();
    for kind in kinds {
        if let (Kind::Unknown(_), Some(text)) = (kind, kind.unsupported()) {
            findings.push(Finding::new(Code::UnknownFeature, text));
        }
    }
    if let Some((sectors, first)) = blocks.gaps(header) {
        let text = printable_str(&format!("no chunk holds {sectors} sectors, from {first} on"));
        findings.push(Finding::new(Code::CheckError, text).at(header.offset));
    }
    if header.offset == 0 {
        let text = "the trailer is at the start of the file";
        findings.push(Finding::new(Code::Unusual, text).at(0));
    }
    Description { details, findings, ..Description::default() }
}
