//! The GUID partition table (UEFI specification, section 5.3): both headers, and the entries.

use crate::bytes::LeCursor;
use crate::error::Result;
use crate::finding::Code;
use crate::num::{Pow2, to_u64, to_usize};
use crate::storage::{Storage, read_vec};

/// The header's signature.
pub(crate) const SIGNATURE: &[u8; 8] = b"EFI PART";
/// The least length of a header.
const LEAST_HEADER: u32 = 92;
/// The least length of an entry; others are that times a power of two.
const LEAST_ENTRY: u32 = 128;
/// The most bytes of entries that are read. The specification has no bound; 16 KiB is the rule.
const MOST_ENTRIES: u64 = 16 << 20;

/// The attribute of an entry that a BIOS is to boot from (table 5.8).
pub(crate) const LEGACY_BOOT: u64 = 1 << 2;

/// Where in a header its fields lie.
pub(crate) const AT_CHECKSUM: usize = 16;
pub(crate) const AT_MY_LBA: usize = 24;
pub(crate) const AT_ALTERNATE_LBA: usize = 32;
pub(crate) const AT_ENTRIES_LBA: usize = 72;

/// A header that can be read; whether it is right is another matter.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    /// Its bytes: as many as its checksum covers.
    pub(crate) bytes: Vec<u8>,
    pub(crate) my_lba: u64,
    pub(crate) alternate_lba: u64,
    pub(crate) first_usable_lba: u64,
    pub(crate) last_usable_lba: u64,
    pub(crate) disk_guid: [u8; 16],
    pub(crate) entries_lba: u64,
    pub(crate) entry_count: u32,
    pub(crate) entry_size: u32,
    pub(crate) entries_checksum: u32,
}

/// What is wrong with a copy of the table.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) code: Code,
    pub(crate) text: String,
    pub(crate) at: u64,
}

/// One of the two copies: what was found where it should be.
#[derive(Debug, Clone)]
pub(crate) struct Copy {
    pub(crate) lba: u64,
    /// Whether the signature is there.
    is_signed: bool,
    pub(crate) header: Option<Header>,
    pub(crate) problem: Option<Problem>,
}

/// A partition as an entry tells it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Partition {
    pub(crate) index: u64,
    /// Where the entry lies in the file.
    pub(crate) at: u64,
    /// The type, and the partition's own identifier, as they are stored.
    pub(crate) kind: [u8; 16],
    pub(crate) guid: [u8; 16],
    pub(crate) first_lba: u64,
    pub(crate) last_lba: u64,
    pub(crate) attributes: u64,
    /// The name in UTF-16LE, padded by zeros.
    pub(crate) name: [u8; 72],
}

impl Header {
    /// How many bytes the entries take.
    pub(crate) fn entries_length(&self) -> u64 {
        u64::from(self.entry_count).saturating_mul(self.entry_size.into())
    }

    fn parse(bytes: &[u8], at: u64) -> Result<Self> {
        let what = "the GPT header";
        let mut cursor = LeCursor::new(bytes, at);
        cursor.bytes(AT_MY_LBA, what)?;
        let my_lba = cursor.u64(what)?;
        let alternate_lba = cursor.u64(what)?;
        let first_usable_lba = cursor.u64(what)?;
        let last_usable_lba = cursor.u64(what)?;
        let disk_guid = cursor.bytes(16, what)?.first_chunk().copied().unwrap_or_default();
        Ok(Self {
            bytes: bytes.to_vec(),
            my_lba,
            alternate_lba,
            first_usable_lba,
            last_usable_lba,
            disk_guid,
            entries_lba: cursor.u64(what)?,
            entry_count: cursor.u32(what)?,
            entry_size: cursor.u32(what)?,
            entries_checksum: cursor.u32(what)?,
        })
    }
}

impl Copy {
    /// Reads the header at `lba`, and its entries.
    pub(crate) fn read(storage: &dyn Storage, sector: Pow2, lba: u64) -> Result<Self> {
        let mut copy = Self { lba, is_signed: false, header: None, problem: None };
        let at = sector.offset_of(lba).unwrap_or(u64::MAX);
        if at.saturating_add(sector.size()) > storage.size() {
            copy.fail(Code::BeyondEnd, "it lies beyond the end of the disk".to_owned(), at);
            return Ok(copy);
        }
        let bytes = read_vec(storage, "the GPT header", at, to_usize(sector.size()))?;
        if !bytes.starts_with(SIGNATURE) {
            copy.fail(Code::RedundantCopyDamaged, "it is missing".to_owned(), at);
            return Ok(copy);
        }
        copy.is_signed = true;
        let length =
            LeCursor::new(bytes.get(12..).unwrap_or_default(), at).u32("the GPT header")?;
        let covered = bytes.get(..to_usize(length.into())).filter(|_| length >= LEAST_HEADER);
        let Some(covered) = covered else {
            copy.fail(Code::InvalidEntry, format!("its length is {length}"), at.saturating_add(12));
            return Ok(copy);
        };
        let stored =
            LeCursor::new(bytes.get(AT_CHECKSUM..).unwrap_or_default(), at).u32("its CRC-32")?;
        let computed = checksum(covered);
        if stored != computed {
            let text = format!("its CRC-32 is {stored:#010x}, its bytes have {computed:#010x}");
            copy.fail(Code::ChecksumMismatch, text, at.saturating_add(to_u64(AT_CHECKSUM)));
            return Ok(copy);
        }
        let header = Header::parse(covered, at)?;
        copy.judge(storage, sector, &header, at)?;
        copy.header = Some(header);
        Ok(copy)
    }

