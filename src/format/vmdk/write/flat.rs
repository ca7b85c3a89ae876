//! monolithicFlat and twoGbMaxExtentFlat: the disk byte for byte in one or more files, and a descriptor
//! that names them.

use super::{FIRST_EXTENT, VmdkOptions};
use crate::error::Result;
use crate::num::{Pow2, to_u64};
use crate::writer::{Checksum, Forward, ImageFile, Map, Plan, Run, RunKind, Writer};

/// Lays out flat extents; see [`VmdkOptions::writer`].
///
/// ```
/// use diskimage::Writer;
/// use diskimage::format::vmdk::{Subformat, VmdkOptions};
///
/// // `VmdkOptions::writer` chooses the writer
/// let flat = VmdkOptions::new().subformat(Subformat::MonolithicFlat).name("web.vmdk");
/// let writer = flat.writer(1 << 30)?;
/// let [extent] = writer.files() else { panic!("one file beside the descriptor") };
/// assert_eq!((&*extent.name, extent.whole), ("web-flat.vmdk", true));
/// assert_eq!(extent.range.end - extent.range.start, 1 << 30);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct FlatWriter {
    options: VmdkOptions,
    size: u64,
    files: Vec<ImageFile>,
    checksum: Checksum,
}

impl FlatWriter {
    pub(super) fn new(options: &VmdkOptions, size: u64) -> Self {
        let place = |at: u64| FIRST_EXTENT.saturating_add(at);
        let files = options.extents(size).into_iter().map(|(guest, name)| ImageFile {
            name,
            range: place(guest.start)..place(guest.end),
            whole: true,
        });
        let files = files.collect();
        Self { options: options.clone(), size, files, checksum: Checksum::default() }
    }
}

impl Writer for FlatWriter {
    fn size(&self) -> u64 {
        self.size
    }

    fn unit(&self) -> Pow2 {
        Pow2::SECTOR
    }

    fn forward(&self) -> Forward {
        Forward::Never
    }

    fn files(&self) -> &[ImageFile] {
        &self.files
    }

    fn wants_checksums(&self) -> bool {
        true
    }

    fn file_size(&self, _: &dyn Map) -> Result<u64> {
        let descriptor = to_u64(self.options.descriptor(self.size, 0).len());
        Ok(self.size.saturating_add(descriptor))
    }

    fn begin(&mut self, _: Option<&dyn Map>, _: &mut Plan) -> Result<()> {
        Ok(())
    }

    fn place(&mut self, runs: &[Run], _: Option<&dyn Map>, plan: &mut Plan) -> Result<()> {
        for run in runs {
            let length = run.guest.end.min(self.size).saturating_sub(run.guest.start);
            let place = FIRST_EXTENT.saturating_add(run.guest.start);
            match run.kind {
                RunKind::Plain(from) => {
                    self.checksum.add(run);
                    plan.plain(place, from, length);
                }
                _ => plan.zeros(place, length),
            }
        }
        Ok(())
    }

    fn finish(&mut self, plan: &mut Plan) -> Result<()> {
        let cid = self.options.cid_of(self.size, &self.checksum);
        plan.bytes(0, self.options.descriptor(self.size, cid));
        Ok(())
    }
}
