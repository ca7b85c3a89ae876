//! Random images from a model: what is read is what the model says, extents keep their law, and
//! the kinds are those that were built.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

#[path = "common/qcow2.rs"]
mod qcow2;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use diskimage::resolve::{Resolved, Resolver};
use diskimage::storage::MemoryStorage;
use diskimage::{
    Chain, Error, ErrorKind, ExtentKind, OpenOptions, Storage, VirtualDisk, VirtualDiskExt,
    conformance,
};
use proptest::prelude::*;
use qcow2::{Cluster, Model};

/// Gives out images from memory by name.
#[derive(Debug, Default)]
struct Memory(Vec<(&'static str, Vec<u8>)>);

impl Resolver for Memory {
    fn resolve(
        &self,
        _from: &Path,
        reference: &diskimage::layer::Reference,
    ) -> diskimage::Result<Resolved> {
        let found = self.0.iter().find(|(name, _)| name.as_bytes() == reference.names[0]);
        let (name, bytes) = found.ok_or_else(|| Error::other(ErrorKind::Denied, "not there"))?;
        let storage = Arc::new(MemoryStorage::new(bytes.clone()));
        Ok(Resolved { storage, path: PathBuf::from(name) })
    }
}

fn open(file: Vec<u8>, parents: Vec<(&'static str, Vec<u8>)>) -> diskimage::Result<Chain> {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(file));
    OpenOptions::new().resolver(Memory(parents)).open_storage(storage, Path::new("top"))
}

fn cluster(extended: bool) -> BoxedStrategy<Cluster> {
    let plain = prop_oneof![
        3 => Just(Cluster::Unallocated),
        1 => Just(Cluster::Zero),
        1 => Just(Cluster::ZeroAllocated),
        3 => any::<u8>().prop_map(Cluster::Data),
        2 => any::<u8>().prop_map(Cluster::Compressed),
    ];
    if !extended {
        return plain.boxed();
    }
    let subclusters = (any::<u32>(), any::<u32>(), any::<u8>())
        .prop_map(|(a, z, seed)| Cluster::Subclusters { allocated: a & !z, zero: z & !a, seed });
    prop_oneof![1 => plain, 2 => subclusters].boxed()
}

prop_compose! {
    fn model()(extended_l2 in any::<bool>(), zstd in any::<bool>())(
        extended_l2 in Just(extended_l2),
        zstd in Just(zstd),
        cluster_bits in if extended_l2 { 14u32..15 } else { 9..13 },
        clusters in proptest::collection::vec(
            cluster(extended_l2),
            0..if extended_l2 { 6 } else { 150 },
        ),
        short in 0u64..600,
        more in 0u64..100_000,
        version in 2u32..4,
    ) -> Model {
        // features need version 3; version 2 has no zero flag
        let version = if extended_l2 || zstd { 3 } else { version };
        let clusters: Vec<_> = clusters.into_iter().map(|cluster| match cluster {
            Cluster::Zero | Cluster::ZeroAllocated if version < 3 => Cluster::Unallocated,
            other => other,
        }).collect();
        let whole = (clusters.len() as u64) << cluster_bits;
        let size = if more.is_multiple_of(2) { whole.saturating_sub(short) } else { whole + more };
        Model { version, cluster_bits, extended_l2, zstd, size, clusters, backing: None }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn an_image_reads_as_its_model(model in model()) {
        let disk = open(model.build(), vec![]).unwrap();
        let guest = model.guest(&[]);
        prop_assert_eq!(conformance::check(&disk, Some(&guest)), Ok(()));
        for (index, cluster) in model.clusters.iter().enumerate() {
            let at = (index as u64) << model.cluster_bits;
            if at >= model.size {
                break;
            }
            let kind = disk.extent_at(at, 1).unwrap().kind;
            match cluster {
                Cluster::Unallocated => {
                    prop_assert_eq!(kind, ExtentKind::Zero { allocated: false, stored: None });
                }
                Cluster::Zero => {
                    prop_assert_eq!(kind, ExtentKind::Zero { allocated: true, stored: None });
                }
                Cluster::ZeroAllocated => {
                    let zero = matches!(kind, ExtentKind::Zero { allocated: true, stored: Some(_) });
                    prop_assert!(zero, "{:?}", kind);
                }
                Cluster::Data(_) => prop_assert!(matches!(kind, ExtentKind::Stored(_)), "{:?}", kind),
                Cluster::Compressed(_) => prop_assert_eq!(kind, ExtentKind::Encoded),
                Cluster::Subclusters { .. } => {}
            }
        }
    }

    #[test]
    fn a_chain_reads_as_its_models(
        mut top in model(),
        mut middle in model(),
        base in proptest::collection::vec(any::<u8>(), 0..40_000),
    ) {
        top.backing = Some(("middle", "qcow2"));
        middle.backing = Some(("base", "raw"));
        let guest = top.guest(&middle.guest(&base));
        let parents = vec![("middle", middle.build()), ("base", base)];
        let disk = open(top.build(), parents).unwrap();
        prop_assert_eq!(conformance::check(&disk, Some(&guest)), Ok(()));
        prop_assert!(disk.extents(0..disk.size()).all(|extent| extent.unwrap().depth <= 2));
    }

    #[test]
    fn flipped_bytes_never_panic_and_never_change_the_size_of_an_answer(
        model in model(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut file = model.build();
        for (index, value) in flips {
            let at = index.index(file.len().min(8192));
            file[at] = value;
        }
        if let Ok(disk) = open(file, vec![])
            && disk.size() <= 1 << 24
        {
            let mut bytes = vec![0; disk.size() as usize];
            let _ = disk.read_exact_at(&mut bytes, 0);
            let tiled: u64 = disk.extents(0..disk.size()).flatten().map(|e| e.length).sum();
            prop_assert!(tiled <= disk.size());
        }
    }
}

#[test]
fn a_chain_that_leads_back_or_is_too_long_is_refused() {
    let mut model = Model { size: 1024, ..Model::default() };
    model.backing = Some(("again", "qcow2"));
    // memory has no identity, so that only the length tells
    let error = open(model.build(), vec![("again", model.build())]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error}");
}

#[test]
fn unknown_and_missing_backing_formats_are_refused() {
    let mut model = Model { size: 1024, ..Model::default() };
    model.backing = Some(("base", "nbd"));
    let error = open(model.build(), vec![("base", vec![0; 1024])]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("'nbd'"), "{error}");
    model.backing = Some(("base", ""));
    let error = open(model.build(), vec![("base", vec![0; 1024])]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "an empty name is no name: {error}");
}
