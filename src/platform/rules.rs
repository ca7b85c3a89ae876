//! The table of all rules, each with where it is written.

use super::Platform;
use crate::format::Format;

/// A page of a platform's documentation.
///
/// ```
/// # use std::{path::Path, sync::Arc};
/// # use diskimage::storage::MemoryStorage;
/// use diskimage::Format;
/// use diskimage::platform::{Lint, Platform};
///
/// # let storage = Arc::new(MemoryStorage::new(vec![0; 1 << 20]));
/// let lint = Lint::new(Platform::Gce).format(Format::Raw);
/// let report = lint.storage(storage, Path::new("disk.raw"))?;
/// let source = report.problems[0].source.expect("where that is written");
/// assert_eq!(source.title, "Compute Engine, Manually import boot disks");
/// assert!(source.url.starts_with("https://cloud.google.com/"));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Source {
    /// What it is called.
    pub title: &'static str,
    /// Where it is.
    pub url: &'static str,
}

/// How to write an image for a platform.
///
/// ```
/// use diskimage::{Format, Platform};
///
/// let preset = Platform::Azure.preset(None).expect("how disks are best written for it");
/// assert_eq!((preset.format, preset.extension), (Format::Vhd, "vhd"));
/// let options = preset.options.iter().map(|need| format!("{}={}", need.key, need.value));
/// assert_eq!(options.collect::<Vec<_>>(), ["subformat=fixed", "force_size=on"]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Preset {
    /// The format. [`Format::Gzip`] stands for Compute Engine's `tar.gz` with one `disk.raw`.
    pub format: Format,
    /// The options, in the words of `diskimage convert -o`.
    pub options: &'static [Need],
    /// How names of such files end, without a dot.
    pub extension: &'static str,
}

/// An option of a [`Preset`].
///
/// ```
/// use diskimage::Platform;
///
/// let preset = Platform::Vsphere.presets().last().expect("a VMDK");
/// let [subformat, adapter] = preset.options else { panic!("two options") };
/// assert_eq!((subformat.key, subformat.value), ("subformat", "streamOptimized"));
/// assert!(subformat.must); // any other is refused
/// assert!(!adapter.must); // another adapter works too
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Need {
    /// Its name.
    pub key: &'static str,
    /// Its value.
    pub value: &'static str,
    /// Whether another value would be refused; if not, it is only what suits most.
    pub must: bool,
}

