//! The disks in an archive: what each of them is, whether that is what the archive says, and whether
//! they are whole.

use std::collections::HashMap;

use crate::check::Checking;
use crate::container::{Archive, Container, Member, plain};
use crate::error::{Error, ErrorKind, Result};
use crate::finding::{Code, Finding};
use crate::format::Format;
use crate::format::probe::probe;
use crate::open::{Image, OpenOptions};
use crate::text::{printable, printable_str};

/// A disk in an archive, described without decompressing or unpacking anything.
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use diskimage::container::Archive;
/// use diskimage::storage::MemoryStorage;
/// use diskimage::{Format, Limits, OpenOptions, Storage, inside};
///
/// # fn member(name: &str, content: &[u8]) -> Vec<u8> {
/// #     let mut header = [0; 512];
/// #     header[..name.len()].copy_from_slice(name.as_bytes());
/// #     header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
/// #     header[148..156].fill(b' ');
/// #     header[156] = b'0';
/// #     header[257..265].copy_from_slice(b"ustar\x0000");
/// #     let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
/// #     header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
/// #     let padding = vec![0; content.len().next_multiple_of(512) - content.len()];
/// #     [&header[..], content, &padding].concat()
/// # }
/// # let image = {
/// #     use diskimage::{Convert, Target, format::qcow2::Qcow2Options, target::SpillTarget};
/// #     let mut image = Vec::new();
/// #     let target = SpillTarget::new(&mut image, &std::env::temp_dir(), 1 << 20)?;
/// #     Convert::new().create(Box::new(Qcow2Options::new().writer(1 << 30)?), &target)?;
/// #     Box::new(target).finish()?;
/// #     image
/// # };
/// # let tar = [member("disk.qcow2", &image), vec![0; 1024]].concat();
/// # let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(tar));
/// let archive = Archive::read(&storage, Path::new("a.tar"), Format::Tar, &Limits::default())?;
/// let (disks, findings) = inside::disks(&archive, &OpenOptions::new())?;
/// assert_eq!((&disks[0].name[..], disks[0].format), (&b"disk.qcow2"[..], Some(Format::Qcow2)));
/// assert_eq!(disks[0].virtual_size, Some(1 << 30));
/// assert!(disks[0].error.is_none() && findings.is_empty());
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct InnerDisk {
    /// Its name in the archive.
    pub name: Vec<u8>,
    /// What the member is: an image, or something compressed. `None` where that is not known.
    pub format: Option<Format>,
    /// The size of the disk that a guest sees, bytes, where it can be told.
    pub virtual_size: Option<u64>,
    /// What an OVF description says of that.
    pub capacity: Option<u64>,
    /// Why it cannot be described, if so.
    pub error: Option<Error>,
}

