//! CRC-32 (IEEE 802.3) of what need not be made to be summed up.

use crc32fast::Hasher;

/// Of so many zeros, in as many steps as the length has bits: twice a run is the run combined with itself.
pub(crate) fn crc32_of_zeros(length: u64) -> Hasher {
    let mut all = Hasher::new();
    let mut run = Hasher::new();
    run.update(&[0]);
    let mut left = length;
    while left > 0 {
        if left & 1 == 1 {
            all.combine(&run);
        }
        left >>= 1;
        // a run longer than what is left may be longer than numbers are
        if left > 0 {
            let same = run.clone();
            run.combine(&same);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_have_the_checksum_of_zeros() {
        for length in [0usize, 1, 2, 3, 511, 512, 4097, 1 << 20] {
            let sum = crc32_of_zeros(length as u64).finalize();
            assert_eq!(sum, crc32fast::hash(&vec![0; length]));
        }
        crc32_of_zeros(u64::MAX);
    }
}
