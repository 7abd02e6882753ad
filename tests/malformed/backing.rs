//! Names of backing files: what they lead to, and what nobody follows.

use crate::bases::{MIB, OVERLAY, V3, content};
use crate::common::qcow2_editor::Editor;
use crate::common::report::root_or_skip;
use crate::extensions::{BACKING_FORMAT, backing_name, extensions};
use crate::row::Outcome::{self, LikeQemu, Sound};
use crate::row::{DISK, Device, Made, Row, Rows, refused};

pub(crate) fn rows(rows: &mut Rows) {
    rows.group("backing name");
    outside(rows);
    loops(rows);
    protocols(rows);
    lengths(rows);
    json(rows);
    content_of_it(rows);
}

fn named<'a>(rows: &'a mut Rows, what: &str, name: &[u8], wanted: Outcome) -> &'a mut Row {
    rows.add(what, &OVERLAY, |i| backing_name(i, name), wanted)
}

fn outside(rows: &mut Rows) {
    let missing = refused("its backing file");
    let mut not_followed = |what: &str, name: &[u8]| {
        named(rows, what, name, missing.clone()).no_qemu();
    };
    not_followed("/etc/shadow", b"/etc/shadow");
    not_followed("/dev/zero", b"/dev/zero");
    not_followed("/proc/self/mem", b"/proc/self/mem");
    not_followed("far out", b"../../../../../../../../etc/shadow");
    not_followed("by way of the folder", b"x/../../base.qcow2");
    not_followed("a descriptor", b"/dev/fd/0");
    not_followed("the root", b"/");
    not_followed("control characters", b"a\x1b[2J\nb");
    not_followed("no UTF-8", b"\xff\xfe");
    named(rows, "one folder up", b"../base.qcow2", missing.clone());
    named(rows, "not there", b"other.qcow2", missing.clone());
    named(rows, "the folder", b".", missing.clone());
    let link = |to: &str| Made::Link(to.into());
    let row = named(rows, "a link out of the source", b"link.qcow2", missing.clone()).no_qemu();
    row.file("link.qcow2", link("/etc/passwd"));
    // Links are never followed, not even within the source.
    let not_followed = refused("\"link.qcow2\" is there, but is not read: a symbolic link");
    let row = named(rows, "a link within the source", b"link.qcow2", not_followed).stricter();
    row.file("link.qcow2", link("base.qcow2"));
    special(rows);
    let row = named(rows, "a folder of that name", b"folder.qcow2", missing.clone());
    row.file("folder.qcow2", Made::Folder);
    let row = named(rows, "a link to the outside instead", b"base.qcow2", missing.clone());
    row.no_qemu().file("base.qcow2", link("/etc/passwd"));
    let row = named(rows, "a path through a link", b"link/base.qcow2", missing);
    row.stricter().file("link", link("."));
}

/// What is no regular file is not even opened, whatever it is called and would hold. As a raw base
/// nothing in its bytes could be wrong.
fn special(rows: &mut Rows) {
    let devices = [
        ("a character device", Made::Device(Device::Zero)),
        ("a block device", Made::Device(Device::Loop)),
    ];
    let mut made = vec![("a FIFO", Made::Fifo), ("a socket", Made::Socket)];
    if root_or_skip("the rows of device nodes as backing files") {
        made.extend(devices);
    }
    for (what, made) in made {
        let format = named_raw("base.raw");
        let row = rows.add(
            what,
            &OVERLAY,
            format,
            refused("\"base.raw\" is there, but is not read: neither a file nor a folder"),
        );
        row.no_qemu().file("base.raw", made);
    }
}

/// Names a raw backing file.
fn named_raw(name: &str) -> impl FnOnce(&mut Editor) {
    move |i| {
        extensions(i, &[(BACKING_FORMAT, b"raw")]);
        backing_name(i, name.as_bytes());
    }
}

