//! Repairs of files that are killed, or whose writes fail.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::path::{Path, PathBuf};

use common::qcow2::*;
use common::watched::*;
use common::*;
use tempfile::TempDir;

/// What is done to an image: the repair of it takes several writes.
type Damage = (&'static str, fn(&mut Vec<u8>));

/// Where the refcount table names the block, and where that lies.
fn block(bytes: &[u8]) -> (usize, usize) {
    let table = be64(bytes, 48) as usize;
    (table, be64(bytes, table) as usize)
}

const DAMAGES: &[Damage] = &[
    ("qcow2/v3-plain-64k.qcow2", |b| {
        // counts too low and too high, a wrong flag, and the mark that says so
        let at = l2_entry(b, 0);
        let first = be64(b, at);
        let number = (first & 0x00ff_ffff_ffff_fe00) as usize >> 16;
        let (_, block) = block(b);
        b[block + 2 * number + 1] = 0;
        b[block + 2 * number + 3] = 2;
        set_entry(b, 72, 2);
    }),
    ("qcow2/v3-zlib-4k.qcow2", |b| {
        // no counts at all, so that they are written anew
        let (table, block) = block(b);
        set_entry(b, table, block as u64 + 512);
    }),
    ("vhd/qemu-dynamic.vhd", |b| b[..512].fill(0)),
    ("vhdx/log.vhdx", |_| {}),
    ("vhdx/plain.vhdx", |b| {
        b[128 << 10] ^= 1;
        b[192 << 10] ^= 1;
    }),
    ("vmdk/qemu-sparse.vmdk", |b| b[26 * 512..27 * 512].fill(0x5a)),
];

/// A copy of an image, damaged.
fn damaged(folder: &TempDir, (file, damage): &Damage) -> PathBuf {
    let mut bytes = fixture(file).bytes();
    damage(&mut bytes);
    let path = folder.path().join(fixture(file).name());
    write_sparse(&path, &bytes);
    path
}

/// The hash of the disk, the mark of corruption notwithstanding.
fn content(path: &Path) -> String {
    let args = ["checksum", "--trust-broken", path.to_str().unwrap()];
    diskimage(args).ok().text().split_whitespace().next().unwrap().to_owned()
}

/// Nothing was lost, and a repair that is not disturbed mends all.
#[track_caller]
fn mended(path: &Path, before: &str, when: &str) {
    assert_eq!(content(path), before, "{when}: other content");
    let text = path.to_str().unwrap();
    let again = diskimage(["check", "--repair", "all", text]);
    assert_eq!(again.code, Some(0), "{when}: {again:?}");
    assert_eq!(diskimage(["check", text]).code, Some(0), "{when}");
    assert_eq!(content(path), before, "{when}, then repaired: other content");
}

/// Repairs a damaged copy with a fault at the n-th call, for all n; gives how many there were.
fn at_each(damage: &Damage, call: &str, how: &str, judge: impl Fn(Ran, &Path)) -> Option<u32> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for number in 1.. {
        let path = damaged(&folder, damage);
        let before = content(&path);
        let fault = format!("{call}:{how}:when={number}");
        let args = ["check", "--repair", "all", path.to_str().unwrap()];
        let (ran, met) = attempted(&fault, Some(&path), &args)?;
        let when = format!("{}, {fault}", damage.0);
        if !met {
            assert_eq!(ran.code, Some(0), "{when}: {ran:?}");
            mended(&path, &before, &when);
            return Some(number - 1);
        }
        judge(ran, &path);
        mended(&path, &before, &when);
    }
    None
}

#[test]
fn a_repair_that_is_killed_at_any_write_loses_nothing() {
    for damage in DAMAGES {
        let killed = |ran: Ran, _: &Path| assert_eq!(ran.code, None, "{ran:?}");
        let Some(writes) = at_each(damage, "pwrite64", "signal=SIGKILL", killed) else { return };
        assert!(writes >= 1, "{} takes no write", damage.0);
        let Some(syncs) = at_each(damage, "fdatasync", "signal=SIGKILL", killed) else { return };
        assert!(syncs >= 1, "{} is not brought to its medium", damage.0);
    }
}

#[test]
fn a_repair_whose_write_fails_names_the_file_and_loses_nothing() {
    for damage in DAMAGES {
        for (call, how, words) in [
            ("pwrite64", "error=EIO", "cannot write: Input/output error"),
            ("pwrite64", "error=ENOSPC", "cannot write: No space left on device"),
            ("fdatasync", "error=EIO", "cannot write the file to its medium: Input/output error"),
        ] {
            let told = |ran: Ran, path: &Path| drop(ran.refused(1, path, &[words]));
            let Some(calls) = at_each(damage, call, how, told) else { return };
            assert!(calls >= 1, "{}: no {call}", damage.0);
        }
    }
}
