//! What is wrong with the entries of one L2 table: one finding for each kind, not for each entry.

use super::super::table::host_of;
use crate::extent::Fault;
use crate::layer::findings::Findings;

/// What can be wrong with an L2 entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It cannot be read.
    Fault(Fault),
    /// Its cluster is that of a table, or of the header.
    OnMetadata,
    /// The file that has the clusters ends before its cluster starts.
    PastDataFile,
    /// The file that has the clusters ends within its cluster: the bytes lost.
    Cut(u64),
    /// Another part of the disk has the same cluster.
    Shared,
}

/// An L2 entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct L2Entry {
    /// Where it stands in the file.
    pub(super) at: u64,
    pub(super) value: u64,
    /// First byte of the disk that it maps.
    pub(super) guest: u64,
}

#[derive(Debug)]
struct Seen {
    wrong: Wrong,
    first: L2Entry,
    count: u64,
}

/// The wrong entries of one L2 table.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Seen>);

impl Faults {
    /// Notes a wrong entry.
    pub(super) fn add(&mut self, wrong: Wrong, entry: L2Entry) {
        let kind = std::mem::discriminant(&wrong);
        let same = |seen: &&mut Seen| match (seen.wrong, wrong) {
            (Wrong::Fault(a), Wrong::Fault(b)) => a == b,
            (other, _) => std::mem::discriminant(&other) == kind,
        };
        match self.0.iter_mut().find(same) {
            Some(seen) => seen.count += 1,
            None => self.0.push(Seen { wrong, first: entry, count: 1 }),
        }
    }

    /// Puts them among the findings; whether any of them is damage.
    pub(super) fn report(self, cluster_bits: u32, findings: &mut Findings) -> bool {
        let mut damaged = false;
        for Seen { wrong, first, count } in self.0 {
            let what = describe(wrong, host_of(first.value, cluster_bits));
            let guest = first.guest;
            let more = the_same_with(count - 1);
            let what = format!("the L2 entry for byte {guest} of the disk: {what}{more}");
            if wrong == Wrong::Shared {
                findings.warning(first.at, what);
            } else {
                findings.damage(first.at, what);
                damaged = true;
            }
        }
        damaged
    }
}

/// Says how many other entries of a table have the same fault.
pub(super) fn the_same_with(others: u64) -> String {
    match others {
        0 => String::new(),
        1 => "; the same with another entry of this table".to_owned(),
        _ => format!("; the same with {others} more entries of this table"),
    }
}

fn describe(wrong: Wrong, host: u64) -> String {
    match wrong {
        Wrong::Fault(Fault::PastEnd) => {
            format!("its cluster at {host} lies past the end of the file (truncated?)")
        }
        Wrong::Fault(Fault::Misaligned) => {
            format!("its cluster cannot be at {host}, which is no multiple of the cluster size")
        }
        Wrong::Fault(Fault::DataFileOffset) => {
            format!("its cluster is at {host} of the data file instead of its place on the disk")
        }
        Wrong::Fault(fault) => fault.to_string(),
        Wrong::OnMetadata => format!("its cluster at {host} is the header's, or one of a table"),
        Wrong::PastDataFile => format!(
            "its cluster at {host} lies past the end of the data file (truncated?) and reads as \
             zeros"
        ),
        Wrong::Cut(lost) => format!(
            "its cluster at {host} lacks {lost} bytes, which read as zeros: the file ends there \
             (truncated?)"
        ),
        Wrong::Shared => format!("its cluster at {host} is that of another part of the disk, too"),
    }
}
