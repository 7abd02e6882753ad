//! Writes small qcow2 overlays, many and fast: qemu-img takes some 10 ms for each.
//!
//! Version 3, clusters of 512 bytes, so that an overlay with one data cluster is six clusters:
//! header, refcount table, refcount block, L1 table, L2 table, data. Refcounts are right, so
//! `qemu-img check` is content.

use std::path::Path;

/// Bytes of a cluster.
pub(crate) const CLUSTER: usize = 512;
/// Guest bytes that one L2 table maps: 64 entries of a cluster each.
const L2_REACH: u64 = 64 * CLUSTER as u64;
/// The largest disk that one cluster of L1 table maps.
pub(crate) const LARGEST: u64 = 64 * L2_REACH;

/// An overlay that holds at most one cluster.
pub(crate) struct Overlay<'a> {
    pub(crate) virtual_size: u64,
    /// Name and format (`raw`, `qcow2`) of what lies below.
    pub(crate) backing: Option<(&'a str, &'a str)>,
    /// Index of the guest cluster that it holds, and its bytes.
    pub(crate) data: Option<(u64, [u8; CLUSTER])>,
}

impl Overlay<'_> {
    pub(crate) fn write(&self, path: &Path) {
        std::fs::write(path, self.bytes()).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        assert!(self.virtual_size <= LARGEST && self.virtual_size.is_multiple_of(512));
        let clusters = if self.data.is_some() { 6 } else { 4 };
        let mut image = vec![0; clusters * CLUSTER];
        self.put_header(&mut image);
        put64(&mut image, CLUSTER, 2 * CLUSTER as u64);
        for cluster in 0..clusters {
            // Refcounts of 16 bits (refcount_order 4), all of them 1.
            image[2 * CLUSTER + 2 * cluster + 1] = 1;
        }
        if let Some((cluster, bytes)) = &self.data {
            let guest = cluster * CLUSTER as u64;
            assert!(guest < self.virtual_size, "the cluster lies past the end of the disk");
            let l1 = usize::try_from(guest / L2_REACH).expect("an L1 index");
            let l2 = usize::try_from(cluster % 64).expect("an L2 index");
            // Bit 63: the refcount is exactly one.
            put64(&mut image, 3 * CLUSTER + 8 * l1, 1 << 63 | (4 * CLUSTER) as u64);
            put64(&mut image, 4 * CLUSTER + 8 * l2, 1 << 63 | (5 * CLUSTER) as u64);
            image[5 * CLUSTER..].copy_from_slice(bytes);
        }
        image
    }

    fn put_header(&self, image: &mut [u8]) {
        image[..4].copy_from_slice(b"QFI\xfb");
        put32(image, 4, 3);
        put32(image, 20, 9);
        put64(image, 24, self.virtual_size);
        let l1_size = self.virtual_size.div_ceil(L2_REACH);
        put32(image, 36, u32::try_from(l1_size).expect("an L1 size"));
        put64(image, 40, 3 * CLUSTER as u64);
        put64(image, 48, CLUSTER as u64);
        put32(image, 56, 1);
        put32(image, 96, 4);
        put32(image, 100, 104);
        let Some((name, format)) = self.backing else { return };
        put32(image, 104, 0xe279_2aca);
        put32(image, 108, u32::try_from(format.len()).expect("a length"));
        image[112..112 + format.len()].copy_from_slice(format.as_bytes());
        // The list's end is eight zero bytes after the padded format; the name follows.
        let at = 112 + format.len().next_multiple_of(8) + 8;
        put64(image, 8, at as u64);
        put32(image, 16, u32::try_from(name.len()).expect("a length"));
        image[at..at + name.len()].copy_from_slice(name.as_bytes());
    }
}

fn put32(image: &mut [u8], at: usize, value: u32) {
    image[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

fn put64(image: &mut [u8], at: usize, value: u64) {
    image[at..at + 8].copy_from_slice(&value.to_be_bytes());
}
