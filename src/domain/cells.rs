//! Sets of a record's cells, and the hashes of what the CRM last held in each, as compact bytes.
//!
//! A set of cells is a bit mask in big-endian 64-bit words: cell `i` is bit `i % 64` of word `i /
//! 64`, so that SQL can build one with `int8send(1 << i)`. Hashes lie at 16 bytes per cell. In
//! both, what is missing at the end counts as zeros, so masks and hashes need not grow with the
//! mapping.

use std::fmt;

use crate::{Value, conflict};

/// Bytes of a cell's hash in the ledger: BLAKE3 cut to 128 bits. Making two values collide still
/// takes 2^64 work, and the ledger is half as large.
pub const HASH_BYTES: usize = 16;

const WORD_BYTES: usize = 8;
const WORD_BITS: usize = 64;
/// Words that ordinals of 16 bits can fill.
const MAX_WORDS: usize = (u16::MAX as usize + 1) / WORD_BITS;

/// A set of cell ordinals.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Cells {
    /// Never ends with a zero, so that equal sets are `==`.
    words: Vec<u64>,
}

impl Cells {
    pub fn new() -> Self {
        Cells::default()
    }

    /// Reads a mask of any length.
    pub fn from_bytes(mask: &[u8]) -> Self {
        Cells {
            words: words(mask).collect(),
        }
        .trimmed()
    }

    /// The mask, as short as it can be but never empty.
    pub fn to_bytes(&self) -> Vec<u8> {
        if self.words.is_empty() {
            return vec![0; WORD_BYTES];
        }
        self.words
            .iter()
            .flat_map(|word| word.to_be_bytes())
            .collect()
    }

    pub fn contains(&self, cell: u16) -> bool {
        let (word, bit) = place(cell);
        self.words.get(word).is_some_and(|w| w & bit != 0)
    }

    pub fn insert(&mut self, cell: u16) {
        let (word, bit) = place(cell);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= bit;
    }

    pub fn union(&self, other: &Cells) -> Cells {
        let (mut long, short) = if self.words.len() < other.words.len() {
            (other.clone(), self)
        } else {
            (self.clone(), other)
        };
        long.words
            .iter_mut()
            .zip(&short.words)
            .for_each(|(a, b)| *a |= b);
        long
    }

    pub fn difference(&self, other: &Cells) -> Cells {
        let mut cells = self.clone();
        cells
            .words
            .iter_mut()
            .zip(&other.words)
            .for_each(|(a, b)| *a &= !b);
        cells.trimmed()
    }

    pub fn intersection(&self, other: &Cells) -> Cells {
        let both = self.words.iter().zip(&other.words).map(|(a, b)| a & b);
        Cells {
            words: both.collect(),
        }
        .trimmed()
    }

    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    pub fn len(&self) -> usize {
        self.words
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
    }

    /// The ordinals, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        ordinals(self.words.iter().copied())
    }

    fn trimmed(mut self) -> Self {
        let used = self
            .words
            .iter()
            .rposition(|&word| word != 0)
            .map_or(0, |last| last + 1);
        self.words.truncate(used);
        self
    }
}

impl FromIterator<u16> for Cells {
    fn from_iter<I: IntoIterator<Item = u16>>(cells: I) -> Self {
        let mut set = Cells::new();
        cells.into_iter().for_each(|cell| set.insert(cell));
        set
    }
}

impl fmt::Debug for Cells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Whether a mask, as stored, has that cell.
pub fn contains(mask: &[u8], cell: u16) -> bool {
    let (word, bit) = place(cell);
    words(mask).nth(word).is_some_and(|w| w & bit != 0)
}

/// The ordinals of a mask, as stored, ascending.
pub fn iter(mask: &[u8]) -> impl Iterator<Item = u16> + '_ {
    ordinals(words(mask))
}

/// How many cells a mask, as stored, has.
pub fn len(mask: &[u8]) -> usize {
    words(mask).map(|word| word.count_ones() as usize).sum()
}

/// Whether a mask, as stored, has no cell.
pub fn is_empty(mask: &[u8]) -> bool {
    mask.iter().all(|&byte| byte == 0)
}

/// The word that holds a cell, and its bit there.
fn place(cell: u16) -> (usize, u64) {
    (
        usize::from(cell) / WORD_BITS,
        1 << (usize::from(cell) % WORD_BITS),
    )
}

fn words(mask: &[u8]) -> impl Iterator<Item = u64> + '_ {
    mask.chunks(WORD_BYTES).take(MAX_WORDS).map(|chunk| {
        let mut word = [0; WORD_BYTES];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_be_bytes(word)
    })
}

