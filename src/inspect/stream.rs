//! An image that passes by once: judged by the parsers that read files, over what is kept of it.

use std::path::Path;
use std::sync::Arc;

#[cfg(feature = "checksum")]
use crate::checksum::Hashers;
use crate::error::Result;
use crate::format::probe::{HEAD, Probe, TAIL, probe_bytes};
use crate::num::{to_u64, to_usize};
use crate::open::{Image, OpenOptions};
use crate::storage::Storage;
use crate::target::stream::zeros;

use super::facts::{Facts, read_start};
use super::passing::{Missed, Passing};
use super::walk::{Walk, Walked};
use super::{Inspect, Reason, Verdict};

/// The name of a stream, for messages.
pub(super) const NAME: &str = "-";

/// Rules that an image breaks for good: what is found by headers, which the length of the file does
/// not change.
const LASTING: &[&str] = &[
    "declared-mismatch",
    "format-not-allowed",
    "subformat-not-allowed",
    "virtual-size",
    "unreadable",
    "polyglot",
    "backing-file",
    "data-file",
    "external-extents",
    "external-reference",
    "encrypted",
    "unknown-feature",
    "corrupt",
    "internal-snapshots",
];

/// Judges an image while its bytes are pushed, in pieces of any sizes. What the formats ask for is
/// kept when it passes, less than 512 KiB of it; the verdict is that of the whole file wherever
/// the image's layout tells its readers in time what matters, and says else what it did not see.
///
/// ```
/// use diskimage::inspect::{Inspect, Policy};
/// use diskimage::Format;
///
/// let mut stream = Inspect::new(Policy::strict()).declared(Format::Vmdk).stream();
/// // a QCOW2 comes
/// for piece in [&b"QFI\xfb\0\0\0\x03"[..], &[0; 80 << 10]] {
///     if stream.push(piece).is_refused() {
///         break;
///     }
/// }
/// assert!(stream.status().is_refused() && stream.bytes() > 64 << 10);
/// assert_eq!(stream.reasons()[0].rule, "declared-mismatch");
/// let verdict = stream.finish();
/// assert!(!verdict.is_allowed() && verdict.early);
/// ```
#[derive(Debug)]
pub struct Stream {
    inspect: Inspect,
    passing: Arc<Passing>,
    candidates: Vec<Candidate>,
    /// What the head tells, once all of it is there.
    head: Option<Probe>,
    refused: Option<Box<Verdict>>,
    #[cfg(feature = "checksum")]
    hashers: Hashers,
}

/// Whether more is needed.
///
/// ```
/// use diskimage::inspect::{Inspect, Policy, Status};
///
/// let mut policy = Policy::permissive();
/// policy.max_file_size = Some(6 << 10);
/// let mut stream = Inspect::new(policy).stream();
/// assert_eq!(stream.push(&[0; 4096]), Status::Undecided);
/// assert_eq!(stream.push(&[0; 4096]), Status::Refused); // too long, whatever it is
/// assert!(stream.status().is_refused());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Push on.
    Undecided,
    /// It is refused, whatever follows.
    Refused,
}

impl Status {
    /// Whether nothing that follows can make it pass.
    #[must_use]
    pub fn is_refused(self) -> bool {
        self == Self::Refused
    }
}

/// A format that the image may be in, looked at as far as it has passed.
#[derive(Debug)]
struct Candidate {
    probe: Probe,
    /// The image, with all that describes it.
    opened: Option<Result<Image>>,
    /// The same as far as it maps the disk, which is known sooner.
    disk: Option<Image>,
    walk: Walk<'static>,
    /// What is still to be had, for each thing that is to be done with the image.
    opening: Step,
    describing: Step,
    looking: Step,
    /// Whether what it says does not depend on the end of the file.
    settled: bool,
}

/// How far a look at an image has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Waiting,
    Done,
    /// What it needs has passed.
    Lost,
}

impl Stream {
    pub(super) fn new(inspect: Inspect) -> Self {
        Self {
            #[cfg(feature = "checksum")]
            hashers: Hashers::new(&inspect.algorithms).unwrap_or_default(),
            inspect,
            passing: Arc::new(Passing::new()),
            candidates: Vec::new(),
            head: None,
            refused: None,
        }
    }

