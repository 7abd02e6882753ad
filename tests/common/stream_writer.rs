//! Writes sparse streams as virtnbdbackup does, compressed ones too, with smaller chunks than
//! the tool's so that small disks have several.

use std::io::Write as _;

use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use serde_json::{Map, Value, json};

const CRLF: &[u8] = b"\r\n";

/// How payloads are packed.
#[allow(clippy::struct_excessive_bools, reason = "they are the flags of an lz4 frame")]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lz4 {
    /// Payloads of so many bytes and more are cut into chunks of that.
    pub(crate) chunk: usize,
    pub(crate) block: BlockSize,
    pub(crate) linked: bool,
    pub(crate) block_checksums: bool,
    pub(crate) content_checksum: bool,
    pub(crate) content_size: bool,
}

impl Lz4 {
    /// As the tool does.
    pub(crate) const TOOL: Self = Self {
        chunk: 32 << 20,
        block: BlockSize::Max64KB,
        linked: true,
        block_checksums: true,
        content_checksum: true,
        content_size: true,
    };

    pub(crate) fn pack(&self, plain: &[u8]) -> Vec<u8> {
        // Like lz4's own compressor: what fits in one block has nothing to link to.
        let linked = self.linked && plain.len() > self.block_bytes();
        let mode = if linked { BlockMode::Linked } else { BlockMode::Independent };
        let info = FrameInfo::new()
            .block_size(self.block)
            .block_mode(mode)
            .block_checksums(self.block_checksums)
            .content_checksum(self.content_checksum)
            .content_size(self.content_size.then_some(plain.len() as u64));
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(plain).expect("packed into memory");
        encoder.finish().expect("packed into memory")
    }

    pub(crate) fn block_bytes(&self) -> usize {
        match self.block {
            BlockSize::Max256KB => 256 << 10,
            BlockSize::Max1MB => 1 << 20,
            BlockSize::Max4MB => 4 << 20,
            _ => 64 << 10,
        }
    }
}

/// A stream in the making.
#[derive(Debug, Clone)]
pub(crate) struct StreamWriter {
    meta: Map<String, Value>,
    lz4: Option<Lz4>,
    frames: Vec<u8>,
    sizes: Vec<Value>,
    data: u64,
}

impl StreamWriter {
    pub(crate) fn full(disk: u64) -> Self {
        Self::new(disk, "virtnbdbackup.0", "", false)
    }

    /// An increment or a differential.
    pub(crate) fn increment(disk: u64, number: usize) -> Self {
        let name = |number: usize| format!("virtnbdbackup.{number}");
        Self::new(disk, &name(number), &name(number.saturating_sub(1)), true)
    }

    fn new(disk: u64, checkpoint: &str, parent: &str, incremental: bool) -> Self {
        let meta = json!({
            "virtualSize": disk,
            "date": "2026-11-20T07:58:05.853413",
            "diskName": "vda",
            "diskFormat": "qcow2",
            "checkpointName": checkpoint,
            "compressed": false,
            "compressionMethod": "lz4",
            "parentCheckpoint": parent,
            "incremental": incremental,
            "streamVersion": 2,
        });
        let Value::Object(meta) = meta else { panic!("an object") };
        Self { meta, lz4: None, frames: Vec::new(), sizes: Vec::new(), data: 0 }
    }

    /// A key of the metadata; `null` takes it away.
    pub(crate) fn set(mut self, key: &str, value: Value) -> Self {
        if value.is_null() {
            self.meta.remove(key);
        } else {
            self.meta.insert(key.to_owned(), value);
        }
        self
    }

    /// As the first versions of the tool wrote.
    pub(crate) fn version_1(self) -> Self {
        self.set("streamVersion", Value::Null)
            .set("stream-version", json!(1))
            .set("compressed", Value::Null)
            .set("compressionMethod", Value::Null)
            .set("diskFormat", Value::Null)
    }

    pub(crate) fn compressed(mut self, lz4: Lz4) -> Self {
        self.lz4 = Some(lz4);
        self.set("compressed", json!(2))
    }

    pub(crate) fn data(&mut self, start: u64, plain: &[u8]) {
        match self.lz4 {
            None => {
                self.frame("data", start, plain.len() as u64);
                self.frames.extend(plain);
            }
            Some(lz4) => {
                let chunks: Vec<_> = plain.chunks(lz4.chunk).map(|chunk| lz4.pack(chunk)).collect();
                return self.chunks(start, plain.len() as u64, &chunks);
            }
        }
        self.data += plain.len() as u64;
        self.frames.extend(CRLF);
    }

    /// A data frame of these chunks, whatever they unpack to.
    pub(crate) fn chunks(&mut self, start: u64, length: u64, chunks: &[Vec<u8>]) {
        self.frame("data", start, length);
        self.data += length;
        let sizes: Vec<_> = chunks.iter().map(Vec::len).collect();
        self.sizes.push(match &sizes[..] {
            [one] => json!(one),
            several => json!({ several.iter().sum::<usize>().to_string(): several }),
        });
        self.frames.extend(chunks.concat());
        self.frames.extend(CRLF);
    }

    pub(crate) fn zero(&mut self, start: u64, length: u64) {
        self.frame("zero", start, length);
    }

    fn frame(&mut self, kind: &str, start: u64, length: u64) {
        self.frames.extend(header(kind, start, length));
    }

    /// The stream up to its `stop`, and what a compressed one has after that.
    pub(crate) fn parts(self) -> (Vec<u8>, Vec<u8>) {
        let Self { mut meta, lz4, frames, sizes, data } = self;
        meta.entry("dataSize").or_insert(json!(data));
        let json = serde_json::to_string_pretty(&meta).expect("JSON").into_bytes();
        let meta = header("meta", 0, json.len() as u64);
        let stop = header("stop", 0, 0);
        let stream = [&meta[..], &json, CRLF, &frames, &stop].concat();
        let json = Value::Array(sizes).to_string().into_bytes();
        let comp = header("comp", 0, json.len() as u64);
        let trailer = lz4.map_or(Vec::new(), |_| [&json[..], CRLF, &comp].concat());
        (stream, trailer)
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        let (stream, trailer) = self.parts();
        [stream, trailer].concat()
    }
}

pub(crate) fn header(kind: &str, start: u64, length: u64) -> Vec<u8> {
    format!("{kind} {start:016x} {length:016x}\r\n").into_bytes()
}