fn ordinals(words: impl Iterator<Item = u64>) -> impl Iterator<Item = u16> {
    words.enumerate().flat_map(|(index, word)| {
        // Clears the lowest bit until none is left.
        let rest = std::iter::successors(nonzero(word), |w| nonzero(w & (w - 1)));
        rest.map(move |w| (index * WORD_BITS) as u16 + w.trailing_zeros() as u16)
    })
}

fn nonzero(word: u64) -> Option<u64> {
    (word != 0).then_some(word)
}

/// The hashes of a record's cells, as stored: slot `i` at byte `16 * i`, all zeros where unknown.
#[derive(Clone, Copy, Debug)]
pub struct CellHashes<'a>(pub &'a [u8]);

impl<'a> CellHashes<'a> {
    /// The hash of a cell, if it is known.
    pub fn get(&self, cell: u16) -> Option<&'a [u8]> {
        let slot = self
            .0
            .get(usize::from(cell) * HASH_BYTES..)?
            .get(..HASH_BYTES)?;
        slot.iter().any(|&byte| byte != 0).then_some(slot)
    }

    /// Whether the CRM may hold something in a cell: a value is lost if it is emptied. What is not
    /// known counts as one.
    pub fn may_have_value(&self, cell: u16) -> bool {
        self.get(cell) != Some(&conflict::hash(&Value::Null)[..])
    }

    /// `hashes` with the slots of `cells` replaced by `new`, which has 16 bytes for each of them in
    /// ascending order (all zeros make a slot unknown again).
    ///
    /// # Panics
    /// If `new` is not of that length.
    pub fn set_many(hashes: Option<&[u8]>, cells: &Cells, new: &[u8]) -> Vec<u8> {
        assert_eq!(
            new.len(),
            cells.len() * HASH_BYTES,
            "one hash for each cell"
        );
        let mut all = hashes.unwrap_or_default().to_vec();
        let needed = cells
            .iter()
            .last()
            .map_or(0, |cell| (usize::from(cell) + 1) * HASH_BYTES);
        if all.len() < needed {
            all.resize(needed, 0);
        }
        for (cell, hash) in cells.iter().zip(new.chunks_exact(HASH_BYTES)) {
            all[usize::from(cell) * HASH_BYTES..][..HASH_BYTES].copy_from_slice(hash);
        }
        all
    }
}

/// The hash as the ledger keeps it: the first 128 bits, never all zeros, which mean unknown.
pub fn short(hash: &blake3::Hash) -> [u8; HASH_BYTES] {
    let mut short = [0; HASH_BYTES];
    short.copy_from_slice(&hash.as_bytes()[..HASH_BYTES]);
    if short == [0; HASH_BYTES] {
        short[HASH_BYTES - 1] = 1;
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_what_int8send_makes() {
        // int8send(1 << 0), int8send(1 << 9), and the second word's lowest bit.
        assert_eq!(Cells::from_iter([0]).to_bytes(), [0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(Cells::from_iter([9]).to_bytes(), [0, 0, 0, 0, 0, 0, 2, 0]);
        assert_eq!(
            Cells::from_iter([64]).to_bytes()[8..],
            [0, 0, 0, 0, 0, 0, 0, 1]
        );
        assert_eq!(Cells::from_iter([63]).to_bytes(), i64::MIN.to_be_bytes());
        assert_eq!(Cells::new().to_bytes(), [0; 8]);
    }

    #[test]
    fn masks_of_any_length_are_read() {
        assert!(Cells::from_bytes(&[]).is_empty());
        assert_eq!(Cells::from_bytes(&[0x80]), Cells::from_iter([63]));
        // What no ordinal can name does not count.
        assert_eq!(len(&[0xff; 10_000]), 1 << 16);
        assert_eq!(iter(&[0xff; 10_000]).last(), Some(u16::MAX));
    }

    #[test]
    fn a_cut_off_slot_is_unknown() {
        let stored = [1; 20];
        assert_eq!(CellHashes(&stored).get(0), Some(&stored[..16]));
        assert_eq!(CellHashes(&stored).get(1), None);
        assert_eq!(CellHashes(&stored).get(u16::MAX), None);
    }

    #[test]
    fn only_cells_known_to_be_empty_have_no_value() {
        let hashes = [
            conflict::hash(&Value::Null),
            conflict::hash(&Value::text("a")),
            [0; HASH_BYTES],
        ]
        .concat();
        let may = |cell: &u16| CellHashes(&hashes).may_have_value(*cell);
        assert_eq!((0..5).filter(may).collect::<Vec<u16>>(), [1, 2, 3, 4]);
    }

    #[test]
    fn a_short_hash_is_never_unknown() {
        assert_eq!(short(&blake3::Hash::from_bytes([7; 32])), [7; 16]);
        assert_ne!(short(&blake3::Hash::from_bytes([0; 32])), [0; 16]);
    }
}
