//! The formats that are written, and their options in qemu-img's words.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use diskimage::format::qcow2::{CompressionType, Qcow2Options};
use diskimage::format::vdi::VdiOptions;
use diskimage::format::vhd::VhdOptions;
use diskimage::format::vhdx::VhdxOptions;
use diskimage::format::vmdk::{Subformat, VmdkOptions};
use diskimage::target::Preallocation;
use diskimage::{
    Chain, Error, ErrorKind, Format, Layer, OpenOptions, Result, Storage, VirtualDisk, Writer,
};

use crate::args::{OpenArgs, Room, argument_bytes};
use crate::package::{self, Aim, GCE, Packages, name_of};
use crate::size::parse_size;
use crate::suggest::{self, named};

/// An option of a format: its name, what it takes, and what it does.
pub(crate) type Key = (&'static str, &'static str, &'static str);

const RAW_KEYS: &[Key] =
    &[("preallocation", "off|falloc|full", "sets room on the medium aside [off]")];

const QCOW2_KEYS: &[Key] = &[
    ("compat", "0.10|1.1", "the version: 2 or 3 [1.1]"),
    ("cluster_size", "SIZE", "512 bytes to 2 MiB, a power of two [64k]"),
    ("compression_type", "zlib|zstd", "how clusters are compressed [zlib]"),
    ("level", "N", "how hard: 1 to 12 for zlib, 1 to 22 for zstd [6, 3]"),
    ("refcount_bits", "N", "1, 2, 4, 8, 16, 32 or 64 [16]"),
    ("lazy_refcounts", "on|off", "allows counts to be late [off]"),
    ("extended_l2", "on|off", "32 subclusters in each cluster [off]"),
    (
        "preallocation",
        "off|metadata|falloc|full",
        "gives every cluster its place; falloc and full set room aside too [off]",
    ),
    (
        "data_file",
        "NAME",
        "puts the data into a file of their own, beside the image; QEMU looks for it in its working \
         directory",
    ),
    ("data_file_raw", "on|off", "that file stays a raw disk by itself [off]"),
    ("backing_file", "FILE", "the file that it differs from, as -B or -b"),
    ("backing_fmt", "FORMAT", "the backing file's format, as -F"),
];

const VHD_KEYS: &[Key] = &[
    ("subformat", "dynamic|fixed", "blocks as they are needed, or the whole disk [dynamic]"),
    ("force_size", "on|off", "the exact size, or rounded up to a geometry of the disk [on]"),
    ("block_size", "SIZE", "64 KiB to 256 MiB, a power of two [2M]"),
];

const VHDX_KEYS: &[Key] = &[
    ("subformat", "dynamic|fixed", "blocks as they are needed, or all from the start [dynamic]"),
    ("block_size", "SIZE", "1 to 256 MiB, a power of two [32M]"),
    ("logical_sector_size", "512|4096", "the sectors that the guest sees [512]"),
    ("physical_sector_size", "512|4096", "the sectors that the medium is said to have [4096]"),
];

const VDI_KEYS: &[Key] = &[("static", "on|off", "all blocks from the start [off]")];

const VMDK_KEYS: &[Key] = &[
    (
        "subformat",
        "monolithicSparse|streamOptimized|monolithicFlat|twoGbMaxExtentFlat|twoGbMaxExtentSparse",
        "the kind of VMDK; the last three are several files [monolithicSparse]",
    ),
    ("adapter_type", "ide|buslogic|lsilogic|legacyESX", "what the disk hangs on [ide]"),
    ("hwversion", "N", "the version of the virtual hardware [4]"),
    ("level", "N", "how hard a stream is compressed: 1 to 12 [6]"),
];

/// The formats that are written.
pub(crate) const WRITTEN: &[Format] = &[
    Format::Raw,
    Format::Qcow2,
    Format::Vmdk,
    Format::Vhd,
    Format::Vhdx,
    Format::Vdi,
    Format::Ova,
    GCE,
];

fn keys(format: Format) -> &'static [Key] {
    match format {
        Format::Qcow2 => QCOW2_KEYS,
        Format::Vhd => VHD_KEYS,
        Format::Vhdx => VHDX_KEYS,
        Format::Vdi => VDI_KEYS,
        Format::Vmdk => VMDK_KEYS,
        Format::Ova => package::OVA_KEYS,
        GCE => package::GCE_KEYS,
        _ => RAW_KEYS,
    }
}

