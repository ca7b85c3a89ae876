//! The documents that are made from the code say what the code says. `BLESS=1` writes them anew.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use diskimage::{Code, Format};

#[test]
fn every_finding_is_listed() {
    let mut text = String::from(
        "# Findings\n\nWhat `info`, `probe` and `check` say about an image, by code. The codes are \
         stable. This page is made from\n`src/finding.rs` (`BLESS=1 cargo test --test docs`).\n\n\
         | code | severity | meaning |\n|---|---|---|\n",
    );
    for code in Code::ALL {
        let meaning = code.meaning();
        writeln!(text, "| `{code}` | {} | {meaning} |", code.severity()).unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/findings.md");
    if std::env::var_os("BLESS").is_some_and(|v| v == "1") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(written, text, "docs/findings.md is behind the code: BLESS=1 writes it anew");
}

#[test]
fn every_format_that_is_opened_is_in_the_table_of_formats() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/formats.md");
    let text = std::fs::read_to_string(path).unwrap();
    // the first table: format, names, read, …
    let rows = text.lines().skip_while(|line| !line.starts_with('|')).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    let mut listed = Vec::new();
    for row in rows {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        // every other piece between two backquotes is a name; the first one is the format's
        let name = cells[2].split('`').nth(1).unwrap();
        let format: Format = name.parse().unwrap();
        assert_eq!(cells[3] == "yes", format.is_read(), "{row}");
        listed.push(format);
    }
    for format in Format::ALL.iter().filter(|format| format.is_described()) {
        assert!(listed.contains(format), "docs/formats.md does not list {format}");
    }
}

/// Types, traits and functions have an example in their own documentation, and methods are called in
/// one, wherever it is.
#[test]
fn what_is_public_is_shown_by_an_example() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut modules = BTreeMap::new();
    reach(&src.join("lib.rs"), None, &mut modules);
    let files: Vec<_> = sources(&src).into_iter().map(|path| (read(&path), path)).collect();
    let items: Vec<_> = files.iter().map(|(text, path)| (path, public(text))).collect();
    let is_reached = |path: &Path, name: &str| match modules.get(path) {
        Some(Some(names)) => names.contains(name),
        Some(None) => true,
        None => false,
    };
    let reached =
        items.iter().flat_map(|(path, items)| items.iter().map(move |item| (*path, item)));
    let types: Vec<(&Path, &str)> = reached
        .filter(|(path, item)| item.owner.is_none() && is_reached(path, &item.name))
        .map(|(path, item)| (path.parent().unwrap(), &*item.name))
        .collect();
    // where a type is, or below, there are its methods
    let is_owner = |path: &Path, name: &str| {
        types.iter().any(|(folder, other)| *other == name && path.starts_with(folder))
    };
    let mut calls = Calls::default();
    for (text, _) in &files {
        calls.take(&blocks(text.lines().filter_map(documented)));
    }
    for page in ["README.md", "docs/formats.md"] {
        calls.take(&blocks(read(&src.join("..").join(page)).lines()));
    }
    for page in std::fs::read_dir(src.join("guide")).unwrap() {
        calls.take(&blocks(read(&page.unwrap().path()).lines()));
    }

    let mut missing = String::new();
    for (path, items) in &items {
        let name = path.strip_prefix(&src).unwrap();
        for item in items {
            let place = format!("src/{}:{}: {}", name.display(), item.line, item.name);
            match &item.owner {
                None if !item.has_example && is_reached(path, &item.name) => {
                    writeln!(missing, "{place} has no example").unwrap();
                }
                Some(owner) if is_owner(path, owner) && !calls.have(owner, item) => {
                    writeln!(missing, "{place} of {owner} is called in no example").unwrap();
                }
                _ => {}
            }
        }
    }
    assert!(missing.is_empty(), "{missing}");
    assert!(types.len() > 250, "only {} types and functions are public", types.len());
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Follows `pub mod` and `pub use` from the module at `path`, of which `names` are reached, or all
/// that is public. Puts the files that somebody outside reaches something in into `modules`.
fn reach(
    path: &Path,
    names: Option<BTreeSet<String>>,
    modules: &mut BTreeMap<PathBuf, Option<BTreeSet<String>>>,
) {
    let text = read(path);
    let mut inner: BTreeMap<String, Option<BTreeSet<String>>> = BTreeMap::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let is_named = |name: &str| names.as_ref().is_none_or(|names| names.contains(name));
        if line == "#[doc(hidden)]" {
            lines.next();
        } else if let Some(module) =
            line.strip_prefix("pub mod ").and_then(|rest| rest.strip_suffix(';'))
        {
            if is_named(module) {
                inner.insert(module.to_owned(), None);
            }
        } else if let Some(start) = line.strip_prefix("pub use ") {
            let mut used = start.to_owned();
            while !used.ends_with(';') {
                used.push_str(lines.next().unwrap().trim());
            }
            let (module, used) = used.trim_end_matches(';').split_once("::").unwrap();
            if module == "crate" {
                continue; // its own module is reached, too
            }
            let used = used.trim_start_matches('{').trim_end_matches('}');
            assert!(!used.contains(['*', ':', '{']), "{}: not followed: {line}", path.display());
            let used = used.split(',').map(|name| name.split(" as ").next().unwrap().trim());
            let names = inner.entry(module.to_owned()).or_insert_with(|| Some(BTreeSet::new()));
            if let Some(names) = names {
                names.extend(used.filter(|name| is_named(name)).map(str::to_owned));
            }
        }
    }
    let is_folder = path.ends_with("mod.rs") || path.ends_with("lib.rs");
    let folder =
        if is_folder { path.parent().unwrap().to_owned() } else { path.with_extension("") };
    modules.insert(path.to_owned(), names);
    for (module, names) in inner {
        let file = folder.join(format!("{module}.rs"));
        let file = if file.exists() { file } else { folder.join(module).join("mod.rs") };
        reach(&file, names, modules);
    }
}

