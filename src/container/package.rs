//! Writing an OVA (DSP0243, "Open Virtualization Format Specification" 1.1): a description, a disk as a
//! streamOptimized VMDK, and a manifest of their hashes.
//!
//! The description comes first ("Distribution as a Single File") and tells the size of the
//! disk's file, which is known in the end: room is left for it, and it is written last. The manifest may
//! lie at the end, and does.

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::pack;
use super::tar::BLOCK;
use crate::error::{Error, ErrorKind, Result};
use crate::num::{to_u64, to_usize};
use crate::target::stream::zeros;
use crate::target::{Capabilities, Target};
use crate::text::xml;

/// What an OVA is to say of the machine: a builder.
///
/// ```
/// use diskimage::container::OvaOptions;
///
/// let machine = OvaOptions::new()
///     .name("web server")
///     .cpus(2)
///     .memory(4096)
///     .efi(true)
///     .hardware_version(19)
///     .time(1_700_000_000);
/// assert_eq!(machine.disk_name(), "web_server-disk1.vmdk"); // what names of files may hold
/// assert!((4096..32_768).contains(&machine.overhead())); // besides its disk
/// ```
#[derive(Debug, Clone)]
pub struct OvaOptions {
    name: String,
    cpus: u32,
    memory: u64,
    efi: bool,
    hardware: u32,
    time: u64,
}

impl Default for OvaOptions {
    fn default() -> Self {
        Self { name: "disk".into(), cpus: 1, memory: 1024, efi: false, hardware: 13, time: 0 }
    }
}

/// POSIX's format, which that section asks for: `magic` and `version` of a header.
const USTAR: &[u8; 8] = b"ustar\x0000";
/// The longest name of a machine, bytes.
const MAX_NAME: usize = 200;
/// How much of it goes into names of files: those of POSIX end at 100 bytes.
const MAX_FILE_NAME: usize = 64;

impl OvaOptions {
    /// The default options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The name of the machine, of which those of the files are made. Default: `disk`.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The number of its processors. Default: 1.
    #[must_use]
    pub fn cpus(mut self, count: u32) -> Self {
        self.cpus = count;
        self
    }

    /// Its memory, MiB. Default: 1024.
    #[must_use]
    pub fn memory(mut self, mib: u64) -> Self {
        self.memory = mib;
        self
    }

    /// Whether it starts by UEFI. Default: by BIOS.
    #[must_use]
    pub fn efi(mut self, yes: bool) -> Self {
        self.efi = yes;
        self
    }

    /// The version of VMware's virtual hardware. Default: 13, that of ESXi 6.5.
    #[must_use]
    pub fn hardware_version(mut self, version: u32) -> Self {
        self.hardware = version;
        self
    }

    /// The time of the files, seconds since 1970 began. Default: 0.
    #[must_use]
    pub fn time(mut self, seconds: u64) -> Self {
        self.time = seconds;
        self
    }

    /// What the disk's file is called inside: what its own descriptor should say too.
    #[must_use]
    pub fn disk_name(&self) -> String {
        format!("{}-disk1.vmdk", self.stem())
    }

