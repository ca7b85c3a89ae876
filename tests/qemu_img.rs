//! A seeded sweep of images that qemu-img makes, over options, sizes and write patterns: content
//! and map equal qemu-img's own reading.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::ffi::OsStr;
use std::path::Path;

use common::sweep::{Random, assert_same_as_qemu_img};
use common::*;

fn run(program: &str, args: &[&str]) -> Option<Vec<u8>> {
    let args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
    tool_output(program, &args)
}

/// Options of qcow2 that go together.
fn options(random: &mut Random, backed: bool) -> String {
    let version = random.pick(&["0.10", "1.1", "1.1", "1.1"]);
    let mut options = vec![format!("compat={version}")];
    let mut clusters = vec!["512", "4k", "64k", "128k", "2M"];
    if version == "1.1" {
        if random.below(3) == 0 {
            options.push("extended_l2=on".into());
            clusters = vec!["16k", "64k", "128k"];
        }
        options.push(format!(
            "refcount_bits={}",
            random.pick(&["1", "2", "4", "8", "16", "32", "64"])
        ));
        if random.below(2) == 0 {
            options.push("compression_type=zstd".into());
        }
        if random.below(4) == 0 {
            options.push("lazy_refcounts=on".into());
        }
    }
    options.push(format!("cluster_size={}", random.pick(&clusters)));
    if !backed && random.below(4) == 0 {
        options.push("preallocation=metadata".into());
    }
    options.join(",")
}

/// Commands for qemu-io that write, zero and discard here and there.
fn writes(random: &mut Random, size: u64) -> Vec<String> {
    let mut commands = Vec::new();
    for _ in 0..random.below(24) {
        let unit = [512, 4096, 65_536][random.below(3) as usize];
        let blocks = (size / unit).max(1);
        let offset = random.below(blocks) * unit;
        let length = ((1 + random.below(8)) * unit).min(size.saturating_sub(offset)) & !511;
        if length == 0 {
            continue;
        }
        let pattern = 1 + random.below(255);
        commands.push(match random.below(8) {
            0 => format!("write -z {offset} {length}"),
            1 => format!("write -z -u {offset} {length}"),
            2 => format!("discard {offset} {length}"),
            3 => format!("write -P 0 {offset} {length}"),
            _ => format!("write -P {pattern} {offset} {length}"),
        });
    }
    commands
}

fn qemu_io(path: &Path, commands: &[String]) -> Option<()> {
    if commands.is_empty() {
        return Some(());
    }
    let mut args = vec!["-f", "qcow2", "-d", "unmap"];
    for command in commands {
        args.extend(["-c", command]);
    }
    args.push(path.to_str().unwrap());
    run("qemu-io", &args).map(|_| ())
}

#[test]
fn images_of_all_options_read_and_map_as_qemu_img_says() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(2026);
    for round in 0..60 {
        let size =
            [0, 512, 65_536 * 3 + 512, 1 << 20, (3 << 20) + 4096 + 512][random.below(5) as usize];
        let path = dir.path().join(format!("{round}.qcow2"));
        let name = &path.to_str().unwrap().to_owned();
        let options = options(&mut random, false);
        let size_text = size.to_string();
        let create = ["create", "-q", "-f", "qcow2", "-o", &options, name, &size_text];
        if run("qemu-img", &create).is_none() {
            return;
        }
        let commands = writes(&mut random, size);
        let _ = qemu_io(&path, &commands);
        let mut description = format!("{round}: {options} {size} {commands:?}");
        let mut path = path.clone();
        if random.below(3) == 0 {
            // compressed by a second pass, some of it overwritten
            let packed = dir.path().join(format!("{round}-c.qcow2"));
            let options = options.replace(",preallocation=metadata", "");
            let args =
                ["convert", "-c", "-O", "qcow2", "-o", &options, name, packed.to_str().unwrap()];
            run("qemu-img", &args);
            let more = writes(&mut random, size);
            let _ = qemu_io(&packed, &more);
            description += &format!(" compressed, then {more:?}");
            path = packed;
        }
        assert_same_as_qemu_img(&path, false, &description);
    }
}

#[test]
fn chains_of_all_options_read_and_map_as_qemu_img_says() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(4711);
    for round in 0..25 {
        let mut below: Option<(String, &str)> = None;
        let mut description = format!("{round}:");
        let mut path = dir.path().to_owned();
        for level in 0..(2 + random.below(3)) {
            // parents that are shorter, longer, and end within a cluster
            let size = (1 + random.below(40)) * 33_280 / 512 * 512;
            let raw = level == 0 && random.below(2) == 0;
            let format = if raw { "raw" } else { "qcow2" };
            let name = format!("{round}-{level}.{format}");
            path = dir.path().join(&name);
            let mut args: Vec<String> = ["create", "-q", "-f", format].map(String::from).into();
            if !raw {
                let options = options(&mut random, below.is_some());
                description += &format!(" [{options} {size}]");
                args.extend(["-o".into(), options]);
            }
            if let Some((parent, format)) = &below {
                args.extend(["-b".into(), parent.clone(), "-F".into(), (*format).into()]);
            }
            args.extend([path.to_str().unwrap().to_owned(), size.to_string()]);
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            if run("qemu-img", &args).is_none() {
                return;
            }
            if raw {
                let bytes: Vec<u8> = (0..size).map(|i| (i / 512 % 5 * 50) as u8).collect();
                write_sparse(&path, &bytes);
            } else {
                let commands = writes(&mut random, size);
                let _ = qemu_io(&path, &commands);
                description += &format!(" {commands:?}");
            }
            below = Some((name, format));
        }
        assert_same_as_qemu_img(&path, false, &description);
    }
}
