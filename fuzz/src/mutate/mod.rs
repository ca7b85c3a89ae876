//! Changes to images that get past the first check: fields are known by their places, and
//! checksums are made right again.

use std::ops::Range;

use crate::input::{FILES, join, split};

mod gpt;
mod qcow2;
mod text;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;

/// What a mutator knows how to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// QCOW2.
    Qcow2,
    /// VMDK, its extents and descriptors.
    Vmdk,
    /// VHD.
    Vhd,
    /// VHDX.
    Vhdx,
    /// VDI.
    Vdi,
    /// Raw disks with a partition table.
    Raw,
}

/// Every kind.
const KINDS: [Kind; 6] = [Kind::Qcow2, Kind::Vmdk, Kind::Vhd, Kind::Vhdx, Kind::Vdi, Kind::Raw];

impl Kind {
    /// Its name: how targets start and files of `testdata/` end.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
            Self::Vdi => "vdi",
            Self::Raw => "raw",
        }
    }

    /// The kind of a target's images; `None` for targets that take all.
    #[must_use]
    pub fn of_target(target: &str) -> Option<Self> {
        let word = target.split('_').next();
        KINDS.into_iter().find(|kind| word == Some(kind.name()))
    }

    /// The kind that an image looks like.
    fn of_image(image: &[u8]) -> Self {
        let head = |at: usize, bytes: &[u8]| image.get(at..).is_some_and(|i| i.starts_with(bytes));
        if head(0, b"QFI\xfb") {
            Self::Qcow2
        } else if head(0, b"vhdxfile") {
            Self::Vhdx
        } else if head(0x40, &0xbeda_107f_u32.to_le_bytes()) {
            Self::Vdi
        } else if head(0, b"conectix") || head(image.len().saturating_sub(512), b"conectix") {
            Self::Vhd
        } else if head(512, b"EFI PART") || head(510, b"\x55\xaa") {
            Self::Raw
        } else {
            Self::Vmdk
        }
    }

    fn fields(self, image: &[u8]) -> Fields {
        let mut fields = Fields::default();
        match self {
            Self::Qcow2 => qcow2::fields(image, &mut fields),
            Self::Vmdk => vmdk::fields(image, &mut fields),
            Self::Vhd => vhd::fields(image, &mut fields),
            Self::Vhdx => vhdx::fields(image, &mut fields),
            Self::Vdi => vdi::fields(image, &mut fields),
            Self::Raw => gpt::fields(image, &mut fields),
        }
        fields
    }

    /// Makes the checksums of an image right, as far as it has any.
    fn fix(self, image: &mut [u8]) {
        match self {
            Self::Qcow2 | Self::Vmdk | Self::Vdi => {}
            Self::Vhd => vhd::fix(image),
            Self::Vhdx => vhdx::fix(image),
            Self::Raw => gpt::fix(image),
        }
    }
}

/// A row of numbers of one width in an image: a field of a header is a row of one.
#[derive(Debug, Clone, Copy)]
struct Row {
    at: usize,
    width: usize,
    count: usize,
    /// From one to the next.
    stride: usize,
    big: bool,
}

/// The fields and tables of an image.
#[derive(Debug, Default)]
struct Fields {
    singles: Vec<Row>,
    tables: Vec<Row>,
    texts: Vec<Range<usize>>,
}

impl Fields {
    /// Fields one after the other, by their widths; gives the place behind.
    fn header(&mut self, start: usize, big: bool, widths: &[usize]) -> usize {
        let mut at = start;
        for &width in widths {
            if matches!(width, 1 | 2 | 4 | 8) {
                self.singles.push(Row { at, width, count: 1, stride: width, big });
            }
            at = at.saturating_add(width);
        }
        at
    }

    fn table(&mut self, at: u64, width: usize, count: u64, big: bool) {
        self.strided(at, width, count, width, big);
    }

    fn strided(&mut self, at: u64, width: usize, count: u64, stride: usize, big: bool) {
        if count > 0 && at < 1 << 40 {
            let count = count.min(1 << 20) as usize;
            self.tables.push(Row { at: at as usize, width, count, stride, big });
        }
    }
}

/// What is left of numbers that are used as places and counts: no sum or product of them overflows.
const PLACE: u64 = (1 << 41) - 1;

/// A big-endian number that is a place or a count, without what no place has.
fn be(image: &[u8], at: u64, width: usize) -> u64 {
    number(image, at, width, true) & PLACE
}

/// The same, little-endian.
fn le(image: &[u8], at: u64, width: usize) -> u64 {
    number(image, at, width, false) & PLACE
}

fn number(image: &[u8], at: u64, width: usize, big: bool) -> u64 {
    let bytes = get(image, at, width);
    let add = |value: u64, byte: u8| value << 8 | u64::from(byte);
    if big { bytes.fold(0, add) } else { bytes.rev().fold(0, add) }
}

