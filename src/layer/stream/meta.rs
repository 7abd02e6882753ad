//! The `meta` frame: JSON that says what the stream is.

use serde_json::{Map, Value};

use super::failure::Failure;
use super::frame::{CRLF, FrameHeader, FrameKind, HEADER_LEN};
use super::to_usize;
use crate::error::{Defect, Result};
use crate::source::Source;

/// What the first bytes of every stream are. A raw image saved as `.data` has others.
const MAGIC: &[u8] = b"meta ";
/// The tool writes some 350 bytes.
const LONGEST_JSON: u64 = 1 << 20;
/// No disk is larger: offsets and lengths below this add up without overflow.
const LARGEST_DISK: u64 = 1 << 62;

/// How the payloads of data frames are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamCompression {
    /// lz4 frames.
    Lz4,
}

/// What a stream says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamMeta {
    /// Bytes of the disk.
    pub virtual_size: u64,
    /// Bytes of all data frames together, unpacked.
    pub data_size: Option<u64>,
    /// When the backup was made, as it stands there: ISO 8601, local time without a zone.
    pub date: Option<String>,
    /// The disk's name in the VM: `vda`.
    pub disk_name: String,
    /// The format of the VM's own image.
    pub disk_format: Option<String>,
    /// The checkpoint that the backup made. Not unique: a differential carries the name of the
    /// next increment.
    pub checkpoint_name: Option<String>,
    /// The checkpoint that an increment starts from. One that was made offline may name itself.
    pub parent_checkpoint: Option<String>,
    /// Whether it holds changes only: an increment or a differential.
    pub incremental: bool,
    /// Whether payloads are packed, and how.
    pub compression: Option<StreamCompression>,
    /// 1 or 2; 2 knows compression.
    pub version: u32,
    /// Where the first frame after this one is.
    pub(super) frames_at: u64,
}

/// Whether a file that starts with `bytes` is a sparse stream.
pub fn is_stream(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

impl StreamMeta {
    /// Reads the first frame of a stream.
    ///
    /// # Errors
    ///
    /// [`crate::error::Error::Corrupt`] and [`crate::error::Error::Unsupported`] at byte 0 for
    /// the header, at byte 40 for the JSON.
    pub fn read(file: &dyn Source) -> Result<Self> {
        read_meta(file).map_err(|failure| failure.in_file(file.path()))
    }

    /// What the JSON, which stands at byte 40 of its file, says.
    pub fn from_json(json: &[u8]) -> Result<Self, Defect> {
        let fields: Map<String, Value> = serde_json::from_slice(json)
            .map_err(|e| corrupt(format!("the metadata is no JSON object: {e}")))?;
        let fields = Fields(fields);
        Ok(Self {
            virtual_size: fields.virtual_size()?,
            data_size: fields.number("dataSize")?,
            date: fields.text("date")?,
            disk_name: fields.text("diskName")?.ok_or_else(|| missing("diskName"))?,
            disk_format: fields.text("diskFormat")?,
            checkpoint_name: fields.text("checkpointName")?,
            parent_checkpoint: fields.parent_checkpoint()?,
            incremental: fields.incremental()?,
            compression: fields.compression()?,
            version: fields.version()?,
            frames_at: HEADER_LEN + json.len() as u64 + CRLF.len() as u64,
        })
    }
}

fn read_meta(file: &dyn Source) -> Result<StreamMeta, Failure> {
    let mut header = [0; 40];
    let got = file.read_at(0, &mut header)?;
    let header = FrameHeader::parse(header.get(..got).unwrap_or_default(), 0)?;
    if header.kind != FrameKind::Meta {
        return Err(Defect::corrupt(0, "the first frame is not `meta`").into());
    }
    if header.length > LONGEST_JSON {
        let what =
            format!("the metadata claims {} bytes, of {LONGEST_JSON} at most", header.length);
        return Err(Defect::corrupt(0, what).into());
    }
    let mut json = vec![0; to_usize(header.length) + CRLF.len()];
    let got = file.read_at(HEADER_LEN, &mut json)?;
    if got < json.len() {
        let what = format!("the file ends within the metadata, after {got} bytes (truncated?)");
        return Err(Defect::corrupt(HEADER_LEN, what).into());
    }
    match json.strip_suffix(CRLF) {
        Some(json) => Ok(StreamMeta::from_json(json)?),
        None => Err(corrupt("no CRLF follows the metadata").into()),
    }
}

fn corrupt(what: impl Into<String>) -> Defect {
    Defect::corrupt(HEADER_LEN, what)
}

fn missing(key: &str) -> Defect {
    corrupt(format!("the metadata has no `{key}`"))
}

fn wrong(key: &str, wanted: &str) -> Defect {
    corrupt(format!("`{key}` of the metadata is not {wanted}"))
}

/// The keys of the JSON; `null` is the same as no key.
struct Fields(Map<String, Value>);

impl Fields {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn number(&self, key: &str) -> Result<Option<u64>, Defect> {
        let number = |value: &Value| value.as_u64().ok_or_else(|| wrong(key, "a number of bytes"));
        self.get(key).map(number).transpose()
    }

    fn text(&self, key: &str) -> Result<Option<String>, Defect> {
        let text =
            |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| wrong(key, "text"));
        self.get(key).map(text).transpose()
    }

    /// Where it does not say, it holds changes only if it names what they are changes to.
    fn incremental(&self) -> Result<bool, Defect> {
        let key = "incremental";
        match self.get(key) {
            None => Ok(self.parent_checkpoint()?.is_some()),
            Some(value) => value.as_bool().ok_or_else(|| wrong(key, "true or false")),
        }
    }

    fn virtual_size(&self) -> Result<u64, Defect> {
        let key = "virtualSize";
        let size = self.number(key)?.ok_or_else(|| missing(key))?;
        if size > LARGEST_DISK {
            return Err(corrupt(format!("no disk has {size} bytes")));
        }
        Ok(size)
    }

    /// The tool has no parent where this is `false` or empty.
    fn parent_checkpoint(&self) -> Result<Option<String>, Defect> {
        let key = "parentCheckpoint";
        match self.get(key) {
            Some(Value::Bool(false)) => Ok(None),
            _ => Ok(self.text(key)?.filter(|name| !name.is_empty())),
        }
    }

    /// The method is named whether it is used or not.
    fn compression(&self) -> Result<Option<StreamCompression>, Defect> {
        match self.get("compressed") {
            None | Some(Value::Bool(false)) => return Ok(None),
            // A number is the level, 0 included.
            Some(Value::Bool(true) | Value::Number(_)) => {}
            Some(_) => return Err(wrong("compressed", "true, false or a level")),
        }
        match self.text("compressionMethod")? {
            Some(method) if method != "lz4" => {
                let what = format!("payloads compressed by `{}`", method.escape_debug());
                Err(Defect::unsupported(HEADER_LEN, what))
            }
            _ => Ok(Some(StreamCompression::Lz4)),
        }
    }

    /// Older streams spell the key in another way, or have none.
    fn version(&self) -> Result<u32, Defect> {
        match self.get("streamVersion").or_else(|| self.get("stream-version")) {
            None => Ok(1),
            Some(version) => match version.as_u64() {
                Some(1) => Ok(1),
                Some(2) => Ok(2),
                _ => Err(Defect::unsupported(HEADER_LEN, format!("a stream of version {version}"))),
            },
        }
    }
}

#[cfg(test)]
mod tests;
