use super::*;
use crate::error::Error;
use crate::source::MemoryFile;

/// What virtnbdbackup 1.9.15 writes into a compressed increment.
const JSON: &str = r#"{
    "virtualSize": 134217728,
    "dataSize": 1376256,
    "date": "2026-11-20T07:58:09.586326",
    "diskName": "vda",
    "diskFormat": "qcow2",
    "checkpointName": "virtnbdbackup.1",
    "compressed": 2,
    "compressionMethod": "lz4",
    "parentCheckpoint": "virtnbdbackup.0",
    "incremental": true,
    "streamVersion": 2
}"#;

fn stream(json: &str) -> Vec<u8> {
    format!("meta {:016x} {:016x}\r\n{json}\r\n", 0, json.len()).into_bytes()
}

fn read(bytes: Vec<u8>) -> Result<StreamMeta> {
    StreamMeta::read(&MemoryFile::new("vda.full.data", bytes))
}

fn parsed(json: &str) -> StreamMeta {
    StreamMeta::from_json(json.as_bytes()).unwrap()
}

fn refused(json: &str) -> Defect {
    StreamMeta::from_json(json.as_bytes()).unwrap_err()
}

/// A stream of nothing but the two keys that must be there, and one more.
fn with(key: &str, value: &str) -> String {
    format!(r#"{{"virtualSize": 9, "diskName": "vda", "{key}": {value}}}"#)
}

#[test]
fn every_key_of_the_tool_is_read() {
    let bytes = stream(JSON);
    let meta = StreamMeta {
        virtual_size: 134_217_728,
        data_size: Some(1_376_256),
        date: Some("2026-11-20T07:58:09.586326".to_owned()),
        disk_name: "vda".to_owned(),
        disk_format: Some("qcow2".to_owned()),
        checkpoint_name: Some("virtnbdbackup.1".to_owned()),
        parent_checkpoint: Some("virtnbdbackup.0".to_owned()),
        incremental: true,
        compression: Some(StreamCompression::Lz4),
        version: 2,
        frames_at: bytes.len() as u64,
    };
    assert!(is_stream(&bytes));
    assert_eq!(read(bytes).unwrap(), meta);
}

#[test]
fn older_streams_miss_keys() {
    let meta = StreamMeta {
        virtual_size: 9,
        data_size: None,
        date: None,
        disk_name: "sda".to_owned(),
        disk_format: None,
        checkpoint_name: None,
        parent_checkpoint: None,
        incremental: false,
        compression: None,
        version: 1,
        frames_at: 40 + 36 + 2,
    };
    assert_eq!(parsed(r#"{"virtualSize": 9, "diskName":"sda"}"#), meta);
}

#[test]
fn what_stands_for_no_parent_is_none() {
    for value in ["false", "null", r#""""#] {
        assert_eq!(parsed(&with("parentCheckpoint", value)).parent_checkpoint, None);
    }
    assert_eq!(parsed(&with("parentCheckpoint", r#""a""#)).parent_checkpoint.unwrap(), "a");
}

#[test]
fn a_stream_that_names_a_parent_is_an_increment_even_if_it_does_not_say_so() {
    assert!(parsed(&with("parentCheckpoint", r#""virtnbdbackup.0""#)).incremental);
    assert!(!parsed(&with("parentCheckpoint", r#""""#)).incremental);
    let both =
        r#"{"virtualSize": 9, "diskName": "a", "parentCheckpoint": "b", "incremental": false}"#;
    assert!(!parsed(both).incremental);
}

#[test]
fn a_level_is_compression_and_false_is_none() {
    for (value, packed) in
        [("false", false), ("null", false), ("true", true), ("2", true), ("0", true), ("-3", true)]
    {
        let meta = parsed(&with("compressed", value));
        assert_eq!(meta.compression.is_some(), packed, "{value}");
    }
}

#[test]
fn a_method_that_is_not_used_does_not_matter() {
    let zstd = r#"{"virtualSize": 9, "diskName": "vda", "compressionMethod": "zstd"}"#;
    assert_eq!(parsed(zstd).compression, None);
    let used = zstd.replace('}', r#", "compressed": true}"#);
    let defect = Defect::unsupported(40, "payloads compressed by `zstd`");
    assert_eq!(refused(&used), defect);
}

#[test]
fn versions_1_and_2_are_known_by_either_key() {
    for (key, value, version) in
        [("streamVersion", "1", 1), ("streamVersion", "2", 2), ("stream-version", "2", 2)]
    {
        assert_eq!(parsed(&with(key, value)).version, version);
    }
    let defect = Defect::unsupported(40, "a stream of version 3");
    assert_eq!(refused(&with("streamVersion", "3")), defect);
    let defect = Defect::unsupported(40, r#"a stream of version "2""#);
    assert_eq!(refused(&with("stream-version", r#""2""#)), defect);
}

#[test]
fn one_wrong_value_is_one_exact_error() {
    for (key, value, what) in [
        ("virtualSize", "-1", "`virtualSize` of the metadata is not a number of bytes"),
        ("virtualSize", "4611686018427387905", "no disk has 4611686018427387905 bytes"),
        ("dataSize", "1.5", "`dataSize` of the metadata is not a number of bytes"),
        ("date", "7", "`date` of the metadata is not text"),
        ("diskName", "false", "`diskName` of the metadata is not text"),
        ("checkpointName", "[]", "`checkpointName` of the metadata is not text"),
        ("parentCheckpoint", "true", "`parentCheckpoint` of the metadata is not text"),
        ("incremental", "1", "`incremental` of the metadata is not true or false"),
        ("compressed", r#""no""#, "`compressed` of the metadata is not true, false or a level"),
    ] {
        assert_eq!(refused(&with(key, value)), Defect::corrupt(40, what), "{key}");
    }
}

#[test]
fn a_stream_without_size_or_name_is_corrupt() {
    let defect = Defect::corrupt(40, "the metadata has no `virtualSize`");
    assert_eq!(refused(r#"{"diskName": "vda"}"#), defect);
    let defect = Defect::corrupt(40, "the metadata has no `diskName`");
    assert_eq!(refused(r#"{"virtualSize": 1, "diskName": null}"#), defect);
}

#[test]
fn what_is_no_json_object_is_corrupt() {
    for json in ["", "[]", "{", "\u{0}"] {
        let text = refused(json).to_string();
        assert!(text.starts_with("damaged at byte 40: the metadata is no JSON object: "), "{text}");
    }
}

#[test]
fn a_first_frame_that_is_not_whole_is_corrupt() {
    let whole = stream(JSON);
    let refused = |bytes: &[u8]| match read(bytes.to_vec()).unwrap_err() {
        Error::Corrupt { offset, what, .. } => (offset, what),
        other => panic!("{other}"),
    };
    let cut = "the file ends within the metadata, after 2 bytes (truncated?)";
    assert_eq!(refused(&whole[..42]), (40, cut.to_owned()));
    let cut = format!("the file ends within the metadata, after {} bytes (truncated?)", JSON.len());
    assert_eq!(refused(&whole[..whole.len() - 2]), (40, cut));
    let cut = "a frame's header is cut after 17 bytes";
    assert_eq!(refused(&whole[..17]), (0, cut.to_owned()));

    let mut bytes = whole.clone();
    bytes[..4].copy_from_slice(b"data");
    assert_eq!(refused(&bytes), (0, "the first frame is not `meta`".to_owned()));
    let mut bytes = whole.clone();
    *bytes.last_mut().unwrap() = b' ';
    assert_eq!(refused(&bytes), (40, "no CRLF follows the metadata".to_owned()));
    let mut bytes = whole;
    bytes[32] = b'1';
    let what = "the metadata claims 1048911 bytes, of 1048576 at most";
    assert_eq!(refused(&bytes), (0, what.to_owned()));
}

#[test]
fn a_raw_image_is_no_stream() {
    assert!(!is_stream(b"\xebc\x90"));
    assert!(!is_stream(b""));
    assert!(!is_stream(b"metadata"));
}
