//! How do I …? Pages for one purpose each, with code that is run by the tests.
//!
//! This module exists in the documentation only.

#[doc = include_str!("guide/probe.md")]
pub mod probe {}

#[doc = include_str!("guide/convert.md")]
pub mod convert {}

#[doc = include_str!("guide/read.md")]
pub mod read {}

#[doc = include_str!("guide/extents.md")]
pub mod extents {}

#[cfg(feature = "checksum")]
#[doc = include_str!("guide/hash.md")]
pub mod hash {}

#[doc = include_str!("guide/write.md")]
pub mod write {}

#[doc = include_str!("guide/check.md")]
pub mod check {}

#[doc = include_str!("guide/format.md")]
pub mod format {}

#[cfg(feature = "tokio")]
#[doc = include_str!("guide/asynchronous.md")]
pub mod asynchronous {}

#[doc = include_str!("guide/storage.md")]
pub mod storage {}

#[doc = include_str!("guide/untrusted.md")]
pub mod untrusted {}

#[doc = include_str!("../docs/formats.md")]
pub mod formats {}

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub mod readme {}
