//! The two region tables (2.2.3).

use crate::bytes::LeCursor;
use crate::error::{Error, Result};
use crate::num::to_usize;
use crate::storage::Storage;

use super::error::VhdxDetail;
use super::guid::Guid;
use super::header::{Header, check_placement, read_copies};
use super::layout::*;

/// A part of the file.
///
/// ```
/// use diskimage::format::vhdx::VhdxOptions;
/// use diskimage::format::vhdx::layout::REGION_METADATA;
/// use diskimage::format::vhdx::{Headers, RegionTable};
/// use diskimage::storage::FileStorage;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.vhdx");
/// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
/// let writer = VhdxOptions::new().writer(1 << 30)?;
/// # diskimage::Convert::new().create(Box::new(writer), &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `path` is the file that it makes of an empty disk
/// let storage = FileStorage::open(&path)?;
/// let table = RegionTable::read(&storage, &Headers::read(&storage)?.current, false)?;
/// for region in &table.regions {
///     println!("{}: {:#x}+{:#x}", region.guid, region.offset, region.length);
/// }
/// let metadata = table.metadata;
/// assert_eq!((metadata.guid, metadata.required), (REGION_METADATA, true));
/// assert_eq!((metadata.offset, metadata.length), (2 << 20, 1 << 20));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Region {
    /// What for.
    pub guid: Guid,
    /// Where it starts, bytes.
    pub offset: u64,
    /// How long it is, bytes.
    pub length: u64,
    /// Whether whoever does not know it must not go on.
    pub required: bool,
}

/// The region table, and every place that no block may lie in.
///
/// ```
/// use diskimage::format::vhdx::VhdxOptions;
/// use diskimage::format::vhdx::{Headers, RegionTable};
/// use diskimage::storage::MemoryStorage;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.vhdx");
/// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
/// let writer = VhdxOptions::new().writer(1 << 30)?;
/// # diskimage::Convert::new().create(Box::new(writer), &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `path` is the file that it makes of an empty disk
/// let mut bytes = std::fs::read(&path)?;
/// bytes[(192 << 10) + 40] ^= 1; // in the first copy
/// let storage = MemoryStorage::new(bytes);
/// let table = RegionTable::read(&storage, &Headers::read(&storage)?.current, false)?;
/// assert_eq!((table.offset, table.damaged), (256 << 10, Some(192 << 10)));
/// assert_eq!((table.regions.len(), table.contradicts), (2, false));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RegionTable {
    /// The offset of the copy that is used.
    pub offset: u64,
    /// The offset of the other one, if that is damaged.
    pub damaged: Option<u64>,
    /// Whether both are valid and differ; the first is used then.
    pub contradicts: bool,
    /// The regions, as they are listed.
    pub regions: Vec<Region>,
    /// The block allocation table.
    pub bat: Region,
    /// The metadata.
    pub metadata: Region,
    /// Start, end and name of what is not for blocks: in order, without overlaps.
    reserved: Vec<(u64, u64, &'static str)>,
}

impl RegionTable {
    /// Reads and validates the region tables of `storage`, whose log was replayed if it had to be.
    ///
    /// With `trust_broken`, required regions that are not known pass, and of two tables that
    /// differ the first is used.
    pub fn read(storage: &dyn Storage, header: &Header, trust_broken: bool) -> Result<Self> {
        let (offsets, length) = (REGION_TABLE_OFFSETS, REGION_TABLE_LENGTH);
        let copies = read_copies(storage, REGION_TABLE_SIGNATURE, offsets, length)?;
        let [first, second] = REGION_TABLE_OFFSETS;
        let (bytes, offset, damaged, contradicts) = match copies {
            (None, None) => return Err(Error::new(VhdxDetail::NoCopy("region table")).at(first)),
            (Some(one), None) => (one, first, Some(second), false),
            (None, Some(two)) => (two, second, Some(first), false),
            (Some(one), Some(two)) => {
                let contradicts = one != two;
                (one, first, None, contradicts)
            }
        };
        if contradicts && !trust_broken {
            return Err(Error::new(VhdxDetail::RegionTablesContradict).at(second));
        }
        let regions = parse(&bytes, offset, storage.size(), trust_broken)?;
        let find = |guid, what| {
            let region = regions.iter().find(|(region, _)| region.guid == guid);
            region
                .map(|&(region, _)| region)
                .ok_or_else(|| Error::new(VhdxDetail::Missing(what)).at(offset))
        };
        let bat = find(REGION_BAT, "region for the block allocation table")?;
        let metadata = find(REGION_METADATA, "metadata region")?;
        let reserved = reserve(&regions, header)?;
        let regions = regions.into_iter().map(|(region, _)| region).collect();
        Ok(Self { offset, damaged, contradicts, regions, bat, metadata, reserved })
    }

