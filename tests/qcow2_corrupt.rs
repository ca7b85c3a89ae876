//! One damaged QCOW2 for each rule: the error says who is to blame, what is wrong and where.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

#[path = "common/qcow2.rs"]
mod qcow2;

use std::path::Path;
use std::sync::Arc;

use diskimage::storage::MemoryStorage;
use diskimage::{Error, ErrorKind, OpenOptions, VirtualDisk};
use qcow2::{Cluster, Model};

/// A small image: 8 clusters of 512 bytes, the first four allocated.
fn sample() -> (Vec<u8>, qcow2::Layout) {
    let clusters = vec![Cluster::Data(1), Cluster::Data(2), Cluster::Compressed(3), Cluster::Zero];
    Model { size: 4096, clusters, ..Model::default() }.build_with_layout()
}

fn read(file: Vec<u8>) -> Result<Vec<u8>, Error> {
    let disk = OpenOptions::new()
        .format(diskimage::Format::Qcow2)
        .open_storage(Arc::new(MemoryStorage::new(file)), Path::new("x.qcow2"))?;
    let mut bytes = vec![0; disk.size() as usize];
    disk.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn patched(file: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = file.to_vec();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

#[test]
fn the_sample_itself_is_sound() {
    assert!(read(sample().0).is_ok());
}

#[test]
fn header_fields_are_held_to_the_specification() {
    use ErrorKind::{Corrupt, InvalidInput, LimitExceeded, Unsupported};
    let (file, _) = sample();
    let be32 = |value: u32| value.to_be_bytes().to_vec();
    let be64 = |value: u64| value.to_be_bytes().to_vec();
    for (at, bytes, kind, word) in [
        (0, b"QFJ\xfb".to_vec(), InvalidInput, "no QCOW2"),
        (4, be32(1), Unsupported, "version 1"),
        (4, be32(4), Unsupported, "version 4"),
        (8, be64(1 << 40), Corrupt, "backing file name"),
        (8, be64(256), Corrupt, "announced, but empty"),
        (20, be32(8), Corrupt, "cluster_bits"),
        (20, be32(22), Unsupported, "2 MiB"),
        (20, be32(64), Corrupt, "cluster_bits"),
        (24, be64(1 << 40), Corrupt, "L1 table has 1 entries"),
        (32, be32(3), Corrupt, "crypt_method"),
        (32, be32(1), Unsupported, "encrypted (AES"),
        (32, be32(2), Unsupported, "encrypted (LUKS"),
        (36, be32(0), Corrupt, "L1 table has 0 entries"),
        (36, be32(1 << 23), LimitExceeded, "L1 table"),
        (36, be32(4096), Corrupt, "L1 table"),
        (40, be64(1025), Corrupt, "L1 table lies at 0x401"),
        (40, be64(0), Corrupt, "behind the header"),
        (40, be64(1 << 40), Corrupt, "beyond the end"),
        (40, be64(u64::MAX - 511), Corrupt, "beyond the end"),
        (48, be64(1), Corrupt, "refcount table lies at 0x1"),
        (48, be64(1 << 40), Corrupt, "refcount table"),
        (56, be32(0), Corrupt, "refcount_table_clusters"),
        (56, be32(u32::MAX), LimitExceeded, "refcount table"),
        (60, be32(70_000), LimitExceeded, "snapshots"),
        (60, be32(1), Corrupt, "snapshot table"),
        (72, be64(1 << 7), Unsupported, "bit 7"),
        (72, be64(1 << 63), Unsupported, "bit 63"),
        (72, be64(2), Corrupt, "marked as corrupt"),
        (72, be64(4), Corrupt, "data file name is missing"),
        (72, be64(8), Corrupt, "compression_type"),
        (72, be64(16), Corrupt, "at least 14"),
        (88, be64(1), Corrupt, "without a bitmaps extension"),
        (88, be64(2), Corrupt, "without an external data file"),
        (96, be32(7), Corrupt, "refcount_order"),
        (100, be32(103), Corrupt, "header_length"),
        (100, be32(105), Corrupt, "header_length"),
        (100, be32(u32::MAX), Corrupt, "header_length"),
        (104, vec![1], Corrupt, "compression_type"),
        (112, be32(1), Corrupt, ""),
    ] {
        let mut file = patched(&file, at, &bytes);
        if at == 112 {
            // an extension that is longer than what is left of the first cluster
            file[116..120].copy_from_slice(&be32(1000));
        }
        let error = read(file).expect_err(word);
        assert_eq!(error.kind(), kind, "{at}: {error}");
        assert!(error.to_string().contains(word), "{at}: '{word}' in '{error}'");
        assert_eq!(error.file(), Some(Path::new("x.qcow2")), "{error}");
        assert!(error.offset().is_some(), "{error}");
        assert!(error.advice().is_some(), "{error}");
    }
}

#[test]
fn an_unknown_compression_type_names_itself() {
    let (file, _) = sample();
    let file = patched(&patched(&file, 72, &8u64.to_be_bytes()), 104, &[2]);
    let error = read(file).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("not known: 2"), "{error}");
}

#[test]
fn table_entries_are_held_to_the_specification_and_name_the_lost_range() {
    let (file, layout) = sample();
    let (l1, l2) = (layout.l1, layout.l2);
    let end = file.len().next_multiple_of(512) as u64;
    let copied = 1u64 << 63;
    for (at, value, word, guest) in [
        (l1, 1, "L1 entry has reserved bits", 0..4096),
        (l1, copied | 1 << 60, "L1 entry has reserved bits", 0..4096),
        (l1, copied | 1 << 40, "an L2 table is cut off", 0..4096),
        (l2, copied | 1 << 56, "L2 entry has reserved bits", 0..512),
        (l2, 2, "L2 entry has reserved bits", 0..512),
        (l2, copied, "other than 0", 0..512),
        (l2 + 8, copied | 1 << 40, "guest data is cut off", 512..1024),
        (l2 + 8, copied | end, "guest data is cut off", 512..1024),
        (l2 + 16, 1 << 62 | 1 << 40, "compressed cluster at", 1024..1536),
        // the header is no deflate stream
        (l2 + 16, 1 << 62, "deflate stream", 1024..1536),
    ] {
        let error = read(patched(&file, at, &value.to_be_bytes())).expect_err(word);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains(word), "'{word}' in '{error}'");
        let lost = error.guest_range().unwrap_or_else(|| panic!("{error}: no guest range"));
        assert!(lost.start <= guest.start && lost.end >= guest.end, "{word}: {lost:?}");
        assert!(error.offset().is_some(), "{error}");
    }
}

