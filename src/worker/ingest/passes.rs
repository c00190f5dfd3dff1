//! Passes through a CRM's changes, page by page: what is remembered of a map's.

use super::request::PAGE;

#[derive(Default)]
pub struct PollPasses {
    /// Passes that were begun, and the last one that is complete.
    begun: u64,
    complete: u64,
    /// Records of the map were applied, or tried to, since the worker began.
    pub is_tried: bool,
    /// The current pass reads every record.
    reads_all: bool,
    /// In a row.
    pub failures: u32,
    /// Records of a page at most, once a response was too long.
    page: Option<usize>,
}

impl PollPasses {
    /// The number of the next pass that begins.
    pub fn next_pass(&self) -> u64 {
        self.begun + 1
    }

    pub fn is_complete(&self, pass: u64) -> bool {
        self.complete >= pass
    }

    /// Whether a pass has begun and is not complete.
    pub fn is_open(&self) -> bool {
        self.begun > self.complete
    }

    /// Begins a pass unless one is open.
    pub fn begin(&mut self) {
        if !self.is_open() {
            self.begun += 1;
        }
    }

    pub fn end(&mut self) {
        self.complete = self.begun;
        self.reads_all = false;
    }

    /// Notes that the current pass reads every record, if so; whether it does.
    pub fn reads_all(&mut self, from_the_start: bool) -> bool {
        self.reads_all |= from_the_start;
        self.reads_all
    }

    pub fn page_size(&self) -> usize {
        self.page.unwrap_or(PAGE)
    }

    pub fn set_page_size(&mut self, records: usize) {
        self.page = Some(records.clamp(1, PAGE));
    }
}