    /// Refuses a block of `length` bytes that overlaps what is not for blocks.
    pub(super) fn check_block(&self, what: &'static str, start: u64, length: u64) -> Result<()> {
        let Some(end) = start.checked_add(length) else {
            let rule = "within 64 bits";
            return Err(VhdxDetail::Misplaced { what, offset: start, rule }.into());
        };
        let index = self.reserved.partition_point(|&(_, reserved_end, _)| reserved_end <= start);
        match self.reserved.get(index) {
            Some(&(reserved, _, other)) if reserved < end => {
                Err(VhdxDetail::Overlap { what, start, other }.into())
            }
            _ => Ok(()),
        }
    }

    /// The required regions that are not known, if they were let pass.
    pub(super) fn unknown(&self) -> impl Iterator<Item = &Region> {
        let known = [REGION_BAT, REGION_METADATA];
        self.regions.iter().filter(move |region| region.required && !known.contains(&region.guid))
    }

    /// How many bytes the structures take that are not blocks.
    pub(super) fn reserved_length(&self) -> u64 {
        let lengths = self.reserved.iter().map(|&(start, end, _)| end.saturating_sub(start));
        lengths.fold(0, u64::saturating_add)
    }

    /// The end of the last structure that is not a block.
    pub(super) fn end(&self) -> u64 {
        self.reserved.last().map_or(HEADER_SECTION_LENGTH, |&(_, end, _)| end)
    }
}

/// The entries of a table that lies at `offset`, with the offset of each.
fn parse(bytes: &[u8], offset: u64, size: u64, trust_broken: bool) -> Result<Vec<(Region, u64)>> {
    let mut cursor = LeCursor::new(bytes, offset);
    cursor.u64("the region table")?;
    let count = cursor.u32("the region table")?;
    cursor.u32("the region table")?;
    if count > MAX_TABLE_ENTRIES {
        let (count, limit) = (count.into(), MAX_TABLE_ENTRIES.into());
        let detail = VhdxDetail::TooManyEntries { what: "region table", count, limit };
        return Err(Error::new(detail).at(offset.saturating_add(8)));
    }
    let mut regions: Vec<(Region, u64)> = Vec::with_capacity(to_usize(count.into()));
    for _ in 0..count {
        let at = cursor.offset();
        let guid = Guid::read(&mut cursor, "a region table entry")?;
        let start = cursor.u64("a region table entry")?;
        let length = u64::from(cursor.u32("a region table entry")?);
        let required = cursor.u32("a region table entry")? & REGION_REQUIRED != 0;
        let region = Region { guid, offset: start, length, required };
        let known = [REGION_BAT, REGION_METADATA].contains(&guid);
        if required && !known && !trust_broken {
            return Err(Error::new(VhdxDetail::UnknownRegion(guid)).at(at));
        }
        if !length.is_multiple_of(MIB) || length == 0 {
            let (field, rule) = ("length of a region", "a multiple of 1 MiB, and not zero");
            return Err(Error::new(VhdxDetail::Field { field, value: length, rule }).at(at));
        }
        // what is cut off in a region that nobody needs is not missed
        let size = if known { size } else { u64::MAX };
        check_placement(region.name(), start, length, size).map_err(|error| error.at(at))?;
        regions.push((region, at));
    }
    let mut guids: Vec<_> = regions.iter().map(|(region, at)| (region.guid, *at)).collect();
    guids.sort_unstable();
    for ((guid, _), (next, at)) in guids.iter().zip(guids.iter().skip(1)) {
        if guid == next {
            let detail = VhdxDetail::Duplicate { what: "region", guid: *guid };
            return Err(Error::new(detail).at(*at));
        }
    }
    Ok(regions)
}

/// The places that are not for blocks, in order. They must not overlap.
fn reserve(regions: &[(Region, u64)], header: &Header) -> Result<Vec<(u64, u64, &'static str)>> {
    let log_end = header.log_offset.saturating_add(header.log_length);
    let mut placed = vec![(0, HEADER_SECTION_LENGTH, "header section", 0)];
    if header.log_length > 0 {
        placed.push((header.log_offset, log_end, "log", header.offset.saturating_add(72)));
    }
    placed.extend(regions.iter().map(|&(region, at)| {
        (region.offset, region.offset.saturating_add(region.length), region.name(), at)
    }));
    placed.sort_unstable();
    for (one, two) in placed.iter().zip(placed.iter().skip(1)) {
        if two.0 < one.1 {
            let detail = VhdxDetail::Overlap { what: two.2, start: two.0, other: one.2 };
            return Err(Error::new(detail).at(two.3.max(one.3)));
        }
    }
    Ok(placed.into_iter().map(|(start, end, name, _)| (start, end, name)).collect())
}

