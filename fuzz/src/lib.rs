//! The bodies of the fuzz targets: ordinary functions that panic where a promise is broken.

use std::path::Path;

use diskimage::contents::{self, Bounds};
use diskimage::format::probe::{HEAD, TAIL, probe, probe_bytes};
use diskimage::{Error, ErrorKind, Format, OpenOptions};

pub mod chain;
pub mod change;
pub mod check;
pub mod containers;
pub mod engine;
pub mod input;
pub mod mutate;
pub mod qemu;
pub mod read;
pub mod seeds;
pub mod stream;

use input::Input;

/// A body, and the name of its target.
pub type Target = (&'static str, fn(&Input));

/// Every target. The word before the first underscore is the format of its images, if it has one.
pub const TARGETS: &[Target] = &[
    ("probe", probe_any),
    ("qcow2_read", |input| read::body(Format::Qcow2, input)),
    ("qcow2_check", |input| check::body(Format::Qcow2, input)),
    ("qcow2_change", change::body),
    ("qcow2_stream", |input| stream::body(Format::Qcow2, input)),
    ("vmdk_read", |input| read::body(Format::Vmdk, input)),
    ("vmdk_check", |input| check::body(Format::Vmdk, input)),
    ("vmdk_stream", |input| stream::body(Format::Vmdk, input)),
    ("vhd_read", |input| read::body(Format::Vhd, input)),
    ("vhd_check", |input| check::body(Format::Vhd, input)),
    ("vhd_stream", |input| stream::body(Format::Vhd, input)),
    ("vhdx_read", |input| read::body(Format::Vhdx, input)),
    ("vhdx_check", |input| check::body(Format::Vhdx, input)),
    ("vhdx_stream", |input| stream::body(Format::Vhdx, input)),
    ("vdi_read", |input| read::body(Format::Vdi, input)),
    ("vdi_check", |input| check::body(Format::Vdi, input)),
    ("vdi_stream", |input| stream::body(Format::Vdi, input)),
    ("qcow_read", |input| read::body(Format::Qcow, input)),
    ("qcow_stream", |input| stream::body(Format::Qcow, input)),
    ("qed_read", |input| read::body(Format::Qed, input)),
    ("qed_check", |input| check::body(Format::Qed, input)),
    ("qed_stream", |input| stream::body(Format::Qed, input)),
    ("parallels_read", |input| read::body(Format::Parallels, input)),
    ("parallels_check", |input| check::body(Format::Parallels, input)),
    ("parallels_stream", |input| stream::body(Format::Parallels, input)),
    ("bochs_read", |input| read::body(Format::Bochs, input)),
    ("bochs_stream", |input| stream::body(Format::Bochs, input)),
    ("cloop_read", |input| read::body(Format::Cloop, input)),
    ("cloop_stream", |input| stream::body(Format::Cloop, input)),
    ("dmg_read", |input| read::body(Format::Dmg, input)),
    ("dmg_check", |input| check::body(Format::Dmg, input)),
    ("dmg_stream", |input| stream::body(Format::Dmg, input)),
    ("simg_read", |input| read::body(Format::AndroidSparse, input)),
    ("simg_check", |input| check::body(Format::AndroidSparse, input)),
    ("simg_stream", |input| stream::body(Format::AndroidSparse, input)),
    ("sparseimage_read", |input| read::body(Format::SparseImage, input)),
    ("sparseimage_check", |input| check::body(Format::SparseImage, input)),
    ("sparseimage_stream", |input| stream::body(Format::SparseImage, input)),
    ("asif_read", |input| read::body(Format::Asif, input)),
    ("asif_check", |input| check::body(Format::Asif, input)),
    ("asif_stream", |input| stream::body(Format::Asif, input)),
    ("luks_read", |input| read::body(Format::Luks, input)),
    ("luks_stream", |input| stream::body(Format::Luks, input)),
    ("parallels_bundle", |input| read::body(Format::Parallels, input)),
    ("raw_check", |input| check::body(Format::Raw, input)),
    ("raw_stream", |input| stream::body(Format::Raw, input)),
    ("raw_contents", contents_body),
    ("tar", |input| containers::archive(Format::Tar, input)),
    ("ova", |input| containers::archive(Format::Ova, input)),
    ("wrapped", containers::wrapped),
    ("chain", chain::body),
    ("convert_qemu", qemu::body),
];

/// Whatever the bytes are: the answer is the same each time, and in pieces as in whole.
pub fn probe_any(input: &Input) {
    let found = probe(&input.storage()).expect("memory can be read");
    let tail = &input[input.len().saturating_sub(TAIL)..];
    let head = &input[..input.len().min(HEAD)];
    assert_eq!(found, probe_bytes(head, Some((tail, input.len() as u64))));
    for m in &found.matches {
        assert!(m.offset < input.len().max(1) as u64, "{m:?} lies outside of the file");
    }
    for finding in found.findings() {
        assert!(!finding.message.contains(char::is_control));
    }
}

/// What lies on the input as a disk: little is read, the answer is the same each time, and no text of
/// it has control characters.
pub fn contents_body(input: &Input) {
    let options = OpenOptions::new().format(Format::Raw);
    let disk = options.open_storage(input.storage(), Path::new("fuzz"));
    let disk = disk.expect("a raw disk is always one");
    let bounds = Bounds::default();
    let found = contents::look(&disk, &bounds).expect("memory can be read");
    assert!(found.bytes_read <= bounds.max_read);
    assert!(found.partitions.len() <= bounds.max_partitions as usize);
    assert!(!format!("{found:?} {}", found.boot).contains(char::is_control), "{found:?}");
    assert_eq!(contents::look(&disk, &bounds).ok(), Some(found), "another answer");
}

/// An error about bytes in memory blames the file, the format or a limit; never the system.
fn check_error(error: &Error) {
    assert!(
        matches!(
            error.kind(),
            ErrorKind::Corrupt
                | ErrorKind::Unsupported
                | ErrorKind::LimitExceeded
                | ErrorKind::Denied
                | ErrorKind::InvalidInput
        ),
        "{error:?}"
    );
    assert!(!error.to_string().contains(char::is_control), "{error:?}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::{Kind, Mutator};

    fn holds(body: fn(&Input), image: Vec<u8>) -> bool {
        let input = Input::new(image);
        std::panic::catch_unwind(|| body(&input)).is_ok()
    }

    #[test]
    fn every_body_holds_on_mutated_seeds() {
        for (name, body) in TARGETS {
            let seeds = seeds::seeds(name);
            assert!(seeds.len() > 2, "{name} has {} seeds", seeds.len());
            let mut mutator = Mutator::new(1);
            // few: the continuous integration has the bodies run for some seconds each besides
            let count = if *name == "convert_qemu" { 10 } else { 30 };
            for number in 0..count {
                let image = mutator.next(Kind::of_target(name), &seeds);
                assert!(holds(*body, image), "{name}: input {number}");
            }
        }
    }

    #[test]
    fn every_body_holds_on_what_once_broke_it() {
        for (name, body) in TARGETS {
            for (file, image) in seeds::regressions(name) {
                assert!(holds(*body, image), "regressions/{name}/{file} is back");
            }
        }
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            assert!(TARGETS.iter().any(|(target, _)| name == **target), "{name:?} is no target");
        }
    }

    #[test]
    fn every_body_holds_on_the_corpus() {
        for (name, body) in TARGETS {
            for (file, image) in seeds::corpus(name) {
                assert!(holds(*body, image), "corpus/{name}/{file}");
            }
        }
    }
}
