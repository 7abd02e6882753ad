//! Runs the commands of a session in a room of their own (`room.sh`), and takes what came back.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::common::content::sha256;
use crate::common::run::{copy_of_qcowfs, scratch};
use crate::common::{Case, Run};
use crate::document::{Mark, Session};

/// Seconds for all commands of a session together.
const LIMIT: u64 = 300;

/// Loop devices are the whole machine's: what one session leaves could be another's that still runs.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) lines: Vec<String>,
}

/// What came of a session.
#[derive(Debug)]
pub(crate) struct Answers {
    /// Of each step; `None` where it was not run.
    pub(crate) steps: Vec<Option<Answer>>,
    /// Mounts, loop devices and daemons that the session left behind.
    pub(crate) left: String,
}

/// Runs the steps of a session that `runs` says can run here.
///
/// Panics if a backup is not as it was afterwards.
pub(crate) fn answers(session: &Session, runs: impl Fn(&Mark) -> bool) -> Answers {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = scratch();
    let room = folder.path();
    let backups = room.join("backups");
    let steps = room.join("steps");
    fs::create_dir(&backups).expect("a folder");
    fs::create_dir(&steps).expect("a folder");
    for sample in &session.samples {
        put(&sample.case, &sample.folder, &backups);
    }
    for script in ["room.sh", "session.sh"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tutorials").join(script);
        fs::copy(from, steps.join(script)).expect("a script");
    }
    copy_of_qcowfs(room);
    for (number, step) in (1..).zip(&session.steps).filter(|(_, step)| runs(&step.mark)) {
        let file = steps.join(format!("{number}.cmd"));
        fs::write(file, format!("{}\n", step.command)).expect("a command");
    }
    fs::write(steps.join("count"), session.steps.len().to_string()).expect("a number");

    let before = hashes(&backups);
    let run = Run::new("unshare").args(["--mount", "--pid", "--fork", "--kill-child", "bash"]);
    run.arg(steps.join("room.sh")).arg(room).seconds(LIMIT).ok();
    let after = hashes(&backups);
    for (path, hash) in &before {
        assert_eq!(Some(hash), after.get(path), "a tutorial changed the backup {path:?}");
    }
    Answers {
        steps: (1..=session.steps.len()).map(|number| answer(&steps, number)).collect(),
        left: fs::read_to_string(steps.join("left")).expect("what is left"),
    }
}

/// Unpacks a case, and moves its backups to where the document has them.
fn put(case: &str, folder: &str, backups: &Path) {
    let within = folder.strip_prefix("/backups").expect("a folder in /backups");
    let to = backups.join(within.trim_start_matches('/'));
    let unpacked = Case::unpack(case);
    if to == backups {
        fs::remove_dir(&to).expect("an empty folder");
    } else {
        fs::create_dir_all(to.parent().expect("a parent")).expect("folders");
    }
    fs::rename(unpacked.backups(), to).expect("a folder that moves");
}

fn hashes(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let kind = entry.file_type().expect("a kind");
        if kind.is_dir() {
            found.extend(hashes(&entry.path()));
        } else if kind.is_file() {
            found.insert(entry.path(), sha256(&entry.path()));
        }
    }
    found
}

fn answer(steps: &Path, number: usize) -> Option<Answer> {
    let code = fs::read_to_string(steps.join(format!("{number}.code"))).ok()?;
    let output = fs::read(steps.join(format!("{number}.out"))).expect("an output");
    let output = String::from_utf8_lossy(&output);
    // Said where nothing listens at /dev/log, as in containers.
    let lines = output.trim_end().lines();
    let lines = lines.filter(|line| !line.contains("note: there is no syslog here"));
    let code = code.trim().parse().expect("an exit code");
    Some(Answer { code, lines: lines.map(|line| line.trim_end().to_owned()).collect() })
}
