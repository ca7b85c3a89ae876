//! Reading little: a disk through a bound on bytes, and the part of it that is looked at.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use byteorder::{BigEndian, ByteOrder, LittleEndian};

use crate::disk::{VirtualDisk, check_range};
use crate::error::{Detail, ErrorKind, Result};
use crate::num::{Pow2, to_u64, to_usize};
use crate::storage::Storage;

/// The unit of reading.
const SECTOR: Pow2 = Pow2::SECTOR;

#[derive(Debug, thiserror::Error)]
#[error("it was not looked at: that takes more than {0} bytes of reading in all")]
struct TooMuch(u64);

impl Detail for TooMuch {
    fn kind(&self) -> ErrorKind {
        ErrorKind::LimitExceeded
    }
}

/// A disk of which no more than some bytes are read, and each sector once. As a [`Storage`] it is
/// what the parsers of partition tables take.
pub(super) struct Peek<'a> {
    disk: &'a dyn VirtualDisk,
    most: u64,
    sectors: Mutex<Sectors>,
}

#[derive(Default)]
struct Sectors {
    read: u64,
    kept: BTreeMap<u64, Box<[u8]>>,
}

impl<'a> Peek<'a> {
    pub(super) fn new(disk: &'a dyn VirtualDisk, most: u64) -> Self {
        Self { disk, most, sectors: Mutex::default() }
    }

    /// How many bytes were read.
    pub(super) fn read(&self) -> u64 {
        self.sectors.lock().unwrap_or_else(PoisonError::into_inner).read
    }
}

impl fmt::Debug for Peek<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peek({} of {} bytes)", self.read(), self.disk.size())
    }
}

impl Storage for Peek<'_> {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let length = to_u64(buf.len());
        check_range(self.size(), offset, length)?;
        if length == 0 {
            return Ok(());
        }
        let mut sectors = self.sectors.lock().unwrap_or_else(PoisonError::into_inner);
        let first = SECTOR.index(offset);
        let end = SECTOR.count(offset.saturating_add(length));
        if (first..end).any(|sector| !sectors.kept.contains_key(&sector)) {
            let start = SECTOR.floor(offset);
            let stop = SECTOR.ceil(offset.saturating_add(length)).min(self.size());
            let wanted = stop.saturating_sub(start);
            if sectors.read.saturating_add(wanted) > self.most {
                return Err(TooMuch(self.most).into());
            }
            sectors.read = sectors.read.saturating_add(wanted);
            let mut bytes = vec![0; to_usize(wanted)];
            self.disk.read_exact_at(&mut bytes, start)?;
            for (sector, chunk) in (first..).zip(bytes.chunks(to_usize(SECTOR.size()))) {
                sectors.kept.insert(sector, chunk.into());
            }
        }
        let (mut rest, mut skip) = (buf, to_usize(SECTOR.within(offset)));
        for sector in first..end {
            let kept = sectors.kept.get(&sector).and_then(|kept| kept.get(skip..));
            let kept = kept.unwrap_or_default();
            let (now, later) = rest.split_at_mut(kept.len().min(rest.len()));
            now.copy_from_slice(kept.get(..now.len()).unwrap_or_default());
            (rest, skip) = (later, 0);
        }
        Ok(())
    }
}

/// A partition, or the whole disk, as what a file system lies on.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) peek: &'a Peek<'a>,
    /// Where it starts on the disk, and how long it is; it lies within the disk.
    pub(super) start: u64,
    pub(super) length: u64,
}

impl View<'_> {
    /// The `length` bytes at `offset`; `None` where they do not all lie within.
    pub(super) fn block(&self, offset: u64, length: usize) -> Result<Option<Block>> {
        match offset.checked_add(to_u64(length)) {
            Some(end) if end <= self.length => {}
            _ => return Ok(None),
        }
        let mut bytes = vec![0; length];
        let at = self.start.saturating_add(offset);
        self.peek.read_exact_at(&mut bytes, at)?;
        Ok(Some(Block { bytes, at: offset }))
    }

    /// The same, if `magic` lies `skip` bytes behind `offset`.
    pub(super) fn signed(
        &self,
        offset: u64,
        length: usize,
        skip: usize,
        magic: &[u8],
    ) -> Result<Option<Block>> {
        let at = offset.saturating_add(to_u64(skip));
        let found = self.block(at, magic.len())?.is_some_and(|block| block.has(0, magic));
        if found { self.block(offset, length) } else { Ok(None) }
    }
}

/// Bytes of a superblock. A field beyond what was read is zero; every parser reads as many as it
/// has fields.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) bytes: Vec<u8>,
    /// Where they lie in their view.
    pub(super) at: u64,
}

impl Block {
    pub(super) fn part(&self, at: usize, length: usize) -> &[u8] {
        self.bytes.get(at..).and_then(|rest| rest.get(..length)).unwrap_or_default()
    }

    pub(super) fn has(&self, at: usize, magic: &[u8]) -> bool {
        self.part(at, magic.len()) == magic
    }

    pub(super) fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        self.part(at, N).first_chunk().copied().unwrap_or([0; N])
    }

    pub(super) fn u8(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or_default()
    }

    pub(super) fn le16(&self, at: usize) -> u16 {
        LittleEndian::read_u16(&self.array::<2>(at))
    }

    pub(super) fn le32(&self, at: usize) -> u32 {
        LittleEndian::read_u32(&self.array::<4>(at))
    }

    pub(super) fn le64(&self, at: usize) -> u64 {
        LittleEndian::read_u64(&self.array::<8>(at))
    }

    pub(super) fn be16(&self, at: usize) -> u16 {
        BigEndian::read_u16(&self.array::<2>(at))
    }

    pub(super) fn be32(&self, at: usize) -> u32 {
        BigEndian::read_u32(&self.array::<4>(at))
    }

    pub(super) fn be64(&self, at: usize) -> u64 {
        BigEndian::read_u64(&self.array::<8>(at))
    }
}
