use super::*;
use crate::error::Error;
use crate::extent::{Extent, HostOffset, Slot, Word, Words};
use crate::source::MemoryFile;

/// A stream without compression, frame by frame.
struct Stream {
    bytes: Vec<u8>,
    disk: u64,
    incremental: bool,
    data_size: Option<u64>,
}

fn header(kind: &str, start: u64, length: u64) -> Vec<u8> {
    format!("{kind} {start:016x} {length:016x}\r\n").into_bytes()
}

impl Stream {
    fn full(disk: u64) -> Self {
        Self { bytes: Vec::new(), disk, incremental: false, data_size: None }
    }

    fn increment(disk: u64) -> Self {
        Self { incremental: true, ..Self::full(disk) }
    }

    fn data(mut self, start: u64, length: u64) -> Self {
        self.bytes.extend(header("data", start, length));
        self.bytes.extend((0..length).map(|_| 7));
        self.bytes.extend(CRLF);
        self
    }

    fn frame(mut self, kind: &str, start: u64, length: u64) -> Self {
        self.bytes.extend(header(kind, start, length));
        self
    }

    fn stop(self) -> Self {
        self.frame("stop", 0, 0)
    }

    fn meta(&self) -> StreamMeta {
        let Self { disk, incremental, data_size, .. } = self;
        let data_size = data_size.map_or("null".to_owned(), |size| size.to_string());
        let json = format!(
            r#"{{"virtualSize": {disk}, "diskName": "vda", "incremental": {incremental},
                "dataSize": {data_size}}}"#
        );
        let mut meta = StreamMeta::from_json(json.as_bytes()).unwrap();
        // Nothing stands before the frames.
        meta.frames_at = 0;
        meta
    }

    fn index(&self) -> Result<Index, Error> {
        let file = MemoryFile::new("vda.data", self.bytes.clone());
        Index::build(&file, &self.meta())
    }

    fn refused(&self) -> (u64, String) {
        match self.index().unwrap_err() {
            Error::Corrupt { offset, what, .. } => (offset, what),
            other => panic!("{other}"),
        }
    }

    fn words(&self) -> Vec<Extent> {
        let mut words = Words::new(0..self.disk);
        self.index().unwrap().say(&mut words, self.disk, Word::Below);
        words.finish()
    }
}

fn says(range: Range<u64>, word: Word) -> Extent {
    Extent { range, word }
}

fn host(at: u64) -> Word {
    Word::At(Slot::Host(HostOffset(at)))
}

fn error(offset: u64, what: &str) -> (u64, String) {
    (offset, what.to_owned())
}

#[test]
fn frames_are_found_one_after_the_other() {
    let stream = Stream::full(1000).data(0, 100).frame("zero", 100, 400).data(500, 500).stop();
    assert_eq!(
        stream.words(),
        [says(0..100, host(40)), says(100..500, Word::Zero), says(500..1000, host(142 + 40 + 40)),]
    );
    assert!(stream.index().unwrap().flaws().is_empty());
    assert_eq!(stream.index().unwrap().data_size(), 600);
}

#[test]
fn a_stream_without_data_is_whole() {
    let stream = Stream::increment(1000).stop();
    assert_eq!(stream.words(), [says(0..1000, Word::Below)]);
    assert!(stream.index().unwrap().flaws().is_empty());
}

#[test]
fn frames_that_overlap_or_go_back_are_refused() {
    let start = Stream::increment(1000).data(100, 100);
    let what = "a data frame starts at 199 of the disk, where the one before it ends at 200";
    assert_eq!(start.data(199, 100).stop().refused(), error(142, what));
    let start = Stream::increment(1000).frame("zero", 500, 100);
    let what = "a zero frame starts at 0 of the disk, where the one before it ends at 600";
    assert_eq!(start.frame("zero", 0, 100).stop().refused(), error(40, what));
}

