//! Header extensions.

use crate::bases::{BITMAP, DATA_FILE, OVERLAY, V3};
use crate::common::qcow2_editor::Editor;
use crate::row::Outcome::{self, LikeQemu, Sound};
use crate::row::{Made, Row, Rows, refused, refused_at};

pub(crate) const BACKING_FORMAT: u32 = 0xe279_2aca;
const DATA_FILE_NAME: u32 = 0x4441_5441;
const LUKS: u32 = 0x0537_be77;
const BITMAPS: u32 = 0x2385_2875;
const UNKNOWN: u32 = 0x1234_5678;
/// Where names are put that QEMU puts behind the extensions.
const NAMES: u64 = 2048;
/// Where the extensions of a header of 112 bytes start.
const START: u64 = 112;

/// Replaces all extensions. A backing file's name moves out of their way.
pub(crate) fn extensions(image: &mut Editor, list: &[(u32, &[u8])]) {
    let (name_at, name_len) = (image.u64(8) as usize, image.u32(16) as usize);
    let name = image.bytes[name_at..name_at + name_len].to_vec();
    assert_eq!(u64::from(image.u32(100)), START, "the header of a new QEMU");
    image.write(START, &[0; 4096 - START as usize]);
    if name_at > 0 {
        backing_name(image, &name);
    }
    let mut at = START;
    for (kind, data) in list {
        image.put32(at, *kind);
        image.put32(at + 4, data.len() as u32);
        image.write(at + 8, data);
        at += 8 + (data.len() as u64).next_multiple_of(8);
    }
}

/// Gives the image a backing file of this name.
pub(crate) fn backing_name(image: &mut Editor, name: &[u8]) {
    image.put(8, NAMES);
    image.put32(16, name.len() as u32);
    image.write(NAMES, name);
}

fn put(list: &'static [(u32, &'static [u8])]) -> impl FnOnce(&mut Editor) {
    move |i| extensions(i, list)
}

/// An extension of these bytes, which claims to have so many.
fn claims(kind: u32, length: u32) -> impl FnOnce(&mut Editor) {
    move |i| {
        extensions(i, &[(kind, &[1; 24])]);
        i.put32(START + 4, length);
    }
}

pub(crate) fn rows(rows: &mut Rows) {
    lengths(rows);
    backing_format(rows);
    data_file(rows);
    luks(rows);
    bitmaps(rows);
}

fn lengths(rows: &mut Rows) {
    rows.group("extensions");
    let room = 4096 - START as u32 - 8;
    let long = |text| refused_at(START, text);
    rows.add("one that fills the cluster, and no end", &V3, claims(UNKNOWN, room), Sound);
    let text = "a header extension of 3977 bytes does not end by 4096";
    rows.add("a byte past the cluster", &V3, claims(UNKNOWN, room + 1), long(text));
    let text = "a header extension of 4096 bytes does not end by 4096";
    rows.add("a cluster too long", &V3, claims(UNKNOWN, 4096), long(text));
    let text = "a header extension of 4294967295 bytes";
    rows.add("2^32-1 bytes", &V3, claims(UNKNOWN, u32::MAX), long(text));
    let text = "a header extension of 2147483648 bytes";
    rows.add("2^31 bytes", &V3, claims(UNKNOWN, 1 << 31), long(text));
    rows.add("unknown ones", &V3, put(&[(UNKNOWN, b"abc"), (u32::MAX, b"")]), Sound);
    rows.add("a feature table too long", &V3, claims(0x6803_f857, 5000), long("of 5000 bytes"));
    // Up to the name of the backing file, and not to the end of the cluster.
    let text = "does not end by 2048";
    let up_to_name = |i: &mut Editor| {
        extensions(i, &[(UNKNOWN, &[1; 24])]);
        i.put32(START + 4, 2048);
    };
    rows.add("one past the backing name", &OVERLAY, up_to_name, long(text));
    let many = |i: &mut Editor| {
        let list = vec![(UNKNOWN, &b""[..]); (4096 - START as usize) / 8];
        extensions(i, &list);
    };
    rows.add("as many as the cluster holds", &V3, many, Sound);
}

