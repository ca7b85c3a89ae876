//! Bounds that hold whatever a file says.

/// Bounds on what a file can make this crate allocate or follow. Meeting one is an error of kind
/// [`LimitExceeded`](crate::ErrorKind::LimitExceeded), never a silent cut.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// Largest virtual size, bytes. Default: 2^63 − 1, what a file offset can address.
    pub max_virtual_size: u64,
    /// Largest table that maps a disk (an L1 table, a block allocation table), bytes in the file.
    /// Tables are paged, not held, so this bounds time rather than memory. Default: 1 GiB.
    pub max_table_size: u64,
    /// Memory for cached pages of tables, bytes for a whole chain of images: the first gets half,
    /// its parent a quarter, and so on, but none less than 128 KiB. Default: 16 MiB.
    pub table_cache: u64,
    /// Images in a chain of backing files, the first one counted. Default: 64.
    pub max_chain: u32,
    /// Internal snapshots, or persistent bitmaps. Default: 65,536, which is QEMU's bound.
    pub max_snapshots: u32,
    /// Largest directory of snapshots or bitmaps that is read, bytes. Default: 16 MiB.
    pub max_directory_size: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_virtual_size: i64::MAX.unsigned_abs(),
            max_table_size: 1 << 30,
            table_cache: 16 << 20,
            max_chain: 64,
            max_snapshots: 65_536,
            max_directory_size: 16 << 20,
        }
    }
}
