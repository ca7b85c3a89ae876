//! Deflate (RFC 1951), bare or in a zlib wrapper (RFC 1950).

use std::cell::RefCell;

use flate2::{Decompress, FlushDecompress, Status};

use super::CodecError;

/// What surrounds the deflate stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wrapper {
    /// Nothing (RFC 1951), as QCOW2 has it.
    Raw,
    /// Header and Adler-32 (RFC 1950), as VMDK has it.
    Zlib,
}

impl Wrapper {
    fn name(self) -> &'static str {
        match self {
            Self::Raw => "deflate",
            Self::Zlib => "zlib",
        }
    }
}

/// Decodes `input` until `output` is full. Bytes behind the stream are normal, since containers
/// store whole sectors; so is, without a wrapper, a full output before the stream's end mark. A
/// stream in a zlib wrapper must end with the output, and its Adler-32 must be right. Anything that
/// does not fill the output is an error.
///
/// ```
/// use diskimage::codec::{Deflate, Wrapper, inflate_exact};
///
/// let (cluster, mut packed) = (vec![7; 65_536], Vec::new());
/// assert!(Deflate::new(6, Wrapper::Raw)?.encode(&cluster, 65_535, &mut packed)?);
/// packed.resize(packed.len() + 100, 0xff); // what lies behind it does not matter
/// let mut read = vec![0; 65_536];
/// inflate_exact(&packed, &mut read, Wrapper::Raw)?;
/// assert_eq!(read, cluster);
/// # Ok::<(), diskimage::Error>(())
/// ```
pub fn inflate_exact(input: &[u8], output: &mut [u8], wrapper: Wrapper) -> Result<(), CodecError> {
    #[cfg(feature = "libdeflate")]
    if whole_buffer(input, output, wrapper) {
        return Ok(());
    }
    streaming(input, output, wrapper)
}

/// The fast way, for streams that fill the output exactly and have their end mark. Everything
/// else is left to the streaming decoder, which judges.
#[cfg(feature = "libdeflate")]
fn whole_buffer(input: &[u8], output: &mut [u8], wrapper: Wrapper) -> bool {
    thread_local! {
        static DECODER: RefCell<libdeflater::Decompressor> =
            RefCell::new(libdeflater::Decompressor::new());
    }
    DECODER.with_borrow_mut(|decoder| {
        let got = match wrapper {
            Wrapper::Raw => decoder.deflate_decompress(input, output),
            Wrapper::Zlib => decoder.zlib_decompress(input, output),
        };
        got == Ok(output.len())
    })
}

pub(super) fn streaming(
    input: &[u8],
    output: &mut [u8],
    wrapper: Wrapper,
) -> Result<(), CodecError> {
    thread_local! {
        static DECODER: RefCell<Decompress> = RefCell::new(Decompress::new(false));
    }
    let codec = wrapper.name();
    DECODER.with_borrow_mut(|decoder| {
        decoder.reset(wrapper == Wrapper::Zlib);
        let status = decoder
            .decompress(input, output, FlushDecompress::Finish)
            .map_err(|e| CodecError::Damaged { codec, why: e.to_string() })?;
        let got = crate::num::to_usize(decoder.total_out());
        match status {
            _ if got < output.len() => Err(CodecError::Short { codec, got, wanted: output.len() }),
            // behind the output, only the end mark and the Adler-32 may follow
            Status::Ok | Status::BufError if wrapper == Wrapper::Zlib => {
                let mut beyond = [0u8; 1];
                let done = crate::num::to_usize(decoder.total_in());
                let rest = input.get(done..).unwrap_or_default();
                let got = decoder.total_out();
                match decoder.decompress(rest, &mut beyond, FlushDecompress::Finish) {
                    Err(e) => Err(CodecError::Damaged { codec, why: e.to_string() }),
                    Ok(Status::StreamEnd) if decoder.total_out() == got => Ok(()),
                    Ok(_) => {
                        let why = "it does not end with its data".to_owned();
                        Err(CodecError::Damaged { codec, why })
                    }
                }
            }
            _ => Ok(()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, ZlibEncoder};
    use std::io::Write;

    fn sample() -> Vec<u8> {
        (0..65_536u32).map(|i| ((i * i) >> 7) as u8 & 0x3f).collect()
    }

    fn deflated(data: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn trailing_bytes_are_normal() {
        let mut stream = deflated(&sample());
        stream.extend([0xAA; 511]);
        let mut out = vec![0; 65_536];
        inflate_exact(&stream, &mut out, Wrapper::Raw).unwrap();
        assert_eq!(out, sample());
    }

    #[test]
    fn a_full_output_without_the_end_mark_is_accepted() {
        // a flushed stream: all the data, no final block
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&sample()).unwrap();
        encoder.flush().unwrap();
        let stream = encoder.get_ref().clone();
        let mut out = vec![0; 65_536];
        inflate_exact(&stream, &mut out, Wrapper::Raw).unwrap();
        assert_eq!(out, sample());
    }

    #[test]
    fn a_stream_longer_than_the_cluster_fills_it() {
        // QEMU's reader takes the first cluster's worth and so do we
        let mut out = vec![0; 4096];
        inflate_exact(&deflated(&sample()), &mut out, Wrapper::Raw).unwrap();
        assert_eq!(out, sample()[..4096]);
    }

    #[test]
    fn every_cut_is_an_error() {
        let stream = deflated(&sample());
        let mut out = vec![0; 65_536];
        for cut in [0, 1, 10, stream.len() / 2, stream.len() - 20] {
            let got = inflate_exact(&stream[..cut], &mut out, Wrapper::Raw);
            assert!(got.is_err(), "{cut} of {} bytes decoded", stream.len());
        }
        assert!(inflate_exact(&[0xff; 100], &mut out, Wrapper::Raw).is_err());
    }

    #[test]
    fn a_wrong_adler32_is_an_error() {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&sample()).unwrap();
        let mut stream = encoder.finish().unwrap();
        let mut out = vec![0; 65_536];
        inflate_exact(&stream, &mut out, Wrapper::Zlib).unwrap();
        for cut in 1..=5 {
            let cut = &stream[..stream.len() - cut];
            assert!(inflate_exact(cut, &mut out, Wrapper::Zlib).is_err(), "without its end");
        }
        assert!(inflate_exact(&stream, &mut out[..65_535], Wrapper::Zlib).is_err(), "too long");
        let mut padded = stream.clone();
        padded.extend([0; 511]);
        inflate_exact(&padded, &mut out, Wrapper::Zlib).unwrap();
        *stream.last_mut().unwrap() ^= 1;
        assert!(inflate_exact(&stream, &mut out, Wrapper::Zlib).is_err());
    }
}
