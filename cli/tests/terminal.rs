//! What people meet at the terminal: pictures, explanations, help whose examples work, manual pages,
//! colours, suggestions, several files in one call. `interactive.rs` has what needs a terminal or a
//! shell.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::*;
use serde_json::Value;

fn cloud() -> PathBuf {
    root().join("testdata/cloud.qcow2")
}

/// Bytes and ranges of the map that `test` picks.
fn sums(map: &Value, test: impl Fn(&Value) -> bool) -> (u64, u64) {
    let picked = map.as_array().unwrap().iter().filter(|entry| test(entry));
    picked.fold((0, 0), |(bytes, ranges), e| (bytes + e["length"].as_u64().unwrap(), ranges + 1))
}

/// Bytes and ranges in a legend such as `data (…): 1 MiB (1048576 bytes), 50 %, in 3 ranges`.
fn legend(texts: &[String], start: &str) -> (u64, u64) {
    let text = texts.iter().find(|text| text.starts_with(start)).unwrap_or_else(|| {
        panic!("no {start:?} in {texts:?}");
    });
    let number = |before: &str, behind: &str| -> u64 {
        let end = text.rfind(behind).unwrap();
        text[..end].rsplit(before).next().unwrap().parse().unwrap()
    };
    (number("(", " bytes)"), number("in ", " range"))
}

#[test]
fn a_picture_tells_the_numbers_of_the_map() {
    let dir = tempfile::tempdir().unwrap();
    for file in [
        "qcow2/overlay-chain.qcow2",
        "qcow2/v3-zeros.qcow2",
        "qcow2/v3-zlib-64k.qcow2",
        "raw/sparse.raw",
        "vmdk/delta-chain.vmdk",
    ] {
        let image = fixture(file);
        let (allow, svg) = (allow(), dir.path().join("map.svg"));
        let open = ["map", &allow, "--assume-raw", image.text()];
        let map = diskimage([&open[..], &["--output=json"]].concat()).ok().json();
        let silent = diskimage([&open[..], &["--picture", svg.to_str().unwrap()]].concat()).ok();
        assert!(silent.stdout.is_empty());
        let text = std::fs::read_to_string(&svg).unwrap();
        let picture = roxmltree::Document::parse(&text).unwrap();
        let texts = picture.descendants().filter(|node| node.has_tag_name("text"));
        let texts: Vec<_> = texts.map(|node| node.text().unwrap_or_default().to_owned()).collect();
        let is = |entry: &Value, key: &str| entry[key] == true;
        let zeros = sums(&map, |e| is(e, "present") && is(e, "zero"));
        let [said, holes] = ["zero (", "hole ("].map(|start| legend(&texts, start));
        assert_eq!((said.0 + holes.0, said.1 + holes.1), zeros, "{file}");
        assert_eq!(
            legend(&texts, "data ("),
            sums(&map, |e| is(e, "data") && !is(e, "zero") && !is(e, "compressed")),
            "{file}"
        );
        assert_eq!(legend(&texts, "compressed ("), sums(&map, |e| is(e, "compressed")), "{file}");
        assert_eq!(legend(&texts, "unallocated ("), sums(&map, |e| !is(e, "present")), "{file}");
        let depth = |entry: &Value| entry["depth"].as_u64().unwrap();
        for layer in 0..=map.as_array().unwrap().iter().map(depth).max().unwrap_or_default() {
            if image.parents.is_empty() {
                continue;
            }
            let own = sums(&map, |e| is(e, "present") && depth(e) == layer);
            assert_eq!(legend(&texts, &format!("{layer}: ")), own, "{file} layer {layer}");
        }
        // on the terminal the same
        let shown = diskimage([&open[..], &["--picture"]].concat()).ok();
        // behind the sign that a legend explains
        let lines = shown.text().lines().map(|line| line.chars().skip(4).collect());
        let lines: Vec<String> = lines.collect();
        assert_eq!(legend(&lines, "compressed "), legend(&texts, "compressed ("), "{file}");
        assert_eq!(legend(&lines, "unallocated "), legend(&texts, "unallocated ("), "{file}");
        assert!(shown.text().lines().all(|line| line.chars().count() <= 120), "{shown:?}");
    }
}

