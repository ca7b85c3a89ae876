//! The description in an OVA: DSP0243, "Open Virtualization Format Specification" 1.1 (namespaces
//! of 1.x), sections 7.1 (references), 9.1 (disks), 9.8 (operating system), 8.4 (sizes).

use roxmltree::{Document, Node, ParsingOptions};

use super::error::Fault;
use crate::error::{Error, Result};
use crate::num::to_u64;
use crate::text::printable_str;

/// The longest description that is read. Real ones are some ten KiB long.
pub(super) const MAX_SIZE: u64 = 1 << 20;
/// The most elements in it: what bounds the memory.
const MAX_NODES: u32 = 1 << 16;

/// What a description says.
///
/// ```
/// use diskimage::container::Ovf;
///
/// let text = br#"<Envelope>
///   <References><File id="file1" href="web-disk1.vmdk" size="70144"/></References>
///   <DiskSection>
///     <Disk diskId="vmdisk1" fileRef="file1" capacity="10" capacityAllocationUnits="byte * 2^30"/>
///   </DiskSection>
///   <VirtualSystem id="web">
///     <OperatingSystemSection><Description>Debian</Description></OperatingSystemSection>
///   </VirtualSystem>
/// </Envelope>"#;
/// let ovf = Ovf::parse(text)?;
/// assert_eq!((ovf.system.as_deref(), ovf.systems), (Some("web"), 1));
/// assert_eq!(ovf.operating_system.as_deref(), Some("Debian"));
/// let disk = &ovf.disks[0];
/// assert_eq!(disk.capacity, Some(10 << 30));
/// assert_eq!(ovf.file_of(disk).map(|file| &*file.href), Some("web-disk1.vmdk"));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ovf {
    /// `VirtualSystem`: its name, or else its identifier. Of several, the first one's.
    pub system: Option<String>,
    /// How many virtual machines it describes.
    pub systems: usize,
    /// `OperatingSystemSection`: its description.
    pub operating_system: Option<String>,
    /// What the machine starts by, where VMware or VirtualBox say so: `bios` or `efi`.
    pub firmware: Option<String>,
    /// `References`: the files.
    pub files: Vec<OvfFile>,
    /// `DiskSection`: the disks.
    pub disks: Vec<OvfDisk>,
}

/// `File`: a file of the package.
///
/// ```
/// use diskimage::container::Ovf;
///
/// let text = br#"<Envelope><References>
///   <File id="file1" href="web.vmdk" size="70144" compression="gzip" chunkSize="4096"/>
/// </References></Envelope>"#;
/// let file = &Ovf::parse(text)?.files[0];
/// assert_eq!((&*file.id, &*file.href, file.size), ("file1", "web.vmdk", Some(70_144)));
/// assert_eq!(file.compression.as_deref(), Some("gzip"));
/// assert!(file.chunked); // web.vmdk.000000000, web.vmdk.000000001 and so on: not read
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OvfFile {
    /// `id`.
    pub id: String,
    /// `href`: its name.
    pub href: String,
    /// `size`: bytes.
    pub size: Option<u64>,
    /// `compression`, if it is not `identity`.
    pub compression: Option<String>,
    /// Whether it is stored in pieces (`chunkSize`).
    pub chunked: bool,
}

/// `Disk`: a virtual disk.
///
/// ```
/// use diskimage::container::Ovf;
///
/// let text = br#"<Envelope><DiskSection>
///   <Disk diskId="d1" capacity="5368709120"/>
///   <Disk diskId="d2" capacity="${size}" fileRef="file1" parentRef="d1"/>
/// </DiskSection></Envelope>"#;
/// let [empty, child] = &Ovf::parse(text)?.disks[..] else { panic!("two disks") };
/// assert_eq!((&*empty.id, empty.capacity), ("d1", Some(5 << 30)));
/// assert_eq!(empty.file_ref, None);
/// assert_eq!((child.capacity, child.parent_ref.as_deref()), (None, Some("d1")));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OvfDisk {
    /// `diskId`.
    pub id: String,
    /// `fileRef`: the identifier of its file. A disk without one is empty.
    pub file_ref: Option<String>,
    /// `capacity` in its units: bytes. `None` where it is no number.
    pub capacity: Option<u64>,
    /// `format`: an URI.
    pub format: Option<String>,
    /// `parentRef`: the identifier of the disk that it is upon.
    pub parent_ref: Option<String>,
}

