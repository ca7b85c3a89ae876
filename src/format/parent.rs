//! What the writers of differencing images ask of a parent.

use std::borrow::Cow;

use crate::error::{Detail, ErrorKind, Result};
use crate::format::Format;
use crate::layer::{Identity, Layer};

/// The parent of an image that is written: its name in the image, and what it is known by.
#[derive(Debug, Clone)]
pub(super) struct Parent<I> {
    pub(super) name: String,
    pub(super) id: I,
    /// As [`Layer::disk_id`].
    pub(super) disk_id: Option<[u8; 16]>,
    size: u64,
    sector: Option<u64>,
}

#[derive(Debug, thiserror::Error)]
enum ParentDetail {
    #[error("the parent of a {wanted} must be one, too, and this is a {found}")]
    Format { wanted: Format, found: Format },
    #[error("the parent has no {0}, by which its children know it")]
    NoIdentity(&'static str),
    #[error("the parent's disk has {parent} bytes, and that of its child {child}")]
    Size { parent: u64, child: u64 },
    #[error("the parent's sectors have {parent} bytes, and those of its child {child}")]
    Sectors { parent: u64, child: u64 },
    #[error("the parent's name cannot stand in the image: {0}")]
    Name(&'static str),
}

impl Detail for ParentDetail {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidInput
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::Format { .. } => "convert the parent first, or write a qcow2".into(),
            Self::NoIdentity(_) => "convert the parent first".into(),
            Self::Size { .. } => "make them equally large, or write a qcow2".into(),
            Self::Sectors { .. } => "choose the parent's sector size".into(),
            Self::Name(_) => "name it otherwise".into(),
        })
    }
}

impl<I> Parent<I> {
    /// The parent `layer`, which the image is to call `name`, in at most so many UTF-16 units. `id`
    /// finds what it is known by, which is called `what`.
    pub(super) fn new(
        format: Format,
        name: String,
        most: usize,
        layer: &dyn Layer,
        what: &'static str,
        id: impl FnMut(Identity) -> Option<I>,
    ) -> Result<Self> {
        let found = layer.format();
        if found != format {
            return Err(ParentDetail::Format { wanted: format, found }.into());
        }
        let id = layer.identities().into_iter().find_map(id);
        let id = id.ok_or(ParentDetail::NoIdentity(what))?;
        let why = match &*name {
            "" => Some("it is empty"),
            name if name.contains(|c: char| c == '"' || c.is_control()) => {
                Some("it has quotation marks or control characters")
            }
            name if name.encode_utf16().count() > most => Some("it is too long"),
            _ => None,
        };
        if let Some(why) = why {
            return Err(ParentDetail::Name(why).into());
        }
        let (disk_id, size, sector) = (layer.disk_id(), layer.size(), layer.sector_size());
        Ok(Self { name, id, disk_id, size, sector })
    }

    /// Refuses a child of `size` bytes if the parent has more; or fewer, unless a child may `grow`.
    pub(super) fn check_size(&self, size: u64, grow: bool) -> Result<()> {
        if self.size == size || (grow && self.size < size) {
            return Ok(());
        }
        Err(ParentDetail::Size { parent: self.size, child: size }.into())
    }

    /// Refuses a child whose sectors have another size.
    pub(super) fn check_sectors(&self, child: u64) -> Result<()> {
        match self.sector {
            Some(parent) if parent != child => Err(ParentDetail::Sectors { parent, child }.into()),
            _ => Ok(()),
        }
    }

    /// The name as a path of Windows, and whether it starts at a root.
    pub(super) fn windows_name(&self) -> (String, bool) {
        let path = self.name.replace('/', "\\");
        let drive = path.as_bytes().get(1) == Some(&b':');
        if path.starts_with('\\') || drive {
            return (path, true);
        }
        // as Windows has it
        let steps = path.starts_with(".\\") || path.starts_with("..\\");
        (if steps { path } else { format!(".\\{path}") }, false)
    }
}

/// A UUID, unless it is all zeros.
pub(super) fn uuid(identity: Identity) -> Option<[u8; 16]> {
    match identity {
        Identity::Uuid(uuid) if uuid != [0; 16] => Some(uuid),
        _ => None,
    }
}