#[test]
fn a_picture_is_written_whole_and_over_no_image() {
    let dir = tempfile::tempdir().unwrap();
    // a name with all that XML and terminals obey
    let name = OsStr::from_bytes(b"<a href='x'>&amp;\"\x1b[2J\xff]]>.svg");
    let image = dir.path().join(name);
    let bytes = fixture("qcow2/v3-zlib-64k.qcow2").bytes();
    std::fs::write(&image, &bytes).unwrap();
    let svg = dir.path().join("map.svg");
    let args = |picture: &Path| {
        let args = [OsStr::new("map"), image.as_os_str(), OsStr::new("--picture")];
        diskimage([&args[..], &[picture.as_os_str()]].concat())
    };
    args(&svg).ok();
    let text = std::fs::read_to_string(&svg).unwrap();
    let picture = roxmltree::Document::parse(&text).unwrap();
    assert!(picture.descendants().all(|node| !node.has_tag_name("a")), "{text}");
    assert!(text.contains("&lt;a href='x'&gt;&amp;amp;&quot;\\x1b[2J\\xff]]&gt;.svg"));
    // the image itself, though its name ends so
    let own = args(&image);
    assert_eq!(own.code, Some(1), "{own:?}");
    assert!(std::fs::read(&image).unwrap() == bytes, "the image is as it was");
    assert!(own.stderr.contains("is the image that is read"), "{own:?}");
    // an image that was taken for the name of the picture
    let disk = dir.path().join("disk.qcow2");
    std::fs::write(&disk, &bytes).unwrap();
    let swapped = diskimage(["map", "--picture", disk.to_str().unwrap(), svg.to_str().unwrap()]);
    assert_eq!(swapped.code, Some(2), "{swapped:?}");
    assert!(std::fs::read(&disk).unwrap() == bytes, "the image is as it was");
    // half a map is none
    let mut damaged = fixture("qcow2/v3-prealloc-full.qcow2").bytes();
    let at = qcow2::l2_entry(&damaged, 5 * 65_536);
    qcow2::set_entry(&mut damaged, at, 1 << 63 | 1 << 40);
    std::fs::write(&disk, damaged).unwrap();
    let none = dir.path().join("none.svg");
    let args = ["map", disk.to_str().unwrap(), "--picture", none.to_str().unwrap()];
    diskimage(args).refused(1, &disk, &[]);
    assert!(!none.exists());
    let shown = diskimage(["map", disk.to_str().unwrap(), "--picture=-"]);
    assert_eq!((shown.code, shown.stdout.len()), (Some(1), 0));
}

#[test]
fn the_picture_on_the_terminal_is_what_it_was() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("zeros.qcow2"), fixture("qcow2/v3-zeros.qcow2").bytes())
        .unwrap();
    let run = |more: &[&str]| {
        let args = [&["map", "zeros.qcow2", "--picture=-"][..], more].concat();
        ran(command(args).current_dir(dir.path())).ok()
    };
    let plain = run(&[]);
    let golden = root().join("cli/tests/golden/picture.txt");
    if std::env::var_os("BLESS").is_some_and(|value| value == "1") {
        std::fs::create_dir_all(golden.parent().unwrap()).unwrap();
        std::fs::write(&golden, plain.text()).unwrap();
    }
    assert_eq!(plain.text(), std::fs::read_to_string(golden).unwrap());
    let coloured = run(&["--color=always"]);
    assert!(coloured.text().contains("\x1b[34m"), "{coloured:?}");
    assert_eq!(without_colours(coloured.text()), plain.text());
}

/// The text without `ESC [ … m`.
fn without_colours(text: &str) -> String {
    let mut parts = text.split('\x1b');
    let mut out = parts.next().unwrap().to_owned();
    for part in parts {
        out.push_str(part.split_once('m').unwrap().1);
    }
    out
}

