//! Bounds that hold whatever a file says.

/// Bounds on what a file can make this crate allocate or follow. Meeting one is an error of kind
/// [`LimitExceeded`](crate::ErrorKind::LimitExceeded), never a silent cut.
///
/// ```
/// use diskimage::Limits;
///
/// let mut limits = Limits::default().within_memory(64 << 20);
/// limits.max_virtual_size = 1 << 40;
/// limits.max_chain = 1; // no backing files
/// assert_eq!(limits.table_cache, 16 << 20);
/// ```
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
    /// Largest structure that is held in memory whole, bytes: a directory of snapshots or bitmaps,
    /// a log that waits to be replayed. Default: 16 MiB.
    pub max_directory_size: u64,
    /// Memory for decoding a compressed file, bytes: the windows of all threads. Default: 128 MiB,
    /// which is what the largest window of zstd's own default takes.
    pub max_decoder_memory: u64,
}

impl Limits {
    /// Makes what an opened disk holds in memory fit into `bytes`: tables are cached in a quarter of
    /// it at most, and no single structure takes another quarter. A compressed file may take all of it
    /// while it is decoded, before it is read.
    ///
    /// ```
    /// use diskimage::Limits;
    ///
    /// let limits = Limits::default().within_memory(8 << 20);
    /// assert_eq!((limits.table_cache, limits.max_directory_size), (2 << 20, 2 << 20));
    /// assert_eq!(limits.max_decoder_memory, 8 << 20);
    /// // no bound grows by it
    /// let limits = Limits::default().within_memory(1 << 40);
    /// assert_eq!(limits.table_cache, Limits::default().table_cache);
    /// ```
    #[must_use]
    pub fn within_memory(mut self, bytes: u64) -> Self {
        self.table_cache = self.table_cache.min(bytes >> 2);
        self.max_directory_size = self.max_directory_size.min(bytes >> 2);
        self.max_decoder_memory = self.max_decoder_memory.min(bytes);
        self
    }
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
            max_decoder_memory: 128 << 20,
        }
    }
}