impl Ovf {
    /// Reads the text of a description.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let wrong = |why: String| Error::new(Fault::Ovf(why));
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let text = std::str::from_utf8(bytes).map_err(|error| {
            wrong("it is not in UTF-8".to_owned()).at(to_u64(error.valid_up_to()))
        })?;
        // no DTD: entities are how a small file becomes a large one
        let parsing = ParsingOptions { nodes_limit: MAX_NODES, ..ParsingOptions::default() };
        // some fill the file up with blanks or NUL bytes
        let text = text.trim_end_matches(['\0', ' ', '\r', '\n', '\t']);
        let document = Document::parse_with_options(text, parsing)
            .map_err(|error| wrong(printable_str(&error.to_string())))?;
        let root = document.root_element();
        if root.tag_name().name() != "Envelope" {
            return Err(wrong("its root is no Envelope".to_owned()));
        }
        let within = |section: &'static str, name: &'static str| {
            elements(root, section).flat_map(move |node| elements(node, name))
        };
        let mut ovf = Self {
            files: within("References", "File").map(file).collect(),
            disks: within("DiskSection", "Disk").map(disk).collect(),
            ..Self::default()
        };
        ovf.disks.extend(
            // 0.9 has sections by a type
            elements(root, "Section").flat_map(|node| elements(node, "Disk")).map(disk),
        );
        let systems = document
            .descendants()
            .filter(|node| matches!(node.tag_name().name(), "VirtualSystem") && node.is_element());
        for system in systems {
            ovf.systems = ovf.systems.saturating_add(1);
            if ovf.systems == 1 {
                ovf.take_system(system);
            }
        }
        Ok(ovf)
    }

    fn take_system(&mut self, system: Node<'_, '_>) {
        let name = elements(system, "Name").find_map(|node| node.text());
        let name = name.or_else(|| attribute(system, "id")).map(|name| name.trim().to_owned());
        self.system = name.filter(|name| !name.is_empty());
        let section = elements(system, "OperatingSystemSection").next();
        let told = section.and_then(|node| elements(node, "Description").next());
        self.operating_system = told
            .and_then(|node| node.text())
            .or_else(|| attribute(section?, "osType"))
            .map(|text| text.trim().to_owned());
        // VMware's <Config key="firmware" value="efi">, VirtualBox's <Firmware type="EFI">
        self.firmware = system
            .descendants()
            .find_map(|node| match node.tag_name().name() {
                "Config" if attribute(node, "key") == Some("firmware") => attribute(node, "value"),
                "Firmware" => attribute(node, "type"),
                _ => None,
            })
            .map(str::to_ascii_lowercase);
    }

    /// The file of a disk.
    #[must_use]
    pub fn file_of(&self, disk: &OvfDisk) -> Option<&OvfFile> {
        let id = disk.file_ref.as_deref()?;
        self.files.iter().find(|file| file.id == id)
    }
}

fn file(node: Node<'_, '_>) -> OvfFile {
    let text = |name| attribute(node, name).unwrap_or_default().to_owned();
    let compression = attribute(node, "compression").filter(|word| !word.is_empty());
    OvfFile {
        id: text("id"),
        href: text("href"),
        size: attribute(node, "size").and_then(|size| size.trim().parse().ok()),
        compression: compression.filter(|word| *word != "identity").map(str::to_owned),
        chunked: attribute(node, "chunkSize").is_some(),
    }
}

fn disk(node: Node<'_, '_>) -> OvfDisk {
    let text = |name| attribute(node, name).map(str::to_owned);
    let capacity = attribute(node, "capacity").and_then(|number| number.trim().parse::<u64>().ok());
    let unit = attribute(node, "capacityAllocationUnits");
    OvfDisk {
        id: text("diskId").unwrap_or_default(),
        file_ref: text("fileRef"),
        capacity: capacity.and_then(|number| number.checked_mul(unit.map_or(Some(1), bytes_of)?)),
        format: text("format"),
        parent_ref: text("parentRef"),
    }
}

