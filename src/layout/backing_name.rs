//! What a qcow2 header calls its backing file or data file: a path, or something that is no file.
//!
//! QEMU's `json:` names may hold options of its block drivers. Those that show other bytes than the
//! file's own are refused; those that do not are passed over.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use serde_json::Value;

/// A backing or data file's name, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackingName {
    /// A path, absolute or relative to the image that names it. Nothing says that it is harmless.
    Path {
        /// That path.
        path: PathBuf,
        /// The format of the file (`raw`, `qcow2`), where the name says it.
        format: Option<&'static str>,
    },
    /// Something that is not a file: the reason why it is not followed.
    Refused(String),
}

impl BackingName {
    /// Understands the bytes of a header: a path, `file:PATH`, or `json:{...}` with the file
    /// driver at the bottom. Every other protocol is refused, as QEMU would take it for one.
    pub fn parse(raw: &[u8]) -> Self {
        if let Some(json) = raw.strip_prefix(b"json:") {
            return Self::from_json(json);
        }
        if let Some(path) = raw.strip_prefix(b"file:") {
            return Self::path(path, None);
        }
        match protocol(raw) {
            Some(protocol) => {
                Self::Refused(format!("it is reached over {protocol:?}, and only files are opened"))
            }
            None => Self::path(raw, None),
        }
    }

    fn path(raw: &[u8], format: Option<&'static str>) -> Self {
        if raw.contains(&0) {
            return Self::Refused("its name holds a NUL byte".into());
        }
        Self::Path { path: OsString::from_vec(raw.to_vec()).into(), format }
    }

    fn from_json(json: &[u8]) -> Self {
        let value: Value = match serde_json::from_slice(json) {
            Ok(value) => value,
            Err(e) => return Self::Refused(format!("its json: name does not parse: {e}")),
        };
        match json_filename(&value) {
            Ok((name, format)) => Self::path(name.as_bytes(), format),
            Err(reason) => Self::Refused(reason),
        }
    }
}

/// The file at the bottom of QEMU's block-driver options, nested or with dotted keys, and its
/// format.
fn json_filename(options: &Value) -> Result<(&str, Option<&'static str>), String> {
    let mut node = options;
    let mut format = None;
    // Format driver over file driver is two levels; a filter or two may lie between.
    for _ in 0..8 {
        check_options(node)?;
        match node.get("driver").and_then(Value::as_str) {
            Some("raw") if format.is_none() => format = Some("raw"),
            Some("qcow2") if format.is_none() => format = Some("qcow2"),
            Some("raw" | "qcow2") => return Err("its json: name has a format in another".into()),
            None | Some("file" | "copy-on-read" | "throttle") => {}
            Some(other) => return Err(refused_driver(other)),
        }
        if let Some(name) = node.get("filename").and_then(Value::as_str) {
            return Ok((name, format));
        }
        if let Some(name) = node.get("file.filename").and_then(Value::as_str) {
            return match node.get("file.driver").and_then(Value::as_str) {
                None | Some("file") => Ok((name, format)),
                Some(other) => Err(refused_driver(other)),
            };
        }
        node = node.get("file").ok_or("its json: name holds no file name")?;
    }
    Err("its json: name is nested too deeply".into())
}

/// Refuses the options of `raw` and `qcow2` that make another disk of a file than it holds.
fn check_options(node: &Value) -> Result<(), String> {
    const OTHER_BYTES: [&str; 5] = ["offset", "size", "backing", "data-file", "encrypt"];
    let option = |key: &String| {
        let mut parts = key.split('.').skip_while(|part| *part == "file");
        parts.next().is_some_and(|part| OTHER_BYTES.contains(&part))
    };
    let mut keys = node.as_object().into_iter().flat_map(|node| node.keys());
    match keys.find(|key| option(key)) {
        None => Ok(()),
        Some(key) => Err(format!(
            "the option {key:?} of its json: name makes another disk of the file, and is not \
             understood"
        )),
    }
}

fn refused_driver(driver: &str) -> String {
    format!("it is reached by the driver {driver:?}, and only files are opened")
}

/// The protocol in front of the first colon, by QEMU's rule (block.c, `path_has_protocol`): no
/// slash comes before it.
fn protocol(raw: &[u8]) -> Option<String> {
    let end = raw.iter().position(|&byte| byte == b':' || byte == b'/')?;
    (raw.get(end) == Some(&b':'))
        .then(|| String::from_utf8_lossy(raw.get(..end).unwrap_or_default()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(p: &str) -> BackingName {
        BackingName::Path { path: p.into(), format: None }
    }

    fn image(p: &str, format: &'static str) -> BackingName {
        BackingName::Path { path: p.into(), format: Some(format) }
    }

    #[test]
    fn paths_are_paths() {
        assert_eq!(BackingName::parse(b"/srv/a.qcow2"), path("/srv/a.qcow2"));
        assert_eq!(BackingName::parse(b"../a b.qcow2"), path("../a b.qcow2"));
        assert_eq!(BackingName::parse(b"./a:b"), path("./a:b"));
        assert_eq!(BackingName::parse(b"file:/srv/a"), path("/srv/a"));
    }

    #[test]
    fn json_names_lead_to_the_file_at_the_bottom() {
        let nested = br#"json:{"driver":"qcow2","file":{"driver":"file","filename":"/a/b"}}"#;
        assert_eq!(BackingName::parse(nested), image("/a/b", "qcow2"));
        let dotted = br#"json:{"driver":"qcow2","file.driver":"file","file.filename":"/a/b"}"#;
        assert_eq!(BackingName::parse(dotted), image("/a/b", "qcow2"));
        let bare = br#"json:{"driver":"file","filename":"b"}"#;
        assert_eq!(BackingName::parse(bare), path("b"));
        let raw =
            br#"json:{"driver":"raw","read-only":true,"file":{"driver":"file","filename":"b"}}"#;
        assert_eq!(BackingName::parse(raw), image("b", "raw"));
    }

    #[test]
    fn what_is_not_a_file_is_refused() {
        for name in [
            &b"nbd://localhost/x"[..],
            b"ssh:host/x",
            b"json:{",
            br#"json:{"driver":"nbd","host":"x"}"#,
            br#"json:{"driver":"qcow2","file":{"driver":"https","filename":"x"}}"#,
            br#"json:{"file.driver":"nbd","file.filename":"x"}"#,
            br#"json:{"driver":"qcow2"}"#,
            br#"json:{"driver":"raw","offset":512,"file":{"driver":"file","filename":"b"}}"#,
            br#"json:{"driver":"copy-on-read","file.offset":0,"file.filename":"b"}"#,
            br#"json:{"driver":"qcow2","backing":null,"file.filename":"b"}"#,
            br#"json:{"driver":"qcow2","encrypt.key-secret":"x","file.filename":"b"}"#,
            br#"json:{"driver":"raw","file":{"driver":"qcow2","file.filename":"b"}}"#,
            b"a\0b",
        ] {
            assert!(matches!(BackingName::parse(name), BackingName::Refused(_)), "{name:?}");
        }
    }
}
