//! virtnbdbackup's streams: frames, metadata, trailers, and the packed bytes between.

use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};

use crate::bases::Sound as SoundImage;
use crate::common::prng::Prng;
use crate::common::stream_writer::{Lz4, StreamWriter, header};
use crate::row::Outcome::{Size, Sound};
use crate::row::{Made, Outcome, Row, Rows, eio, refused, refused_at};

const FILE: &str = "vda.full.data";
const DISK: u64 = 600_064;
/// Chunks of two blocks.
const SMALL_CHUNKS: Lz4 = Lz4 { chunk: 131_072, ..Lz4::TOOL };
const SECOND: u64 = 100_352;
const SECOND_LEN: u64 = 200_000;

fn text(seed: u64, len: usize) -> Vec<u8> {
    let mut prng = Prng::new(seed);
    let words: Vec<_> = (0..5).map(|_| prng.bytes(1000)).collect();
    let bytes = std::iter::repeat_with(|| prng.pick(&words).clone()).flatten();
    bytes.take(len).collect()
}

fn content() -> Vec<u8> {
    let mut disk = vec![0; DISK as usize];
    disk[..3000].copy_from_slice(&text(1, 3000));
    disk[SECOND as usize..(SECOND + SECOND_LEN) as usize]
        .copy_from_slice(&text(2, SECOND_LEN as usize));
    disk
}

/// Data, zeros, data in chunks, zeros.
fn writer(lz4: Option<Lz4>) -> StreamWriter {
    let writer = StreamWriter::full(DISK);
    let mut writer = match lz4 {
        Some(lz4) => writer.compressed(lz4),
        None => writer,
    };
    writer.data(0, &text(1, 3000));
    writer.zero(3000, SECOND - 3000);
    writer.data(SECOND, &text(2, SECOND_LEN as usize));
    writer.zero(SECOND + SECOND_LEN, DISK - SECOND - SECOND_LEN);
    writer
}

fn sound(image: Vec<u8>) -> SoundImage {
    let content = Arc::new(content());
    SoundImage { file: FILE, image, beside: Vec::new(), content, snapshots: Vec::new() }
}

static PLAIN: LazyLock<SoundImage> = LazyLock::new(|| sound(writer(None).finish()));
static PACKED: LazyLock<SoundImage> = LazyLock::new(|| sound(writer(Some(SMALL_CHUNKS)).finish()));

fn find(bytes: &[u8], what: &[u8]) -> usize {
    bytes.windows(what.len()).position(|window| window == what).expect("it is there")
}

/// Where the frame of this kind and start is.
fn frame(sound: &SoundImage, kind: &str, start: u64) -> usize {
    find(&sound.image, format!("{kind} {start:016x}").as_bytes())
}

/// A row whose stream has these bytes at this place.
fn with<'a>(
    rows: &'a mut Rows,
    name: &str,
    sound: &SoundImage,
    at: usize,
    bytes: &[u8],
    wanted: Outcome,
) -> &'a mut Row {
    let mut image = sound.image.clone();
    image[at..at + bytes.len()].copy_from_slice(bytes);
    assert!(image != sound.image, "{name} changes nothing");
    rows.add_bytes(name, sound, image, wanted)
}

/// A row whose stream is what this writer writes.
fn written<'a>(
    rows: &'a mut Rows,
    name: &str,
    writer: StreamWriter,
    wanted: Outcome,
) -> &'a mut Row {
    rows.add_bytes(name, &PLAIN, writer.finish(), wanted)
}

pub(crate) fn rows(rows: &mut Rows) {
    frames(rows);
    order(rows);
    ends(rows);
    metadata(rows);
    names(rows);
    trailers(rows);
    chunks(rows);
    chains(rows);
}

