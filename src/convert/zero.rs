//! Finding zeros at memory speed.

use std::ops::Range;

use crate::bytes::is_zero;
use crate::num::{Pow2, to_u64, to_usize};

/// Splits `bytes`, which lie at guest offset `start`, into runs of data (`true`) and zeros, at
/// whole blocks of `unit`.
pub(super) fn runs(
    bytes: &[u8],
    start: u64,
    unit: Pow2,
) -> impl Iterator<Item = (bool, Range<usize>)> {
    let mut at = 0;
    let block = move |at: usize| {
        let position = start.saturating_add(to_u64(at));
        let end = at.saturating_add(to_usize(unit.rest(position))).min(bytes.len());
        let data = !is_zero(bytes.get(at..end).unwrap_or_default());
        (data, end)
    };
    std::iter::from_fn(move || {
        if at >= bytes.len() {
            return None;
        }
        let from = at;
        let (data, mut end) = block(from);
        while end < bytes.len() {
            let (same, next) = block(end);
            if same != data {
                break;
            }
            end = next;
        }
        at = end;
        Some((data, from..end))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn zeros_are_zeros(length in 0usize..2000, at in proptest::option::of(0usize..2000)) {
            let mut bytes = vec![0; length];
            if let Some(byte) = at.and_then(|at| bytes.get_mut(at)) {
                *byte = 1;
            }
            prop_assert_eq!(is_zero(&bytes), bytes.iter().all(|&b| b == 0));
        }

        #[test]
        fn runs_tile_and_tell_the_truth(
            blocks in proptest::collection::vec(any::<bool>(), 1..20),
            start in 0u64..2000,
        ) {
            let unit = Pow2::from_size(512).unwrap();
            let bytes: Vec<u8> = blocks.iter().flat_map(|&b| [u8::from(b); 300]).collect();
            let mut at = 0;
            for (data, range) in runs(&bytes, start, unit) {
                prop_assert_eq!(range.start, at);
                prop_assert!(data || is_zero(&bytes[range.clone()]));
                at = range.end;
            }
            prop_assert_eq!(at, bytes.len());
        }
    }
}
