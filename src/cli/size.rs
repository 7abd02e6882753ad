//! Sizes and numbers for people.

use std::fmt::Display;

/// A size as people write it: whole bytes below 1 KiB, else one decimal where it says something.
#[allow(clippy::cast_precision_loss)] // three digits are shown
pub(super) fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut size = bytes as f64;
    let mut shown = format!("{bytes} B");
    for unit in UNITS {
        if size < 1024.0 {
            break;
        }
        size /= 1024.0;
        let digits = usize::from(size.fract() != 0.0 && size < 100.0);
        shown = format!("{size:.digits$} {unit}");
    }
    shown
}

/// So many of a thing.
pub(super) fn plural<N: Copy + Display + PartialEq + From<u8>>(count: N, what: &str) -> String {
    let s = if count == N::from(1) { "" } else { "s" };
    format!("{count} {what}{s}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_many() {
        assert_eq!([plural(0_usize, "file"), plural(1_u64, "file")], ["0 files", "1 file"]);
    }

    #[test]
    fn sizes_are_shown_as_people_write_them() {
        assert_eq!(human_size(0), "0 B");
        assert_eq!(human_size(512), "512 B");
        assert_eq!(human_size(128 << 20), "128 MiB");
        assert_eq!(human_size((1 << 30) + (1 << 29)), "1.5 GiB");
    }
}