impl Region {
    /// The noun for messages.
    fn name(&self) -> &'static str {
        match self.guid {
            REGION_BAT => "block allocation table's region",
            REGION_METADATA => "metadata region",
            _ => "region of an unknown kind",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::header::Headers;
    use super::super::testing::{BAT, Builder, Image, LOG, METADATA};
    use super::*;
    use crate::ErrorKind;

    const UNKNOWN: Guid = Guid::of(9, 9, 9, 9);

    fn image() -> Image {
        Builder::new(1 << 20, 4 << 20).build()
    }

    fn read(image: &Image, trust: bool) -> Result<RegionTable> {
        let storage = image.storage();
        RegionTable::read(&storage, &Headers::read(&storage)?.current, trust)
    }

    #[test]
    fn either_copy_will_do() {
        for (broken, used) in [(0, 1), (1, 0)] {
            for at in [0, 4, 8, 65_535] {
                let mut image = image();
                image.bytes[REGION_TABLE_OFFSETS[broken] as usize + at] ^= 1;
                let table = read(&image, false).unwrap();
                assert_eq!(table.offset, REGION_TABLE_OFFSETS[used]);
                assert_eq!(table.damaged, Some(REGION_TABLE_OFFSETS[broken]));
                assert_eq!((table.bat.offset, table.metadata.offset), (BAT, METADATA));
                image.bytes[REGION_TABLE_OFFSETS[used] as usize + at] ^= 1;
                let error = read(&image, false).unwrap_err();
                assert!(error.to_string().contains("both copies of the region table"), "{error}");
            }
        }
    }

    #[test]
    fn two_valid_tables_that_differ_are_corrupt_unless_trusted() {
        let mut image = image();
        image.region_table(1, |table| table[24] ^= 1);
        let error = read(&image, false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        let table = read(&image, true).unwrap();
        assert!(table.contradicts);
        assert_eq!(table.offset, REGION_TABLE_OFFSETS[0]);
    }

    #[test]
    fn regions_must_be_known_placed_and_apart() {
        let corrupt = ErrorKind::Corrupt;
        let mib = 1u32 << 20;
        type Entry = (usize, Guid, u64, u32, u32);
        let cases: [(Entry, ErrorKind, &str); 13] = [
            ((2, UNKNOWN, 4 << 20, mib, 1), ErrorKind::Unsupported, "not known"),
            ((2, REGION_BAT, 4 << 20, mib, 1), corrupt, "beyond the end"),
            ((2, REGION_BAT, BAT, mib, 1), corrupt, "twice"),
            ((0, REGION_BAT, 0, mib, 1), corrupt, "behind the header section"),
            ((0, REGION_BAT, BAT + 1, mib, 1), corrupt, "multiple of 1 MiB"),
            ((0, REGION_BAT, BAT, 0, 1), corrupt, "not zero"),
            ((0, REGION_BAT, BAT, 4096, 1), corrupt, "multiple of 1 MiB"),
            ((0, REGION_BAT, BAT, 2 * mib, 1), corrupt, "beyond the end"),
            ((0, REGION_BAT, u64::MAX << 20, mib, 1), corrupt, "beyond the end"),
            ((0, REGION_BAT, LOG, mib, 1), corrupt, "overlaps the"),
            ((0, REGION_BAT, METADATA, mib, 1), corrupt, "overlaps the"),
            ((2, UNKNOWN, METADATA, mib, 0), corrupt, "overlaps the"),
            ((0, UNKNOWN, BAT, mib, 0), corrupt, "has no region for the block"),
        ];
        for ((index, guid, at, length, flags), kind, text) in cases {
            let mut image = image();
            image.region(index, guid, at, length, flags);
            let error = read(&image, false).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(text), "{error} does not say '{text}'");
            let first = REGION_TABLE_OFFSETS[0];
            assert!((first..REGION_TABLE_OFFSETS[1]).contains(&error.offset().unwrap()), "{error}");
        }
        let mut image = image();
        image.region_table(0, |table| table[8..12].copy_from_slice(&2048u32.to_le_bytes()));
        image.region_table(1, |table| table[8..12].copy_from_slice(&2048u32.to_le_bytes()));
        assert!(read(&image, true).unwrap_err().to_string().contains("at most 2047"));
    }

    #[test]
    fn a_region_that_nobody_needs_is_passed_over_but_not_for_blocks() {
        let mut image = image();
        image.region(2, UNKNOWN, 8 << 20, 2 << 20, 0);
        let table = read(&image, false).unwrap();
        assert_eq!(table.regions.len(), 3);
        let check = |start: u64, length: u64| {
            table.check_block("payload block", start << 20, length << 20).is_ok()
        };
        assert!(check(4, 4) && check(10, 100));
        assert!(!check(0, 1) && !check(1, 1) && !check(2, 1) && !check(3, 1), "the first MiBs");
        assert!(!check(4, 5) && !check(9, 1) && !check(4, 100));
        assert!(table.check_block("payload block", u64::MAX << 20, 1 << 20).is_err());
        image.region(2, UNKNOWN, 8 << 20, 2 << 20, 1);
        assert_eq!(read(&image, true).unwrap().unknown().count(), 1);
    }
}
