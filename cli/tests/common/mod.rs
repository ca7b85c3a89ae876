//! What the end-to-end tests share: the command, the images of `testdata/`, other programs.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    clippy::unwrap_used,
    reason = "each test binary uses a part of it; tests may panic"
)]

use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest, Sha256};

pub use fixtures::{Fixture, fixture, fixtures, unpacked, write_sparse};

#[path = "../../../tests/common/fixtures.rs"]
mod fixtures;
#[cfg(target_os = "linux")]
pub mod hostile;
pub mod qcow2;
pub mod watched;

/// The command under test.
pub const DISKIMAGE: &str = env!("CARGO_BIN_EXE_diskimage");

/// Longer than anything takes: what runs longer hangs.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What a program left behind.
#[derive(Debug)]
pub struct Ran {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ran {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Success, and silent about it.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!((self.code, &*self.stderr), (Some(0), ""), "{self:?}");
        self
    }

    /// A failure with this code that is told in one line, starts with the file's name, holds every
    /// one of `words`, and prints nothing else.
    #[track_caller]
    pub fn refused(self, code: i32, file: &Path, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.stdout.is_empty(), "{self:?}");
        self.told(file, words)
    }

    /// One line on standard error as [`Self::refused`] describes it.
    #[track_caller]
    pub fn told(self, file: &Path, words: &[&str]) -> Self {
        let line = self.stderr.strip_suffix('\n').unwrap_or_else(|| panic!("no line: {self:?}"));
        assert!(!line.contains(|c: char| c.is_control()), "a control character: {self:?}");
        let start = format!("diskimage: {}: ", file.display());
        assert!(line.starts_with(&start), "does not start with {start:?}: {self:?}");
        for word in words {
            assert!(line.contains(word), "no {word:?} in {line}");
        }
        self
    }
}

/// The command with these arguments.
pub fn command<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(DISKIMAGE);
    command.args(args);
    command
}

/// Runs the command.
#[track_caller]
pub fn diskimage<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    ran(&mut command(args))
}

/// Runs a program without input, and fails if it hangs.
#[track_caller]
pub fn ran(command: &mut Command) -> Ran {
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    finished(spawned.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}")))
}

/// Waits for a program whose output is piped.
#[track_caller]
pub fn finished(mut child: Child) -> Ran {
    fn collect(from: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            from.map(|mut from| from.read_to_end(&mut bytes));
            bytes
        })
    }
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let code = waited(&mut child);
    let stderr = String::from_utf8(stderr.join().unwrap()).unwrap();
    Ran { code, stdout: stdout.join().unwrap(), stderr }
}

/// Waits for a program, and fails if it hangs.
#[track_caller]
pub fn waited(child: &mut Child) -> Option<i32> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if start.elapsed() > TIMEOUT {
            child.kill().unwrap();
            panic!("it hangs");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a program is there; says so if not. With `DISKIMAGE_REQUIRE_TOOLS=1` it must be.
pub fn has(program: &str) -> bool {
    let found = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path)
            .chain(["/sbin".into(), "/usr/sbin".into()])
            .any(|folder| folder.join(program).exists())
    });
    if !found {
        let required = std::env::var_os("DISKIMAGE_REQUIRE_TOOLS").is_some_and(|v| v == "1");
        assert!(!required, "{program} is not installed, and DISKIMAGE_REQUIRE_TOOLS=1 is set");
        skipped(&format!("{program} is not installed"));
    }
    found
}

/// Says why a test does nothing here.
pub fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}

/// Standard output of another program that is there and succeeds, run in `folder`.
#[track_caller]
pub fn output_of(folder: &Path, program: &str, args: &[&str]) -> Vec<u8> {
    let ran = ran(Command::new(program).args(args).current_dir(folder));
    assert_eq!(ran.code, Some(0), "{program} {args:?}: {ran:?}");
    ran.stdout
}

impl Fixture {
    /// A raw disk or a QCOW2 image over such.
    pub fn is_raw_or_qcow2(&self) -> bool {
        let ours = |format: &str| matches!(format, "raw" | "qcow2");
        ours(&self.format) && self.parents.iter().all(|parent| ours(&fixture(parent).format))
    }

    /// The folder it lies in.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap()
    }

    pub fn name(&self) -> &str {
        self.path.file_name().unwrap().to_str().unwrap()
    }

    pub fn text(&self) -> &str {
        self.path.to_str().unwrap()
    }

    pub fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }
}

/// The project's root folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The raw and QCOW2 fixtures whose disk can be read, other files allowed.
pub fn readable() -> impl Iterator<Item = &'static Fixture> {
    fixtures().iter().filter(|f| f.is_raw_or_qcow2() && f.expect.starts_with("ok"))
}

/// `--allow-external` for all fixtures.
pub fn allow() -> String {
    format!("--allow-external={}", unpacked().display())
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// What a folder holds, hidden files too, sorted.
pub fn entries(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The bytes that a file takes up.
pub fn allocated(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).unwrap().blocks() * 512
}

/// Entries of a map with neighbours joined.
pub fn joined(entries: &Value) -> Vec<Value> {
    let number = |value: &Value, key: &str| value[key].as_u64();
    let mut joined: Vec<Value> = Vec::new();
    for entry in entries.as_array().unwrap() {
        let length = number(entry, "length").unwrap();
        if let Some(last) = joined.last_mut() {
            let so_far = number(last, "length").unwrap();
            let same = ["depth", "present", "zero", "data", "compressed"]
                .iter()
                .all(|key| last[*key] == entry[*key]);
            let follows = number(last, "offset").map(|o| o + so_far) == number(entry, "offset");
            if same && follows {
                last["length"] = (so_far + length).into();
                continue;
            }
        }
        joined.push(entry.clone());
    }
    joined
}
