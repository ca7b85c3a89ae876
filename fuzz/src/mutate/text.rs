//! Descriptors: lines of text.

use std::ops::Range;

use super::Mutator;

/// Words and lines that mean something to somebody.
const WORDS: &[&str] = &[
    "# Disk DescriptorFile",
    "version=1",
    "version=4",
    "encoding=\"UTF-8\"",
    "encoding=\"windows-1252\"",
    "encoding=\"Shift_JIS\"",
    "CID=fffffffe",
    "CID=00000000",
    "parentCID=ffffffff",
    "parentCID=00000001",
    "parentFileNameHint=\"parent.vmdk\"",
    "parentFileNameHint=\"\"",
    "isNativeSnapshot=\"no\"",
    "createType=\"monolithicSparse\"",
    "createType=\"monolithicFlat\"",
    "createType=\"streamOptimized\"",
    "createType=\"twoGbMaxExtentSparse\"",
    "createType=\"twoGbMaxExtentFlat\"",
    "createType=\"vmfs\"",
    "createType=\"vmfsSparse\"",
    "createType=\"seSparse\"",
    "createType=\"custom\"",
    "RW 2048 SPARSE \"x.vmdk\"",
    "RW 2048 FLAT \"x-flat.vmdk\" 0",
    "RW 2048 FLAT \"x-flat.vmdk\" 18446744073709551615",
    "RDONLY 2048 ZERO",
    "RW 9223372036854775807 ZERO",
    "NOACCESS 2048 FLAT \"x\" 0",
    "RW 2048 VMFS \"x\"",
    "RW 2048 VMFSSPARSE \"x\"",
    "RW 2048 SESPARSE \"x\"",
    "RW 0 ZERO",
    "ddb.uuid.image=\"00000000-0000-0000-0000-000000000000\"",
    "ddb.uuid.parent=\"12345678-0000-0000-0000-000000000000\"",
    "changeTrackPath=\"x-ctk.vmdk\"",
    "\u{1b}[31m=\"\u{7}\"",
];
const NUMBERS: &[&str] = &[
    "0",
    "1",
    "-1",
    "511",
    "2147483648",
    "4294967295",
    "4294967296",
    "9007199254740992",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "0x10",
    "ffffffff",
];

/// Changes a line of the text in this range of the image, which keeps its length unless the text is
/// all there is.
pub(super) fn change(mutator: &mut Mutator, image: &mut Vec<u8>, range: Range<usize>) {
    let is_all = range == (0..image.len());
    let Some(slots) = image.get_mut(range) else { return };
    let end = slots.iter().position(|&b| b == 0).unwrap_or(slots.len());
    let text = slots[..end].to_vec();
    let mut lines: Vec<Vec<u8>> = text.split(|&b| b == b'\n').map(<[u8]>::to_vec).collect();
    let at = mutator.below(lines.len());
    let word = WORDS[mutator.below(WORDS.len())].as_bytes().to_vec();
    match mutator.below(8) {
        0 => lines.insert(at, word),
        1 => lines[at] = word,
        2 => drop(lines.remove(at)),
        3 => {
            let other = mutator.below(lines.len());
            lines.swap(at, other);
        }
        4 => lines.insert(at, lines[mutator.below(lines.len())].clone()),
        5 => {
            // a number anywhere in the line
            let line = &mut lines[at];
            let is_digit = |b: &u8| b.is_ascii_digit();
            if let Some(start) = line.iter().position(is_digit) {
                let length = line[start..].iter().take_while(|b| is_digit(b)).count();
                let number = NUMBERS[mutator.below(NUMBERS.len())];
                line.splice(start..start + length, number.bytes());
            }
        }
        6 => {
            // quotes, spaces, ends of lines
            let line = &mut lines[at];
            let odd = [&b"\""[..], b" ", b"\t", b"\r", b"=", b"\xff", b"\0", b"#"];
            let place = mutator.below(line.len() + 1);
            line.splice(place..place, odd[mutator.below(odd.len())].iter().copied());
        }
        _ => {
            let place = mutator.below(lines[at].len());
            lines[at].truncate(place);
        }
    }
    let new = lines.join(&b'\n');
    if is_all {
        *image = new;
        return;
    }
    slots.fill(0);
    for (slot, byte) in slots.iter_mut().zip(new) {
        *slot = byte;
    }
}
