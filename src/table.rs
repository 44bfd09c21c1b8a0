//! Allocations for people: Arrow IPC, CSV and NDJSON of the same rows as the canonical text, with the score beside each
//! payout (contract §5). A convenience; nothing is committed to these encodings.

use crate::epoch::Names;
use arrow_array::cast::AsArray;
use arrow_array::types::Decimal128Type;
use arrow_array::{ArrayRef, Decimal128Array, RecordBatch, StringArray};
use arrow_buffer::OffsetBuffer;
use arrow_ipc::reader::FileReader;
use arrow_ipc::writer::{FileWriter, StreamWriter};
use arrow_schema::{ArrowError, DataType, Field, Schema};
use rayon::prelude::*;
use rewarder_flow::Lane;
use rewarder_reward::Outcome;
use std::io::{self, Read, Seek, Write};
use std::ops::Range;
use std::sync::Arc;

/// Most rows of a batch.
const BATCH_ROWS: usize = 8 * 1024;
/// Batches of a small table, of at least [`SMALL_BATCH_ROWS`], so that there is work for several threads.
const SMALL_BATCHES: usize = 4;
/// See there.
const SMALL_BATCH_ROWS: usize = 1024;
/// Batches that are made for each thread while as many are written: whoever is done with the one helps with the other.
const BATCHES_PER_THREAD: usize = 2;

fn schema(scale: u8) -> Arc<Schema> {
    Arc::new(Schema::new(vec![
        Field::new("actor", DataType::Utf8, false),
        Field::new("score", DataType::Decimal128(38, scale as i8), false),
        Field::new("payout_minor_units", DataType::Decimal128(38, 0), false),
    ]))
}

/// The recipients among some places of the canonical order, `rows` at the most, as columns.
fn batch(
    outcome: &Outcome,
    names: &(impl Names + ?Sized),
    schema: &Arc<Schema>,
    ranks: Range<usize>,
    rows: usize,
) -> Result<RecordBatch, ArrowError> {
    let line = outcome.table.len().checked_div(outcome.table.recipients).unwrap_or(0) as usize;
    let (mut text, mut ends) = (Vec::with_capacity(rows * line), Vec::with_capacity(rows + 1));
    let (mut scores, mut payouts) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
    ends.push(0);
    outcome.recipients(ranks, 0, names, |actor, score, payout| {
        text.extend_from_slice(actor);
        // Names of a batch are at most 2 MiB together.
        ends.push(text.len() as i32);
        // Both are below 10^38, which a payable run has shown.
        scores.push(score as i128);
        payouts.push(payout as i128);
    });
    let decimals = |values: Vec<i128>, column: usize| {
        Decimal128Array::from(values).with_data_type(schema.field(column).data_type().clone())
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::try_new(OffsetBuffer::new(ends.into()), text.into(), None)?),
        Arc::new(decimals(scores, 1)),
        Arc::new(decimals(payouts, 2)),
    ];
    RecordBatch::try_new(schema.clone(), columns)
}

fn other(e: ArrowError) -> io::Error {
    match e {
        ArrowError::IoError(_, e) => e,
        e => io::Error::other(e),
    }
}

/// Writes `allocations.arrow`, an Arrow IPC file. Batches are made on the pool, some for each of its threads, while those
/// before are written.
///
/// # Errors
/// Those of the writer.
pub fn write_arrow(
    pool: &Lane,
    outcome: &Outcome,
    names: &(impl Names + ?Sized),
    scale: u8,
    to: impl Write + Send,
) -> io::Result<()> {
    let schema = schema(scale);
    let mut writer = FileWriter::try_new(to, &schema).map_err(other)?;
    let recipients = usize::try_from(outcome.table.recipients).unwrap_or(usize::MAX);
    let rows = recipients.div_ceil(SMALL_BATCHES).clamp(SMALL_BATCH_ROWS, BATCH_ROWS);
    let ranges = outcome.table.cut(rows);
    let mut groups = ranges.chunks(BATCHES_PER_THREAD * pool.threads().max(1));
    let mut make = || {
        let group = groups.next().unwrap_or_default();
        let batches = group.par_iter().map(|ranks| batch(outcome, names, &schema, ranks.clone(), rows));
        batches.collect::<Result<Vec<_>, _>>()
    };
    pool.install(|| {
        let mut made = make()?;
        while !made.is_empty() {
            let write = || made.iter().try_for_each(|batch| writer.write(batch));
            let (written, next) = rayon::join(write, &mut make);
            written?;
            made = next?;
        }
        writer.finish()
    })
    .map_err(other)
}

