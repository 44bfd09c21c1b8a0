//! Arrow record batches, which is also what Parquet becomes.
//!
//! The law: a column is taken if its type holds exactly what is wanted, and refused by its type otherwise,
//! before a row is read: any string type, plain or by dictionary; any integer type, or a decimal of scale 0.
//! A float column is refused also if each of its values is whole. Nulls, negative numbers and numbers of 2^64
//! or more are refused row by row.

use crate::block::{Block, Name};
use crate::config::{CategorySource, Columns};
use crate::error::{SealError, said};
use crate::units::UnitsError;
use ahash::RandomState;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Decimal32Type, Decimal64Type, Decimal128Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType, RecordBatch};
use arrow_schema::{DataType, Schema};

/// Where the three columns are in a batch.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    found: super::Found,
    columns: Columns,
}

impl Layout {
    /// Finds the columns and checks their types.
    pub fn new(schema: &Schema, columns: &Columns) -> Result<Self, SealError> {
        let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
        let found = super::Found::new(&names, columns)?;
        let wrong = |column: usize, wanted: &str| {
            let field = schema.field(column);
            let problem = format!(
                "the column `{}` is of type {}, not {wanted}",
                field.name().escape_debug(),
                said(field.data_type())
            );
            let found = names.iter().take(super::COLUMNS_LISTED_MAX).cloned().collect();
            Err(SealError::Columns { problem, found })
        };
        for column in std::iter::once(found.actor).chain(found.category) {
            if !is_string(schema.field(column).data_type()) {
                return wrong(column, "a string");
            }
        }
        if !is_whole(schema.field(found.units).data_type()) {
            return wrong(found.units, "a whole number");
        }
        Ok(Self { found, columns: columns.clone() })
    }

    /// Which columns were asked for.
    pub fn columns(&self) -> &Columns {
        &self.columns
    }

    /// The columns to read, ascending, and the layout of batches that hold nothing else.
    pub fn projected(mut self) -> (Vec<usize>, Self) {
        let mut read: Vec<usize> = [Some(self.found.actor), self.found.category, Some(self.found.units)]
            .into_iter()
            .flatten()
            .collect();
        read.sort_unstable();
        let place = |column: usize| read.iter().position(|read| *read == column).unwrap_or_default();
        self.found = super::Found {
            actor: place(self.found.actor),
            category: self.found.category.map(place),
            units: place(self.found.units),
        };
        (read, self)
    }

    /// Whether a batch holds what its schema has promised: a decoder of a broken file may make something else of a column.
    pub fn check(&self, batch: &RecordBatch) -> Result<(), String> {
        let found = &self.found;
        let strings = std::iter::once(found.actor).chain(found.category).map(|column| (column, true));
        for (column, string) in strings.chain([(found.units, false)]) {
            let array = batch.columns().get(column).map(|array| array.data_type());
            if !array.is_some_and(|kind| if string { is_string(kind) } else { is_whole(kind) }) {
                let kind = array.map_or_else(|| "nothing".to_owned(), ToString::to_string);
                return Err(format!(
                    "column {} of a batch is {kind}, which its schema does not say",
                    column + 1
                ));
            }
        }
        Ok(())
    }

    /// Reads the rows of a batch.
    pub fn parse(&self, batch: &RecordBatch, hasher: &RandomState, block: &mut Block) {
        block.begin(b"", false);
        let labels = super::labels(&self.columns);
        let actors = Strings::new(batch.column(self.found.actor));
        let categories = self.found.category.map(|column| Strings::new(batch.column(column)));
        let constant = match &self.columns.category {
            CategorySource::Constant(category) => category.as_str().as_bytes(),
            CategorySource::Column(_) => b"",
        };
        let units = whole_numbers(batch.column(self.found.units));
        for (row, units) in units.into_iter().enumerate() {
            let line = block.lines;
            block.lines += 1;
            let Some(actor) = actors.get(row) else {
                block.refuse(line, Some(labels.actor), || "is null".to_owned());
                continue;
            };
            let category = match &categories {
                None => Some(constant),
                Some(categories) => categories.get(row),
            };
            let Some(category) = category else {
                block.refuse(line, Some(labels.category), || "is null".to_owned());
                continue;
            };
            let text;
            let units = match units {
                Whole::Units(units) => Ok(units),
                Whole::Null => {
                    block.refuse(line, Some(labels.units), || "is null".to_owned());
                    continue;
                }
                Whole::Other(value) => {
                    text = value.to_string();
                    let error = if value < 0 { UnitsError::Negative } else { UnitsError::TooLarge };
                    Err((error, text.as_bytes()))
                }
            };
            if !block.row(&labels, hasher, line, Name::Other(actor), Some(category), units) {
                return;
            }
        }
    }
}

