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
use rewarder_flow::Pool;
use rewarder_reward::Outcome;
use std::io::{self, Read, Seek, Write};
use std::ops::Range;
use std::sync::Arc;

/// Places of the canonical order that make a batch: the recipients among them are its rows.
const BATCH_RANKS: usize = 64 * 1024;

fn schema(scale: u8) -> Arc<Schema> {
    Arc::new(Schema::new(vec![
        Field::new("actor", DataType::Utf8, false),
        Field::new("score", DataType::Decimal128(38, scale as i8), false),
        Field::new("payout_minor_units", DataType::Decimal128(38, 0), false),
    ]))
}

/// The recipients among some places of the canonical order, as columns.
fn batch(
    outcome: &Outcome,
    names: &(impl Names + ?Sized),
    schema: &Arc<Schema>,
    ranks: Range<usize>,
) -> Result<RecordBatch, ArrowError> {
    let (mut text, mut ends) = (Vec::new(), Vec::new());
    let (mut scores, mut payouts) = (Vec::new(), Vec::new());
    outcome.recipients_among(ranks, names, |actor, score, payout| {
        text.extend_from_slice(actor);
        ends.push(actor.len());
        // Both are below 10^38, which a payable run has shown.
        scores.push(score as i128);
        payouts.push(payout as i128);
    });
    let decimals = |values: Vec<i128>, column: usize| {
        Decimal128Array::from(values).with_data_type(schema.field(column).data_type().clone())
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::try_new(OffsetBuffer::from_lengths(ends), text.into(), None)?),
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

/// Writes `allocations.arrow`, an Arrow IPC file. Batches are made on the pool, as many at once as it has threads, while
/// those before are written.
///
/// # Errors
/// Those of the writer.
pub fn write_arrow(
    pool: &Pool,
    outcome: &Outcome,
    names: &(impl Names + ?Sized),
    scale: u8,
    to: impl Write + Send,
) -> io::Result<()> {
    let schema = schema(scale);
    let mut writer = FileWriter::try_new(to, &schema).map_err(other)?;
    let len = outcome.scores.len();
    let ranges: Vec<Range<usize>> =
        (0..len).step_by(BATCH_RANKS).map(|start| start..(start + BATCH_RANKS).min(len)).collect();
    let mut groups = ranges.chunks(pool.threads().max(1));
    let mut make = || {
        let group = groups.next().unwrap_or_default();
        let batches = group.par_iter().map(|ranks| batch(outcome, names, &schema, ranks.clone()));
        batches.collect::<Result<Vec<_>, _>>()
    };
    pool.install(|| {
        let mut made = make()?;
        while !made.is_empty() {
            let write = || {
                let mut full = made.iter().filter(|batch| batch.num_rows() > 0);
                full.try_for_each(|batch| writer.write(batch))
            };
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

/// Turns the Arrow file that we wrote into another form, batch by batch.
///
/// # Errors
/// Those of reader and writer.
pub fn convert(from: impl Read + Seek, form: Form, mut to: impl Write) -> io::Result<()> {
    let reader = FileReader::try_new(from, None).map_err(other)?;
    if form == Form::ArrowStream {
        let mut writer = StreamWriter::try_new(to, &reader.schema()).map_err(other)?;
        for batch in reader {
            writer.write(&batch.map_err(other)?).map_err(other)?;
        }
        return writer.finish().map_err(other);
    }
    if form == Form::Csv {
        to.write_all(b"actor,score,payout_minor_units\r\n")?;
    }
    for batch in reader {
        let batch = batch.map_err(other)?;
        let actors = batch.column(0).as_string::<i32>();
        let scores = batch.column(1).as_primitive::<Decimal128Type>();
        let payouts = batch.column(2).as_primitive::<Decimal128Type>();
        for row in 0..batch.num_rows() {
            let (actor, score, payout) = (actors.value(row), scores.value_as_string(row), payouts.value(row));
            match form {
                Form::Csv => {
                    if actor.contains([',', '"']) {
                        write!(to, "\"{}\",{score},{payout}\r\n", actor.replace('"', "\"\""))?;
                    } else {
                        write!(to, "{actor},{score},{payout}\r\n")?;
                    }
                }
                _ => {
                    let actor = serde_json::to_string(actor)?;
                    writeln!(
                        to,
                        "{{\"actor\":{actor},\"score\":\"{score}\",\"payout_minor_units\":\"{payout}\"}}"
                    )?;
                }
            }
        }
    }
    to.flush()
}
