//! LZMA2 in xz streams (The .xz File Format, version 1.2.1).

use std::io::Read;

use lzma_rust2::XzReader;

use super::CodecError;

const CODEC: &str = "xz";

/// The largest dictionary that is allowed, KiB: that of `xz -9`, and what the decoder takes itself.
const MEMORY: u32 = (64 << 10) + 256;

/// Decodes the one stream of `input`, which must fill `output` and end there, with whatever check
/// it has being right. Bytes behind it are not looked at.
pub fn xz_exact(input: &[u8], output: &mut [u8]) -> Result<(), CodecError> {
    let damaged = |e: std::io::Error| CodecError::Damaged { codec: CODEC, why: e.to_string() };
    let mut reader = XzReader::new_mem_limit(input, false, MEMORY);
    let mut got = 0usize;
    while let Some(room) = output.get_mut(got..).filter(|room| !room.is_empty()) {
        match reader.read(room).map_err(damaged)? {
            0 => return Err(CodecError::Short { codec: CODEC, got, wanted: output.len() }),
            length => got = got.saturating_add(length),
        }
    }
    // this reads the checks and the index
    match reader.read(&mut [0]).map_err(damaged)? {
        0 => Ok(()),
        _ => Err(CodecError::Damaged {
            codec: CODEC,
            why: "it does not end with its data".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf 'diskimage diskimage diskimage' | xz -9`, of 29 bytes.
    const STREAM: &[u8] =
        b"\xfd\x37\x7a\x58\x5a\x00\x00\x04\xe6\xd6\xb4\x46\x02\x00\x21\x01\x1c\x00\x00\x00\x10\xcf\
        \x58\xcc\xe0\x00\x1c\x00\x11\x5d\x00\x32\x1a\x4a\xcd\x63\x9d\x1b\x16\xc2\x16\x23\x0d\x6d\
        \x81\x86\x00\x00\x00\x00\x00\x00\xa5\x6c\x7f\x1e\xd8\x7f\xa5\xff\x00\x01\x2d\x1d\x1d\x83\
        \xaa\x63\x1f\xb6\xf3\x7d\x01\x00\x00\x00\x00\x04\x59\x5a";

    #[test]
    fn a_stream_must_be_whole_and_fill_the_output() {
        let mut out = [0; 29];
        xz_exact(STREAM, &mut out).unwrap();
        assert_eq!(&out, b"diskimage diskimage diskimage");
        assert!(xz_exact(STREAM, &mut [0; 30]).is_err(), "a byte is missing");
        assert!(xz_exact(STREAM, &mut [0; 28]).is_err(), "a byte too many");
        for cut in 0..STREAM.len() {
            assert!(xz_exact(&STREAM[..cut], &mut out).is_err(), "cut at {cut}");
        }
        for at in 0..STREAM.len() {
            let mut stream = STREAM.to_vec();
            stream[at] ^= 0x04;
            assert!(xz_exact(&stream, &mut out).is_err(), "changed at {at}");
        }
    }
}
