//! What holds for the public interface as a whole.

use diskimage::container::{Archive, Compressed, Container, Spill};
use diskimage::disk::{EmptyDisk, Extents, GrownDisk, PartDisk};
use diskimage::format::probe::Probe;
use diskimage::inspect::{Facts, Policy, Stream, Verdict};
use diskimage::resolve::Listed;
use diskimage::storage::{
    FaultStorage, FileStorage, MemoryStorage, PieceStorage, TableCache, WindowStorage,
};
use diskimage::target::{
    FilePatch, FileTarget, FilesTarget, MemoryTarget, SpillTarget, StreamTarget,
};
use diskimage::{
    Beneath, Chain, CheckReport, Checking, Compare, Contents, Convert, DenyAll, Error, Extent,
    Finding, Image, Inspect, Layer, Limits, OpenOptions, Progress, Resolver, Storage, Target,
    VirtualDisk, Writer, platform,
};

fn shared<T: Send + Sync + ?Sized>() {}
fn sent<T: Send + ?Sized>() {}
fn shown<T: std::fmt::Debug>() {}
fn repeated<T: Clone>() {}

/// Disks are read, and written to, by any number of threads; jobs and what they give are handed from
/// one to another. It is the compiler that finds what is wrong here.
#[test]
fn threads_share_what_they_are_to_share() {
    shared::<dyn Storage>();
    shared::<dyn Layer>();
    shared::<dyn VirtualDisk>();
    shared::<dyn Target>();
    shared::<dyn Resolver>();
    sent::<dyn Writer>();
    shared::<Chain>();
    shared::<Image>();
    shared::<EmptyDisk>();
    shared::<GrownDisk<'_>>();
    shared::<Extents<'_, Chain>>();
    shared::<OpenOptions>();
    shared::<Convert>();
    shared::<Compare>();
    shared::<Inspect>();
    shared::<Policy>();
    shared::<platform::Lint>();
    shared::<Checking>();
    shared::<CheckReport>();
    shared::<Progress>();
    shared::<Limits>();
    shared::<Error>();
    shared::<Finding>();
    shared::<Extent>();
    shared::<Contents>();
    shared::<Facts>();
    shared::<Verdict>();
    shared::<Probe>();
    sent::<Stream>();
    shared::<FileStorage>();
    shared::<MemoryStorage>();
    shared::<PieceStorage>();
    shared::<WindowStorage<FileStorage>>();
    shared::<FaultStorage<FileStorage>>();
    shared::<TableCache>();
    shared::<FileTarget>();
    shared::<FilesTarget>();
    shared::<StreamTarget<Vec<u8>>>();
    shared::<SpillTarget<Vec<u8>>>();
    shared::<MemoryTarget>();
    shared::<PartDisk<'_>>();
    sent::<FilePatch>();
    shared::<Archive>();
    shared::<Compressed>();
    shared::<Container>();
    shared::<Spill>();
    shared::<Beneath>();
    shared::<Listed>();
    shared::<DenyAll>();
}

/// A job that was set up once is used for many disks, and shown in a log.
#[test]
fn builders_can_be_cloned_and_shown() {
    macro_rules! builders {
        ($($builder:ty),+ $(,)?) => {$(
            repeated::<$builder>();
            shown::<$builder>();
        )+};
    }
    builders!(
        OpenOptions,
        Convert,
        Compare,
        Inspect,
        Policy,
        Limits,
        platform::Lint,
        diskimage::format::LayerOptions,
        diskimage::contents::Bounds,
        diskimage::container::GceOptions,
        diskimage::format::qcow2::Qcow2Options,
        diskimage::format::vmdk::VmdkOptions,
        diskimage::format::vhd::VhdOptions,
        diskimage::format::vhdx::VhdxOptions,
        diskimage::format::vdi::VdiOptions,
    );
    #[cfg(feature = "checksum")]
    builders!(diskimage::Checksum, diskimage::container::OvaOptions);
}