#[test]
fn every_image_is_explained() {
    const HEADINGS: [&str; 4] =
        ["What it is", "What is inside", "Whether it is whole", "What to do next"];
    let mut commands = 0;
    for images in fixtures().chunk_by(|a, b| a.folder() == b.folder()) {
        let names = images.iter().map(Fixture::name);
        let folder = images[0].folder();
        let ran = ran(command(std::iter::once("explain").chain(names)).current_dir(folder));
        assert_eq!((ran.code, &*ran.stderr), (Some(0), ""), "{folder:?}: {ran:?}");
        let text = ran.text();
        for heading in HEADINGS {
            let count = text.lines().filter(|line| *line == heading).count();
            assert_eq!(count, images.len(), "{heading} in {folder:?}");
        }
        assert!(images.iter().all(|image| text.lines().any(|line| line == image.name())));
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
        assert!(text.lines().all(|line| !line.ends_with(' ')), "{text:?}");
        commands += text.lines().filter(|line| line.starts_with("        diskimage ")).count();
    }
    assert!(commands > 300, "{commands}");
}

#[test]
fn the_commands_of_an_explanation_can_be_pasted() {
    let target = tempfile::tempdir().unwrap();
    let mut run = 0;
    for (index, image) in fixtures().iter().step_by(19).enumerate() {
        // in a folder of their own, since some write there
        let folder = target.path().join(index.to_string());
        std::fs::create_dir_all(&folder).unwrap();
        for entry in std::fs::read_dir(image.folder()).unwrap().flatten() {
            std::os::unix::fs::symlink(entry.path(), folder.join(entry.file_name())).unwrap();
        }
        let name = "it's a disk, \u{202e}a.$b";
        std::os::unix::fs::symlink(&image.path, folder.join(name)).unwrap();
        let explained = ran(command(["explain", name]).current_dir(&folder)).ok();
        let lines = explained.text().lines();
        for command in lines.filter_map(|line| line.strip_prefix("        diskimage ")) {
            let shell = format!("{DISKIMAGE} {command}");
            let ran = ran(Command::new("bash").args(["-c", &shell]).current_dir(&folder));
            let told = &ran.stderr;
            assert!(!told.contains("Usage:") && !told.contains("error:"), "{shell}: {told}");
            assert!(!told.contains("No such file"), "{shell}: {told}");
            assert!(ran.code.is_some_and(|code| code <= 3), "{shell}: {ran:?}");
            run += 1;
        }
    }
    assert!(run > 20, "{run}");
}

#[track_caller]
fn explained(args: &[&str], words: &[&str]) {
    let ran = diskimage([&["explain"][..], args].concat()).ok();
    let text = ran.text().split_whitespace().collect::<Vec<_>>().join(" ");
    for word in words {
        assert!(text.contains(word), "no {word:?} in\n{}", ran.text());
    }
}

#[test]
fn an_explanation_says_what_matters() {
    explained(
        &[cloud().to_str().unwrap()],
        &[
            "It is a QEMU QCOW2 image of version 3",
            "It names no other file and asks for no key",
            "tables were checked, and no error was found",
            "Write the disk out",
        ],
    );
    explained(
        &[fixture("qcow2/overlay-raw.qcow2").text()],
        &["It needs the backing file", "It was not looked at", "allow it to be opened"],
    );
    explained(
        &["--allow-external", "--assume-raw", fixture("qcow2/overlay-raw.qcow2").text()],
        &["It was found and opened", "The other files that it needs were not checked"],
    );
    explained(
        &[fixture("vhd/creator-win.vhd").text()],
        &["Its footer names the program 'win' (Windows or Hyper-V)", "Nothing proves that"],
    );
    explained(&[fixture("raw/gpt.raw").text()], &["It is a raw disk", "The disk has a GPT with"]);
    explained(
        &[fixture("luks/version-2.luks").text()],
        &["It needs a key", "That was not checked"],
    );
    let dir = tempfile::tempdir().unwrap();
    let cut = dir.path().join("cut.qcow2");
    let bytes = std::fs::read(cloud()).unwrap();
    std::fs::write(&cut, &bytes[..bytes.len() - 70_000]).unwrap();
    explained(
        &[cut.to_str().unwrap()],
        &["It is not as it should be", "It is cut off", "Get the file again"],
    );
    let text = dir.path().join("text");
    std::fs::write(&text, "Dear Sir or Madam").unwrap();
    explained(&[text.to_str().unwrap()], &["Nothing in its bytes tells what it is"]);
    // what is not there is an error; the others are explained
    let missing = dir.path().join("missing");
    let ran = diskimage(["explain", missing.to_str().unwrap(), text.to_str().unwrap()]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.text().contains("What it is"));
    ran.told(&missing, &["No such file"]);
}

