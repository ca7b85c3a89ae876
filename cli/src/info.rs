//! `diskimage info`: what an image is.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use diskimage::container::split_name;
use diskimage::format::probe::probe;
use diskimage::layer::{Description, Role, Snapshot, Value as Described};
use diskimage::storage::FileStorage;
use diskimage::text::printable;
use diskimage::{
    Contents, Finding, Format, Image, Layer, OpenOptions, Progress, Result, Storage, contents,
};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Value, json};

use crate::args::{InfoArgs, Output};
use crate::bar::above;
use crate::bounds::Bounds;
use crate::output::Documents;
use crate::report::worse;
use crate::several::Several;
use crate::size::{human_size, sized};
use crate::watch::{Files, Watch};
use crate::{output, report, style};

/// All that is shown of one image.
pub(crate) struct Facts<'a> {
    pub(crate) path: &'a Path,
    pub(crate) layer: &'a dyn Layer,
    storage: &'a dyn Storage,
    pub(crate) description: Description,
    /// Partition tables and file systems that lie in the open.
    contents: Vec<Format>,
    findings: Vec<Finding>,
    /// What lies on the disk, where that was asked for.
    disk: Option<Contents>,
}

pub(crate) fn run(args: &InfoArgs, bounds: &Bounds) -> u8 {
    let count = 1 + args.more.len();
    let documents = Documents::of(count, args.output);
    let watch = Watch::reading(bounds.progress(), Files::of(count), count > 1);
    let code = watch.worst(args.each(), |index, args| {
        if index > 0 && args.output == Output::Human {
            // a reader that went away shows with the answer
            let _ = above(|| writeln!(io::stdout()));
        }
        match watch.each(|| answer(&args, bounds, &watch.progress, &documents)) {
            Ok(printed) => report::printed(printed),
            Err(error) => report::fail(&error, &args.file),
        }
    });
    worse(code, report::printed(documents.end()))
}

fn answer(
    args: &InfoArgs,
    bounds: &Bounds,
    progress: &Arc<Progress>,
    documents: &Documents,
) -> Result<io::Result<()>> {
    let options = options(args, bounds, progress)?;
    if let Some(printed) = container(args, &options, bounds, documents)? {
        return Ok(printed);
    }
    let image = match options.open_image(&args.file) {
        Ok(image) => image,
        Err(error) => {
            if args.output == Output::Json && !error.kind().is_stop() {
                print_identity(&args.file, documents);
            }
            return Err(error);
        }
    };
    let print = |all: &[Facts<'_>]| match (args.output, args.backing_chain) {
        (Output::Json, false) => documents.print(&all[0]),
        (Output::Json, true) => documents.print(all),
        (Output::Human, _) => {
            let mut out = io::stdout().lock();
            all.iter().enumerate().try_for_each(|(index, facts)| {
                if index > 0 {
                    writeln!(out)?;
                }
                facts.print(&mut out)
            })
        }
    };
    with_facts(args, &options, progress, &image, |all| above(|| print(all)))
}

/// How the image is opened.
pub(crate) fn options(
    args: &InfoArgs,
    bounds: &Bounds,
    progress: &Arc<Progress>,
) -> Result<OpenOptions> {
    let options = args.open.options(&args.file)?.limits(bounds.limits(1).0);
    Ok(bounds.spilling(options.progress(Arc::clone(progress))))
}

/// Hands over what is shown of the image, and behind it of its backing files if they are asked for.
pub(crate) fn with_facts<T>(
    args: &InfoArgs,
    options: &OpenOptions,
    progress: &Progress,
    image: &Image,
    take: impl FnOnce(&[Facts<'_>]) -> T,
) -> Result<T> {
    let description = image.layer().describe().map_err(|error| error.in_file(&args.file))?;
    let findings = image.findings().map_err(|error| error.in_file(&args.file))?;
    let (layer, storage) = (image.layer(), image.storage());
    // a read that was stopped may have passed for something odd
    progress.check().map_err(|error| error.in_file(&args.file))?;
    let contents = image.probe().contents().map(|m| m.format).collect();
    let disk = if args.contents {
        let disk = options.open(&args.file)?;
        Some(contents::look(&disk, &contents::Bounds::default())?)
    } else {
        None
    };
    let path = &args.file;
    let top = Facts { path, layer, storage, description, contents, findings, disk };
    if !args.backing_chain {
        return Ok(take(&[top]));
    }
    // opening the chain checks that each parent is what its child says
    let chain = options.open_chain_images(&args.file)?;
    let mut all = vec![top];
    for image in chain.iter().skip(1) {
        let description = image.layer().describe().map_err(|e| e.in_file(image.path()))?;
        let findings = image.findings().map_err(|e| e.in_file(image.path()))?;
        let Some(storage) = image.storage() else { continue };
        let (path, layer) = (image.path(), image.layer());
        let contents = Vec::new();
        let disk = None;
        all.push(Facts { path, layer, storage, description, contents, findings, disk });
    }
    Ok(take(&all))
}

/// Describes a container as one; `None` if the file is none, or cannot be told to be one.
fn container(
    args: &InfoArgs,
    options: &OpenOptions,
    bounds: &Bounds,
    documents: &Documents,
) -> Result<Option<io::Result<()>>> {
    let container = match options.open_container(&args.file) {
        Ok(Some(container)) => container,
        Ok(None) => return Ok(None),
        Err(error) => {
            if args.output == Output::Json && !error.kind().is_stop() {
                print_identity(&split_name(&args.file).0, documents);
            }
            return Err(error);
        }
    };
    let disk = if args.contents {
        let disk = options.open(&args.file)?;
        bounds.tell_spilled();
        Some(contents::look(&disk, &contents::Bounds::default())?)
    } else {
        None
    };
    let facts = crate::container::Facts::new(&args.file, &container, options, disk)?;
    Ok(Some(above(|| match args.output {
        Output::Json => documents.print(&facts.json()),
        Output::Human => facts.print(&mut io::stdout().lock()),
    })))
}

impl Serialize for Facts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let object = self.json();
        let members = object.as_object().into_iter().flatten();
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in members {
            match &**name {
                "snapshots" => map.serialize_entry(name, &Snapshots(&self.description.snapshots)),
                _ => map.serialize_entry(name, value),
            }?;
        }
        map.end()
    }
}

