//! A QCOW2 image built in memory from a model, cluster by cluster, by the specification and not by
//! the code under test.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::io::Write;

/// What a guest cluster is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cluster {
    Unallocated,
    /// Zero flag, no host cluster.
    Zero,
    /// Zero flag over a host cluster full of junk.
    ZeroAllocated,
    /// Stored as it is, filled from this seed.
    Data(u8),
    /// Compressed, filled from this seed.
    Compressed(u8),
    /// Extended L2 only: bit n of each mask is subcluster n; `allocated & zero` must be 0.
    Subclusters {
        allocated: u32,
        zero: u32,
        seed: u8,
    },
}

/// The image to build.
#[derive(Debug, Clone)]
pub struct Model {
    pub version: u32,
    pub cluster_bits: u32,
    pub extended_l2: bool,
    pub zstd: bool,
    /// The virtual size; the clusters behind the last of `clusters` are unallocated.
    pub size: u64,
    pub clusters: Vec<Cluster>,
    pub backing: Option<(&'static str, &'static str)>,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            version: 3,
            cluster_bits: 9,
            extended_l2: false,
            zstd: false,
            size: 0,
            clusters: Vec::new(),
            backing: None,
        }
    }
}

/// Where the parts of a built image lie.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    pub l1: usize,
    pub l2: usize,
    pub data: usize,
}

impl Model {
    pub fn cluster_size(&self) -> usize {
        1 << self.cluster_bits
    }

    fn entry_size(&self) -> usize {
        if self.extended_l2 { 16 } else { 8 }
    }

    fn l2_entries(&self) -> usize {
        self.cluster_size() / self.entry_size()
    }

    /// The bytes that a cluster filled from `seed` holds.
    pub fn fill(&self, seed: u8) -> Vec<u8> {
        (0..self.cluster_size()).map(|i| seed.wrapping_add((i / 7) as u8) | 1).collect()
    }

    /// What the guest sees over `parent`.
    pub fn guest(&self, parent: &[u8]) -> Vec<u8> {
        let size = self.size as usize;
        let mut guest = parent[..parent.len().min(size)].to_vec();
        guest.resize(size, 0);
        for (index, cluster) in self.clusters.iter().enumerate() {
            let start = index * self.cluster_size();
            let mut put = |from: usize, bytes: &[u8]| {
                let at = (start + from).min(size);
                let end = (at + bytes.len()).min(size);
                guest[at..end].copy_from_slice(&bytes[..end - at]);
            };
            match *cluster {
                Cluster::Unallocated => {}
                Cluster::Zero | Cluster::ZeroAllocated => put(0, &vec![0; self.cluster_size()]),
                Cluster::Data(seed) | Cluster::Compressed(seed) => put(0, &self.fill(seed)),
                Cluster::Subclusters { allocated, zero, seed } => {
                    let (unit, fill) = (self.cluster_size() / 32, self.fill(seed));
                    for bit in 0..32 {
                        let from = bit * unit;
                        if allocated >> bit & 1 != 0 {
                            put(from, &fill[from..from + unit]);
                        } else if zero >> bit & 1 != 0 {
                            put(from, &vec![0; unit]);
                        }
                    }
                }
            }
        }
        guest
    }

    pub fn build(&self) -> Vec<u8> {
        self.build_with_layout().0
    }

    /// Header, refcount table and block (empty: readers do not look), L1, L2 tables, data.
    pub fn build_with_layout(&self) -> (Vec<u8>, Layout) {
        let cs = self.cluster_size();
        let guest_clusters = (self.size as usize).div_ceil(cs);
        let l2_tables = guest_clusters.div_ceil(self.l2_entries());
        let l1_clusters = (l2_tables * 8).div_ceil(cs).max(1);
        let l1 = 2 * cs;
        let l2 = l1 + l1_clusters * cs;
        let data = l2 + l2_tables * cs;
        let mut file = vec![0; data];
        file[..self.header(l1, l2_tables).len()].copy_from_slice(&self.header(l1, l2_tables));
        for table in 0..l2_tables {
            let entry = (l2 + table * cs) as u64 | 1 << 63;
            file[l1 + table * 8..][..8].copy_from_slice(&entry.to_be_bytes());
        }
        for (index, cluster) in self.clusters.iter().take(guest_clusters).enumerate() {
            let (value, bitmap) = self.place(*cluster, &mut file);
            let at = l2 + index * self.entry_size();
            file[at..at + 8].copy_from_slice(&value.to_be_bytes());
            if self.extended_l2 {
                file[at + 8..at + 16].copy_from_slice(&bitmap.to_be_bytes());
            }
        }
        (file, Layout { l1, l2, data })
    }

