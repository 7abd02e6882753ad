//! Where files may be opened: beneath the source, and beneath the folders that the user allows
//! beside it.
//!
//! A path is relative for a file of the source, and absolute, without symbolic links, for one that
//! lies outside of it.

use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::root::{FileStat, SourceRoot};
use crate::error::{Error, Result};

/// The source, and the folders outside of it whose files may be opened.
#[derive(Debug)]
pub struct Roots {
    source: SourceRoot,
    allowed: Vec<AllowedRoot>,
}

#[derive(Debug)]
struct AllowedRoot {
    root: SourceRoot,
    /// As the user calls it: it may be a symbolic link.
    called: PathBuf,
}

/// Where a name leads.
#[derive(Debug, PartialEq, Eq)]
pub enum Located {
    /// To this path of the source.
    Source(PathBuf),
    /// To this path beneath an allowed folder.
    Allowed(PathBuf),
    /// To this path, where nothing is opened.
    Elsewhere(PathBuf),
    /// Out of the source, with a `..` behind a folder that may be a symbolic link.
    Unclear,
}

impl Roots {
    /// Opens the source folder, and the folders to allow beside it.
    pub fn open(source: &Path, allowed: &[PathBuf]) -> Result<Self> {
        let allowed = allowed.iter().map(|path| AllowedRoot::open(path)).collect::<Result<_>>()?;
        Ok(Self { source: SourceRoot::open(source)?, allowed })
    }

    /// The source.
    pub fn source(&self) -> &SourceRoot {
        &self.source
    }

    /// Whether any folder outside of the source is allowed.
    pub fn allow_any(&self) -> bool {
        !self.allowed.is_empty()
    }

    /// The folders outside of it whose files may be opened.
    pub fn allowed(&self) -> impl Iterator<Item = &SourceRoot> {
        self.allowed.iter().map(|allowed| &allowed.root)
    }

    /// Where `name` leads from `folder`. Nothing is opened for that.
    pub fn locate(&self, folder: &Path, name: &Path) -> Located {
        let folder = self.source.path().join(folder);
        let path = self.canonical(normalise(&folder.join(name)));
        if let Ok(within) = path.strip_prefix(self.source.path()) {
            return Located::Source(within.to_path_buf());
        }
        if self.holding(&path).is_none() {
            return Located::Elsewhere(path);
        }
        // The folder of an image has no symbolic links on its way: `..` leads up from there as it
        // says.
        let is_up = |part: &Component<'_>| *part == Component::ParentDir;
        let leading = |part: &Component<'_>| is_up(part) || *part == Component::CurDir;
        if name.components().skip_while(leading).any(|part| is_up(&part)) {
            return Located::Unclear;
        }
        Located::Allowed(path)
    }

    /// Opens a regular file for reading.
    pub fn open_file(&self, path: &Path) -> Result<(File, FileStat)> {
        if path.is_relative() {
            return self.source.open_file(path);
        }
        let Some((root, within)) = self.holding(path) else {
            let what = format!("{}: it lies in no folder that is allowed", path.display());
            return Err(Error::Usage(what));
        };
        let opened = root.check_regular(within).and_then(|()| root.open_file(within));
        opened.map_err(|e| of_file(path, e))
    }

    /// The folders on the way to a file outside of the source, up to `/`.
    pub fn folders_on_the_way(&self, path: &Path) -> Result<Vec<(PathBuf, FileStat)>> {
        let Some((root, within)) = self.holding(path) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for folder in within.ancestors().skip(1) {
            let stat = root.stat_folder(folder).map_err(|e| of_file(path, e))?;
            found.push((root.path().join(folder), stat));
        }
        let above = root.path().ancestors().skip(1).map(Path::to_path_buf);
        found.extend(above.zip(root.above().iter().copied()));
        Ok(found)
    }

    /// The nearest allowed folder that holds the file at an absolute path, and the rest of it.
    fn holding<'a>(&self, path: &'a Path) -> Option<(&SourceRoot, &'a Path)> {
        self.allowed()
            .filter_map(|root| Some((root, path.strip_prefix(root.path()).ok()?)))
            .min_by_key(|(_, within)| within.as_os_str().len())
    }

    /// The path with the name of an allowed folder, as the user calls it, replaced by its true one.
    fn canonical(&self, path: PathBuf) -> PathBuf {
        let within = |allowed: &AllowedRoot| {
            Some(allowed.root.path().join(path.strip_prefix(&allowed.called).ok()?))
        };
        self.allowed.iter().find_map(within).unwrap_or(path)
    }
}

