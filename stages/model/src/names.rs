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

/// Ones for the first so many bytes.
const LEADING: [u128; 17] = {
    let mut masks = [u128::MAX; 17];
    let mut len = 0;
    while len < 16 {
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
    let len = (end - start).min(16);
    let bytes = match text[start..].first_chunk() {
        // What follows the name is cut off; by a mask, because a branch on a name's length is a coin's toss.
        Some(bytes) => *bytes,
        None => {
            let mut bytes = [0; 16];
            bytes[..len].copy_from_slice(&text[start..start + len]);
            bytes
        }
    };
    u128::from_be_bytes(bytes) & LEADING[len]
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
