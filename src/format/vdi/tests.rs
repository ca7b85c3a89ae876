//! Images from hand-built bytes: what is odd but valid, and what must be refused.

use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;

use crate::chain::{Chain, ChainImage};
use crate::conformance;
use crate::disk::VirtualDisk;
use crate::error::{Error, ErrorKind, Result};
use crate::finding::Code;
use crate::format::LayerOptions;
use crate::layer::{Identity, Layer, MappingKind, Source};
use crate::limits::Limits;
use crate::storage::MemoryStorage;

use super::layer::VdiLayer;
use super::layout::*;

/// An image to be.
#[derive(Clone)]
struct Builder {
    kind: u32,
    size: u64,
    block: u32,
    extra: u32,
    header_size: u32,
    /// What the block map says.
    map: Vec<u32>,
    /// How many blocks are in the file; the value of each byte tells block and sector.
    stored: u32,
    tag: u8,
    uuid: [u8; 16],
    modify: [u8; 16],
    linkage: [u8; 16],
    parent_modify: [u8; 16],
}

const MAP: u32 = 0x200;
const DATA: u32 = 0x1000;

impl Builder {
    fn new(kind: u32, size: u64, block: u32, map: Vec<u32>) -> Self {
        let stored = map.iter().filter(|entry| **entry < BLOCK_ZERO).count() as u32;
        Self {
            kind,
            size,
            block,
            extra: 0,
            header_size: HEADER1PLUS_SIZE,
            map,
            stored,
            tag: 0,
            uuid: [1; 16],
            modify: [2; 16],
            linkage: [0; 16],
            parent_modify: [0; 16],
        }
    }

    /// Blocks of eight sectors: out of order, one of zeros, one absent; the disk ends in the last.
    fn small() -> Self {
        Self::new(TYPE_NORMAL, 5 * 4096 - 512, 4096, vec![2, BLOCK_FREE, BLOCK_ZERO, 0, 1])
    }

    fn child(self) -> Self {
        Self { kind: TYPE_DIFF, linkage: [1; 16], parent_modify: [2; 16], tag: 0x80, ..self }
    }

    fn value(&self, number: u32, at: usize) -> u8 {
        (number * 8 + (at / 512) as u32) as u8 ^ self.tag | 1
    }

    fn build(&self) -> Vec<u8> {
        let mut file = b"<<< test \x1b[31m >>>\n".to_vec();
        file.resize(64, 0);
        let mut put = |value: u32| file.extend(value.to_le_bytes());
        put(SIGNATURE);
        put(0x1_0001);
        put(self.header_size);
        put(self.kind);
        put(0);
        file.extend(b"a comment");
        file.resize(AT_BLOCKS as usize, 0);
        let mut put = |value: u32| file.extend(value.to_le_bytes());
        for value in [MAP, DATA, 0, 0, 0, 512, 0] {
            put(value);
        }
        file.extend(self.size.to_le_bytes());
        for value in [self.block, self.extra, self.map.len() as u32, self.stored] {
            file.extend(value.to_le_bytes());
        }
        for uuid in [self.uuid, self.modify, self.linkage, self.parent_modify] {
            file.extend(uuid);
        }
        file.resize(MAP as usize, 0);
        file.extend(self.map.iter().flat_map(|entry| entry.to_le_bytes()));
        file.resize(DATA as usize, 0);
        for number in 0..self.stored {
            file.extend((0..self.extra).map(|_| 0xee));
            file.extend((0..self.block as usize).map(|at| self.value(number, at)));
        }
        file
    }

    fn content(&self, parent: &[u8]) -> Vec<u8> {
        let mut bytes = parent.to_vec();
        bytes.resize(self.size as usize, 0);
        let block = self.block as usize;
        for (index, &entry) in self.map.iter().enumerate() {
            let end = bytes.len();
            let range = (index * block).min(end)..((index + 1) * block).min(end);
            for (at, byte) in bytes[range].iter_mut().enumerate() {
                match entry {
                    BLOCK_FREE => {}
                    BLOCK_ZERO => *byte = 0,
                    number => *byte = self.value(number, at),
                }
            }
        }
        bytes
    }
}

fn open_with(file: &[u8], options: &LayerOptions) -> Result<VdiLayer> {
    VdiLayer::open(Arc::new(MemoryStorage::new(file.to_vec())), options)
}

fn open(file: &[u8]) -> VdiLayer {
    open_with(file, &LayerOptions::default()).unwrap()
}

fn image(file: &[u8]) -> ChainImage {
    let storage = Arc::new(MemoryStorage::new(file.to_vec()));
    ChainImage::new(PathBuf::from("x.vdi"), Box::new(open(file)), storage)
}

fn disk(file: &[u8]) -> Chain {
    Chain::new(image(file), Vec::new())
}