impl AllowedRoot {
    fn open(path: &Path) -> Result<Self> {
        let wrong = |e: Error| Error::Usage(format!("--allow-root {e}{}", advice(&e)));
        let root = SourceRoot::open(path).map_err(wrong)?;
        let called = std::path::absolute(path).map_err(|e| wrong(Error::io(path, e)))?;
        // What it is called with a `..` in it may be something else.
        let is_plain = called.components().all(|part| part != Component::ParentDir);
        let called = if is_plain { called } else { root.path().to_path_buf() };
        Ok(Self { root, called })
    }
}

/// What to do about a folder that cannot be allowed.
fn advice(error: &Error) -> &'static str {
    let Error::Io { source, .. } = error else { return "" };
    match source.kind() {
        io::ErrorKind::NotFound => {
            ": is the path right, and its file system mounted? If nothing is needed from there, leave it \
             out (among mount options: follow=)"
        }
        io::ErrorKind::NotADirectory => ": name the folder that holds the files",
        io::ErrorKind::PermissionDenied => ": try it as root, or as the owner",
        _ => "",
    }
}

/// The error with the whole path in it.
fn of_file(path: &Path, error: Error) -> Error {
    let is_link = |e: &io::Error| e.raw_os_error() == Some(libc::ELOOP);
    match error {
        Error::Io { source, .. } if is_link(&source) => {
            let reason = "there is a symbolic link on its way, which is never followed";
            Error::io(path, io::Error::other(reason))
        }
        Error::Io { source, .. } => Error::io(path, source),
        other => other,
    }
}

/// An absolute path without `.` and `..`; above `/` is `/`.
fn normalise(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir => {}
            part => clean.push(part),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_beneath_the_roots_or_nowhere() {
        let scratch = tempfile::tempdir().unwrap();
        let real = scratch.path().canonicalize().unwrap();
        let path = |name: &str| real.join(name);
        for folder in ["source/vm", "images/deep", "other"] {
            std::fs::create_dir_all(path(folder)).unwrap();
        }
        std::os::unix::fs::symlink("images", path("link")).unwrap();
        let allowed = [path("link"), path("images/deep")];
        let roots = Roots::open(&path("source"), &allowed).unwrap();
        let of = |name: &str| roots.locate(Path::new("vm"), Path::new(name));
        let whole = |name: &str| of(path(name).to_str().unwrap());
        assert_eq!(of("a"), Located::Source("vm/a".into()));
        assert_eq!(of("x/../../a"), Located::Source("a".into()));
        assert_eq!(whole("source/vm/../a"), Located::Source("a".into()));
        assert_eq!(whole("link/a"), Located::Allowed(path("images/a")));
        assert_eq!(whole("images/deep/a"), Located::Allowed(path("images/deep/a")));
        assert_eq!(of("../../images/a"), Located::Allowed(path("images/a")));
        assert_eq!(of("./../../images/./a"), Located::Allowed(path("images/a")));
        assert_eq!(whole("link/../other/a"), Located::Elsewhere(path("other/a")));
        assert_eq!(whole("link/x/../a"), Located::Unclear);
        assert_eq!(of("x/../../../images/a"), Located::Unclear);
        assert_eq!(of("../../images2/a"), Located::Elsewhere(path("images2/a")));
        assert_eq!(of("../../../../../../../../../../etc/a"), Located::Elsewhere("/etc/a".into()));
    }

    #[test]
    fn what_is_no_folder_is_named_with_what_to_do() {
        let scratch = tempfile::tempdir().unwrap();
        let (gone, file) = (scratch.path().join("gone"), scratch.path().join("file"));
        std::fs::write(&file, "").unwrap();
        let said = |path: &Path| {
            Roots::open(scratch.path(), &[path.to_path_buf()]).unwrap_err().to_string()
        };
        let named = |path: &Path| format!("--allow-root {}: ", path.display());
        assert!(said(&gone).starts_with(&named(&gone)), "{}", said(&gone));
        assert!(said(&gone).contains("is the path right"), "{}", said(&gone));
        assert!(said(&file).starts_with(&named(&file)), "{}", said(&file));
        assert!(said(&file).contains("name the folder"), "{}", said(&file));
    }

    #[test]
    fn everything_is_beneath_the_root_of_all() {
        let scratch = tempfile::tempdir().unwrap();
        let roots = Roots::open(scratch.path(), &["/".into()]).unwrap();
        let of = |name: &str| roots.locate(Path::new(""), Path::new(name));
        assert_eq!(of("/etc/a"), Located::Allowed("/etc/a".into()));
        assert_eq!(of("a"), Located::Source("a".into()));
        for refused in ["/proc/version", "/dev/null", "/etc", "/"] {
            roots.open_file(Path::new(refused)).unwrap_err();
        }
    }
}
