//! Parquet files, decoded by the crate parquet.
//!
//! The law: memory is taken for what is there, and nothing is looked for behind the end of the file. The decoder believes what a file
//! says of lengths and counts, and takes what it passes over for passed over though there is no more; so bytes are read for it here.

use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A Parquet file whose footer is read.
pub(crate) struct Pages {
    bytes: FileBytes,
    metadata: ArrowReaderMetadata,
}

impl Pages {
    pub fn open(file: File) -> Result<Self> {
        let len = file.metadata()?.len();
        let bytes = FileBytes { file: Arc::new(file), len };
        let metadata = ArrowReaderMetadata::load(&bytes, ArrowReaderOptions::new())?;
        Ok(Self { bytes, metadata })
    }

    pub fn schema(&self) -> &Schema {
        self.metadata.schema()
    }

    /// How many rows it says that there are: to be told, not to be counted on.
    pub fn rows(&self) -> u64 {
        u64::try_from(self.metadata.metadata().file_metadata().num_rows()).unwrap_or(0)
    }

    /// Batches of these columns and so many rows, strings as views.
    pub fn batches(self, columns: Vec<usize>, rows: usize) -> Result<ParquetRecordBatchReader> {
        let schema = with_views(self.schema(), &columns);
        let as_views = ArrowReaderOptions::new().with_schema(Arc::new(schema));
        let metadata = ArrowReaderMetadata::try_new(self.metadata.metadata().clone(), as_views)?;
        let mask = ProjectionMask::roots(metadata.parquet_schema(), columns);
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(self.bytes, metadata);
        reader.with_projection(mask).with_batch_size(rows).build()
    }
}

/// The schema with the strings of these columns as views: rows then point into the file's pages. As strings each row is a copy,
/// and a value of a page's dictionary may be as long as its writer wants, and be in every row.
fn with_views(schema: &Schema, columns: &[usize]) -> Schema {
    let fields = schema.fields().iter().enumerate().map(|(column, field)| match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 if columns.contains(&column) => {
            Arc::new(Field::clone(field).with_data_type(DataType::Utf8View))
        }
        _ => field.clone(),
    });
    Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone())
}

/// A file's bytes for the decoder.
struct FileBytes {
    file: Arc<File>,
    len: u64,
}

impl Length for FileBytes {
    fn len(&self) -> u64 {
        self.len
    }
}

impl ChunkReader for FileBytes {
    type T = BufReader<Onward>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        Ok(BufReader::new(Onward { file: self.file.clone(), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.len) {
            let why = format!("{length} bytes from byte {start} on are not within the file");
            return Err(ParquetError::EOF(why));
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }
}

/// The bytes of a file from one on; there is no end of them but an error.
struct Onward {
    file: Arc<File>,
    at: u64,
}

impl Read for Onward {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        if read == 0 && !buffer.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the data goes on behind the end of the file",
            ));
        }
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{ArrayRef, RecordBatch, StringArray, UInt64Array};

    #[test]
    fn a_long_name_in_every_row_of_a_parquet_file_is_in_memory_once() {
        const ROWS: usize = 1000;
        let name = "x".repeat(100_000);
        let column = |name: &str| -> ArrayRef { Arc::new(StringArray::from_iter_values([name; ROWS])) };
        let units: ArrayRef = Arc::new(UInt64Array::from_iter_values([1; ROWS]));
        let columns = [("actor", column(&name)), ("category", column("views")), ("units", units)];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        let mut writer = parquet::arrow::ArrowWriter::try_new(&mut file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();

        let pages = Pages::open(file).unwrap();
        assert_eq!(pages.rows(), ROWS as u64);
        let batch = pages.batches(vec![0, 1, 2], ROWS).unwrap().next().unwrap().unwrap();
        assert_eq!(batch.num_rows(), ROWS);
        let bytes = batch.get_array_memory_size();
        assert!(bytes < 4 * name.len(), "{bytes} bytes for one name of {}", name.len());
    }
}
