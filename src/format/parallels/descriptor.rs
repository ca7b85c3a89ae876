//! `DiskDescriptor.xml`: which files a bundle consists of, and which snapshot is upon which.

use roxmltree::{Document, Node, ParsingOptions};

use crate::error::{Error, Result};
use crate::format::LayerOptions;
use crate::format::fault::{Fault, check_limit};
use crate::num::{to_u64, to_usize};
use crate::storage::{Storage, read_vec};

/// The largest descriptor that is read. Those of real bundles are some KiB long.
const MAX_SIZE: u64 = 1 << 20;
/// The most elements in it: what bounds the memory.
const MAX_NODES: u32 = 1 << 16;
/// The GUID of the current image, where no element `TopGUID` names another one.
const TOP: &str = "{5fbaabe3-6958-40ff-92a7-860e329aab41}";
/// The parent of the snapshot that has none; and what encrypts an image that is not encrypted.
const NONE: &str = "{00000000-0000-0000-0000-000000000000}";

/// What the descriptor says.
///
/// ```
/// use diskimage::format::LayerOptions;
/// use diskimage::format::parallels::Descriptor;
/// use diskimage::storage::MemoryStorage;
///
/// let text = "<Parallels_disk_image Version='1.0'>
///     <Disk_Parameters><Disk_size>2048</Disk_size></Disk_Parameters>
///     <StorageData><Storage><Start>0</Start><End>2048</End><Blocksize>2048</Blocksize>
///     <Image><GUID>{01}</GUID><Type>Compressed</Type><File>base.hds</File></Image>
///     <Image><GUID>{02}</GUID><Type>Compressed</Type><File>now.hds</File></Image>
///     </Storage></StorageData>
///     <Snapshots><TopGUID>{02}</TopGUID>
///     <Shot><GUID>{02}</GUID><ParentGUID>{01}</ParentGUID></Shot>
///     <Shot><GUID>{01}</GUID>
///     <ParentGUID>{00000000-0000-0000-0000-000000000000}</ParentGUID></Shot>
///     </Snapshots></Parallels_disk_image>";
/// let storage = MemoryStorage::new(text.into());
/// let descriptor = Descriptor::read(&storage, &LayerOptions::default())?;
/// assert_eq!((descriptor.disk_size, descriptor.shots.len()), (2048, 2));
/// assert_eq!(descriptor.chain, ["{02}", "{01}"]); // the current image, its parent
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Descriptor {
    /// `Disk_size`: the size of the disk, sectors.
    pub disk_size: u64,
    /// `Storage` elements: each a part of the disk, in its order, without gaps.
    pub storages: Vec<StorageData>,
    /// `Shot` elements: the snapshots.
    pub shots: Vec<Shot>,
    /// The GUIDs of the current image, its parent, and so on.
    pub chain: Vec<String>,
}

/// A part of the disk: `Storage`.
///
/// ```
/// use diskimage::format::LayerOptions;
/// use diskimage::format::parallels::Descriptor;
/// use diskimage::storage::MemoryStorage;
///
/// # let text = "<Parallels_disk_image Version='1.0'>
/// #     <Disk_Parameters><Disk_size>2048</Disk_size></Disk_Parameters>
/// #     <StorageData><Storage><Start>0</Start><End>2048</End><Blocksize>2048</Blocksize>
/// #     <Image><GUID>{01}</GUID><Type>Compressed</Type><File>disk.hds</File></Image>
/// #     </Storage></StorageData></Parallels_disk_image>";
/// # let storage = MemoryStorage::new(text.into());
/// // `storage` holds a DiskDescriptor.xml
/// let descriptor = Descriptor::read(&storage, &LayerOptions::default())?;
/// // of each part of the disk, the file of the current image
/// for part in &descriptor.storages {
///     let file = descriptor.chain.first().and_then(|guid| part.image(guid));
///     let name = file.map(|image| &*image.file);
///     assert_eq!((part.start..part.end, name), (0..2048, Some("disk.hds")));
/// }
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StorageData {
    /// `Start`: its first sector.
    pub start: u64,
    /// `End`: the sector behind its last one.
    pub end: u64,
    /// `Blocksize`: the size of a cluster, sectors.
    pub block_size: u64,
    /// `Image` elements.
    pub images: Vec<Image>,
}

