//! Deltas: what names a parent, and what proves it.

use super::super::VmdkLayer;
use super::build::*;
use crate::layer::{Identity, Layer, Role};
use crate::{Code, ErrorKind};

const UUID: &str = "01020304-0506-0708-090a-0b0c0d0e0f10";

/// A disk with these lines in its descriptor, where `parentCID` is left to them.
fn disk(lines: &str) -> VmdkLayer {
    let text = descriptor("monolithicFlat", "RW 1 ZERO").replace("parentCID=ffffffff\n", "");
    layer(format!("{text}{lines}\n")).unwrap()
}

fn parent_names(layer: &VmdkLayer) -> Vec<String> {
    let parent = layer.references().iter().find(|r| r.role == Role::Parent);
    let names = parent.map(|parent| parent.names.clone()).unwrap_or_default();
    names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}

#[test]
fn what_names_a_parent_is_never_overlooked() {
    let zeros = "00000000-0000-0000-0000-000000000000";
    for none in [
        String::new(),
        "parentCID=ffffffff".into(),
        format!("parentCID=FFFFFFFF\nddb.uuid.parent=\"{zeros}\""),
        "parentFileNameHint=\"\"".into(),
    ] {
        assert!(parent_names(&disk(&none)).is_empty(), "{none}");
    }
    for (lines, names) in [
        ("parentCID=1\nparentFileNameHint=\"base.vmdk\"".into(), vec!["base.vmdk"]),
        ("parentFileNameHint=\"base.vmdk\"".into(), vec!["base.vmdk"]),
        ("parentCID=1".into(), vec!["CID=00000001"]),
        (format!("ddb.uuid.parent=\"{}\"", UUID.to_uppercase()), vec![UUID]),
        (format!("parentCID=ffffffff\nddb.uuid.parent=\"{UUID}\""), vec![UUID]),
        (
            format!("parentCID=1\nddb.uuid.parent={UUID}\nparentFileNameHint=\"C:\\a\\b.vmdk\""),
            vec!["C:/a/b.vmdk", "C:\\a\\b.vmdk", UUID],
        ),
    ] {
        let layer = disk(&lines);
        assert_eq!(parent_names(&layer), names, "{lines}");
        assert_eq!(codes(&layer), [Code::BackingFile]);
        let reference = &layer.references()[0];
        assert!(reference.offset > 0, "{lines}");
        assert_eq!(reference.format.is_some(), lines.contains("CID=1"), "{lines}");
    }
}

#[test]
fn an_image_has_all_of_its_identities() {
    let layer = disk(&format!("ddb.uuid.image=\"{UUID}\""));
    let uuid = Identity::Uuid([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
    assert_eq!(layer.identities(), [Identity::ContentId(7), uuid]);
}

#[test]
fn the_parent_must_be_the_one_that_was_meant() {
    let other = UUID.replace("10", "11");
    let hint = "parentFileNameHint=\"base\"\n";
    let uuid_image = format!("ddb.uuid.image=\"{UUID}\"");
    let uuid_parent = format!("ddb.uuid.parent=\"{UUID}\"");
    for (child, parent, good) in [
        (format!("{hint}parentCID=7"), "", true),
        (format!("{hint}parentCID=8"), "", false),
        (hint.to_owned(), "", false),
        (format!("{hint}parentCID=ffffffff"), "", false),
        (uuid_parent.clone(), &*uuid_image, true),
        (uuid_parent.clone(), "", true),
        (format!("ddb.uuid.parent=\"{other}\""), &*uuid_image, false),
        (format!("parentCID=7\nddb.uuid.parent=\"{other}\""), &*uuid_image, false),
        (format!("parentCID=8\n{uuid_parent}"), &*uuid_image, false),
        (format!("parentCID=7\n{uuid_parent}"), &*uuid_image, true),
    ] {
        let (child, parent) = (disk(&child), disk(parent));
        let checked = child.check_parent(&parent);
        assert_eq!(checked.is_ok(), good, "{:?}", child.descriptor());
        if let Err(error) = checked {
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.offset().is_some() && error.advice().is_some());
        }
    }
    // something that is no VMDK has no content identifier
    let raw = crate::format::raw::RawLayer::new(memory(vec![0; 512]));
    assert!(disk("parentCID=7").check_parent(&raw).is_err());
    let trusting = VmdkLayer::open(
        memory(descriptor("vmfs", "RW 1 ZERO").replace("ffffffff", "8").into_bytes()),
        &trusting(),
    );
    assert!(trusting.unwrap().check_parent(&raw).is_ok());
}
