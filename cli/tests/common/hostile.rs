//! Hostile images, and what becomes of many runs on them.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{DISKIMAGE, has, output_of, root, skipped};

/// What the outside file holds, again and again: it must never be seen.
pub const CANARY: &str = "diskimage canary: nobody may read these bytes through an image.\n";
/// The outside file that images of both sets name.
pub const OUTSIDE: &str = "/var/tmp/diskimage-canary/secret.raw";

/// A set of images.
pub struct Set {
    pub folder: PathBuf,
    pub cases: Vec<Value>,
}

/// The sets that are there: the one that the project makes itself, and the one beside it.
pub fn sets() -> Vec<Set> {
    put_canary();
    [made(), beside()].into_iter().flatten().collect()
}

/// A set's folder, made by `make` under another name first, so that it is whole or not there.
fn folder(name: &str, make: impl FnOnce(&Path)) -> Set {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if !folder.exists() {
        let part = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap().keep();
        make(&part);
        // another test may have been faster
        if std::fs::rename(&part, &folder).is_err() {
            std::fs::remove_dir_all(&part).unwrap();
        }
    }
    let manifest = std::fs::read_to_string(folder.join("manifest.jsonl")).unwrap();
    let cases = manifest.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    Set { folder: folder.canonicalize().unwrap(), cases }
}

/// The set that `testdata/make_hostile.py` makes, made once for each version of it.
pub fn made() -> Option<Set> {
    if !has("python3") {
        return None;
    }
    let scripts =
        ["make_hostile", "hostile_more", "hostilekit", "vdikit", "vhdkit", "vhdxkit", "vmdkkit"];
    let path = |name: &str| root().join(format!("testdata/{name}.py"));
    let text: Vec<_> = scripts.iter().map(|name| std::fs::read(path(name)).unwrap()).collect();
    let name = format!("hostile-made-{}", &super::sha256(&text.concat())[..16]);
    Some(folder(&name, |part| {
        output_of(part, "python3", &[path(scripts[0]).to_str().unwrap(), "."]);
    }))
}

/// The larger set beside the project.
pub fn beside() -> Option<Set> {
    let archive = root().join("../shared/hostile/dev.tar.xz");
    if !archive.exists() || !has("tar") || !has("xz") {
        skipped("there is no set of hostile images at ../shared/hostile");
        return None;
    }
    let archive = archive.to_str().unwrap();
    Some(folder("hostile-beside", |part| {
        output_of(part, "tar", &["--sparse", "-xJf", archive]);
    }))
}

/// Puts the outside file there, where that is possible.
fn put_canary() {
    let path = Path::new(OUTSIDE);
    let text = CANARY.repeat((1 << 20) / CANARY.len());
    if std::fs::read(path).is_ok_and(|bytes| bytes == text.as_bytes()) {
        return;
    }
    let folder = path.parent().unwrap();
    let put = std::fs::create_dir_all(folder).and_then(|()| {
        let part = folder.join(format!("part.{}", std::process::id()));
        std::fs::write(&part, &text)?;
        std::fs::rename(&part, path)
    });
    if let Err(error) = put {
        skipped(&format!("{OUTSIDE} cannot be made: {error}"));
    }
}

/// One run: its number, the arguments, and where a conversion of it goes.
#[derive(Debug, Clone)]
pub struct Run {
    pub args: Vec<String>,
    pub target: PathBuf,
}

/// What a run came to.
#[derive(Debug)]
pub struct Came {
    pub args: Vec<String>,
    /// The exit code; above 128 a signal ended it.
    pub code: i32,
    pub out: Vec<u8>,
    pub err: Vec<u8>,
    /// The most memory it had, in bytes, and the seconds that it computed.
    pub peak: u64,
    pub seconds: f64,
    /// Whether the target is there, and whether it holds what must not be seen.
    pub converted: bool,
    pub leaked: bool,
}

/// How many runs a shell does after the other.
const BATCH: usize = 40;

/// Runs the command so often, two at a time, each with the memory and processor time of a process
/// limited beyond what it may need, and hands what came of it to `judge`.
pub fn run_all(runs: Vec<Run>, judge: impl Fn(Came) + Sync) {
    if !has("time") {
        return;
    }
    let batches = Mutex::new(runs.chunks(BATCH).map(<[Run]>::to_vec).collect::<Vec<_>>());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let next = batches.lock().unwrap().pop();
                    let Some(batch) = next else { break };
                    run_batch(batch, &judge);
                }
            });
        }
    });
}

fn run_batch(batch: Vec<Run>, judge: &(impl Fn(Came) + Sync)) {
    let work = tempfile::tempdir().unwrap();
    // far above what is allowed, and far below what a machine has
    let mut script = String::from("ulimit -v 2097152; ulimit -t 30; ulimit -c 0\n");
    for (number, run) in batch.iter().enumerate() {
        let args: Vec<_> = run.args.iter().map(|arg| quoted(arg)).collect();
        script += &format!(
            "time -q -f '%M %U %S' -o {number}.time {} {} >{number}.out 2>{number}.err; echo $? >{number}.code\n",
            quoted(DISKIMAGE),
            args.join(" ")
        );
    }
    // the program, not the shell's own word
    let script = script.replace("\ntime ", "\ncommand time ");
    std::fs::write(work.path().join("script"), script).unwrap();
    let mut shell = Command::new("sh");
    shell.arg("script").current_dir(work.path()).stdin(Stdio::null());
    let mut shell = shell.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while shell.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(120) {
            shell.kill().unwrap();
            panic!("one of these hangs: {batch:#?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    for (number, run) in batch.into_iter().enumerate() {
        let read =
            |what: &str| std::fs::read(work.path().join(format!("{number}.{what}"))).unwrap();
        let times = String::from_utf8(read("time")).unwrap();
        let times: Vec<f64> = times.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let &[peak, user, system] = &times[..] else { panic!("{run:?}: {times:?}") };
        let code = String::from_utf8(read("code")).unwrap().trim().parse().unwrap();
        let (out, err) = (read("out"), read("err"));
        let converted = run.target.exists();
        let leaked = holds_canary(&out) || holds_canary(&err) || file_holds_canary(&run.target);
        if converted {
            std::fs::remove_file(&run.target).unwrap();
        }
        let (peak, seconds) = ((peak as u64) << 10, user + system);
        judge(Came { args: run.args, code, out, err, peak, seconds, converted, leaked });
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn holds_canary(bytes: &[u8]) -> bool {
    memchr::memmem::find(bytes, &CANARY.as_bytes()[..16]).is_some()
}

/// Looks at the data of a file: at most 64 MiB of it, in pieces that overlap.
fn file_holds_canary(path: &Path) -> bool {
    let Ok(mut file) = std::fs::File::open(path) else { return false };
    let (mut at, mut left) = (0, 64u64 << 20);
    let mut piece = vec![0; 1 << 16];
    while left > 0 {
        let Ok(data) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) else { break };
        file.seek(SeekFrom::Start(data)).unwrap();
        let read = file.read(&mut piece).unwrap();
        // what is found once in a file that holds it is enough: it is there 16,384 times
        let (marks, _) = piece[..read].as_chunks::<4096>();
        if marks.iter().any(|part| holds_canary(&part[..256]))
            || holds_canary(&piece[..read.min(256)])
        {
            return true;
        }
        at = data + read as u64;
        left = left.saturating_sub(read as u64).min(if read == 0 { 0 } else { u64::MAX });
    }
    false
}
