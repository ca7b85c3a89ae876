//! Who may import whom: reads the `use` lines of the library and holds the table of
//! ARCHITECTURE.md.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Rooms from the ground up: each may import those before it, and itself.
const FLOORS: &[&[&str]] = &[
    &[
        "error", "limits", "bytes", "num", "extent", "finding", "progress", "text", "check",
        "parallel", "seed", "crc",
    ],
    &["sys", "storage", "codec"],
    &["layer", "disk", "target", "partition", "writer"],
    &["format"],
    &["resolve", "chain", "container", "split"],
    &["open"],
    &["convert", "contents", "inside"],
    &["checksum", "compare", "inspect"],
    &["conformance", "platform"],
];

/// What the floors would forbid and must be: the kernel's words are the storage's, an error is
/// about limits, and a layer tells its format's name.
const EXCEPTIONS: &[(&str, &str)] = &[("layer", "format")];

/// What lies beside the formats and is no format.
const SHARED: &[&str] =
    &["mod", "probe", "whole", "fault", "twolevel", "units", "blocks", "parent"];

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&room))
}

/// Modules that are compiled for tests only.
fn is_test(path: &Path) -> bool {
    let names = path.components().map(|c| c.as_os_str().to_string_lossy().into_owned());
    { names }.any(|name| {
        name == "tests" || name == "tests.rs" || name == "testimage.rs" || name == "testing.rs"
    })
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") && !is_test(&path) {
            found.push(path);
        }
    }
    found
}

/// The code of a file without its tests and comments.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The modules of this crate that a file speaks of.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for part in code.split("crate::").skip(1) {
        let names: String = if let Some(group) = part.strip_prefix('{') {
            group.split('}').next().unwrap_or_default().to_owned()
        } else {
            part.to_owned()
        };
        for name in names.split(',') {
            let word = name.trim().split(|c: char| !c.is_alphanumeric() && c != '_').next();
            found.extend(word.map(str::to_owned));
            if !part.starts_with('{') {
                break;
            }
        }
    }
    found
}

#[test]
fn rooms_import_from_below_only() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    let mut seen = 0;
    for path in sources(&src) {
        let relative = path.strip_prefix(&src).unwrap();
        let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
        let room = first.trim_end_matches(".rs");
        if room == "lib" || room == "guide" {
            continue;
        }
        let own = floor(room).unwrap_or_else(|| panic!("{room} has no floor in this table"));
        let code = code(&path);
        for import in imports(&code) {
            let Some(other) = floor(&import) else { continue };
            seen += 1;
            if other > own && !EXCEPTIONS.contains(&(room, &import)) {
                wrong.push(format!("{} imports {import}", relative.display()));
            }
        }
        if room == "format" {
            if code.contains("std::fs") {
                wrong.push(format!("{} uses std::fs", relative.display()));
            }
            // formats do not know one another; mod.rs and probe.rs know them all
            let own_format = relative.components().nth(1).unwrap().as_os_str().to_str().unwrap();
            let own_format = own_format.trim_end_matches(".rs");
            for part in code.split("crate::format::").skip(1) {
                let word = part.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
                let file = src.join("format").join(word);
                let is_format = !word.is_empty()
                    && (file.is_dir() || file.with_extension("rs").is_file())
                    && !SHARED.contains(&word);
                if !SHARED.contains(&own_format) && is_format && word != own_format {
                    wrong.push(format!("{} imports the format {word}", relative.display()));
                }
            }
        }
    }
    assert!(seen > 50, "only {seen} imports were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The files that may say `unsafe`.
const UNSAFE: &[&str] = &["src/storage/mmap.rs"];

/// Whether a line has the keyword; the word in a text, as the name of a mode of a cache, is none.
fn says_unsafe(line: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '"');
    line.match_indices("unsafe").any(|(at, word)| {
        let before = line[..at].chars().next_back();
        let behind = line[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && !behind.is_some_and(is_word)
    })
}

#[test]
fn unsafe_stands_in_the_memory_map_only() {
    for line in
        ["    unsafe {", "pub unsafe fn map(", "let x = unsafe{ y };", "#[unsafe(no_mangle)]"]
    {
        assert!(says_unsafe(line), "{line}");
    }
    assert!(!says_unsafe(r#"  "unsafe" => Some(Self::Unsafe), flag('u', "backing-unsafe")"#));

    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = BTreeSet::new();
    // tests of modules count too: this reads whole files
    for folder in ["src", "cli/src", "fuzz/src", "fuzz/fuzz_targets"] {
        for path in sources(&root.join(folder)) {
            let text = std::fs::read_to_string(&path).unwrap();
            let mut lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            if lines.any(says_unsafe) {
                found.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    assert_eq!(found, UNSAFE.iter().map(|&name| name.to_owned()).collect());
}