#[test]
fn frames_past_the_end_of_the_disk_are_refused() {
    let what = "a data frame of 2 bytes at 999 reaches past the disk's 1000 bytes";
    assert_eq!(Stream::full(1000).data(999, 2).stop().refused(), error(0, what));
    let what = "a zero frame of 18446744073709551615 bytes at 2 reaches past the disk's 1000 bytes";
    assert_eq!(Stream::full(1000).frame("zero", 2, u64::MAX).stop().refused(), error(0, what));
    assert!(Stream::increment(1000).data(999, 1).stop().index().is_ok());
}

#[test]
fn frames_of_no_bytes_are_refused() {
    let what = "a data frame of no bytes";
    assert_eq!(Stream::full(1000).data(10, 0).stop().refused(), error(0, what));
    let what = "a zero frame of no bytes";
    assert_eq!(Stream::full(1000).frame("zero", 10, 0).stop().refused(), error(0, what));
}

#[test]
fn frames_among_the_data_that_do_not_belong_there_are_refused() {
    for kind in ["meta", "comp"] {
        let stream = Stream::full(1000).data(0, 10).frame(kind, 0, 10).stop();
        assert_eq!(stream.refused(), error(52, &format!("a {kind} frame among the data")));
    }
}

#[test]
fn a_length_that_lies_is_refused() {
    // The payload really has 100 bytes.
    for (length, what) in [
        (99, "no CRLF at byte 139, where the payload that starts here ends"),
        (101, "no CRLF at byte 141, where the payload that starts here ends"),
        (300, "a payload of 300 bytes starts here, the file ends after 142 (truncated?)"),
    ] {
        let mut stream = Stream::increment(1000).data(0, 100).stop();
        stream.bytes[..40].copy_from_slice(&header("data", 0, length));
        assert_eq!(stream.refused(), error(40, what));
    }
}

#[test]
fn a_stream_cut_anywhere_is_refused() {
    let whole = Stream::full(1000).data(0, 100).frame("zero", 100, 800).data(900, 100).stop();
    let len = whole.bytes.len();
    for cut in 0..len {
        let mut stream = Stream::full(1000);
        stream.bytes = whole.bytes[..cut].to_vec();
        let (_, what) = stream.refused();
        assert!(what.contains("(truncated?)"), "cut to {cut} of {len}: {what}");
    }
}

#[test]
fn a_stream_without_its_stop_is_refused() {
    let stream = Stream::full(1000).data(0, 1000);
    let what = "the file ends before the stream's `stop` frame (truncated?)";
    assert_eq!(stream.refused(), error(1042, what));
}

#[test]
fn data_of_another_size_than_the_metadata_claim_are_refused() {
    let mut stream = Stream::full(1000).data(0, 100).frame("zero", 100, 900).stop();
    stream.data_size = Some(100);
    assert!(stream.index().is_ok());
    stream.data_size = Some(101);
    let what = "the metadata claims 101 bytes of data, there are 100";
    assert_eq!(stream.refused(), error(40, what));
}

#[test]
fn bytes_after_the_end_are_a_flaw() {
    let mut stream = Stream::full(10).data(0, 10).stop();
    stream.bytes.extend([0; 3]);
    let index = stream.index().unwrap();
    assert_eq!(index.flaws(), [Defect::corrupt(92, "3 bytes follow the end of the stream")]);
}

#[test]
fn a_full_backup_that_leaves_bytes_out_is_a_flaw() {
    let stream = |start: Stream| start.data(100, 10).frame("zero", 200, 100).stop();
    let what = "this is no increment, and leaves 890 bytes of the disk out, the first at 0: they \
                read as zeros";
    let full = stream(Stream::full(1000)).index().unwrap();
    assert_eq!(full.flaws(), [Defect::corrupt(92, what)]);
    assert!(stream(Stream::increment(1000)).index().unwrap().flaws().is_empty());
}

#[test]
fn bytes_that_are_no_frame_are_refused_with_their_place() {
    let mut stream = Stream::full(1000).data(0, 100).stop();
    stream.bytes[142..].fill(b'x');
    assert_eq!(stream.refused(), error(142, "`xxxx` is no kind of frame"));
    let mut stream = Stream::full(1000).data(0, 100).stop();
    stream.bytes[150] = b'z';
    assert_eq!(stream.refused(), error(150, "`z` is no hexadecimal digit"));
}
