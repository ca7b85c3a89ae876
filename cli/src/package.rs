//! What is written around a disk: Compute Engine's archive, and OVAs.

use std::collections::BTreeMap;
use std::path::Path;

use diskimage::container::{GceOptions, OvaOptions, OvaTarget};
use diskimage::contents::{Bounds, look};
use diskimage::format::vmdk::{Subformat, VmdkOptions};
use diskimage::{Error, ErrorKind, Format, Platform, Result, Target, VirtualDisk, Writer};

use crate::image::{Key, invalid};
use crate::report;
use crate::size::parse_size;
use crate::suggest::{self, did_you_mean, named};

/// What `-O gce` writes: of compressed files it is the only one.
pub(crate) const GCE: Format = Format::Gzip;

pub(crate) const GCE_KEYS: &[Key] = &[("level", "N", "how hard it is compressed: 1 to 12 [6]")];

pub(crate) const OVA_KEYS: &[Key] = &[
    ("name", "TEXT", "the machine's name [that of the file]"),
    ("cpus", "N", "how many processors it has [1]"),
    ("memory", "SIZE", "its memory [1G]"),
    ("firmware", "bios|efi", "what it starts by [efi if the disk can be started by nothing else]"),
    ("hwversion", "N", "the version of VMware's virtual hardware [13]"),
    ("level", "N", "how hard the disk is compressed: 1 to 12 [6]"),
];

/// The name of a format that is written.
pub(crate) fn name_of(format: Format) -> &'static str {
    if format == GCE { "gce" } else { format.name() }
}

/// The format of a name.
pub(crate) fn parse_target(name: &str) -> Result<Format, String> {
    if name.eq_ignore_ascii_case("gce") {
        return Ok(GCE);
    }
    let unknown =
        |error: diskimage::Error| format!("{error}{}", did_you_mean(name, suggest::targets()));
    match name.parse().map_err(unknown)? {
        GCE => {
            Err("a disk in a gzip file is not written; Compute Engine's tar.gz is called gce"
                .into())
        }
        format => Ok(format),
    }
}

/// The platform of a name.
pub(crate) fn parse_platform(name: &str) -> Result<Platform, String> {
    name.parse().map_err(|error: diskimage::Error| {
        let advice = error.advice().unwrap_or_default();
        format!("{error}: {}", suggest::with_guess(name, suggest::platforms(), advice))
    })
}

/// Options of what is written around a disk.
#[derive(Debug, Clone)]
pub(crate) struct Packages {
    gce: GceOptions,
    ova: OvaOptions,
    /// The disk of an OVA.
    disk: VmdkOptions,
    is_named: bool,
    has_firmware: bool,
}

impl Packages {
    pub(crate) fn new(seed: &str, time: u64) -> Self {
        let disk = VmdkOptions::new().subformat(Subformat::StreamOptimized).adapter("lsilogic");
        Self {
            gce: GceOptions::new().time(time),
            ova: OvaOptions::new().time(time),
            disk: disk.seed(seed),
            is_named: false,
            has_firmware: false,
        }
    }

    pub(crate) fn set(
        &mut self,
        format: Format,
        key: &str,
        value: &str,
        wrong: impl Fn(&str) -> Error,
    ) -> Result<()> {
        let number = || value.parse().map_err(|_| wrong("a number"));
        let ova = self.ova.clone();
        self.ova = match (format, key) {
            (GCE, _) => {
                let level = value.parse().map_err(|_| wrong("a number"))?;
                self.gce = self.gce.clone().level(level);
                ova
            }
            (_, "name") => {
                self.is_named = true;
                ova.name(value)
            }
            (_, "cpus") => ova.cpus(number()?),
            (_, "memory") => {
                let bytes = parse_size(value).map_err(|error| wrong("a size").advise(error))?;
                if bytes % (1 << 20) != 0 {
                    return Err(wrong("whole MiB"));
                }
                ova.memory(bytes >> 20)
            }
            (_, "firmware") => {
                self.has_firmware = true;
                match value {
                    "efi" | "uefi" => ova.efi(true),
                    "bios" => ova.efi(false),
                    _ => return Err(wrong("bios or efi")),
                }
            }
            (_, "hwversion") => ova.hardware_version(number()?),
            _ => {
                let level = value.parse().map_err(|_| wrong("a number"))?;
                self.disk = self.disk.clone().level(level);
                ova
            }
        };
        Ok(())
    }

    /// The file that is written.
    pub(crate) fn set_name(&mut self, target: &Path) {
        if let Some(name) = target.file_stem().filter(|name| *name != "-" && !self.is_named) {
            let name: String = name.to_string_lossy().chars().filter(|c| !c.is_control()).collect();
            if !name.trim().is_empty() && name.len() <= 200 {
                self.ova = self.ova.clone().name(name);
            }
        }
    }

    /// What lies on the disk says how a machine starts from it, unless that was said.
    pub(crate) fn look_at(&mut self, format: Format, disk: &dyn VirtualDisk) {
        if format != Format::Ova || self.has_firmware {
            return;
        }
        // what cannot be read shows when it is converted
        if let Ok(contents) = look(disk, &Bounds::default()) {
            let only_uefi = contents.boot.by_uefi() && !contents.boot.by_bios();
            self.ova = self.ova.clone().efi(only_uefi);
        }
    }