/// Something that is public in its file.
struct Item {
    name: String,
    /// The type or trait that it is a method of, if it is one.
    owner: Option<String>,
    is_of_trait: bool,
    takes_self: bool,
    has_example: bool,
    line: usize,
}

/// What is public in a file, by its layout: rustfmt sees to that. A macro may have items, too.
fn public(text: &str) -> Vec<Item> {
    let lines: Vec<_> = text.lines().collect();
    let tests = lines.windows(2).position(|two| {
        two[0] == "#[cfg(test)]" && two[1].contains("mod ") && two[1].ends_with('{')
    });
    let mut items = Vec::new();
    // an indentation, a name, and whether it is a trait
    let mut block: Option<(usize, String, bool)> = None;
    for (at, line) in lines[..tests.unwrap_or(lines.len())].iter().enumerate() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        if block.as_ref().is_some_and(|(start, ..)| indent == *start && code.starts_with('}')) {
            block = None;
        }
        let mut add = |name: &str, owner: Option<(&str, bool)>| {
            // to the end of the signature
            let signature = lines[at..].split_inclusive(|line| line.ends_with(['{', ';', '}']));
            let signature = signature.take(1).flatten().copied().collect::<String>();
            items.push(Item {
                name: name.to_owned(),
                owner: owner.map(|(owner, _)| owner.to_owned()),
                is_of_trait: owner.is_some_and(|(_, of_trait)| of_trait),
                takes_self: signature.contains("self"),
                has_example: has_example(&lines[..at]),
                line: at + 1,
            });
        };
        match &block {
            Some((start, owner, of_trait)) if indent == start + 4 => {
                let code = if *of_trait { Some(code) } else { code.strip_prefix("pub ") };
                let name = code.and_then(|code| after(code, &["fn"]));
                name.into_iter().for_each(|name| add(name, Some((owner, *of_trait))));
            }
            None if indent == 0 || indent == 8 => {
                let kinds = ["struct", "enum", "union", "trait", "type", "fn"];
                if let Some(name) = code.strip_prefix("pub ").and_then(|code| after(code, &kinds)) {
                    add(name, None);
                    if code.starts_with("pub trait ") {
                        block = Some((indent, name.to_owned(), true));
                    }
                } else if let Some(name) = implemented(code) {
                    block = Some((indent, name.to_owned(), false));
                }
            }
            _ => {}
        }
    }
    items
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// The name behind one of these words, and behind what may stand before it.
fn after<'a>(code: &'a str, words: &[&str]) -> Option<&'a str> {
    let mut rest = code;
    loop {
        let (first, behind) = rest.split_once(' ')?;
        if words.contains(&first) {
            return Some(word(behind));
        }
        if !["const", "async", "unsafe"].contains(&first) {
            return None;
        }
        rest = behind;
    }
}

