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

    /// Indices in ascending byte order of the names, a permutation of `0..len`; `None` when they stand in that order.
    fn order(&self) -> Option<&[u32]>;
}