/// The rules of a platform.
pub(super) struct Rules {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// The formats that it takes, in words.
    pub(super) wanted: &'static str,
    pub(super) takes: &'static [Takes],
    /// Where that is written.
    pub(super) formats: &'static Source,
    pub(super) presets: &'static [Preset],
    /// Virtual sizes are whole numbers of this.
    pub(super) step: Option<(u64, &'static Source)>,
    /// The smallest virtual size.
    pub(super) smallest: Option<(u64, &'static Source)>,
    pub(super) largest: &'static [Largest],
    /// Whether an image may need other files: then it goes there together with them.
    pub(super) others: bool,
}

/// A format that is taken, of these subformats if any are named: in any case of letters.
pub(super) struct Takes {
    pub(super) format: Format,
    pub(super) subformats: &'static [&'static str],
}

/// A bound on the virtual size.
pub(super) struct Largest {
    /// For this format only.
    pub(super) format: Option<Format>,
    pub(super) size: u64,
    /// What is not possible beyond it. `None`: anything.
    pub(super) limits: Option<&'static str>,
    pub(super) source: &'static Source,
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

const fn any(format: Format) -> Takes {
    Takes { format, subformats: &[] }
}

const fn only(format: Format, subformats: &'static [&'static str]) -> Takes {
    Takes { format, subformats }
}

const fn must(key: &'static str, value: &'static str) -> Need {
    Need { key, value, must: true }
}

const fn better(key: &'static str, value: &'static str) -> Need {
    Need { key, value, must: false }
}

const fn plain(format: Format, extension: &'static str) -> Preset {
    Preset { format, options: &[], extension }
}

const RAW: Preset = plain(Format::Raw, "raw");
const QCOW2: Preset = plain(Format::Qcow2, "qcow2");
const VHDX: Preset = plain(Format::Vhdx, "vhdx");
const VHD: Preset = plain(Format::Vhd, "vhd");
const VDI: Preset = plain(Format::Vdi, "vdi");
const VMDK: Preset = plain(Format::Vmdk, "vmdk");
const OVA: Preset = plain(Format::Ova, "ova");
/// A VMDK for a machine that VMware's products are to run.
const STREAM: Preset = Preset {
    format: Format::Vmdk,
    options: &[must("subformat", "streamOptimized"), better("adapter_type", "lsilogic")],
    extension: "vmdk",
};

const GLANCE: Source = Source {
    title: "Glance, Disk and Container Formats",
    url: "https://docs.openstack.org/glance/latest/user/formats.html",
};
pub(super) const INSPECTOR: Source = Source {
    title: "oslo.utils, imageutils.format_inspector; Glance, image_format.vmdk_allowed_types",
    url: "https://docs.openstack.org/oslo.utils/latest/reference/imageutils.html",
};
const QEMU: Source = Source {
    title: "QEMU, Disk Images: disk image file formats",
    url: "https://www.qemu.org/docs/master/system/images.html",
};
pub(super) const LIBVIRT: Source = Source {
    title: "libvirt, Backing chain management",
    url: "https://libvirt.org/kbase/backing_chains.html",
};
const AZURE_LINUX: Source = Source {
    title: "Azure, Prepare Linux for imaging",
    url: "https://learn.microsoft.com/azure/virtual-machines/linux/create-upload-generic",
};
const AZURE_WINDOWS: Source = Source {
    title: "Azure, Prepare a Windows VHD or VHDX to upload to Azure",
    url: "https://learn.microsoft.com/azure/virtual-machines/windows/prepare-for-upload-vhd-image",
};
pub(super) const AZURE_UPLOAD: Source = Source {
    title: "Azure, Disks REST API: CreationData.uploadSizeBytes",
    url: "https://learn.microsoft.com/rest/api/compute/disks/create-or-update",
};
const AWS_FORMATS: Source = Source {
    title: "VM Import/Export User Guide, Requirements: image formats",
    url: "https://docs.aws.amazon.com/vm-import/latest/userguide/prerequisites.html",
};
const AWS_LIMITS: Source = Source {
    title: "VM Import/Export User Guide, Limitations",
    url: "https://docs.aws.amazon.com/vm-import/latest/userguide/limitations-image.html",
};
pub(super) const GCE: Source = Source {
    title: "Compute Engine, Manually import boot disks",
    url: "https://cloud.google.com/compute/docs/import/import-existing-image",
};
const VSPHERE: Source = Source {
    title: "govmomi, import.vmdk and import.ova (pull request 805)",
    url: "https://github.com/vmware/govmomi/pull/805",
};
const HYPER_V: Source = Source {
    title: "Plan for Hyper-V scalability in Windows Server",
    url: "https://learn.microsoft.com/windows-server/virtualization/hyper-v/plan/\
          plan-hyper-v-scalability-in-windows-server",
};
const VIRTUALBOX: Source = Source {
    title: "VirtualBox User Manual, Disk Image Files (VDI, VMDK, VHD, HDD)",
    url: "https://www.virtualbox.org/manual/ch05.html#vdidetails",
};
const PROXMOX: Source = Source {
    title: "Proxmox VE, qm(1): qm disk import",
    url: "https://pve.proxmox.com/pve-docs/qm.1.html",
};
pub(super) const OVF: Source = Source {
    title: "DMTF DSP0243, Open Virtualization Format Specification",
    url: "https://www.dmtf.org/standards/ovf",
};

/// What QEMU opens.
const OF_QEMU: &[Takes] = &[
    any(Format::Raw),
    any(Format::Qcow2),
    any(Format::Qcow),
    any(Format::Qed),
    any(Format::Vmdk),
    any(Format::Vhd),
    any(Format::Vhdx),
    any(Format::Vdi),
    any(Format::Parallels),
    any(Format::Luks),
    any(Format::Dmg),
    any(Format::Cloop),
    any(Format::Bochs),
];

const OPENSTACK_RULES: Rules = Rules {
    name: "openstack",
    title: "OpenStack",
    wanted: "qcow2, raw, VMDK, VHD, VHDX, VDI, ploop and ISO images",
    takes: &[
        any(Format::Qcow2),
        any(Format::Raw),
        any(Format::Vhd),
        any(Format::Vhdx),
        only(Format::Vmdk, &["streamOptimized", "monolithicSparse"]),
        any(Format::Vdi),
        any(Format::Parallels),
    ],
    formats: &GLANCE,
    presets: &[
        QCOW2,
        RAW,
        VHD,
        VHDX,
        Preset {
            format: Format::Vmdk,
            options: &[better("subformat", "monolithicSparse")],
            extension: "vmdk",
        },
        VDI,
    ],
    step: None,
    smallest: None,
    largest: &[],
    others: false,
};

const KVM_RULES: Rules = Rules {
    name: "kvm",
    title: "KVM",
    wanted: "the formats that QEMU opens: qcow2 and raw, and those of other products",
    takes: OF_QEMU,
    formats: &QEMU,
    presets: &[QCOW2, RAW, VMDK, VHD, VHDX, VDI],
    step: None,
    smallest: None,
    largest: &[],
    others: true,
};

const AZURE_RULES: Rules = Rules {
    name: "azure",
    title: "Azure",
    wanted: "fixed VHDs only",
    takes: &[only(Format::Vhd, &["fixed"])],
    formats: &AZURE_LINUX,
    presets: &[Preset {
        format: Format::Vhd,
        options: &[must("subformat", "fixed"), must("force_size", "on")],
        extension: "vhd",
    }],
    step: Some((MIB, &AZURE_LINUX)),
    smallest: Some((20 * MIB, &AZURE_UPLOAD)),
    largest: &[
        Largest { format: None, size: 32 * TIB, limits: None, source: &AZURE_UPLOAD },
        Largest {
            format: None,
            size: 2 * TIB,
            limits: Some("no machine of generation 1 starts from it"),
            source: &AZURE_WINDOWS,
        },
    ],
    others: false,
};

const AWS_RULES: Rules = Rules {
    name: "aws",
    title: "AWS",
    wanted: "raw disks, streamOptimized VMDKs, fixed and dynamic VHDs and VHDXs, and OVAs",
    takes: &[
        any(Format::Raw),
        only(Format::Vmdk, &["streamOptimized"]),
        only(Format::Vhd, &["fixed", "dynamic"]),
        only(Format::Vhdx, &["fixed", "dynamic"]),
        any(Format::Ova),
    ],
    formats: &AWS_FORMATS,
    presets: &[
        STREAM,
        RAW,
        Preset {
            format: Format::Vhd,
            options: &[better("subformat", "dynamic")],
            extension: "vhd",
        },
        Preset {
            format: Format::Vhdx,
            options: &[better("subformat", "dynamic")],
            extension: "vhdx",
        },
        OVA,
    ],
    step: None,
    smallest: None,
    largest: &[
        // less than that, it says
        Largest { format: None, size: 16 * TIB - 1, limits: None, source: &AWS_LIMITS },
        Largest {
            format: None,
            size: 8 * TIB,
            limits: Some("it is imported with a manifest file only"),
            source: &AWS_LIMITS,
        },
    ],
    others: false,
};

const GCE_RULES: Rules = Rules {
    name: "gce",
    title: "Compute Engine",
    wanted: "a tar.gz with a raw disk called 'disk.raw'",
    takes: &[any(Format::Gzip)],
    formats: &GCE,
    presets: &[plain(Format::Gzip, "tar.gz")],
    step: Some((GIB, &GCE)),
    smallest: None,
    largest: &[Largest {
        format: None,
        size: 2048 * GIB,
        limits: Some("no machine starts from it"),
        source: &GCE,
    }],
    others: false,
};

const VSPHERE_RULES: Rules = Rules {
    name: "vsphere",
    title: "vSphere",
    wanted: "streamOptimized VMDKs, alone or in an OVA",
    takes: &[any(Format::Ova), only(Format::Vmdk, &["streamOptimized"])],
    formats: &VSPHERE,
    presets: &[OVA, STREAM],
    step: None,
    smallest: None,
    largest: &[],
    others: false,
};

const HYPER_V_RULES: Rules = Rules {
    name: "hyperv",
    title: "Hyper-V",
    wanted: "VHDXs and VHDs",
    takes: &[any(Format::Vhdx), any(Format::Vhd)],
    formats: &HYPER_V,
    presets: &[VHDX, VHD],
    step: None,
    smallest: None,
    largest: &[
        Largest { format: Some(Format::Vhd), size: 2040 * GIB, limits: None, source: &HYPER_V },
        Largest { format: Some(Format::Vhdx), size: 64 * TIB, limits: None, source: &HYPER_V },
    ],
    others: true,
};

const VIRTUALBOX_RULES: Rules = Rules {
    name: "virtualbox",
    title: "VirtualBox",
    wanted: "VDIs, VMDKs, VHDs, Parallels images of version 2, and OVAs",
    takes: &[
        any(Format::Vdi),
        any(Format::Vmdk),
        any(Format::Vhd),
        any(Format::Parallels),
        any(Format::Ova),
    ],
    formats: &VIRTUALBOX,
    presets: &[VDI, VMDK, VHD, OVA],
    step: None,
    smallest: None,
    largest: &[],
    others: true,
};

const PROXMOX_RULES: Rules = Rules {
    name: "proxmox",
    title: "Proxmox VE",
    wanted: "the formats that qemu-img reads: qcow2, raw, VMDK and others",
    takes: &[
        any(Format::Raw),
        any(Format::Qcow2),
        any(Format::Qcow),
        any(Format::Qed),
        any(Format::Vmdk),
        any(Format::Vhd),
        any(Format::Vhdx),
        any(Format::Vdi),
        any(Format::Parallels),
        any(Format::Dmg),
        any(Format::Cloop),
        any(Format::Bochs),
        any(Format::Ova),
    ],
    formats: &PROXMOX,
    presets: &[QCOW2, RAW, VMDK],
    step: None,
    smallest: None,
    largest: &[],
    others: true,
};

impl Platform {
    pub(super) fn rules(self) -> &'static Rules {
        match self {
            Self::OpenStack => &OPENSTACK_RULES,
            Self::Kvm => &KVM_RULES,
            Self::Azure => &AZURE_RULES,
            Self::Aws => &AWS_RULES,
            Self::Gce => &GCE_RULES,
            Self::Vsphere => &VSPHERE_RULES,
            Self::HyperV => &HYPER_V_RULES,
            Self::VirtualBox => &VIRTUALBOX_RULES,
            Self::Proxmox => &PROXMOX_RULES,
        }
    }
}