/// A header that contradicts the others makes all that follows doubtful: nothing can be read.
fn frames(rows: &mut Rows) {
    rows.group("stream: frame");
    let all = || eio(0..DISK);
    let at = frame(&PLAIN, "data", SECOND);
    let zero = frame(&PLAIN, "zero", 3000);
    let number = |n: u64| format!("{n:016x}").into_bytes();
    let mut put = |name: &str, at: usize, bytes: &[u8]| {
        with(rows, name, &PLAIN, at, bytes, all());
    };
    put("of no kind", at, b"xata");
    put("in capitals", at, b"DATA");
    put("without a space", at + 4, b"0");
    put("without the second space", at + 21, b"0");
    put("without its CR", at + 38, b" ");
    put("without its LF", at + 39, b" ");
    put("a digit in capitals", at + 15, b"A");
    put("a sign", at + 5, b"+");
    put("a digit that is none", at + 37, b"g");
    put("a payload of 0 bytes", at + 22, &number(0));
    put("a payload of 2^63 bytes", at + 22, &number(1 << 63));
    put("a payload of 2^64-1 bytes", at + 22, &number(u64::MAX));
    put("a payload of a byte more", at + 22, &number(SECOND_LEN + 1));
    put("a payload of a byte less", at + 22, &number(SECOND_LEN - 1));
    put("a start past the disk", at + 5, &number(DISK));
    put("a start of 2^63", at + 5, &number(1 << 63));
    put("a start of 2^64-1", at + 5, &number(u64::MAX));
    put("an end past the disk", at + 5, &number(DISK - 100));
    put("a start in the frame before", at + 5, &number(SECOND - 1));
    put("zeros of 2^63 bytes", zero + 22, &number(1 << 63));
    put("zeros of 0 bytes", zero + 22, &number(0));
    put("zeros past the next frame", zero + 22, &number(SECOND));
    put("data called zeros", at, b"zero");
    put("zeros called data", zero, b"data");
    put("a second meta", zero, b"meta");
    put("a comp among the data", zero, b"comp");
    put("a stop among the data", zero, &header("stop", 0, 0));
    put("no CRLF behind a payload", at + 40 + SECOND_LEN as usize, b"xx");
    let stop = PLAIN.image.len() - 40;
    let text = "a stop frame has a range of the disk";
    // Where the end is not as it should be, the whole stream is looked at at once.
    with(rows, "a stop with a start", &PLAIN, stop + 20, b"1", refused_at(stop as u64, text));
    with(rows, "a stop with a length", &PLAIN, stop + 37, b"1", refused_at(stop as u64, text));
}

fn order(rows: &mut Rows) {
    rows.group("stream: order");
    let all = || eio(0..DISK);
    let full = || StreamWriter::full(DISK);
    let mut twice = full();
    twice.data(0, &text(1, 3000));
    twice.data(0, &text(1, 3000));
    written(rows, "a frame twice", twice, all());
    let mut back = full();
    back.data(4096, &text(1, 3000));
    back.data(0, &text(1, 3000));
    written(rows, "a frame before the one before", back, all());
    let mut over = full();
    over.zero(0, DISK);
    over.data(0, &text(1, 3000));
    written(rows, "data over zeros", over, all());
    let mut past = full();
    past.zero(0, DISK + 1);
    written(rows, "zeros past the disk", past, all());
    // A full backup that leaves something out: what the tool's restore leaves there are zeros.
    let mut gap = full();
    gap.data(0, &text(1, 3000));
    gap.data(SECOND, &text(2, SECOND_LEN as usize));
    written(rows, "gaps in a full backup", gap, Sound);
    written(rows, "no frame at all", full(), Sound).content(vec![0; DISK as usize]);
}

fn ends(rows: &mut Rows) {
    rows.group("stream: end");
    let len = PLAIN.image.len();
    let cut = |len: usize| PLAIN.image[..len].to_vec();
    let data = frame(&PLAIN, "data", SECOND);
    let truncated = "(truncated?)";
    for (name, at, place) in [
        ("no stop", len - 40, len - 40),
        ("in stop", len - 1, len - 40),
        ("in a payload", data + 1000, data + 40),
        ("behind a payload", data + 40 + SECOND_LEN as usize, data + 40),
        ("in a header", data + 20, data),
        ("between frames", data, data),
    ] {
        rows.add_bytes(name, &PLAIN, cut(at), refused_at(place as u64, truncated));
    }
    rows.add_bytes(
        "behind the metadata",
        &PLAIN,
        cut(find(&PLAIN.image, b"data 0")),
        refused(truncated),
    );
    rows.add_bytes("in the metadata", &PLAIN, cut(100), refused_at(40, "within the metadata"));
    rows.add_bytes("behind the first header", &PLAIN, cut(40), refused_at(40, truncated));
    rows.add_bytes("in the first header", &PLAIN, cut(39), refused_at(0, "cut after 39 bytes"));
    let not = "it does not begin as one";
    rows.add_bytes("in its first word", &PLAIN, cut(3), refused(not));
    rows.add_bytes("at its first byte", &PLAIN, Vec::new(), refused(""));
    let behind = |more: &[u8]| [&PLAIN.image, more].concat();
    rows.add_bytes("a byte behind it", &PLAIN, behind(b"x"), Sound);
    rows.add_bytes("a second stop", &PLAIN, behind(&header("stop", 0, 0)), Sound);
    rows.add_bytes("itself again", &PLAIN, behind(&PLAIN.image), Sound);
}

