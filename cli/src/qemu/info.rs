//! `qemu-img info`.

use std::io::{self, Write};
use std::path::Path;

use diskimage::Format;
use diskimage::text::printable;
use serde_json::{Map, Value, json};

use super::getopt::Given;
use super::size::human;
use super::{Failure, Session, failed, one_file, output, snapshot, source};
use crate::args::{Command, InfoArgs, Output};
use crate::deferred::Deferred;
use crate::info::{Facts, options, snapshot_json, with_facts};
use crate::output::print_json;
use crate::report;

/// The members of format-specific information that qemu-img has, in the order in which it shows
/// them to people.
const QCOW2: &[&str] = &[
    "compat",
    "compression-type",
    "lazy-refcounts",
    "bitmaps",
    "refcount-bits",
    "data-file",
    "encrypt",
    "data-file-raw",
    "corrupt",
    "extended-l2",
];
const LUKS: &[&str] = &[
    "ivgen-alg",
    "detached-header",
    "hash-alg",
    "cipher-alg",
    "uuid",
    "cipher-mode",
    "slots",
    "payload-offset",
    "master-key-iters",
];
const VMDK: &[&str] = &["cid", "parent-cid", "create-type", "extents"];
const VMDK_EXTENT: &[&str] = &["compressed", "virtual-size", "filename", "cluster-size", "format"];

pub(super) fn run(session: &Session, given: &Given) -> Result<u8, Failure> {
    let form = output("info", given)?;
    let image = source::existing(given, one_file("info", given)?, "format", "image-opts")?;
    let unknown = image.unknown();
    let args = InfoArgs {
        open: source::open_args(given, image.format)?,
        file: image.path,
        more: Vec::new(),
        backing_chain: given.has("backing-chain"),
        contents: false,
        output: form,
    };
    let mut command = Command::Info(Deferred(args));
    session.begin(&mut command, unknown)?;
    let Command::Info(Deferred(args)) = command else { return Ok(report::USAGE) };
    let progress = session.bounds.progress();
    let answer = options(&args, &session.bounds, &progress).and_then(|options| {
        let image = options.open_image(&args.file)?;
        with_facts(&args, &options, &progress, &image, |all| all.iter().map(describe).collect())
    });
    let all: Vec<Value> = match answer {
        Ok(all) => named_by_children(all),
        Err(error) => return Ok(failed(&error, &args.file)),
    };
    let printed = match (form, args.backing_chain) {
        (Output::Json, true) => print_json(&all),
        (Output::Json, false) => all.iter().try_for_each(print_json),
        (Output::Human, _) => print(&all, &mut io::stdout().lock()),
    };
    Ok(report::printed(printed))
}

/// Backing files have the names that the images above them lead to, where we have what those are.
fn named_by_children(mut all: Vec<Value>) -> Vec<Value> {
    for index in 1..all.len() {
        let name = all[index - 1]["full-backing-filename"].clone();
        if !name.is_null() {
            all[index]["children"][0]["info"]["filename"] = name.clone();
            all[index]["filename"] = name;
        }
    }
    all
}

/// An image as qemu-img describes it: our description without what is ours alone.
fn describe(facts: &Facts<'_>) -> Value {
    let mut object = facts.json();
    let format = facts.layer.format();
    let Some(members) = object.as_object_mut() else { return object };
    for ours in ["findings", "contents", "disk-contents"] {
        members.shift_remove(ours);
    }
    members.insert("virtual-size".into(), json!(facts.layer.size().next_multiple_of(512)));
    let specific = members.shift_remove("format-specific");
    let specific = specific.and_then(|mut specific| known(format, &mut specific["data"]));
    if let Some(data) = specific {
        let specific = json!({ "type": format.name(), "data": data });
        members.insert("format-specific".into(), specific);
    }
    if !facts.description.snapshots.is_empty() {
        let snapshots = facts.description.snapshots.iter().map(|snapshot| {
            let mut object = snapshot_json(snapshot);
            object.as_object_mut().map(|members| members.shift_remove("virtual-size"));
            object
        });
        members.insert("snapshots".into(), Value::Array(snapshots.collect()));
    }
    let kind = protocol(facts.path);
    let child = &mut members["children"][0]["info"];
    child["format"] = json!(kind);
    child["format-specific"]["type"] = json!(kind);
    object
}

