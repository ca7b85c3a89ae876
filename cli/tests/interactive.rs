//! What people meet while they type and wait: bars of progress on a terminal, signals from its keys,
//! completions by the shells themselves.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::*;

/// Each read of a file takes so long, in microseconds: as of a medium that is far away.
const SLOW: u32 = 250_000;

/// A word for a shell.
fn word(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The command in a shell, with slow reads.
fn slow(delay: u32, args: &[&str]) -> String {
    let inject = format!("inject=pread64:delay_enter={delay}");
    let before = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=pread64", "-e", &inject];
    let all = before.iter().chain(&[DISKIMAGE]).chain(args);
    all.map(|arg| word(arg)).collect::<Vec<_>>().join(" ")
}

/// A shell whose three files are a terminal of 80 columns.
fn on_terminal(script: &str) -> Child {
    let script = format!("stty cols 80 rows 24 -echo -onlcr; {script}");
    let mut command = Command::new("script");
    command.args(["-qefc", &script, "/dev/null"]).env("SHELL", "/bin/sh").env("TERM", "xterm");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What a terminal that got this shows at last: lines are cleared, and written over.
fn screen(bytes: &str) -> String {
    let (mut lines, mut row, mut column) = (vec![Vec::new()], 0, 0);
    let mut chars = bytes.chars();
    while let Some(next) = chars.next() {
        match next {
            '\r' => column = 0,
            '\n' => row += 1,
            '\x1b' => {
                assert_eq!(chars.next(), Some('['), "{bytes:?}");
                let sequence: String = chars.by_ref().take_while(|c| !c.is_alphabetic()).collect();
                // what ends it is taken with it
                let end = bytes[..bytes.len() - chars.as_str().len()].chars().next_back().unwrap();
                match end {
                    'K' => lines[row].truncate(if sequence == "2" { 0 } else { column }),
                    'A' => row = row.saturating_sub(sequence.parse().unwrap_or(1)),
                    'B' => row += sequence.parse().unwrap_or(1),
                    'J' => lines.truncate(row + 1),
                    'm' => {}
                    _ => panic!("ESC [ {sequence} {end} in {bytes:?}"),
                }
            }
            shown => {
                let line = &mut lines[row];
                line.resize(line.len().max(column + 1), ' ');
                line[column] = shown;
                column += 1;
            }
        }
        // a line begins where the one before it does, as it is written here
        if next == '\n' {
            column = 0;
        }
        lines.resize(lines.len().max(row + 1), Vec::new());
    }
    let lines = lines.into_iter().map(|line| line.into_iter().collect::<String>());
    lines.map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Whether both programs that make a slow medium and a terminal are there.
fn has_terminal() -> bool {
    if !has("strace") || !has("script") {
        return false;
    }
    let plain = ran(Command::new("sh").args(["-c", &slow(1, &["-V"])]));
    if plain.code != Some(0) {
        skipped(&format!("tracing is not permitted: {}", plain.stderr.trim()));
    }
    plain.code == Some(0)
}

/// Runs all of these at once: they sleep.
fn each<T: Sync>(cases: &[T], run: impl Fn(&T) + Sync) {
    std::thread::scope(|scope| {
        for case in cases {
            scope.spawn(|| run(case));
        }
    });
}

#[test]
fn what_takes_long_shows_a_bar_on_a_terminal_and_nowhere_else() {
    if !has_terminal() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = fixture("qcow2/v3-zlib-64k.qcow2").text();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (svg, raw, other, packed) = (at("map.svg"), at("out.raw"), at("other"), at("disk.gz"));
    std::fs::copy(image, &other).unwrap();
    // what they take up is told, and is settled then
    for file in [image, &other] {
        std::fs::File::open(file).unwrap().sync_all().unwrap();
    }
    output_of(dir.path(), "sh", &["-c", &format!("gzip -c {} > disk.gz", word(image))]);
    let cases: &[&[&str]] = &[
        &["info", image, &other],
        &["checksum", &packed],
        &["explain", image],
        &["inspect", image],
        &["inspect", image, &other],
        &["lint", "--for=azure", image],
        &["map", image],
        &["map", image, "--picture"],
        &["map", image, "--picture", &svg],
        &["measure", "-Oqcow2", image],
        &["check", image],
        &["check", image, &other],
        &["checksum", "--threads=1", image],
        &["checksum", "--threads=1", "--check", &at("sums")],
        &["compare", "--threads=1", image, &other],
        &["convert", "--threads=1", "--no-sync", image, &raw],
        &["probe", image, &other, image, &other],
    ];
    std::fs::write(at("sums"), diskimage(["checksum", image]).ok().stdout).unwrap();
    each(cases, |args| {
        let plain = diskimage(*args);
        // those read much more than tables
        let reads_all = matches!(args[0], "checksum" | "compare" | "convert") && args[1] != packed;
        let script = slow(if reads_all { SLOW / 3 } else { SLOW }, args);
        let shown = finished(on_terminal(&script));
        let text = shown.text();
        assert_eq!(shown.code, plain.code, "{args:?}: {text:?}");
        // an amount and how fast, in a line that is drawn anew
        let bar = ["/s", " left", " read", " (in this one "].iter().any(|word| text.contains(word));
        assert!(bar && text.contains("\x1b[2K"), "no bar: {args:?}: {text:?}");
        assert!(!text.contains("/100%)"), "{args:?}: {text:?}");
        let told = format!("{}{}", plain.stderr, plain.text());
        assert_eq!(screen(text).trim(), told.trim(), "{args:?}: {text:?}");
        // the same elsewhere: not a byte of it
        let quiet = ran(Command::new("sh").args(["-c", &script]));
        assert_eq!((quiet.code, quiet.stderr), (plain.code, plain.stderr), "{args:?}");
        assert_eq!(quiet.stdout, plain.stdout, "{args:?}");
    });
}

#[test]
fn the_bar_tells_of_files_and_of_what_has_no_end() {
    if !has_terminal() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("images");
    std::fs::create_dir(&folder).unwrap();
    for number in 0..40 {
        std::fs::copy(&fixture("qcow2/v3-zlib-64k.qcow2").path, folder.join(number.to_string()))
            .unwrap();
    }
    let folder = folder.to_str().unwrap();
    let image = fixture("qcow2/v3-zlib-64k.qcow2");
    let plain = diskimage(["probe", "-r", folder]).ok();
    let text = word(image.text());
    let late = format!("{{ head -c 90000 {text}; sleep 2; tail -c +90001 {text}; }}");
    let cases = [
        (slow(60_000, &["probe", "-r", folder]), " files, ", &plain),
        // what is read there is drawn by somebody else
        (format!("{late} | {} inspect -", word(DISKIMAGE)), "87.9 KiB read", &plain),
    ];
    each(&cases, |(script, words, plain)| {
        let shown = finished(on_terminal(script));
        assert!(shown.text().contains(words), "no {words:?}: {script}: {shown:?}");
        if script.contains("probe") {
            // lines stand above the bar, and it is gone in the end
            assert_eq!(screen(shown.text()).trim(), plain.text().trim());
        }
    });
}

#[test]
fn no_bar_is_drawn_where_somebody_else_draws_or_reads() {
    if !has_terminal() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = fixture("qcow2/v3-zlib-64k.qcow2").text();
    let raw = dir.path().join("out.raw");
    let raw = raw.to_str().unwrap();
    let piped = format!("{} | cat", slow(SLOW, &["map", image]));
    let dumb = format!("TERM=dumb {}", slow(SLOW, &["map", image]));
    let called = |args: &[&str]| slow(SLOW, &[&["qemu-img"], args].concat());
    let cases = [
        piped,
        dumb,
        called(&["map", image]),
        called(&["convert", "-Oraw", image, raw]),
        called(&["measure", "-Oqcow2", image]),
        called(&["check", image]),
        called(&["info", image]),
    ];
    each(&cases, |script| {
        let shown = finished(on_terminal(script));
        assert!(!shown.text().contains(['\r', '\x1b']), "{script}: {shown:?}");
    });
    // it is asked for
    let shown = finished(on_terminal(&called(&["convert", "-p", "-Oraw", image, raw])));
    assert!(shown.text().contains(" left"), "{shown:?}");
}

#[test]
fn a_key_ends_what_is_slow_at_once_and_clears_the_bar() {
    if !has_terminal() {
        return;
    }
    let image = fixture("qcow2/v3-zlib-64k.qcow2").text();
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("out.raw");
    let raw = raw.to_str().unwrap();
    let late = |args: &str| format!("sleep 30 | {} {args}", word(DISKIMAGE));
    let cases = [
        // what never comes is not waited for
        late("probe -"),
        late("inspect -"),
        slow(SLOW, &["info", image]),
        slow(SLOW, &["explain", image]),
        slow(SLOW, &["inspect", image]),
        slow(SLOW, &["lint", "--for=azure", image]),
        slow(SLOW, &["map", image]),
        slow(SLOW, &["measure", "-Oqcow2", image]),
        slow(SLOW, &["check", image]),
        slow(SLOW, &["checksum", image]),
        slow(SLOW, &["compare", image, image]),
        // nothing of it may stay behind
        slow(SLOW, &["convert", image, raw]),
    ];
    each(&cases, |script| {
        let mut child = on_terminal(script);
        let mut output = child.stdout.take().unwrap();
        let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
        let mut read = || {
            let length = output.read(&mut piece).unwrap();
            bytes.extend(&piece[..length]);
            (length > 0).then(|| String::from_utf8_lossy(&bytes).into_owned())
        };
        // the second line of it, so that the first one was drawn
        while !read().unwrap_or_else(|| panic!("no bar: {script}")).contains("\x1b[2K") {}
        let start = Instant::now();
        let mut keys = child.stdin.take().unwrap();
        keys.write_all(b"\x03").unwrap();
        keys.flush().unwrap();
        let mut last = String::new();
        while let Some(text) = read() {
            last = text;
        }
        assert_eq!(waited(&mut child), Some(130), "{script}: {last:?}");
        // long before what never comes would
        assert!(start.elapsed() < Duration::from_secs(15), "{script}: {:?}", start.elapsed());
        let left = screen(&last);
        assert!(!left.contains(['█', '░', '%']) && !left.contains(" read"), "{script}: {left:?}");
    });
    assert!(entries(dir.path()).is_empty(), "{:?}", entries(dir.path()));
}

/// The script that a shell completes by, in a folder.
fn completions(folder: &Path, shell: &str, name: &str) -> String {
    let script = folder.join(name);
    std::fs::write(&script, diskimage(["completions", shell]).ok().stdout).unwrap();
    script.to_str().unwrap().to_owned()
}

/// What is typed, and what must be among the words that are offered.
const TYPED: &[(&str, &[&str])] = &[
    ("diskimage con", &["convert"]),
    ("diskimage c", &["check", "checksum", "compare", "completions", "convert", "create"]),
    ("diskimage convert --sal", &["--salvage"]),
    ("diskimage convert --pre", &["--preallocation"]),
    ("diskimage convert -O v", &["vmdk", "vpc", "vhdx", "vdi", "vhd"]),
    ("diskimage convert --preallocation f", &["falloc", "full"]),
    ("diskimage lint --for az", &["azure"]),
    ("diskimage checksum -a bl", &["blake3", "blkhash"]),
    ("diskimage info --output j", &["json"]),
    ("diskimage completions f", &["fish"]),
    ("diskimage man con", &["convert"]),
];

fn sorted(words: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<String> {
    let mut words: Vec<_> = words.into_iter().map(|word| word.as_ref().to_owned()).collect();
    words.sort();
    words
}

#[test]
fn completions_name_what_there_is() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = diskimage(["completions", shell]).ok();
        for word in ["diskimage", "--allow-external", "convert", "qcow2", "azure"] {
            assert!(ran.text().contains(word), "{shell}: no {word}");
        }
    }
}

#[test]
fn bash_completes_commands_options_and_values() {
    if !has("bash") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = completions(dir.path(), "bash", "script");
    output_of(dir.path(), "bash", &["-n", &script]);
    for (typed, wanted) in TYPED {
        let words: Vec<_> = typed.split(' ').collect();
        let (last, before) = (words.len() - 1, words[words.len() - 2]);
        let shell = format!(
            "source {}; COMP_WORDS=({typed}); COMP_CWORD={last}; _diskimage diskimage '{}' '{before}'; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            word(&script),
            words[last]
        );
        let offered = output_of(dir.path(), "bash", &["--norc", "-c", &shell]);
        let offered = String::from_utf8(offered).unwrap();
        assert_eq!(sorted(offered.lines()), sorted(*wanted), "{typed}");
    }
}

#[test]
fn fish_completes_commands_options_and_values() {
    if !has("fish") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = completions(dir.path(), "fish", "script");
    output_of(dir.path(), "fish", &["--no-execute", &script]);
    let asked: Vec<_> =
        TYPED.iter().map(|(typed, _)| format!("complete -C {}; echo =", word(typed))).collect();
    let shell = format!("source {}; {}", word(&script), asked.join("; "));
    let mut fish = Command::new("fish");
    fish.args(["--no-config", "-c", &shell]).current_dir(dir.path()).env("HOME", dir.path());
    let offered = ran(&mut fish);
    assert_eq!((offered.code, &*offered.stderr), (Some(0), ""), "{offered:?}");
    let answers: Vec<_> = offered.text().split("=\n").collect();
    for ((typed, wanted), answer) in TYPED.iter().zip(answers) {
        // a word, and behind a tab what it means
        let words = answer.lines().map(|line| line.split('\t').next().unwrap());
        let words = sorted(words);
        assert_eq!(words, sorted(*wanted), "{typed}: {answer}");
    }
}

#[test]
fn zsh_completes_commands_options_and_values() {
    if !has("zsh") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = completions(dir.path(), "zsh", "_diskimage");
    output_of(dir.path(), "zsh", &["-n", &script]);
    // a shell in a terminal of its own, whose keys are pressed: what there is only one of stands in
    // the line then
    let unique = TYPED.iter().filter(|(_, wanted)| wanted.len() == 1);
    let unique: Vec<_> = unique.collect();
    let own = "unsetopt prompt_cr prompt_sp\nPS1= fpath=($PWD $fpath)\n\
        autoload -Uz compinit; compinit -u -d $PWD/dump\n\
        tell() { print -r -- \"@@$BUFFER@@\"; BUFFER= }\n\
        zle -N tell; bindkey '^X' tell\n";
    std::fs::write(dir.path().join(".zshrc"), own).unwrap();
    let mut shell = String::from("zmodload zsh/zpty || exit 9\nzpty z 'zsh -i'\n");
    for (typed, _) in &unique {
        // Tab, and the key that tells what the line holds
        shell.push_str(&format!("zpty -n -w z {}$'\\t\\x18'\n", word(typed)));
        shell.push_str("zpty -r z out '*@@*@@*' && print -r -- \"${${out#*@@}%%@@*}\"\n");
    }
    shell.push_str("zpty -d z\n");
    let mut zsh = Command::new("zsh");
    zsh.args(["-f", "-c", &shell]).current_dir(dir.path()).env("TERM", "dumb");
    let told = ran(zsh.env("HOME", dir.path()).env("ZDOTDIR", dir.path()));
    assert_eq!(told.code, Some(0), "{told:?}");
    let lines: Vec<_> = told.text().lines().map(|line| line.trim_end_matches(['=', ' '])).collect();
    let wanted = unique.iter().map(|(typed, wanted)| {
        let before = typed.rsplit_once(' ').unwrap().0;
        format!("{before} {}", wanted[0])
    });
    assert_eq!(lines, wanted.collect::<Vec<_>>(), "{told:?}");
}
