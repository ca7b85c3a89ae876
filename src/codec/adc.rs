//! Apple Data Compression, the oldest codec of disk images: literals, and matches within the last
//! 64 KiB. There is no specification; the encoding is that of its public descriptions (and of what
//! `hdiutil` wrote):
//!
//! ```text
//! 1nnnnnnn                     n + 1 bytes follow as they are
//! 01nnnnnn dddddddd dddddddd   n + 4 bytes from d + 1 bytes before
//! 00nnnndd dddddddd            n + 3 bytes from d + 1 bytes before
//! ```

use super::{CodecError, Output};

const CODEC: &str = "ADC";

/// Decodes `input` until `output` is full. Bytes behind that are not looked at.
pub fn adc_exact(input: &[u8], output: &mut [u8]) -> Result<(), CodecError> {
    let mut out = Output::new(CODEC, output);
    let mut rest = input;
    while !out.is_full() {
        let (Some(&first), behind) = (rest.first(), rest.get(1..).unwrap_or_default()) else {
            return Err(out.ends_early());
        };
        let low = usize::from(first & 0x3f);
        let cut = || CodecError::Damaged { codec: CODEC, why: "a step is cut off".to_owned() };
        let byte = |index: usize| behind.get(index).copied().map(usize::from).ok_or_else(cut);
        let used = if first & 0x80 != 0 {
            let length = usize::from(first & 0x7f).saturating_add(1);
            out.literals(behind.get(..length).ok_or_else(cut)?)?;
            length
        } else if first & 0x40 != 0 {
            let distance = (byte(0)? << 8 | byte(1)?).saturating_add(1);
            out.copy(distance, low.saturating_add(4))?;
            2
        } else {
            let distance = ((low & 3) << 8 | byte(0)?).saturating_add(1);
            out.copy(distance, (low >> 2).saturating_add(3))?;
            1
        };
        rest = behind.get(used..).unwrap_or_default();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(input: &[u8], length: usize) -> Result<Vec<u8>, CodecError> {
        let mut out = vec![0; length];
        adc_exact(input, &mut out).map(|()| out)
    }

    #[test]
    fn each_kind_of_step_is_decoded() {
        // "abc", three bytes from three before, seven from one before, and four from three before
        let stream = b"\x82abc\x00\x02\x10\x00\x40\x00\x02more";
        assert_eq!(decoded(stream, 17).unwrap(), b"abcabcccccccccccc");
        assert_eq!(decoded(b"\x80a\x7f\x00\x00", 68).unwrap(), [b'a'; 68]);
        assert_eq!(decoded(&[], 0).unwrap(), b"");
    }

    #[test]
    fn what_is_cut_off_or_reaches_outside_is_an_error() {
        let stream = b"\x82abc\x00\x02\x10\x00\x40\x00\x02";
        for cut in 0..stream.len() {
            assert!(decoded(&stream[..cut], 17).is_err(), "{cut} bytes");
        }
        assert!(decoded(stream, 18).is_err(), "a byte is missing");
        assert!(decoded(stream, 16).is_err(), "a byte too many");
        assert!(decoded(b"\x80a\x00\x01", 4).is_err(), "from before the start");
    }
}
