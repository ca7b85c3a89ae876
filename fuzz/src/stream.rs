//! Verdicts on whatever bytes there are: those of the file, and those of a stream of them.

use diskimage::Format;
use diskimage::conformance::check_verdicts;
use diskimage::inspect::{Inspect, Policy};

use crate::input::Input;

/// Judges `input` as a file and as a stream in pieces of several sizes, taken for what it looks like
/// and for an image of this format.
pub fn body(format: Format, input: &Input) {
    let odd = 509 + input.iter().rev().take(2).fold(0, |sum, &byte| sum * 256 + usize::from(byte));
    let storage = input.storage();
    for inspect in [
        Inspect::new(Policy::permissive()),
        Inspect::new(Policy::strict()).declared(format),
        Inspect::new(Policy::openstack()).format(format),
    ] {
        for piece in [odd, 256 << 10] {
            if let Err(what) = check_verdicts(&inspect, &storage, piece) {
                panic!("in pieces of {piece}: {what}");
            }
        }
    }
}