/// What a file is to QEMU.
fn protocol(path: &Path) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let is_device = |kind: std::fs::FileType| kind.is_block_device() || kind.is_char_device();
        if std::fs::metadata(path).is_ok_and(|found| is_device(found.file_type())) {
            return "host_device";
        }
    }
    let _ = path;
    "file"
}

/// Those members that qemu-img has; `None` of formats of which it tells nothing.
fn known(format: Format, data: &mut Value) -> Option<Value> {
    let names = match format {
        Format::Qcow2 => QCOW2,
        Format::Vmdk => VMDK,
        Format::Luks => LUKS,
        _ => return None,
    };
    let mut known = pick(names, data);
    if let Some(extents) = known.get_mut("extents").and_then(Value::as_array_mut) {
        for extent in extents {
            *extent = Value::Object(pick(VMDK_EXTENT, extent));
        }
    }
    Some(Value::Object(known))
}

fn pick(names: &[&str], from: &mut Value) -> Map<String, Value> {
    let found = names.iter().filter_map(|name| {
        let value = from.get_mut(*name)?.take();
        Some(((*name).to_owned(), value))
    });
    found.collect()
}

fn print(all: &[Value], out: &mut impl Write) -> io::Result<()> {
    all.iter().enumerate().try_for_each(|(index, image)| {
        if index > 0 {
            writeln!(out)?;
        }
        print_image(image, out)
    })
}

/// A text of the description, safe for a terminal.
fn text(object: &Value, name: &str) -> Option<String> {
    object[name].as_str().map(|text| printable(text.as_bytes()))
}

fn sized(object: &Value, name: &str) -> String {
    let bytes = object[name].as_u64().unwrap_or_default();
    format!("{} ({bytes} bytes)", human(bytes))
}

fn print_image(image: &Value, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "image: {}", text(image, "filename").unwrap_or_default())?;
    writeln!(out, "file format: {}", text(image, "format").unwrap_or_default())?;
    writeln!(out, "virtual size: {}", sized(image, "virtual-size"))?;
    let taken = |object: &Value| human(object["actual-size"].as_u64().unwrap_or_default());
    writeln!(out, "disk size: {}", taken(image))?;
    if image["encrypted"] == true {
        writeln!(out, "encrypted: yes")?;
    }
    if let Some(size) = image["cluster-size"].as_u64() {
        writeln!(out, "cluster_size: {size}")?;
    }
    if image["dirty-flag"] == true {
        writeln!(out, "cleanly shut down: no")?;
    }
    if let Some(backing) = text(image, "backing-filename") {
        let full = text(image, "full-backing-filename").filter(|full| *full != backing);
        let full = full.map(|full| format!(" (actual path: {full})")).unwrap_or_default();
        writeln!(out, "backing file: {backing}{full}")?;
        if let Some(format) = text(image, "backing-filename-format") {
            writeln!(out, "backing file format: {format}")?;
        }
    }
    if let Some(snapshots) = image["snapshots"].as_array() {
        snapshot::print(snapshots, out)?;
    }
    if let Some(data) = image["format-specific"]["data"].as_object() {
        writeln!(out, "Format specific information:")?;
        for (key, value) in data {
            print_value(key.replace('-', " "), value, 4, out)?;
        }
    }
    for child in image["children"].as_array().into_iter().flatten() {
        let (name, info) = (text(child, "name").unwrap_or_default(), &child["info"]);
        writeln!(out, "Child node '/{name}':")?;
        writeln!(out, "    filename: {}", text(info, "filename").unwrap_or_default())?;
        writeln!(out, "    protocol type: {}", text(info, "format").unwrap_or_default())?;
        writeln!(out, "    file length: {}", sized(info, "virtual-size"))?;
        writeln!(out, "    disk size: {}", taken(info))?;
    }
    Ok(())
}

fn print_value(key: String, value: &Value, indent: usize, out: &mut impl Write) -> io::Result<()> {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(members) => {
            writeln!(out, "{pad}{key}:")?;
            members.iter().try_for_each(|(key, value)| {
                print_value(key.replace('-', " "), value, indent + 4, out)
            })
        }
        Value::Array(items) => {
            writeln!(out, "{pad}{key}:")?;
            items.iter().enumerate().try_for_each(|(index, value)| {
                print_value(format!("[{index}]"), value, indent + 4, out)
            })
        }
        Value::String(text) => writeln!(out, "{pad}{key}: {}", printable(text.as_bytes())),
        other => writeln!(out, "{pad}{key}: {other}"),
    }
}
