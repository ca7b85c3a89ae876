//! Bytes that came one after the other, of which blocks of zeros take up no room.

use crate::num::{Pow2, to_u64, to_usize};

const BLOCK: Pow2 = Pow2::PAGE;
const ZEROS: [u8; 4096] = [0; 4096];

/// Bytes in blocks; only the last one may be open.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// `None` is a block of zeros.
    whole: Vec<Option<Box<[u8]>>>,
    open: Vec<u8>,
    held: u64,
}

impl Blocks {
    /// How many bytes there are.
    pub(super) fn length(&self) -> u64 {
        let whole = BLOCK.offset_of(to_u64(self.whole.len())).unwrap_or(u64::MAX);
        whole.saturating_add(to_u64(self.open.len()))
    }

    /// How many bytes they take up.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    pub(super) fn extend(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = to_usize(BLOCK.size()).saturating_sub(self.open.len());
            let (piece, behind) = rest.split_at(room.min(rest.len()));
            rest = behind;
            self.open.extend_from_slice(piece);
            if self.open.len() == to_usize(BLOCK.size()) {
                self.close();
            }
        }
    }

    fn close(&mut self) {
        let zeros = self.open.iter().all(|&byte| byte == 0);
        if !zeros {
            self.held = self.held.saturating_add(BLOCK.size());
        }
        let block = (!zeros).then(|| self.open.as_slice().into());
        self.open.clear();
        self.whole.push(block);
    }

    /// The bytes from `offset` on, to the end of a block; `None` at the end.
    pub(super) fn at(&self, offset: u64) -> Option<&[u8]> {
        let within = to_usize(BLOCK.within(offset));
        let block = match self.whole.get(to_usize(BLOCK.index(offset))) {
            Some(Some(block)) => block,
            Some(None) => &ZEROS[..],
            None if to_usize(BLOCK.index(offset)) == self.whole.len() => &self.open,
            None => return None,
        };
        block.get(within..).filter(|bytes| !bytes.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_pieces_is_there_and_zeros_take_no_room() {
        let mut bytes = vec![0; 20_000];
        bytes[5000..5010].fill(1);
        bytes[19_999] = 2;
        for piece in [1, 7, 4096, 5000, 20_000] {
            let mut blocks = Blocks::default();
            bytes.chunks(piece).for_each(|piece| blocks.extend(piece));
            assert_eq!((blocks.length(), blocks.held()), (20_000, 4096));
            let mut at = 0;
            while let Some(found) = blocks.at(to_u64(at)) {
                assert_eq!(found, &bytes[at..at + found.len()]);
                at += found.len();
            }
            assert_eq!(at, 20_000);
        }
    }
}
