//! What lies on a disk: partitions and file systems, for people and for programs.

use std::io::{self, Write};

use diskimage::contents::{Partition, Role, Superblock, TableKind};
use diskimage::{Contents, Finding};
use serde_json::{Value, json};

use crate::output;
use crate::size::human_size;
use crate::style;

/// All of it, for programs.
pub(crate) fn json(contents: &Contents) -> Value {
    let table = contents.table.as_ref().map(|table| {
        json!({
            "type": table.kind.name(),
            "id": table.id,
            "sector-size": table.sector_size,
            "hybrid": table.is_hybrid,
        })
    });
    let partitions = contents.partitions.iter().map(|one| {
        let mut object = json!({
            "number": one.number,
            "role": one.role.as_str(),
            "start": one.start,
            "size": one.length,
            "type": one.kind.id,
            "type-name": one.kind.name,
            "uuid": one.uuid,
            "name": one.name,
            "bootable": one.bootable,
            "attributes": one.attributes,
            "superblocks": superblocks(&one.superblocks),
        });
        if let Some(error) = &one.error {
            object["error"] = json!(error);
        }
        object
    });
    let boot = &contents.boot;
    let mut object = json!({
        "size": contents.size,
        "partition-table": table,
        "partitions": partitions.collect::<Vec<_>>(),
        "superblocks": superblocks(&contents.superblocks),
        "boot": {
            "bios": boot.by_bios(),
            "uefi": boot.by_uefi(),
            "signature": boot.signature,
            "code": boot.code,
            "active-partition": boot.active,
            "efi-system-partition": boot.efi_system,
            "bios-boot-partition": boot.bios_boot,
            "el-torito-bios": boot.el_torito_bios,
            "el-torito-efi": boot.el_torito_efi,
            "summary": boot.to_string(),
        },
        "bytes-read": contents.bytes_read,
        "findings": output::findings(&contents.findings),
    });
    if let Some(error) = &contents.error {
        object["error"] = json!(error);
    }
    object
}

fn superblocks(all: &[Superblock]) -> Value {
    let one = |one: &Superblock| {
        json!({
            "type": one.kind.name(),
            "description": one.kind.description(),
            "usage": one.kind.usage().as_str(),
            "version": one.version,
            "label": one.label,
            "uuid": one.uuid,
            "uuid-sub": one.uuid_sub,
            "size": one.size,
            "block-size": one.block_size,
            "offset": one.offset,
        })
    };
    Value::Array(all.iter().map(one).collect())
}

/// The end of a description: what lies on the disk, and what was noticed.
pub(crate) fn print_with_findings(
    disk: Option<&Contents>,
    findings: &[Finding],
    out: &mut impl Write,
) -> io::Result<()> {
    if let Some(disk) = disk {
        writeln!(out, "{}", style::heading("disk contents:"))?;
        print(disk, 4, out)?;
    }
    if !findings.is_empty() {
        writeln!(out, "{}", style::heading("findings:"))?;
        findings.iter().try_for_each(|finding| output::print_finding(finding, 4, out))?;
    }
    Ok(())
}

/// A table for people, each line behind `indent` spaces.
fn print(contents: &Contents, indent: usize, out: &mut impl Write) -> io::Result<()> {
    let pad = " ".repeat(indent);
    match &contents.table {
        Some(table) => {
            let name = match table.kind {
                TableKind::Gpt => "GPT",
                _ => "MBR",
            };
            let hybrid = if table.is_hybrid { ", hybrid" } else { "" };
            let id = table.id.as_ref().map(|id| format!(", id {id}")).unwrap_or_default();
            writeln!(out, "{pad}{name}{hybrid}, sectors of {} bytes{id}", table.sector_size)?;
        }
        None => writeln!(out, "{pad}no partition table")?,
    }
    let mut rows = Vec::new();
    if !contents.partitions.is_empty() || !contents.superblocks.is_empty() {
        rows.push(["#", "start", "size", "type", "content", "label", "UUID"].map(str::to_owned));
    }
    if !contents.superblocks.is_empty() || contents.error.is_some() {
        let first = ["disk".into(), "0".into(), human_size(contents.size), String::new()];
        add_rows(&mut rows, first, &contents.superblocks, contents.error.as_deref());
    }
    for one in &contents.partitions {
        let first = [
            format!("{}{}", one.number, if one.bootable { "*" } else { "" }),
            human_size(one.start),
            human_size(one.length),
            type_of(one),
        ];
        add_rows(&mut rows, first, &one.superblocks, one.error.as_deref());
    }
    print_table(&rows, &pad, out)?;
    writeln!(out, "{pad}{}", contents.boot)?;
    for finding in &contents.findings {
        output::print_finding(finding, indent, out)?;
    }
    Ok(())
}

fn type_of(one: &Partition) -> String {
    let kind = one.kind.name.map_or_else(|| one.kind.id.clone(), str::to_owned);
    let role = if one.role == Role::Logical { ", logical" } else { "" };
    let name = one.name.as_ref().map(|name| format!(" '{name}'")).unwrap_or_default();
    format!("{kind}{role}{name}")
}

/// A row for a place and its first superblock, one for each other, and one for what went wrong.
fn add_rows(
    rows: &mut Vec<[String; 7]>,
    first: [String; 4],
    superblocks: &[Superblock],
    error: Option<&str>,
) {
    let mut place = Some(first);
    let mut add = |content: String, label: String, uuid: String| {
        let [number, start, size, kind] = place.take().unwrap_or_default();
        rows.push([number, start, size, kind, content, label, uuid]);
    };
    for one in superblocks {
        let version = one.version.as_ref().map(|version| format!(" {version}"));
        let label = one.label.clone().unwrap_or_default();
        let uuid = one.uuid.clone().unwrap_or_default();
        add(format!("{}{}", one.kind.name(), version.unwrap_or_default()), label, uuid);
    }
    if let Some(error) = error {
        add(format!("could not be read: {error}"), String::new(), String::new());
    } else if superblocks.is_empty() {
        add("-".into(), String::new(), String::new());
    }
}

/// Columns as wide as what is in them; numbers and sizes end at one place.
fn print_table(rows: &[[String; 7]], pad: &str, out: &mut impl Write) -> io::Result<()> {
    let mut widths = [0; 7];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            // a long error takes no room from the others
            if !cell.starts_with("could not") {
                *width = cell.chars().count().max(*width);
            }
        }
    }
    for row in rows {
        let mut line = pad.to_owned();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            match column {
                1 | 2 => line.push_str(&format!("{cell:>width$}  ")),
                _ => line.push_str(&format!("{cell:<width$}  ")),
            }
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}
