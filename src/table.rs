//! Allocations for people: Arrow IPC, CSV and NDJSON of the same rows as the canonical text, with the score beside each
//! payout (contract §5). A convenience; nothing is committed to these encodings.

use crate::epoch::Names;
use arrow_array::builder::{Decimal128Builder, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::Decimal128Type;
use arrow_array::{ArrayRef, RecordBatch};
use arrow_ipc::reader::FileReader;
use arrow_ipc::writer::{FileWriter, StreamWriter};
use arrow_schema::{ArrowError, DataType, Field, Schema};
use rewarder_reward::Outcome;
use std::io::{self, Read, Seek, Write};
use std::sync::Arc;

/// Rows of one batch.
const BATCH_ROWS: usize = 64 * 1024;

fn schema(scale: u8) -> Arc<Schema> {
    Arc::new(Schema::new(vec![
        Field::new("actor", DataType::Utf8, false),
        Field::new("score", DataType::Decimal128(38, scale as i8), false),
        Field::new("payout_minor_units", DataType::Decimal128(38, 0), false),
    ]))
}

struct Columns {
    schema: Arc<Schema>,
    actors: StringBuilder,
    scores: Decimal128Builder,
    payouts: Decimal128Builder,
    rows: usize,
}

impl Columns {
    fn new(scale: u8) -> Self {
        Self {
            schema: schema(scale),
            actors: StringBuilder::new(),
            scores: Decimal128Builder::new(),
            payouts: Decimal128Builder::new(),
            rows: 0,
        }
    }

    fn push(&mut self, actor: &str, score: u128, payout: u128) {
        self.actors.append_value(actor);
        // Both are below 10^38, which a payable run has shown.
        self.scores.append_value(score as i128);
        self.payouts.append_value(payout as i128);
        self.rows += 1;
    }

    fn batch(&mut self) -> Result<RecordBatch, ArrowError> {
        self.rows = 0;
        let decimal =
            |builder: &mut Decimal128Builder, scale: i8| builder.finish().with_precision_and_scale(38, scale);
        let DataType::Decimal128(_, scale) = *self.schema.field(1).data_type() else {
            unreachable!("see schema()")
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.actors.finish()),
            Arc::new(decimal(&mut self.scores, scale)?),
            Arc::new(decimal(&mut self.payouts, 0)?),
        ];
        RecordBatch::try_new(self.schema.clone(), columns)
    }
}

fn other(e: ArrowError) -> io::Error {
    match e {
        ArrowError::IoError(_, e) => e,
        e => io::Error::other(e),
    }
}

/// Writes `allocations.arrow`, an Arrow IPC file.
///
/// # Errors
/// Those of the writer.
pub fn write_arrow(outcome: &Outcome, names: &dyn Names, scale: u8, to: impl Write) -> io::Result<()> {
    let mut columns = Columns::new(scale);
    let mut writer = FileWriter::try_new(to, &columns.schema).map_err(other)?;
    let mut failed = None;
    outcome.recipients(names, |actor, score, payout| {
        // Names were checked to be UTF-8 when they were decoded.
        columns.push(&String::from_utf8_lossy(actor), score, payout);
        if columns.rows == BATCH_ROWS
            && failed.is_none()
            && let Err(e) = columns.batch().and_then(|batch| writer.write(&batch))
        {
            failed = Some(e);
        }
    });
    if let Some(e) = failed {
        return Err(other(e));
    }
    if columns.rows > 0 {
        columns.batch().and_then(|batch| writer.write(&batch)).map_err(other)?;
    }
    writer.finish().map_err(other)
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
