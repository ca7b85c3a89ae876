//! The backing file that an image names: another one, or none.

use super::super::error::Qcow2Detail;
use super::super::extension::Extensions;
use super::super::header::Header;
use super::super::layout::*;
use super::WriteDetail;
use crate::check::Patch;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::num::{to_u64, to_usize};
use crate::storage::{Storage, read_vec};

/// Whether an image can name a backing file and its format so.
pub(super) fn check_names(name: &[u8], format: Option<&[u8]>) -> Result<()> {
    let most = to_usize(MAX_NAME_LENGTH.into());
    let longest = name.len().max(format.map_or(0, <[u8]>::len));
    let why = match name {
        [] => Some("empty"),
        _ if longest > most => Some("longer than 1023 bytes"),
        name if name.contains(&0) => Some("cut by a NUL byte"),
        name if name.split(|&b| b == b'/').next().is_some_and(|s| s.contains(&b':')) => {
            Some("what QEMU takes for a protocol, with a colon before any slash")
        }
        _ => None,
    };
    why.map_or(Ok(()), |why| Err(WriteDetail::BackingName(why).into()))
}

/// Has a QCOW2 image name another backing file and the word for its format, or none: `storage` are
/// the bytes of the image, and `patch` gets one write of its first cluster ("Header", "Header
/// extensions").
///
/// That is all that changes: other extensions stay byte for byte, and of autoclear features those
/// that are not known are cleared, as the specification asks of whoever writes to an image. The file
/// that is named is not looked at. Where the image stores nothing, the guest sees that one's bytes
/// from now on, which is right only if they are those that it saw before.
///
/// An error if the header is damaged, or the image is marked as corrupt, or the names do not fit into
/// its first cluster, or its data lie in a file that is a raw disk by itself; then nothing is written.
///
/// ```
/// use diskimage::check::MemoryPatch;
/// use diskimage::format::qcow2::{Qcow2Options, rewrite_backing};
/// use diskimage::storage::MemoryStorage;
/// use diskimage::target::StreamTarget;
/// use diskimage::{Convert, Limits, OpenOptions, Target};
///
/// let mut bytes = Vec::new();
/// let target = StreamTarget::new(&mut bytes);
/// Convert::new().create(Box::new(Qcow2Options::new().writer(1 << 20)?), &target)?;
/// Box::new(target).finish()?;
///
/// let image = MemoryStorage::new(bytes.clone());
/// let mut patch = MemoryPatch::new(bytes);
/// let backing = Some((&b"base.raw"[..], Some("raw")));
/// rewrite_backing(&image, &Limits::default(), backing, &mut patch)?;
///
/// let image = std::sync::Arc::new(MemoryStorage::new(patch.into_bytes()));
/// let image = OpenOptions::new().open_image_storage(image, "x.qcow2".as_ref())?;
/// assert_eq!(image.layer().references()[0].names, [b"base.raw"]);
/// # Ok::<(), diskimage::Error>(())
/// ```
pub fn rewrite_backing(
    storage: &dyn Storage,
    limits: &Limits,
    backing: Option<(&[u8], Option<&str>)>,
    patch: &mut dyn Patch,
) -> Result<()> {
    let header = Header::read(storage, limits, false)?;
    if header.is_marked_corrupt() {
        return Err(Error::new(Qcow2Detail::MarkedCorrupt).at(72));
    }
    if let Some((name, format)) = backing {
        check_names(name, format.map(str::as_bytes))?;
        if header.data_file_raw() {
            let what = "those of a backing file, where it is raw";
            return Err(WriteDetail::DataFileAnd(what).into());
        }
    }
    let first = header.cluster.size().min(storage.size());
    let mut cluster = read_vec(storage, "the header", 0, to_usize(first))?;
    let start = to_usize(header.header_length.into());
    let named = header.backing_file.as_ref().map(|(name, at)| {
        let at = to_usize(*at);
        at..at.saturating_add(name.len())
    });
    // as when it was read, the area ends where the name begins
    let end = named.as_ref().map_or(cluster.len(), |named| named.start).max(start);
    let area = cluster.get(start..end).unwrap_or_default();
    let (kept, length) = Extensions::without(area, EXTENSION_BACKING_FORMAT)?;

    let mut tail = Vec::new();
    if let Some((_, Some(format))) = backing {
        let length = u32::try_from(format.len()).unwrap_or_default();
        tail.extend(EXTENSION_BACKING_FORMAT.to_be_bytes());
        tail.extend(length.to_be_bytes());
        tail.extend(format.as_bytes());
        tail.resize(tail.len().next_multiple_of(8), 0);
    }
    tail.extend(kept);
    tail.extend([0; 8]); // the end mark
    let name = backing.map_or(&[][..], |(name, _)| name);
    let at = if name.is_empty() { 0 } else { start.saturating_add(tail.len()) };
    tail.extend(name);

    let behind = start.saturating_add(tail.len());
    if behind > cluster.len() {
        let error = Error::new(WriteDetail::HeaderTooLong(behind));
        return Err(error.advise("give the backing file a shorter name"));
    }
    let mut put = |at: usize, bytes: &[u8]| {
        let place = cluster.get_mut(at..at.saturating_add(bytes.len()));
        place.into_iter().for_each(|place| place.copy_from_slice(bytes));
    };
    // nothing of the old names stays behind
    let old = start.saturating_add(length);
    put(start, &vec![0; length]);
    let named = named.unwrap_or(old..old);
    put(named.start, &vec![0; named.len()]);
    put(start, &tail);
    put(8, &to_u64(at).to_be_bytes());
    put(16, &u32::try_from(name.len()).unwrap_or_default().to_be_bytes());
    if header.version >= 3 {
        let known = AUTOCLEAR_BITMAPS | AUTOCLEAR_DATA_FILE_RAW;
        put(88, &(header.autoclear_features & known).to_be_bytes());
    }
    cluster.truncate(behind.max(old).max(named.end));
    patch.write(0, &cluster, "name another backing file, or none")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::check::{DryRun, MemoryPatch};
    use crate::convert::Convert;
    use crate::error::ErrorKind;
    use crate::format::LayerOptions;
    use crate::format::qcow2::{Qcow2Layer, Qcow2Options};
    use crate::layer::Layer;
    use crate::storage::MemoryStorage;
    use crate::target::{FilesTarget, Target};
    use crate::writer::Writer;

    /// An empty image.
    fn image(options: &Qcow2Options) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let writer = options.writer(1 << 20).unwrap();
        let target = FilesTarget::create(&path, writer.files()).unwrap();
        Convert::new().create(Box::new(writer), &target).unwrap();
        Box::new(target).finish().unwrap();
        std::fs::read(&path).unwrap()
    }

    fn rewritten(bytes: &[u8], backing: Option<(&str, Option<&str>)>) -> Result<(Vec<u8>, Header)> {
        let mut patch = MemoryPatch::new(bytes.to_vec());
        let storage = MemoryStorage::new(bytes.to_vec());
        let backing = backing.map(|(name, format)| (name.as_bytes(), format));
        rewrite_backing(&storage, &Limits::default(), backing, &mut patch)?;
        let bytes = patch.into_bytes();
        let storage = MemoryStorage::new(bytes.clone());
        Ok((bytes, Header::read(&storage, &Limits::default(), false)?))
    }

    /// Puts an extension of an unknown type in front of the others.
    fn with_unknown(mut bytes: Vec<u8>, start: usize) -> Vec<u8> {
        let mut extension = 0xdead_beefu32.to_be_bytes().to_vec();
        extension.extend([0, 0, 0, 3, 1, 2, 3, 0, 0, 0, 0, 0]);
        let rest = bytes[start..start + 1024].to_vec();
        bytes[start..start + 16].copy_from_slice(&extension);
        bytes[start + 16..start + 16 + 1024].copy_from_slice(&rest);
        bytes
    }

    #[test]
    fn names_come_and_go_and_all_else_stays() {
        let plain = Qcow2Options::new();
        for (options, start) in [
            (plain.clone(), 112),
            (plain.clone().version(2), 72),
            (plain.clone().cluster_size(4096), 112),
            (plain.clone().extended_l2(true), 112),
            (plain.clone().data_file("data", false), 112),
        ] {
            let old = with_unknown(image(&options), start);
            let before =
                Header::read(&MemoryStorage::new(old.clone()), &Limits::default(), false).unwrap();
            assert_eq!(before.extensions.unknown, [(0xdead_beef, vec![1, 2, 3])]);
            let (long, short) = ("n".repeat(1023), Some(("x", Some("qcow2"))));
            let (first, header) = rewritten(&old, Some((&long, Some("raw")))).unwrap();
            assert_eq!(header.backing_file.as_ref().unwrap().0, long.as_bytes());
            assert_eq!(header.extensions.backing_format.as_ref().unwrap().0, b"raw");
            let (second, header) = rewritten(&first, short).unwrap();
            assert_eq!(header.backing_file.as_ref().unwrap().0, b"x");
            assert_eq!(header.extensions.unknown, before.extensions.unknown);
            assert_eq!(header.extensions.feature_names, before.extensions.feature_names);
            let names = |header: &Header| header.extensions.data_file.clone().map(|name| name.0);
            assert_eq!(names(&header), names(&before));
            assert!(!second.windows(4).any(|part| part == b"nnnn"), "the old name stayed");
            let (_, header) = rewritten(&second, Some(("y", None))).unwrap();
            assert_eq!(header.extensions.backing_format, None);
            // without a backing file it is what it was
            assert_eq!(rewritten(&second, None).unwrap().0, old);
        }
    }

    #[test]
    fn unknown_autoclear_features_are_cleared_and_known_ones_stay() {
        let mut old = image(&Qcow2Options::new());
        old[88] = 0x80;
        let (_, header) = rewritten(&old, Some(("x", None))).unwrap();
        assert_eq!(header.autoclear_features, 0);
    }

    #[test]
    fn what_does_not_fit_or_is_damaged_is_left_alone() {
        let small = image(&Qcow2Options::new().cluster_size(512));
        let (long, longer) = ("n".repeat(400), "n".repeat(1024));
        let mut corrupt = image(&Qcow2Options::new());
        corrupt[79] |= 2;
        let raw = image(&Qcow2Options::new().data_file("data", true));
        let cut = small[..100].to_vec();
        for (bytes, name, kind, word) in [
            (&small, &*long, ErrorKind::InvalidInput, "more than a cluster"),
            (&small, &longer, ErrorKind::InvalidInput, "longer than 1023"),
            (&small, "", ErrorKind::InvalidInput, "empty"),
            (&small, "a\0b", ErrorKind::InvalidInput, "NUL"),
            (&small, "nbd:x", ErrorKind::InvalidInput, "protocol"),
            (&corrupt, "x", ErrorKind::Corrupt, "marked as corrupt"),
            (&raw, "x", ErrorKind::InvalidInput, "where it is raw"),
            (&cut, "x", ErrorKind::Corrupt, "header"),
        ] {
            let mut plan = DryRun::new();
            let storage = MemoryStorage::new(bytes.clone());
            let backing = Some((name.as_bytes(), Some("raw")));
            let error =
                rewrite_backing(&storage, &Limits::default(), backing, &mut plan).unwrap_err();
            assert_eq!((error.kind(), plan.writes.len()), (kind, 0), "{error}");
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn a_layer_names_what_was_written() {
        let (bytes, _) =
            rewritten(&image(&Qcow2Options::new()), Some(("b", Some("vmdk")))).unwrap();
        let storage = Arc::new(MemoryStorage::new(bytes));
        let layer = Qcow2Layer::open(storage, &LayerOptions::default()).unwrap();
        assert_eq!(layer.references()[0].names, [b"b"]);
        assert_eq!(layer.references()[0].format.as_deref(), Some(&b"vmdk"[..]));
    }
}
