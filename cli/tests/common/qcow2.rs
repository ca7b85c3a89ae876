//! QCOW2 files as bytes: finding and patching what tests damage.

/// A big-endian number of 8 bytes.
pub fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn put64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

pub fn cluster_bits(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[20..24].try_into().unwrap())
}

/// Where the L1 entry for a guest offset lies (entries of 8 bytes below it).
pub fn l1_entry(bytes: &[u8], guest: u64) -> usize {
    let span = cluster_bits(bytes) * 2 - 3;
    be64(bytes, 40) as usize + 8 * (guest >> span) as usize
}

/// Where the L2 entry for a guest offset lies, not extended ones.
pub fn l2_entry(bytes: &[u8], guest: u64) -> usize {
    let bits = cluster_bits(bytes);
    let table = be64(bytes, l1_entry(bytes, guest)) & 0x00ff_ffff_ffff_fe00;
    table as usize + 8 * ((guest >> bits) as usize & ((1 << (bits - 3)) - 1))
}

/// Sets the L1 or L2 entry that lies at `at`.
pub fn set_entry(bytes: &mut [u8], at: usize, value: u64) {
    put64(bytes, at, value);
}

/// The guest offsets of the first byte of every compressed cluster of a small image.
pub fn compressed_clusters(bytes: &[u8]) -> Vec<u64> {
    let (bits, size) = (cluster_bits(bytes), be64(bytes, 24));
    let clusters = (0..size).step_by(1 << bits);
    clusters
        .filter(|&guest| be64(bytes, l1_entry(bytes, guest)) != 0)
        .filter(|&guest| be64(bytes, l2_entry(bytes, guest)) >> 62 & 1 == 1)
        .collect()
}

/// Where the compressed data of a guest cluster start in the file.
pub fn compressed_start(bytes: &[u8], guest: u64) -> usize {
    let mask = (1u64 << (70 - cluster_bits(bytes))) - 1;
    (be64(bytes, l2_entry(bytes, guest)) & mask) as usize
}

/// Makes the compressed data of a guest cluster undecodable.
pub fn spoil_compressed(bytes: &mut [u8], guest: u64) {
    let start = compressed_start(bytes, guest);
    bytes[start..start + 8].fill(0xff);
}

/// Replaces the backing file's name.
pub fn set_backing_name(bytes: &mut [u8], name: &[u8]) {
    let at = be64(bytes, 8) as usize;
    bytes[at..at + name.len()].copy_from_slice(name);
    bytes[16..20].copy_from_slice(&u32::try_from(name.len()).unwrap().to_be_bytes());
}

/// The first part of an image of 64 KiB clusters with `tables` L2 tables, 512 MiB apart, that say
/// nothing: what follows, up to the size that is given too, is zeros. Over `backing`, if any.
pub fn empty_tables(tables: u64, backing: Option<&[u8]>) -> (Vec<u8>, u64) {
    const CLUSTER: u64 = 65_536;
    let mut bytes = vec![0; 4 * CLUSTER as usize];
    bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    bytes[20..24].copy_from_slice(&16u32.to_be_bytes());
    put64(&mut bytes, 24, tables << 29);
    bytes[36..40].copy_from_slice(&u32::try_from(tables).unwrap().to_be_bytes());
    // the refcount table, empty, and the L1 table
    put64(&mut bytes, 40, 2 * CLUSTER);
    put64(&mut bytes, 48, CLUSTER);
    bytes[56..60].copy_from_slice(&1u32.to_be_bytes());
    bytes[96..100].copy_from_slice(&4u32.to_be_bytes());
    bytes[100..104].copy_from_slice(&104u32.to_be_bytes());
    if let Some(name) = backing {
        // the format of the backing file, then its name
        bytes[104..117].copy_from_slice(b"\xe2\x79\x2a\xca\0\0\0\x05qcow2");
        put64(&mut bytes, 8, 128);
        set_backing_name(&mut bytes, name);
    }
    for table in 0..tables {
        put64(&mut bytes, (2 * CLUSTER + 8 * table) as usize, 1 << 63 | ((4 + table) * CLUSTER));
    }
    (bytes, (4 + tables) * CLUSTER)
}