/// The type of which `impl …` has methods of its own.
fn implemented(code: &str) -> Option<&str> {
    let mut rest = code.strip_prefix("impl")?;
    if rest.starts_with('<') {
        let mut depth = 0;
        let end = rest.char_indices().find(|&(at, c)| {
            let is_arrow = c == '>' && rest[..at].ends_with('-');
            depth += match c {
                '<' => 1,
                '>' if !is_arrow => -1,
                _ => 0,
            };
            depth == 0
        });
        rest = &rest[end?.0 + 1..];
    }
    let name = rest.strip_prefix(' ')?;
    (!name.contains(" for ")).then(|| word(name))
}

/// Whether the comment that ends these lines, attributes aside, has code.
fn has_example(lines: &[&str]) -> bool {
    let own = lines.iter().rev().map(|line| line.trim()).take_while(|line| {
        documented(line).is_some() || !(line.is_empty() || line.ends_with(['}', ';', '{']))
    });
    let mut own: Vec<_> = own.filter_map(documented).collect();
    own.reverse();
    !blocks(own.into_iter()).is_empty()
}

/// The text of a line of documentation.
fn documented(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let text = line.strip_prefix("///").or_else(|| line.strip_prefix("//!"))?;
    Some(text.strip_prefix(' ').unwrap_or(text))
}

/// The code in a text: what rustdoc compiles.
fn blocks<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let (mut code, mut inside) = (String::new(), None);
    for line in lines {
        match (line.strip_prefix("```"), inside) {
            (Some(_), Some(_)) => inside = None,
            (Some(kind), None) => inside = Some(["", "no_run", "should_panic"].contains(&kind)),
            (None, Some(true)) => code.extend([line, "\n"]),
            (None, _) => {}
        }
    }
    code
}

/// What is called in examples.
#[derive(Default)]
struct Calls {
    /// By `.name(`.
    methods: BTreeSet<String>,
    /// By `Type::name`.
    paths: BTreeSet<(String, String)>,
    /// `fn name`, for traits.
    defined: BTreeSet<String>,
}

impl Calls {
    fn take(&mut self, code: &str) {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let mut before = "";
        let mut rest = code;
        while let Some(start) = rest.find(is_part) {
            let name = word(&rest[start..]);
            let (between, behind) = (&rest[..start], &rest[start + name.len()..]);
            if between.ends_with('.') && behind.starts_with(['(', ':']) {
                self.methods.insert(name.to_owned());
            } else if between.ends_with("::") {
                self.paths.insert((before.to_owned(), name.to_owned()));
            } else if before == "fn" {
                self.defined.insert(name.to_owned());
            }
            before = name;
            rest = behind;
        }
    }

    fn have(&self, owner: &str, item: &Item) -> bool {
        (item.takes_self && self.methods.contains(&item.name))
            || (item.is_of_trait && self.defined.contains(&item.name))
            || self.paths.contains(&(owner.to_owned(), item.name.clone()))
    }
}
