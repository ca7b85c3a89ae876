//! What lies on a disk, held against what other programs say: file systems made by their own tools and
//! named by blkid, partitions made and listed by sfdisk, discs made by xorriso.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use common::superblocks::by_hand;
use common::*;
use diskimage::contents::{self, Bounds, Contents, Kind, Partition, Role, Superblock, TableKind};
use diskimage::{Code, Extent, Format, OpenOptions, Storage, StorageId, VirtualDisk};
use serde_json::Value;

const MIB: u64 = 1 << 20;

fn look(path: &Path) -> Contents {
    look_as(path, Format::Raw)
}

fn look_as(path: &Path, format: Format) -> Contents {
    let disk = OpenOptions::new().format(format).open(path).unwrap();
    contents::look(&disk, &Bounds::default()).unwrap()
}

/// Programs of administrators are not on everybody's path.
fn program(name: &str) -> String {
    let folders = ["/usr/sbin", "/sbin", "/usr/bin"];
    let found = folders.iter().map(|folder| format!("{folder}/{name}"));
    { found }.find(|path| Path::new(path).exists()).unwrap_or_else(|| name.to_owned())
}

/// Runs a program with these words; false if it is not installed.
fn run(command: &str, words: &[&str]) -> bool {
    let words: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
    tool_output(&program(command), &words).is_some()
}

/// Runs it by the shell, for what takes a script on standard input.
fn shell(command: &str, needs: &str, folder: &Path) -> bool {
    if !Path::new(&program(needs)).exists() {
        return run(needs, &["--version"]);
    }
    let script = format!("PATH=$PATH:/usr/sbin:/sbin; cd '{}' && {command}", folder.display());
    run("sh", &["-ec", &script])
}

/// What blkid says of `length` bytes at `offset`; `None` without blkid.
fn blkid(path: &Path, offset: u64, length: u64) -> Option<BTreeMap<String, String>> {
    let (offset, length) = (offset.to_string(), length.to_string());
    let words = ["-p", "-o", "udev", "-O", &offset, "-S", &length, path.to_str().unwrap()];
    let words: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
    // it ends with 2 where it finds nothing
    let output = tool(&program("blkid"), &words)?;
    let lines = String::from_utf8(output.stdout).unwrap();
    let pairs = lines.lines().filter_map(|line| line.split_once('='));
    Some(pairs.map(|(key, value)| (key.to_owned(), unescaped(value))).collect())
}

/// `\x20` as what it stands for.
fn unescaped(value: &str) -> String {
    let mut bytes = Vec::new();
    let mut parts = value.split("\\x");
    bytes.extend(parts.next().unwrap().bytes());
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend(part[2..].bytes());
    }
    String::from_utf8(bytes).unwrap()
}

/// Fails unless blkid says the same of these bytes as the first superblock, or nothing if there is
/// none.
#[track_caller]
fn agrees(path: &Path, offset: u64, length: u64, found: &[Superblock]) -> bool {
    let Some(told) = blkid(path, offset, length) else { return false };
    let told = |key: &str| told.get(key).cloned();
    let first = found.first();
    let ours = |get: fn(&Superblock) -> Option<String>| first.and_then(get);
    let name = format!("{}+{offset:#x}: {found:?}", path.display());
    assert_eq!(ours(|one| Some(one.kind.name().to_owned())), told("ID_FS_TYPE"), "{name}");
    assert_eq!(ours(|one| one.uuid.clone()), told("ID_FS_UUID_ENC"), "{name}");
    assert_eq!(ours(|one| one.uuid_sub.clone()), told("ID_FS_UUID_SUB_ENC"), "{name}");
    assert_eq!(ours(|one| one.label.clone()), told("ID_FS_LABEL_ENC"), "{name}");
    assert_eq!(ours(|one| one.version.clone()), told("ID_FS_VERSION"), "{name}");
    true
}