/// Snapshots as an array.
struct Snapshots<'a>(&'a [Snapshot]);

impl Serialize for Snapshots<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(snapshot_json))
    }
}

/// What can be said, for programs, of a file whose disk cannot be read: what it is.
fn print_identity(path: &Path, documents: &Documents) {
    let Ok(storage) = FileStorage::open(path) else { return };
    let Ok(found) = probe(&storage) else { return };
    let formats: Vec<_> = found.matches.iter().map(|m| m.format.name()).collect();
    let identity = json!({
        "filename": output::text_of(path.as_os_str().as_encoded_bytes()),
        "format": formats.first(),
        "formats": formats,
        "actual-size": storage.allocated_size().unwrap_or_else(|| storage.size()),
        "findings": output::findings(&found.findings()),
    });
    // the error that follows is what counts
    let _ = above(|| documents.print(&identity));
}

impl Facts<'_> {
    fn backing(&self) -> Option<&diskimage::layer::Reference> {
        self.layer.references().iter().find(|r| r.role == Role::Parent)
    }

    fn actual_size(&self) -> u64 {
        self.storage.allocated_size().unwrap_or_else(|| self.storage.size())
    }

    /// qemu-img's fields in qemu-img's meaning, then ours; the snapshots are left open.
    pub(crate) fn json(&self) -> Value {
        let name = output::text_of(self.path.as_os_str().as_encoded_bytes());
        let file = json!({
            "children": [],
            "filename": name,
            "format": "file",
            "virtual-size": self.storage.size().next_multiple_of(512),
            "actual-size": self.actual_size(),
            "dirty-flag": false,
            "format-specific": { "type": "file", "data": {} },
        });
        let mut object = json!({
            "children": [{ "name": "file", "info": file }],
            "virtual-size": self.layer.size(),
            "filename": name,
            "format": self.layer.format().name(),
            "actual-size": self.actual_size(),
        });
        if let Some(cluster) = self.layer.cluster_size() {
            object["cluster-size"] = json!(cluster);
        }
        if self.description.encrypted {
            object["encrypted"] = json!(true);
        }
        if let Some(backing) = self.backing() {
            let name = backing.names.first().map(Vec::as_slice).unwrap_or_default();
            object["backing-filename"] = output::text_of(name);
            object["full-backing-filename"] = output::text_of(&self.full_name(name));
            if let Some(format) = &backing.format {
                object["backing-filename-format"] = output::text_of(format);
            }
        }
        if !self.description.snapshots.is_empty() {
            // their place; there may be very many, which are put in words one by one
            object["snapshots"] = Value::Null;
        }
        if !self.description.details.is_empty() {
            object["format-specific"] = json!({
                "type": self.layer.format().name(),
                "data": output::described_map(&self.description.details),
            });
        }
        object["dirty-flag"] = json!(self.description.dirty);
        if !self.contents.is_empty() {
            let contents: Vec<_> = self.contents.iter().map(|format| format.name()).collect();
            object["contents"] = json!(contents);
        }
        if let Some(disk) = &self.disk {
            object["disk-contents"] = crate::contents::json(disk);
        }
        object["findings"] = output::findings(&self.findings);
        object
    }

    /// A backing file's name, joined to the image's folder.
    fn full_name(&self, name: &[u8]) -> Vec<u8> {
        let folder = self.path.parent().map(|p| p.as_os_str().as_encoded_bytes());
        match folder {
            Some(folder) if !name.starts_with(b"/") && !folder.is_empty() => {
                let separator: &[u8] = if folder.ends_with(b"/") { b"" } else { b"/" };
                [folder, separator, name].concat()
            }
            _ => name.to_owned(),
        }
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let format = self.layer.format();
        let mut line = |key: &str, value: &str| writeln!(out, "{}{value}", style::key(key));
        line("image", &report::printable(self.path))?;
        line("format", &format!("{} ({})", format.name(), format.description()))?;
        line("virtual size", &sized(self.layer.size()))?;
        line("disk size", &sized(self.actual_size()))?;
        if let Some(cluster) = self.layer.cluster_size() {
            line("cluster size", &sized(cluster))?;
        }
        if self.description.encrypted {
            line("encrypted", "yes")?;
        }
        if let Some(backing) = self.backing() {
            let declared = backing.format.as_ref().map(|f| format!(" (format {})", printable(f)));
            line(
                "backing file",
                &format!("{}{}", backing.printable_name(), declared.unwrap_or_default()),
            )?;
        }
        if !self.description.details.is_empty() {
            writeln!(out, "{}", style::heading(format_args!("{} details:", format.name())))?;
            print_details(out, &self.description.details, 4)?;
        }
        if !self.contents.is_empty() {
            let contents: Vec<_> = self.contents.iter().map(|f| f.description()).collect();
            writeln!(out, "{}{}", style::key("contents"), contents.join(", "))?;
        }
        if !self.description.snapshots.is_empty() {
            print_snapshots(out, &self.description.snapshots)?;
        }
        crate::contents::print_with_findings(self.disk.as_ref(), &self.findings, out)
    }
}