/// A unit of bytes: `byte`, `byte * 2^30`, `byte * 1024 * 1024` (DSP0004, annex C.1), and the words
/// of older descriptions.
fn bytes_of(unit: &str) -> Option<u64> {
    let power = |text: &str| -> Option<u64> {
        match text.split_once('^') {
            Some((base, exponent)) => {
                base.trim().parse::<u64>().ok()?.checked_pow(exponent.trim().parse().ok()?)
            }
            None => text.trim().parse().ok(),
        }
    };
    let mut factors = unit.split('*');
    let first: u64 = match factors.next()?.trim().to_ascii_lowercase().as_str() {
        "byte" | "bytes" => 1,
        "kilobyte" | "kilobytes" => 1 << 10,
        "megabyte" | "megabytes" => 1 << 20,
        "gigabyte" | "gigabytes" => 1 << 30,
        "terabyte" | "terabytes" => 1 << 40,
        _ => return None,
    };
    factors.try_fold(first, |product, factor| product.checked_mul(power(factor)?))
}

fn elements<'a, 'input: 'a>(
    node: Node<'a, 'input>,
    name: &'static str,
) -> impl Iterator<Item = Node<'a, 'input>> {
    node.children().filter(move |child| child.is_element() && child.tag_name().name() == name)
}

/// An attribute, whatever its namespace: writers differ about that.
fn attribute<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    node.attributes().find(|attribute| attribute.name() == name).map(|attribute| attribute.value())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_bytes_or_old_words() {
        for (unit, bytes) in [
            ("byte", Some(1)),
            ("byte * 2^30", Some(1 << 30)),
            ("byte*2^20", Some(1 << 20)),
            ("byte * 1024 * 1024", Some(1 << 20)),
            ("GigaBytes", Some(1 << 30)),
            ("byte * 10^9", Some(1_000_000_000)),
            ("byte * 2^64", None),
            ("sector", None),
            ("byte * x", None),
            ("", None),
        ] {
            assert_eq!(bytes_of(unit), bytes, "{unit}");
        }
    }

    #[test]
    fn a_description_is_read_and_entities_are_refused() {
        let text = r#"<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:vmw="http://www.vmware.com/schema/ovf">
 <References><File ovf:href="a.vmdk" ovf:id="f1" ovf:size="77"/><File href="b.vmdk.gz" id="f2" compression="gzip" chunkSize="10"/></References>
 <DiskSection><Info/><Disk ovf:capacity="8" ovf:capacityAllocationUnits="byte * 2^30" ovf:diskId="d1" ovf:fileRef="f1"/>
 <Disk ovf:capacity="${size}" ovf:diskId="d2" ovf:parentRef="d1"/></DiskSection>
 <VirtualSystem ovf:id="vm"><Name>My machine</Name><OperatingSystemSection><Description>Debian</Description></OperatingSystemSection>
 <VirtualHardwareSection><vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/></VirtualHardwareSection></VirtualSystem>
</Envelope>"#;
        let ovf = Ovf::parse(text.as_bytes()).unwrap();
        assert_eq!(ovf.system.as_deref(), Some("My machine"));
        assert_eq!(ovf.operating_system.as_deref(), Some("Debian"));
        assert_eq!(ovf.firmware.as_deref(), Some("efi"));
        assert_eq!(ovf.disks[0].capacity, Some(8 << 30));
        assert_eq!(ovf.file_of(&ovf.disks[0]).unwrap().size, Some(77));
        assert_eq!((ovf.disks[1].capacity, ovf.disks[1].parent_ref.as_deref()), (None, Some("d1")));
        assert!(ovf.files[1].chunked && ovf.files[1].compression.as_deref() == Some("gzip"));
        let bomb = r#"<!DOCTYPE x [<!ENTITY e "e">]><Envelope>&e;</Envelope>"#;
        assert!(Ovf::parse(bomb.as_bytes()).is_err());
        for bad in ["", "<a/>", "<Envelope>", "\u{0}"] {
            assert!(Ovf::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
