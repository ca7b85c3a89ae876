//! Clusters of the same content, stored once and referred to several times.

use std::collections::HashMap;

/// Of so many clusters the content is remembered, which takes some 100 MiB; what follows is only
/// compared with these.
const MOST: usize = 1 << 20;

/// What was stored, by the digest of its content.
#[derive(Debug, Default)]
pub(super) struct Shared {
    seen: HashMap<[u8; 32], Stored>,
    /// Guest bytes whose L2 entries say that what they lead to is referred to once, and are wrong; and
    /// what these entries should be.
    twice: Vec<(u64, u64)>,
}

/// A cluster that can be shared.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stored {
    /// The L2 entry of who refers to it first, which does not say that nobody else does.
    pub(super) entry: u64,
    /// Where it lies in the file, and how many bytes it has there.
    pub(super) host: u64,
    pub(super) length: u64,
    /// The first guest byte that it is, if that entry says so at first.
    pub(super) first: Option<u64>,
}

impl Shared {
    /// What has this content and `can_refer` to once more.
    pub(super) fn find(
        &mut self,
        digest: &[u8; 32],
        can_refer: impl FnOnce(&Stored) -> bool,
    ) -> Option<u64> {
        let stored = self.seen.get_mut(digest)?;
        if !can_refer(stored) {
            return None;
        }
        let entry = stored.entry;
        self.twice.extend(stored.first.take().map(|guest| (guest, entry)));
        Some(entry)
    }

    /// Whether more can be remembered.
    pub(super) fn has_room(&self) -> bool {
        self.seen.len() < MOST
    }

    /// Remembers what has this content.
    pub(super) fn remember(&mut self, digest: [u8; 32], stored: Stored) {
        self.seen.insert(digest, stored);
    }

    /// The guest bytes whose entries are to be mended, with those.
    pub(super) fn take_twice(&mut self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.twice)
    }
}