    /// How many bytes were pushed.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.passing.position()
    }

    /// Whether it is refused already.
    #[must_use]
    pub fn status(&self) -> Status {
        if self.refused.is_some() { Status::Refused } else { Status::Undecided }
    }

    /// Why it is refused, if it is already.
    #[must_use]
    pub fn reasons(&self) -> &[Reason] {
        self.refused.as_ref().map(|verdict| &*verdict.reasons).unwrap_or_default()
    }

    /// Takes the next bytes. After a refusal they are not looked at any more.
    pub fn push(&mut self, bytes: &[u8]) -> Status {
        if self.refused.is_some() {
            return Status::Refused;
        }
        #[cfg(feature = "checksum")]
        self.hashers.update(bytes);
        let mut rest = bytes;
        while !rest.is_empty() {
            let left = to_u64(HEAD).saturating_sub(self.passing.position());
            let next = if left > 0 { Some(left) } else { self.passing.until_next() };
            let length = next.map_or(rest.len(), |next| to_usize(next).clamp(1, rest.len()));
            let (piece, behind) = rest.split_at(length);
            rest = behind;
            self.pass(piece);
            if self.refused.is_some() {
                return Status::Refused;
            }
        }
        let limit = self.inspect.policy.max_file_size;
        if limit.is_some_and(|limit| self.passing.position() > limit) {
            self.refuse_early();
        }
        self.status()
    }

    /// Takes so many zeros, of which no checksum is wanted.
    pub(super) fn push_zeros(&mut self, length: u64) -> Status {
        let mut left = length;
        while left > 0 && self.refused.is_none() {
            left = left.saturating_sub(self.passing.pass_zeros(left));
            // of none there is still a look at what has passed
            let piece = zeros(left).next().unwrap_or_default();
            left = left.saturating_sub(to_u64(piece.len()));
            self.push(piece);
        }
        self.status()
    }

    fn pass(&mut self, piece: &[u8]) {
        let passed = self.passing.pass(piece);
        if self.head.is_none() && self.passing.position() >= to_u64(HEAD) {
            self.take_candidates();
        }
        if passed.there.is_empty() && passed.lost.is_empty() {
            return;
        }
        let options = self.options();
        for candidate in &mut self.candidates {
            for range in &passed.lost {
                candidate.walk.lose(range);
            }
            if !passed.there.is_empty() {
                candidate.go_on(&options, &self.passing);
            }
            if let Some(image) = &candidate.disk {
                for range in &passed.there {
                    if candidate.walk.waits_for(range) {
                        candidate.walk.came(image.layer(), &self.passing, range);
                    }
                }
            }
        }
        self.judge_early();
    }

    /// Finds out what the image may be, once all is there that tells.
    fn take_candidates(&mut self) {
        let probe = self.probe_head();
        let options = self.options();
        let mut formats = match self.inspect.format {
            Some(format) => vec![format],
            None => probe.read_formats().collect(),
        };
        formats.dedup();
        for format in formats.into_iter().filter(|format| *format != crate::Format::Raw) {
            let mut only = probe.clone();
            only.matches.retain(|m| m.format == format);
            let mut candidate = Candidate::new(only);
            candidate.go_on(&options, &self.passing);
            self.candidates.push(candidate);
        }
        self.head = Some(probe);
        self.judge_early();
    }

    fn probe_head(&self) -> Probe {
        self.passing.with_head(|head| probe_bytes(head, None))
    }

    fn options(&self) -> OpenOptions {
        let mut limits = self.inspect.limits.clone();
        limits.table_cache = limits.table_cache.min(128 << 10);
        self.inspect.options(limits)
    }

    /// Whether what is known by now refuses the image for good.
    fn judge_early(&mut self) {
        let Some(head) = &self.head else { return };
        let several = head.images().count() > 1;
        let forbids_several =
            self.inspect.policy.forbidden.contains(&crate::finding::Code::Polyglot);
        if head.images().next().is_none() || (several && !forbids_several) {
            return;
        }
        let mut facts = Facts::new(head, self.passing.position());
        if several {
            // which of them it is taken for shows only when they are opened
            facts.format = None;
        }
        if let [candidate] = &mut *self.candidates {
            candidate.tell(&mut facts);
        }
        let mut verdict = self.inspect.verdict(facts);
        verdict.reasons.retain(|reason| LASTING.contains(&reason.rule));
        if !verdict.is_allowed() {
            self.refuse(verdict);
        }
    }

    fn refuse_early(&mut self) {
        let facts = Facts::new(&self.probe_head(), self.passing.position());
        self.refuse(self.inspect.verdict(facts));
    }

    fn refuse(&mut self, mut verdict: Verdict) {
        verdict.early = true;
        self.refused = Some(Box::new(verdict));
        self.candidates.clear();
    }

    /// The verdict, all bytes having been pushed, or the image refused before.
    #[must_use]
    pub fn finish(mut self) -> Verdict {
        if let Some(verdict) = self.refused.take() {
            return *verdict;
        }
        self.passing.end();
        let size = self.passing.size();
        let tail = self.passing.tail(TAIL);
        let probe = self.passing.with_head(|head| probe_bytes(head, Some((&tail, size))));
        let options = self.options();
        let mut candidates = std::mem::take(&mut self.candidates);
        let passing = &self.passing;
        let walk = |image: &Image| end_walk(&mut candidates, image, passing, size);
        let facts = match self.inspect.container_format(&probe) {
            // what lies in it would have to be looked into
            Some(format) => Facts::of_passed_container(&probe, size, format),
            None => Facts::of_passing(&options, passing, Path::new(NAME), &probe, walk),
        };
        #[cfg_attr(not(feature = "checksum"), expect(unused_mut, reason = "digests are added"))]
        let mut verdict = self.inspect.verdict(facts);
        #[cfg(feature = "checksum")]
        {
            verdict.digests = self.hashers.finish();
        }
        verdict
    }
}

