//! The files of bulk write jobs: a ZIP that holds one CSV.

use std::io::{Cursor, Read, Write};

use zip::write::SimpleFileOptions;
use zip::{ZipArchive, ZipWriter};

/// What a result may be unpacked to: 25,000 rows of three columns and their errors are far less.
const MOST: u64 = 64 << 20;

/// A ZIP with one file.
pub(super) fn pack(name: &str, content: &[u8]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::with_capacity(content.len() / 4)));
    zip.start_file(name, SimpleFileOptions::default())
        .and_then(|()| Ok(zip.write_all(content)?))
        .and_then(|()| zip.finish())
        .expect("memory takes every file")
        .into_inner()
}

/// The first file of a ZIP. `None`: it is none, or holds more than can be.
pub(super) fn unpack(zip: &[u8]) -> Option<Vec<u8>> {
    let mut archive = ZipArchive::new(Cursor::new(zip)).ok()?;
    let file = archive.by_index(0).ok()?;
    let mut content = Vec::new();
    file.take(MOST + 1).read_to_end(&mut content).ok()?;
    (content.len() as u64 <= MOST).then_some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked() {
        for content in [&b""[..], b"id\n1\n", &[0, 255, b'\n'].repeat(100_000)] {
            assert_eq!(unpack(&pack("x.csv", content)).as_deref(), Some(content));
        }
        let whole = pack("x.csv", b"id\n1\n");
        for broken in [&b""[..], b"<html>", &whole[..whole.len() / 2]] {
            assert_eq!(unpack(broken), None);
        }
    }
}