fn loops(rows: &mut Rows) {
    named(rows, "itself", b"disk.qcow2", refused("its backing file")).no_qemu();
    let row =
        named(rows, "itself, by way of dots", b"./././disk.qcow2", refused("its backing file"));
    row.no_qemu();
    let round = refused("leads back to itself");
    let mut other = OVERLAY.editor();
    backing_name(&mut other, DISK.as_bytes());
    let row = named(rows, "a loop of two", b"./base.qcow2", round.clone()).no_qemu();
    row.file("base.qcow2", Made::File(other.bytes.clone()));
    let mut third = OVERLAY.editor();
    backing_name(&mut third, b"third.qcow2");
    let row = named(rows, "a loop of three", b"./base.qcow2", round).no_qemu();
    row.file("base.qcow2", Made::File(third.bytes));
    row.file("third.qcow2", Made::File(other.bytes.clone()));
    let stands = refused("it stands on base.qcow2, which cannot be assembled");
    let mut own = OVERLAY.editor();
    backing_name(&mut own, b"base.qcow2");
    let row = named(rows, "one that is its own", b"./base.qcow2", stands.clone()).no_qemu();
    row.file("base.qcow2", Made::File(own.bytes));
    let mut lost = OVERLAY.editor();
    backing_name(&mut lost, b"lost.qcow2");
    let row = named(rows, "one that has lost its own", b"./base.qcow2", stands);
    row.file("base.qcow2", Made::File(lost.bytes));
}

fn protocols(rows: &mut Rows) {
    for (name, protocol) in [
        ("nbd://localhost/disk", "over \"nbd\""),
        ("nbd:unix:/tmp/socket", "over \"nbd\""),
        ("nbd+unix:///disk?socket=/tmp/x", "over \"nbd+unix\""),
        ("ssh://root@localhost/disk", "over \"ssh\""),
        ("https://localhost/disk", "over \"https\""),
        ("iscsi://localhost/disk/0", "over \"iscsi\""),
        ("rbd:pool/disk", "over \"rbd\""),
        ("fat:/etc", "over \"fat\""),
        ("host_device:/dev/zero", "over \"host_device\""),
        ("null-co://", "over \"null-co\""),
        (":x", "over \"\""),
    ] {
        named(rows, name, name.as_bytes(), refused(protocol)).no_qemu();
    }
    named(rows, "file:", b"file:base.qcow2", Sound);
    named(rows, "a colon behind a slash", b"./a:b", refused("its backing file ./a:b is missing"));
}

fn lengths(rows: &mut Rows) {
    let dotted = |len: usize| {
        let mut name = b"./".repeat((len - 10) / 2);
        name.extend(b"base.qcow2");
        if name.len() < len {
            name.insert(1, b'/');
        }
        assert_eq!(name.len(), len);
        name
    };
    named(rows, "of 1022 bytes", &dotted(1022), Sound);
    named(rows, "of 1023 bytes", &dotted(1023), Sound);
    let long = crate::row::refused_at(16, "1024 bytes (here at most 1023)");
    named(rows, "of 1024 bytes", &dotted(1024), long);
    named(rows, "1023 bytes without a slash", &[b'x'; 1023], refused("its backing file"));
    // Without a length there is no backing file.
    rows.add("empty", &OVERLAY, |i| i.put32(16, 0), LikeQemu);
    named(rows, "a NUL byte behind it", b"base.qcow2\0", refused("NUL byte")).stricter();
    rows.add("a byte short", &OVERLAY, |i| i.put32(16, 9), refused("base.qcow is missing"));
}

