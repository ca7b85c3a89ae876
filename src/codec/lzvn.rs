//! LZVN: steps of an opcode that says how many literals follow, and what is then repeated.

use super::{CodecError, Output};

const CODEC: &str = "LZVN";

/// How long the opcode that ends it is.
const END_LENGTH: usize = 8;

/// A step: how many bytes its opcode has, how many literals follow, what is repeated from where.
struct Step {
    opcode: usize,
    literals: usize,
    repeated: usize,
    /// `None`: from where the step before repeated from.
    distance: Option<usize>,
}

#[cold]
fn damaged(why: &str) -> CodecError {
    CodecError::Damaged { codec: CODEC, why: why.to_owned() }
}

/// Decodes `input` up to the opcode that ends it, which must be the last one.
pub(super) fn lzvn(input: &[u8], out: &mut Output<'_>) -> Result<(), CodecError> {
    let (mut rest, mut distance) = (input, 0);
    loop {
        let Some(step) = step(rest)? else {
            let fits = rest.len() == END_LENGTH;
            return if fits { Ok(()) } else { Err(damaged("it has another length than it says")) };
        };
        let behind = rest.get(step.opcode..).unwrap_or_default();
        let split = behind.split_at_checked(step.literals);
        let (literals, behind) = split.ok_or_else(|| damaged("a literal is cut off"))?;
        out.literals(literals)?;
        distance = step.distance.unwrap_or(distance);
        if step.repeated > 0 {
            out.copy(distance, step.repeated)?;
        }
        rest = behind;
    }
}

/// The first step; `None` is the end.
fn step(rest: &[u8]) -> Result<Option<Step>, CodecError> {
    let byte = |index: usize| {
        rest.get(index).copied().map(usize::from).ok_or_else(|| damaged("an opcode is cut off"))
    };
    let opcode = byte(0)?;
    // LLMMM...: two bits say how many literals, three how many bytes more than 3 are repeated
    let literals = opcode >> 6;
    let repeated = (opcode >> 3 & 7).saturating_add(3);
    let step = match opcode {
        0x06 if rest.len() < END_LENGTH => return Err(damaged("its end is cut off")),
        0x06 => return Ok(None),
        0x0e | 0x16 => Step { opcode: 1, literals: 0, repeated: 0, distance: None },
        0x1e | 0x26 | 0x2e | 0x36 | 0x3e | 0x70..=0x7f | 0xd0..=0xdf => {
            return Err(damaged("an opcode has no meaning"));
        }
        0xe0 => {
            Step { opcode: 2, literals: byte(1)?.saturating_add(16), repeated: 0, distance: None }
        }
        0xe1..=0xef => Step { opcode: 1, literals: opcode & 0xf, repeated: 0, distance: None },
        0xf0 => {
            Step { opcode: 2, literals: 0, repeated: byte(1)?.saturating_add(16), distance: None }
        }
        0xf1..=0xff => Step { opcode: 1, literals: 0, repeated: opcode & 0xf, distance: None },
        0xa0..=0xbf => {
            let low = byte(1)? | byte(2)? << 8;
            Step {
                opcode: 3,
                literals: opcode >> 3 & 3,
                repeated: ((opcode & 7) << 2 | low & 3).saturating_add(3),
                distance: Some(low >> 2),
            }
        }
        _ => match opcode & 7 {
            6 => Step { opcode: 1, literals, repeated, distance: None },
            7 => Step { opcode: 3, literals, repeated, distance: Some(byte(1)? | byte(2)? << 8) },
            high => Step { opcode: 2, literals, repeated, distance: Some(high << 8 | byte(1)?) },
        },
    };
    Ok(Some(step))
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: &[u8] = b"\x06\0\0\0\0\0\0\0";

    fn decoded(input: &[u8], length: usize) -> Result<Vec<u8>, CodecError> {
        let mut bytes = vec![0; length];
        lzvn(input, &mut Output::new(CODEC, &mut bytes)).map(|()| bytes)
    }

    #[test]
    fn each_kind_of_step_is_decoded() {
        let run = [b'a'; 22];
        for (stream, wanted) in [
            (&b"\xe3abc"[..], &b"abc"[..]),
            (b"\xe0\x01abcdefghijklmnopq", b"abcdefghijklmnopq"),
            // three literals, and three bytes from three before; then four from where that was
            (b"\xc0\x03abc\xf4", b"abcabcabca"),
            (b"\xe1a\xc7\x01\x00bcd", b"abcdddd"),
            (b"\xe1x\x0e\x16\x00\x01", b"xxxx"),
            // 101LLMMM DDDDDDMM DDDDDDDD
            (b"\xb1\x05\x00ab", b"abbbbbbbbb"),
            // the distance of the step before
            (b"\xe2ab\x00\x02\x46c", b"ababacaca"),
            (b"\xe1a\x00\x01\xf0\x02", &run),
        ] {
            assert_eq!(decoded(&[stream, END].concat(), wanted.len()).unwrap(), wanted);
        }
    }

    #[test]
    fn what_has_no_meaning_is_an_error() {
        for stream in
            [&b"\x1e"[..], b"\x70", b"\xd0\0\0", b"\xf3", b"\x46a", b"\xe1a\x00\x02", b"\xe3ab"]
        {
            assert!(decoded(&[stream, END].concat(), 16).is_err(), "{stream:?}");
        }
        assert!(decoded(b"\xe1a", 1).is_err(), "no end");
        assert!(decoded(b"\xe1a\x06\0\0", 1).is_err(), "half an end");
        assert!(decoded(&[END, b"\xe1a"].concat(), 0).is_err(), "something behind the end");
    }
}
