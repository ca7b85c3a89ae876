//! What a coverage-guided engine calls: folded inputs in, folded inputs out.

use crate::TARGETS;
use crate::input::{Input, fold, unfold};
use crate::mutate::{Kind, Mutator};

/// Runs the body of a target on a folded input.
///
/// # Panics
///
/// Where the body does, or if there is no such target.
pub fn run(target: &str, folded: &[u8]) {
    let (_, body) = TARGETS.iter().find(|(name, _)| *name == target).expect("it is a target");
    body(&Input::unfolded(folded));
}

/// Changes the folded input in the first `size` bytes of `data`, which has room for more; gives the
/// new length. `engine` is the engine's own way to do the same, which knows nothing of formats.
pub fn mutate(
    target: &str,
    data: &mut [u8],
    size: usize,
    seed: u32,
    engine: impl FnOnce(&mut [u8], usize) -> usize,
) -> usize {
    let kind = Kind::of_target(target);
    let mut mutator = Mutator::new(seed.into());
    let choice = mutator.below(8);
    // raw disks look like anything, so there only what is known of GPT counts
    let mut image = if choice < 5 {
        let mut image = unfold(&data[..size]);
        mutator.change(kind, &mut image);
        image
    } else {
        let length = data.len();
        let size = engine(data, size).min(length);
        if choice == 5 {
            return size;
        }
        unfold(&data[..size])
    };
    if choice >= 5 {
        Mutator::fix(kind, &mut image);
    }
    let folded = fold(&image);
    match data.get_mut(..folded.len()) {
        Some(slots) => {
            slots.copy_from_slice(&folded);
            folded.len()
        }
        // it has grown too long: as it is
        None => size.min(data.len()),
    }
}

/// An allocator that fails, which ends the process, beyond a bound on all memory.
#[cfg(feature = "libfuzzer")]
pub type Bound = cap::Cap<std::alloc::System>;

/// The memory of a target: an unfolded input and some copies of it, two disks of 10 MiB, and what
/// the library may take, which is 64 MiB.
#[cfg(feature = "libfuzzer")]
#[must_use]
pub const fn bound() -> Bound {
    cap::Cap::new(std::alloc::System, 192 << 20)
}

/// The target of this name as an executable of libFuzzer.
#[cfg(feature = "libfuzzer")]
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        #[global_allocator]
        static BOUND: $crate::engine::Bound = $crate::engine::bound();
        libfuzzer_sys::fuzz_target!(|data: &[u8]| $crate::engine::run($name, data));
        libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max: usize, seed: u32| {
            let engine = |data: &mut [u8], size| libfuzzer_sys::fuzzer_mutate(data, size, max);
            $crate::engine::mutate($name, data, size, seed, engine)
        });
    };
}