fn metadata(rows: &mut Rows) {
    rows.group("stream: metadata");
    let number = |n: u64| format!("{n:016x}").into_bytes();
    let mut put = |name: &str, at: usize, bytes: &[u8], wanted: Outcome| {
        with(rows, name, &PLAIN, at, bytes, wanted);
    };
    let large = |bytes| refused_at(0, bytes);
    put("of 2^63 bytes", 22, &number(1 << 63), large("claims 9223372036854775808 bytes"));
    put("of 2^64-1 bytes", 22, &number(u64::MAX), large("claims 18446744073709551615 bytes"));
    put("of 1 MiB and a byte", 22, &number((1 << 20) + 1), large("claims 1048577 bytes"));
    put("of 1 MiB", 22, &number(1 << 20), refused_at(40, "within the metadata"));
    put("of 0 bytes", 22, &number(0), refused_at(40, "no CRLF follows the metadata"));
    put("with a start", 20, b"1", refused_at(0, "a meta frame has a range of the disk"));
    put("without its brace", 40, b"[", refused_at(40, "no JSON object"));
    put("no UTF-8", find(&PLAIN.image, b"qcow2"), b"\xff", refused_at(40, "no JSON object"));

    let wrong = |text| refused_at(40, text);
    let bytes = "is not a number of bytes";
    let whole = |key: &str, value: Value| writer(None).set(key, value);
    for (name, key, value, wanted) in [
        ("no size", "virtualSize", Value::Null, wrong("has no `virtualSize`")),
        ("size: text", "virtualSize", json!("600064"), wrong(bytes)),
        ("size: negative", "virtualSize", json!(-1), wrong(bytes)),
        ("size: a fraction", "virtualSize", json!(600_064.5), wrong(bytes)),
        ("size: a list", "virtualSize", json!([600_064]), wrong(bytes)),
        ("size: true", "virtualSize", json!(true), wrong(bytes)),
        ("size: 2^63", "virtualSize", json!(1_u64 << 63), wrong("no disk has")),
        ("size: 2^64-1", "virtualSize", json!(u64::MAX), wrong("no disk has")),
        ("size: 2^62+1", "virtualSize", json!((1_u64 << 62) + 1), wrong("no disk has")),
        ("size: 2^62", "virtualSize", json!(1_u64 << 62), Size(1 << 62)),
        ("size: a sector less", "virtualSize", json!(DISK - 512), eio(0..DISK - 512)),
        ("data: text", "dataSize", json!("x"), wrong("`dataSize` of the metadata")),
        ("data: a byte more", "dataSize", json!(203_001), eio(0..DISK)),
        ("data: 0", "dataSize", json!(0), eio(0..DISK)),
        ("data: 2^64-1", "dataSize", json!(u64::MAX), eio(0..DISK)),
        ("no disk's name", "diskName", Value::Null, wrong("has no `diskName`")),
        ("disk's name: a number", "diskName", json!(7), wrong("is not text")),
        ("incremental: text", "incremental", json!("yes"), wrong("is not true or false")),
        ("incremental: 0", "incremental", json!(0), wrong("is not true or false")),
        ("compressed: text", "compressed", json!("lz4"), wrong("true, false or a level")),
        ("compressed: a list", "compressed", json!([]), wrong("true, false or a level")),
        ("version 0", "streamVersion", json!(0), wrong("a stream of version 0")),
        ("version 3", "streamVersion", json!(3), wrong("a stream of version 3")),
        ("version: text", "streamVersion", json!("2"), wrong("a stream of version")),
        ("checkpoint: a number", "checkpointName", json!(0), wrong("is not text")),
        ("parent: a list", "parentCheckpoint", json!([]), wrong("is not text")),
        ("date: a number", "date", json!(0), wrong("is not text")),
        ("date: no date", "date", json!("yesterday"), Sound),
        ("date: year 9999", "date", json!("9999-12-31T23:59:59"), Sound),
        ("date: year -9999", "date", json!("-009999-01-01T00:00:00"), Sound),
        ("format: a number", "diskFormat", json!(1), wrong("is not text")),
        ("no version", "streamVersion", Value::Null, Sound),
        ("unknown keys", "nobody", json!({"knows": ["this"]}), Sound),
    ] {
        let row = written(rows, name, whole(key, value), wanted);
        if name == "size: a sector less" {
            let disk = &row.wanted[0].content;
            let less = disk[..disk.len() - 512].to_vec();
            row.content(less);
        }
    }
    let method = writer(Some(SMALL_CHUNKS)).set("compressionMethod", json!("zstd"));
    written(rows, "compressed by zstd", method, wrong("payloads compressed by `zstd`"));
    let plain = writer(None).set("compressed", json!(2));
    written(rows, "called compressed", plain, eio(0..DISK));

    // Of two keys of a name the last one counts, as for the tool.
    let json = |key: &str| {
        let bytes = writer(None).finish();
        let (start, end) = (40, find(&bytes, b"\r\ndata 0"));
        let object = String::from_utf8(bytes[start..end].to_vec()).expect("UTF-8");
        let object = object.replacen('{', &format!("{{ {key}, "), 1);
        let head = header("meta", 0, object.len() as u64);
        [&head, object.as_bytes(), &bytes[end..]].concat()
    };
    rows.add_bytes("two sizes", &PLAIN, json("\"virtualSize\": 1"), Sound);
    rows.add_bytes("two sizes, one wrong", &PLAIN, json("\"virtualSize\": []"), Sound);
    let deep = format!("\"x\": {}{}", "[".repeat(100_000), "]".repeat(100_000));
    rows.add_bytes("100000 brackets", &PLAIN, json(&deep), wrong("recursion limit"));
}

