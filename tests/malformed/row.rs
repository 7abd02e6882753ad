//! Rows of the table: a sound image, one edit, and what must come of it.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use crate::bases::Sound;
use crate::common::qcow2_editor::Editor;

pub(crate) const DISK: &str = "disk.qcow2";

/// What must come of one checkpoint.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// There is no disk; the reason holds this text and names the file, and the byte if there is
    /// one.
    Refused(&'static str, Option<u64>),
    /// Exactly these ranges of the disk are input/output errors. The rest is what the sound image
    /// holds.
    Eio(Vec<Range<u64>>),
    /// The disk is that of the sound image.
    Sound,
    /// The disk is not that of the sound image, but the one that QEMU reads.
    LikeQemu,
    /// The disk has so many bytes, more than anybody would read; it begins as the sound one.
    Size(u64),
}

/// What qemu-img makes of the same files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Qemu {
    /// It refuses where there is no disk or some of it cannot be read, and reads the same bytes
    /// where all can be read.
    Agrees,
    /// It reads something; we refuse on purpose.
    Reads,
    /// It refuses; we read on purpose.
    Refuses,
    /// It is not asked: it would follow the name to where nobody should go, or the file is not its.
    NotAsked,
}

/// What to make in the folder of a row.
#[derive(Debug, Clone)]
pub(crate) enum Made {
    File(Vec<u8>),
    Link(PathBuf),
    Folder,
    Fifo,
    Socket,
    /// Only root can make one.
    Device(Device),
}

/// Device nodes that answer whoever opens them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Device {
    /// The character device that reads as zeros for ever.
    Zero,
    /// The first loop device, a block device.
    Loop,
}

/// What is expected of the image's own state, or of a snapshot.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) snapshot: Option<usize>,
    pub(crate) outcome: Outcome,
    /// The disk of the sound image, or what else it must hold.
    pub(crate) content: Arc<Vec<u8>>,
    /// A warning that holds this text.
    pub(crate) warning: Option<&'static str>,
    /// The name of the checkpoint's folder.
    pub(crate) name: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) group: &'static str,
    pub(crate) name: String,
    /// The file whose checkpoints are looked at.
    pub(crate) file: &'static str,
    pub(crate) files: Vec<(String, Made)>,
    pub(crate) wanted: Vec<Wanted>,
    pub(crate) qemu: Qemu,
}

impl Row {
    /// A word for the outcome of the image's own state.
    pub(crate) fn kind(&self) -> &'static str {
        match self.wanted[0] {
            Wanted { warning: Some(_), .. } => "warned",
            _ if self.wanted[1..].iter().any(|w| !matches!(w.outcome, Outcome::Sound)) => {
                "a snapshot refused or another"
            }
            Wanted { outcome: Outcome::Refused(..), .. } => "refused",
            Wanted { outcome: Outcome::Eio(_), .. } => "eio",
            Wanted { outcome: Outcome::Sound, .. } => "sound",
            Wanted { outcome: Outcome::LikeQemu, .. } => "like qemu",
            Wanted { outcome: Outcome::Size(_), .. } => "size",
        }
    }

    /// We refuse what QEMU reads (formats.md says where and why).
    pub(crate) fn stricter(&mut self) -> &mut Self {
        self.qemu = Qemu::Reads;
        self
    }

    /// We read what QEMU refuses.
    pub(crate) fn kinder(&mut self) -> &mut Self {
        self.qemu = Qemu::Refuses;
        self
    }

    pub(crate) fn no_qemu(&mut self) -> &mut Self {
        self.qemu = Qemu::NotAsked;
        self
    }

    pub(crate) fn warned(&mut self, text: &'static str) -> &mut Self {
        self.wanted[0].warning = Some(text);
        self
    }

    /// What the disk must hold where it is not what the sound one does.
    pub(crate) fn content(&mut self, content: Vec<u8>) -> &mut Self {
        self.wanted[0].content = Arc::new(content);
        self
    }

    pub(crate) fn named(&mut self, name: &str) -> &mut Self {
        self.wanted[0].name = Some(name.to_owned());
        self
    }

    /// Adds a file, or replaces one.
    pub(crate) fn file(&mut self, name: &str, made: Made) -> &mut Self {
        self.files.retain(|(other, _)| other != name);
        self.files.push((name.to_owned(), made));
        self
    }

    pub(crate) fn snapshot(&mut self, number: usize, outcome: Outcome) -> &mut Self {
        let wanted = self.wanted.iter_mut().find(|w| w.snapshot == Some(number));
        match wanted {
            Some(wanted) => wanted.outcome = outcome,
            None => self.wanted.push(Wanted {
                snapshot: Some(number),
                outcome,
                content: Arc::default(),
                warning: None,
                name: None,
            }),
        }
        self
    }

    pub(crate) fn snapshot_named(&mut self, number: usize, name: &str) -> &mut Self {
        let wanted = self.wanted.iter_mut().find(|w| w.snapshot == Some(number));
        wanted.expect("that snapshot").name = Some(name.to_owned());
        self
    }

    /// Says nothing of the snapshots from this one on.
    pub(crate) fn forget_snapshots_from(&mut self, number: usize) -> &mut Self {
        self.wanted.retain(|w| w.snapshot.is_none_or(|n| n < number));
        self
    }
}

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    group: &'static str,
    rows: Vec<Row>,
}

impl Rows {
    /// What the following rows are about.
    pub(crate) fn group(&mut self, group: &'static str) {
        self.group = group;
    }

    /// A row: what becomes of `sound` once its image was edited.
    pub(crate) fn add(
        &mut self,
        name: impl Into<String>,
        sound: &Sound,
        edit: impl FnOnce(&mut Editor),
        outcome: Outcome,
    ) -> &mut Row {
        let mut editor = Editor::of(sound.image.clone());
        edit(&mut editor);
        assert!(editor.bytes != sound.image, "a row that changes nothing");
        self.add_bytes(name, sound, editor.bytes, outcome)
    }

    /// A row: what becomes of a sound image whose file holds these bytes instead.
    pub(crate) fn add_bytes(
        &mut self,
        name: impl Into<String>,
        sound: &Sound,
        bytes: Vec<u8>,
        outcome: Outcome,
    ) -> &mut Row {
        let refused = matches!(outcome, Outcome::Refused(..));
        let wanted = |snapshot, outcome, content: &Arc<Vec<u8>>| Wanted {
            snapshot,
            outcome,
            content: Arc::clone(content),
            warning: None,
            name: None,
        };
        let mut all = vec![wanted(None, outcome, &sound.content)];
        if !refused {
            let snapshots = sound.snapshots.iter().enumerate();
            all.extend(snapshots.map(|(n, content)| wanted(Some(n), Outcome::Sound, content)));
        }
        let mut files = sound.beside.clone();
        files.push((sound.file.to_owned(), Made::File(bytes)));
        let is_qcow2 = sound.file == DISK;
        self.rows.push(Row {
            group: self.group,
            name: name.into(),
            file: sound.file,
            files,
            wanted: all,
            qemu: if is_qcow2 { Qemu::Agrees } else { Qemu::NotAsked },
        });
        self.rows.last_mut().expect("the row that was pushed")
    }

    pub(crate) fn done(self) -> Vec<Row> {
        self.rows
    }
}

pub(crate) fn refused(text: &'static str) -> Outcome {
    Outcome::Refused(text, None)
}

pub(crate) fn refused_at(at: u64, text: &'static str) -> Outcome {
    Outcome::Refused(text, Some(at))
}

pub(crate) fn eio(range: Range<u64>) -> Outcome {
    Outcome::Eio(vec![range])
}