    pub(crate) fn is_valid(&self) -> bool {
        self.problem.is_none()
    }

    fn fail(&mut self, code: Code, text: String, at: u64) {
        self.problem.get_or_insert(Problem { code, text, at });
    }

    /// Holds the header against its place, and the entries against their checksum.
    fn judge(
        &mut self,
        storage: &dyn Storage,
        sector: Pow2,
        header: &Header,
        at: u64,
    ) -> Result<()> {
        let field = |field: u64| at.saturating_add(field);
        if header.my_lba != self.lba {
            let text = format!("it says that it lies at LBA {}", header.my_lba);
            self.fail(Code::InvalidEntry, text, field(to_u64(AT_MY_LBA)));
            return Ok(());
        }
        let size = header.entry_size;
        if size < LEAST_ENTRY || !size.is_power_of_two() {
            self.fail(Code::InvalidEntry, format!("its entries have {size} bytes"), field(84));
            return Ok(());
        }
        let length = header.entries_length();
        let start = sector.offset_of(header.entries_lba).unwrap_or(u64::MAX);
        if length > MOST_ENTRIES || start.saturating_add(length) > storage.size() {
            let text = format!("its {length} bytes of entries at {start:#x} are not on the disk");
            self.fail(Code::BeyondEnd, text, field(to_u64(AT_ENTRIES_LBA)));
            return Ok(());
        }
        let bytes = read_vec(storage, "the GPT entries", start, to_usize(length))?;
        let (stored, computed) = (header.entries_checksum, crc32fast::hash(&bytes));
        if stored != computed {
            let text = format!(
                "the CRC-32 of its entries should be {stored:#010x}, but is {computed:#010x}"
            );
            self.fail(Code::ChecksumMismatch, text, start);
        }
        Ok(())
    }

    /// The entries as they are, with their place in the file.
    pub(crate) fn entries(&self, storage: &dyn Storage, sector: Pow2) -> Result<(Vec<u8>, u64)> {
        let Some(header) = &self.header else { return Ok((Vec::new(), 0)) };
        let start = sector.offset_of(header.entries_lba).unwrap_or(u64::MAX);
        let length = header.entries_length().min(MOST_ENTRIES);
        Ok((read_vec(storage, "the GPT entries", start, to_usize(length))?, start))
    }

    /// The partitions.
    pub(crate) fn partitions(&self, storage: &dyn Storage, sector: Pow2) -> Result<Vec<Partition>> {
        let (bytes, start) = self.entries(storage, sector)?;
        let size = self.header.as_ref().map_or(LEAST_ENTRY, |header| header.entry_size);
        let mut partitions = Vec::new();
        for (entry, index) in bytes.chunks_exact(to_usize(size.into()).max(1)).zip(0u64..) {
            if entry.get(..16).is_none_or(|kind| kind == [0; 16]) {
                continue;
            }
            let at = start.saturating_add(index.saturating_mul(size.into()));
            let mut cursor = LeCursor::new(entry, at);
            let what = "a GPT entry";
            let kind = cursor.bytes(16, what)?.first_chunk().copied().unwrap_or_default();
            let guid = cursor.bytes(16, what)?.first_chunk().copied().unwrap_or_default();
            let (first_lba, last_lba) = (cursor.u64(what)?, cursor.u64(what)?);
            let attributes = cursor.u64(what)?;
            let name = cursor.bytes(72, what)?.first_chunk().copied().unwrap_or([0; 72]);
            partitions.push(Partition {
                index,
                at,
                kind,
                guid,
                first_lba,
                last_lba,
                attributes,
                name,
            });
        }
        Ok(partitions)
    }
}

/// The CRC-32 of a header, with its own field as zeros.
pub(crate) fn checksum(header: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header.get(..AT_CHECKSUM).unwrap_or_default());
    hasher.update(&[0; 4]);
    hasher.update(header.get(AT_CHECKSUM.saturating_add(4)..).unwrap_or_default());
    hasher.finalize()
}

/// Both copies of the table.
#[derive(Debug, Clone)]
pub(crate) struct Gpt {
    pub(crate) sector: Pow2,
    /// The number of the disk's last sector.
    pub(crate) last_lba: u64,
    pub(crate) primary: Copy,
    pub(crate) backup: Copy,
}

impl Gpt {
    /// Finds the table of `storage`, if there is one: in sectors of 512 or of 4096 bytes, by
    /// either copy.
    pub(crate) fn find(storage: &dyn Storage) -> Result<Option<Self>> {
        let mut found = Vec::new();
        for bits in [9, 12] {
            let Some(sector) = Pow2::from_bits(bits) else { continue };
            let Some(last_lba) = sector.index(storage.size()).checked_sub(1) else { continue };
            let primary = Copy::read(storage, sector, 1)?;
            let place = match &primary.header {
                Some(header) if primary.is_valid() => header.alternate_lba,
                _ => last_lba,
            };
            let backup = Copy::read(storage, sector, place)?;
            // a signature at the start is no accident; a damaged one at the end might be
            let score = match primary.is_valid() || backup.is_valid() {
                true => 2,
                false => u8::from(primary.is_signed),
            };
            found.push((score, Self { sector, last_lba, primary, backup }));
        }
        // of equals the one with the smaller sectors
        found.sort_by_key(|(score, _)| std::cmp::Reverse(*score));
        Ok(found.into_iter().next().filter(|(score, _)| *score > 0).map(|(_, gpt)| gpt))
    }

    /// The copy that counts.
    pub(crate) fn used(&self) -> Option<&Copy> {
        [&self.primary, &self.backup].into_iter().find(|copy| copy.is_valid())
    }
}