/// Names of checkpoints become names of folders.
fn names(rows: &mut Rows) {
    rows.group("stream: name");
    for (name, wanted) in [
        ("../x", "..%2Fx"),
        ("..", "%2E%2E"),
        ("a\nb", "a%0Ab"),
        ("a\0b", "a%00b"),
        ("a\u{1b}[2J", "a%1B[2J"),
        ("/etc/passwd", "%2Fetc%2Fpasswd"),
        ("latest", "latest~2"),
        ("by-time", "by-time~2"),
    ] {
        let writer = writer(None).set("checkpointName", json!(name));
        let what = format!("checkpoint {name:?}");
        written(rows, &what, writer, Sound).named(wanted);
    }
    let long = writer(None).set("checkpointName", json!("x".repeat(65_535)));
    written(rows, "a checkpoint of 65535 bytes", long, Sound);
    let empty = writer(None).set("checkpointName", json!(""));
    written(rows, "a checkpoint without a name", empty, Sound);
    for name in ["../../x", "a/b", "..", "a\nb", "", "by-time"] {
        let writer = writer(None).set("diskName", json!(name));
        written(rows, &format!("disk {name:?}"), writer, Sound);
    }
}

/// The sizes that a trailer holds can be found again by walking the lz4 frames.
fn trailers(rows: &mut Rows) {
    rows.group("stream: trailer");
    let (stream, trailer) = writer(Some(SMALL_CHUNKS)).parts();
    let list = String::from_utf8(trailer[..find(&trailer, b"\r\n")].to_vec()).expect("UTF-8");
    let with = |list: &str, length: u64| {
        [&stream[..], list.as_bytes(), b"\r\n", &header("comp", 0, length)].concat()
    };
    let sized = |list: &str| with(list, list.len() as u64);
    let first: u64 = list[1..].split(',').next().expect("a size").parse().expect("a size");
    for (name, bytes) in [
        ("missing", stream.clone()),
        ("empty", sized("[]")),
        ("no list", sized("{}")),
        ("no JSON", sized("[1, 2")),
        ("a size more", sized(&list.replacen(']', ", 11]", 2))),
        ("one size", sized(&format!("[{first}]"))),
        ("a size of 0", sized(&list.replacen(&first.to_string(), "0", 1))),
        ("a size of 2^63", sized(&list.replacen(&first.to_string(), "9223372036854775808", 1))),
        ("a negative size", sized(&list.replacen(&first.to_string(), "-1", 1))),
        ("a byte more", sized(&list.replacen(&first.to_string(), &(first + 1).to_string(), 1))),
        ("a byte less", sized(&list.replacen(&first.to_string(), &(first - 1).to_string(), 1))),
        ("a length of 0", with(&list, 0)),
        ("a length of a byte more", with(&list, list.len() as u64 + 1)),
        ("a length of 2^63", with(&list, 1 << 63)),
        ("a length of 2^64-1", with(&list, u64::MAX)),
        ("100000 brackets", sized(&"[".repeat(100_000))),
        ("bytes behind it", [&sized(&list)[..], b"more"].concat()),
    ] {
        rows.add_bytes(name, &PACKED, bytes, Sound);
    }
}