/// How a target is to be written.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct TargetArgs {
    /// Options of the format, with commas between them; `help` lists them
    #[arg(short, long, value_name = "KEY=VALUE,…")]
    pub(crate) options: Vec<String>,
    /// Derives identifiers from this text too, where a format has them; without it, from the content
    #[arg(long, value_name = "TEXT")]
    pub(crate) seed: Option<String>,
    /// Takes this for the backing file's format instead of detecting it
    #[arg(short = 'F', long, value_name = "FORMAT", value_parser = named(crate::args::parse_format, suggest::formats), hide_possible_values = true)]
    pub(crate) backing_format: Option<Format>,
}

impl TargetArgs {
    /// The list of options, if that is asked for.
    pub(crate) fn help(&self, format: Format) -> Option<String> {
        let wanted = self.options.iter().any(|o| matches!(&**o, "help" | "?"));
        wanted.then(|| {
            let mut text = format!("Options of the format {}:\n", name_of(format));
            for (name, takes, what) in keys(format) {
                text.push_str(&format!("  {name}={takes}\n      {what}\n"));
            }
            text
        })
    }

    /// What the options say, for this format, and for where the image is taken to; `backing` is the
    /// backing file, if one was named otherwise.
    pub(crate) fn parse(
        &self,
        aim: Option<&Aim>,
        format: Format,
        backing: Option<&Path>,
    ) -> Result<Spec> {
        if !WRITTEN.contains(&format) {
            let names: Vec<_> = WRITTEN.iter().map(|&format| name_of(format)).collect();
            let message = format!("the format '{format}' is not written yet");
            let advice = format!("choose among {}", names.join(", "));
            let advice = suggest::with_guess(format.name(), suggest::targets(), &advice);
            return Err(Error::other(ErrorKind::Unsupported, message).advise(advice));
        }
        let mut pairs = BTreeMap::new();
        for (key, value) in self.options.iter().flat_map(|options| split(options)) {
            if !keys(format).iter().any(|(name, ..)| *name == key) {
                let names: Vec<_> = keys(format).iter().map(|(name, ..)| *name).collect();
                let message = format!(
                    "the format '{}' has no option '{}'",
                    name_of(format),
                    diskimage::text::printable_str(&key)
                );
                let advice = format!("choose among {}", names.join(", "));
                return Err(invalid(message).advise(suggest::with_guess(&key, names, &advice)));
            }
            pairs.insert(key, value);
        }
        if let Some(aim) = aim {
            aim.settle(&mut pairs)?;
        }
        let seed = self.seed.clone().unwrap_or_default();
        let mut spec = Spec {
            format,
            qcow2: Qcow2Options::new(),
            vhd: VhdOptions::new().seed(seed.clone()).time(source_date()?),
            vhdx: VhdxOptions::new().seed(seed.clone()),
            vdi: VdiOptions::new().seed(seed.clone()),
            packages: Packages::new(&seed, source_date()?),
            vmdk: VmdkOptions::new().seed(seed),
            room: Room::Off,
            backing: backing.map(Path::to_owned),
            backing_format: self.backing_format,
            data_file: (None, false),
        };
        for (key, value) in &pairs {
            spec.set(key, value)?;
        }
        match std::mem::take(&mut spec.data_file) {
            (Some(name), raw) => spec.qcow2 = spec.qcow2.data_file(name, raw),
            (None, true) => {
                return Err(invalid("data_file_raw without a data_file")
                    .advise("name the file with data_file"));
            }
            (None, false) => {}
        }
        spec.check_room()?;
        if spec.backing.is_none() && spec.backing_format.is_some() {
            return Err(invalid("a backing format without a backing file")
                .advise("name the file with backing_file"));
        }
        Ok(spec)
    }
}

