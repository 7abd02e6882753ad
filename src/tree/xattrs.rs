//! The extended attributes of disks and partitions: what `info.json` says, one thing each, for
//! programs that do not read JSON. Where there is no disk, `error.txt` has them.
//!
//! They are with these files alone, and not with the folder that they lie in: the kernel lets
//! everybody ask for names of attributes who may come to a file, and those files are to be reached,
//! as they are to be read, by those who may read all that they tell of. And programs that list a
//! folder ask for names (`ls -l` does, to see whether there is an ACL), so that of a disk in whose
//! folder nobody looks nothing is read for them. For the same reason names are told without going
//! through the chain below.

use std::fmt::Write;

use super::info::{InfoFile, LinkInfo, LossInfo, PartitionInfo, PartitionsInfo};
use super::names::printable;
use super::{Body, Ino, Tree};
use crate::chain::catalog::CheckpointId;

/// What all names begin with.
pub const PREFIX: &str = "user.qcowfs.";
/// The longest value that the kernel hands out (`XATTR_SIZE_MAX`); bytes.
const LONGEST: usize = 64 << 10;
/// Room for the line that counts what is left out.
const COUNT: usize = 32;
/// Those with a line for each file of the chain, or several: for who asks by name.
const LISTS: [&str; 3] = ["chain", "evidence", "warnings"];

impl Tree {
    /// The value of an extended attribute, whose name is given without [`PREFIX`]; none where there
    /// is none of that name. At most 64 KiB.
    pub fn xattr(&self, ino: Ino, name: &str) -> Option<String> {
        let (id, partition) = self.told_of(ino)?;
        if LISTS.contains(&name) {
            // The lists are those of the disk, but a partition that is gone has none.
            if partition > 0 {
                Told::of(&self.alone(id), partition)?;
            }
            let file = InfoFile::new(&self.catalog, &self.plan, id, &self.images);
            return Some(list(&file, name)).filter(|value| !value.is_empty());
        }
        let told = Told::of(&self.alone(id), partition)?;
        told.0.into_iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// The names of the extended attributes of a node, without [`PREFIX`]. Not those of [`LISTS`]:
    /// programs that copy attributes take what is listed, and the file systems that they copy to
    /// have room for a few KiB (ext4: 4 KiB for all of them).
    pub fn xattr_names(&self, ino: Ino) -> Vec<&'static str> {
        let told = self.told_of(ino);
        let told = told.and_then(|(id, partition)| Told::of(&self.alone(id), partition));
        told.map_or_else(Vec::new, |told| told.0.into_iter().map(|(name, _)| name).collect())
    }

    /// The restore point that a file belongs to, and as which partition of its disk; 0: as none.
    fn told_of(&self, ino: Ino) -> Option<(CheckpointId, u16)> {
        let (owner, partition) = ino.split();
        match self.nodes.get(&owner)?.body {
            Body::Image(id, _) | Body::Error(id) => Some((id, partition)),
            _ => None,
        }
    }

    fn alone(&self, id: CheckpointId) -> InfoFile {
        InfoFile::alone(&self.catalog, &self.plan, id, &self.images)
    }
}