/// File systems: a name, the size in MiB (0 where the tool makes the file), the program, its words
/// before the file, and the size it gives itself, if that is not all.
const MADE: &[(&str, u64, &str, &[&str])] = &[
    ("ext2", 8, "mkfs.ext2", &["-qF", "-L", "two words"]),
    ("ext3", 16, "mkfs.ext3", &["-qF", "-L", "three"]),
    ("ext4", 16, "mkfs.ext4", &["-qF", "-L", "vier-ÄÖÜ"]),
    ("ext4-no-journal", 16, "mkfs.ext4", &["-qF", "-O", "^has_journal"]),
    ("ext4-64bit-4k", 16, "mkfs.ext4", &["-qF", "-b", "4096", "-O", "64bit,metadata_csum"]),
    ("journal", 16, "mkfs.ext4", &["-qF", "-O", "journal_dev", "-L", "journal"]),
    ("xfs", 320, "mkfs.xfs", &["-q", "-L", "xfs label"]),
    ("xfs-v4", 320, "mkfs.xfs", &["-q", "-m", "crc=0"]),
    ("btrfs", 128, "mkfs.btrfs", &["-q", "-L", "butter"]),
    ("f2fs", 64, "mkfs.f2fs", &["-q", "-l", "flash"]),
    ("fat12", 2, "mkfs.fat", &["-F12", "-n", "TWELVE"]),
    ("fat16", 32, "mkfs.fat", &["-F16", "-n", "SIX TEEN"]),
    ("fat32", 64, "mkfs.fat", &["-F32", "-n", "THIRTYTWO"]),
    ("fat32-4k", 512, "mkfs.fat", &["-F32", "-S", "4096"]),
    ("fat-nameless", 32, "mkfs.fat", &[]),
    ("ntfs", 8, "mkfs.ntfs", &["-qFL", "Laufwerk Ü"]),
    ("ntfs-64k", 16, "mkfs.ntfs", &["-qF", "-c", "65536"]),
    ("exfat", 16, "mkfs.exfat", &["-L", "Größe"]),
    ("exfat-nameless", 16, "mkfs.exfat", &[]),
    ("swap", 1, "mkswap", &["-L", "swap space"]),
    ("swap-64k", 4, "mkswap", &["-p", "65536"]),
    ("udf", 16, "mkudffs", &["-l", "Łabel"]),
    ("udf-2k", 16, "mkudffs", &["-b", "2048", "-l", "plain"]),
];

/// A file of this size, full of holes.
fn blank(path: &Path, size: u64) {
    std::fs::File::create(path).unwrap().set_len(size).unwrap();
}

/// Makes one of [`MADE`] in `folder`; `None` if its program is missing.
fn make(folder: &Path, wanted: &str) -> Option<PathBuf> {
    let (name, size, command, words) = MADE.iter().find(|(name, ..)| *name == wanted).unwrap();
    let path = folder.join(name);
    blank(&path, size * MIB);
    run(command, &[words, &[path.to_str().unwrap()][..]].concat()).then_some(path)
}

#[test]
fn file_systems_are_what_blkid_says_and_as_large_as_they_were_made() {
    let dir = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for (name, size, ..) in MADE {
        let Some(path) = make(dir.path(), name) else { continue };
        let found = look(&path);
        assert_eq!(found.superblocks.len(), 1, "{name}: {found:?}");
        assert_eq!((&found.error, &found.findings[..]), (&None, &[][..]), "{name}");
        assert!(found.table.is_none() && found.partitions.is_empty(), "{name}");
        let own = found.superblocks[0].size;
        assert_eq!(own, (!name.starts_with("udf")).then_some(size * MIB), "{name}");
        assert!(found.bytes_read <= 64 << 10, "{name}: {}", found.bytes_read);
        seen += u32::from(agrees(&path, 0, size * MIB, &found.superblocks));
        std::fs::remove_file(path).unwrap();
    }
    eprintln!("{seen} file systems are as blkid says");
}