/// The bytes of a number: zeros where the image is too short.
fn get(image: &[u8], at: u64, width: usize) -> impl DoubleEndedIterator<Item = u8> + use<'_> {
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    (0..width).map(move |index| image.get(at.saturating_add(index)).copied().unwrap_or(0))
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(slots) = image.get_mut(at..at.saturating_add(bytes.len())) {
        slots.copy_from_slice(bytes);
    }
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

    /// A number below `bound`, or 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.random() % bound.max(1) as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        from.get(self.below(from.len())).copied()
    }

    /// A damaged copy of one of the folded seeds, unfolded.
    pub fn next(&mut self, kind: Option<Kind>, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut image = crate::input::unfold(&seeds[self.below(seeds.len())]);
        self.change(kind, &mut image);
        image
    }

    /// Changes an image in some places and mostly makes its checksums right.
    pub fn change(&mut self, kind: Option<Kind>, image: &mut Vec<u8>) {
        if image.starts_with(FILES) {
            let mut files = split(image);
            let number = self.below(files.len());
            if let Some(file) = files.get_mut(number) {
                self.change(kind, file);
            }
            let other = self.below(files.len());
            if self.below(32) == 0 && number.max(other) < files.len() {
                files.swap(number, other);
            }
            *image = join(&files);
            return;
        }
        let kind = kind.unwrap_or_else(|| Kind::of_image(image));
        for _ in 0..=self.below(4) {
            match self.below(16) {
                0..10 => self.change_field(&kind.fields(image), image),
                10..12 => self.damage(image),
                12 => self.resize(image),
                _ => {
                    let texts = kind.fields(image).texts;
                    match self.pick_text(&texts) {
                        Some(text) => text::change(self, image, text),
                        None => self.change_field(&kind.fields(image), image),
                    }
                }
            }
        }
        if self.below(16) > 0 {
            kind.fix(image);
        }
    }

    /// Makes the checksums of an image right.
    pub fn fix(kind: Option<Kind>, image: &mut Vec<u8>) {
        if image.starts_with(FILES) {
            let mut files = split(image);
            files.iter_mut().for_each(|file| Self::fix(kind, file));
            *image = join(&files);
            return;
        }
        kind.unwrap_or_else(|| Kind::of_image(image)).fix(image);
    }

    fn pick_text(&mut self, texts: &[Range<usize>]) -> Option<Range<usize>> {
        texts.get(self.below(texts.len())).cloned()
    }

    /// Sets a known field, or an entry of a known table, to something of interest.
    fn change_field(&mut self, fields: &Fields, image: &mut [u8]) {
        let rows = match self.below(2) {
            0 if !fields.singles.is_empty() => &fields.singles,
            _ if !fields.tables.is_empty() => &fields.tables,
            _ => &fields.singles,
        };
        let Some(row) = self.pick(rows) else { return };
        // the first entries of a table are those that are in use
        let span = if self.below(2) == 0 { row.count.min(8) } else { row.count };
        let index = self.below(span);
        let at = row.at.saturating_add(index.saturating_mul(row.stride));
        let read = |at: usize| number(image, at as u64, row.width, row.big);
        let old = read(at);
        let other = read(row.at.saturating_add(self.below(row.count).saturating_mul(row.stride)));
        let value = self.value(old, other, image.len() as u64, row.width);
        let bytes = if row.big {
            value.to_be_bytes()[8 - row.width..].to_vec()
        } else {
            value.to_le_bytes()[..row.width].to_vec()
        };
        put(image, at, &bytes);
    }

    /// A number that is at some edge.
    fn value(&mut self, old: u64, other: u64, length: u64, width: usize) -> u64 {
        let bits = width as u32 * 8;
        let near = |random: u64, value: u64| value.wrapping_add(random % 3).wrapping_sub(1);
        let unit = 1u64 << self.below(24);
        match self.below(14) {
            0 => 0,
            1 => 1,
            2 => u64::MAX,
            3 => u64::MAX >> 1,
            4 => {
                near(self.random(), 1u64.checked_shl(self.below(bits as usize) as u32).unwrap_or(0))
            }
            // the end of the file, in bytes and in the units of tables
            5 => near(self.random(), length),
            6 => near(self.random(), length / unit),
            7 => other,
            8 => near(self.random(), old),
            9 => old ^ (1u64.checked_shl(self.below(bits as usize) as u32).unwrap_or(0)),
            10 => old.wrapping_add(unit),
            11 => old.wrapping_sub(unit),
            // another place in the file
            12 => self.below(length as usize) as u64 & !(unit - 1),
            _ => self.random() >> self.below(64),
        }
    }

    fn resize(&mut self, image: &mut Vec<u8>) {
        match self.below(3) {
            0 => image.truncate(self.below(image.len())),
            1 => image.truncate(self.below(image.len()) & !511),
            _ => image.truncate(image.len().saturating_sub(1 + self.below(1024))),
        }
    }

    /// Changes bytes without a thought for what they mean.
    fn damage(&mut self, image: &mut [u8]) {
        if image.is_empty() {
            return;
        }
        // mostly where headers and tables are
        let span = match self.below(4) {
            0 => image.len(),
            1 => image.len().min(1 << 16),
            2 => image.len().min(4096),
            _ => image.len().min(256),
        };
        let at = self.below(span);
        match self.below(4) {
            0 => image[at] ^= 1 << self.below(8),
            1 => image[at] = self.random() as u8,
            // a table entry copied from elsewhere
            2 => {
                let (from, to) = (self.below(image.len()) & !7, at & !7);
                let word: Vec<u8> = image[from..].iter().take(8).copied().collect();
                put(image, to, &word);
            }
            _ => {
                let end = (at + 1 + self.below(64)).min(image.len());
                image[at..end].fill(if self.below(2) == 0 { 0 } else { 0xff });
            }
        }
    }
}
