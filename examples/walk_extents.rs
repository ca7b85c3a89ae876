//! Lists what is data and what is zeros on a disk, without reading it.
//!
//!     cargo run --example walk_extents -- testdata/cloud.qcow2

use diskimage::{Extent, ExtentKind, OpenOptions, VirtualDisk, VirtualDiskExt};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let image = std::env::args_os().nth(1).ok_or("usage: walk_extents IMAGE")?;
    let disk = OpenOptions::new().open(image)?;

    let (mut last, mut data) = (None::<Extent>, 0);
    for extent in disk.extents(0..disk.size()) {
        let extent = extent?; // damage is an error, never zeros
        if !extent.kind.is_zero() {
            data += extent.length;
        }
        // what one table tells is one answer; neighbours of one kind and place are joined here
        match &mut last {
            Some(before) if before.continues_with(&extent) => before.length += extent.length,
            _ => {
                last.iter().for_each(print);
                last = Some(extent);
            }
        }
    }
    last.iter().for_each(print);
    println!("{data} of {} bytes are data", disk.size());
    Ok(())
}

fn print(extent: &Extent) {
    let what = match extent.kind {
        ExtentKind::Stored(place) => format!("stored at {:#x}", place.offset),
        ExtentKind::Hole(place) => format!("a hole of the file at {:#x}", place.offset),
        ExtentKind::Encoded => "compressed".to_owned(),
        ExtentKind::Zero { allocated: true, .. } => "zeros, says the image".to_owned(),
        ExtentKind::Zero { .. } => "never written".to_owned(),
    };
    println!("{:#012x} {:#012x} depth {}: {what}", extent.start, extent.length, extent.depth);
}