/// The commands that the help lists.
fn commands() -> Vec<String> {
    let help = diskimage(["--help"]).ok();
    let lines = help.text().lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.map(|line| line.split_whitespace().next().unwrap().to_owned());
    names.filter(|name| name != "help").collect()
}

/// What the examples speak of.
fn place_for_examples() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let copy = |from: &str, to: &str| {
        std::fs::copy(&fixture(from).path, at(to)).unwrap();
    };
    std::fs::copy(cloud(), at("cloud.qcow2")).unwrap();
    std::fs::copy(cloud(), at("upload.qcow2")).unwrap();
    let bytes = std::fs::read(cloud()).unwrap();
    std::fs::write(at("broken.qcow2"), &bytes[..bytes.len() - 70_000]).unwrap();
    copy("raw/gpt.raw", "disk.raw");
    let made = |args: &[&str]| {
        ran(command(args).current_dir(dir.path())).ok();
    };
    made(&["convert", "-O", "vmdk", "disk.raw", "disk.vmdk"]);
    made(&["convert", "-O", "vpc", "disk.raw", "disk.vhd"]);
    made(&["convert", "-O", "qcow2", "disk.raw", "disk.qcow2"]);
    made(&["convert", "-O", "ova", "disk.raw", "appliance.ova"]);
    made(&["create", "-f", "qcow2", "-b", "cloud.qcow2", "overlay.qcow2"]);
    output_of(dir.path(), "tar", &["--format=ustar", "-cf", "disks.tar", "disk.vmdk"]);
    let blocks = diskimage(["checksum", "--blocks=64k", cloud().to_str().unwrap()]).ok();
    std::fs::write(at("blocks.json"), blocks.stdout).unwrap();
    dir
}

#[test]
fn every_example_of_the_help_works() {
    let dir = place_for_examples();
    let folder = Path::new(DISKIMAGE).parent().unwrap();
    let mut path = folder.as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap());
    let mut seen = 0;
    for name in std::iter::once(String::new()).chain(commands()) {
        // the help that this one prints by itself is qemu-img's
        let args = if name == "qemu-img" { ["help", &*name] } else { [&*name, "--help"] };
        let help = diskimage(args.iter().filter(|arg| !arg.is_empty())).ok();
        let examples: Vec<_> =
            help.text().lines().filter_map(|line| line.strip_prefix("    diskimage ")).collect();
        assert!(!examples.is_empty(), "`diskimage {name} --help` has no examples");
        for example in examples {
            if example.contains("man -l") && !Path::new("/usr/bin/man").exists() {
                continue;
            }
            let shell = format!("diskimage {example}");
            let mut run = Command::new("bash");
            run.args(["-c", &shell]).current_dir(dir.path()).env("PATH", &path);
            run.env("MANPAGER", "cat");
            let ran = ran(&mut run);
            let codes: &[i32] = match example.split(' ').next().unwrap() {
                "probe" | "compare" => &[0, 1],
                "check" => &[0, 2, 3],
                "inspect" | "lint" => &[0, 3],
                _ => &[0],
            };
            assert!(ran.code.is_some_and(|code| codes.contains(&code)), "{shell}: {ran:?}");
            assert!(!ran.stderr.contains("error:"), "{shell}: {ran:?}");
            seen += 1;
        }
    }
    assert!(seen > 35, "only {seen}");
}