/// A file of a part of the disk: `Image`.
///
/// ```
/// use diskimage::format::LayerOptions;
/// use diskimage::format::parallels::Descriptor;
/// use diskimage::storage::MemoryStorage;
///
/// # let text = "<Parallels_disk_image Version='1.0'>
/// #     <Disk_Parameters><Disk_size>2048</Disk_size></Disk_Parameters>
/// #     <StorageData><Storage><Start>0</Start><End>2048</End><Blocksize>2048</Blocksize>
/// #     <Image><GUID>{0A}</GUID><Type>Compressed</Type><File>disk.hds</File></Image>
/// #     </Storage></StorageData></Parallels_disk_image>";
/// # let storage = MemoryStorage::new(text.into());
/// let descriptor = Descriptor::read(&storage, &LayerOptions::default())?;
/// let image = &descriptor.storages[0].images[0];
/// assert_eq!((&*image.guid, &*image.file), ("{0a}", "disk.hds"));
/// assert!(!image.is_plain); // it has a header and a BAT of its own
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Image {
    /// `GUID`, in lower case.
    pub guid: String,
    /// `Type`: whether it is `Plain`, a raw disk, rather than `Compressed`, an expandable image.
    pub is_plain: bool,
    /// `File`: its name.
    pub file: String,
    /// Where the element lies in the descriptor.
    pub offset: u64,
}

/// A snapshot: `Shot`.
///
/// ```
/// use diskimage::format::LayerOptions;
/// use diskimage::format::parallels::Descriptor;
/// use diskimage::storage::MemoryStorage;
///
/// # let text = "<Parallels_disk_image Version='1.0'>
/// #     <Disk_Parameters><Disk_size>0</Disk_size></Disk_Parameters>
/// #     <StorageData></StorageData><Snapshots>
/// #     <TopGUID>{02}</TopGUID>
/// #     <Shot><GUID>{02}</GUID><ParentGUID>{01}</ParentGUID></Shot>
/// #     <Shot><GUID>{01}</GUID>
/// #     <ParentGUID>{00000000-0000-0000-0000-000000000000}</ParentGUID></Shot>
/// #     </Snapshots></Parallels_disk_image>";
/// # let storage = MemoryStorage::new(text.into());
/// // `storage` holds a DiskDescriptor.xml
/// let descriptor = Descriptor::read(&storage, &LayerOptions::default())?;
/// let [later, first] = &descriptor.shots[..] else { panic!("two snapshots") };
/// assert_eq!(later.parent.as_ref(), Some(&first.guid));
/// assert_eq!(first.parent, None);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shot {
    /// `GUID`, in lower case.
    pub guid: String,
    /// `ParentGUID`, in lower case; `None` for the first one.
    pub parent: Option<String>,
}

