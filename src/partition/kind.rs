//! What a table says that a partition is for.

use std::fmt;

/// The type of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A GUID, as its bytes lie in the table.
    Gpt([u8; 16]),
    /// A byte.
    Mbr(u8),
}

/// GUIDs that are met often, as text, and what they are for.
const GUIDS: [(&str, &str); 24] = [
    ("C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "EFI system"),
    ("0FC63DAF-8483-4772-8E79-3D69D8477DE4", "Linux filesystem"),
    ("E6D6D379-F507-44C2-A23C-238F2A3DF928", "Linux LVM"),
    ("0657FD6D-A4AB-43C4-84E5-0933C84B4F4F", "Linux swap"),
    (LINUX_RAID, "Linux RAID"),
    ("933AC7E1-2EB4-4F13-B844-0E14E2AEF915", "Linux home"),
    ("3B8F8425-20E0-4F3B-907F-1A25A76F98E8", "Linux server data"),
    ("4D21B016-B534-45C2-A9FB-5C16E091FD2D", "Linux variable data"),
    ("BC13C2FF-59E6-4262-A352-B275FD6F7172", "Linux extended boot"),
    ("4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", "Linux root (x86-64)"),
    ("44479540-F297-41B2-9AF7-D131D5F0458A", "Linux root (x86)"),
    ("B921B045-1DF0-41C3-AF44-4C6F280D3FAE", "Linux root (ARM-64)"),
    ("8DA63339-0007-60C0-C436-083AC8230908", "Linux reserved"),
    ("CA7D7CCB-63ED-4C53-861C-1742536059CC", "Linux LUKS"),
    ("21686148-6449-6E6F-744E-656564454649", "BIOS boot"),
    ("9E1A2D38-C612-4316-AA26-8B49521E5A8B", "PowerPC PReP boot"),
    ("EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", "Microsoft basic data"),
    ("E3C9E316-0B5C-4DB8-817D-F92DF00215AE", "Microsoft reserved"),
    ("DE94BBA4-06D1-4D40-A16A-BFD50179D6AC", "Windows recovery environment"),
    ("AF9B60A0-1431-4F62-BC68-3311714A69AD", "Microsoft LDM data"),
    ("5808C8AA-7E8F-42E0-85D2-E1E90434CFB3", "Microsoft LDM metadata"),
    ("516E7CB6-6ECF-11D6-8FF8-00022D09712B", "FreeBSD UFS"),
    ("516E7CBA-6ECF-11D6-8FF8-00022D09712B", "FreeBSD ZFS"),
    ("48465300-0000-11AA-AA11-00306543ECAC", "Apple HFS/HFS+"),
];
const LINUX_RAID: &str = "A19D880F-05FC-4D3B-A006-743F0F84911E";

impl Kind {
    /// The byte in front of a GPT.
    pub(super) const PROTECTIVE: u8 = 0xEE;

    /// Whether it only holds logical partitions.
    pub fn is_container(self) -> bool {
        matches!(self, Self::Mbr(0x05 | 0x0F | 0x85))
    }

    /// Whether it is a part of one of Linux' RAIDs.
    pub(super) fn is_raid(self) -> bool {
        match self {
            Self::Gpt(_) => self.to_string() == LINUX_RAID,
            Self::Mbr(byte) => byte == 0xFD,
        }
    }

    /// What it is for, if it is met often.
    pub fn name(self) -> Option<&'static str> {
        let byte = match self {
            Self::Gpt(_) => {
                let text = self.to_string();
                return GUIDS.iter().find(|(guid, _)| *guid == text).map(|(_, name)| *name);
            }
            Self::Mbr(byte) => byte,
        };
        Some(match byte {
            0x01 => "FAT12",
            0x04 | 0x06 | 0x0E => "FAT16",
            0x0B | 0x0C => "FAT32",
            0x07 => "HPFS/NTFS/exFAT",
            0x05 | 0x0F | 0x85 => "Extended",
            0x27 => "Windows recovery environment",
            0x41 => "PowerPC PReP boot",
            0x42 => "Microsoft LDM data",
            0x82 => "Linux swap",
            0x83 => "Linux filesystem",
            0x8E => "Linux LVM",
            0xA5 => "FreeBSD",
            0xA6 => "OpenBSD",
            0xA8 => "Darwin UFS",
            0xA9 => "NetBSD",
            0xAF => "Apple HFS/HFS+",
            0xBF => "Solaris",
            0xE8 => "Linux LUKS",
            0xEA => "Linux extended boot",
            0xEF => "EFI system",
            0xFD => "Linux RAID",
            _ => return None,
        })
    }
}

impl fmt::Display for Kind {
    /// As `sfdisk` writes it: `0FC63DAF-8483-4772-8E79-3D69D8477DE4`, `83`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mbr(byte) => write!(f, "{byte:x}"),
            Self::Gpt(guid) => {
                // The first three groups are little-endian numbers.
                const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
                for (place, at) in ORDER.into_iter().enumerate() {
                    let dash = if matches!(place, 4 | 6 | 8 | 10) { "-" } else { "" };
                    write!(f, "{dash}{:02X}", guid.get(at).copied().unwrap_or(0))?;
                }
                Ok(())
            }
        }
    }
}
