//! The sandbox: what the process does not need it gives up before it reads a byte of an image, so
//! that even a fault in a parser could do no more than is left.

#[cfg(target_os = "linux")]
mod files;
#[cfg(target_os = "linux")]
mod linux;
mod needs;

use std::path::{Path, PathBuf};

use crate::args::{Command, OpenArgs};
use crate::bounds::Bounds;
use crate::report;

/// What a command needs of the file system.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Files that are read.
    files: Vec<PathBuf>,
    /// Folders below which files are read.
    folders: Vec<PathBuf>,
    /// Files and devices that exist and are written in place.
    written: Vec<PathBuf>,
    /// Folders in which new files appear.
    created_in: Vec<PathBuf>,
    /// Whether a temporary file that is open by then is written.
    spills: bool,
}

impl Needs {
    /// Files that are read, and nothing else.
    pub(crate) fn reading(files: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { files: files.into_iter().collect(), ..Self::default() }
    }

    /// Reads what lies below a folder too.
    pub(crate) fn beneath(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folders.push(folder.into());
        self
    }

    /// Writes into a file or device that exists.
    pub(crate) fn writing(mut self, file: impl Into<PathBuf>) -> Self {
        self.written.push(file.into());
        self
    }

    /// Writes into a temporary file that it has opened.
    pub(crate) fn spilling(mut self) -> Self {
        self.spills = true;
        self
    }

    /// Makes new files in a folder.
    pub(crate) fn creating_in(mut self, folder: impl Into<PathBuf>) -> Self {
        self.created_in.push(folder.into());
        self
    }
}

/// Gives up all but what `command` needs, whose threads and temporary file are settled before.
pub(crate) fn enter_for(command: &mut Command, bounds: &Bounds, asked: bool) {
    command.settle_threads();
    if command.may_spill() {
        bounds.prepare_spill();
    }
    enter(&command.needs(), asked);
}

/// Gives up all but what it takes to change `file` in place, and to read what it may name.
pub(crate) fn enter_to_change(open: &OpenArgs, file: &Path) {
    enter(&Needs::changing(open, file), true);
}

/// Gives up all but `needs`, for all threads that start from now on: to be called before any does,
/// and before the first file is opened. What the system cannot do is left out; where the sandbox
/// was `asked` for a note tells so.
fn enter(needs: &Needs, asked: bool) {
    #[cfg(target_os = "linux")]
    let missing = linux::enter(needs);
    #[cfg(not(target_os = "linux"))]
    let missing = {
        let Needs { files: _, folders: _, written: _, created_in: _, spills: _ } = needs;
        vec!["nothing of it is there on this system".to_owned()]
    };
    if asked && !missing.is_empty() {
        report::message(&format!("note: the sandbox is not whole: {}", missing.join("; ")));
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::net::UnixStream;
    use std::path::Path;
    use std::process::Command;

    use super::*;

    /// Names the folder of the test in the process that gives up the rest.
    const FOLDER: &str = "DISKIMAGE_SANDBOX_TEST";

    /// What a process inside the sandbox can do of this: told on standard output.
    fn attempts(folder: &Path) -> Vec<(&'static str, bool)> {
        let at = |name: &str| folder.join(name);
        let write = |path: &Path| OpenOptions::new().write(true).open(path).is_ok();
        vec![
            ("open input", File::open(at("input")).is_ok()),
            ("open beneath", File::open(at("beneath/file")).is_ok()),
            ("open other", File::open(at("other")).is_ok()),
            ("open system", File::open("/etc/passwd").is_ok()),
            ("list folder", std::fs::read_dir(folder).is_ok()),
            ("write input", write(&at("input"))),
            ("write other", write(&at("other"))),
            ("create", File::create(at("created")).is_ok()),
            ("create in output", File::create(at("output/created")).is_ok()),
            ("remove", std::fs::remove_file(at("other")).is_ok()),
            ("make folder", std::fs::create_dir(at("output/folder")).is_ok()),
            ("link", std::os::unix::fs::symlink("x", at("output/link")).is_ok()),
            ("listen", TcpListener::bind("127.0.0.1:0").is_ok()),
            ("datagrams", UdpSocket::bind("127.0.0.1:0").is_ok()),
            ("pair", UnixStream::pair().is_ok()),
            ("run", Command::new("/bin/true").status().is_ok()),
            ("exec", {
                use std::os::unix::process::CommandExt;
                // it comes back only where it fails
                let _failed = Command::new("/bin/true").exec();
                false
            }),
            ("trace", {
                let status = std::fs::read_to_string("/proc/self/status");
                status.is_ok()
            }),
            ("thread", std::thread::spawn(|| 7).join().is_ok_and(|seven| seven == 7)),
        ]
    }

    /// The part of the test that runs in a process of its own, since nothing is given back.
    #[test]
    fn child() {
        let Some(folder) = std::env::var_os(FOLDER) else { return };
        let folder = Path::new(&folder);
        let mut needs = Needs::reading([folder.join("input")]).beneath(folder.join("beneath"));
        if folder.join("output").is_dir() {
            needs = needs.creating_in(folder.join("output"));
        }
        let missing = linux::enter(&needs);
        println!("\nmissing: {missing:?}");
        let told = |who: &str, attempts: Vec<(&str, bool)>| {
            for (what, done) in attempts {
                println!("{who} {what}: {done}");
            }
        };
        told("main", attempts(folder));
        // a thread that starts later is no way out
        let folder = folder.to_owned();
        told("thread", std::thread::spawn(move || attempts(&folder)).join().unwrap());
        println!("all told");
    }

    /// Runs the test above in the sandbox; `None` where the kernel lacks a part of it.
    fn told(folder: &Path) -> Option<String> {
        std::fs::write(folder.join("input"), "i").unwrap();
        std::fs::write(folder.join("other"), "o").unwrap();
        std::fs::create_dir(folder.join("beneath")).unwrap();
        std::fs::write(folder.join("beneath/file"), "b").unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "sandbox::tests::child", "--nocapture", "--test-threads=1"]);
        let output = child.env(FOLDER, folder).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("all told"), "{text}{}", String::from_utf8_lossy(&output.stderr));
        if !text.contains("missing: []") {
            eprintln!("skipped: {text}");
            return None;
        }
        Some(text)
    }

    #[track_caller]
    fn check(text: &str, allowed: &[&str]) {
        let lines: Vec<_> = text.lines().filter(|line| line.contains(": ")).collect();
        let mut seen = 0;
        for line in lines {
            let Some((what, done)) = line.rsplit_once(": ") else { continue };
            let Some((_, what)) = what.split_once(' ').filter(|_| matches!(done, "true" | "false"))
            else {
                continue;
            };
            assert_eq!(done == "true", allowed.contains(&what), "{line}");
            seen += 1;
        }
        assert_eq!(seen, 2 * 19, "{text}");
    }

    #[test]
    fn a_reader_can_read_its_files_and_do_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let Some(text) = told(dir.path()) else { return };
        check(&text, &["open input", "open beneath", "thread"]);
    }

    #[test]
    fn a_writer_can_make_files_in_its_folder_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("output")).unwrap();
        let Some(text) = told(dir.path()) else { return };
        check(&text, &["open input", "open beneath", "create in output", "thread"]);
    }
}
