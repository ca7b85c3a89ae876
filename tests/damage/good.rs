//! The images of `testdata/` and of the corpus are whole, but for those that are known not to be.

use super::*;

/// Images whose damage is their purpose, and what must be found first.
const DAMAGED: &[(&str, Code)] = &[
    ("vdi/cut.vdi", Code::BeyondEnd),
    ("vhd/both-footers-damaged.vhd", Code::FooterMissing),
    ("vhd/end-footer-damaged.vhd", Code::FooterMissing),
    ("vhd/front-copy-damaged.vhd", Code::FooterMissing),
    ("vhd/no-end-footer.vhd", Code::FooterMissing),
    ("vhdx/header-1-damaged.vhdx", Code::RedundantCopyDamaged),
    ("vhdx/header-2-damaged.vhdx", Code::RedundantCopyDamaged),
    ("vhdx/region-1-damaged.vhdx", Code::RedundantCopyDamaged),
    ("vhdx/log.vhdx", Code::LogDirty),
    ("vhdx/log-after-old.vhdx", Code::LogDirty),
    ("vhdx/log-torn.vhdx", Code::LogDirty),
    ("vhdx/log-wrapped.vhdx", Code::LogDirty),
    ("vhdx/log-wrapped-more.vhdx", Code::LogDirty),
    ("vmdk/mangled-to-crlf.vmdk", Code::NewlineMangled),
    ("vmdk/mangled-to-lf.vmdk", Code::NewlineMangled),
    ("vmdk/redundant-only.vmdk", Code::RedundantCopyDamaged),
    ("vmdk/stream-cut.vmdk", Code::FooterMissing),
    // of the corpus: its manifest says what is wrong with them
    ("DiscUtils/vhdx-log-replay.vhdx", Code::LogDirty),
    ("dfvfs/image.vhd", Code::ChecksumMismatch),
    ("trivy/monolithicSparse.vmdk", Code::FooterMissing),
];

fn is_ours(format: &str) -> bool {
    matches!(format, "vmdk" | "vpc" | "vhd" | "vhdx" | "vdi" | "raw")
}

/// Checks an image; gives whether it could be, and a complaint if the verdict is wrong.
fn verdict(name: &str, format: &str, path: &Path) -> (bool, Option<String>) {
    let options = OpenOptions::new().format(format.parse().unwrap());
    let Ok(image) = options.open_image(path) else { return (false, None) };
    let report = match image.check(Checking::new()) {
        Ok(report) => report,
        Err(error) if error.kind() == diskimage::ErrorKind::Unsupported => return (false, None),
        Err(error) => return (true, Some(format!("{name}: {error}"))),
    };
    let wanted = DAMAGED.iter().find(|(damaged, _)| *damaged == name).map(|(_, code)| code);
    let complaint = match wanted {
        Some(code) => !report.is_clean() && report.findings.iter().any(|f| f.code == *code),
        None => report.is_clean(),
    };
    (true, (!complaint).then(|| format!("{name}: {:#?}", report.findings)))
}

#[test]
fn good_images_are_whole_and_the_others_are_found() {
    let fixtures = fixtures().iter().filter(|f| is_ours(&f.format));
    let ours = fixtures.map(|f| verdict(&f.file, &f.format, &f.path));
    let corpus = corpus_images(|format, _| is_ours(format));
    let theirs = corpus.iter().map(|image| verdict(&image.name, &image.format, &image.path));
    let verdicts: Vec<_> = ours.chain(theirs).collect();
    let complaints: Vec<_> =
        verdicts.iter().filter_map(|(_, complaint)| complaint.clone()).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    let checked = verdicts.iter().filter(|(checked, _)| *checked).count();
    assert!(checked > 100, "only {checked} were checked");
}
