//! What a disk or a partition holds, by the signatures in its first bytes. Nothing more is looked
//! at: what is named so may be damaged all the same.

use std::ops::Range;

use super::kind::Kind;
use super::reader::{Reader, u32_at};

/// Most signatures are in the first page, or begin the second one.
const HEAD: u64 = 4096 + 512;
/// Where btrfs and images of CDs have theirs, and swap space of machines with large pages.
const FURTHER: Range<u64> = 65536 - 10..65536 + 64 + 8;
const CD: u64 = 32768;
/// The superblock of Linux' RAID.
const RAID: u32 = 0xa92b_4efc;

/// Something that a disk or a partition can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is what it is called")]
pub enum Content {
    Ext2,
    Ext3,
    Ext4,
    Xfs,
    Btrfs,
    F2fs,
    Ntfs,
    Fat,
    ExFat,
    BitLocker,
    Squashfs,
    Iso9660,
    Swap,
    Lvm,
    Luks,
    MdRaid,
}

impl Content {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext2 => "ext2",
            Self::Ext3 => "ext3",
            Self::Ext4 => "ext4",
            Self::Xfs => "XFS",
            Self::Btrfs => "btrfs",
            Self::F2fs => "F2FS",
            Self::Ntfs => "NTFS",
            Self::Fat => "FAT",
            Self::ExFat => "exFAT",
            Self::BitLocker => "BitLocker",
            Self::Squashfs => "squashfs",
            Self::Iso9660 => "ISO 9660",
            Self::Swap => "swap",
            Self::Lvm => "LVM2 PV",
            Self::Luks => "LUKS",
            Self::MdRaid => "mdraid",
        }
    }
}

/// Whether a sector is the first one of a file system which ends like one with a partition table.
pub(super) fn is_boot_sector(sector: &[u8]) -> bool {
    use Content::{BitLocker, ExFat, Fat, Ntfs};
    matches!(in_head(sector), Some(Ntfs | Fat | ExFat | BitLocker))
}

/// What a part of the disk holds; none if that is not known, or cannot be read. `kind` is what the
/// table says of it.
pub(super) fn glance(
    disk: &mut Reader<'_>,
    range: &Range<u64>,
    kind: Option<Kind>,
) -> Option<Content> {
    let mut read = |at: u64, len: u64| {
        let start = range.start.checked_add(at).filter(|start| *start < range.end)?;
        disk.read(start, len.min(range.end - start)).ok()
    };
    let head = read(0, HEAD)?;
    if let Some(found) = in_head(&head) {
        return Some(found);
    }
    let further = read(FURTHER.start, FURTHER.end - FURTHER.start).unwrap_or_default();
    if has(&further, 10 + 64, b"_BHRfS_M") {
        return Some(Content::Btrfs);
    }
    if has(&further, 0, b"SWAPSPACE2") {
        return Some(Content::Swap);
    }
    if read(CD, 6).is_some_and(|cd| has(&cd, 1, b"CD001")) {
        return Some(Content::Iso9660);
    }
    // Two versions of it are at the end, where nobody looks for anything else.
    let size = range.end - range.start;
    let places =
        [(size / 4096 * 4096).checked_sub(8192), (size / 65536 * 65536).checked_sub(65536)];
    let places = places.into_iter().flatten().filter(|_| kind.is_some_and(Kind::is_raid));
    for place in places {
        if read(place, 4).is_some_and(|bytes| u32_at(&bytes, 0) == Some(RAID)) {
            return Some(Content::MdRaid);
        }
    }
    None
}

fn in_head(head: &[u8]) -> Option<Content> {
    let signatures: [(usize, &[u8], Content); 9] = [
        (0, b"LUKS\xba\xbe", Content::Luks),
        (0, b"XFSB", Content::Xfs),
        (0, b"hsqs", Content::Squashfs),
        (3, b"NTFS    ", Content::Ntfs),
        (3, b"EXFAT   ", Content::ExFat),
        (3, b"-FVE-FS-", Content::BitLocker),
        (1024, b"\x10\x20\xf5\xf2", Content::F2fs),
        (4086, b"SWAPSPACE2", Content::Swap),
        (4086, b"SWAP-SPACE", Content::Swap),
    ];
    // Whatever lies within a volume of these is theirs.
    if (0..4).any(|sector| has(head, sector * 512, b"LABELONE")) {
        return Some(Content::Lvm);
    }
    if [0, 4096].into_iter().any(|at| u32_at(head, at) == Some(RAID)) {
        return Some(Content::MdRaid);
    }
    let found = signatures.into_iter().find(|(at, signature, _)| has(head, *at, signature));
    let fat = || {
        let is_fat =
            has(head, 82, b"FAT32   ") || has(head, 54, b"FAT16   ") || has(head, 54, b"FAT12   ");
        (is_fat && has(head, 510, b"\x55\xaa")).then_some(Content::Fat)
    };
    found.map(|(_, _, content)| content).or_else(|| ext(head)).or_else(fat)
}

/// The file systems of Linux that share a superblock, told apart by what they need.
fn ext(head: &[u8]) -> Option<Content> {
    const SUPERBLOCK: usize = 1024;
    const HAS_JOURNAL: u32 = 4;
    /// Extents, 64 bits, flexible groups, inline data, checksums' seed, encryption and so on.
    const ONLY_EXT4: u32 =
        0x40 | 0x80 | 0x200 | 0x400 | 0x1000 | 0x2000 | 0x4000 | 0x8000 | 0x1_0000;
    if !has(head, SUPERBLOCK + 56, b"\x53\xef") {
        return None;
    }
    let (compatible, incompatible) =
        (u32_at(head, SUPERBLOCK + 0x5c)?, u32_at(head, SUPERBLOCK + 0x60)?);
    Some(if incompatible & ONLY_EXT4 != 0 {
        Content::Ext4
    } else if compatible & HAS_JOURNAL != 0 {
        Content::Ext3
    } else {
        Content::Ext2
    })
}

fn has(bytes: &[u8], at: usize, signature: &[u8]) -> bool {
    bytes.get(at..).is_some_and(|rest| rest.starts_with(signature))
}