pub(crate) fn print_details(
    out: &mut impl Write,
    details: &[(&'static str, Described)],
    indent: usize,
) -> io::Result<()> {
    for (key, value) in details {
        print_value(out, key, value, indent)?;
    }
    Ok(())
}

fn print_value(
    out: &mut impl Write,
    key: &str,
    value: &Described,
    indent: usize,
) -> io::Result<()> {
    let pad = " ".repeat(indent);
    match value {
        Described::Bool(yes) => writeln!(out, "{pad}{key}: {}", if *yes { "yes" } else { "no" }),
        Described::Number(number) => writeln!(out, "{pad}{key}: {number}"),
        Described::Text(text) => writeln!(out, "{pad}{key}: {}", printable(text.as_bytes())),
        Described::Map(map) => {
            writeln!(out, "{pad}{key}:")?;
            print_details(out, map, indent + 4)
        }
        Described::List(list) => {
            let plain: Option<Vec<String>> = list
                .iter()
                .map(|value| match value {
                    Described::Text(text) => Some(printable(text.as_bytes())),
                    Described::Number(number) => Some(number.to_string()),
                    _ => None,
                })
                .collect();
            if let Some(plain) = plain {
                return writeln!(out, "{pad}{key}: {}", plain.join(", "));
            }
            for (index, value) in list.iter().enumerate() {
                print_value(out, &format!("{key} {}", index + 1), value, indent)?;
            }
            Ok(())
        }
    }
}

fn print_snapshots(out: &mut impl Write, snapshots: &[Snapshot]) -> io::Result<()> {
    writeln!(out, "{}", style::heading("snapshots:"))?;
    writeln!(
        out,
        "    {:<6}{:<24}{:>10}  {:<20}{:>12}",
        "id", "name", "vm state", "taken (UTC)", "disk"
    )?;
    for snapshot in snapshots {
        writeln!(
            out,
            "    {:<6}{:<24}{:>10}  {:<20}{:>12}",
            printable(&snapshot.id),
            printable(&snapshot.name),
            human_size(snapshot.vm_state_size),
            date(snapshot.date_sec.into()),
            human_size(snapshot.virtual_size),
        )?;
    }
    Ok(())
}

pub(crate) fn snapshot_json(snapshot: &Snapshot) -> Value {
    let mut object = json!({
        "id": output::text_of(&snapshot.id),
        "name": output::text_of(&snapshot.name),
        "vm-state-size": snapshot.vm_state_size,
        "date-sec": snapshot.date_sec,
        "date-nsec": snapshot.date_nsec,
        "vm-clock-sec": snapshot.vm_clock_nsec / 1_000_000_000,
        "vm-clock-nsec": snapshot.vm_clock_nsec % 1_000_000_000,
        "virtual-size": snapshot.virtual_size,
    });
    if let Some(icount) = snapshot.icount {
        object["icount"] = json!(icount);
    }
    object
}

/// Seconds since 1970 as a date and a time, UTC, in the Gregorian calendar.
pub(crate) fn date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // days since the first of March of the year 0, in eras of 400 years
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let leaps = day_of_era / 1460 + day_of_era / 146_096;
    let year_of_era = (day_of_era + day_of_era / 36_524 - leaps) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_follow_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (951_868_800, "2000-03-01 00:00:00"),
            (1_700_000_000, "2023-11-14 22:13:20"),
            (4_294_967_295, "2106-02-07 06:28:15"),
        ] {
            assert_eq!(date(seconds), text);
        }
    }
}