/// The forms into which a stored `allocations.arrow` is turned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Arrow IPC stream.
    ArrowStream,
    /// RFC 4180, with a header line.
    Csv,
    /// A JSON object a line.
    Ndjson,
}

/// Rows of one part of a text form: about 64 KiB.
const PART_ROWS: usize = 1024;

/// The Arrow file that we wrote, in another form, part by part: whoever wants none for a while costs no thread meanwhile, and
/// one batch of memory.
pub struct Converted<R: Read + Seek> {
    reader: FileReader<R>,
    to: To,
}

/// How the parts are made.
enum To {
    /// The writer's buffer is emptied after each batch; none when the end is written.
    Stream(Option<Box<StreamWriter<Vec<u8>>>>),
    /// The batch under way and the row that is next.
    Text { form: Form, batch: Option<RecordBatch>, row: usize, begun: bool },
}

impl<R: Read + Seek> Converted<R> {
    /// Opens the file.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn open(from: R, form: Form) -> io::Result<Self> {
        let reader = FileReader::try_new(from, None).map_err(other)?;
        let to = match form {
            Form::ArrowStream => {
                let writer = StreamWriter::try_new(Vec::new(), &reader.schema()).map_err(other)?;
                To::Stream(Some(Box::new(writer)))
            }
            form => To::Text { form, batch: None, row: 0, begun: false },
        };
        Ok(Self { reader, to })
    }

    /// The next part; none at the end.
    ///
    /// # Errors
    /// Those of reader and writer.
    pub fn next_part(&mut self) -> io::Result<Option<Vec<u8>>> {
        match &mut self.to {
            To::Stream(writer) => {
                let Some(open) = writer else { return Ok(None) };
                let Some(batch) = self.reader.next() else {
                    open.finish().map_err(other)?;
                    return Ok(writer.take().map(|mut writer| std::mem::take(writer.get_mut())));
                };
                open.write(&batch.map_err(other)?).map_err(other)?;
                Ok(Some(std::mem::take(open.get_mut())))
            }
            To::Text { form, batch, row, begun } => {
                let mut out = Vec::new();
                if !std::mem::replace(begun, true) && *form == Form::Csv {
                    out.extend_from_slice(b"actor,score,payout_minor_units\r\n");
                }
                while out.is_empty() || batch.is_some() {
                    if batch.is_none() {
                        *batch = self.reader.next().transpose().map_err(other)?;
                        *row = 0;
                    }
                    let Some(rows) = batch else { break };
                    let end = rows.num_rows().min(*row + PART_ROWS);
                    write_rows(rows, *row..end, *form, &mut out)?;
                    *row = end;
                    if end == rows.num_rows() {
                        *batch = None;
                    }
                    if !out.is_empty() {
                        break;
                    }
                }
                Ok((!out.is_empty()).then_some(out))
            }
        }
    }
}

fn write_rows(batch: &RecordBatch, rows: Range<usize>, form: Form, to: &mut Vec<u8>) -> io::Result<()> {
    let actors = batch.column(0).as_string::<i32>();
    let scores = batch.column(1).as_primitive::<Decimal128Type>();
    let payouts = batch.column(2).as_primitive::<Decimal128Type>();
    for row in rows {
        let (actor, score, payout) = (actors.value(row), scores.value_as_string(row), payouts.value(row));
        match form {
            Form::Csv if actor.contains([',', '"']) => {
                write!(to, "\"{}\",{score},{payout}\r\n", actor.replace('"', "\"\""))?;
            }
            Form::Csv => write!(to, "{actor},{score},{payout}\r\n")?,
            _ => {
                let actor = serde_json::to_string(actor)?;
                writeln!(
                    to,
                    "{{\"actor\":{actor},\"score\":\"{score}\",\"payout_minor_units\":\"{payout}\"}}"
                )?;
            }
        }
    }
    Ok(())
}