/// Describes the disks of `archive`, and tells where they are not what it says. An error is the
/// environment's.
///
/// ```
/// # use std::sync::Arc;
/// # use diskimage::container::Archive;
/// # use diskimage::storage::MemoryStorage;
/// use diskimage::{Code, Format, Limits, OpenOptions, Storage, inside};
///
/// # fn member(name: &str, content: &[u8]) -> Vec<u8> {
/// #     let mut header = [0; 512];
/// #     header[..name.len()].copy_from_slice(name.as_bytes());
/// #     header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
/// #     header[148..156].fill(b' ');
/// #     header[156] = b'0';
/// #     header[257..265].copy_from_slice(b"ustar\x0000");
/// #     let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
/// #     header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
/// #     let padding = vec![0; content.len().next_multiple_of(512) - content.len()];
/// #     [&header[..], content, &padding].concat()
/// # }
/// # let image = {
/// #     use diskimage::{Convert, Target, format::qcow2::Qcow2Options, target::SpillTarget};
/// #     let mut image = Vec::new();
/// #     let target = SpillTarget::new(&mut image, &std::env::temp_dir(), 1 << 20)?;
/// #     Convert::new().create(Box::new(Qcow2Options::new().writer(1 << 30)?), &target)?;
/// #     Box::new(target).finish()?;
/// #     image
/// # };
/// let text = br#"<Envelope>
///   <References><File id="file1" href="web.qcow2"/></References>
///   <DiskSection><Disk diskId="d1" fileRef="file1" capacity="2147483648"/></DiskSection>
/// </Envelope>"#;
/// let tar = [member("web.ovf", text), member("web.qcow2", &image), vec![0; 1024]].concat();
/// # let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(tar));
/// let archive = Archive::read(&storage, "web.ova".as_ref(), Format::Ova, &Limits::default())?;
/// let (disks, findings) = inside::disks(&archive, &OpenOptions::new())?;
/// assert_eq!((disks[0].virtual_size, disks[0].capacity), (Some(1 << 30), Some(2 << 30)));
/// assert_eq!(findings[0].code, Code::SizeMismatch);
/// # Ok::<(), diskimage::Error>(())
/// ```
pub fn disks(archive: &Archive, options: &OpenOptions) -> Result<(Vec<InnerDisk>, Vec<Finding>)> {
    let mut findings = Vec::new();
    let members = match archive.disks() {
        Ok(members) => members,
        Err(error) if error.is_no_damage() => return Err(error),
        // the description speaks of what is not there, and says so itself
        Err(error) if archive.ovf().is_some() && error.kind() != ErrorKind::LimitExceeded => {
            Vec::new()
        }
        Err(error) => {
            findings.push(Finding::new(Code::NotChecked, error.detail().to_string()));
            Vec::new()
        }
    };
    let capacities = if members.is_empty() { HashMap::new() } else { capacities(archive) };
    let mut disks = Vec::new();
    for member in members {
        let capacity = capacities.get(member.plain_name()).copied();
        let mut disk = InnerDisk {
            name: member.name.clone(),
            format: None,
            virtual_size: None,
            capacity,
            error: None,
        };
        let seen = match open(archive, member, options) {
            Ok(Inner::Image(image)) => {
                disk.format = Some(image.layer().format());
                disk.virtual_size = Some(image.layer().size());
                Seen::Disk(image.layer().size())
            }
            Ok(Inner::Container(format)) => {
                disk.format = Some(format);
                Seen::Container
            }
            Ok(Inner::Unknown) => Seen::Unknown,
            Err(error) if error.is_no_damage() => return Err(error),
            Err(error) => Seen::Unreadable(disk.error.insert(error)),
        };
        compare(member, capacity, &seen, &mut findings);
        disks.push(disk);
    }
    Ok((disks, findings))
}

/// What a look at a disk in an archive came to.
pub(crate) enum Seen<'a> {
    /// A disk of this virtual size, bytes.
    Disk(u64),
    /// Something in which a disk may be.
    Container,
    /// No known signature.
    Unknown,
    Unreadable(&'a Error),
}

/// Tells where the disk `member` is not what the archive says; `capacity` is what its description
/// does.
pub(crate) fn compare(
    member: &Member,
    capacity: Option<u64>,
    seen: &Seen<'_>,
    findings: &mut Vec<Finding>,
) {
    let name = printable(&member.name);
    let differs = |size: u64| capacity.filter(|&capacity| capacity != size);
    match seen {
        Seen::Container => {}
        &Seen::Disk(size) => findings.extend(differs(size).map(|capacity| {
            let text = format!(
                "the description says that the disk '{name}' has {capacity} bytes, it has {size}"
            );
            Finding::new(Code::SizeMismatch, text).at(member.header)
        })),
        Seen::Unknown => {
            let text = format!("the disk '{name}' has no known signature; it could be a raw disk");
            findings.push(Finding::new(Code::FormatGuessed, text).at(member.data));
            findings.extend(differs(member.size).map(|capacity| {
                let text = format!(
                    "the description says that the disk '{name}' has {capacity} bytes: \
                     a raw disk it is not, since it has {}",
                    member.size
                );
                Finding::new(Code::SizeMismatch, text).at(member.header)
            }));
        }
        Seen::Unreadable(error) => {
            let text = format!("the disk '{name}' cannot be read: {}", error.detail());
            findings.push(Finding::new(Code::Unreadable, text).at(member.data));
        }
    }
}