fn backing_format(rows: &mut Rows) {
    rows.group("backing format");
    let format =
        |format: &'static [u8]| move |i: &mut Editor| extensions(i, &[(BACKING_FORMAT, format)]);
    // The bytes of the image itself are the disk's, and nothing lies past their end.
    rows.add("raw over qcow2", &OVERLAY, format(b"raw"), LikeQemu);
    let raw = Made::File(crate::bases::content());
    let none = refused("should be a qcow2 image and is none");
    rows.add("qcow2 over raw", &OVERLAY, format(b"qcow2"), none).file("base.qcow2", raw);
    let twice = |i: &mut Editor| {
        extensions(i, &[(BACKING_FORMAT, b"raw"), (BACKING_FORMAT, b"qcow2")]);
    };
    rows.add("two, of which the last counts", &OVERLAY, twice, Sound);
    rows.add("none", &OVERLAY, put(&[]), Sound);
    rows.add("an empty one", &OVERLAY, format(b""), Sound);
    // QEMU has no such format, or another than ours: nobody can say what the file's bytes mean.
    for (name, format_name) in [
        ("unknown", &b"nonsense"[..]),
        ("vmdk over qcow2", b"vmdk"),
        ("vpc over qcow2", b"vpc"),
        ("parallels over qcow2", b"parallels"),
        ("QCOW2 in capitals", b"QCOW2"),
        ("control characters", b"qc\n\x1b[2J"),
        ("a byte that is no UTF-8", b"\xff\xfe"),
    ] {
        let text = "the format of its backing file";
        rows.add(name, &OVERLAY, format(format_name), refused(text));
    }
    let long = refused_at(START + 8, "has 16 bytes (at most 15)");
    rows.add("of 16 bytes", &OVERLAY, format(b"qcow2qcow2qcow2q"), long);
    rows.add("without a backing file", &V3, format(b"vmdk"), Sound);
}

/// A row whose data file has this name.
fn data_name<'a>(
    rows: &'a mut Rows,
    what: &str,
    file: &'static [u8],
    wanted: Outcome,
) -> &'a mut Row {
    let edit = |i: &mut Editor| extensions(i, &[(DATA_FILE_NAME, file)]);
    rows.add(what, &DATA_FILE, edit, wanted)
}

fn data_file(rows: &mut Rows) {
    rows.group("data file");
    data_name(
        rows,
        "an empty name",
        b"",
        refused_at(72, "an external data file, but not its name"),
    );
    let missing = refused("its external data file");
    data_name(rows, "one that is not there", b"other.data", missing.clone());
    data_name(rows, "an absolute path", b"/etc/hostname", missing.clone()).no_qemu();
    data_name(rows, "a path out of the source", b"../disk.data", missing.clone());
    data_name(rows, "a path far out", b"../../../../../../etc/passwd", missing.clone()).no_qemu();
    data_name(rows, "the image itself", b"disk.qcow2", missing.clone()).no_qemu();
    data_name(rows, "a folder", b".", missing.clone());
    let link = data_name(rows, "a link out of the source", b"link", missing.clone()).no_qemu();
    link.file("link", Made::Link("/etc/passwd".into()));
    data_name(rows, "a FIFO", b"fifo", missing.clone()).no_qemu().file("fifo", Made::Fifo);
    let json = br#"json:{"driver":"nbd","host":"localhost"}"#;
    let nbd = refused("is refused: it is reached by the driver \"nbd\"");
    data_name(rows, "json: nbd", json, nbd).no_qemu();
    let protocol = refused("is refused: it is reached over \"nbd\"");
    data_name(rows, "nbd:", b"nbd:unix:/tmp/socket", protocol).no_qemu();
    data_name(rows, "a NUL byte", b"disk.data\0x", refused("NUL byte")).stricter();
    data_name(rows, "a path with dots", b"./disk.data", Sound);
    // As the law has it; QEMU takes it for a name with a colon.
    data_name(rows, "file:", b"file:disk.data", Sound).kinder();
    rows.add("no name", &DATA_FILE, put(&[]), refused_at(72, "but not its name"));
    rows.add("a name without the bit", &V3, put(&[(DATA_FILE_NAME, b"/etc/passwd")]), Sound);

    // The file, not its name.
    let data = DATA_FILE.beside.iter().find(|(name, _)| name == "disk.data");
    let Some((_, Made::File(data))) = data else { panic!("a data file") };
    let with_file = |rows: &mut Rows, what, bytes: Vec<u8>, content: Option<Vec<u8>>| {
        let image = DATA_FILE.image.clone();
        let wanted = if content.is_none() { LikeQemu } else { Sound };
        let row = rows.add_bytes(what, &DATA_FILE, image, wanted);
        row.file("disk.data", Made::File(bytes));
        if let Some(content) = content {
            row.content(content);
        }
    };
    let zeros = vec![0; data.len()];
    with_file(rows, "empty: it reads as zeros", Vec::new(), Some(zeros.clone()));
    let half = [&data[..2 << 20], &zeros[2 << 20..]].concat();
    with_file(rows, "cut in the middle", data[..2 << 20].to_vec(), Some(half));
    let some = [&data[..1000], &zeros[1000..]].concat();
    with_file(rows, "cut within a sector", data[..1000].to_vec(), Some(some));
    with_file(rows, "longer than the disk", [&data[..], &[7; 9999]].concat(), Some(data.clone()));
}