#[test]
fn version_2_has_no_zero_flag() {
    let clusters = vec![Cluster::Data(1)];
    let model = Model { version: 2, size: 512, clusters, ..Model::default() };
    let (file, layout) = model.build_with_layout();
    let error = read(patched(&file, layout.l2 + 7, &[1])).unwrap_err();
    assert!(error.to_string().contains("version 2 does not have"), "{error}");
}

#[test]
fn subcluster_bits_that_contradict_each_other_are_corrupt() {
    let clusters = vec![Cluster::Subclusters { allocated: 1, zero: 2, seed: 1 }];
    let model =
        Model { extended_l2: true, cluster_bits: 14, size: 16_384, clusters, ..Model::default() };
    let (file, layout) = model.build_with_layout();
    assert!(read(file.clone()).is_ok());
    let both = (3u64 | 3 << 32).to_be_bytes();
    let error = read(patched(&file, layout.l2 + 8, &both)).unwrap_err();
    assert!(error.to_string().contains("allocated and zero at once"), "{error}");
    let error = read(patched(&file, layout.l2, &[0; 8])).unwrap_err();
    assert!(error.to_string().contains("has no cluster"), "{error}");
}

#[test]
fn a_cluster_may_end_with_the_file_but_not_behind_it() {
    // the specification lets the last cluster be short where the guest does not need the rest
    let model = Model {
        size: 4096 + 100,
        cluster_bits: 12,
        clusters: vec![Cluster::Unallocated, Cluster::Data(9)],
        ..Model::default()
    };
    let (file, layout) = model.build_with_layout();
    let needed = layout.data + 100;
    assert_eq!(read(file[..needed].to_vec()).unwrap(), model.guest(&[]));
    let error = read(file[..needed - 1].to_vec()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("cut off"), "{error}");
}
