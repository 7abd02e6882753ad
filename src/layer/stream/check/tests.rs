use super::*;
use crate::source::MemoryFile;

/// A full stream of a disk of 16 bytes: 8 bytes of data, 8 of zeros.
fn stream() -> Vec<u8> {
    let json = br#"{"virtualSize": 16, "dataSize": 8, "diskName": "vda"}"#;
    let mut bytes = format!("meta {:016x} {:016x}\r\n", 0, json.len()).into_bytes();
    bytes.extend(json);
    bytes.extend(b"\r\n");
    bytes.extend(format!("data {:016x} {:016x}\r\n", 0, 8).into_bytes());
    bytes.extend(b"01234567\r\n");
    bytes.extend(format!("zero {:016x} {:016x}\r\n", 8, 8).into_bytes());
    bytes.extend(format!("stop {:016x} {:016x}\r\n", 0, 0).into_bytes());
    bytes
}

/// Whether the disk is spoiled, and the bytes of all findings.
fn check(bytes: Vec<u8>) -> (bool, Vec<Option<u64>>) {
    let file: Arc<dyn Source> = Arc::new(MemoryFile::new("vda.full.data", bytes));
    let meta = StreamMeta::read(file.as_ref()).unwrap();
    let check = check_stream(&file, &meta, &|_| {});
    (check.spoiled, check.findings.into_list().into_iter().map(|found| found.offset).collect())
}

#[test]
fn a_sound_stream_is_sound() {
    assert_eq!(check(stream()), (false, Vec::new()));
}

#[test]
fn a_stream_without_its_end_is_spoiled() {
    let mut bytes = stream();
    let stop = bytes.len() - 40;
    bytes.truncate(stop);
    assert_eq!(check(bytes), (true, vec![Some(stop as u64)]));
}

#[test]
fn bytes_after_the_end_are_damage_and_spoil_nothing() {
    let end = stream().len() as u64;
    assert_eq!(check([stream(), vec![0; 5]].concat()), (false, vec![Some(end)]));
}
