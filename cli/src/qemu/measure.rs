//! `qemu-img measure`.

use std::io::Write;
use std::path::Path;

use diskimage::{Format, Progress, Result, VirtualDisk, VirtualDiskExt};
use serde_json::{Value, json};

use super::getopt::Given;
use super::{Failure, Session, failed, output, snapshot, source, written_format};
use crate::args::{Command, InfoArgs, MeasureArgs, Output};
use crate::deferred::Deferred;
use crate::image::{TargetArgs, split};
use crate::measure::{of_disk, of_source};
use crate::output::{described_map, print_json};
use crate::package::AimArgs;
use crate::report;
use crate::size::parse_size;

pub(super) fn run(session: &Session, given: &Given) -> std::result::Result<u8, Failure> {
    let form = output("measure", given)?;
    let size = given.text("size").map(|text| {
        let wrong = |_| Failure::new(format!("Invalid image size specified: '{text}'."));
        parse_size(&text).map(|size| size.next_multiple_of(512)).map_err(wrong)
    });
    let size = size.transpose()?;
    let file = match (&*given.operands, size) {
        ([], Some(_)) => None,
        ([file], None) => Some(source::existing(given, file, "format", "image-opts")?),
        ([_], Some(_)) => {
            return Err(Failure::new("--size N cannot be used together with a filename."));
        }
        _ => return Err(Failure::new("Either --size N or one filename must be specified.")),
    };
    let open = source::open_args(given, file.as_ref().and_then(|file| file.format))?;
    let unknown = file.as_ref().and_then(|file| file.unknown());
    let file = file.map(|file| file.path);
    let snapshot = match (given.text("snapshot"), &file) {
        (Some(parameter), Some(file)) => Some(snapshot::named(session, &parameter, &open, file)?),
        _ => None,
    };
    let options = given.all("options").map(|text| text.to_string_lossy().into_owned());
    let target = TargetArgs { options: options.collect(), seed: None, backing_format: None };
    let output_format = written_format(given.text("target-format"))?;
    let args = MeasureArgs {
        file,
        size,
        open,
        snapshot,
        output_format: Some(output_format),
        aimed: AimArgs::default(),
        target,
        compress: false,
        output: form,
    };
    if let Some(help) = args.target.help(output_format) {
        return Ok(report::printed(std::io::stdout().lock().write_all(help.as_bytes())));
    }
    let mut command = Command::Measure(Deferred(args));
    session.begin(&mut command, unknown)?;
    let Command::Measure(Deferred(args)) = command else { return Ok(report::USAGE) };
    let (aim, progress) = ((None, output_format), session.bounds.progress());
    let sizes = of_source(&args, aim, &session.bounds, &progress, |spec, disk, progress| {
        let (required, full, _) = of_disk(spec, disk, progress)?;
        let required = match output_format {
            // room is counted as if there were no holes
            Format::Raw => full,
            Format::Qcow2 => required.max(with_all_tables(disk, full, cluster(&args), progress)?),
            _ => required,
        };
        Ok((required, full))
    });
    let answer = sizes.and_then(|sizes| Ok((sizes, bitmaps(session, &args)?)));
    let ((required, full), bitmaps) = match answer {
        Ok(answer) => answer,
        Err(error) => {
            let file = args.file.as_deref().unwrap_or(Path::new("measure"));
            return Ok(failed(&error, file));
        }
    };
    let mut answer = json!({ "required": required, "fully-allocated": full });
    if let Some(bitmaps) = bitmaps {
        answer["bitmaps"] = json!(bitmaps);
    }
    let printed = if form == Output::Json { print_json(&answer) } else { print(&answer) };
    Ok(report::printed(printed))
}

fn print(answer: &Value) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "required size: {}", answer["required"])?;
    writeln!(out, "fully allocated size: {}", answer["fully-allocated"])?;
    match answer.get("bitmaps") {
        Some(bitmaps) => writeln!(out, "bitmaps size: {bitmaps}"),
        None => Ok(()),
    }
}

/// qemu-img counts the tables of a whole disk, whatever is stored; we write those that are needed.
/// Who sets so much room aside may have another program write there.
fn with_all_tables(
    disk: &dyn VirtualDisk,
    full: u64,
    cluster: u64,
    progress: &Progress,
) -> Result<u64> {
    let (mut clusters, mut counted) = (0u64, 0u64);
    for extent in disk.extents(0..disk.size()) {
        let extent = extent?;
        progress.check()?;
        if !extent.kind.is_zero() {
            // the first cluster may be counted already
            let (first, behind) = (extent.start / cluster, extent.end().div_ceil(cluster));
            clusters += behind.saturating_sub(first.max(counted));
            counted = counted.max(behind);
        }
    }
    let tables = full.saturating_sub(disk.size().div_ceil(cluster).saturating_mul(cluster));
    Ok(tables.saturating_add(clusters.saturating_mul(cluster)))
}

/// What the options of the target say.
fn option(args: &MeasureArgs, name: &str) -> Option<String> {
    let pairs = args.target.options.iter().flat_map(|options| split(options));
    pairs.rev().find(|(key, _)| key == name).map(|(_, value)| value)
}

/// The cluster size of a qcow2 that is measured.
fn cluster(args: &MeasureArgs) -> u64 {
    let size = option(args, "cluster_size").and_then(|size| parse_size(&size).ok());
    size.unwrap_or(64 << 10).max(512)
}

/// The room that bitmaps of the image would take up in the other one, if both formats have them:
/// for each a table and its bits, and a directory for all, in whole clusters.
fn bitmaps(session: &Session, args: &MeasureArgs) -> Result<Option<u64>> {
    let has_bitmaps = args.output_format == Some(Format::Qcow2)
        && !matches!(option(args, "compat").as_deref(), Some("0.10" | "v2"));
    let Some(file) = args.file.as_ref().filter(|_| has_bitmaps) else { return Ok(None) };
    let cluster = cluster(args);
    let looked = InfoArgs {
        file: file.clone(),
        more: Vec::new(),
        open: args.open.clone(),
        backing_chain: false,
        contents: false,
        output: Output::Json,
    };
    let options = crate::info::options(&looked, &session.bounds, &session.bounds.progress())?;
    let image = options.open_image(file)?;
    let description = image.layer().describe().map_err(|error| error.in_file(file))?;
    let details = described_map(&description.details);
    if image.layer().format() != Format::Qcow2 || details["compat"] == "0.10" {
        return Ok(None);
    }
    let found = details["bitmaps"].as_array();
    let in_use = json!("in-use");
    let is_sound =
        |bitmap: &&Value| !bitmap["flags"].as_array().is_some_and(|flags| flags.contains(&in_use));
    let (mut bytes, mut directory) = (0u64, 0u64);
    for bitmap in found.into_iter().flatten().filter(is_sound) {
        let granularity = bitmap["granularity"].as_u64().unwrap_or(1).max(1);
        let bits = image.layer().size().div_ceil(granularity);
        let clusters = bits.div_ceil(8).div_ceil(cluster);
        let table = clusters.saturating_mul(8).div_ceil(cluster);
        bytes = bytes.saturating_add(clusters.saturating_add(table).saturating_mul(cluster));
        let name = bitmap["name"].as_str().map_or(0, str::len);
        // an entry of the directory, without extra data
        let entry = u64::try_from(name).unwrap_or(u64::MAX).saturating_add(24).next_multiple_of(8);
        directory = directory.saturating_add(entry);
    }
    Ok(Some(bytes.saturating_add(directory.next_multiple_of(cluster))))
}