    /// The name as it stands in names of files: letters, digits, dots, dashes and underscores of ASCII.
    fn stem(&self) -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let stem: String =
            self.name.chars().map(|c| if plain(c) { c } else { '_' }).take(MAX_FILE_NAME).collect();
        // a dash in front is an option for somebody
        if stem.starts_with(['.', '-']) { format!("_{stem}") } else { stem }
    }

    /// How much longer an OVA is than its disk, at most, bytes.
    #[must_use]
    pub fn overhead(&self) -> u64 {
        let (room, _) = self.front(0);
        room.saturating_add(to_u64(BLOCK).saturating_mul(8)).saturating_add(pack::RECORD)
    }

    fn check(&self) -> Result<()> {
        let wrong = |what: String, advice: &'static str| {
            Err(Error::other(ErrorKind::InvalidInput, what).advise(advice))
        };
        let name = crate::text::printable_str(&self.name);
        if self.name.trim().is_empty() || self.name.len() > MAX_NAME {
            return wrong(
                format!("the machine's name is empty, or longer than {MAX_NAME} bytes"),
                "choose another with name",
            );
        }
        if self.name.chars().any(char::is_control) {
            let what = format!("the machine's name '{name}' has control characters in it");
            return wrong(what, "choose another with name");
        }
        if self.cpus == 0 || self.cpus > 4096 {
            let what = format!("a machine of {} processors", self.cpus);
            return wrong(what, "choose from 1 to 4096 with cpus");
        }
        if self.memory == 0 || self.memory > 1 << 30 {
            let what = format!("a machine of {} MiB of memory", self.memory);
            return wrong(what, "choose from 1M to 1024T with memory");
        }
        Ok(())
    }

    /// Where the disk's file begins, and its name's header included; and the description for a disk
    /// of `capacity` bytes without the size of its file.
    fn front(&self, capacity: u64) -> (u64, String) {
        let text = self.description(capacity, None);
        let length = to_u64(text.len());
        let block = to_u64(BLOCK);
        let room = block.saturating_add(length).saturating_add(to_u64(pack::padding(length)));
        (room.saturating_add(block), text)
    }

    /// The description. Whatever the size of the disk's file is, it has the same length.
    fn description(&self, capacity: u64, size: Option<u64>) -> String {
        let size = size.map_or_else(|| "0".to_owned(), |size| size.to_string());
        let (name, file) = (xml(&self.name), self.disk_name());
        let filling = " ".repeat(20usize.saturating_sub(size.len()));
        let firmware = match self.efi {
            true => {
                "      <vmw:Config ovf:required=\"false\" vmw:key=\"firmware\" vmw:value=\"efi\"/>\n"
            }
            false => "",
        };
        let mut items = String::new();
        let mut item = |id: u32, kind: u32, fields: &[(&str, &str)]| {
            let id = id.to_string();
            let kind = kind.to_string();
            // the schema wants them in the order of the alphabet
            let mut fields = fields.to_vec();
            fields.extend([("InstanceID", &*id), ("ResourceType", &*kind)]);
            fields.sort_unstable();
            items.push_str("      <Item>\n");
            for (key, value) in fields {
                let _ = writeln!(items, "        <rasd:{key}>{value}</rasd:{key}>");
            }
            items.push_str("      </Item>\n");
        };
        let cpus = self.cpus.to_string();
        let memory = self.memory.to_string();
        item(
            1,
            3,
            &[
                ("AllocationUnits", "hertz * 10^6"),
                ("ElementName", &format!("{cpus} virtual CPU(s)")),
                ("VirtualQuantity", &cpus),
            ],
        );
        item(
            2,
            4,
            &[
                ("AllocationUnits", "byte * 2^20"),
                ("ElementName", &format!("{memory} MB of memory")),
                ("VirtualQuantity", &memory),
            ],
        );
        item(
            3,
            6,
            &[
                ("Address", "0"),
                ("ElementName", "SCSI Controller 0"),
                ("ResourceSubType", "lsilogic"),
            ],
        );
        item(
            4,
            17,
            &[
                ("AddressOnParent", "0"),
                ("ElementName", "Hard Disk 1"),
                ("HostResource", "ovf:/disk/vmdisk1"),
                ("Parent", "3"),
            ],
        );
        item(
            5,
            10,
            &[
                ("AddressOnParent", "7"),
                ("AutomaticAllocation", "true"),
                ("Connection", "VM Network"),
                ("ElementName", "Ethernet 1"),
                ("ResourceSubType", "E1000"),
            ],
        );
        format!(
            r#"<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData" xmlns:vmw="http://www.vmware.com/schema/ovf">
  <References>
    <File ovf:href="{file}" ovf:id="file1" ovf:size="{size}"{filling}/>
  </References>
  <DiskSection>
    <Info>Virtual disks</Info>
    <Disk ovf:capacity="{capacity}" ovf:capacityAllocationUnits="byte" ovf:diskId="vmdisk1" ovf:fileRef="file1" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
  </DiskSection>
  <NetworkSection>
    <Info>Networks</Info>
    <Network ovf:name="VM Network">
      <Description>The network of the machine</Description>
    </Network>
  </NetworkSection>
  <VirtualSystem ovf:id="{name}">
    <Info>A virtual machine</Info>
    <Name>{name}</Name>
    <OperatingSystemSection ovf:id="102" vmw:osType="otherGuest64">
      <Info>The operating system</Info>
    </OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>Virtual hardware</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>{name}</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-{hardware}</vssd:VirtualSystemType>
      </System>
{items}{firmware}    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
"#,
            hardware = format_args!("{:02}", self.hardware),
        )
    }
}

