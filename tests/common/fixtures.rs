//! The images of `testdata/`, for the tests of the library and those of the command.

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;

use super::root;

/// An image of `testdata/manifest.json`, unpacked.
#[derive(Debug, Clone)]
pub struct Fixture {
    /// Its path below the unpacked folder.
    pub file: String,
    pub path: PathBuf,
    pub format: String,
    pub features: Vec<String>,
    /// The other fixtures that it needs.
    pub parents: Vec<String>,
    pub virtual_size: u64,
    pub guest_sha256: Option<String>,
    pub snapshots: Vec<Value>,
    pub samples: Vec<Value>,
    pub expect: String,
    /// What qemu-img makes of it: `ok`, `rounds-size`, `refuses`.
    pub qemu: String,
}

impl Fixture {
    pub fn is(&self, feature: &str) -> bool {
        self.features.iter().any(|f| f == feature)
    }
}

/// Every image of `testdata/`, unpacked once for each test binary.
pub fn fixtures() -> &'static [Fixture] {
    static FIXTURES: OnceLock<Vec<Fixture>> = OnceLock::new();
    FIXTURES.get_or_init(|| {
        let manifest = std::fs::read(root().join("testdata/manifest.json")).unwrap();
        let manifest: Vec<Value> = serde_json::from_slice(&manifest).unwrap();
        manifest.iter().map(unpack).collect()
    })
}

pub fn fixture(file: &str) -> &'static Fixture {
    fixtures().iter().find(|f| f.file == file).unwrap_or_else(|| panic!("no fixture {file}"))
}

/// Where the fixtures of this test binary are unpacked: a folder that goes with the build's other
/// output.
pub fn unpacked() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let name = concat!("testdata-", env!("CARGO_PKG_NAME"), "-", env!("CARGO_CRATE_NAME"));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        folder.canonicalize().unwrap()
    })
}

fn unpack(entry: &Value) -> Fixture {
    let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let list = |key: &str| entry[key].as_array().cloned().unwrap_or_default();
    let strings = |key: &str| list(key).iter().map(|f| f.as_str().unwrap().to_owned()).collect();
    let path = unpacked().join(text("file"));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut bytes = std::fs::read(root().join("testdata").join(text("stored"))).unwrap();
    if text("stored").ends_with(".zst") {
        bytes = zstd::stream::decode_all(&bytes[..]).unwrap();
    }
    write_sparse(&path, &bytes);
    Fixture {
        file: text("file"),
        path,
        format: text("format"),
        features: strings("features"),
        parents: strings("parents"),
        virtual_size: entry["virtual_size"].as_u64().unwrap(),
        guest_sha256: entry["guest_sha256"].as_str().map(str::to_owned),
        snapshots: list("snapshots"),
        samples: list("samples"),
        expect: text("expect"),
        qemu: text("qemu"),
    }
}

/// Writes a file with holes where it has zeros, as the programs that made the images did.
pub fn write_sparse(path: &Path, bytes: &[u8]) {
    let mut file = std::fs::File::create(path).unwrap();
    for (index, block) in bytes.chunks(4096).enumerate() {
        if block.iter().any(|&b| b != 0) {
            file.seek(SeekFrom::Start(index as u64 * 4096)).unwrap();
            file.write_all(block).unwrap();
        }
    }
    file.set_len(bytes.len() as u64).unwrap();
}
