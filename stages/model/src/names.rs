//! The recipients of an epoch as the kernel sees them: a list of names and their canonical order.

/// Names by dictionary index, and the order in which the canonical table lists them.
pub trait Names: Sync {
    /// Number of names.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name with this index.
    fn name(&self, index: usize) -> &[u8];

    /// The name as a part of a longer text, and where it begins and ends there: a few bytes of any number are copied faster
    /// than a few bytes of just that number, if there are bytes behind them.
    #[inline]
    fn place(&self, index: usize) -> (&[u8], usize, usize) {
        let name = self.name(index);
        (name, 0, name.len())
    }

    /// Indices in ascending byte order of the names, a permutation of `0..len`; `None` when they stand in that order.
    fn order(&self) -> Option<&[u32]>;
}

/// Bytes of a name that its head holds.
pub const HEAD_BYTES: usize = 16;

/// Ones for the first so many bytes.
const LEADING: [u128; HEAD_BYTES + 1] = {
    let mut masks = [u128::MAX; HEAD_BYTES + 1];
    let mut len = 0;
    while len < HEAD_BYTES {
        masks[len] = !(u128::MAX >> (8 * len));
        len += 1;
    }
    masks
};

/// The first sixteen bytes of the name `text[start..end]` as a number that is ordered as they are, zeros after a short
/// name. So a greater head is a greater name; equal heads say nothing.
///
/// # Panics
/// When the range does not lie in the text.
#[inline]
pub fn head(text: &[u8], start: usize, end: usize) -> u128 {
    let len = end - start;
    match text[start..].first_chunk() {
        Some(bytes) => head_of(bytes, len),
        None => {
            let mut bytes = [0; HEAD_BYTES];
            bytes[..len].copy_from_slice(&text[start..end]);
            head_of(&bytes, len)
        }
    }
}

/// The head of a name of `len` bytes, from these on.
#[inline]
pub fn head_of(bytes: &[u8; HEAD_BYTES], len: usize) -> u128 {
    // What follows the name is cut off; by a mask, because a branch on a name's length is a coin's toss.
    u128::from_be_bytes(*bytes) & LEADING[len.min(HEAD_BYTES)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_ordered_as_names() {
        let text = "abc\u{fc}0123456789abcdefghi~".as_bytes();
        let cuts: Vec<_> =
            (0..text.len()).flat_map(|start| (start..=text.len()).map(move |end| (start, end))).collect();
        for (a, b) in cuts.iter().flat_map(|a| cuts.iter().map(move |b| (a, b))) {
            let (first, second) = (&text[a.0..a.1], &text[b.0..b.1]);
            match head(text, a.0, a.1).cmp(&head(text, b.0, b.1)) {
                std::cmp::Ordering::Equal => {
                    assert_eq!(first.get(..16).unwrap_or(first), second.get(..16).unwrap_or(second))
                }
                order => assert_eq!(order, first.cmp(second)),
            }
        }
    }
}
