//! A point in time as people write it.

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use crate::tree::plan::LATEST;

/// What stands behind the `@`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// The newest that is whole.
    Latest,
    /// The newest from before this moment.
    Until(SystemTime),
}

impl FromStr for When {
    type Err = String;

    /// `latest`, a date (the end of that day), or a date with a time (to the end of that second),
    /// in UTC unless it says otherwise.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == LATEST {
            return Ok(Self::Latest);
        }
        let wrong = || {
            format!(
                "`{text}` is no time: say latest, 2024-01-26 (the end of that day), \
                 2024-01-26T10:00 (UTC), or 2024-01-26T10:00+02:00"
            )
        };
        let end = end_of(text).ok_or_else(wrong)?;
        Ok(Self::Until(end))
    }
}

fn end_of(text: &str) -> Option<SystemTime> {
    let utc = |time: DateTime| time.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    if !text.contains(['T', 't', ' ']) {
        let next = text.parse::<Date>().ok()?.checked_add(1.day()).ok()?;
        return utc(next.to_datetime(jiff::civil::Time::midnight())).map(SystemTime::from);
    }
    let time = text.parse::<Timestamp>().ok().or_else(|| utc(text.parse().ok()?))?;
    // Restore points are listed to the second: all of that second is meant.
    SystemTime::from(Timestamp::from_second(time.as_second()).ok()?)
        .checked_add(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until(text: &str) -> String {
        match text.parse().unwrap() {
            When::Latest => "latest".into(),
            When::Until(end) => Timestamp::try_from(end).unwrap().to_string(),
        }
    }

    #[test]
    fn a_day_ends_with_the_next_and_a_time_with_its_second() {
        assert_eq!(until("latest"), "latest");
        assert_eq!(until("2024-02-29"), "2024-03-01T00:00:00Z");
        assert_eq!(until("2024-01-26T10:00"), "2024-01-26T10:00:01Z");
        assert_eq!(until("2024-01-26 10:00:07"), "2024-01-26T10:00:08Z");
        assert_eq!(until("2024-01-26T10:00:07.5Z"), "2024-01-26T10:00:08Z");
        assert_eq!(until("2024-01-26T10:00+02:00"), "2024-01-26T08:00:01Z");
        assert_eq!(until("1969-12-31T23:59:58Z"), "1969-12-31T23:59:59Z");
    }

    #[test]
    fn what_is_no_time_is_refused_with_examples() {
        for text in ["", "yesterday", "2024-13-01", "2024-01-26T25:00", "10:00", "Latest"] {
            let told = text.parse::<When>().unwrap_err();
            assert!(told.contains(&format!("`{text}`")) && told.contains("2024-01-26T10:00"));
        }
    }
}
