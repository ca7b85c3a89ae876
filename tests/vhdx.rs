//! VHDX images as QEMU writes them read to what was put in.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::ffi::OsStr;
use std::path::Path;

use common::sweep::{Random, rounds};
use common::*;
use diskimage::{OpenOptions, VirtualDisk, VirtualDiskExt, conformance};

/// A disk of runs of data and zeros, some of them aligned to blocks.
fn random_disk(random: &mut Random, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    for _ in 0..1 + random.below(12) {
        let unit = [1, 512, 4096, 1 << 20][random.below(4) as usize];
        let start = (random.below(size as u64) / unit * unit) as usize;
        let length = random.below(3 << 20) as usize;
        let end = (start + length).min(size);
        let byte = random.below(256) as u8;
        for (index, byte_of) in bytes[start..end].iter_mut().enumerate() {
            *byte_of = byte.wrapping_add((index / 97) as u8);
        }
    }
    bytes
}

fn qemu_img(args: &[&OsStr]) -> Option<Vec<u8>> {
    tool_output("qemu-img", args)
}

fn convert(from: &Path, options: &str, to: &Path) -> Option<Vec<u8>> {
    let words = ["convert", "-f", "raw", "-O", "vhdx", "-o", options];
    let mut args: Vec<_> = words.iter().map(OsStr::new).collect();
    args.extend([from.as_os_str(), to.as_os_str()]);
    qemu_img(&args)
}

#[test]
fn what_qemu_converts_reads_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, image) = (dir.path().join("disk.raw"), dir.path().join("disk.vhdx"));
    let mut random = Random(0x5eed_0001);
    for round in 0..rounds(20) {
        // qemu-img makes the disk a whole number of sectors
        let size = (1 + random.below(40_000)) * 512 + random.below(2) * random.below(512);
        let mut content = random_disk(&mut random, size as usize);
        write_sparse(&raw, &content);
        let subformat = ["dynamic", "fixed"][random.below(2) as usize];
        let block = 1u64 << (20 + random.below(6));
        let zero = if subformat == "fixed" && random.below(2) == 0 { "off" } else { "on" };
        let options = format!(
            "subformat={subformat},block_size={block},log_size={},block_state_zero={zero}",
            (1 + random.below(4)) << 20
        );
        let Some(_) = convert(&raw, &options, &image) else { return };
        content.resize(content.len().next_multiple_of(512), 0);
        let disk = OpenOptions::new().open(&image).unwrap();
        assert_eq!(disk.size(), content.len() as u64, "round {round}: {options}");
        assert_eq!(disk.cluster_size(), block);
        let checked = conformance::check(&disk, Some(&content));
        checked.unwrap_or_else(|e| panic!("round {round}: {options}: {e}"));
        let description = OpenOptions::new().open_image(&image).unwrap();
        let description = description.layer().describe().unwrap();
        assert!(description.findings.is_empty() && !description.dirty, "{description:?}");
    }
}

#[test]
fn what_qemu_writes_piece_by_piece_reads_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.vhdx");
    let mut random = Random(0x5eed_0002);
    for round in 0..rounds(6) {
        let size = (20 + random.below(60)) << 20;
        let block = 1u64 << (20 + random.below(4));
        let options = format!("block_size={block}");
        let size_text = size.to_string();
        let words = ["create", "-q", "-f", "vhdx", "-o", &options];
        let mut args: Vec<_> = words.iter().map(OsStr::new).collect();
        args.extend([image.as_os_str(), OsStr::new(&size_text)]);
        let Some(_) = qemu_img(&args) else { return };
        let mut content = vec![0; size as usize];
        // nobody waits for the medium
        let mut args = ["-t", "unsafe", "-f", "vhdx"].map(str::to_owned).to_vec();
        for _ in 0..1 + random.below(20) {
            let at = random.below(size / 512) * 512;
            let length = ((1 + random.below(4000)) * 512).min(size - at);
            let byte = 1 + random.below(255);
            content[at as usize..(at + length) as usize].fill(byte as u8);
            args.extend(["-c".to_owned(), format!("write -q -P {byte} {at} {length}")]);
        }
        args.push(image.to_str().unwrap().to_owned());
        let args: Vec<_> = args.iter().map(OsStr::new).collect();
        let Some(_) = tool_output("qemu-io", &args) else { return };
        let disk = OpenOptions::new().open(&image).unwrap();
        let checked = conformance::check(&disk, Some(&content));
        checked.unwrap_or_else(|e| panic!("round {round}: {e}"));
    }
}

#[test]
fn a_64_tib_disk_is_mapped_without_its_table_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("huge.vhdx");
    let words = ["create", "-q", "-f", "vhdx", "-o", "block_size=256M"];
    let mut args: Vec<_> = words.iter().map(OsStr::new).collect();
    args.extend([image.as_os_str(), OsStr::new("64T")]);
    let Some(_) = qemu_img(&args) else { return };
    let disk = OpenOptions::new().open(&image).unwrap();
    assert_eq!(disk.size(), 64 << 40);
    let mut end = 0;
    for extent in disk.extents(0..disk.size()) {
        let extent = extent.unwrap();
        assert!(extent.kind.is_zero());
        end = extent.end();
    }
    assert_eq!(end, 64 << 40);
}