/// What was seen of the tables of `image`.
fn end_walk(
    candidates: &mut Vec<Candidate>,
    image: &Image,
    passing: &Passing,
    size: u64,
) -> Walked {
    let layer = image.layer();
    // what was opened before the end was known may be another image than it turned out to be
    let key = |image: &Image| {
        let layer = image.layer();
        (layer.format(), layer.size(), layer.tables_at())
    };
    let same =
        |candidate: &Candidate| candidate.disk.as_ref().is_some_and(|seen| key(seen) == key(image));
    let found = candidates.iter().position(same).map(|index| candidates.swap_remove(index));
    let mut walk = found.map(|candidate| candidate.walk).unwrap_or_default();
    walk.advance(layer, passing);
    walk.end(layer, size)
}

impl Candidate {
    fn new(probe: Probe) -> Self {
        Self {
            probe,
            opened: None,
            disk: None,
            walk: Walk::default(),
            opening: Step::Waiting,
            describing: Step::Waiting,
            looking: Step::Waiting,
            settled: false,
        }
    }

    /// Does what can be done with what is there, and asks for what is needed next.
    fn go_on(&mut self, options: &OpenOptions, passing: &Arc<Passing>) {
        passing.missed();
        let open = |options: &OpenOptions| {
            let storage: Arc<dyn Storage> = Arc::<Passing>::clone(passing);
            options.open_image_probed(storage, Path::new(NAME), self.probe.clone())
        };
        let disk_only = options.clone().disk_only();
        if self.disk.is_none() {
            let opened = open(&disk_only);
            if step(&passing.missed(), passing) == Step::Done {
                self.disk = opened.ok();
            }
        }
        if let Some(disk) = &self.disk {
            if self.looking == Step::Waiting {
                let _ = open(&disk_only).and_then(read_start);
                self.looking = step(&passing.missed(), passing);
            }
            self.walk.advance(disk.layer(), passing);
        }
        if self.opening == Step::Waiting {
            let opened = open(options);
            let missed = passing.missed();
            self.settled = !missed.asked_end;
            self.opening = step(&missed, passing);
            if self.opening == Step::Done {
                self.opened = Some(opened);
            }
        }
        let Some(Ok(image)) = &self.opened else { return };
        if self.describing == Step::Waiting {
            // only what it reads matters here; the facts are told when they are needed
            let _ = image.findings();
            let missed = passing.missed();
            self.settled &= !missed.asked_end;
            self.describing = step(&missed, passing);
        }
    }

    /// Adds what the image says of itself, where all of that is there and stays so.
    fn tell(&mut self, facts: &mut Facts) {
        if !self.settled {
            return;
        }
        match &mut self.opened {
            Some(Ok(image)) if self.describing == Step::Done => facts.add_described(image),
            Some(Err(_)) => facts.error = self.opened.take().and_then(Result::err),
            _ => {}
        }
    }
}

/// Asks for what was missed.
fn step(missed: &Missed, passing: &Passing) -> Step {
    let mut step = Step::Done;
    // what is there now is read again at the end
    for range in &missed.fleeting {
        passing.keep(range, true);
    }
    for range in &missed.ranges {
        match passing.keep(range, true) {
            true if step != Step::Lost => step = Step::Waiting,
            true => {}
            false => step = Step::Lost,
        }
    }
    step
}
