//! Truncated copies: every prefix of every fixture, cut at each edge of its structures, either
//! reads to the same bytes or is an error. Never a panic, never other bytes.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use common::*;
use diskimage::storage::MemoryStorage;
use diskimage::{Chain, ErrorKind, ExtentKind, OpenOptions, VirtualDisk, VirtualDiskExt};

fn open(fixture: &Fixture, bytes: &[u8]) -> diskimage::Result<Chain> {
    OpenOptions::new()
        .format(fixture.format.parse().unwrap())
        .open_storage(Arc::new(MemoryStorage::new(bytes.to_vec())), Path::new(&fixture.file))
}

/// Where structures begin and end: the header's fields, each cluster, what the extents name.
fn edges(disk: &Chain, length: usize) -> BTreeSet<usize> {
    let mut edges: BTreeSet<usize> = (0..=160).collect();
    edges.extend((0..length).step_by(512).take(64));
    let cluster = disk.cluster_size() as usize;
    edges.extend((0..length).step_by(cluster).take(200));
    for extent in disk.extents(0..disk.size()).flatten().take(200) {
        if let ExtentKind::Stored(location) = extent.kind {
            edges.insert(location.offset as usize);
            edges.insert((location.offset + extent.length) as usize);
        }
    }
    edges.extend([length / 2, length]);
    // and beside each edge
    edges
        .iter()
        .flat_map(|&at| [at.saturating_sub(1), at, at + 1])
        .filter(|&at| at < length)
        .collect()
}

#[test]
fn every_prefix_is_the_same_disk_or_an_error() {
    let mut tried = 0;
    // a raw disk of any length is whole, and what needs other files is tried elsewhere
    let wanted =
        |f: &&Fixture| f.format != "raw" && f.parents.is_empty() && f.virtual_size <= 8 << 20;
    for fixture in small_fixtures().filter(wanted) {
        let bytes = std::fs::read(&fixture.path).unwrap();
        let disk = open(fixture, &bytes).unwrap();
        let whole = content(&disk).unwrap();
        for cut in edges(&disk, bytes.len()) {
            match open(fixture, &bytes[..cut]).and_then(|disk| content(&disk)) {
                Ok(got) => assert!(got == whole, "{} cut at {cut} reads other bytes", fixture.file),
                Err(error) => {
                    let fine = matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::InvalidInput);
                    assert!(fine, "{} cut at {cut}: {error:?}", fixture.file);
                    assert!(error.file().is_some(), "{} cut at {cut}: {error:?}", fixture.file);
                }
            }
            tried += 1;
        }
    }
    assert!(tried > 1000, "only {tried} prefixes");
}

#[test]
fn a_cut_file_never_reads_zeros_for_its_lost_data() {
    // the trap that the standard converter falls into: exit code 0 and a zero-filled tail
    let fixture = fixture("qcow2/v3-plain-64k.qcow2");
    let bytes = std::fs::read(&fixture.path).unwrap();
    let disk = open(fixture, &bytes).unwrap();
    let last = disk
        .extents(0..disk.size())
        .flatten()
        .filter_map(|extent| match extent.kind {
            ExtentKind::Stored(location) => Some((location.offset, extent)),
            _ => None,
        })
        .max_by_key(|(offset, _)| *offset);
    let (offset, extent) = last.unwrap();
    let cut = open(fixture, &bytes[..offset as usize + 512]).unwrap();
    let error = cut.read_exact_at(&mut vec![0; extent.length as usize], extent.start).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(error.offset(), Some(offset + 512));
    assert_eq!(error.guest_range().unwrap().start, extent.start + 512);
}
