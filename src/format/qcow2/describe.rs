//! What a QCOW2 image says of itself, under qemu-img's names.

use crate::finding::{Code, Finding};
use crate::layer::{Description, Layer, Role, Value};

use super::header::CryptMethod;
use super::layer::Qcow2Layer;
use super::layout::COMPATIBLE_LAZY_REFCOUNTS;

pub(super) fn describe(layer: &Qcow2Layer) -> Description {
    let header = layer.header();
    Description {
        encrypted: header.crypt_method != CryptMethod::None,
        dirty: header.is_dirty(),
        snapshots: layer.snapshots().iter().map(|entry| entry.description.clone()).collect(),
        details: details(layer),
        findings: findings(layer),
    }
}

fn details(layer: &Qcow2Layer) -> Vec<(&'static str, Value)> {
    let header = layer.header();
    let compat = if header.version < 3 { "0.10" } else { "1.1" };
    let mut details = vec![
        ("compat", Value::from(compat)),
        ("compression-type", header.compression_type.name().into()),
        ("refcount-bits", 1u64.wrapping_shl(header.refcount_order).into()),
    ];
    if header.version >= 3 {
        let lazy = header.compatible_features & COMPATIBLE_LAZY_REFCOUNTS != 0;
        details.push(("lazy-refcounts", lazy.into()));
        details.push(("corrupt", header.is_marked_corrupt().into()));
        details.push(("extended-l2", header.extended_l2().into()));
    }
    if let Some(data_file) = layer.references().iter().find(|r| r.role == Role::DataFile) {
        details.push(("data-file", lossy(data_file.names.first()).into()));
        details.push(("data-file-raw", header.data_file_raw().into()));
    }
    match header.crypt_method {
        CryptMethod::None => {}
        CryptMethod::Aes => details.push(("encrypt", Value::Map(vec![("format", "aes".into())]))),
        CryptMethod::Luks => {
            details.push(("encrypt", Value::Map(vec![("format", "luks".into())])));
        }
    }
    if !layer.bitmaps().is_empty() {
        let bitmaps = layer.bitmaps().iter().map(|bitmap| {
            let flags = [("in-use", bitmap.flags.in_use), ("auto", bitmap.flags.auto)];
            let flags = flags.iter().filter(|(_, set)| *set).map(|(name, _)| (*name).into());
            Value::Map(vec![
                ("flags", Value::List(flags.collect())),
                ("name", lossy(Some(&bitmap.name)).into()),
                ("granularity", bitmap.granularity.into()),
            ])
        });
        details.push(("bitmaps", Value::List(bitmaps.collect())));
    }
    details
}

fn lossy(bytes: Option<&Vec<u8>>) -> String {
    bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
}

fn findings(layer: &Qcow2Layer) -> Vec<Finding> {
    let header = layer.header();
    let mut findings = layer.faults().to_vec();
    for reference in layer.references() {
        let name = reference.printable_name();
        let code = match reference.role {
            Role::Parent => Code::BackingFile,
            Role::DataFile => Code::DataFile,
            Role::Extent => Code::ExternalExtents,
        };
        let text = format!("needs the {} '{name}'", reference.role.noun());
        findings.push(Finding::new(code, text).at(reference.offset));
    }
    if header.is_dirty() {
        let text = "was not closed properly: its reference counts may be wrong";
        findings.push(Finding::new(Code::Dirty, text).at(72));
    }
    if header.is_marked_corrupt() {
        let text = "is marked as corrupt by the program that wrote it";
        findings.push(Finding::new(Code::Corrupt, text).at(72));
    }
    let unknown = header.incompatible_features & !super::layout::INCOMPATIBLE_KNOWN;
    if unknown != 0 {
        let names = header.extensions.feature_names(0, unknown);
        let text = format!("uses incompatible features that are not known: {names}");
        findings.push(Finding::new(Code::UnknownFeature, text).at(72));
    }
    match header.crypt_method {
        CryptMethod::None => {}
        CryptMethod::Aes => {
            let text = "is encrypted by the legacy AES method";
            findings.push(Finding::new(Code::Encrypted, text).at(32));
        }
        CryptMethod::Luks => {
            findings.push(Finding::new(Code::Encrypted, "is encrypted").at(32));
            findings.push(Finding::new(Code::Luks, "is encrypted with LUKS").at(32));
        }
    }
    if !layer.snapshots().is_empty() {
        let text = format!("holds {} internal snapshot(s)", layer.snapshots().len());
        findings.push(Finding::new(Code::InternalSnapshots, text).at(header.snapshots_offset));
    }
    let stale = layer.bitmaps().iter().filter(|bitmap| bitmap.flags.in_use).count();
    if stale > 0 {
        let text = format!("{stale} persistent bitmap(s) were not saved properly");
        findings.push(Finding::new(Code::BitmapsInconsistent, text));
    }
    if layer.looks_over()
        && let Some(end) = missing_end(layer)
    {
        let size = layer.storage().size();
        let text = format!("the file ends at {size:#x}, a table lies at {end:#x}");
        findings.push(Finding::new(Code::Truncated, text).at(size));
    }
    findings
}

/// A first look for truncation that costs one page of the L1 table: an L2 table beyond the end.
fn missing_end(layer: &Qcow2Layer) -> Option<u64> {
    let error = layer.map(0, 1).err()?;
    (error.kind() == crate::ErrorKind::Corrupt)
        .then(|| error.offset())?
        .filter(|&offset| offset >= layer.storage().size())
}
