//! The targets: what is tried with bytes that nobody ever wrote, and what must hold of it. Each
//! takes any bytes, and panics where something does not hold.

pub mod chain;
pub mod header;
pub mod image;
pub mod lz4_checksums;
pub mod names;
pub mod partitions;
pub mod stream;

mod disk;
mod model;
mod random;
mod words;

pub use random::Random;

/// One target.
pub struct Target {
    /// What it is called.
    pub name: &'static str,
    /// Tries one input.
    pub run: fn(&[u8]),
    /// Puts right what a mutation would hardly ever hit, such as checksums.
    pub mend: fn(&mut [u8]),
}

/// All targets.
pub const ALL: [Target; 6] = [
    Target { name: "header", run: header::run, mend: nothing },
    Target { name: "image", run: image::run, mend: nothing },
    Target { name: "chain", run: chain::run, mend: lz4_checksums::put_right },
    Target { name: "stream", run: stream::run, mend: lz4_checksums::put_right },
    Target { name: "names", run: names::run, mend: nothing },
    Target { name: "partitions", run: partitions::run, mend: partitions::mend },
];

fn nothing(_: &mut [u8]) {}