#[test]
fn archives_of_files_are_what_blkid_says() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    std::fs::create_dir(folder.join("tree")).unwrap();
    std::fs::write(folder.join("tree/file"), [7; 5000]).unwrap();
    for (name, needs, command) in [
        ("squashfs", "mksquashfs", "mksquashfs tree squashfs -quiet -no-progress >&2"),
        ("erofs", "mkfs.erofs", "mkfs.erofs -Uc1b9d5a2-f162-11cf-9ece-0020afc76f16 erofs tree >&2"),
        ("iso", "genisoimage", "genisoimage -quiet -V PLAIN -o iso tree"),
        (
            "joliet",
            "genisoimage",
            "genisoimage -quiet -J -R -V 'A long label, 32 characters' -o joliet tree",
        ),
        ("xorriso", "xorriso", "xorriso -as mkisofs -quiet -J -V 'By_xorriso' -o xorriso tree"),
        ("bridge", "genisoimage", "genisoimage -quiet -udf -J -V Both -o bridge tree"),
    ] {
        if !shell(command, needs, folder) {
            continue;
        }
        let path = folder.join(name);
        let size = path.metadata().unwrap().len();
        let found = look(&path);
        assert!(found.error.is_none() && found.findings.is_empty(), "{name}: {found:?}");
        agrees(&path, 0, size, &found.superblocks);
        let kinds: Vec<_> = found.superblocks.iter().map(|one| one.kind).collect();
        match name {
            "bridge" => assert_eq!(kinds, [Kind::Udf, Kind::Iso9660]),
            _ => assert_eq!(kinds.len(), 1, "{name}"),
        }
        let own = found.superblocks.last().unwrap().size.unwrap();
        assert!(own <= size && own + (512 << 10) > size, "{name}: {own} of {size}");
    }
}

#[test]
fn luks_is_what_blkid_says_and_told_as_encrypted() {
    let dir = tempfile::tempdir().unwrap();
    for (name, words) in [
        ("luks1", "--type luks1 --pbkdf-force-iterations 1000"),
        ("luks2", "--type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --label mine"),
    ] {
        let path = dir.path().join(name);
        blank(&path, 32 * MIB);
        let command = format!("echo secret | cryptsetup luksFormat -q {words} {name} -");
        if shell(&command, "cryptsetup", dir.path()) {
            let found = look(&path);
            agrees(&path, 0, 32 * MIB, &found.superblocks);
            assert_eq!(found.findings.len(), 1);
            assert_eq!(found.findings[0].code, Code::Encrypted);
        }
    }
}

/// A disk with a table by sfdisk's `script`, and in each partition what [`MADE`] names; `None` where a
/// program is missing.
fn disk(
    folder: &Path,
    name: &str,
    size: u64,
    script: &str,
    what: &[(u64, &str)],
) -> Option<PathBuf> {
    let path = folder.join(name);
    blank(&path, size * MIB);
    std::fs::write(folder.join("script"), script).unwrap();
    if !shell(&format!("sfdisk -q {name} < script"), "sfdisk", folder) {
        return None;
    }
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    for (start, made) in what {
        let bytes = std::fs::read(make(folder, made)?).unwrap();
        for (index, block) in bytes.chunks(4096).enumerate() {
            if block.iter().any(|&byte| byte != 0) {
                file.write_all_at(block, start * 512 + index as u64 * 4096).unwrap();
            }
        }
    }
    Some(path)
}

/// What `sfdisk --json` says.
fn sfdisk(path: &Path) -> Value {
    let words = [OsStr::new("--json"), path.as_os_str()];
    let output = tool_output(&program("sfdisk"), &words).unwrap();
    serde_json::from_slice::<Value>(&output).unwrap()["partitiontable"].clone()
}