/// The attributes that are no lists: names and values.
struct Told(Vec<(&'static str, String)>);

impl Told {
    /// Those of a partition, or of a disk (0); none where there is no such partition.
    fn of(file: &InfoFile, partition: u16) -> Option<Self> {
        let mut told = Self(Vec::new());
        told.add_point(file);
        if let Some(loss) = &file.loss {
            told.add_loss(loss);
        }
        let disk = file.partitions.as_ref();
        if partition > 0 {
            let known =
                disk.and_then(|disk| disk.partitions.iter().find(|p| p.number == partition));
            told.add_partition(known?);
        } else if let Some(disk) = disk {
            told.add_disk(disk);
        }
        Some(told)
    }

    fn add(&mut self, name: &'static str, value: Option<&str>) {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.0.push((name, cut(value, LONGEST).to_owned()));
        }
    }

    fn number(&mut self, name: &'static str, value: Option<u64>) {
        self.add(name, value.map(|value| value.to_string()).as_deref());
    }

    fn add_point(&mut self, file: &InfoFile) {
        let info = &file.info;
        self.add("name", Some(&info.name));
        self.add("label", Some(&info.label));
        self.add("file", Some(&info.file));
        self.number("snapshot", info.snapshot.and_then(|number| number.try_into().ok()));
        self.add("kind", Some(info.kind.name()));
        self.add("state", Some(info.state));
        self.add("reason", info.reason.as_deref());
        self.add("time", Some(&info.time));
        self.add("time_basis", Some(info.time_basis.name()));
        self.number("virtual_size", info.virtual_size);
        self.add("parent", info.parent.as_deref());
        self.number("allocated", file.allocated);
        self.add("allocated_is", file.allocated_is);
    }

    fn add_loss(&mut self, loss: &LossInfo) {
        self.number("known_bytes", Some(loss.known_bytes));
        self.number("lost_bytes", Some(loss.lost_bytes));
        self.add("lost_reads_as", loss.lost_reads_as);
    }

    fn add_disk(&mut self, disk: &PartitionsInfo) {
        self.add("partition_table", disk.partition_table);
        self.number("sector_size", disk.sector_size);
        self.add("content", disk.content);
    }

    fn add_partition(&mut self, partition: &PartitionInfo) {
        self.number("partition.number", Some(partition.number.into()));
        self.number("partition.start", Some(partition.start));
        self.number("partition.size", Some(partition.size));
        self.add("partition.type", Some(&partition.partition_type));
        self.add("partition.type_name", partition.type_name);
        self.add("partition.label", partition.label.as_deref());
        self.add("content", partition.content);
    }
}

/// One of [`LISTS`].
fn list(file: &InfoFile, name: &str) -> String {
    let told = |link: &LinkInfo| format!("{}: {}", link.file, link.text);
    match name {
        "chain" => joined(file.chain.iter().map(|file| file.file.clone())),
        "evidence" => joined(file.info.evidence.iter().map(told)),
        _ => joined(file.info.warnings.iter().cloned()),
    }
}

/// Lines, as many as there is room for, and how many more there are. What would break a line in two
/// is escaped.
fn joined(lines: impl IntoIterator<Item = String>) -> String {
    let mut value = String::new();
    let mut more = 0;
    for (number, line) in lines.into_iter().enumerate() {
        let line = printable(&line);
        let line = cut(&line, LONGEST - COUNT);
        if more > 0 || value.len() + 1 + line.len() > LONGEST - COUNT && number > 0 {
            more += 1;
            continue;
        }
        if number > 0 {
            value.push('\n');
        }
        value.push_str(line);
    }
    if more > 0 {
        let _ = write!(value, "\n({more} more)");
    }
    value
}

/// The beginning of a text, of so many bytes at most.
fn cut(text: &str, bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_never_longer_than_the_kernel_hands_out() {
        assert_eq!(joined(["a".into(), "b".into()]), "a\nb");
        assert_eq!(joined([]), "");
        let long = joined((0..50_000).map(|n| format!("layer {n}")));
        assert!(long.len() <= LONGEST && long.len() > LONGEST - 100, "{}", long.len());
        let shown = long.lines().count() - 1;
        assert_eq!(long.lines().last(), Some(&*format!("({} more)", 50_000 - shown)));
        assert!(joined(["ü".repeat(LONGEST)]).len() <= LONGEST);
        let mut told = Told(Vec::new());
        told.add("reason", Some(&"ü".repeat(LONGEST)));
        assert_eq!(told.0[0].1.len(), LONGEST);
    }

    #[test]
    fn a_line_stays_one() {
        assert_eq!(joined(["a\nb".into(), "c".into()]), "a\\nb\nc");
    }
}
