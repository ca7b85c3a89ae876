//! What a VMDK says of itself: what qemu-img reports under its names first.

use std::path::Path;

use crate::finding::{Code, Finding};
use crate::layer::{Description, Layer, Role, Value};

use super::check::look_over;
use super::descriptor::Descriptor;
use super::error::VmdkDetail;
use super::header::Newlines;
use super::layer::VmdkLayer;
use super::layout::SECTOR;
use super::names::{candidates, uuid_text};
use super::part::{Content, Part};

pub(super) fn describe(layer: &VmdkLayer) -> Description {
    Description {
        encrypted: encryption(layer).is_some(),
        dirty: layer.parts().iter().filter_map(Part::sparse).any(|sparse| sparse.is_dirty()),
        snapshots: Vec::new(),
        details: details(layer),
        findings: findings(layer),
    }
}

fn encryption(layer: &VmdkLayer) -> Option<&'static str> {
    layer.descriptor().and_then(Descriptor::encryption)
}

fn details(layer: &VmdkLayer) -> Vec<(&'static str, Value)> {
    let mut details: Vec<(&'static str, Value)> = Vec::new();
    let descriptor = layer.descriptor();
    if let Some(descriptor) = descriptor {
        details.push(("create-type", descriptor.create_type.as_str().into()));
        let ids = [("cid", descriptor.cid), ("parent-cid", descriptor.parent_cid)];
        details.extend(ids.into_iter().filter_map(|(key, id)| Some((key, id?.into()))));
    }
    let extents = layer.parts().iter().map(|part| extent(layer, part));
    details.push(("extents", Value::List(extents.collect())));
    if let Some(descriptor) = descriptor {
        for (key, name) in [
            ("descriptor-version", "version"),
            ("encoding", "encoding"),
            ("adapter-type", "ddb.adaptertype"),
            ("hw-version", "ddb.virtualhwversion"),
            ("tools-version", "ddb.toolsversion"),
            ("uuid", "ddb.uuid"),
            ("long-content-id", "ddb.longcontentid"),
            ("change-track-file", "changetrackpath"),
        ] {
            details.extend(descriptor.text(name).map(|text| (key, text.into())));
        }
        let uuids =
            [("image-uuid", descriptor.image_uuid()), ("parent-uuid", descriptor.parent_uuid())];
        details.extend(uuids.iter().filter_map(|(key, u)| Some((*key, uuid_text(&(*u)?).into()))));
    }
    if let Some(header) = layer.header() {
        details.push(("header-version", header.version.into()));
        details.push(("markers", header.has_markers().into()));
        details.push(("zeroed-grains", header.has_zeroed_grains().into()));
        let newlines = match header.newlines {
            Newlines::Untested => "none",
            Newlines::Intact => "intact",
            Newlines::Mangled(_) => "damaged",
        };
        details.push(("newline-test", newlines.into()));
        if header.gd_offset == super::layout::GD_AT_END {
            let valid = layer.footer().is_some();
            details.push(("footer", if valid { "valid" } else { "invalid" }.into()));
        }
        if let Some(sparse) = layer.parts().first().and_then(Part::sparse) {
            let copy = if sparse.damaged().is_some() {
                "redundant"
            } else if layer.footer().is_some() {
                "footer"
            } else {
                "primary"
            };
            details.push(("grain-directory", copy.into()));
        }
    }
    details
}

/// An extent as qemu-img describes it.
fn extent(layer: &VmdkLayer, part: &Part) -> Value {
    let own = part.reference.is_none() && matches!(part.content, Content::Sparse(_));
    let encoding = layer.descriptor().and_then(Descriptor::encoding);
    let name = part.line.as_ref().map(|line| {
        let names = candidates(&line.name, encoding);
        String::from_utf8_lossy(names.first().map(Vec::as_slice).unwrap_or_default()).into_owned()
    });
    let path = layer.own_storage().path();
    let name = match (path, name.unwrap_or_default()) {
        (Some(path), _) if own => path.to_string_lossy().into_owned(),
        // a relative name starts from the descriptor's folder
        (Some(path), name) if !name.is_empty() => {
            path.parent().unwrap_or(Path::new("")).join(name).to_string_lossy().into_owned()
        }
        (_, name) => name,
    };
    let kind = part.line.as_ref().map_or("", |line| line.kind.name());
    let mut extent: Vec<(&'static str, Value)> = vec![
        ("filename", name.into()),
        ("format", if own { "" } else { kind }.into()),
        ("virtual-size", part.length.into()),
    ];
    if let Some(sparse) = part.sparse() {
        extent.push(("cluster-size", sparse.grain().size().into()));
        if sparse.compressed() {
            extent.push(("compressed", true.into()));
        }
    }
    Value::Map(extent)
}

fn findings(layer: &VmdkLayer) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut extents = layer.references().iter().filter(|r| r.role == Role::Extent);
    if let Some(first) = extents.next() {
        let (name, more) = (first.printable_name(), extents.count());
        let text = match more {
            0 => format!("needs the extent file '{name}'"),
            _ => format!("needs the extent file '{name}' and {more} more"),
        };
        findings.push(Finding::new(Code::ExternalExtents, text).at(first.offset));
    }
    for parent in layer.references().iter().filter(|r| r.role == Role::Parent) {
        let text = format!("needs the backing file '{}'", parent.printable_name());
        findings.push(Finding::new(Code::BackingFile, text).at(parent.offset));
    }
    if let Some((detail, at)) = layer.damage() {
        let code = match detail {
            VmdkDetail::FooterMismatch(_) => Code::FooterMismatch,
            VmdkDetail::Footer(_) => Code::FooterMissing,
            _ => Code::NewlineMangled,
        };
        findings.push(Finding::new(code, detail.to_string()).at(at));
    }
    if let Some(footer) = layer.footer().filter(|footer| !footer.differences.is_empty()) {
        let text = format!("the footer contradicts the header: {}", footer.differences.join(", "));
        findings.push(Finding::new(Code::FooterMismatch, text).at(footer.offset));
    }
    if let Some(why) = encryption(layer) {
        findings.push(Finding::new(Code::Encrypted, format!("is encrypted: {why}")));
    }
    let repeated = layer.descriptor().map(|d| d.repeated.join(", ")).unwrap_or_default();
    if !repeated.is_empty() {
        let text = format!("the descriptor has keys twice, with different values: {repeated}");
        findings.push(Finding::new(Code::CheckError, text));
    }
    for part in layer.parts() {
        if let Err(error) = part.check_access() {
            let at = error.offset().unwrap_or_default();
            findings.push(Finding::new(Code::CheckError, error.to_string()).at(at));
            break;
        }
    }
    for part in layer.parts() {
        let Some(sparse) = part.sparse() else { continue };
        if sparse.is_dirty() {
            let text = "was not closed properly";
            findings.push(Finding::new(Code::Dirty, text).at(72));
        }
        if let Some(error) = sparse.damaged() {
            let text = format!("the primary grain directory is damaged: {error}");
            let at = error.offset().unwrap_or_default();
            findings.push(Finding::new(Code::CheckError, &text).at(at));
            let text = "the redundant grain directory is used, the primary one being damaged";
            findings.push(Finding::new(Code::RedundantCopyDamaged, text).at(at));
        }
        if layer.look_over() == 0 {
            continue;
        }
        let count = u64::try_from(layer.parts().len()).unwrap_or(u64::MAX).max(1);
        let budget =
            layer.look_over().checked_div(count).unwrap_or_default().max(SECTOR.saturating_mul(8));
        findings.extend(look_over(sparse, budget));
    }
    findings
}