fn lists_as_sfdisk(path: &Path, found: &Contents) {
    let theirs = sfdisk(path);
    let table = found.table.as_ref().unwrap();
    assert_eq!(theirs["label"], table.kind.name());
    let id = table.id.as_ref().unwrap();
    let their_id = theirs["id"].as_str().unwrap().trim_start_matches("0x").to_lowercase();
    assert_eq!(&their_id, id);
    let theirs = theirs["partitions"].as_array().unwrap();
    assert_eq!(theirs.len(), found.partitions.len(), "{found:?}");
    for (theirs, ours) in theirs.iter().zip(&found.partitions) {
        let node = theirs["node"].as_str().unwrap();
        assert!(node.ends_with(&ours.number.to_string()), "{node} {ours:?}");
        assert_eq!(theirs["start"].as_u64().unwrap() * 512, ours.start);
        // of an extended partition it gives two sectors only, as the kernel does
        assert_eq!(theirs["size"].as_u64().unwrap() * 512, ours.length);
        let kind = theirs["type"].as_str().unwrap().to_lowercase();
        match table.kind {
            TableKind::Gpt => assert_eq!(kind, ours.kind.id),
            _ => {
                assert_eq!(format!("{:#04x}", u8::from_str_radix(&kind, 16).unwrap()), ours.kind.id)
            }
        }
        assert!(ours.kind.name.is_some(), "{} has no name", ours.kind.id);
        let uuid = theirs["uuid"].as_str().map(str::to_lowercase);
        assert!(uuid.is_none() || uuid == ours.uuid, "{ours:?}");
        assert_eq!(theirs["name"].as_str().map(str::to_owned), ours.name);
        let legacy =
            theirs["attrs"].as_str().is_some_and(|attrs| attrs.contains("LegacyBIOSBootable"));
        assert_eq!(theirs["bootable"] == true || legacy, ours.bootable, "{ours:?}");
        agrees(
            path,
            ours.start,
            ours.length,
            if ours.role == Role::Extended { &[] } else { &ours.superblocks },
        );
    }
}

const GPT: &str = "label: gpt\nlabel-id: 8C9B1D34-6A51-4B7B-8F2C-0123456789AB\n\
    start=2048, size=4096, type=21686148-6449-6E6F-744E-656564454649\n\
    size=65536, type=U, name=\"EFI System Partition\"\n\
    size=32768, type=L, name=\"Wurzel-Größe\", attrs=\"LegacyBIOSBootable,GUID:60\"\n\
    size=655360, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709\n\
    size=2048, type=S\n\
    size=32768, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7\n";

fn gpt_disk(folder: &Path) -> Option<PathBuf> {
    let what =
        [(6144, "fat16"), (71680, "ext4"), (104448, "xfs"), (759808, "swap"), (761856, "ntfs")];
    disk(folder, "gpt.raw", 512, GPT, &what)
}

#[test]
fn a_gpt_and_what_lies_in_it_is_as_others_say_through_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let Some(path) = gpt_disk(dir.path()) else { return };
    let found = look(&path);
    lists_as_sfdisk(&path, &found);
    assert!(found.findings.is_empty() && found.superblocks.is_empty(), "{found:?}");
    let kinds: Vec<_> =
        found.partitions.iter().map(|p| p.superblocks.first().map(|s| s.kind.name())).collect();
    let wanted = [None, Some("vfat"), Some("ext4"), Some("xfs"), Some("swap"), Some("ntfs")];
    assert_eq!(kinds, wanted);
    let boot = found.boot;
    assert_eq!((boot.bios_boot, boot.efi_system, boot.active), (Some(1), Some(2), Some(3)));
    assert!(boot.by_uefi() && !boot.by_bios());
    assert!(found.bytes_read < 128 << 10, "{}", found.bytes_read);
    for (format, options) in [
        ("qcow2", "compression_type=zlib"),
        ("vmdk", "subformat=streamOptimized"),
        ("vmdk", "subformat=monolithicSparse"),
        ("vpc", "force_size=on"),
        ("vhdx", ""),
        ("vdi", ""),
    ] {
        let image = dir.path().join(format!("image.{format}"));
        let mut words = vec!["convert", "-f", "raw", "-O", format];
        if format == "qcow2" {
            words.push("-c");
        }
        if !options.is_empty() {
            words.extend(["-o", options]);
        }
        words.extend([path.to_str().unwrap(), image.to_str().unwrap()]);
        if !run("qemu-img", &words) {
            return;
        }
        let again = look_as(&image, format.parse().unwrap());
        assert_eq!(again, found, "{format} {options}");
    }
}

