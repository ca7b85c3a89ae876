//! Bzip2, by the library that is a port of the original to Rust.

use bzip2::{Decompress, Status};

use super::CodecError;
use crate::num::to_usize;

const CODEC: &str = "bzip2";

#[cold]
fn damaged(why: impl ToString) -> CodecError {
    CodecError::Damaged { codec: CODEC, why: why.to_string() }
}

/// Decodes the one stream of `input`, which must fill `output` and end there. Bytes behind it are
/// not looked at. The decoder takes up to 4 MiB, whatever the stream says.
pub fn bzip2_exact(input: &[u8], output: &mut [u8]) -> Result<(), CodecError> {
    let mut decoder = Decompress::new(false);
    let wanted = output.len();
    let mut beyond = [0u8; 1];
    loop {
        let (read, got) = (to_usize(decoder.total_in()), to_usize(decoder.total_out()));
        let rest = input.get(read..).unwrap_or_default();
        let room = output.get_mut(got..).filter(|room| !room.is_empty()).unwrap_or(&mut beyond);
        let status = decoder.decompress(rest, room).map_err(damaged)?;
        let (read_now, got_now) = (to_usize(decoder.total_in()), to_usize(decoder.total_out()));
        if got_now > wanted {
            return Err(damaged("it does not end with its data"));
        }
        match status {
            Status::StreamEnd if got_now == wanted => return Ok(()),
            Status::StreamEnd => {
                return Err(CodecError::Short { codec: CODEC, got: got_now, wanted });
            }
            _ if (read_now, got_now) == (read, got) => return Err(damaged("it is cut off")),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn stream(data: &[u8]) -> Vec<u8> {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_stream_must_be_whole_and_fill_the_output() {
        for length in [1usize, 4096, 1 << 20] {
            let data: Vec<u8> = (0..length).map(|i| ((i * i) >> 7) as u8 & 0x3f).collect();
            let mut stream = stream(&data);
            let mut out = vec![0; length];
            bzip2_exact(&stream, &mut out).unwrap();
            assert!(out == data);
            assert!(bzip2_exact(&stream, &mut vec![0; length + 1]).is_err(), "a byte is missing");
            assert!(bzip2_exact(&stream, &mut vec![0; length - 1]).is_err(), "a byte too many");
            for cut in (0..stream.len()).step_by(1 + stream.len() / 50) {
                assert!(bzip2_exact(&stream[..cut], &mut out).is_err(), "cut at {cut}");
            }
            let last = stream.len() - 2;
            stream[last] ^= 0x10;
            assert!(bzip2_exact(&stream, &mut out).is_err(), "a wrong checksum");
        }
    }
}
