//! The result file of a bulk job: CSV with a header, rows in any order, each tied to its record by
//! our key.

use std::borrow::Cow;

/// Goes through the rows. A file that breaks off ends there: whoever is left has no result.
pub(crate) struct ResultTable<'a> {
    reader: csv::Reader<&'a [u8]>,
    header: csv::ByteRecord,
    row: csv::ByteRecord,
}

impl<'a> ResultTable<'a> {
    /// `None`: there is no header.
    pub fn new(body: &'a [u8]) -> Option<Self> {
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(body);
        Some(ResultTable {
            header: reader.byte_headers().ok()?.clone(),
            reader,
            row: csv::ByteRecord::new(),
        })
    }

    /// The place of a column.
    pub fn column(&self, name: &str) -> Option<usize> {
        let named = |cell: &[u8]| cell.eq_ignore_ascii_case(name.as_bytes());
        self.header.iter().position(named)
    }

    /// Goes to the next row, if there is one.
    pub fn next(&mut self) -> bool {
        matches!(self.reader.read_byte_record(&mut self.row), Ok(true))
    }

    /// A cell of the row as it stands.
    pub fn cell(&self, column: usize) -> Option<&[u8]> {
        self.row.get(column)
    }

    /// A cell of the row as text; empty if it has no such column.
    pub fn text(&self, column: Option<usize>) -> Cow<'_, str> {
        column
            .and_then(|column| self.cell(column))
            .map(String::from_utf8_lossy)
            .unwrap_or_default()
    }
}