/// The options of QEMU's block drivers.
fn json(rows: &mut Rows) {
    rows.group("json: as backing name");
    let driver = |text| refused(text);
    for (name, text) in [
        (r#"json:{"driver":"nbd","host":"x"}"#, "by the driver \"nbd\""),
        (r#"json:{"driver":"qcow2","file":{"driver":"ssh","path":"x"}}"#, "the driver \"ssh\""),
        (r#"json:{"driver":"host_device","filename":"/dev/zero"}"#, "the driver \"host_device\""),
        (r#"json:{"file.driver":"nbd","file.filename":"x"}"#, "the driver \"nbd\""),
        (r#"json:{"driver":"blkdebug","image":"base.qcow2"}"#, "the driver \"blkdebug\""),
        ("json:{", "does not parse"),
        ("json:", "does not parse"),
        ("json:[]", "holds no file name"),
        ("json:7", "holds no file name"),
        (r#"json:{"driver":"qcow2"}"#, "holds no file name"),
        (r#"json:{"driver":"qcow2","file":"node"}"#, "holds no file name"),
        (r#"json:{"driver":"file","filename":"base.qcow2\u0000"}"#, "NUL byte"),
        (r#"json:{"driver":"file","filename":"/etc/shadow"}"#, "/etc/shadow is missing"),
        (r#"json:{"driver":"file","filename":"../base.qcow2"}"#, "../base.qcow2 is missing"),
        (r#"json:{"driver":"file","filename":"disk.qcow2"}"#, "disk.qcow2 is missing"),
    ] {
        named(rows, name, name.as_bytes(), driver(text)).no_qemu();
    }
    let deep = format!("json:{}7{}", r#"{"file":"#.repeat(100), "}".repeat(100));
    named(rows, "100 levels", deep.as_bytes(), refused("nested too deeply")).no_qemu();
    let brackets = format!("json:{}", "[".repeat(1000));
    named(rows, "1000 brackets", brackets.as_bytes(), refused("does not parse")).no_qemu();

    let file = r#"{"driver":"file","filename":"base.qcow2"}"#;
    let qcow2 = format!(r#"json:{{"driver":"qcow2","file":{file}}}"#);
    named(rows, "qcow2 over file", qcow2.as_bytes(), Sound);
    let dotted = br#"json:{"driver":"qcow2","file.driver":"file","file.filename":"base.qcow2"}"#;
    named(rows, "dotted keys", dotted, Sound);
    // The driver is the format where the header names none: a guest may have written the rest.
    let raw = format!(r#"json:{{"driver":"raw","file":{file}}}"#);
    let as_raw = |name: String| {
        move |i: &mut Editor| {
            extensions(i, &[]);
            backing_name(i, name.as_bytes());
        }
    };
    rows.add("raw over qcow2", &OVERLAY, as_raw(raw), LikeQemu);
    // Options that show other bytes than those of the file are not followed.
    for (what, json) in [
        ("an offset", format!(r#"json:{{"driver":"raw","offset":4096,"file":{file}}}"#)),
        ("a size", format!(r#"json:{{"driver":"raw","size":4096,"file":{file}}}"#)),
        ("no backing file", format!(r#"json:{{"driver":"qcow2","backing":null,"file":{file}}}"#)),
        ("a data file", format!(r#"json:{{"driver":"qcow2","data-file":"x","file":{file}}}"#)),
        (
            "an encrypted one",
            format!(r#"json:{{"driver":"qcow2","encrypt.format":"luks","file":{file}}}"#),
        ),
    ] {
        let text = "of its json: name";
        rows.add(what, &OVERLAY, as_raw(json), refused(text)).no_qemu();
    }
    let harmless =
        format!(r#"json:{{"driver":"qcow2","read-only":true,"discard":"unmap","file":{file}}}"#);
    named(rows, "harmless options", harmless.as_bytes(), Sound);
}

/// What the name leads to is not what the overlay expects.
fn content_of_it(rows: &mut Rows) {
    rows.group("backing file");
    let mut with = |what: &str, base: Vec<u8>, wanted: Outcome| {
        let row = rows.add_bytes(what, &OVERLAY, OVERLAY.image.clone(), wanted);
        row.file("base.qcow2", Made::File(base));
    };
    let none = refused("should be a qcow2 image and is none");
    with("empty", Vec::new(), none.clone());
    with("a text", b"This is no image.".to_vec(), none.clone());
    with("a VMDK", [&b"KDMV"[..], &[0; 4096]].concat(), none.clone());
    with("a raw disk", content(), none);
    let broken = refused("which cannot be assembled");
    let edited = |edit: &dyn Fn(&mut Editor)| {
        let mut image = V3.editor();
        edit(&mut image);
        image.bytes
    };
    with("of version 4", edited(&|i| i.put32(4, 4)), broken.clone());
    with("encrypted", edited(&|i| i.put32(32, 1)), broken.clone());
    with("marked as corrupt", edited(&|i| i.put(72, 2)), Sound);
    // Past its end: zeros.
    with("smaller", edited(&|i| i.put(24, 3 * MIB)), LikeQemu);
    with("of no bytes", edited(&|i| i.put(24, 0)), LikeQemu);
    with("larger", edited(&|i| i.put(24, 6 * MIB)), Sound);
    let entry = V3.editor().l1()[2];
    let misaligned = edited(&|i| i.put(entry.at, entry.value | 512));
    // The overlay's own cluster of zeros hides none of it.
    with("with a bad table", misaligned, crate::row::eio(4 * MIB..5 * MIB));
    let first = V3.editor().l2(&V3.editor().l1())[1];
    let hidden = edited(&|i| i.put(first.at, first.value | 512));
    with("with a bad cluster that the overlay hides", hidden, Sound);
    // QEMU reads an empty disk.
    let row = rows.add_bytes("cut to its header", &OVERLAY, OVERLAY.image.clone(), broken);
    row.stricter().file("base.qcow2", Made::File(V3.image[..4096].to_vec()));
}