    /// Appends a cluster's data and gives its L2 entry and subcluster bitmap.
    fn place(&self, cluster: Cluster, file: &mut Vec<u8>) -> (u64, u64) {
        const COPIED: u64 = 1 << 63;
        let all = if self.extended_l2 {
            (u64::from(u32::MAX), u64::from(u32::MAX) << 32)
        } else {
            (0, 0)
        };
        let mut append = |bytes: &[u8]| {
            file.resize(file.len().next_multiple_of(self.cluster_size()), 0);
            let at = file.len() as u64;
            file.extend(bytes);
            at | COPIED
        };
        let flag = u64::from(!self.extended_l2);
        match cluster {
            Cluster::Unallocated => (0, 0),
            Cluster::Zero => (flag, all.1),
            Cluster::ZeroAllocated => (append(&vec![0xee; self.cluster_size()]) | flag, all.1),
            Cluster::Data(seed) => (append(&self.fill(seed)), all.0),
            Cluster::Subclusters { allocated, zero, seed } => {
                (append(&self.fill(seed)), u64::from(allocated) | u64::from(zero) << 32)
            }
            Cluster::Compressed(seed) => {
                let packed = self.pack(&self.fill(seed));
                let start = file.len() as u64;
                file.extend(&packed);
                let end = file.len() as u64;
                let sectors = (end - 1) / 512 - start / 512;
                let x = 62 - (self.cluster_bits - 8);
                (1 << 62 | sectors << x | start, 0)
            }
        }
    }

    fn pack(&self, bytes: &[u8]) -> Vec<u8> {
        if self.zstd {
            return zstd::bulk::compress(bytes, 1).unwrap();
        }
        let level = flate2::Compression::default();
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), level);
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn header(&self, l1: usize, l1_size: usize) -> Vec<u8> {
        let mut h = Vec::new();
        let length: u64 = if self.version >= 3 { 112 } else { 72 };
        let name = self.backing.map(|(name, _)| name).unwrap_or_default();
        let extension = if self.backing.is_some() { 8 + 8 + 8 } else { 8 };
        let backing_offset = if name.is_empty() { 0 } else { length + extension };
        h.extend(0x5146_49fb_u32.to_be_bytes());
        h.extend(self.version.to_be_bytes());
        h.extend(backing_offset.to_be_bytes());
        h.extend((name.len() as u32).to_be_bytes());
        h.extend(self.cluster_bits.to_be_bytes());
        h.extend(self.size.to_be_bytes());
        h.extend(0_u32.to_be_bytes());
        h.extend((l1_size as u32).to_be_bytes());
        h.extend((l1 as u64).to_be_bytes());
        h.extend((self.cluster_size() as u64).to_be_bytes());
        h.extend(1_u32.to_be_bytes());
        h.extend(0_u32.to_be_bytes());
        h.extend(0_u64.to_be_bytes());
        if self.version >= 3 {
            let features = u64::from(self.zstd) << 3 | u64::from(self.extended_l2) << 4;
            h.extend(features.to_be_bytes());
            h.extend(0_u64.to_be_bytes());
            h.extend(0_u64.to_be_bytes());
            h.extend(4_u32.to_be_bytes());
            h.extend(112_u32.to_be_bytes());
            h.extend(u64::from(self.zstd).to_le_bytes());
        }
        if let Some((name, format)) = self.backing {
            h.extend(0xe279_2aca_u32.to_be_bytes());
            h.extend((format.len() as u32).to_be_bytes());
            h.extend(format.as_bytes());
            h.resize(h.len().next_multiple_of(8), 0);
            h.extend([0; 8]);
            h.extend(name.as_bytes());
        }
        h
    }
}