#[test]
fn an_mbr_with_logical_partitions_is_as_others_say() {
    let dir = tempfile::tempdir().unwrap();
    let script = "label: dos\nlabel-id: 0xcafe1234\n\
        start=2048, size=32768, type=83, bootable\n\
        start=34816, size=16384, type=7\n\
        start=53248, size=204800, type=5\n\
        start=55296, size=65536, type=b\n\
        start=124928, size=32768, type=83\n\
        start=159744, size=2048, type=82\n";
    let what =
        [(2048, "ext3"), (34816, "ntfs"), (55296, "fat16"), (124928, "ext4"), (159744, "swap")];
    let Some(path) = disk(dir.path(), "mbr.raw", 160, script, &what) else { return };
    let found = look(&path);
    lists_as_sfdisk(&path, &found);
    assert!(found.findings.is_empty(), "{found:?}");
    let roles: Vec<_> = found.partitions.iter().map(|p| (p.number, p.role)).collect();
    let (primary, logical) = (Role::Primary, Role::Logical);
    assert_eq!(
        roles,
        [(1, primary), (2, primary), (3, Role::Extended), (5, logical), (6, logical), (7, logical)]
    );
    assert_eq!(found.partitions[3].uuid.as_deref(), Some("cafe1234-05"));
    assert_eq!(found.boot.active, Some(1));
    assert_eq!(found.boot.to_string(), "nothing to boot from was found");
}

/// Copies an MBR disk so that what it says of sectors of 512 bytes holds for those of 4096.
#[test]
fn an_mbr_that_counts_in_sectors_of_4096_bytes_is_told_by_what_lies_there() {
    let dir = tempfile::tempdir().unwrap();
    let Some(ext4) = make(dir.path(), "ext4") else { return };
    let path = dir.path().join("disk");
    let mut bytes = vec![0; 32 << 20];
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes[446 + 4] = 0x83;
    bytes[446 + 8..][..4].copy_from_slice(&256u32.to_le_bytes());
    bytes[446 + 12..][..4].copy_from_slice(&4096u32.to_le_bytes());
    bytes[1 << 20..][..16 << 20].copy_from_slice(&std::fs::read(ext4).unwrap());
    write_sparse(&path, &bytes);
    let found = look(&path);
    let [only] = &found.partitions[..] else { panic!("{found:?}") };
    assert_eq!((only.start, only.length, found.table.unwrap().sector_size), (MIB, 16 * MIB, 4096));
    assert_eq!(only.superblocks[0].kind, Kind::Ext4);
    assert_eq!(found.findings.len(), 1);
}

