//! What the whole-library tests share: the images of `testdata/`, those of the corpus where it is
//! present, and other programs.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test binary uses a part of it; tests may panic"
)]

mod fixtures;
pub mod qemu;
pub mod repair;
pub mod superblocks;
pub mod sweep;

use std::io::Read;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;

use diskimage::layer::Identity;
use diskimage::resolve::Listed;
use diskimage::target::Capabilities;
use diskimage::{Beneath, OpenOptions, Target, VirtualDisk, VirtualDiskExt};
use serde_json::Value;
use sha2::{Digest, Sha256};

pub use fixtures::{Fixture, fixture, fixtures, unpacked, write_sparse};

/// The project's root folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl Fixture {
    /// Whether its content can be read, other files allowed.
    pub fn is_readable(&self) -> bool {
        let is_read = |format: &str| format.parse().is_ok_and(diskimage::Format::is_read);
        let parents = self.parents.iter().map(|parent| &fixture(parent).format);
        self.expect.starts_with("ok") && is_read(&self.format) && { parents }.all(|f| is_read(f))
    }

    /// Whether it is small enough to be held in memory.
    pub fn is_small(&self) -> bool {
        self.virtual_size <= 64 << 20
    }
}

/// The readable fixtures that fit in memory, by name.
pub fn small_fixtures() -> impl Iterator<Item = &'static Fixture> {
    fixtures().iter().filter(|f| f.is_readable() && f.is_small())
}

/// Options that allow the files of a fixture's folder tree.
pub fn allow_testdata() -> OpenOptions {
    fixtures();
    OpenOptions::new().resolver(Beneath::new(unpacked()).unwrap()).assume_raw(true)
}

pub fn open_fixture(fixture: &Fixture) -> diskimage::Result<diskimage::Chain> {
    let format = fixture.format.parse().unwrap();
    allow_testdata().resolver(resolver_of(fixture)).format(format).open(&fixture.path)
}

/// What allows the files that a fixture needs.
pub fn resolver_of(fixture: &Fixture) -> Listed {
    // a parent that is known by UUID only has to be listed
    let mut listed = Listed::new().or_else(Beneath::new(unpacked()).unwrap());
    if fixture.is("parent-by-uuid") {
        for parent in &fixture.parents {
            let path = &self::fixture(parent).path;
            if let Some(Identity::Uuid(uuid)) =
                OpenOptions::new().open_image(path).ok().and_then(|i| i.layer().identity())
            {
                listed = listed.with(uuid_text(&uuid), path);
            }
        }
    }
    listed
}

