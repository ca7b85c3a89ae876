//! What `qemu-img check` says of a QCOW2 image, and what we say in its words.

use std::path::{Path, PathBuf};
use std::process::Command;

use diskimage::Format;
use diskimage::check::CheckReport;
use serde_json::Value;

use super::repair::{assert_kept, content};
use super::{tool, write_sparse};

/// The host offset in an L1 or L2 entry.
pub const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

pub fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

pub fn put64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

/// What `qemu-img check` says: its exit code, and its numbers.
pub fn qemu_check(path: &Path) -> Option<(i32, Value)> {
    tool("qemu-img", &["--version".as_ref()])?;
    // it looks for data files from the folder that it is in
    let mut command = Command::new("qemu-img");
    command.args(["check", "-f", "qcow2", "--output=json"]).arg(path);
    let output = command.current_dir(path.parent().unwrap()).output().unwrap();
    let value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    Some((output.status.code().unwrap(), value))
}

/// The numbers under qemu-img's names, what is zero as it leaves it out.
pub fn numbers(report: &CheckReport) -> Value {
    let mut object = serde_json::json!({ "check-errors": report.check_errors });
    for (name, number) in [
        ("image-end-offset", report.image_end_offset.unwrap_or(0)),
        ("total-clusters", report.total_clusters.unwrap_or(0)),
        ("allocated-clusters", report.allocated_clusters.unwrap_or(0)),
        ("fragmented-clusters", report.fragmented_clusters.unwrap_or(0)),
        ("compressed-clusters", report.compressed_clusters.unwrap_or(0)),
        ("corruptions", report.corruptions),
        ("leaks", report.leaks),
    ] {
        if number != 0 {
            object[name] = number.into();
        }
    }
    object
}

pub fn theirs(mut value: Value) -> Value {
    let object = value.as_object_mut().unwrap();
    object.remove("filename");
    object.remove("format");
    value
}

pub fn written(folder: &tempfile::TempDir, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join("image.qcow2");
    let _ = std::fs::remove_file(&path);
    write_sparse(&path, bytes);
    path
}

pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// qemu-img accepts what was repaired, and what it repairs itself has the same content.
pub fn same_as_qemu_img(folder: &tempfile::TempDir, damaged: &[u8], repaired: &[u8], name: &str) {
    let Some((code, value)) = qemu_check(&written(folder, repaired)) else { return };
    assert_eq!(code, 0, "{name}: {value}");
    let ours = content(Format::Qcow2, repaired);
    let path = written(folder, damaged);
    let args = ["check".as_ref(), "-r".as_ref(), "all".as_ref(), path.as_os_str()];
    let Some(output) = tool("qemu-img", &args) else { return };
    // where an entry points far away, it makes the file that long
    let is_short = std::fs::metadata(&path).unwrap().len() < 64 << 20;
    if output.status.code() == Some(0) && is_short {
        assert_kept(&ours, &content(Format::Qcow2, &std::fs::read(&path).unwrap()), name);
    }
}