/// `a=1,b=2`, where two commas in a row are one of a value.
pub(crate) fn split(options: &str) -> Vec<(String, String)> {
    let mut parts = vec![String::new()];
    let mut chars = options.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ',' if chars.next_if_eq(&',').is_none() => parts.push(String::new()),
            c => parts.last_mut().into_iter().for_each(|part| part.push(c)),
        }
    }
    let pair = |part: &String| match part.split_once('=') {
        Some((key, value)) => (key.trim().to_owned(), value.to_owned()),
        None => (part.trim().to_owned(), "on".to_owned()),
    };
    parts.iter().filter(|part| !part.is_empty()).map(pair).collect()
}

pub(crate) fn invalid(message: impl Into<String>) -> Error {
    Error::other(ErrorKind::InvalidInput, message)
}

/// The most bytes of bitmaps that are copied: those of 32 TiB, a bit for 64 KiB each.
const MAX_BITMAPS: u64 = 64 << 20;

/// A format with its options.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) format: Format,
    qcow2: Qcow2Options,
    vhd: VhdOptions,
    vhdx: VhdxOptions,
    vdi: VdiOptions,
    vmdk: VmdkOptions,
    pub(crate) packages: Packages,
    pub(crate) room: Room,
    /// The backing file, as it was named.
    pub(crate) backing: Option<PathBuf>,
    backing_format: Option<Format>,
    /// The external data file, and whether it is a raw disk.
    data_file: (Option<String>, bool),
}