fn is_string(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => {
            matches!(**values, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
        }
        _ => false,
    }
}

fn is_whole(data_type: &DataType) -> bool {
    data_type.is_integer()
        || matches!(
            data_type,
            DataType::Decimal32(_, 0) | DataType::Decimal64(_, 0) | DataType::Decimal128(_, 0)
        )
}

/// A string column by row.
enum Strings<'a> {
    Utf8(&'a arrow_array::StringArray),
    Large(&'a arrow_array::LargeStringArray),
    View(&'a arrow_array::StringViewArray),
    /// Rows as places in the values; the dictionary's own nulls are the array's.
    Dictionary {
        array: &'a dyn Array,
        keys: Vec<usize>,
        values: Box<Strings<'a>>,
    },
}

impl<'a> Strings<'a> {
    fn new(array: &'a ArrayRef) -> Self {
        match array.data_type() {
            DataType::Utf8 => Self::Utf8(array.as_string()),
            DataType::LargeUtf8 => Self::Large(array.as_string()),
            DataType::Utf8View => Self::View(array.as_string_view()),
            _ => {
                let dictionary = array.as_any_dictionary();
                let values = dictionary.values();
                // It panics for a dictionary without values, all rows of which are null.
                let keys = if values.is_empty() { Vec::new() } else { dictionary.normalized_keys() };
                Self::Dictionary { array, keys, values: Box::new(Self::new(values)) }
            }
        }
    }

    fn get(&self, row: usize) -> Option<&[u8]> {
        match self {
            Self::Utf8(array) => array.is_valid(row).then(|| array.value(row).as_bytes()),
            Self::Large(array) => array.is_valid(row).then(|| array.value(row).as_bytes()),
            Self::View(array) => array.is_valid(row).then(|| array.value(row).as_bytes()),
            Self::Dictionary { array, keys, values } => {
                if array.is_null(row) {
                    None
                } else {
                    values.get(*keys.get(row)?)
                }
            }
        }
    }
}

/// A number of the units column.
#[derive(Clone, Copy)]
enum Whole {
    Units(u64),
    Null,
    /// Out of range.
    Other(i128),
}

fn whole_numbers(array: &ArrayRef) -> Vec<Whole> {
    fn of<T: ArrowPrimitiveType>(array: &ArrayRef) -> Vec<Whole>
    where
        T::Native: Into<i128>,
    {
        array
            .as_primitive::<T>()
            .iter()
            .map(|value| value.map_or(Whole::Null, |value| whole(value.into())))
            .collect()
    }
    fn whole(value: i128) -> Whole {
        u64::try_from(value).map_or(Whole::Other(value), Whole::Units)
    }
    match array.data_type() {
        DataType::UInt8 => of::<UInt8Type>(array),
        DataType::UInt16 => of::<UInt16Type>(array),
        DataType::UInt32 => of::<UInt32Type>(array),
        DataType::UInt64 => of::<UInt64Type>(array),
        DataType::Int8 => of::<Int8Type>(array),
        DataType::Int16 => of::<Int16Type>(array),
        DataType::Int32 => of::<Int32Type>(array),
        DataType::Int64 => of::<Int64Type>(array),
        DataType::Decimal32(..) => of::<Decimal32Type>(array),
        DataType::Decimal64(..) => of::<Decimal64Type>(array),
        _ => of::<Decimal128Type>(array),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{BinaryArray, Float64Array, StringArray, UInt64Array};
    use arrow_schema::Field;
    use std::sync::Arc;

    #[test]
    fn a_batch_that_is_not_what_its_schema_says_is_found() {
        let fields = [("actor", DataType::Utf8), ("category", DataType::Utf8), ("units", DataType::UInt64)];
        let schema = Schema::new(fields.map(|(name, kind)| Field::new(name, kind, true)).to_vec());
        let (_, layout) = Layout::new(&schema, &Columns::default()).unwrap().projected();
        let check = |columns: [ArrayRef; 3]| {
            let named = ["a", "b", "c"].into_iter().zip(columns);
            layout.check(&RecordBatch::try_from_iter(named).unwrap())
        };
        let text: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
        let bytes: ArrayRef = Arc::new(BinaryArray::from(vec![&b"x"[..]]));
        let whole: ArrayRef = Arc::new(UInt64Array::from(vec![1]));
        let float: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
        assert_eq!(check([text.clone(), text.clone(), whole.clone()]), Ok(()));
        for (columns, wrong) in [
            ([bytes.clone(), text.clone(), whole.clone()], "column 1 of a batch is Binary"),
            ([text.clone(), bytes, whole], "column 2 of a batch is Binary"),
            ([text.clone(), text, float], "column 3 of a batch is Float64"),
        ] {
            assert!(check(columns).unwrap_err().starts_with(wrong), "{wrong}");
        }
    }
}
