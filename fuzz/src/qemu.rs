//! Converting against qemu-img: where both make something of an image, it is the same disk.
//!
//! We may refuse what qemu-img takes, and it may refuse what we take. What it is known to do wrong,
//! we refuse, so that the two never meet there: it fills what a truncated file lacks with zeros,
//! leaves extents of the kinds ZERO and RDONLY out, does not look at the parents of VHD, VHDX and
//! VDI, and opens any file that an image names. It does not look for the second copy of a table
//! that is damaged either, and takes what precedes each block of a VDI (`cbBlockExtra`) for the
//! block: such images are left out.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use diskimage::format::probe::probe;
use diskimage::target::FileTarget;
use diskimage::{Code, Convert, Format, OpenOptions, Target, VirtualDisk};

use crate::check_error;
use crate::input::Input;

/// Disks larger than this are left out.
const LARGEST: u64 = 16 << 20;
/// Longer than it takes for anything of this size.
const PATIENCE: Duration = Duration::from_secs(20);

/// Converts `input`, as the one format that it has signs of, by this library and by qemu-img.
pub fn body(input: &Input) {
    let found = probe(&input.storage()).expect("memory can be read");
    let formats: Vec<Format> = found.read_formats().collect();
    let [format] = formats[..] else { return };
    let folder = tempfile::tempdir().expect("there is a temporary folder");
    let place = |name: &str| folder.path().join(name);
    let (image, ours, theirs) = (place("image"), place("ours"), place("theirs"));
    std::fs::write(&image, &**input).expect("it can be written");
    let disk = match OpenOptions::new().format(format).open(&image) {
        Ok(disk) if disk.size() <= LARGEST => disk,
        Ok(_) => return,
        Err(error) => return check_error(&error),
    };
    if needs_a_copy(format, input) || has_block_extra(format, input) {
        return;
    }
    let target = FileTarget::create(&ours, disk.size()).expect("it can be created");
    match Convert::new().run(&disk, &target) {
        Ok(_) => Box::new(target).finish().expect("it can be finished"),
        Err(error) => return check_error(&error),
    }
    if !converted_by_qemu(format, &image, &theirs) {
        return;
    }
    let read = |path: &Path| std::fs::read(path).expect("it was made");
    let (ours, theirs) = (read(&ours), read(&theirs));
    // qemu-img counts sectors: up for some formats, the rest being zeros, and down for QCOW2; of a
    // VMDK it takes the capacity, which some writers round up to whole grains
    let (down, up) = (ours.len() & !511, ours.len().next_multiple_of(512));
    let grains = ours.len().next_multiple_of((disk.cluster_size() as usize).max(1));
    let rounded = format == Format::Vmdk && theirs.len() == grains;
    let fits = theirs.len() == down || theirs.len() == up || rounded;
    assert!(fits, "{format:?}: {} bytes, not {}", theirs.len(), ours.len());
    let differs = ours.iter().zip(&theirs).position(|(a, b)| a != b);
    assert_eq!(differs, None, "{format:?}: another content");
    let behind = theirs.get(ours.len()..up.min(theirs.len())).unwrap_or_default();
    assert!(rounded || behind.iter().all(|&b| b == 0), "{format:?}: another end");
}

/// Whether some structure of the image is damaged and is read from its second copy, or the copies of a
/// VHD's footer differ: the one at the end counts ("Hard Disk Footer Format"), qemu-img takes the first.
fn needs_a_copy(format: Format, input: &Input) -> bool {
    let image = OpenOptions::new().format(format).open_image_storage(input.storage(), "".as_ref());
    let described = image.and_then(|image| image.layer().describe());
    let copies = [Code::RedundantCopyDamaged, Code::FooterMismatch];
    described.is_ok_and(|found| found.findings.iter().any(|f| copies.contains(&f.code)))
}

/// Whether bytes of something else precede each block of a VDI (`cbBlockExtra`).
fn has_block_extra(format: Format, input: &Input) -> bool {
    format == Format::Vdi && input.get(0x17c..0x180).is_some_and(|extra| extra != [0; 4])
}

/// Whether qemu-img, told the format, makes something of the image. Where it is not installed, it
/// never does.
fn converted_by_qemu(format: Format, image: &Path, out: &Path) -> bool {
    let name = if format == Format::Vhd { "vpc" } else { format.name() };
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-f", name, "-O", "raw"]).arg(image).arg(out);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            static TOLD: Once = Once::new();
            TOLD.call_once(|| eprintln!("skipped: qemu-img cannot be run: {error}"));
            return false;
        }
    };
    let end = Instant::now() + PATIENCE;
    loop {
        match child.try_wait().expect("it is our child") {
            Some(status) => return status.success(),
            None if Instant::now() > end => {
                child.kill().expect("it is our child");
                child.wait().expect("it is our child");
                return false;
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}
