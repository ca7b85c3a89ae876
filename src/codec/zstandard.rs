//! Zstandard (RFC 8878).

use std::cell::RefCell;

use zstd::zstd_safe::{self, DCtx};

use super::CodecError;

const CODEC: &str = "zstd";

/// Decodes whole frames from `input` until `output` is full. Bytes behind the last frame are
/// normal, since containers store whole sectors. Frames are decoded straight into the output, so
/// that a frame that declares a huge window costs nothing.
///
/// ```
/// use diskimage::codec::{Zstd, zstd_exact};
///
/// let (cluster, mut packed) = (vec![7; 65_536], Vec::new());
/// assert!(Zstd::new(3)?.encode(&cluster, 65_535, &mut packed)?);
/// let mut read = vec![0; 65_536];
/// zstd_exact(&packed, &mut read)?;
/// assert_eq!(read, cluster);
/// # Ok::<(), diskimage::Error>(())
/// ```
pub fn zstd_exact(input: &[u8], output: &mut [u8]) -> Result<(), CodecError> {
    thread_local! {
        static DECODER: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
    }
    let damaged = |code| CodecError::Damaged {
        codec: CODEC,
        why: zstd_safe::get_error_name(code).to_owned(),
    };
    let wanted = output.len();
    let (mut rest, mut got) = (input, 0usize);
    DECODER.with_borrow_mut(|decoder| {
        while got < wanted {
            if rest.is_empty() {
                return Err(CodecError::Short { codec: CODEC, got, wanted });
            }
            let length = zstd_safe::find_frame_compressed_size(rest).map_err(damaged)?;
            let (frame, behind) = rest.split_at_checked(length).unwrap_or((rest, &[]));
            let room = output.get_mut(got..).unwrap_or_default();
            got = got.saturating_add(decoder.decompress(room, frame).map_err(damaged)?);
            rest = behind;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        (0..65_536u32).map(|i| ((i * i) >> 7) as u8 & 0x3f).collect()
    }

    fn frame(data: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(data, 3).unwrap()
    }

    #[test]
    fn frames_follow_one_another_and_padding_is_normal() {
        let mut stream = frame(&sample()[..20_000]);
        stream.extend([0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4]); // a skippable frame
        stream.extend(frame(&sample()[20_000..]));
        stream.extend([0; 300]);
        let mut out = vec![0; 65_536];
        zstd_exact(&stream, &mut out).unwrap();
        assert_eq!(out, sample());
    }

    #[test]
    fn too_little_too_much_and_damage_are_errors() {
        let stream = frame(&sample());
        let mut out = vec![0; 65_536];
        for cut in [0, 1, 10, stream.len() - 1] {
            assert!(zstd_exact(&stream[..cut], &mut out).is_err(), "{cut} bytes decoded");
        }
        let short = zstd_exact(&frame(&sample()[..100]), &mut out).unwrap_err();
        assert!(matches!(short, CodecError::Short { got: 100, .. }), "{short}");
        assert!(zstd_exact(&stream, &mut out[..1000]).is_err(), "a frame longer than the cluster");
    }
}
