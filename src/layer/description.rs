//! What a format tells of an image beside its content.

use crate::finding::Finding;

/// What an image says of itself.
///
/// ```
/// # use std::sync::Arc;
/// # use diskimage::format::LayerOptions;
/// # use diskimage::format::qcow2::Qcow2Options;
/// # use diskimage::storage::MemoryStorage;
/// # use diskimage::target::StreamTarget;
/// # use diskimage::{Convert, Format, Target};
/// use diskimage::Code;
/// use diskimage::layer::Value;
///
/// # let mut bytes = Vec::new();
/// # let target = StreamTarget::new(&mut bytes);
/// # let options = Qcow2Options::new().extended_l2(true).backing("base.raw", Some("raw"));
/// # Convert::new().create(Box::new(options.writer(1 << 20)?), &target)?;
/// # Box::new(target).finish()?;
/// # let storage = Arc::new(MemoryStorage::new(bytes));
/// let layer = Format::Qcow2.open(storage, &LayerOptions::default())?;
/// let description = layer.describe()?;
/// assert!(!description.encrypted && !description.dirty && description.snapshots.is_empty());
/// assert!(description.details.contains(&("extended-l2", Value::Bool(true))));
/// assert_eq!(description.findings[0].code, Code::BackingFile);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Description {
    /// Whether the guest data are encrypted.
    pub encrypted: bool,
    /// Whether the image was left in the middle of something.
    pub dirty: bool,
    /// The internal snapshots.
    pub snapshots: Vec<Snapshot>,
    /// What only this format has, as ordered keys and values; empty if nothing.
    pub details: Vec<(&'static str, Value)>,
    /// What is odd, dangerous or broken.
    pub findings: Vec<Finding>,
}

/// An internal snapshot.
///
/// ```
/// # use std::path::Path;
/// # use std::sync::Arc;
/// # use diskimage::format::qcow2::Qcow2Options;
/// # use diskimage::storage::MemoryStorage;
/// # use diskimage::target::StreamTarget;
/// # use diskimage::{Convert, Target};
/// use diskimage::text::printable;
/// use diskimage::{OpenOptions, VirtualDisk};
///
/// # let mut bytes = Vec::new();
/// # let target = StreamTarget::new(&mut bytes);
/// # Convert::new().create(Box::new(Qcow2Options::new().writer(1 << 20)?), &target)?;
/// # Box::new(target).finish()?;
/// # // a snapshot of the empty disk: a table entry behind all else, which shares the L1 table
/// # bytes.resize(bytes.len().next_multiple_of(64 << 10), 0);
/// # let table = bytes.len() as u64;
/// # let mut entry = bytes[40..48].to_vec(); // l1_table_offset
/// # entry.extend_from_slice(&bytes[36..40]); // l1_size
/// # entry.extend([0, 1, 0, 9]); // lengths of the ID and of the name
/// # entry.extend(1_700_000_000u32.to_be_bytes()); // date_sec
/// # entry.extend([0; 4 + 8 + 4]); // date_nsec, vm_clock_nsec, vm_state_size
/// # entry.extend(16u32.to_be_bytes()); // extra data: the size of the state, and of the disk
/// # entry.extend([0; 8]);
/// # entry.extend((1u64 << 20).to_be_bytes());
/// # entry.extend(b"1installed\0\0\0\0\0\0\0");
/// # bytes.extend(entry);
/// # bytes[60..64].copy_from_slice(&1u32.to_be_bytes()); // nb_snapshots
/// # bytes[64..72].copy_from_slice(&table.to_be_bytes()); // snapshots_offset
/// # let storage = Arc::new(MemoryStorage::new(bytes));
/// # let path = Path::new("disk.qcow2");
/// let image = OpenOptions::new().open_image_storage(storage.clone(), path)?;
/// let snapshot = &image.layer().describe()?.snapshots[0];
/// assert_eq!(printable(&snapshot.name), "installed");
/// assert_eq!((snapshot.date_sec, snapshot.vm_state_size), (1_700_000_000, 0));
/// // the disk as it was then
/// let disk = OpenOptions::new().snapshot(&*snapshot.id).open_storage(storage, path)?;
/// assert_eq!(disk.size(), snapshot.virtual_size);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The identifier, as bytes.
    pub id: Vec<u8>,
    /// The name, as bytes.
    pub name: Vec<u8>,
    /// The size of the disk then, bytes.
    pub virtual_size: u64,
    /// The size of the saved machine state, bytes; zero if none.
    pub vm_state_size: u64,
    /// When it was taken: seconds since 1970 began, UTC.
    pub date_sec: u32,
    /// And nanoseconds.
    pub date_nsec: u32,
    /// How long the machine had run, nanoseconds.
    pub vm_clock_nsec: u64,
    /// How many instructions it had run, where recorded.
    pub icount: Option<u64>,
}

/// A value of a description: a tree that any output form can show. These are all kinds there will be, so
/// that no form leaves one out.
///
/// ```
/// use diskimage::layer::Value;
/// use diskimage::text::printable_str;
///
/// fn show(value: &Value) -> String {
///     match value {
///         Value::Bool(yes) => yes.to_string(),
///         Value::Number(number) => number.to_string(),
///         Value::Text(text) => printable_str(text),
///         Value::List(values) => values.iter().map(show).collect::<Vec<_>>().join(", "),
///         Value::Map(pairs) => {
///             let pair = |(key, value): &(_, _)| format!("{key}: {}", show(value));
///             pairs.iter().map(pair).collect::<Vec<_>>().join("; ")
///         }
///     }
/// }
///
/// let bitmaps = Value::List(vec!["monday".into(), "tuesday".into()]);
/// let details = Value::Map(vec![("compat", "1.1".into()), ("bitmaps", bitmaps)]);
/// assert_eq!(show(&details), "compat: 1.1; bitmaps: monday, tuesday");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Yes or no.
    Bool(bool),
    /// A number.
    Number(u64),
    /// Text; may hold anything a file says, so make it printable before it meets a terminal.
    Text(String),
    /// Several values.
    List(Vec<Self>),
    /// Named values in order.
    Map(Vec<(&'static str, Self)>),
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Number(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Number(value.into())
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}