/// Makes an OVA of the streamOptimized VMDK that is written to it, from its first byte to its last.
///
/// ```
/// use diskimage::container::{Container, OvaOptions, OvaTarget};
/// use diskimage::disk::EmptyDisk;
/// use diskimage::format::vmdk::{Subformat, VmdkOptions};
/// use diskimage::target::FileTarget;
/// use diskimage::{Convert, OpenOptions, Target};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("web.ova");
/// let disk = EmptyDisk(1 << 30);
/// let machine = OvaOptions::new().name("web").cpus(2).memory(4096);
/// let stream = VmdkOptions::new().subformat(Subformat::StreamOptimized).adapter("lsilogic");
/// let writer = stream.name(machine.disk_name()).writer(1 << 30)?;
/// let file = FileTarget::create(&path, 0)?;
/// let target = OvaTarget::new(Box::new(file), &machine, writer.size())?;
/// Convert::new().image(&disk, writer, None, &target)?;
/// Box::new(target).finish()?;
///
/// let Some(Container::Archive(archive)) = OpenOptions::new().open_container(&path)? else {
///     panic!("an archive");
/// };
/// assert_eq!(archive.ovf().and_then(|ovf| ovf.system.as_deref()), Some("web"));
/// assert_eq!(archive.only_disk()?.name, b"web-disk1.vmdk");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct OvaTarget {
    inner: Box<dyn Target>,
    options: OvaOptions,
    capacity: u64,
    /// Where the disk's file begins.
    base: u64,
    state: Mutex<State>,
}

struct State {
    hash: Sha256,
    /// How much of the disk's file is written.
    at: u64,
}

impl std::fmt::Debug for OvaTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OvaTarget").field("options", &self.options).finish_non_exhaustive()
    }
}

impl OvaTarget {
    /// An OVA in `inner`, a new file, for a disk of `capacity` bytes: the size that the VMDK tells. A
    /// target that is written forward only will not do, since the description is written last.
    pub fn new(inner: Box<dyn Target>, options: &OvaOptions, capacity: u64) -> Result<Self> {
        options.check()?;
        if inner.capabilities().ascending {
            let message = "an OVA cannot be written from its start to its end without going back";
            return Err(Error::other(ErrorKind::Unsupported, message).advise("write it to a file"));
        }
        let (base, _) = options.front(capacity);
        let state = Mutex::new(State { hash: Sha256::new(), at: 0 });
        Ok(Self { inner, options: options.clone(), capacity, base, state })
    }

    fn write(
        &self,
        offset: u64,
        length: u64,
        pieces: impl Iterator<Item = impl AsRef<[u8]>>,
        pass_on: impl FnOnce(&dyn Target, u64) -> Result<()>,
    ) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if offset != state.at {
            let message = format!("the disk of an OVA stands at {}, not at {offset}", state.at);
            return Err(Error::other(ErrorKind::InvalidInput, message));
        }
        pass_on(&*self.inner, self.base.saturating_add(offset))?;
        pieces.for_each(|piece| state.hash.update(piece));
        state.at = offset.saturating_add(length);
        Ok(())
    }
}

impl Target for OvaTarget {
    fn capabilities(&self) -> Capabilities {
        Capabilities { ascending: true, fresh_zeros: false }
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.write(offset, to_u64(buf.len()), std::iter::once(buf), |inner, at| {
            inner.write_at(buf, at)
        })
    }