#[test]
fn discs_that_boot_are_as_xorriso_reports() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    std::fs::create_dir(folder.join("tree")).unwrap();
    std::fs::write(folder.join("tree/bios.img"), [0x90; 2048]).unwrap();
    let Some(efi) = make(folder, "fat12") else { return };
    std::fs::rename(efi, folder.join("tree/efi.img")).unwrap();
    let mut mbr = vec![0u8; 432];
    mbr[0] = 0xeb;
    std::fs::write(folder.join("mbr.bin"), mbr).unwrap();
    let bios = "-b bios.img -no-emul-boot -boot-load-size 4";
    let efi = "-e efi.img -no-emul-boot";
    for (name, options, wanted) in [
        ("none", String::new(), (false, false)),
        ("bios", bios.to_owned(), (true, false)),
        ("efi", efi.to_owned(), (false, true)),
        ("both", format!("{bios} -eltorito-alt-boot {efi}"), (true, true)),
        // the first sector and two partition tables beside it
        (
            "hybrid",
            format!("-isohybrid-mbr mbr.bin {bios} -eltorito-alt-boot {efi} -isohybrid-gpt-basdat"),
            (true, true),
        ),
    ] {
        let command = format!("xorriso -as mkisofs -quiet -V DISC -o {name}.iso {options} tree");
        if !shell(&command, "xorriso", folder) {
            return;
        }
        let path = folder.join(format!("{name}.iso"));
        let words = ["-indev", path.to_str().unwrap(), "-report_el_torito", "plain"];
        let words: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
        let report = tool("xorriso", &words).unwrap();
        let report = String::from_utf8_lossy(&report.stdout).into_owned();
        let images = report.lines().filter(|line| line.starts_with("El Torito boot img :"));
        let platforms: Vec<_> = images.filter_map(|line| line.split_whitespace().nth(6)).collect();
        let found = look(&path);
        let boot = found.boot;
        assert_eq!((boot.el_torito_bios, boot.el_torito_efi), wanted, "{name}");
        assert_eq!(wanted, (platforms.contains(&"BIOS"), platforms.contains(&"UEFI")), "{report}");
        assert_eq!(found.superblocks[0].kind, Kind::Iso9660);
        let hybrid = found.findings.iter().any(|finding| finding.code == Code::HybridIso);
        assert_eq!(
            (hybrid, found.table.is_some()),
            (name == "hybrid", name == "hybrid"),
            "{found:?}"
        );
        if name == "hybrid" {
            assert!(boot.signature && boot.code, "{boot:?}");
        }
    }
}

#[test]
fn superblocks_made_by_hand_are_what_blkid_says() {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes, kind) in by_hand() {
        let path = dir.path().join(name);
        write_sparse(&path, &bytes);
        let found = look(&path);
        assert_eq!(found.superblocks[0].kind, kind, "{name}");
        assert!(found.superblocks[0].size.is_none_or(|size| size <= bytes.len() as u64), "{name}");
        let size = bytes.len() as u64;
        if kind == Kind::Bcachefs || kind == Kind::Refs {
            // newer than some blkid; its version of ReFS has no name for more
            continue;
        }
        if kind != Kind::Zfs {
            agrees(&path, 0, size, &found.superblocks);
        }
    }
}

#[test]
fn a_zfs_label_and_bcachefs_tell_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let told = |wanted: &str| {
        let (name, bytes, _) = by_hand().into_iter().find(|(name, ..)| *name == wanted).unwrap();
        let path = dir.path().join(name);
        write_sparse(&path, &bytes);
        look(&path).superblocks.remove(0)
    };
    let zfs = told("zfs");
    assert_eq!(zfs.label.as_deref(), Some("tank"));
    assert_eq!(zfs.uuid.as_deref(), Some("1234567890123456789"));
    assert_eq!((zfs.uuid_sub.as_deref(), zfs.version.as_deref()), (Some("42"), Some("5000")));
    let bcachefs = told("bcachefs");
    assert_eq!(bcachefs.label.as_deref(), Some("cached"));
    assert_eq!(bcachefs.uuid.as_deref(), Some("10111213-1415-1617-1819-1a1b1c1d1e1f"));
}