#[test]
fn what_is_mistyped_is_suggested() {
    let image = cloud();
    let image = image.to_str().unwrap();
    for (args, code, words) in [
        (&["inof", image][..], 2, "'info'"),
        (&["info", "--contnets", image], 2, "'--contents'"),
        (&["info", "-f", "qcwo2", image], 2, "did you mean 'qcow2'?"),
        (&["convert", "-O", "vhdfixed", image, "x"], 2, "did you mean 'vhd'?"),
        (&["convert", "-O", "qcow", image, "x"], 1, "did you mean 'qcow2'?"),
        (&["convert", "-O", "qcow2", "-o", "clustersize=64k", image, "x"], 1, "'cluster_size'"),
        (&["checksum", "-a", "sha-256", image], 2, "did you mean 'sha256'?"),
        (&["lint", "--for", "azur", image], 2, "did you mean 'azure'?"),
        (&["map", "--output", "jsno", image], 2, "json"),
        (&["man", "covnert"], 2, "did you mean 'convert'?"),
    ] {
        let ran = diskimage(args);
        assert_eq!(ran.code, Some(code), "{args:?}: {ran:?}");
        assert!(ran.stderr.contains(words), "{args:?}: {ran:?}");
    }
    // what is like nothing is not made into something
    let ran = diskimage(["info", "-f", "zzz", image]);
    assert!(!ran.stderr.contains("did you mean"), "{ran:?}");
}

#[test]
fn colours_follow_the_habits_of_terminals() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join(OsStr::from_bytes(b"\x1b[31mred"));
    std::fs::write(&image, "nothing").unwrap();
    let run = |arg: &str, set: &[(&str, &str)]| {
        let mut command = command([OsStr::new("info"), OsStr::new(arg), image.as_os_str()]);
        for name in ["NO_COLOR", "CLICOLOR_FORCE", "CLICOLOR"] {
            command.env_remove(name);
        }
        let ran = ran(command.envs(set.iter().copied()));
        assert_eq!(ran.code, Some(0));
        // the escape of the name stays escaped, whatever is asked for
        assert!(ran.text().contains("\\x1b[31mred"), "{ran:?}");
        ran.text().contains('\x1b')
    };
    assert!(!run("--color=auto", &[]));
    assert!(run("--color=auto", &[("CLICOLOR_FORCE", "1")]));
    assert!(run("--color=always", &[("NO_COLOR", "1")]));
    assert!(!run("--color=never", &[("CLICOLOR_FORCE", "1")]));
    let usage = diskimage(["info", "--color=always", "--nonsense"]);
    assert!(usage.stderr.contains('\x1b'), "{usage:?}");
    let usage = diskimage(["info", "--nonsense"]);
    assert!(!usage.stderr.contains('\x1b'), "{usage:?}");
}

/// Whether a program that is used only where it is there is there.
fn is_there(program: &str) -> bool {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .any(|folder| folder.join(program).exists());
    if !found {
        skipped(&format!("{program} is not installed"));
    }
    found
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("man1");
    diskimage(["man", "--output-dir", folder.to_str().unwrap()]).ok();
    let mut wanted: Vec<_> =
        commands().into_iter().map(|name| format!("diskimage-{name}.1")).collect();
    wanted.push("diskimage.1".to_owned());
    wanted.sort();
    assert_eq!(entries(&folder), wanted);
    let one = diskimage(["man", "convert"]).ok();
    assert_eq!(one.stdout, std::fs::read(folder.join("diskimage-convert.1")).unwrap());
    let text = one.text();
    for word in
        [".TH diskimage-convert 1", ".SH EXAMPLES", "diskimage convert cloud.qcow2 cloud.raw"]
    {
        let plain = text.replace(['\\', '"'], "");
        assert!(plain.contains(word), "no {word:?} in {text}");
    }
    if !is_there("man") {
        return;
    }
    for page in wanted {
        let mut man = Command::new("man");
        man.args(["--warnings=w", "-l"]).arg(folder.join(&page)).env("MANWIDTH", "100");
        let ran = ran(man.env("MANPAGER", "cat").env("LC_ALL", "C.UTF-8"));
        assert_eq!((ran.code, &*ran.stderr), (Some(0), ""), "{page}");
        assert!(ran.text().contains("EXAMPLES"), "{page}: {}", ran.text());
    }
}