impl Descriptor {
    /// Reads and validates it.
    pub fn read(storage: &dyn Storage, options: &LayerOptions) -> Result<Self> {
        check_limit("descriptor", storage.size(), MAX_SIZE)?;
        let bytes = read_vec(storage, "the descriptor", 0, to_usize(storage.size()))?;
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            let text = "the descriptor is not in UTF-8".to_owned();
            Error::new(Fault::Corrupt(text)).at(to_u64(error.valid_up_to()))
        })?;
        // no DTD: entities are how a small file becomes a large one
        let parsing = ParsingOptions { nodes_limit: MAX_NODES, ..ParsingOptions::default() };
        let document = Document::parse_with_options(text, parsing).map_err(|error| {
            let error = crate::text::printable_str(&error.to_string());
            Error::new(Fault::Corrupt(format!("the descriptor is no XML: {error}")))
        })?;
        let root = document.root_element();
        if root.tag_name().name() != "Parallels_disk_image" {
            return Err(Error::new(Fault::NotThis("Parallels")).at(0));
        }
        if root.attribute("Version").is_none_or(|version| version.trim() != "1.0") {
            return unsupported(root, "is a Parallels bundle of another version than 1.0");
        }
        let disk_size = check_parameters(child(root, "Disk_Parameters")?)?;
        let storages: Result<Vec<_>> =
            children(child(root, "StorageData")?, "Storage").map(StorageData::parse).collect();
        let snapshots = children(root, "Snapshots").next();
        let shots: Result<Vec<_>> = snapshots
            .into_iter()
            .flat_map(|node| children(node, "Shot"))
            .map(Shot::parse)
            .collect();
        let mut descriptor =
            Self { disk_size, storages: storages?, shots: shots?, chain: Vec::new() };
        descriptor.check_parts(root)?;
        let top = snapshots.and_then(|node| children(node, "TopGUID").next()).map(guid);
        descriptor.chain = descriptor.find_chain(root, top, options)?;
        Ok(descriptor)
    }

    /// The parts have to tile the disk: one that is missing would shift what follows.
    fn check_parts(&mut self, root: Node<'_, '_>) -> Result<()> {
        self.storages.sort_by_key(|part| part.start);
        let mut next = 0;
        for part in &self.storages {
            if part.start != next || part.end < part.start {
                let (start, end) = (part.start, part.end);
                let text =
                    format!("a part from sector {start} to {end} where one from {next} should be");
                return corrupt(root, &text);
            }
            next = part.end;
        }
        if next != self.disk_size || next.checked_mul(512).is_none_or(|n| i64::try_from(n).is_err())
        {
            let text = format!("the parts end at sector {next}, the disk at {}", self.disk_size);
            return corrupt(root, &text);
        }
        Ok(())
    }

    /// The current image and those below it.
    fn find_chain(
        &self,
        root: Node<'_, '_>,
        top: Option<String>,
        options: &LayerOptions,
    ) -> Result<Vec<String>> {
        let images = || self.storages.iter().flat_map(|part| &part.images);
        let known = |guid: &str| images().any(|image| image.guid == guid);
        let only = || {
            let first = images().next()?;
            images().all(|image| image.guid == first.guid).then(|| first.guid.clone())
        };
        let top = top.or_else(|| known(TOP).then(|| TOP.to_owned())).or_else(only);
        let mut next = top;
        let mut chain = Vec::new();
        while let Some(guid) = next.take() {
            if chain.contains(&guid) {
                return corrupt(root, "the snapshots lead back to one another");
            }
            if chain.len() >= to_usize(options.limits.max_chain.into()) {
                let limit = options.limits.max_chain;
                let text = format!("the chain of snapshots is longer than {limit} images");
                return corrupt(root, &text);
            }
            let shot = self.shots.iter().find(|shot| shot.guid == guid);
            if shot.is_none() && !(self.shots.is_empty() && chain.is_empty()) {
                return corrupt(root, &format!("no snapshot has the GUID {guid}"));
            }
            next = shot.and_then(|shot| shot.parent.clone());
            chain.push(guid);
        }
        if chain.is_empty() && self.disk_size > 0 {
            return corrupt(root, "which image is the current one is not said");
        }
        for part in &self.storages {
            let missing = chain.iter().find(|guid| part.image(guid).is_none());
            if let Some(guid) = missing {
                let text = format!("the part from sector {} has no image {guid}", part.start);
                return corrupt(root, &text);
            }
        }
        Ok(chain)
    }
}

impl StorageData {
    fn parse(node: Node<'_, '_>) -> Result<Self> {
        let images: Result<Vec<_>> = children(node, "Image").map(Image::parse).collect();
        Ok(Self {
            start: number(node, "Start")?,
            end: number(node, "End")?,
            block_size: number(node, "Blocksize")?,
            images: images?,
        })
    }

