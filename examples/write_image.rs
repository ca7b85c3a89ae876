//! Writes an image in another format; the extension of the target says which.
//!
//!     cargo run --example write_image -- testdata/cloud.qcow2 cloud.vmdk

use std::path::Path;

use diskimage::format::qcow2::Qcow2Options;
use diskimage::format::vdi::VdiOptions;
use diskimage::format::vhd::VhdOptions;
use diskimage::format::vhdx::VhdxOptions;
use diskimage::format::vmdk::{Subformat, VmdkOptions};
use diskimage::target::FilesTarget;
use diskimage::{Convert, Format, OpenOptions, Target, VirtualDisk, Writer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let [source, target] = &args[..] else {
        return Err("usage: write_image SOURCE TARGET.(qcow2|vmdk|vhd|vhdx|vdi)".into());
    };
    let extension = Path::new(target).extension().unwrap_or_default().to_string_lossy();
    let disk = OpenOptions::new().open(source)?;
    let size = disk.size();
    let writer: Box<dyn Writer> = match extension.parse::<Format>()? {
        Format::Qcow2 => Box::new(Qcow2Options::new().compressed(true).writer(size)?),
        Format::Vmdk => VmdkOptions::new().subformat(Subformat::StreamOptimized).writer(size)?,
        Format::Vhd => Box::new(VhdOptions::new().writer(size)?),
        Format::Vhdx => Box::new(VhdxOptions::new().writer(size)?),
        Format::Vdi => Box::new(VdiOptions::new().writer(size)?),
        other => return Err(format!("{other} is not written here").into()),
    };

    // takes images of several files, too; they appear together, and only when they are finished
    let files = FilesTarget::create(target, writer.files())?;
    let report = Convert::new().image(&disk, writer, None, &files)?;
    Box::new(files).finish()?;
    println!("{} of {} bytes are data", report.written, report.size);
    Ok(())
}
