//! Sizes for people.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_as_people_write_them() {
        assert_eq!(human_size(0), "0 B");
        assert_eq!(human_size(512), "512 B");
        assert_eq!(human_size(128 << 20), "128 MiB");
        assert_eq!(human_size((1 << 30) + (1 << 29)), "1.5 GiB");
    }
}