fn luks(rows: &mut Rows) {
    rows.group("LUKS header");
    let luks = |method: u32, data: &'static [u8]| {
        move |i: &mut Editor| {
            extensions(i, &[(LUKS, data)]);
            i.put32(32, method);
        }
    };
    rows.add("without LUKS", &V3, luks(0, &[0; 16]), refused_at(32, "not encrypted by LUKS"));
    rows.add("with AES", &V3, luks(1, &[0; 16]), refused_at(32, "not encrypted by LUKS"));
    let short = refused_at(START + 8, "the LUKS header extension has 15 bytes instead of 16");
    rows.add("of 15 bytes", &V3, luks(2, &[0; 15]), short);
    rows.add("at 0", &V3, luks(2, &[0; 16]), refused("it is encrypted (LUKS)"));
    rows.add("past any file", &V3, luks(2, &[0xff; 16]), refused("it is encrypted (LUKS)"));
}

/// A reader needs no bitmaps, so that bad ones are a warning. QEMU refuses the whole image.
fn bitmaps(rows: &mut Rows) {
    rows.group("bitmaps");
    let warning = "its bitmaps cannot be read";
    let at = {
        let image = BITMAP.editor();
        let start = (START..4096).step_by(8).find(|at| image.u32(*at) == BITMAPS);
        start.expect("the bitmaps extension") + 8
    };
    let directory = BITMAP.editor().u64(at + 16);
    let mut bad = |name: &str, edit: &dyn Fn(&mut Editor)| {
        rows.add(name, &BITMAP, |i| edit(i), Sound).warned(warning).kinder();
    };
    bad("none in the directory", &|i| i.put32(at, 0));
    bad("65536 in the directory", &|i| i.put32(at, 65_536));
    bad("2^32-1 in the directory", &|i| i.put32(at, u32::MAX));
    bad("a directory of 2^63 bytes", &|i| i.put(at + 8, 1 << 63));
    bad("a directory of 2^64-1 bytes", &|i| i.put(at + 8, u64::MAX));
    bad("a directory misaligned", &|i| i.put(at + 16, directory + 8));
    bad("a directory at 0", &|i| i.put(at + 16, 0));
    bad("a directory at 2^64-4096", &|i| i.put(at + 16, u64::MAX - 4095));
    bad("a name of 65535 bytes", &|i| i.write(directory + 18, &[0xff, 0xff]));
    bad("extra data of 2^32-1 bytes", &|i| i.put32(directory + 20, u32::MAX));
    bad("no name", &|i| i.write(directory + 18, &[0, 0]));
    bad("an extension of 23 bytes", &|i| i.put32(at - 4, 23));
    bad("an extension of 16 bytes", &|i| i.put32(at - 4, 16));
    let without = |i: &mut Editor| {
        i.put(88, 0);
        i.put32(at, 0);
    };
    rows.add("stale ones are not looked at", &BITMAP, without, Sound).no_qemu();
}
