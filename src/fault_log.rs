//! Which faults go to the log: no more than anybody would read. A program that reads a bad range
//! again and again must not fill the disk that the log is on.
//!
//! In each minute a file has so many lines, and all files together have so many; the rest is
//! counted. The count is told with the next fault after that minute, or when the view ends.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use log::Level;
use parking_lot::Mutex;

/// How long lines are counted together.
const WINDOW: Duration = Duration::from_mins(1);
/// Lines of one file within that time.
const LINES_OF_FILE: u64 = 20;
/// Lines of all files within that time.
const LINES_IN_ALL: u64 = 200;

static LIMITER: LazyLock<Mutex<Limiter>> = LazyLock::new(|| Mutex::new(Limiter::default()));

/// Whether a line about a fault of `file` may go to the log now; if not, it was counted.
pub(crate) fn admits(level: Level, file: &Path) -> bool {
    if level > log::max_level() {
        return false;
    }
    let answer = LIMITER.lock().ask(file, Instant::now());
    tell(&answer.told);
    answer.admitted
}

/// Tells what was counted and not told yet.
pub(crate) fn flush() {
    let told = LIMITER.lock().close(None);
    tell(&told);
}

fn tell(lines: &[String]) {
    for line in lines {
        log::error!("{line}");
    }
}

/// Lines since a moment.
#[derive(Debug)]
struct Window {
    start: Instant,
    lines: u64,
    held: u64,
}

#[derive(Debug, Default)]
struct Limiter {
    files: HashMap<PathBuf, Window>,
    all: Option<Window>,
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    admitted: bool,
    /// Lines of the limiter's own, to be logged first.
    told: Vec<String>,
}

impl Window {
    fn new(start: Instant) -> Self {
        Self { start, lines: 0, held: 0 }
    }

    /// With no time given, every window is over.
    fn is_over(&self, now: Option<Instant>) -> bool {
        now.is_none_or(|now| now.saturating_duration_since(self.start) >= WINDOW)
    }
}

impl Limiter {
    fn ask(&mut self, file: &Path, now: Instant) -> Answer {
        let mut told = self.close(Some(now));
        let all = self.all.get_or_insert_with(|| Window::new(now));
        if !self.files.contains_key(file) && all.lines < LINES_IN_ALL {
            self.files.insert(file.to_path_buf(), Window::new(now));
        }
        // Without one, `all` is used up, and the map does not grow any more.
        let window = self.files.get_mut(file);
        let admitted = all.lines < LINES_IN_ALL
            && window.as_ref().is_some_and(|window| window.lines < LINES_OF_FILE);
        match window {
            Some(window) if admitted => {
                window.lines += 1;
                all.lines += 1;
            }
            Some(window) => {
                window.held += 1;
                if window.held == 1 {
                    told.push(format!("{}: more like it are counted only", file.display()));
                }
            }
            None => {
                all.held += 1;
                if all.held == 1 {
                    told.push("faults of other files, too, are counted only".to_owned());
                }
            }
        }
        Answer { admitted, told }
    }

    /// Ends the windows that are over, and says what they held back.
    fn close(&mut self, now: Option<Instant>) -> Vec<String> {
        let over = self.files.extract_if(|_, window| window.is_over(now));
        let held = over.filter(|(_, window)| window.held > 0);
        let mut told: Vec<_> = held
            .map(|(file, window)| {
                format!("{}: ... and {} more like it", file.display(), window.held)
            })
            .collect();
        told.sort();
        if let Some(all) = self.all.take_if(|all| all.is_over(now))
            && all.held > 0
        {
            told.push(format!("... and {} more of other files", all.held));
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks `count` times at once: how many lines were admitted, and what was told.
    fn ask(limiter: &mut Limiter, file: &str, count: u64, now: Instant) -> (u64, Vec<String>) {
        let mut admitted = 0;
        let mut told = Vec::new();
        for _ in 0..count {
            let answer = limiter.ask(Path::new(file), now);
            admitted += u64::from(answer.admitted);
            told.extend(answer.told);
        }
        (admitted, told)
    }

    #[test]
    fn a_million_faults_of_a_file_are_a_few_lines_and_a_count() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        let (admitted, told) = ask(&mut limiter, "a", 1_000_000, start);
        assert_eq!(admitted, LINES_OF_FILE);
        assert_eq!(told, ["a: more like it are counted only"]);
        let (admitted, told) = ask(&mut limiter, "a", 1, start + WINDOW);
        assert_eq!(admitted, 1);
        assert_eq!(told, [format!("a: ... and {} more like it", 1_000_000 - LINES_OF_FILE)]);
    }

    #[test]
    fn the_count_is_told_when_the_time_is_over_and_not_before() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        ask(&mut limiter, "a", LINES_OF_FILE + 3, start);
        let just_before = start + WINDOW.checked_sub(Duration::from_nanos(1)).unwrap();
        assert_eq!(ask(&mut limiter, "a", 1, just_before), (0, vec![]));
        let told = vec!["a: ... and 4 more like it".to_owned()];
        assert_eq!(ask(&mut limiter, "b", 1, start + WINDOW), (1, told));
        assert_eq!(ask(&mut limiter, "a", 1, start + WINDOW), (1, vec![]));
    }

    #[test]
    fn one_noisy_file_does_not_silence_another() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        ask(&mut limiter, "a", 1000, start);
        assert_eq!(ask(&mut limiter, "b", LINES_OF_FILE, start), (LINES_OF_FILE, vec![]));
    }

    #[test]
    fn thousands_of_bad_files_are_a_few_lines_too_and_take_bounded_memory() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        let (mut admitted, mut told) = (0, Vec::new());
        for file in 0..10_000 {
            let (lines, more) = ask(&mut limiter, &file.to_string(), 2, start);
            admitted += lines;
            told.extend(more);
        }
        assert_eq!(admitted, LINES_IN_ALL);
        assert_eq!(told, ["faults of other files, too, are counted only"]);
        assert!(limiter.files.len() as u64 <= LINES_IN_ALL);
        let left = 20_000 - LINES_IN_ALL;
        assert_eq!(limiter.close(None), [format!("... and {left} more of other files")]);
        assert!(limiter.files.is_empty(), "what is over is kept");
    }

    #[test]
    fn the_end_tells_what_was_only_counted_and_tells_it_once() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        ask(&mut limiter, "a", LINES_OF_FILE + 7, start);
        assert_eq!(limiter.close(None), ["a: ... and 7 more like it"]);
        assert!(limiter.close(None).is_empty());
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_does_no_harm() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        let later = start + WINDOW;
        ask(&mut limiter, "a", LINES_OF_FILE, later);
        assert_eq!(ask(&mut limiter, "a", 1, start).0, 0);
    }
}