    /// The image with this GUID.
    ///
    /// ```
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::parallels::Descriptor;
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let text = "<Parallels_disk_image Version='1.0'>
    /// #     <Disk_Parameters><Disk_size>2048</Disk_size></Disk_Parameters>
    /// #     <StorageData><Storage><Start>0</Start><End>2048</End><Blocksize>2048</Blocksize>
    /// #     <Image><GUID>{0A}</GUID><Type>Plain</Type><File>disk.hds</File></Image>
    /// #     </Storage></StorageData></Parallels_disk_image>";
    /// # let storage = MemoryStorage::new(text.into());
    /// // `storage` holds a DiskDescriptor.xml
    /// let descriptor = Descriptor::read(&storage, &LayerOptions::default())?;
    /// let part = &descriptor.storages[0];
    /// assert!(part.image("{0a}").is_some_and(|image| image.is_plain));
    /// assert_eq!(part.image("{0b}"), None);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn image(&self, guid: &str) -> Option<&Image> {
        self.images.iter().find(|image| image.guid == guid)
    }
}

impl Image {
    fn parse(node: Node<'_, '_>) -> Result<Self> {
        let file = text(child(node, "File")?);
        let is_plain = match text(child(node, "Type")?) {
            "Plain" => true,
            "Compressed" => false,
            other => {
                let other = crate::text::printable_str(other);
                return unsupported(
                    node,
                    &format!("an image of the bundle has the type '{other}'"),
                );
            }
        };
        if file.is_empty() || file.contains('\0') {
            return corrupt(node, "an image of the bundle has no file name");
        }
        let (file, offset) = (file.to_owned(), offset(node));
        Ok(Self { guid: guid(child(node, "GUID")?), is_plain, file, offset })
    }
}

impl Shot {
    fn parse(node: Node<'_, '_>) -> Result<Self> {
        let parent = Some(guid(child(node, "ParentGUID")?)).filter(|parent| parent != NONE);
        Ok(Self { guid: guid(child(node, "GUID")?), parent })
    }
}

/// Refuses what changes where data lie; gives the size of the disk in sectors.
fn check_parameters(node: Node<'_, '_>) -> Result<u64> {
    for (name, wanted) in [("Padding", 0), ("LogicSectorSize", 512)] {
        if let Some(node) = children(node, name).next()
            && text(node).parse() != Ok(wanted)
        {
            let value = crate::text::printable_str(text(node));
            return unsupported(node, &format!("{name} is {value}; {wanted} is read"));
        }
    }
    let engine = children(node, "Encryption").next().and_then(|n| children(n, "Engine").next());
    if let Some(engine) = engine.filter(|&engine| !text(engine).is_empty() && guid(engine) != NONE)
    {
        return Err(Error::new(Fault::Encrypted("an engine of Parallels")).at(offset(engine)));
    }
    number(node, "Disk_size")
}

fn children<'a, 'i>(
    node: Node<'a, 'i>,
    name: &'static str,
) -> impl Iterator<Item = Node<'a, 'i>> + use<'a, 'i> {
    node.children().filter(move |child| child.tag_name().name() == name)
}

fn child<'a, 'i>(node: Node<'a, 'i>, name: &'static str) -> Result<Node<'a, 'i>> {
    let Some(child) = children(node, name).next() else {
        return corrupt(node, &format!("the descriptor has no element {name} here"));
    };
    Ok(child)
}

fn text<'a>(node: Node<'a, '_>) -> &'a str {
    node.text().unwrap_or_default().trim()
}

fn guid(node: Node<'_, '_>) -> String {
    crate::text::printable_str(&text(node).to_ascii_lowercase())
}

fn number(node: Node<'_, '_>, name: &'static str) -> Result<u64> {
    let node = child(node, name)?;
    match text(node).parse() {
        Ok(number) => Ok(number),
        Err(_) => corrupt(node, &format!("the element {name} is no number")),
    }
}

fn offset(node: Node<'_, '_>) -> u64 {
    to_u64(node.range().start)
}

fn corrupt<T>(node: Node<'_, '_>, text: &str) -> Result<T> {
    Err(Error::new(Fault::Corrupt(text.to_owned())).at(offset(node)))
}

fn unsupported<T>(node: Node<'_, '_>, text: &str) -> Result<T> {
    Err(Error::new(Fault::Unsupported(text.to_owned())).at(offset(node)))
}
