//! What types of partitions are called. Sources: for GUIDs, the UEFI specification, the UAPI group's
//! "Discoverable Partitions Specification", and the vendors' documentation; for bytes, the list of Andries
//! Brouwer ("Partition types").

/// The name of a type of a GPT, a GUID in lower case.
pub(super) fn of_guid(guid: &str) -> Option<&'static str> {
    GUIDS.iter().find(|(known, _)| *known == guid).map(|(_, name)| *name)
}

/// The name of a type of an MBR.
pub(super) fn of_byte(byte: u8) -> Option<&'static str> {
    BYTES.iter().find(|(known, _)| *known == byte).map(|(_, name)| *name)
}

const GUIDS: &[(&str, &str)] = &[
    ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "EFI system"),
    ("21686148-6449-6e6f-744e-656564454649", "BIOS boot"),
    ("024dee41-33e7-11d3-9d69-0008c781f39f", "MBR partition scheme"),
    ("0fc63daf-8483-4772-8e79-3d69d8477de4", "Linux data"),
    ("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", "Linux swap"),
    ("e6d6d379-f507-44c2-a23c-238f2a3df928", "Linux LVM"),
    ("a19d880f-05fc-4d3b-a006-743f0f84911e", "Linux RAID"),
    ("ca7d7ccb-63ed-4c53-861c-1742536059cc", "Linux LUKS"),
    ("bc13c2ff-59e6-4262-a352-b275fd6f7172", "Linux extended boot"),
    ("933ac7e1-2eb4-4f13-b844-0e14e2aef915", "Linux home"),
    ("3b8f8425-20e0-4f3b-907f-1a25a76f98e8", "Linux server data"),
    ("4d21b016-b534-45c2-a9fb-5c16e091fd2d", "Linux variable data"),
    ("7ec6f557-3bc5-4aca-b293-16ef5df639d1", "Linux temporary data"),
    ("8da63339-0007-60c0-c436-083ac8230908", "Linux reserved"),
    ("44479540-f297-41b2-9af7-d131d5f0458a", "Linux root (x86)"),
    ("4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "Linux root (x86-64)"),
    ("69dad710-2ce4-4e3c-b16c-21a1d49abed3", "Linux root (ARM)"),
    ("b921b045-1df0-41c3-af44-4c6f280d3fae", "Linux root (ARM64)"),
    ("72ec70a6-cf74-40e6-bd49-4bda08e8f224", "Linux root (RISC-V 64)"),
    ("77055800-792c-4f94-b39a-98c91b762bb6", "Linux root (LoongArch 64)"),
    ("5eead9a9-fe09-4a1e-a1d7-520d00531306", "Linux root (s390x)"),
    ("c31c45e6-3f39-412e-80fb-4809c4980599", "Linux root (ppc64le)"),
    ("8484680c-9521-48c6-9c11-b0720656f69e", "Linux /usr (x86-64)"),
    ("b0e01050-ee5f-4390-949a-9101b17104e9", "Linux /usr (ARM64)"),
    ("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5", "Linux root verity (x86-64)"),
    ("df3300ce-d69f-4c92-978c-9bfb0f38d820", "Linux root verity (ARM64)"),
    ("77ff5f63-e7b6-4633-acf4-1565b864c0e6", "Linux /usr verity (x86-64)"),
    ("6e11a4e7-fbca-4ded-b9e9-e1a512bb664e", "Linux /usr verity (ARM64)"),
    ("773f91ef-66d4-49b5-bd83-d683bf40ad16", "Linux user home"),
    ("9e1a2d38-c612-4316-aa26-8b49521e5a8b", "PowerPC PReP boot"),
    ("e3c9e316-0b5c-4db8-817d-f92df00215ae", "Microsoft reserved"),
    ("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7", "Microsoft basic data"),
    ("de94bba4-06d1-4d40-a16a-bfd50179d6ac", "Windows recovery"),
    ("5808c8aa-7e8f-42e0-85d2-e1e90434cfb3", "Microsoft LDM metadata"),
    ("af9b60a0-1431-4f62-bc68-3311714a69ad", "Microsoft LDM data"),
    ("e75caf8f-f680-4cee-afa3-b001e56efc2d", "Microsoft Storage Spaces"),
    ("48465300-0000-11aa-aa11-00306543ecac", "Apple HFS+"),
    ("7c3457ef-0000-11aa-aa11-00306543ecac", "Apple APFS"),
    ("53746f72-6167-11aa-aa11-00306543ecac", "Apple Core Storage"),
    ("426f6f74-0000-11aa-aa11-00306543ecac", "Apple boot"),
    ("55465300-0000-11aa-aa11-00306543ecac", "Apple UFS"),
    ("52414944-0000-11aa-aa11-00306543ecac", "Apple RAID"),
    ("6a898cc3-1dd2-11b2-99a6-080020736631", "Solaris /usr or Apple ZFS"),
    ("6a82cb45-1dd2-11b2-99a6-080020736631", "Solaris boot"),
    ("6a85cf4d-1dd2-11b2-99a6-080020736631", "Solaris root"),
    ("83bd6b9d-7f41-11dc-be0b-001560b84f0f", "FreeBSD boot"),
    ("516e7cb4-6ecf-11d6-8ff8-00022d09712b", "FreeBSD disklabel"),
    ("516e7cb5-6ecf-11d6-8ff8-00022d09712b", "FreeBSD swap"),
    ("516e7cb6-6ecf-11d6-8ff8-00022d09712b", "FreeBSD UFS"),
    ("516e7cba-6ecf-11d6-8ff8-00022d09712b", "FreeBSD ZFS"),
    ("824cc7a0-36a8-11e3-890a-952519ad3f61", "OpenBSD data"),
    ("49f48d5a-b10e-11dc-b99b-0019d1879648", "NetBSD FFS"),
    ("fe3a2a5d-4f32-41a7-b725-accc3285a309", "ChromeOS kernel"),
    ("3cb8e202-3b7e-47dd-8a3c-7ff2a13cfcec", "ChromeOS root"),
    ("5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6", "CoreOS /usr"),
    ("c95dc21a-df0e-4340-8d7b-26cbfa9a03e0", "CoreOS OEM"),
    ("aa31e02a-400f-11db-9590-000c2911d1b8", "VMware VMFS"),
    ("9d275380-40ad-11db-bf97-000c2911d1b8", "VMware diagnostic"),
    ("9198effc-31c0-11db-8f78-000c2911d1b8", "VMware reserved"),
];

