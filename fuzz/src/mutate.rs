//! Inputs for runs without a fuzzing engine: seeds from `testdata/`, damaged at random.

use std::path::Path;

/// Files of up to this size are seeds: small ones are quick, and mutations hit their tables.
const LARGEST: usize = 1 << 20;
/// The same for formats whose smallest files are some blocks of a MiB or more.
const LARGEST_IN_BLOCKS: usize = 16 << 20;

/// The small images of `testdata/` that belong to a target (all of them for `probe`), as they are.
///
/// # Panics
///
/// If `testdata/` cannot be read.
#[must_use]
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let wanted = target.split('_').next().unwrap_or(target);
    let largest = match wanted {
        "vhd" | "vhdx" | "vdi" => LARGEST_IN_BLOCKS,
        _ => LARGEST,
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata");
    let manifest = std::fs::read(folder.join("manifest.json")).expect("testdata has a manifest");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("it is JSON");
    let mut seeds = Vec::new();
    for entry in manifest.as_array().into_iter().flatten() {
        let Some(stored) = entry["stored"].as_str() else { continue };
        let file = stored.trim_end_matches(".zst");
        let fits = match target {
            "parallels_bundle" => file.ends_with("DiskDescriptor.xml"),
            _ => wanted == "probe" || file.ends_with(&format!(".{wanted}")),
        };
        if !fits {
            continue;
        }
        let mut bytes = std::fs::read(folder.join(stored)).expect("the image is there");
        if stored.ends_with(".zst") {
            bytes = zstd::stream::decode_all(&bytes[..]).expect("it is whole");
        }
        if bytes.len() <= largest {
            seeds.push(bytes);
        }
    }
    seeds
}

/// Makes one damaged copy of a seed after the other, always the same ones for the same start.
#[derive(Debug)]
pub struct Mutator {
    state: u64,
}

impl Mutator {
    /// A mutator; `start` chooses the sequence.
    #[must_use]
    pub fn new(start: u64) -> Self {
        Self { state: start }
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.random() % bound.max(1) as u64) as usize
    }

    /// The next input.
    pub fn next(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(4) {
            self.damage(&mut bytes);
        }
        bytes
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        // mostly where headers and tables are
        let span = match self.below(4) {
            0 => bytes.len(),
            1 => bytes.len().min(1 << 16),
            2 => bytes.len().min(4096),
            _ => bytes.len().min(256),
        };
        let at = self.below(span);
        match self.below(8) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = self.random() as u8,
            // a number of either byte order that is at an edge
            2..=4 => {
                let edges =
                    [0u64, 1, 2, 511, 512, 513, 0xffff, 0x1_0000, 1 << 31, 1 << 32, 1 << 62];
                let near = edges[self.below(edges.len())];
                let value = near.wrapping_sub(self.below(3) as u64);
                let word =
                    if self.below(2) == 0 { value.to_be_bytes() } else { value.to_le_bytes() };
                let at = at & !7;
                for (slot, byte) in bytes[at..].iter_mut().zip(word) {
                    *slot = byte;
                }
            }
            // a table entry copied from elsewhere
            5 => {
                let (from, to) = (self.below(bytes.len()) & !7, at & !7);
                let word: Vec<u8> = bytes[from..].iter().take(8).copied().collect();
                for (slot, byte) in bytes[to..].iter_mut().zip(word) {
                    *slot = byte;
                }
            }
            6 => bytes.truncate(self.below(bytes.len())),
            _ => {
                let end = (at + 1 + self.below(64)).min(bytes.len());
                bytes[at..end].fill(if self.below(2) == 0 { 0 } else { 0xff });
            }
        }
    }
}