fn uuid_text(uuid: &[u8; 16]) -> String {
    let text = hex(uuid);
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

/// SHA-256 of a disk's content, in hexadecimal.
pub fn sha256_of(disk: &dyn VirtualDisk) -> diskimage::Result<String> {
    let mut hash = Sha256::new();
    let mut buf = vec![0; 1 << 20];
    for extent in disk.extents(0..disk.size()) {
        let extent = extent?;
        let mut at = extent.start;
        while at < extent.end() {
            let length = (extent.end() - at).min(buf.len() as u64) as usize;
            if extent.kind.is_zero() {
                buf[..length].fill(0);
            } else {
                disk.read_exact_at(&mut buf[..length], at)?;
            }
            hash.update(&buf[..length]);
            at += length as u64;
        }
    }
    Ok(hex(&hash.finalize()))
}

pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The whole content of a small disk.
pub fn content(disk: &dyn VirtualDisk) -> diskimage::Result<Vec<u8>> {
    let mut bytes = vec![0; disk.size() as usize];
    disk.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// A target in memory.
#[derive(Debug)]
pub struct Memory(pub Mutex<Vec<u8>>);

impl Memory {
    pub fn new(size: u64) -> Self {
        Self(Mutex::new(vec![0; size as usize]))
    }
}

impl Target for Memory {
    fn capabilities(&self) -> Capabilities {
        Capabilities { ascending: false, fresh_zeros: true }
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> diskimage::Result<()> {
        self.0.lock().unwrap()[offset as usize..][..buf.len()].copy_from_slice(buf);
        Ok(())
    }
    fn write_zeros(&self, offset: u64, length: u64) -> diskimage::Result<()> {
        self.0.lock().unwrap()[offset as usize..][..length as usize].fill(0);
        Ok(())
    }
    fn finish(self: Box<Self>) -> diskimage::Result<()> {
        Ok(())
    }
}

/// Runs another program; `None`, with a message, where it is not installed. With
/// `DISKIMAGE_REQUIRE_TOOLS=1` its absence is a failure.
pub fn tool(program: &str, args: &[&std::ffi::OsStr]) -> Option<Output> {
    match Command::new(program).args(args).output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            assert!(
                std::env::var_os("DISKIMAGE_REQUIRE_TOOLS").is_none_or(|v| v != "1"),
                "{program} is not installed, and DISKIMAGE_REQUIRE_TOOLS=1 is set"
            );
            eprintln!("skipped: {program} is not installed");
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

/// Runs another program and expects success; gives its standard output.
pub fn tool_output(program: &str, args: &[&std::ffi::OsStr]) -> Option<Vec<u8>> {
    let output = tool(program, args)?;
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(output.stdout)
}

/// The images made by other people's software, where that folder is present beside the project.
pub fn corpus() -> Option<PathBuf> {
    let folder = root().join("../shared/corpus");
    if folder.join("manifest.tsv").exists() {
        return Some(folder);
    }
    eprintln!("skipped: there is no corpus at ../shared/corpus");
    None
}

/// An image of the corpus, unpacked.
#[derive(Debug)]
pub struct CorpusImage {
    pub name: String,
    pub path: PathBuf,
    pub format: String,
    pub subformat: String,
    pub virtual_size: Option<u64>,
    pub guest_sha256: Option<String>,
    pub verdict: String,
    pub comment: String,
}

/// The corpus images for which `wanted` (of format and verdict) holds, unpacked with their
/// companions.
pub fn corpus_images(wanted: impl Fn(&str, &str) -> bool) -> Vec<CorpusImage> {
    let Some(corpus) = corpus() else { return Vec::new() };
    let out =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("corpus-{}", env!("CARGO_CRATE_NAME")));
    let text = std::fs::read_to_string(corpus.join("manifest.tsv")).unwrap();
    let mut lines = text.lines();
    let columns: Vec<&str> = lines.next().unwrap().split('\t').collect();
    let mut images = Vec::new();
    for line in lines {
        let fields: Vec<&str> = line.split('\t').collect();
        let field = |name: &str| {
            let index = columns.iter().position(|c| *c == name).unwrap();
            fields.get(index).copied().unwrap_or_default().to_owned()
        };
        if !wanted(&field("format"), &field("verdict")) {
            continue;
        }
        let path = out.join(field("path"));
        unpack_stored(&corpus.join(field("stored_as")), &path);
        // companions are named as beside the image; unpack the whole folder's files
        let folder = corpus.join(field("path")).parent().unwrap().to_owned();
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap();
            let plain = name.strip_suffix(".zst").unwrap_or(&name);
            if entry.path().is_file() {
                unpack_stored(&entry.path(), &path.parent().unwrap().join(plain));
            }
        }
        images.push(CorpusImage {
            name: field("path"),
            path,
            format: field("format"),
            subformat: field("subformat"),
            virtual_size: field("virtual_size").parse().ok(),
            guest_sha256: Some(field("guest_sha256")).filter(|h| h.len() == 64),
            verdict: field("verdict"),
            comment: field("comment"),
        });
    }
    images
}

fn unpack_stored(stored: &Path, path: &Path) {
    // tests of one process run side by side, and a temporary name is one for all of them
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = ONE.lock();
    if path.exists() {
        return;
    }
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = std::fs::File::open(stored).unwrap();
    let mut bytes = Vec::new();
    if stored.extension().is_some_and(|e| e == "zst") {
        let mut decoder = zstd::stream::Decoder::new(file).unwrap();
        decoder.window_log_max(27).unwrap();
        decoder.read_to_end(&mut bytes).unwrap();
    } else {
        std::io::BufReader::new(file).read_to_end(&mut bytes).unwrap();
    }
    let temporary = path.with_extension(format!("unpacking-{}", std::process::id()));
    write_sparse(&temporary, &bytes);
    std::fs::rename(temporary, path).unwrap();
}

/// The hostile and odd images beside the project, unpacked, where they are present.
pub fn hostile() -> Option<PathBuf> {
    let archive = root().join("../shared/hostile/dev.tar.xz");
    if !archive.exists() {
        eprintln!("skipped: there is no set of hostile images at ../shared/hostile");
        return None;
    }
    // tests run side by side
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = ONE.lock();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile");
    if !folder.join("manifest.jsonl").exists() {
        std::fs::create_dir_all(&folder).unwrap();
        let args = ["--sparse".as_ref(), "-xJf".as_ref(), archive.as_os_str(), "-C".as_ref()];
        tool_output("tar", &[&args[..], &[folder.as_os_str()]].concat())?;
    }
    Some(folder)
}

/// The files of that set.
pub fn hostile_files() -> Vec<PathBuf> {
    let Some(folder) = hostile() else { return Vec::new() };
    let manifest = std::fs::read_to_string(folder.join("manifest.jsonl")).unwrap();
    let file = |line: &str| {
        let case: Value = serde_json::from_str(line).unwrap();
        folder.join(case["file"].as_str().unwrap())
    };
    manifest.lines().map(file).collect()
}

/// So many threads.
pub fn threads(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap()
}