const BYTES: &[(u8, &str)] = &[
    (0x01, "FAT12"),
    (0x04, "FAT16, small"),
    (0x05, "extended"),
    (0x06, "FAT16"),
    (0x07, "NTFS or exFAT"),
    (0x0b, "FAT32"),
    (0x0c, "FAT32 (LBA)"),
    (0x0e, "FAT16 (LBA)"),
    (0x0f, "extended (LBA)"),
    (0x11, "hidden FAT12"),
    (0x12, "diagnostics"),
    (0x14, "hidden FAT16, small"),
    (0x16, "hidden FAT16"),
    (0x17, "hidden NTFS, or hybrid ISO"),
    (0x1b, "hidden FAT32"),
    (0x1c, "hidden FAT32 (LBA)"),
    (0x1e, "hidden FAT16 (LBA)"),
    (0x27, "Windows recovery"),
    (0x39, "Plan 9"),
    (0x41, "PowerPC PReP boot"),
    (0x42, "Windows dynamic disk"),
    (0x63, "GNU Hurd or System V"),
    (0x82, "Linux swap"),
    (0x83, "Linux"),
    (0x84, "hibernation"),
    (0x85, "Linux extended"),
    (0x8e, "Linux LVM"),
    (0xa0, "hibernation"),
    (0xa5, "FreeBSD"),
    (0xa6, "OpenBSD"),
    (0xa8, "Apple UFS"),
    (0xa9, "NetBSD"),
    (0xab, "Apple boot"),
    (0xaf, "Apple HFS+"),
    (0xbe, "Solaris boot"),
    (0xbf, "Solaris"),
    (0xcd, "hybrid ISO"),
    (0xda, "no file system"),
    (0xde, "Dell utility"),
    (0xea, "Linux extended boot"),
    (0xeb, "BeOS"),
    (0xee, "protective, of a GPT"),
    (0xef, "EFI system"),
    (0xfb, "VMware VMFS"),
    (0xfc, "VMware swap"),
    (0xfd, "Linux RAID"),
];

/// Each type stands once in its list, and each GUID has the form that one is looked up by.
#[cfg(test)]
pub(super) fn check() {
    for (index, (guid, _)) in GUIDS.iter().enumerate() {
        let dashes: Vec<_> = guid.match_indices('-').map(|(at, _)| at).collect();
        assert_eq!((guid.len(), &dashes[..]), (36, &[8, 13, 18, 23][..]), "{guid}");
        assert!(!guid.contains(|c: char| c.is_ascii_uppercase()), "{guid}");
        assert!(GUIDS.iter().skip(index + 1).all(|(other, _)| other != guid), "{guid}");
    }
    assert!(BYTES.is_sorted_by_key(|(byte, _)| *byte));
}