fn read(file: &[u8]) -> Result<Vec<u8>> {
    let layer = open_with(file, &LayerOptions::default())?;
    let mut bytes = vec![0; layer.size() as usize];
    disk(file).read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn refused(file: &[u8]) -> Error {
    let error = read(file).unwrap_err();
    assert!(error.offset().is_some() && error.advice().is_some(), "{error}");
    error
}

fn codes(file: &[u8]) -> Vec<Code> {
    open(file).describe().unwrap().findings.iter().map(|finding| finding.code).collect()
}

#[test]
fn images_read_to_their_content_and_keep_the_law() {
    let base = Builder::small();
    for builder in [
        base.clone(),
        Builder { kind: TYPE_FIXED, ..base.clone() },
        Builder { extra: 512, ..base.clone() },
        Builder { extra: 24, ..base.clone() },
        Builder { header_size: HEADER1_SIZE, ..base.clone() },
        Builder::new(TYPE_NORMAL, 0, 1 << 20, Vec::new()),
        // more entries than the disk needs
        Builder { size: 3 * 4096, ..base.clone() },
    ] {
        let file = builder.build();
        conformance::check(&disk(&file), Some(&builder.content(&[]))).unwrap();
        assert_eq!(codes(&file), []);
    }
    let mut old = base.build();
    old[0x44] = 0;
    assert_eq!(read(&old).unwrap(), base.content(&[]), "version 1.0");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn random_chains_read_as_their_model(
        picks in proptest::collection::vec((0u8..4, 0u8..4), 1..16),
        cut in 0u64..1024, extra in prop_oneof![Just(0u32), Just(512)],
    ) {
        let map = |pick: &dyn Fn(&(u8, u8)) -> u8| {
            let mut next = 0;
            let mut map: Vec<u32> = picks.iter().map(|p| match pick(p) {
                0 => BLOCK_FREE,
                1 => BLOCK_ZERO,
                _ => { next += 1; next - 1 }
            }).collect();
            // in order and out of order
            if picks.len() % 2 == 0 { map.reverse(); }
            map
        };
        let size = picks.len() as u64 * 1024 - cut;
        let parent = Builder::new(TYPE_NORMAL, size, 1024, map(&|p| p.0));
        let child = Builder { extra, ..Builder::new(TYPE_DIFF, size, 1024, map(&|p| p.1)).child() };
        let below = parent.content(&[]);
        conformance::check(&disk(&parent.build()), Some(&below)).unwrap();
        let chain = Chain::new(image(&child.build()), vec![image(&parent.build())]);
        conformance::check(&chain, Some(&child.content(&below))).unwrap();
    }
}

#[test]
fn mappings_say_what_qemu_img_says_and_join_what_is_contiguous() {
    let map = vec![0, 1, 2, 4, BLOCK_FREE, BLOCK_FREE, BLOCK_ZERO, 3];
    let builder = Builder::new(TYPE_NORMAL, 8 * 4096, 4096, map);
    let layer = open(&builder.build());
    let map = |at: u64| layer.map(at, u64::MAX).map(|m| (m.length, m.kind)).unwrap();
    let stored = |offset: u64| MappingKind::Stored { source: Source::Own, offset };
    let zero = MappingKind::Zero { allocated: true, stored: None };
    assert_eq!(map(0), (3 * 4096, stored(0x1000)));
    assert_eq!(map(5000), (3 * 4096 - 5000, stored(0x1000 + 5000)));
    assert_eq!(map(3 * 4096), (4096, stored(0x1000 + 4 * 4096)));
    assert_eq!(map(4 * 4096 + 1), (3 * 4096 - 1, zero));
    assert_eq!(layer.map(0, 5000).unwrap().length, 5000);
    // extra bytes before each block keep them apart
    let layer = open(&Builder { extra: 512, ..builder.clone() }.build());
    assert_eq!(layer.map(0, u64::MAX).unwrap().length, 4096);
    // in a differencing image a free block is the parent's, one of zeros is not
    let layer = open(&builder.child().build());
    let kind = |at: u64| layer.map(at * 4096, 1).unwrap().kind;
    assert_eq!(kind(4), MappingKind::Parent { stored: None });
    assert_eq!(kind(6), zero);
}

#[test]
fn what_contradicts_itself_is_refused() {
    let good = Builder::small().build();
    let patched = |at: u64, value: u32| {
        let mut file = good.clone();
        file[at as usize..at as usize + 4].copy_from_slice(&value.to_le_bytes());
        file
    };
    use ErrorKind::{Corrupt, InvalidInput, Unsupported};
    for (file, kind, word) in [
        (Vec::new(), Corrupt, "cut off"),
        (patched(0x40, 1), InvalidInput, "signature"),
        (patched(0x44, 2), Unsupported, "version 0.2"),
        (patched(0x44, 0x1_0002), Unsupported, "version 1.2"),
        (patched(AT_TYPE, 0), Unsupported, "type is 0"),
        (patched(AT_TYPE, TYPE_UNDO), Unsupported, "type is 3"),
        (patched(AT_TYPE, TYPE_DIFF), Corrupt, "without the identifier"),
        (patched(AT_HEADER_SIZE, 0x17f), Corrupt, "cbHeader"),
        (patched(AT_HEADER_SIZE, 0x1c0), Corrupt, "upon the header"),
        (patched(AT_BLOCKS, 0), Corrupt, "upon the header"),
        (patched(AT_BLOCKS, 0x201), Corrupt, "multiple of 512"),
        (patched(AT_BLOCKS, 0x7fff_fe00), Corrupt, "beyond the end"),
        (patched(AT_DATA, 0), Corrupt, "upon the header"),
        (patched(AT_DATA, 0x200), Corrupt, "upon the block map"),
        (patched(AT_DATA, 0x1001), Corrupt, "multiple of 512"),
        (patched(AT_SECTOR_SIZE, 4096), Corrupt, "cbSector"),
        (patched(AT_DISK_SIZE + 4, 1 << 31), Corrupt, "cbDisk"),
        (patched(AT_BLOCK_SIZE, 0), Corrupt, "cbBlock"),
        (patched(AT_BLOCK_SIZE, 256), Corrupt, "cbBlock"),
        (patched(AT_BLOCK_SIZE, 1 << 31), Unsupported, "1 GiB"),
        (patched(AT_BLOCK_COUNT, 4), Corrupt, "has 4 entries"),
        (patched(AT_BLOCK_COUNT, u32::MAX), Corrupt, "beyond the end"),
        (patched(MAP.into(), 5), Corrupt, "0x5, of 5 blocks"),
        (patched(MAP.into(), BLOCK_ZERO - 1), Corrupt, "of 5 blocks"),
        (patched(MAP.into(), 4), Corrupt, "cut off"),
    ] {
        let error = refused(&file);
        assert_eq!(error.kind(), kind, "{word}: {error}");
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
    let error = refused(&patched((MAP + 12).into(), 5));
    assert_eq!(error.offset(), Some((MAP + 12).into()));
    assert_eq!(error.guest_range(), Some(3 * 4096..4 * 4096));
    let limits = Limits { max_table_size: 8, ..Limits::default() };
    let options = LayerOptions { limits, ..LayerOptions::default() };
    assert_eq!(open_with(&good, &options).unwrap_err().kind(), ErrorKind::LimitExceeded);
}

#[test]
fn what_is_cut_off_is_told() {
    let good = Builder::small().build();
    let mut file = good.clone();
    file.truncate(file.len() - 1000);
    assert_eq!(codes(&file), [Code::Truncated]);
    assert_eq!(refused(&file).kind(), ErrorKind::Corrupt);
    // the last block need not be whole where the disk ends in it
    let builder = Builder::new(TYPE_NORMAL, 4096 - 512, 4096, vec![0]);
    let mut file = builder.build();
    file.truncate(file.len() - 512);
    assert_eq!(codes(&file), []);
    assert_eq!(read(&file).unwrap(), builder.content(&[]));
    let mut file = good;
    file[AT_BLOCKS_ALLOCATED as usize] = 6;
    assert_eq!(codes(&file), [Code::CheckError]);
    for kind in [TYPE_NORMAL, TYPE_FIXED] {
        let file = Builder { kind, ..Builder::small() }.build();
        for length in (0..file.len()).step_by(97).chain([file.len() - 1]) {
            assert!(read(&file[..length]).is_err(), "{length}");
        }
    }
}

#[test]
fn the_parent_is_known_by_its_identifier_and_its_state() {
    let mut parent = Builder::small();
    parent.uuid = [0x33, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x66, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut child = Builder::small().child();
    child.linkage = parent.uuid;
    let layer = open(&child.build());
    let names = [b"00112233-4455-6677-0809-0a0b0c0d0e0f".to_vec()];
    assert_eq!(layer.references()[0].names, names, "the first three fields are numbers");
    assert_eq!(codes(&child.build()), [Code::BackingFile]);
    let identity = open(&parent.build()).identity();
    let bytes = [0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 8, 9, 10, 11, 12, 13, 14, 15];
    assert_eq!(identity, Some(Identity::Uuid(bytes)));
    layer.check_parent(&open(&parent.build())).unwrap();
    let changed = Builder { modify: [3; 16], ..parent.clone() };
    let error = layer.check_parent(&open(&changed.build())).unwrap_err();
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Corrupt, Some(AT_PARENT_MODIFY)));
    let stranger = Builder { uuid: [3; 16], ..parent.clone() };
    let error = layer.check_parent(&open(&stranger.build())).unwrap_err();
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Corrupt, Some(AT_LINKAGE)));
    let options = LayerOptions { trust_broken: true, ..LayerOptions::default() };
    let trusting = open_with(&child.build(), &options).unwrap();
    trusting.check_parent(&open(&changed.build())).unwrap();
    // an image that names a parent has one, whatever its type says
    let mut file = child.build();
    file[AT_TYPE as usize] = 1;
    assert_eq!(open(&file).references().len(), 1);
    assert_eq!(open(&file).map(4096, 1).unwrap().kind, MappingKind::Parent { stored: None });
}

#[test]
fn texts_are_told_printable() {
    let details = open(&Builder::small().build()).describe().unwrap().details;
    let get = |key: &str| details.iter().find(|(k, _)| *k == key).unwrap().1.clone();
    assert_eq!(get("creator"), "<<< test \\x1b[31m >>>".into());
    assert_eq!(get("comment"), "a comment".into());
    assert_eq!(get("version"), "1.1".into());
}