/// Tells `checking` what is wrong with `archive` and with each of its disks: what
/// [`Archive::check`] and [`Image::check`] find.
///
/// ```
/// # use std::path::Path;
/// # use std::sync::Arc;
/// # use diskimage::container::Archive;
/// # use diskimage::storage::MemoryStorage;
/// use diskimage::{Checking, Code, Format, Limits, OpenOptions, Storage, inside};
///
/// # fn member(name: &str, content: &[u8]) -> Vec<u8> {
/// #     let mut header = [0; 512];
/// #     header[..name.len()].copy_from_slice(name.as_bytes());
/// #     header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
/// #     header[148..156].fill(b' ');
/// #     header[156] = b'0';
/// #     header[257..265].copy_from_slice(b"ustar\x0000");
/// #     let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
/// #     header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
/// #     let padding = vec![0; content.len().next_multiple_of(512) - content.len()];
/// #     [&header[..], content, &padding].concat()
/// # }
/// # let image = {
/// #     use diskimage::{Convert, Target, format::qcow2::Qcow2Options, target::SpillTarget};
/// #     let mut image = Vec::new();
/// #     let target = SpillTarget::new(&mut image, &std::env::temp_dir(), 1 << 20)?;
/// #     Convert::new().create(Box::new(Qcow2Options::new().writer(1 << 30)?), &target)?;
/// #     Box::new(target).finish()?;
/// #     image
/// # };
/// let mut damaged = image.clone();
/// damaged[0x20000..0x20008].fill(0xff); // its refcounts
/// let tar = [member("good", &image), member("bad", &damaged), vec![0; 1024]].concat();
/// # let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(tar));
/// let archive = Archive::read(&storage, Path::new("a.tar"), Format::Tar, &Limits::default())?;
/// let checking = Checking::new();
/// inside::check(&archive, &OpenOptions::new(), &checking)?;
/// let report = checking.into_report();
/// assert_eq!(report.corruptions, 1);
/// assert_eq!(report.findings[0].code, Code::CheckError);
/// assert!(report.findings[0].message.contains("'bad'"));
/// # Ok::<(), diskimage::Error>(())
/// ```
pub fn check(archive: &Archive, options: &OpenOptions, checking: &Checking) -> Result<()> {
    archive.check(checking)?;
    let (disks, findings) = disks(archive, options)?;
    for finding in findings {
        match finding.code {
            Code::Unreadable => checking.corruption(finding),
            _ => checking.note(finding),
        }
    }
    for disk in disks.iter().filter(|disk| disk.error.is_none()) {
        checking.watcher().check()?;
        let name = printable(&disk.name);
        let note = |text: String| checking.note(Finding::new(Code::NotChecked, text));
        let member = archive.find(&disk.name)?;
        let image = match open(archive, member, options)? {
            Inner::Image(image) => image,
            Inner::Unknown => continue,
            Inner::Container(_) => {
                note(format!("the disk '{name}' is compressed: check it as FILE#MEMBER"));
                continue;
            }
        };
        let within = Checking::new().threads(checking.thread_count()).max_memory(checking.memory());
        match image.check(within) {
            Ok(report) if report.corruptions == 0 && report.check_errors == 0 => {}
            Ok(report) => {
                let first = report.findings.iter().find(|finding| finding.code != Code::CheckError);
                let first =
                    first.map(|finding| format!(": {}", finding.message)).unwrap_or_default();
                let text = format!("the disk '{name}' has errors{}", printable_str(&first));
                let finding = Finding::new(Code::CheckError, text).in_structure("disk");
                checking.corruption(finding.fix("check it as FILE#MEMBER"));
            }
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                note(format!("the disk '{name}': {error}"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

enum Inner {
    Image(Box<Image>),
    Container(Format),
    Unknown,
}

fn open(archive: &Archive, member: &Member, options: &OpenOptions) -> Result<Inner> {
    let (storage, path) = (archive.open(member)?, archive.name_of(member));
    let found = probe(&storage).map_err(|error| error.in_file(&path))?;
    match Container::format_of(&found) {
        None if found.matches.is_empty() => Ok(Inner::Unknown),
        Some(format) => Ok(Inner::Container(format)),
        None => {
            options.open_image_storage(storage, &path).map(|image| Inner::Image(Box::new(image)))
        }
    }
}

/// What the description says of the sizes of disks, by the names of their members.
pub(crate) fn capacities(archive: &Archive) -> HashMap<&[u8], u64> {
    let mut all = HashMap::new();
    let Some(ovf) = archive.ovf() else { return all };
    for disk in &ovf.disks {
        if let (Some(file), Some(capacity)) = (ovf.file_of(disk), disk.capacity) {
            all.entry(plain(file.href.as_bytes())).or_insert(capacity);
        }
    }
    all
}
