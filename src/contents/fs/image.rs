//! What is no file system: kernels and ramdisks. Sources: the kernel's
//! `Documentation/arch/x86/boot.rst`, `arch/arm64/booting.rst` and
//! `driver-api/early-userspace/buffer-format.rst`.

use crate::error::Result;

use super::super::view::View;
use super::{Kind, Superblock, label};

/// A Linux kernel for x86 (bzImage) or arm64.
pub(super) fn kernel(view: &View<'_>) -> Result<Option<Superblock>> {
    let Some(block) = view.block(0, 1024)? else { return Ok(None) };
    if block.has(0x202, b"HdrS") && block.has(510, b"\x55\xaa") {
        let mut found = Superblock::new(Kind::LinuxKernel, 0x202);
        // where its version lies as text, behind the first 512 bytes
        let at = block.le16(0x20e);
        if at != 0
            && let Some(text) = view.block(u64::from(at).saturating_add(512), 128)?
        {
            let words = text.bytes.split(|&byte| byte == b' ').next().unwrap_or_default();
            found.version = label(words);
        }
        found.size = bz_image_size(&block);
        return Ok(Some(found));
    }
    if block.has(0x38, b"ARM\x64") {
        let mut found = Superblock::new(Kind::LinuxKernel, 0x38);
        found.size = Some(block.le64(0x10)).filter(|&size| size != 0);
        return Ok(Some(found));
    }
    Ok(None)
}

/// The boot sectors and the protected-mode code behind them, which is counted in 16 bytes.
fn bz_image_size(block: &super::super::view::Block) -> Option<u64> {
    let sectors = match block.u8(0x1f1) {
        0 => 4u64,
        some => some.into(),
    };
    let real = sectors.saturating_add(1).saturating_mul(512);
    u64::from(block.le32(0x1f4)).checked_mul(16)?.checked_add(real)
}

/// A cpio archive of the "new ASCII" kinds, which early user space comes in.
pub(super) fn cpio(view: &View<'_>) -> Result<Option<Superblock>> {
    let Some(block) = view.block(0, 110)? else { return Ok(None) };
    let known = block.has(0, b"070701") || block.has(0, b"070702");
    // thirteen numbers in hexadecimal follow
    let numbers = block.part(6, 104).iter().all(u8::is_ascii_hexdigit);
    Ok((known && numbers).then(|| Superblock::new(Kind::Cpio, 0)))
}
