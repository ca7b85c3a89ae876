//! The bytes that a body is called with, and the folded form that engines and folders hold.
//!
//! Images of VHD, VHDX and VDI have their parts MiBs apart, with nothing between. Folded, an image
//! is its length, a list of runs of sectors that are not all zeros, and their bytes: some KiB that
//! an engine changes as quickly as a small QCOW2 image. Whatever the bytes are, they unfold to
//! something.

use std::ops::Deref;
use std::sync::Arc;

use diskimage::storage::MemoryStorage;
use diskimage::{Result, Storage};

/// The unit of runs.
const SECTOR: usize = 512;
/// The longest image that something unfolds to.
const LONGEST: u64 = 24 << 20;
/// The most runs that are unfolded.
const MOST_RUNS: usize = 1 << 12;

/// The bytes of an image, shared by all storages over them.
#[derive(Clone, Debug)]
pub struct Input(Arc<MemoryStorage>);

impl Input {
    /// An image of these bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(MemoryStorage::new(bytes)))
    }

    /// The image that folded bytes stand for.
    #[must_use]
    pub fn unfolded(folded: &[u8]) -> Self {
        Self::new(unfold(folded))
    }

    /// A storage over the bytes.
    #[must_use]
    pub fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(self.clone())
    }
}

impl Deref for Input {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Storage for Input {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.0.read_exact_at(buf, offset)
    }
}

/// The folded form of an image.
#[must_use]
pub fn fold(image: &[u8]) -> Vec<u8> {
    let is_zero = |sector: &[u8]| sector.iter().all(|&b| b == 0);
    let mut runs: Vec<(u32, u32)> = Vec::new();
    let mut data = Vec::new();
    for (number, sector) in (0u32..).zip(image.chunks(SECTOR)) {
        if is_zero(sector) {
            continue;
        }
        data.extend_from_slice(sector);
        match runs.last_mut() {
            Some((start, count)) if *start + *count == number => *count += 1,
            _ => runs.push((number, 1)),
        }
    }
    let mut folded = (image.len() as u32).to_le_bytes().to_vec();
    folded.extend((runs.len() as u16).to_le_bytes());
    for (start, count) in runs {
        folded.extend(start.to_le_bytes());
        folded.extend(count.to_le_bytes());
    }
    folded.extend(data);
    folded
}

/// The image that folded bytes stand for; whatever is missing in them is zeros.
#[must_use]
pub fn unfold(folded: &[u8]) -> Vec<u8> {
    let mut rest = folded;
    let length = u64::from(number(&mut rest, 4)).min(LONGEST) as usize;
    let count = (number(&mut rest, 2) as usize).min(MOST_RUNS);
    let runs: Vec<_> = (0..count).map(|_| (number(&mut rest, 4), number(&mut rest, 4))).collect();
    let mut image = vec![0; length];
    for (start, count) in runs {
        let bytes = (count as usize).saturating_mul(SECTOR).min(rest.len());
        let (run, behind) = rest.split_at(bytes);
        rest = behind;
        let room = image.get_mut((start as usize).saturating_mul(SECTOR)..).unwrap_or_default();
        for (slot, byte) in room.iter_mut().zip(run) {
            *slot = *byte;
        }
    }
    image
}

fn number(rest: &mut &[u8], length: usize) -> u32 {
    let (bytes, behind) = rest.split_at(length.min(rest.len()));
    *rest = behind;
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte))
}

/// What several files in one image begin with; the sector goes on with their lengths.
pub const FILES: &[u8; 8] = b"\0files\0\0";
/// The most files in one image.
const MOST_FILES: usize = 32;

/// Several files as one image, each from a new sector on.
#[must_use]
pub fn join(files: &[Vec<u8>]) -> Vec<u8> {
    let mut image = FILES.to_vec();
    let files = &files[..files.len().min(MOST_FILES)];
    image.extend(files.iter().flat_map(|file| (file.len() as u32).to_le_bytes()));
    for file in files {
        image.resize(image.len().next_multiple_of(SECTOR), 0);
        image.extend_from_slice(file);
    }
    image
}

/// The files that an image was joined from. The last one ends with the image.
#[must_use]
pub fn split(image: &[u8]) -> Vec<Vec<u8>> {
    let Some(lengths) = image.strip_prefix(FILES) else { return vec![image.to_vec()] };
    let mut lengths = &lengths[..lengths.len().min(4 * MOST_FILES)];
    let mut rest = image.get(SECTOR..).unwrap_or_default();
    let mut files = Vec::new();
    while !lengths.is_empty() {
        let length = (number(&mut lengths, 4) as usize).min(rest.len());
        if length == 0 {
            break;
        }
        files.push(rest[..length].to_vec());
        rest = rest.get(length.next_multiple_of(SECTOR)..).unwrap_or_default();
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_folded_unfolds_to_itself() {
        let mut image = vec![0; 3 << 20];
        image[..600].fill(1);
        image[2 << 20] = 7;
        // an end within a sector
        image.extend([1, 2, 3]);
        let folded = fold(&image);
        assert!(folded.len() < 3000, "{}", folded.len());
        assert!(unfold(&folded) == image);
        assert!(unfold(&fold(&[])).is_empty());
    }

    #[test]
    fn files_that_are_joined_split_again() {
        let files = vec![vec![1; 700], vec![2; 512], vec![3; 5]];
        assert!(split(&join(&files)) == files);
        assert!(split(&unfold(&fold(&join(&files)))) == files);
        assert!(split(b"x") == [b"x".to_vec()] && split(FILES).is_empty());
    }

    #[test]
    fn anything_unfolds_to_something() {
        for length in 0..64 {
            for byte in [0, 1, 0x7f, 0xff] {
                assert!(unfold(&vec![byte; length]).len() as u64 <= LONGEST);
            }
        }
    }
}