/// What is wrong within a chunk is that chunk's alone.
fn chunks(rows: &mut Rows) {
    rows.group("stream: chunk");
    let first = frame(&PACKED, "data", 0) + 40;
    let second = frame(&PACKED, "data", SECOND) + 40;
    let large = SECOND..SECOND + 131_072;
    // The header is 15 bytes long, the first block's size follows.
    let mut put = |name: &str, at: usize, wanted: Outcome| {
        let byte = PACKED.image[at] ^ 1;
        with(rows, name, &PACKED, at, &[byte], wanted);
    };
    put("an lz4 header's checksum", first + 14, eio(0..3072));
    put("a byte of the only block", first + 30, eio(0..3072));
    put("a byte of the first block", second + 30, eio(large.clone()));
    let block = u32::from_le_bytes(PACKED.image[second + 15..second + 19].try_into().expect("4"));
    let next = second + 15 + 4 + block as usize + 4;
    put("a byte of the second block", next + 30, eio(SECOND + 65_536..large.end));
    put("a block's checksum", next - 1, eio(large.clone()));

    // One chunk alone, which unpacks to more or less than the frame says.
    let one = |packed: Vec<u8>| {
        let mut writer = StreamWriter::full(DISK).compressed(Lz4::TOOL);
        writer.chunks(0, DISK, &[packed]);
        writer
    };
    let silent = Lz4 { content_size: false, ..Lz4::TOOL };
    // Every block before the one that is too long has its own checksum.
    let tail = DISK / 65_536 * 65_536;
    let bomb = silent.pack(&vec![0; 32 << 20]);
    written(rows, "a bomb", one(bomb), eio(tail..DISK)).content(vec![0; DISK as usize]);
    let told = Lz4::TOOL.pack(&vec![0; 32 << 20]);
    written(rows, "a bomb that says so", one(told), eio(0..DISK));
    let short = silent.pack(&vec![0; DISK as usize - 1]);
    written(rows, "a byte too few", one(short), eio(tail..DISK)).content(vec![0; DISK as usize]);
    written(rows, "nothing", one(silent.pack(b"")), eio(0..DISK));
    written(rows, "no lz4", one(vec![0xff; 64]), eio(0..DISK));
}

/// What increments say that they stand on.
fn chains(rows: &mut Rows) {
    rows.group("stream: chain");
    let mut increment = StreamWriter::increment(DISK, 1);
    increment.data(0, &[9; 4096]);
    let mut content = content();
    content[..4096].fill(9);
    let full = || Made::File(PLAIN.image.clone());
    let mut stands = |name: &str, key: &str, value: Value, wanted: Outcome| {
        let writer = increment.clone().set(key, value);
        let row = written(rows, name, writer, wanted).content(content.clone());
        row.file = "vda.inc.virtnbdbackup.1.data";
        let Some((_, bytes)) = row.files.pop() else { panic!("the stream") };
        row.file(FILE, full()).file("vda.inc.virtnbdbackup.1.data", bytes);
    };
    let missing = || refused("is missing in this folder");
    stands("a parent that is not there", "parentCheckpoint", json!("virtnbdbackup.7"), missing());
    stands("a hostile parent", "parentCheckpoint", json!("../x"), missing());
    stands("itself", "parentCheckpoint", json!("virtnbdbackup.1"), Sound);
    stands("no parent", "parentCheckpoint", Value::Null, Sound);
    stands("a parent that is false", "parentCheckpoint", json!(false), Sound);
}
