//! Random DMGs: written from public descriptions of the format, and not by the code under test.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "part of a test")]

use std::io::Write;

use crate::common::sweep::Random;

/// How a chunk is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Zero,
    Ignore,
    Raw,
    Zlib,
    Bzip2,
    Lzfse,
}

/// A disk, and how it is stored.
#[derive(Debug)]
pub struct Disk {
    pub content: Vec<u8>,
    /// For each table its chunks: how many sectors, and how they are stored.
    pub tables: Vec<Vec<(usize, Kind)>>,
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for (number, part) in bytes.chunks(3).enumerate() {
        let bits = part.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte))
            << (8 * (3 - part.len()));
        for index in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * index) & 63) as usize];
            text.push(if index > part.len() { '=' } else { letter.into() });
        }
        if number % 13 == 12 {
            text.push_str("\n\t\t\t\t");
        }
    }
    text
}

fn packed(kind: Kind, data: &[u8]) -> Vec<u8> {
    match kind {
        Kind::Zero | Kind::Ignore => Vec::new(),
        Kind::Raw => data.to_vec(),
        Kind::Zlib => {
            let mut encoder =
                flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Kind::Bzip2 => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Kind::Lzfse => {
            let mut stream = Vec::new();
            lzfse_rust::encode_bytes(data, &mut stream).unwrap();
            stream
        }
    }
}

fn checksum(value: u32) -> Vec<u8> {
    let mut bytes = [2u32.to_be_bytes(), 32u32.to_be_bytes(), value.to_be_bytes()].concat();
    bytes.resize(136, 0);
    bytes
}

impl Disk {
    /// One of some hundred sectors.
    pub fn random(random: &mut Random, kinds: &[Kind]) -> Self {
        let (mut content, mut tables) = (Vec::new(), Vec::new());
        for _ in 0..1 + random.below(3) {
            let mut chunks = Vec::new();
            for _ in 0..1 + random.below(8) {
                let kind = kinds[random.below(kinds.len() as u64) as usize];
                let longest = if random.below(4) == 0 { 300 } else { 20 };
                let sectors = 1 + random.below(longest) as usize;
                let step = 1 + random.below(7) as usize;
                let value = |at: usize| match kind {
                    Kind::Zero | Kind::Ignore => 0,
                    _ if at % 97 < 30 => ((at * step * 31) >> 3) as u8,
                    _ => (at / 40 * step) as u8,
                };
                content.extend((0..sectors * 512).map(value));
                chunks.push((sectors, kind));
            }
            tables.push(chunks);
        }
        Self { content, tables }
    }

    /// The image.
    pub fn image(&self) -> Vec<u8> {
        let (mut fork, mut dicts, mut sums) = (Vec::new(), String::new(), Vec::new());
        let mut start = 0usize;
        for (number, chunks) in self.tables.iter().enumerate() {
            let (mut runs, mut at, mut seen) = (Vec::new(), 0, crc32fast::Hasher::new());
            let chunks = chunks.iter().map(|&(sectors, kind)| (sectors, Some(kind)));
            for (sectors, kind) in chunks.chain([(0, None)]) {
                let data = &self.content[(start + at) * 512..(start + at + sectors) * 512];
                let (entry, stream) = match kind {
                    Some(kind) => (code(kind), packed(kind, data)),
                    None => (u32::MAX, Vec::new()),
                };
                runs.extend([entry.to_be_bytes(), [0; 4]].concat());
                for value in [at, sectors, fork.len(), stream.len()] {
                    runs.extend((value as u64).to_be_bytes());
                }
                fork.extend(stream);
                if kind != Some(Kind::Ignore) {
                    seen.update(data);
                }
                at += sectors;
            }
            let sum = seen.finalize();
            let mut table = b"mish\0\0\0\x01".to_vec();
            for value in [start as u64, at as u64, 0] {
                table.extend(value.to_be_bytes());
            }
            table.extend([0; 32]);
            table.extend(checksum(sum));
            table.extend((runs.len() as u32 / 40).to_be_bytes());
            table.extend(runs);
            sums.extend(sum.to_be_bytes());
            dicts += &format!(
                "<dict><key>Attributes</key><string>0x0050</string><key>Data</key><data>{}</data>\
                 <key>ID</key><string>{number}</string><key>Name</key><string>part {number}</string></dict>\n",
                base64(&table)
            );
            start += at;
        }
        let plist = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<plist version=\"1.0\"><dict><key>resource-fork</key><dict>\
             <key>blkx</key><array>{dicts}</array></dict></dict></plist>\n"
        );
        let mut koly = b"koly\0\0\0\x04\0\0\x02\0\0\0\0\x01".to_vec();
        for value in [0, 0, fork.len() as u64, 0, 0] {
            koly.extend(value.to_be_bytes());
        }
        koly.extend([0, 0, 0, 1, 0, 0, 0, 1]);
        koly.extend([7; 16]);
        koly.extend(checksum(crc32fast::hash(&fork)));
        koly.extend((fork.len() as u64).to_be_bytes());
        koly.extend((plist.len() as u64).to_be_bytes());
        koly.extend([0; 120]);
        koly.extend(checksum(crc32fast::hash(&sums)));
        koly.extend([0, 0, 0, 1]);
        koly.extend((start as u64).to_be_bytes());
        koly.resize(512, 0);
        [fork, plist.into_bytes(), koly].concat()
    }
}

fn code(kind: Kind) -> u32 {
    match kind {
        Kind::Zero => 0,
        Kind::Raw => 1,
        Kind::Ignore => 2,
        Kind::Zlib => 0x8000_0005,
        Kind::Bzip2 => 0x8000_0006,
        Kind::Lzfse => 0x8000_0007,
    }
}
