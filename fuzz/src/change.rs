//! QCOW2 images changed in place, whatever bytes they are.

use std::path::Path;

use diskimage::check::MemoryPatch;
use diskimage::format::LayerOptions;
use diskimage::format::qcow2::{Qcow2Layer, Resize, SnapshotChange};
use diskimage::{Checking, Format, OpenOptions, Result};

use crate::check_error;
use crate::input::Input;

/// What a change may make of the file.
const LARGEST: u64 = 64 << 20;

/// Makes the disk longer and shorter and takes a snapshot, each of the image as it is: refused, with
/// nothing written, or whole afterwards; and stopped half-way it is no worse than before.
pub fn body(input: &Input) {
    let Ok(layer) = Qcow2Layer::open(input.storage(), &LayerOptions::default()) else { return };
    let size = layer.header().size;
    let create = SnapshotChange::Create { name: b"fuzz".to_vec(), date_sec: 1, date_nsec: 2 };
    let checking = || Checking::new().max_memory(1 << 20).max_findings(50);
    for to in [size / 2 / 512 * 512, (size / 512).saturating_add(300) * 512] {
        // a table of zeros behind the end costs its length
        let resize = Resize::new(to.min(1 << 40)).shrink(true);
        change(input, &|patch| resize.run(&layer, &checking(), patch));
    }
    change(input, &|patch| create.run(&layer, &checking(), patch));
}

fn change(input: &Input, run: &dyn Fn(&mut MemoryPatch) -> Result<()>) {
    let mut patch = MemoryPatch::new(input.to_vec());
    if let Err(error) = run(&mut patch) {
        check_error(&error);
        assert_eq!(patch.writes(), 0, "written to, and refused: {error}");
        return;
    }
    let writes = patch.writes();
    let changed = patch.into_bytes();
    if changed.len() as u64 <= LARGEST {
        is_whole(changed, false);
    }
    let mut patch = MemoryPatch::new(input.to_vec()).stop_after(writes / 2);
    assert!(run(&mut patch).is_ok() || writes > 0);
    is_whole(patch.into_bytes(), true);
}

/// No corruption, but for flags where a change was stopped.
fn is_whole(bytes: Vec<u8>, stopped: bool) {
    let options = OpenOptions::new().format(Format::Qcow2);
    let image = options.open_image_storage(Input::new(bytes).storage(), Path::new("fuzz"));
    let image = image.expect("it opens still");
    let checking = Checking::new();
    image.layer().check(&checking).expect("it is checked still");
    let report = checking.into_report();
    let flags = report.findings.iter().filter(|found| found.code.as_str() == "copied-flag").count();
    let allowed = if stopped { flags as u64 + report.more_findings } else { 0 };
    assert!(report.corruptions <= allowed && report.check_errors == 0, "{report:?}");
}
