//! Names that somebody may have meant.

/// How many are told.
const MOST: usize = 3;
/// Longer names are hardly typed by hand.
const LONGEST: usize = 128;

/// The names that are nearest to what was typed, with or without the folders before them.
pub(super) fn nearest<'a>(typed: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let lower = |text: &str| text.chars().flat_map(char::to_lowercase).collect::<Vec<char>>();
    let all = lower(typed);
    let most = (all.len() / 3).max(2);
    let last = typed.rsplit_once('/').map(|(_, last)| lower(last));
    let rank = |name: &str| {
        // Any number of folders in front may have been left out.
        let starts = name.match_indices('/').map(|(at, _)| at + 1);
        let ends = std::iter::once(0).chain(starts).filter_map(|at| name.get(at..));
        // And what stands behind a name that ends as disks do.
        let ends = ends.flat_map(|end| [Some(end), without_ending(end)]).flatten();
        let near = ends.filter_map(|end| distance(&all, end, most)).min();
        // Or those in front are wrong.
        let name = name.rsplit('/').next().unwrap_or(name);
        let same = last.as_ref().is_some_and(|last| lower(name) == *last);
        if same { Some(near.unwrap_or(2).min(2)) } else { near }
    };
    let mut found: Vec<(usize, &str)> =
        names.filter_map(|name| Some((rank(name)?, name))).collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().take(MOST).map(|(_, name)| name).collect()
}

fn without_ending(name: &str) -> Option<&str> {
    [".qcow2", ".raw", ".img"].iter().find_map(|ending| name.strip_suffix(ending))
}

/// How many characters are to be changed, put in or taken out; none if more than `most`. Of two
/// names one of which is a part of the other, a few.
fn distance(typed: &[char], name: &str, most: usize) -> Option<usize> {
    let name: Vec<char> = name.chars().flat_map(char::to_lowercase).collect();
    if typed.len() > LONGEST || name.len() > LONGEST || typed.is_empty() {
        return None;
    }
    if typed.len() >= 3 && name.windows(typed.len()).any(|part| part == typed) {
        return Some(1);
    }
    if name.len().abs_diff(typed.len()) > most {
        return None;
    }
    // One row of the table of distances between all beginnings of both.
    let mut row: Vec<usize> = (0..=name.len()).collect();
    for (n, typed) in typed.iter().enumerate() {
        let mut before = n;
        let mut left = n + 1;
        for (named, cell) in name.iter().zip(row.iter_mut().skip(1)) {
            let changed = before + usize::from(named != typed);
            before = *cell;
            left = changed.min(left + 1).min(before + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = n + 1;
        }
    }
    row.last().copied().filter(|distance| *distance <= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_the_name() {
        let names = ["vm1/sda/INC-1706260646", "vm1/sda/INC-1706260653", "vm1/sdb/FULL-1"];
        let near = |typed| nearest(typed, names.into_iter());
        assert_eq!(near("vm1/sda/INC-1706260647")[0], names[0]);
        assert_eq!(near("INC-706260646")[0], names[0]);
        assert_eq!(near("vm1/sda/inc-1706260653"), [names[1], names[0]]);
        assert_eq!(near("sdb/FUL-1"), [names[2]]);
        assert_eq!(near("0646"), [names[0]], "a part of it");
        assert_eq!(near("backups/vm7/FULL-1"), [names[2]], "elsewhere");
        assert!(near("something").is_empty());
        assert!(near("").is_empty());
    }

    #[test]
    fn the_distance_is_that_of_single_characters() {
        let distance = |a: &str, b| distance(&a.chars().collect::<Vec<_>>(), b, 9);
        assert_eq!(distance("kitten", "sitting"), Some(3));
        assert_eq!(distance("ab", "ab"), Some(0));
        assert_eq!(distance("ab", "ba"), Some(2));
        assert_eq!(distance("abc", "c"), Some(2));
    }
}
