//! Sealed bytes that several stages may hold, wherever they are.

use rewarder_decode::Source;
use rewarder_store::Object;
use std::io;
use std::sync::Arc;

/// A source that several stages may hold.
pub type SharedSource = Arc<dyn Source + Send + Sync>;

/// A stored object as a source for decode.
struct StoredSource(Object);

impl Source for StoredSource {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(offset, buffer)
    }
}

/// A stored snapshot, to be decoded or looked at.
pub fn stored_source(object: Object) -> SharedSource {
    Arc::new(StoredSource(object))
}
