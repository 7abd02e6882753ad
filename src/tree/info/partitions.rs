//! What `info.json` tells of the partitions of a disk.

use serde::Serialize;

use crate::partition::{Content, Partition, Partitions, Scheme};
use crate::tree::partitions::file_name;

/// How a disk is divided. Sizes are bytes.
#[derive(Debug, Serialize)]
pub struct PartitionsInfo {
    /// `gpt` or `mbr`; none: the disk has no partition table.
    pub partition_table: Option<&'static str>,
    /// Bytes in a sector, as the table counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sector_size: Option<u64>,
    /// What the disk itself holds, where it has no partition table.
    pub content: Option<&'static str>,
    /// In the order of their numbers.
    pub partitions: Vec<PartitionInfo>,
}

/// A partition.
#[derive(Debug, Serialize)]
pub struct PartitionInfo {
    /// Its number.
    pub number: u16,
    /// Its file beside the disk; none of an extended partition, which only holds logical ones.
    pub file: Option<String>,
    /// Its first byte on the disk.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// GUID or hexadecimal code, as `sfdisk` writes it.
    #[serde(rename = "type")]
    pub partition_type: String,
    /// What that type is for, if it is a well-known one.
    pub type_name: Option<&'static str>,
    /// Its name in a GPT.
    pub label: Option<String>,
    /// What it holds, by a glance at its first bytes.
    pub content: Option<&'static str>,
}

impl PartitionsInfo {
    /// What is known, for `info.json`.
    pub fn new(found: &Partitions) -> Self {
        let scheme = |scheme| match scheme {
            Scheme::Gpt => "gpt",
            Scheme::Mbr => "mbr",
        };
        Self {
            partition_table: found.scheme.map(scheme),
            sector_size: found.scheme.map(|_| found.sector),
            content: found.content.map(Content::name),
            partitions: found.list.iter().map(PartitionInfo::new).collect(),
        }
    }
}

impl PartitionInfo {
    /// What is known of a partition.
    pub fn new(partition: &Partition) -> Self {
        let Partition { number, ref range, kind, ref label, content } = *partition;
        Self {
            number,
            file: (!kind.is_container()).then(|| file_name(number)),
            start: range.start,
            size: range.end - range.start,
            partition_type: kind.to_string(),
            type_name: kind.name(),
            label: label.clone(),
            content: content.map(Content::name),
        }
    }
}