#[test]
fn the_corpus_has_what_its_makers_put_in() {
    let names = |one: &Partition| one.superblocks.iter().map(|s| s.kind.name()).collect::<Vec<_>>();
    let mut seen = 0;
    for image in corpus_images(|_, verdict| verdict == "ok") {
        let Ok(format) = image.format.parse::<Format>() else { continue };
        if !format.is_read() {
            continue;
        }
        let Ok(disk) = OpenOptions::new().format(format).open(&image.path) else { continue };
        // one has a wrong checksum where its first sector should be
        let Ok(found) = contents::look(&disk, &Bounds::default()) else { continue };
        assert!(found.bytes_read <= MIB, "{}", image.name);
        let kinds: Vec<_> = found.superblocks.iter().map(|s| s.kind.name()).collect();
        let parts: Vec<_> = found.partitions.iter().map(names).collect();
        match &*image.name {
            "dfvfs/ext2.qcow2" | "dfvfs/ext2.vhd" | "dfvfs/ext2.vhdx" | "dfvfs/ext2.vmdk" => {
                assert_eq!(kinds, ["ext2"], "{}", image.name);
            }
            "dfvfs/gpt.raw" => assert_eq!(parts, [["ext2"], ["ext4"]]),
            "dfvfs/mbr.raw" => assert_eq!(parts, [vec!["ext2"], vec![], vec!["ext4"]]),
            "dfvfs/fat12.raw" => assert_eq!(kinds, ["vfat"]),
            "dfvfs/iso9660.raw" => assert_eq!(kinds, ["iso9660"]),
            "dfvfs/luks1.raw" => assert_eq!(kinds, ["crypto_LUKS"]),
            "dfvfs/ntfs-fixed.vhdx" => assert_eq!(parts, [["ntfs"]]),
            "DiscUtils/swap.vhdx" => assert_eq!(kinds, ["swap"]),
            _ => continue,
        }
        seen += 1;
    }
    eprintln!("{seen} images of the corpus have what they should");
}

/// A disk with other bytes in one place, which notes what is read of it.
struct Patched<'a> {
    disk: &'a dyn VirtualDisk,
    at: u64,
    bytes: Vec<u8>,
    read: Mutex<Vec<(u64, usize)>>,
}

impl VirtualDisk for Patched<'_> {
    fn size(&self) -> u64 {
        self.disk.size()
    }
    fn cluster_size(&self) -> u64 {
        self.disk.cluster_size()
    }
    fn extent_at(&self, offset: u64, max: u64) -> diskimage::Result<Extent> {
        self.disk.extent_at(offset, max)
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> diskimage::Result<()> {
        self.read.lock().unwrap().push((offset, buf.len()));
        self.disk.read_exact_at(buf, offset)?;
        for (index, &byte) in self.bytes.iter().enumerate() {
            let place = (self.at + index as u64).checked_sub(offset);
            if let Some(slot) = place.and_then(|place| buf.get_mut(place as usize)) {
                *slot = byte;
            }
        }
        Ok(())
    }
    fn storage(&self, _: StorageId) -> Option<&dyn Storage> {
        None
    }
}

#[test]
fn damage_wherever_it_is_read_is_no_trouble() {
    let dir = tempfile::tempdir().unwrap();
    let made = MADE.iter().filter_map(|(name, ..)| make(dir.path(), name));
    let by_hand = by_hand().into_iter().map(|(name, bytes, _)| {
        let path = dir.path().join(name);
        write_sparse(&path, &bytes);
        path
    });
    let mut state = 1u64;
    let mut random = |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for path in made.chain(gpt_disk(dir.path())).chain(by_hand) {
        let disk = OpenOptions::new().format(Format::Raw).open(&path).unwrap();
        let look = |at, bytes| {
            let patched = Patched { disk: &disk, at, bytes, read: Mutex::default() };
            let found = contents::look(&patched, &Bounds::default()).unwrap();
            assert!(found.bytes_read <= MIB, "{}: {at:#x}", path.display());
            let texts = format!("{found:?}");
            assert!(!texts.contains(|c: char| c.is_control()), "{}: {at:#x}", path.display());
            patched.read.into_inner().unwrap()
        };
        let read = look(0, Vec::new());
        for _ in 0..300 {
            let (start, length) = read[random(read.len())];
            let length = length.min(1024);
            let edges = [0u64, 1, 2, 0xff, 0x7fff, 0xffff, 1 << 31, u64::MAX >> 1, u64::MAX];
            let value = edges[random(edges.len())].wrapping_sub(random(2) as u64);
            let bytes = if random(2) == 0 { value.to_le_bytes() } else { value.to_be_bytes() };
            let width = [1, 2, 4, 8][random(4)];
            look(start + random(length) as u64, bytes[..width].to_vec());
        }
    }
}
