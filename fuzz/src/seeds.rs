//! Where inputs come from: the images of `testdata/`, and the folders in this one.

use std::path::{Path, PathBuf};

use crate::input::{fold, join, unfold};
use crate::mutate::Kind;

/// Folded images of up to this length are seeds: engines get on with small ones.
const LONGEST: usize = 96 << 10;
/// A sector with more different bytes than this holds guest data, compressed or not, and no table.
const DENSE: usize = 150;

/// The folded images of `testdata/` that are seeds of a target: those of its format, or all; for
/// `chain` those that need other files, with them. Of
/// most runs of guest data only the first sector is kept; where the whole is short, as a second
/// seed.
///
/// # Panics
///
/// If `testdata/` cannot be read.
#[must_use]
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    if let Some(seeds) = crate::containers::seeds(target) {
        return seeds.iter().map(|seed| fold(seed)).collect();
    }
    // nothing is known of how to change the smaller formats, but their images are known
    let word = target.split('_').next().unwrap_or(target);
    let wanted = match (Kind::of_target(target), target) {
        (Some(kind), _) => Some(format!(".{}", kind.name())),
        (None, "probe" | "chain" | "convert_qemu") => None,
        (None, "parallels_bundle") => Some("DiskDescriptor.xml".to_owned()),
        (None, _) => Some(format!(".{word}")),
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata");
    let manifest = std::fs::read(folder.join("manifest.json")).expect("testdata has a manifest");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("it is JSON");
    let entries = manifest.as_array().expect("it is a list");
    let image = |stored: &str| {
        let bytes = std::fs::read(folder.join(stored)).expect("the image is there");
        if stored.ends_with(".zst") {
            return zstd::stream::decode_all(&bytes[..]).expect("it is whole");
        }
        bytes
    };
    let mut seeds = Vec::new();
    for entry in entries {
        let Some(stored) = entry["stored"].as_str() else { continue };
        let name = stored.trim_end_matches(".zst");
        if wanted.as_ref().is_some_and(|end| !name.ends_with(end)) {
            continue;
        }
        let mut files = vec![image(stored)];
        if target == "chain" {
            let parents = entry["parents"].as_array().into_iter().flatten();
            let stored = |file: &serde_json::Value| {
                entries.iter().find(|entry| entry["file"] == *file)?["stored"].as_str()
            };
            files.extend(parents.filter_map(stored).map(image));
            if files.len() == 1 {
                continue;
            }
        }
        let whole = fold(&joined(&files));
        files.iter_mut().for_each(|file| thin(file));
        let thin = fold(&joined(&files));
        let distinct = whole != thin;
        if thin.len() <= LONGEST {
            seeds.push(thin);
        }
        if distinct && whole.len() <= LONGEST / 2 {
            seeds.push(whole);
        }
    }
    seeds.sort();
    seeds.dedup();
    seeds
}

/// A file as it is, or several as one image.
fn joined(files: &[Vec<u8>]) -> Vec<u8> {
    if let [file] = files { file.clone() } else { join(files) }
}

/// Leaves most guest data of an image away.
fn thin(image: &mut [u8]) {
    let mut behind_dense = false;
    for sector in image.chunks_mut(512) {
        let mut seen = [false; 256];
        sector.iter().for_each(|&byte| seen[usize::from(byte)] = true);
        let dense = seen.iter().filter(|&&seen| seen).count() > DENSE;
        if dense && behind_dense {
            sector.fill(0);
        }
        behind_dense = dense;
    }
}

/// The inputs that once broke a target: name and image.
///
/// # Panics
///
/// If one cannot be read.
#[must_use]
pub fn regressions(target: &str) -> Vec<(String, Vec<u8>)> {
    stored("regressions", target)
}

/// The distilled inputs of a target: name and image.
///
/// # Panics
///
/// If one cannot be read.
#[must_use]
pub fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    stored("corpus", target)
}

fn stored(folder: &str, target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(target);
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    paths.sort();
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    paths
        .iter()
        .map(|path| (name(path), unfold(&std::fs::read(path).expect("it can be read"))))
        .collect()
}
