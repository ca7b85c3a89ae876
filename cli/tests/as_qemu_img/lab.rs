//! A folder with images, and both programs in it.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::common::*;

pub struct Lab {
    folder: PathBuf,
    link: PathBuf,
    /// Removes the folder at the end.
    _dir: Option<TempDir>,
}

impl Lab {
    /// Nothing where there is no qemu-img. The folder is where O_DIRECT works.
    pub fn new() -> Option<Self> {
        if !has("qemu-img") || !has("qemu-io") {
            return None;
        }
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Some(Self::in_folder(dir.path().to_owned(), Some(dir)))
    }

    /// One for several tests, which stays until the next run.
    pub fn shared() -> Option<Self> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("as-qemu-img");
        let _ = std::fs::remove_dir_all(&folder);
        (has("qemu-img") && has("qemu-io")).then(|| Self::in_folder(folder, None))
    }

    fn in_folder(folder: PathBuf, dir: Option<TempDir>) -> Self {
        let bin = folder.join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        let link = bin.join("qemu-img");
        std::os::unix::fs::symlink(DISKIMAGE, &link).unwrap();
        Self { folder, link, _dir: dir }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn run(&self, program: &Path, args: &[&str], env: &[(&str, &str)]) -> Ran {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.folder()).env("TZ", "UTC").env("LC_ALL", "C");
        for name in ["DISKIMAGE_ALLOW_EXTERNAL", "DISKIMAGE_ASSUME_RAW"] {
            command.env_remove(name);
        }
        ran(command.envs(env.iter().copied()))
    }

    /// The program itself.
    #[track_caller]
    pub fn theirs(&self, args: &[&str]) -> Ran {
        self.run(Path::new("qemu-img"), args, &[])
    }

    /// Our command, called by a link of that name.
    #[track_caller]
    pub fn ours(&self, args: &[&str]) -> Ran {
        self.run(&self.link, args, &[])
    }

    #[track_caller]
    pub fn ours_with(&self, env: &[(&str, &str)], args: &[&str]) -> Ran {
        self.run(&self.link, args, env)
    }

    /// The same with `input` on its standard input, through a pipe.
    #[track_caller]
    pub fn ours_fed(&self, input: &[u8], args: &[&str]) -> Ran {
        let mut command = Command::new(&self.link);
        command.args(args).current_dir(self.folder()).stdin(Stdio::piped());
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            // it may stop reading before the end
            scope.spawn(move || drop(pipe.write_all(input)));
            finished(child)
        })
    }

    /// The same, having given up what it does not need.
    #[track_caller]
    pub fn sandboxed(&self, args: &[&str]) -> Ran {
        self.run(Path::new(DISKIMAGE), &[&["--sandbox", "qemu-img"], args].concat(), &[])
    }

    /// Makes an image with qemu-img.
    #[track_caller]
    pub fn make(&self, args: &[&str]) {
        let ran = self.theirs(args);
        assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
    }

    /// Writes into an image with qemu-io.
    #[track_caller]
    pub fn write(&self, format: &str, name: &str, commands: &[&str]) {
        let mut args = vec!["-f", format];
        commands.iter().for_each(|command| args.extend(["-c", command]));
        args.push(name);
        let ran = ran(Command::new("qemu-io").args(&args).current_dir(self.folder()));
        assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
    }

    /// The same, whatever its backing file is.
    #[track_caller]
    pub fn write_unopened(&self, name: &str, commands: &[&str]) {
        let opts = format!("driver=qcow2,file.driver=file,file.filename={name},backing=");
        let mut args = vec!["--image-opts", &*opts];
        commands.iter().for_each(|command| args.extend(["-c", command]));
        let ran = ran(Command::new("qemu-io").args(&args).current_dir(self.folder()));
        assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
    }

    /// A raw disk of 3 MiB with data, zeros and holes, which no two programs lay out alike.
    #[track_caller]
    pub fn raw(&self, name: &str) {
        let mut bytes = vec![0u8; 3 << 20];
        for (at, byte) in bytes[..200_000].iter_mut().enumerate() {
            *byte = (at / 64) as u8 ^ (at % 7) as u8;
        }
        bytes[1 << 20..(1 << 20) + 70_000].fill(0x5a);
        bytes[(3 << 20) - 512..].fill(1);
        write_sparse(&self.path(name), &bytes);
    }

    /// Images of that disk in a format.
    #[track_caller]
    pub fn image(&self, format: &str, name: &str, options: &[&str]) {
        self.raw("raw.tmp");
        let fixed = ["convert", "-f", "raw", "-O", format];
        self.make(&[&fixed[..], options, &["raw.tmp", name]].concat());
        std::fs::remove_file(self.path("raw.tmp")).unwrap();
    }

    /// Both answer the same, with the same exit code and the same silence. Gives our answer.
    #[track_caller]
    pub fn same(&self, args: &[&str]) -> Ran {
        let (theirs, ours) = (self.theirs(args), self.ours(args));
        assert_eq!(ours.code, theirs.code, "{args:?}: {ours:?} {theirs:?}");
        let silent = |ran: &Ran| ran.stderr.is_empty();
        assert_eq!(silent(&ours), silent(&theirs), "{args:?}: {ours:?} {theirs:?}");
        if args.iter().any(|arg| arg.contains("json")) && ours.code != Some(1) {
            assert_eq!(ours.json(), theirs.json(), "{args:?}");
        } else {
            assert_eq!(ours.text(), theirs.text(), "{args:?}");
        }
        ours
    }

    /// Both write the same disk to `target`, into what `before` puts there, and print the same.
    /// Gives what they printed; what we wrote stays.
    #[track_caller]
    pub fn writes_into(&self, before: impl Fn(), target: &str, args: &[&str]) -> String {
        let (file, other) = (self.path(target), self.path("theirs.img"));
        let _ = std::fs::remove_file(&file);
        before();
        let theirs = self.theirs(args);
        assert_eq!((theirs.code, &*theirs.stderr), (Some(0), ""), "{args:?}: {theirs:?}");
        std::fs::rename(&file, &other).unwrap();
        before();
        let ours = self.ours(args).ok();
        self.alike(target, "theirs.img");
        assert_eq!(printed(&ours), printed(&theirs), "{args:?}");
        ours.text().to_owned()
    }

    #[track_caller]
    pub fn writes(&self, target: &str, args: &[&str]) -> String {
        self.writes_into(|| (), target, args)
    }

    /// Both files are images of one format and disk, and of the same features.
    #[track_caller]
    fn alike(&self, one: &str, other: &str) {
        let info = |name: &str| {
            let mut info = self.theirs(&["info", "-U", "--output=json", name]).ok().json();
            let members = info.as_object_mut().unwrap();
            for own in ["actual-size", "children", "filename"] {
                members.remove(own);
            }
            info
        };
        let (mut found, mut wanted) = (info(one), info(other));
        let format = found["format"].as_str().unwrap().to_owned();
        match &*format {
            "raw" => {
                let read = |name: &str| std::fs::read(self.path(name)).unwrap();
                assert!(read(one) == read(other), "{one} differs");
            }
            // the layout of these is each program's own; VMDKs have identifiers
            "vmdk" => {
                let kind = |info: &Value| info["format-specific"]["data"]["create-type"].clone();
                assert_eq!(kind(&found), kind(&wanted));
                for info in [&mut found, &mut wanted] {
                    info.as_object_mut().unwrap().remove("format-specific");
                }
            }
            "vhdx" => {
                for info in [&mut found, &mut wanted] {
                    info.as_object_mut().unwrap().remove("cluster-size");
                }
            }
            _ => {}
        }
        assert_eq!(found, wanted);
        let compared = self.theirs(&["compare", "-f", &format, "-F", &format, one, other]);
        assert_eq!(compared.code, Some(0), "{compared:?}");
        if format == "qcow2" {
            assert_eq!(self.theirs(&["check", one]).code, Some(0));
        }
    }

    /// Both change `files`, which `before` makes, in the same way, and print the same: afterwards
    /// each is an image of the same features and disk. Gives our answer, and the lengths of the
    /// files, ours before theirs.
    #[track_caller]
    pub fn changes(
        &self,
        before: impl Fn(),
        files: &[&str],
        args: &[&str],
    ) -> (Ran, Vec<[u64; 2]>) {
        let fresh = || {
            files.iter().for_each(|file| drop(std::fs::remove_file(self.path(file))));
            before();
        };
        let seen = |file: &&str| {
            let mut info = self.theirs(&["info", "-U", "--output=json", file]).ok().json();
            let members = info.as_object_mut().unwrap();
            members.entry("snapshots").or_insert_with(|| Value::Array(Vec::new()));
            ["actual-size", "children"].iter().for_each(|own| drop(members.remove(*own)));
            // the moments when they were taken differ
            for snapshot in info["snapshots"].as_array_mut().into_iter().flatten() {
                ["date-sec", "date-nsec"].iter().for_each(|date| drop(snapshot[*date].take()));
            }
            let format = info["format"].as_str().unwrap();
            if format == "qcow2" {
                let checked = self.theirs(&["check", "-f", format, file]);
                assert_eq!(checked.code, Some(0), "{file}: {checked:?}");
            }
            self.make(&["convert", "-f", format, "-O", "raw", file, "seen.tmp"]);
            let content = std::fs::read(self.path("seen.tmp")).unwrap();
            (info, content, std::fs::metadata(self.path(file)).unwrap().len())
        };
        fresh();
        let theirs = self.theirs(args);
        assert_eq!((theirs.code, &*theirs.stderr), (Some(0), ""), "{args:?}: {theirs:?}");
        let wanted: Vec<_> = files.iter().map(seen).collect();
        fresh();
        let folder = self.folder().display().to_string();
        let ours = self.ours_with(&[("DISKIMAGE_ALLOW_EXTERNAL", &*folder)], args).ok();
        let lengths = files.iter().zip(wanted).map(|(file, wanted)| {
            let found = seen(file);
            assert_eq!(found.0, wanted.0, "{args:?}: {file}");
            assert!(found.1 == wanted.1, "{args:?}: {file} differs");
            [found.2, wanted.2]
        });
        let lengths = lengths.collect();
        assert_eq!(printed(&ours), printed(&theirs), "{args:?}");
        (ours, lengths)
    }

    /// An image that qemu-io has open until it is let go.
    pub fn held(&self, format: &str, name: &str) -> Child {
        let mut held = Command::new("qemu-io")
            .args(["-f", format, name])
            .current_dir(self.folder())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // its prompt appears when the image is open
        let mut prompt = [0; 7];
        std::io::Read::read_exact(held.stdout.as_mut().unwrap(), &mut prompt).unwrap();
        held
    }

    pub fn let_go(&self, mut held: Child) {
        drop(held.stdin.take());
        waited(&mut held);
    }

    /// We refuse a call that changes `file`, in these words, and leave it as it was.
    #[track_caller]
    pub fn leaves(&self, file: &str, line: &str, told: &[&str]) {
        let before = std::fs::read(self.path(file)).unwrap();
        let folder = self.folder().display().to_string();
        let ours = self.ours_with(&[("DISKIMAGE_ALLOW_EXTERNAL", &*folder)], &words(line));
        assert_eq!((ours.code, ours.text()), (Some(1), ""), "{line}: {ours:?}");
        assert!(ours.stderr.starts_with("qemu-img: "), "{line}: {ours:?}");
        for word in told {
            assert!(ours.stderr.contains(word), "{line}: no {word:?} in {}", ours.stderr);
        }
        assert!(std::fs::read(self.path(file)).unwrap() == before, "{line}: {file} was changed");
    }

    /// We refuse, with this exit code and a message that begins as qemu-img's and has every one of
    /// `words`; nothing is printed.
    #[track_caller]
    pub fn refused(&self, args: &[&str], code: i32, words: &[&str]) {
        let ours = self.ours(args);
        assert_eq!((ours.code, ours.text()), (Some(code), ""), "{args:?}: {ours:?}");
        assert!(ours.stderr.starts_with("qemu-img: "), "{args:?}: {ours:?}");
        for word in words {
            assert!(ours.stderr.contains(word), "{args:?}: no {word:?} in {}", ours.stderr);
        }
    }
}

/// What was printed, but for progress: how often that is shown is a matter of time.
fn printed(ran: &Ran) -> String {
    let text = ran.text().replace('\r', "\n");
    text.lines().filter(|line| !line.contains("/100%)")).collect()
}

/// The arguments of `line`, which has no spaces in them.
pub fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// The environment of a shell that sets a limit before it runs the program.
pub fn limited(lab: &Lab, limit: &str, line: &str) -> Ran {
    let script: OsString = format!("ulimit {limit}; exec bin/qemu-img {line}").into();
    ran(Command::new("sh").arg("-c").arg(script).current_dir(lab.folder()))
}