    pub(crate) fn writer(&self, format: Format, size: u64) -> Result<Box<dyn Writer>> {
        if format == GCE {
            return Ok(Box::new(self.gce.writer(size)?));
        }
        self.disk.clone().name(self.ova.disk_name()).writer(size)
    }

    /// How many bytes there are around what the writer lays out.
    pub(crate) fn overhead(&self, format: Format) -> u64 {
        if format == Format::Ova { self.ova.overhead() } else { 0 }
    }

    /// Where the disk of `size` bytes goes within `target`.
    pub(crate) fn wrap(
        &self,
        format: Format,
        target: Box<dyn Target>,
        size: u64,
    ) -> Result<Box<dyn Target>> {
        if format != Format::Ova {
            return Ok(target);
        }
        Ok(Box::new(OvaTarget::new(target, &self.ova, size)?))
    }
}

/// Where the image is taken to.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct AimArgs {
    /// Writes what this platform takes: the format, its options, and the disk's size rounded up to
    /// what it must be: openstack, kvm, azure, aws, gce, vsphere, hyperv, virtualbox or proxmox
    #[arg(long = "for", value_name = "PLATFORM", value_parser = named(parse_platform, suggest::platforms), hide_possible_values = true)]
    pub(crate) platform: Option<Platform>,
}

impl AimArgs {
    /// The format to write: what was said, or what suits the platform; raw where nothing says.
    pub(crate) fn aim(self, format: Option<Format>) -> Result<(Option<Aim>, Format)> {
        let aim = self.platform.map(|platform| Aim::new(platform, format)).transpose()?;
        let format = aim.map_or(format, |aim| Some(aim.preset.format));
        Ok((aim, format.unwrap_or(Format::Raw)))
    }
}

/// Where an image is taken to, and how it is written for that.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Aim {
    pub(crate) platform: Platform,
    pub(crate) preset: &'static diskimage::platform::Preset,
}

impl Aim {
    /// How to write for `platform`, in `format` if that is said.
    pub(crate) fn new(platform: Platform, format: Option<Format>) -> Result<Self> {
        match (platform.preset(format), format) {
            (Some(preset), _) => Ok(Self { platform, preset }),
            (None, format) => {
                let names = platform.presets().iter().map(|preset| name_of(preset.format));
                let message = format!(
                    "--for {platform} and the format {} contradict each other: {} takes {}",
                    format.map_or("raw", name_of),
                    platform.title(),
                    names.collect::<Vec<_>>().join(", ")
                );
                Err(invalid(message).advise("leave one of them out"))
            }
        }
    }

    /// Adds the options that suit the platform. An error where others were asked for, and would be
    /// refused there.
    pub(crate) fn settle(&self, options: &mut BTreeMap<String, String>) -> Result<()> {
        let yes = |word: &str| matches!(word, "on" | "yes" | "true" | "y");
        for need in self.preset.options {
            let said = options.entry(need.key.to_owned()).or_insert_with(|| need.value.to_owned());
            if need.must && said != need.value && !(yes(said) && yes(need.value)) {
                return Err(self.contradicted(
                    need.key,
                    said,
                    &format!("{}={}", need.key, need.value),
                ));
            }
        }
        let taken = self.platform.subformats(self.preset.format);
        if let Some(said) = options.get("subformat")
            && !taken.is_empty()
            && !taken.contains(&&**said)
        {
            let wanted = format!("subformat={}", taken.join(" or "));
            return Err(self.contradicted("subformat", said, &wanted));
        }
        match options.get("data_file").filter(|_| !self.platform.takes_others()) {
            None => Ok(()),
            Some(said) => Err(self.contradicted("data_file", said, "whole images")),
        }
    }

    fn contradicted(&self, key: &str, said: &str, wanted: &str) -> Error {
        let (platform, title) = (self.platform, self.platform.title());
        let said = diskimage::text::printable_str(said);
        let message = format!(
            "--for {platform} and -o {key}={said} contradict each other: {title} takes {wanted} only"
        );
        invalid(message).advise("leave one of them out")
    }

    /// The size that a disk is to have there.
    pub(crate) fn size(&self, size: u64) -> Result<u64> {
        let rounded = self.platform.rounded_size(size).ok_or_else(|| {
            let message =
                format!("a disk of {size} bytes is too large for {}", self.platform.title());
            Error::other(ErrorKind::InvalidInput, message)
        })?;
        self.platform.check_size(self.preset.format, rounded)?;
        Ok(rounded)
    }

    /// Tells that a disk of `size` bytes is of another size in `file`.
    pub(crate) fn tell(&self, file: &Path, size: u64, rounded: u64) {
        if rounded != size {
            report::message(&format!(
                "{}: note: the disk grows from {size} to {rounded} bytes, with zeros at its end, to a \
                 size that {} takes",
                report::printable(file),
                self.platform.title()
            ));
        }
    }

    /// Refuses a backing file where only whole images are taken.
    pub(crate) fn refuse_backing(&self) -> Result<()> {
        if self.platform.takes_others() {
            return Ok(());
        }
        let (platform, title) = (self.platform, self.platform.title());
        let message = format!(
            "--for {platform} and a backing file contradict each other: {title} takes whole images only"
        );
        Err(invalid(message).advise("leave one of them out"))
    }
}