impl Spec {
    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let wrong = |takes: &str| {
            let value = diskimage::text::printable_str(value);
            invalid(format!("the option {key} is '{value}', which must be {takes}"))
        };
        let flag = || match value {
            "on" | "yes" | "true" | "y" => Ok(true),
            "off" | "no" | "false" | "n" => Ok(false),
            _ => Err(wrong("on or off")),
        };
        let size = || parse_size(value).map_err(|error| wrong("a size").advise(error));
        if matches!(self.format, Format::Vhd | Format::Vhdx | Format::Vdi) {
            let number = || value.parse().map_err(|_| wrong(takes(self.format, key)));
            let fixed = match (key, value) {
                ("static", _) => flag()?,
                ("subformat", "dynamic") => false,
                ("subformat", "fixed") => true,
                ("subformat", _) => return Err(wrong(takes(self.format, key))),
                _ => false,
            };
            let (vhd, vhdx, vdi) = (self.vhd.clone(), self.vhdx.clone(), self.vdi.clone());
            match (self.format, key) {
                (Format::Vhd, "subformat") => self.vhd = vhd.fixed(fixed),
                (Format::Vhd, "force_size") => self.vhd = vhd.by_geometry(!flag()?),
                (Format::Vhd, "block_size") => self.vhd = vhd.block_size(size()?),
                (Format::Vhdx, "subformat") => self.vhdx = vhdx.fixed(fixed),
                (Format::Vhdx, "block_size") => self.vhdx = vhdx.block_size(size()?),
                (Format::Vhdx, "logical_sector_size") => {
                    self.vhdx = vhdx.logical_sector_size(number()?);
                }
                (Format::Vhdx, _) => self.vhdx = vhdx.physical_sector_size(number()?),
                (_, _) => self.vdi = vdi.fixed(fixed),
            }
            return Ok(());
        }
        if self.format == Format::Vmdk {
            let vmdk = self.vmdk.clone();
            let number = || value.parse().map_err(|_| wrong("a number"));
            self.vmdk = match key {
                "subformat" => {
                    let named = Subformat::ALL.iter().find(|kind| kind.name() == value);
                    vmdk.subformat(*named.ok_or_else(|| wrong(takes(self.format, key)))?)
                }
                "adapter_type" => vmdk.adapter(value),
                "hwversion" => vmdk.hardware_version(number()?),
                _ => vmdk.level(value.parse().map_err(|_| wrong("a number"))?),
            };
            return Ok(());
        }
        if matches!(self.format, Format::Ova | GCE) {
            return self.packages.set(self.format, key, value, wrong);
        }
        let qcow2 = self.qcow2.clone();
        self.qcow2 = match key {
            "compat" => match value {
                "0.10" | "v2" => qcow2.version(2),
                "1.1" | "v3" => qcow2.version(3),
                _ => return Err(wrong("0.10 or 1.1")),
            },
            "cluster_size" => qcow2.cluster_size(size()?),
            "compression_type" => match value {
                "zlib" | "deflate" => qcow2.compression_type(CompressionType::Zlib),
                "zstd" => qcow2.compression_type(CompressionType::Zstd),
                _ => return Err(wrong("zlib or zstd")),
            },
            "level" => qcow2.level(value.parse().map_err(|_| wrong("a number"))?),
            "refcount_bits" => {
                qcow2.refcount_bits(value.parse().map_err(|_| wrong("a number of bits"))?)
            }
            "lazy_refcounts" => qcow2.lazy_refcounts(flag()?),
            "extended_l2" => qcow2.extended_l2(flag()?),
            "preallocation" => {
                self.room = match value {
                    "off" => Room::Off,
                    "falloc" => Room::Falloc,
                    "full" => Room::Full,
                    "metadata" if self.format == Format::Qcow2 => Room::Off,
                    _ => return Err(wrong(takes(self.format, key))),
                };
                qcow2.allocate(value != "off")
            }
            "data_file" => {
                self.data_file.0 = Some(value.to_owned());
                qcow2
            }
            "data_file_raw" => {
                self.data_file.1 = flag()?;
                qcow2
            }
            "backing_file" => {
                if self.backing.is_some() {
                    return Err(invalid("two backing files are named"));
                }
                if !value.is_empty() {
                    self.backing = Some(value.into());
                }
                qcow2
            }
            "backing_fmt" => {
                let format: Format = value.parse()?;
                if self.backing_format.is_some_and(|other| other != format) {
                    return Err(invalid("two formats of the backing file are named"));
                }
                self.backing_format = Some(format);
                qcow2
            }
            _ => qcow2,
        };
        Ok(())
    }

    /// Compresses what is written.
    pub(crate) fn compress(&mut self) -> Result<()> {
        let is_compressed = self.format == Format::Vmdk && self.vmdk.is_compressed();
        if is_compressed || matches!(self.format, Format::Ova | GCE) {
            return Ok(());
        }
        if self.format == Format::Vmdk {
            let message = "of VMDKs, only streamOptimized ones are compressed";
            return Err(invalid(message).advise("choose it: -o subformat=streamOptimized"));
        }
        if self.format != Format::Qcow2 {
            let message = format!("the format '{}' has no compression", self.format);
            return Err(invalid(message).advise("leave -c out"));
        }
        self.qcow2 = self.qcow2.clone().compressed(true);
        Ok(())
    }

    /// Stores clusters of the same content once.
    pub(crate) fn dedupe(&mut self) -> Result<()> {
        if self.format != Format::Qcow2 {
            let message = format!("the format '{}' cannot share clusters", self.format);
            return Err(invalid(message).advise("leave --dedupe out, or write a qcow2"));
        }
        self.qcow2 = self.qcow2.clone().dedupe(true);
        Ok(())
    }

    /// Copies the bitmaps of `disk`, or of a snapshot in it, which has none.
    pub(crate) fn bitmaps(
        &mut self,
        disk: &Chain,
        is_snapshot: bool,
        skip_broken: bool,
    ) -> Result<()> {
        let layer = disk.images().first().map(|image| image.layer());
        let source = layer.map_or(Format::Raw, |layer| layer.format());
        for (format, does) in [(self.format, "written"), (source, "read")] {
            if format != Format::Qcow2 {
                let message = format!("the format '{format}', which is {does}, has no bitmaps");
                return Err(invalid(message).advise("leave --bitmaps out"));
            }
        }
        if is_snapshot {
            return Err(invalid("an internal snapshot has no bitmaps of its own")
                .advise("leave --bitmaps out"));
        }
        let bitmaps = layer.map_or(Ok(Vec::new()), |layer| layer.dirty_bitmaps(MAX_BITMAPS))?;
        let (sound, broken): (Vec<_>, _) = bitmaps.into_iter().partition(|b| b.is_consistent);
        if let Some(bitmap) = broken.first().filter(|_| !skip_broken) {
            let name = diskimage::text::printable(&bitmap.name);
            return Err(invalid(format!("the bitmap '{name}' was not saved properly"))
                .advise("leave such ones out with --skip-broken-bitmaps"));
        }
        self.qcow2 = self.qcow2.clone().bitmaps(sound);
        Ok(())
    }

    /// Sets room aside, as `--preallocation` says.
    pub(crate) fn set_room(&mut self, room: Room) -> Result<()> {
        if room == Room::Off {
            return Ok(());
        }
        if !matches!(self.format, Format::Raw | Format::Qcow2) {
            let message =
                format!("room is not set aside for the format '{}'", name_of(self.format));
            return Err(invalid(message).advise("leave preallocation at off"));
        }
        if self.room != Room::Off && self.room != room {
            return Err(invalid("two ways of preallocation are named"));
        }
        self.room = room;
        self.qcow2 = self.qcow2.clone().allocate(true);
        self.check_room()
    }

    fn check_room(&self) -> Result<()> {
        if self.room == Room::Off || !self.qcow2.has_data_file() {
            return Ok(());
        }
        Err(invalid("room is not set aside in an external data file")
            .advise("choose preallocation=metadata, or off"))
    }

    /// The file that is written, whose name some formats repeat.
    pub(crate) fn set_name(&mut self, target: &Path) {
        self.packages.set_name(target);
        if let Some(name) = target.file_name().filter(|name| *name != "-") {
            self.vmdk = self.vmdk.clone().name(name.to_string_lossy());
        }
    }

    /// Opens the backing file, which is named as from the folder of `target`, and sees to it that
    /// the image will name it with its format.
    pub(crate) fn open_backing(
        &mut self,
        target: &Path,
        open: &OpenArgs,
        adjust: impl FnOnce(OpenOptions) -> OpenOptions,
    ) -> Result<Option<Chain>> {
        let Some(name) = self.backing.clone() else { return Ok(None) };
        if !matches!(self.format, Format::Qcow2 | Format::Vmdk | Format::Vhd | Format::Vhdx) {
            let message = format!("the format '{}' has no backing file", name_of(self.format));
            return Err(invalid(message).advise("write a qcow2, vmdk, vpc or vhdx"));
        }
        let path = beside(target, &name);
        let disk = adjust(open.options_as(&path, self.backing_format)?).open(&path)?;
        if let Some(image) = disk.images().first() {
            self.set_parent(&name, image.layer()).map_err(|error| error.in_file(&path))?;
        }
        Ok(Some(disk))
    }

    /// Names the backing file without looking at it.
    pub(crate) fn name_backing(&mut self) -> Result<()> {
        let Some(name) = self.backing.clone() else { return Ok(()) };
        if self.format != Format::Qcow2 {
            let message = format!(
                "the format '{}' knows its backing file by more than its name",
                self.format
            );
            return Err(invalid(message).advise("let it be opened, or write a qcow2"));
        }
        let name = argument_bytes(&name.into_os_string());
        let format = self.backing_format.map(Format::name);
        self.qcow2 = self.qcow2.clone().backing(name, format);
        Ok(())
    }

    /// Names the backing file in these bytes, which are those of another image; it is opened
    /// elsewhere.
    pub(crate) fn over(&mut self, name: &[u8], format: Option<&[u8]>) -> Result<()> {
        let format = format.map(std::str::from_utf8).transpose();
        let format = format.map_err(|_| invalid("the format of the backing file is no text"))?;
        self.qcow2 = self.qcow2.clone().backing(name, format);
        Ok(())
    }

    /// Names the backing file as the format has it.
    fn set_parent(&mut self, name: &Path, parent: &dyn Layer) -> Result<()> {
        if self.format == Format::Qcow2 {
            let name = argument_bytes(&name.as_os_str().to_owned());
            self.qcow2 = self.qcow2.clone().backing(name, Some(parent.format().name()));
            return Ok(());
        }
        let name = name.to_str().ok_or_else(|| {
            let message = format!("its name is no UTF-8 text, as a '{}' needs it", self.format);
            invalid(message).advise("name it otherwise, or write a qcow2")
        })?;
        match self.format {
            Format::Vmdk => self.vmdk = self.vmdk.clone().parent(name, parent)?,
            Format::Vhd => self.vhd = self.vhd.clone().parent(name, parent)?,
            _ => self.vhdx = self.vhdx.clone().parent(name, parent)?,
        }
        Ok(())
    }

    /// What writes a disk of `size` bytes; `None` for a raw disk.
    pub(crate) fn writer(&self, size: u64) -> Result<Option<Box<dyn Writer>>> {
        match self.format {
            Format::Qcow2 => Ok(Some(Box::new(self.qcow2.writer(size)?))),
            Format::Vhd => Ok(Some(Box::new(self.vhd.writer(size)?))),
            Format::Vhdx => Ok(Some(Box::new(self.vhdx.writer(size)?))),
            Format::Vdi => Ok(Some(Box::new(self.vdi.writer(size)?))),
            Format::Vmdk => Ok(Some(self.vmdk.writer(size)?)),
            Format::Ova | GCE => Ok(Some(self.packages.writer(self.format, size)?)),
            _ => Ok(None),
        }
    }

    /// How much room is set aside, and how, of a file that `writer` lays out.
    pub(crate) fn room_of(&self, writer: &dyn Writer) -> Result<(u64, Preallocation)> {
        let how = Preallocation::from(self.room);
        if how == Preallocation::Off {
            return Ok((0, how));
        }
        Ok((writer.file_size(&diskimage::writer::Full)?, how))
    }
}

