//! `qcowfs.toml`: what a user declares where names and headers cannot know.
//!
//! ```toml
//! [image."monday.qcow2"]      # a file, relative to the folder of qcowfs.toml, and beneath it
//! parent = "sunday.qcow2"     # what it stands on; "none": nothing, it is a full backup; outside
//!                             # of the source by its absolute path
//! disk   = "vda"              # name of the disk's folder in the view
//! name   = "monday"           # name of the checkpoint's folder
//! time   = "2026-11-20T07:00:00Z"
//! format = "raw"              # or "qcow2": what the bytes are, whatever they look like
//! ignore = true               # not shown, and nobody's parent
//! ```

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use serde::Deserialize;

/// The name of the sidecar.
pub const NAME: &str = "qcowfs.toml";

/// What is declared of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Declaration {
    /// What it stands on.
    pub parent: Option<DeclaredParent>,
    /// Name of the disk's folder.
    pub disk: Option<String>,
    /// Name of the checkpoint's folder.
    pub name: Option<String>,
    /// When the backup was made.
    pub time: Option<SystemTime>,
    /// What the bytes are.
    pub format: Option<DeclaredFormat>,
    /// Not shown, and nobody's parent.
    pub ignore: bool,
}

/// A declared parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeclaredParent {
    /// The file is a full backup.
    None,
    /// The file at this path within the source, or at this absolute path.
    File(PathBuf),
}

/// A declared format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeclaredFormat {
    /// The bytes of the disk as they are.
    Raw,
    /// qcow2.
    Qcow2,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSidecar {
    #[serde(default)]
    image: BTreeMap<String, RawDeclaration>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDeclaration {
    parent: Option<String>,
    disk: Option<String>,
    name: Option<String>,
    time: Option<RawTime>,
    format: Option<DeclaredFormat>,
    #[serde(default)]
    ignore: bool,
}

/// A time, quoted or as TOML writes it.
#[derive(Deserialize)]
#[serde(untagged)]
enum RawTime {
    Text(String),
    Own(toml::value::Datetime),
}

/// Reads the text of the sidecar in `folder` (within the source). Answers the declarations by
/// path within the source, or what is wrong, in words for the one who wrote it.
pub fn parse(folder: &Path, text: &str) -> Result<BTreeMap<PathBuf, Declaration>, String> {
    declarations(folder, text).map_err(|e| format!("{e}; correct that, or move the file away"))
}

fn declarations(folder: &Path, text: &str) -> Result<BTreeMap<PathBuf, Declaration>, String> {
    let raw: RawSidecar = toml::from_str(text).map_err(|e| {
        let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        format!("line {line}: {}", e.message())
    })?;
    raw.image
        .into_iter()
        .map(|(name, raw)| {
            let path = within(folder, &name)?;
            if !path.starts_with(folder) {
                return Err(format!("{name:?} is not in this folder or beneath it"));
            }
            let declaration = declaration(folder, raw).map_err(|e| format!("{name:?}: {e}"))?;
            Ok((path, declaration))
        })
        .collect()
}

fn declaration(folder: &Path, raw: RawDeclaration) -> Result<Declaration, String> {
    let parent = match raw.parent.as_deref() {
        None => None,
        Some("none") => Some(DeclaredParent::None),
        Some(path) if Path::new(path).is_absolute() => Some(DeclaredParent::File(path.into())),
        Some(path) => Some(DeclaredParent::File(within(folder, path)?)),
    };
    let time = match raw.time {
        None => None,
        Some(time) => {
            let text = match time {
                RawTime::Text(text) => text,
                RawTime::Own(own) => own.to_string(),
            };
            let time: jiff::Timestamp =
                text.parse().map_err(|e| format!("time {text:?} is not RFC 3339: {e}"))?;
            Some(time.into())
        }
    };
    let RawDeclaration { disk, name, format, ignore, .. } = raw;
    Ok(Declaration { parent, disk, name, time, format, ignore })
}

/// `name`, relative to `folder`, as a path within the source.
fn within(folder: &Path, name: &str) -> Result<PathBuf, String> {
    normalise(&folder.join(name)).ok_or_else(|| format!("{name:?} leads out of the source"))
}

/// A relative path without `.` and `..`; `None` if it is absolute or leads above its start.
pub fn normalise(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !clean.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read_and_paths_are_within_the_source() {
        let text = "[image.\"b.qcow2\"]\nparent = \"../x/a.qcow2\"\ndisk = \"vda\"\nname = \"b\"\n\
             time = \"2026-11-20T07:00:00Z\"\nformat = \"raw\"\nignore = true\n\
             [image.full]\nparent = \"none\"\n";
        let read = parse(Path::new("vm1"), text).expect("parses");
        let b = &read[Path::new("vm1/b.qcow2")];
        assert_eq!(b.parent, Some(DeclaredParent::File("x/a.qcow2".into())));
        assert_eq!((b.disk.as_deref(), b.name.as_deref()), (Some("vda"), Some("b")));
        assert_eq!((b.format, b.ignore), (Some(DeclaredFormat::Raw), true));
        assert!(b.time.is_some());
        assert_eq!(read[Path::new("vm1/full")].parent, Some(DeclaredParent::None));
    }

    #[test]
    fn mistakes_are_named() {
        let wrong = |text: &str| parse(Path::new(""), text).expect_err("is refused");
        assert!(wrong("[image.a]\nparnet = \"b\"").contains("parnet"));
        assert!(wrong("[image.a]\nparent = \"../b\"").contains("leads out of the source"));
        let outside = parse(Path::new(""), "[image.a]\nparent = \"/srv/b\"").expect("parses");
        assert_eq!(outside[Path::new("a")].parent, Some(DeclaredParent::File("/srv/b".into())));
        assert!(wrong("[image.\"/etc/passwd\"]\nname = \"b\"").contains("leads out"));
        assert!(parse(Path::new("vm"), "[image.\"../b\"]").is_err_and(|e| e.contains("beneath")));
        assert!(wrong("[image.a]\ntime = \"monday\"").contains("RFC 3339"));
        let own = parse(Path::new(""), "[image.a]\ntime = 2026-11-20T07:00:00Z").expect("parses");
        assert!(own[Path::new("a")].time.is_some());
        assert!(wrong("image = 3").contains("line 1"));
    }
}