    fn write_zeros(&self, offset: u64, length: u64) -> Result<()> {
        self.write(offset, length, zeros(length), |inner, at| inner.write_zeros(at, length))
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let Self { inner, options, capacity, base, state } = *self;
        let State { hash, at: size } = state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (stem, time) = (options.stem(), options.time);
        let member = |name: &str, content: &str| {
            let mut bytes = pack::header(USTAR, name, to_u64(content.len()), time);
            bytes.extend(content.as_bytes());
            bytes.resize(bytes.len().saturating_add(pack::padding(to_u64(content.len()))), 0);
            bytes
        };
        let text = options.description(capacity, Some(size));
        let (ovf, disk) = (format!("{stem}.ovf"), options.disk_name());
        let mut front = member(&ovf, &text);
        front.extend(pack::header(USTAR, &disk, size, time));
        if to_u64(front.len()) != base {
            let message = "the description of the OVA outgrew its room";
            return Err(Error::other(ErrorKind::Unsupported, message));
        }
        let manifest = format!(
            "SHA256({ovf})= {}\nSHA256({disk})= {}\n",
            hexadecimal(&Sha256::digest(text.as_bytes())),
            hexadecimal(&hash.finalize()),
        );
        let end = base.saturating_add(size);
        let mut back = vec![0; pack::padding(size)];
        back.extend(member(&format!("{stem}.mf"), &manifest));
        let length = pack::whole(end.saturating_add(to_u64(back.len())));
        back.resize(to_usize(length.saturating_sub(end)), 0);
        inner.write_at(&back, end)?;
        inner.write_at(&front, 0)?;
        inner.finish()
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Ovf;
    use crate::target::StreamTarget;

    #[test]
    fn the_description_has_one_length_and_says_what_was_asked_for() {
        let options = OvaOptions::new().name("web <1> & \"co\" é").cpus(3).memory(512).efi(true);
        let texts = [None, Some(0), Some(12_345), Some(u64::MAX)]
            .map(|size| options.description(1 << 40, size));
        assert!(texts.iter().all(|text| text.len() == texts[0].len()));
        let ovf = Ovf::parse(texts[2].as_bytes()).unwrap();
        assert_eq!(ovf.system.as_deref(), Some("web <1> & \"co\" é"));
        assert_eq!(ovf.firmware.as_deref(), Some("efi"));
        assert_eq!((ovf.files[0].size, &*ovf.files[0].href), (Some(12_345), &*options.disk_name()));
        assert_eq!(ovf.disks[0].capacity, Some(1 << 40));
        assert_eq!(ovf.file_of(&ovf.disks[0]), Some(&ovf.files[0]));
        assert_eq!(options.disk_name(), "web__1_____co___-disk1.vmdk");
    }

    #[test]
    fn names_of_files_are_harmless_and_fit_into_a_header() {
        let name = |name: &str| OvaOptions::new().name(name).disk_name();
        assert_eq!(name("-rf"), "_-rf-disk1.vmdk");
        assert_eq!(name("../x"), "_.._x-disk1.vmdk");
        assert!(name(&"long".repeat(40)).len() < 100);
        let target = || {
            Box::new(
                crate::target::SpillTarget::new(std::io::sink(), &std::env::temp_dir(), 1 << 20)
                    .unwrap(),
            )
        };
        for bad in ["", " ", "a\nb"] {
            assert!(
                OvaTarget::new(target(), &OvaOptions::new().name(bad), 512).is_err(),
                "{bad:?}"
            );
        }
        assert!(OvaTarget::new(target(), &OvaOptions::new().cpus(0), 512).is_err());
        assert!(OvaTarget::new(target(), &OvaOptions::new().memory(0), 512).is_err());
        let stream = Box::new(StreamTarget::new(Vec::new()));
        assert!(OvaTarget::new(stream, &OvaOptions::new(), 512).is_err());
        let target = OvaTarget::new(target(), &OvaOptions::new(), 512).unwrap();
        assert!(target.write_at(b"x", 1).is_err(), "only the next byte can be written");
    }
}