#[test]
fn several_files_are_answered_in_one_call() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (good, other, bad, gone) = (at("good"), at("other"), at("bad"), at("gone"));
    std::fs::copy(cloud(), &good).unwrap();
    std::fs::write(&other, fixture("vhd/creator-win.vhd").bytes()).unwrap();
    let bytes = std::fs::read(cloud()).unwrap();
    std::fs::write(&bad, &bytes[..bytes.len() - 70_000]).unwrap();
    for command in ["info", "check", "inspect"] {
        let run = |files: &[&str]| diskimage([&[command, "--output=json"][..], files].concat());
        let alone: Vec<_> = [&good, &other, &bad].map(|file| run(&[file]).json()).into();
        assert!(alone.iter().all(Value::is_object), "one file is answered as before");
        let all = run(&[&good, &other, &bad]);
        assert_eq!(all.json(), Value::Array(alone.clone()), "{command}");
        let worst = [("info", 0), ("check", 2), ("inspect", 3)];
        let worst = worst.iter().find(|(name, _)| *name == command).unwrap().1;
        assert_eq!(all.code, Some(worst), "{command}");
        // what cannot be read is an error, whatever was found of the others
        let all = run(&[&bad, &gone, &good]);
        assert_eq!(all.code, Some(1), "{command}: {all:?}");
        assert_eq!(all.json(), Value::Array(vec![alone[2].clone(), alone[0].clone()]), "{command}");
        assert!(all.stderr.contains("gone"), "{all:?}");
        let none = run(&[&gone, &gone]);
        assert_eq!((none.code, none.json()), (Some(1), Value::Array(Vec::new())), "{command}");
        let people = diskimage([command, &good, &other]);
        for file in [&good, &other] {
            assert!(people.text().contains(file), "{command}: {people:?}");
        }
    }
    // in the sandbox too
    let ran = diskimage(["--sandbox", "info", &good, &other]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[test]
fn the_version_tells_the_features_and_the_log_is_asked_for() {
    let short = diskimage(["-V"]).ok();
    assert_eq!(short.text(), concat!("diskimage ", env!("CARGO_PKG_VERSION"), "\n"));
    let long = diskimage(["--version"]).ok();
    let features = long.text().lines().find_map(|line| line.strip_prefix("features: ")).unwrap();
    for feature in ["bzip2", "checksum", "libdeflate", "xz", "zstd"] {
        assert!(features.split(", ").any(|one| one == feature), "{long:?}");
    }
    let image = fixture("qcow2/overlay-raw.qcow2");
    let run = |log: Option<&str>| {
        let mut command = command(["map", &allow(), "--assume-raw", image.text()]);
        command.env_remove("RUST_LOG");
        let ran = ran(log.into_iter().fold(&mut command, |c, log| c.env("RUST_LOG", log)));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        ran
    };
    assert_eq!(run(None).stderr, "");
    assert_eq!(run(Some("")).stderr, "");
    assert_eq!(run(Some("error")).stderr, "");
    let told = run(Some("debug")).stderr;
    assert!(told.lines().all(|line| line.starts_with("diskimage: debug: ")), "{told}");
    assert!(told.contains("overlay-raw.qcow2: opened as qcow2"), "{told}");
    assert!(told.contains("its backing file '"), "{told}");
    assert_eq!(run(None).stdout, run(Some("debug")).stdout);
}