/// The time that files are to say, by the habit of reproducible builds; else the earliest that they can.
fn source_date() -> Result<u64> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH") else { return Ok(0) };
    let seconds = text.to_str().and_then(|text| text.parse().ok());
    seconds.ok_or_else(|| invalid("SOURCE_DATE_EPOCH is no number of seconds since 1970"))
}

/// What the option takes.
fn takes(format: Format, key: &str) -> &'static str {
    keys(format).iter().find(|(name, ..)| *name == key).map_or("", |(_, takes, _)| takes)
}

/// Where a name in the image `target` leads.
pub(crate) fn beside(target: &Path, name: &Path) -> PathBuf {
    target.parent().unwrap_or(Path::new("")).join(name)
}

/// Refuses a target that is a file which is read.
pub(crate) fn refuse_own_source<'s>(
    target: &diskimage::target::FileTarget,
    path: &Path,
    read: impl IntoIterator<Item = &'s dyn Storage>,
) -> Result<()> {
    let Some(identity) = target.identity() else { return Ok(()) };
    if read.into_iter().any(|storage| storage.lies_in().contains(&identity)) {
        let message = "is the image that is read, or one of its backing files";
        return Err(Error::other(ErrorKind::InvalidInput, message)
            .in_file(path)
            .advise("choose another target"));
    }
    Ok(())
}

/// The virtual size of a backing file, for an image that names none.
pub(crate) fn size_of(backing: Option<&Chain>) -> Option<u64> {
    backing.map(|disk| disk.size())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_split_as_qemu_img_splits_them() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(split("a=1,b"), [pair("a", "1"), pair("b", "on")]);
        assert_eq!(split("f=x,,y=2,b=off"), [pair("f", "x,y=2"), pair("b", "off")]);
        assert_eq!(split(""), []);
    }
}
