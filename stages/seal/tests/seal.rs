//! Seals every kind of input and reads the result back with arrow-ipc, which shares no code with what wrote
//! it.

use arrow_array::cast::AsArray;
use arrow_array::types::{UInt8Type, UInt32Type, UInt64Type};
use arrow_array::{
    Array, ArrayRef, Decimal128Array, DictionaryArray, Float64Array, Int64Array, LargeStringArray,
    RecordBatch, StringArray, StringViewArray, UInt16Array, UInt64Array,
};
use arrow_ipc::reader::StreamReader;
use proptest::prelude::*;
use rewarder_model::{Cid, SnapshotHeader};
use rewarder_seal::{
    BATCH_ROWS, Bounds, Columns, Input, Place, RefusedRows, SealError, SealOptions, Silent, seal,
};
use std::io::{Cursor, Write};
use std::path::Path;
use std::sync::Arc;

fn header() -> SnapshotHeader {
    SnapshotHeader {
        tenant: "acme".parse().unwrap(),
        epoch: "2026-03".parse().unwrap(),
        asset: "roc".parse().unwrap(),
        pool: 100_000.into(),
    }
}

fn options() -> SealOptions {
    SealOptions { threads: 2, ..SealOptions::new(header()) }
}

/// Seals bytes from a stream; checks that a failure leaves nothing and a success what it says.
fn seal_bytes(data: &[u8], options: &SealOptions) -> Result<Vec<u8>, SealError> {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.arrows");
    let input = Input::Reader(Box::new(Cursor::new(data.to_vec())));
    let sealed = seal(input, options, &out, &Silent);
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, usize::from(sealed.is_ok()), "files left");
    let sealed = sealed?;
    let bytes = std::fs::read(&out).unwrap();
    assert_eq!(sealed.cid, Cid::of(&bytes));
    assert_eq!(sealed.bytes, bytes.len() as u64);
    // From a file by its name it is the same.
    let file = dir.path().join("input.bin");
    std::fs::write(&file, data).unwrap();
    let again = seal(file.as_path(), options, &out, &Silent).unwrap();
    assert_eq!(again, sealed);
    Ok(bytes)
}

type Row = (String, String, u64);

/// Reads a snapshot back and checks that it is the fast case.
fn unseal(bytes: &[u8]) -> Vec<Row> {
    assert_eq!(bytes[bytes.len() - 8..], [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    let reader = StreamReader::try_new(Cursor::new(bytes), None).unwrap();
    let schema = reader.schema();
    let fields: Vec<String> = schema
        .fields()
        .iter()
        .map(|f| format!("{} {} {}", f.name(), f.data_type(), f.is_nullable()))
        .collect();
    assert_eq!(
        fields,
        [
            "actor Dictionary(UInt32, Utf8) false",
            "category Dictionary(UInt8, Utf8) false",
            "units UInt64 false"
        ]
    );
    assert_eq!(schema.metadata().len(), 5);
    assert_eq!(schema.metadata()["rewarder.pool_minor_units"], "100000");
    let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    let mut rows = Vec::new();
    for (n, batch) in batches.iter().enumerate() {
        assert!(batch.num_rows() == BATCH_ROWS || n + 1 == batches.len() && batch.num_rows() > 0);
        let actors = batch.column(0).as_dictionary::<UInt32Type>();
        let categories = batch.column(1).as_dictionary::<UInt8Type>();
        let units = batch.column(2).as_primitive::<UInt64Type>();
        let (a, c) = (actors.values().as_string::<i32>(), categories.values().as_string::<i32>());
        for column in batch.columns() {
            assert!(column.nulls().is_none());
        }
        for row in 0..batch.num_rows() {
            let (actor, category) =
                (actors.keys().value(row) as usize, categories.keys().value(row) as usize);
            rows.push((a.value(actor).to_owned(), c.value(category).to_owned(), units.value(row)));
        }
    }
    if let Some(batch) = batches.first() {
        let actors = batch.column(0).as_dictionary::<UInt32Type>().values().as_string::<i32>().clone();
        let categories = batch.column(1).as_dictionary::<UInt8Type>().values().as_string::<i32>().clone();
        for (dictionary, used) in [
            (actors, rows.iter().map(|r| &r.0).collect::<Vec<_>>()),
            (categories, rows.iter().map(|r| &r.1).collect()),
        ] {
            let mut used: Vec<&[u8]> = used.iter().map(|name| name.as_bytes()).collect();
            used.sort_unstable();
            used.dedup();
            assert_eq!(dictionary.iter().map(|v| v.unwrap().as_bytes()).collect::<Vec<_>>(), used);
        }
    }
    rows
}

fn rows(list: &[(&str, &str, u64)]) -> Vec<Row> {
    list.iter().map(|(a, c, u)| ((*a).to_owned(), (*c).to_owned(), *u)).collect()
}

fn some_rows() -> Vec<Row> {
    rows(&[
        ("github.com/zed", "views", 3),
        ("alice", "subs", u64::MAX),
        ("quote \" and, comma", "views", 0),
        ("日本 é", "a b", 17),
        ("alice", "views", 1),
        ("back\\slash", "subs", 9_007_199_254_740_993),
    ])
}

fn csv_of(rows: &[Row]) -> Vec<u8> {
    csv_with(rows, csv_core::Writer::new())
}

/// A header and these rows, as another's writer has them.
fn csv_with(rows: &[Row], mut writer: csv_core::Writer) -> Vec<u8> {
    let units: Vec<_> = rows.iter().map(|row| row.2.to_string()).collect();
    let records =
        rows.iter().zip(&units).map(|((actor, category, _), units)| [actor, category, units.as_str()]);
    let mut text = Vec::new();
    for record in std::iter::once(["actor", "category", "units"]).chain(records) {
        for (at, field) in record.into_iter().enumerate() {
            // Room for a delimiter, quotes around the field, and each of its bytes twice.
            let mut room = vec![0; 2 * field.len() + 4];
            let (_, delimiter) =
                if at == 0 { (csv_core::WriteResult::InputEmpty, 0) } else { writer.delimiter(&mut room) };
            let (written, read, len) = writer.field(field.as_bytes(), &mut room[delimiter..]);
            assert_eq!((written, read), (csv_core::WriteResult::InputEmpty, field.len()));
            text.extend_from_slice(&room[..delimiter + len]);
        }
        let mut room = [0; 4];
        let (_, len) = writer.terminator(&mut room);
        text.extend_from_slice(&room[..len]);
    }
    text
}

fn ndjson_of(rows: &[Row]) -> Vec<u8> {
    let line = |(actor, category, units): &Row| {
        let (actor, category) =
            (serde_json::to_string(actor).unwrap(), serde_json::to_string(category).unwrap());
        format!(
            "{{\"units\": {units}, \"other\": [1.5, {{}}], \"actor\": {actor}, \"category\":{category}}}\n"
        )
    };
    rows.iter().map(line).collect::<String>().into_bytes()
}

fn batch_of(rows: &[Row]) -> RecordBatch {
    let actors: StringArray = rows.iter().map(|row| Some(&row.0)).collect();
    let categories: DictionaryArray<arrow_array::types::Int16Type> =
        rows.iter().map(|row| Some(row.1.as_str())).collect();
    let units: UInt64Array = rows.iter().map(|row| Some(row.2)).collect();
    batch([("units", Arc::new(units)), ("actor", Arc::new(actors)), ("category", Arc::new(categories))])
}

fn batch<const N: usize>(columns: [(&str, ArrayRef); N]) -> RecordBatch {
    RecordBatch::try_from_iter(columns).unwrap()
}

fn stream_of(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = arrow_ipc::writer::StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

fn file_of(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = arrow_ipc::writer::FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

/// As `pyarrow.feather` writes it unless told otherwise.
fn compressed_file_of(batch: &RecordBatch, with: arrow_ipc::CompressionType) -> Vec<u8> {
    let options = arrow_ipc::writer::IpcWriteOptions::default().try_with_compression(Some(with)).unwrap();
    let mut writer =
        arrow_ipc::writer::FileWriter::try_new_with_options(Vec::new(), &batch.schema(), options).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

fn parquet_of(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = parquet::arrow::ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

fn gzip(data: &[u8], members: usize) -> Vec<u8> {
    let mut all = Vec::new();
    for part in data.chunks(data.len().div_ceil(members)) {
        let mut encoder = flate2::write::GzEncoder::new(&mut all, flate2::Compression::fast());
        encoder.write_all(part).unwrap();
        encoder.finish().unwrap();
    }
    all
}

#[test]
fn every_form_gives_the_same_bytes() {
    let rows = some_rows();
    let expected = seal_bytes(&csv_of(&rows), &options()).unwrap();
    assert_eq!(unseal(&expected), rows);
    let (csv, ndjson, batch) = (csv_of(&rows), ndjson_of(&rows), batch_of(&rows));
    let text = String::from_utf8(csv.clone()).unwrap();
    let forms: Vec<(&str, Vec<u8>)> = vec![
        ("crlf", text.replace('\n', "\r\n").into_bytes()),
        ("no last line feed", text.trim_end().as_bytes().to_vec()),
        ("blank lines, mark", format!("\u{feff}\n{}\n\n", text.replacen('\n', "\n\r\n", 2)).into_bytes()),
        ("ndjson", ndjson.clone()),
        ("ndjson crlf", String::from_utf8(ndjson.clone()).unwrap().replace('\n', "\r\n\r\n").into_bytes()),
        ("gzip csv", gzip(&csv, 1)),
        ("gzip csv members", gzip(&csv, 5)),
        ("gzip ndjson", gzip(&ndjson, 2)),
        ("zstd csv", zstd::encode_all(&csv[..], 3).unwrap()),
        (
            "zstd frames",
            [zstd::encode_all(&csv[..40], 3).unwrap(), zstd::encode_all(&csv[40..], 3).unwrap()].concat(),
        ),
        ("stream", stream_of(&batch)),
        ("file", file_of(&batch)),
        ("file with lz4", compressed_file_of(&batch, arrow_ipc::CompressionType::LZ4_FRAME)),
        ("file with zstd", compressed_file_of(&batch, arrow_ipc::CompressionType::ZSTD)),
        ("parquet", parquet_of(&batch)),
        ("gzip parquet", gzip(&parquet_of(&batch), 1)),
        ("zstd stream", zstd::encode_all(&stream_of(&batch)[..], 3).unwrap()),
        ("its own output", expected.clone()),
    ];
    for (name, data) in forms {
        assert!(seal_bytes(&data, &options()).unwrap() == expected, "{name}");
    }
}

#[test]
fn every_type_of_column() {
    let rows = rows(&[("b", "x", 3), ("a", "y", 200), ("b", "x", 0)]);
    let expected = seal_bytes(&csv_of(&rows), &options()).unwrap();
    let (actors, categories) = (["b", "a", "b"], ["x", "y", "x"]);
    let strings: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(actors)),
        Arc::new(LargeStringArray::from_iter_values(actors)),
        Arc::new(StringViewArray::from_iter_values(actors)),
        Arc::new(actors.iter().copied().map(Some).collect::<DictionaryArray<UInt8Type>>()),
        Arc::new(DictionaryArray::new(
            arrow_array::Int64Array::from(vec![2, 0, 2]),
            Arc::new(LargeStringArray::from_iter_values(["a", "unused", "b"])),
        )),
    ];
    let units: Vec<ArrayRef> = vec![
        Arc::new(UInt16Array::from(vec![3, 200, 0])),
        Arc::new(Int64Array::from(vec![3, 200, 0])),
        Arc::new(Decimal128Array::from(vec![3, 200, 0]).with_precision_and_scale(38, 0).unwrap()),
    ];
    let category: ArrayRef = Arc::new(StringArray::from_iter_values(categories));
    for actor in &strings {
        for units in &units {
            let columns =
                [("actor", actor.clone()), ("category", category.clone()), ("units", units.clone())];
            for data in [
                stream_of(&batch(columns.clone())),
                parquet_of(&batch(columns.clone())),
                file_of(&batch(columns)),
            ] {
                assert!(
                    seal_bytes(&data, &options()).unwrap() == expected,
                    "{} {}",
                    actor.data_type(),
                    units.data_type()
                );
            }
        }
    }
}

#[test]
fn renamed_columns_and_a_constant_category() {
    let rows = rows(&[("b", "views", 3), ("a", "views", 2)]);
    let expected = seal_bytes(&csv_of(&rows), &options()).unwrap();
    let mut options = options();
    options.columns = Columns::new(&["actor=owner", "units=count"], Some("views".parse().unwrap())).unwrap();
    let csv = b"count,x,owner\n3,\"a\nb\",b\n2,,a\n";
    assert!(seal_bytes(csv, &options).unwrap() == expected);
    let ndjson = b"{\"owner\":\"b\",\"count\":\"3\"}\n{\"owner\":\"\\u0061\",\"count\":2}";
    assert!(seal_bytes(ndjson, &options).unwrap() == expected);
    let both = seal_bytes(b"owner,count,category\na,1,x\n", &options).unwrap_err().to_string();
    assert!(both.contains("the data has a column `category`"), "{both}");
    let both =
        seal_bytes(b"{\"owner\":\"a\",\"count\":1,\"category\":\"x\"}", &options).unwrap_err().to_string();
    assert!(both.contains("the data has a column `category`"), "{both}");
}

#[test]
fn no_rows_no_batches() {
    let bytes = seal_bytes(b"actor,category,units\n", &options()).unwrap();
    assert_eq!(unseal(&bytes), []);
    assert!(seal_bytes(b"\xef\xbb\xbfactor,category,units", &options()).unwrap() == bytes);
    assert!(seal_bytes(&parquet_of(&batch_of(&[])), &options()).unwrap() == bytes);
    assert!(seal_bytes(&stream_of(&batch_of(&[])), &options()).unwrap() == bytes);
}

/// Many rows, some quoted, with names of all kinds.
fn many_rows(count: usize) -> Vec<Row> {
    let name = |n: usize| match n % 11 {
        0 => format!("quoted, \"{n}\""),
        1 => format!("ünïcode {}", n % 500),
        _ => format!("github.com/{}", n.wrapping_mul(2_654_435_761) % 30_000),
    };
    (0..count).map(|n| (name(n), format!("kind {}", n % 7), (n * n) as u64)).collect()
}

#[test]
fn the_same_bytes_at_every_thread_count_and_bound() {
    let rows = many_rows(150_000);
    let csv = csv_of(&rows);
    let expected = seal_bytes(&csv, &options()).unwrap();
    assert!(unseal(&expected) == rows);
    for (threads, block_bytes, rows_held_bytes_max) in
        [(1, 1 << 20, 1 << 26), (3, 70_000, 1_000_000), (8, 5_000, 0), (2, 100_000, 1), (1, 300, 1 << 26)]
    {
        let bounds = Bounds { block_bytes, rows_held_bytes_max, ..Bounds::default() };
        let options = SealOptions { threads, bounds, ..options() };
        assert!(
            seal_bytes(&csv, &options).unwrap() == expected,
            "{threads} {block_bytes} {rows_held_bytes_max}"
        );
    }
    assert!(seal_bytes(&ndjson_of(&rows), &options()).unwrap() == expected);
    assert!(seal_bytes(&parquet_of(&batch_of(&rows)), &options()).unwrap() == expected);
}

fn refused(data: &[u8], options: &SealOptions) -> RefusedRows {
    match seal_bytes(data, options) {
        Err(SealError::Rows(refused)) => refused,
        other => panic!("{:?}", other.map(|bytes| bytes.len())),
    }
}

/// The first refused row as its message has it.
fn first(data: &[u8]) -> String {
    let text = refused(data, &options()).to_string();
    text.lines().next().unwrap().to_owned()
}

#[test]
fn every_refusal_of_a_csv_row() {
    let long = "x".repeat(257);
    for (row, message) in [
        ("a,b,1.5", "line 3, column `units`: `1.5` is not a plain whole number: no point, no exponent"),
        ("a,b,2.0", "line 3, column `units`: `2.0` is not a plain whole number: no point, no exponent"),
        ("a,b,1e3", "line 3, column `units`: `1e3` is not a plain whole number: no point, no exponent"),
        ("a,b,-1", "line 3, column `units`: `-1` is negative; units are 0 or more"),
        ("a,b,18446744073709551616", "line 3, column `units`: `18446744073709551616` is 2^64 or more"),
        ("a,b,x", "line 3, column `units`: `x` is not a whole number in decimal digits"),
        ("a,b,", "line 3, column `units`: is empty"),
        ("a,b, 1", "line 3, column `units`: ` 1` is not a whole number in decimal digits"),
        ("a,b,\"1.0\"", "line 3, column `units`: `1.0` is not a plain whole number: no point, no exponent"),
        ("a,,1", "line 3, column `category`: is empty"),
        (
            "a,it's,1",
            "line 3, column `category`: `it\\'s` is no category: a category is 1 to 64 of printable ASCII",
        ),
        (",b,1", "line 3, column `actor`: an actor's name is empty"),
        ("\"\",b,1", "line 3, column `actor`: an actor's name is empty"),
        ("\"a\nb\",b,1", "line 3, column `actor`: `a\\nb`: an actor's name holds a control character"),
        ("a\tb,b,1", "line 3, column `actor`: `a\\tb`: an actor's name holds a control character"),
        ("a\u{85},b,1", "line 3, column `actor`: `a\\u{85}`: an actor's name holds a control character"),
        (
            &format!("{long},b,1"),
            "line 3, column `actor`: `xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…`: an actor's name is longer",
        ),
        ("a,b", "line 3, column `units`: 2 fields, and the header has 3"),
        ("a,b,1,2", "line 3, column `4`: 4 fields, and the header has 3"),
        ("\"a\"x,b,1", "line 3, column `actor`: there is text after the closing quote"),
        ("a\"x,b,1", "line 3, column `actor`: there is a quote in a field that does not begin with one"),
        ("\"a,b,1", "line 3, column `actor`: the quote is never closed"),
    ] {
        for end in ["\n", "\r\n"] {
            let found = first(format!("actor,category,units{end}ok,ok,1{end}{row}").as_bytes());
            assert!(found.starts_with(message), "{row:?}: {found}");
            let found =
                first(format!("actor,category,units{end}ok,ok,1{end}{row}{end}ok,ok,2{end}").as_bytes());
            assert!(found.starts_with(message), "{row:?}: {found}");
        }
    }
    assert!(first(b"actor,category,units\na\xff,b,1\n").contains("is not UTF-8"));
}

#[test]
fn a_comma_of_a_category_needs_its_quotes_whatever_came_before() {
    let found = first(b"actor,category,units\nx,\"a,b\",5\ny,a,b,5\n");
    assert!(found.starts_with("line 3, column `4`: 4 fields, and the header has 3"), "{found}");
    let csv = b"actor,category,units,year\nx,\"a,7\",5,2020\nz,a,7,9\nx,\"a,7\",6,2021\n";
    let sealed = seal_bytes(csv, &options()).unwrap();
    assert!(unseal(&sealed) == rows(&[("x", "a,7", 5), ("z", "a", 7), ("x", "a,7", 6)]));
}

#[test]
fn every_refusal_of_an_ndjson_line() {
    let ok = "{\"actor\":\"ok\",\"category\":\"ok\",\"units\":1}";
    for (line, message) in [
        (
            "{\"actor\":\"a\",\"category\":\"b\",\"units\":1.5}",
            "line 2, column `units`: `1.5` is not a plain whole number",
        ),
        (
            "{\"actor\":\"a\",\"category\":\"b\",\"units\":2.0}",
            "line 2, column `units`: `2.0` is not a plain whole number",
        ),
        (
            "{\"actor\":\"a\",\"category\":\"b\",\"units\":1e3}",
            "line 2, column `units`: `1e3` is not a plain whole number",
        ),
        ("{\"actor\":\"a\",\"category\":\"b\",\"units\":-3}", "line 2, column `units`: `-3` is negative"),
        (
            "{\"actor\":\"a\",\"category\":\"b\",\"units\":18446744073709551616}",
            "line 2, column `units`: `18446744073709551616` is 2^64 or more",
        ),
        (
            "{\"actor\":\"a\",\"category\":\"b\",\"units\":true}",
            "line 2, column `units`: `true` is not a whole number",
        ),
        ("{\"actor\":\"a\",\"category\":\"b\",\"units\":null}", "line 2, column `units`: is null"),
        (
            "{\"actor\":\"a\",\"category\":\"b\"}",
            "line 2, column `units`: is missing; the line has `actor`, `category`",
        ),
        ("{\"actor\":1,\"category\":\"b\",\"units\":1}", "line 2, column `actor`: `1` is not a string"),
        (
            "{\"actor\":\"a\\n\",\"category\":\"b\",\"units\":1}",
            "line 2, column `actor`: `a\\n`: an actor's name holds a control",
        ),
        (
            "{\"actor\":\"\\ud800\",\"category\":\"b\",\"units\":1}",
            "line 2, column `actor`: is not a valid JSON string",
        ),
        ("{\"actor\":\"a\",\"category\":\"\",\"units\":1}", "line 2, column `category`: is empty"),
        (
            "{\"actor\":\"a\",\"actor\":\"a\",\"category\":\"b\",\"units\":1}",
            "line 2: `actor` is there twice",
        ),
        ("{\"actor\":\"a\",", "line 2: broken JSON at byte"),
        ("[1]", "line 2: invalid type: sequence, expected an object"),
        ("{} {}", "line 2: broken JSON at byte 4"),
    ] {
        let found = first(format!("{ok}\n{line}\n{ok}\n").as_bytes());
        assert!(found.starts_with(message), "{line}: {found}");
    }
}

#[test]
fn every_refusal_of_a_column() {
    for (data, message) in [
        (
            &b"actor,kind,units\n"[..],
            "there is no column `category`; the data has the columns `actor`, `kind`, `units`",
        ),
        (b"actor,category,units,actor\n", "the column `actor` is there twice; the data has"),
        (b"", "the data is empty"),
        (b"\n\n\n", "the data is empty"),
        (b" [{}]", "the data is a JSON array"),
    ] {
        let found = seal_bytes(data, &options()).unwrap_err();
        assert!(found.is_refusal() && found.to_string().starts_with(message), "{found}");
    }
    let strings: ArrayRef = Arc::new(StringArray::from_iter_values(["a"]));
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
    let cents: ArrayRef = Arc::new(Decimal128Array::from(vec![100]).with_precision_and_scale(10, 2).unwrap());
    for units in [&floats, &cents, &strings] {
        let columns = [("actor", strings.clone()), ("category", strings.clone()), ("units", units.clone())];
        for data in [
            stream_of(&batch(columns.clone())),
            file_of(&batch(columns.clone())),
            parquet_of(&batch(columns)),
        ] {
            let found = seal_bytes(&data, &options()).unwrap_err().to_string();
            assert!(found.starts_with("the column `units` is of type "), "{found}");
        }
    }
    let columns = [("actor", floats.clone()), ("category", strings.clone()), ("units", floats)];
    let found = seal_bytes(&stream_of(&batch(columns)), &options()).unwrap_err().to_string();
    assert!(found.contains("`actor` is of type Float64, not a string"), "{found}");
}

#[test]
fn every_refusal_of_an_arrow_row() {
    let names: ArrayRef =
        Arc::new(StringArray::from(vec![Some("a"), None, Some("a"), Some("a"), Some("a"), Some("")]));
    let kinds: ArrayRef = Arc::new(
        vec![Some("a"), Some("a"), None, Some("a"), Some("a"), Some("a")]
            .into_iter()
            .collect::<DictionaryArray<UInt8Type>>(),
    );
    let units: ArrayRef =
        Arc::new(Int64Array::from(vec![Some(1), Some(1), Some(1), None, Some(-7), Some(1)]));
    let data = batch([("actor", names.clone()), ("category", kinds.clone()), ("units", units)]);
    for data in [stream_of(&data), file_of(&data), parquet_of(&data)] {
        let refused = refused(&data, &options());
        assert_eq!(refused.place, Place::Row);
        assert_eq!(
            refused.to_string(),
            "row 2, column `actor`: is null\nrow 3, column `category`: is null\n\
             row 4, column `units`: is null\nrow 5, column `units`: `-7` is negative; units are 0 or more\n\
             row 6, column `actor`: an actor's name is empty\n5 rows refused"
        );
    }
    let huge = Decimal128Array::from(vec![1 << 64]).with_precision_and_scale(38, 0).unwrap();
    let data =
        batch([("actor", names.slice(0, 1)), ("category", kinds.slice(0, 1)), ("units", Arc::new(huge))]);
    assert!(first(&stream_of(&data)).ends_with("`18446744073709551616` is 2^64 or more"));
}

#[test]
fn the_first_twenty_in_the_order_of_the_file() {
    let mut csv = String::from("actor,category,units\n");
    let mut expected = Vec::new();
    let mut line = 2_u64;
    for n in 0..5000 {
        if n % 40 == 39 {
            csv.push_str(&format!("\"a,\"\"{n}\"\"\",kind,-{n}\n"));
            expected.push(line);
        } else if n % 3 == 0 {
            csv.push_str("\"x\",\"kind\",1\n\n");
            line += 1;
        } else {
            csv.push_str(&format!("name {n},kind,{n}\n"));
        }
        line += 1;
    }
    let mut texts = Vec::new();
    for (threads, block_bytes) in [(1, 1 << 20), (2, 100), (3, 1000), (8, 64)] {
        let bounds = Bounds { block_bytes, ..Bounds::default() };
        let refused = refused(csv.as_bytes(), &SealOptions { threads, bounds, ..options() });
        assert_eq!(refused.rows.iter().map(|row| row.at).collect::<Vec<_>>(), expected[..20]);
        assert_eq!((refused.count, refused.and_more), (125, false));
        texts.push(refused.to_string());
    }
    assert!(texts[0].ends_with("… and 105 more\n125 rows refused"), "{}", texts[0]);
    texts.dedup();
    assert_eq!(texts.len(), 1);
}

#[test]
fn two_hundred_and_fifty_six_categories_are_enough() {
    let csv = |kinds: usize| -> String {
        let row = |n: usize| format!("a,kind {},1\n", n / 2 % kinds);
        format!("actor,category,units\n{}", (0..1200).map(row).collect::<String>())
    };
    assert_eq!(unseal(&seal_bytes(csv(256).as_bytes(), &options()).unwrap()).len(), 1200);
    let bad = csv(257).replacen("a,kind 3,1", "a,kind 3,x", 1);
    for block_bytes in [200, 1 << 20] {
        let bounds = Bounds { block_bytes, ..Bounds::default() };
        let refused = refused(bad.as_bytes(), &SealOptions { bounds, ..options() });
        assert_eq!(
            refused.to_string(),
            "line 8, column `units`: `x` is not a whole number in decimal digits\n\
             line 514, column `category`: more than 256 categories: this row has one more\n\
             2 rows refused, and the rest was not read"
        );
        let bad = csv(257).replacen(",1\n", ",x\n", 100);
        let refused = self::refused(bad.as_bytes(), &SealOptions { bounds, ..options() });
        assert_eq!((refused.rows.len(), refused.count, refused.and_more), (20, 101, true));
    }
}

#[test]
fn a_quote_that_never_closes_is_given_up() {
    let csv = format!("actor,category,units\nok,ok,1\nok,ok,\"1\n{}", "a,b,1\n".repeat(1000));
    let bounds = Bounds { block_bytes: 64, record_bytes_max: 1024, ..Bounds::default() };
    let refused = refused(csv.as_bytes(), &SealOptions { bounds, ..options() });
    assert_eq!(
        refused.to_string(),
        "line 3: the record is longer than 1024 bytes; is a quote never closed?\n\
         1 row refused, and the rest was not read"
    );
}

#[test]
fn broken_containers() {
    let rows = many_rows(3000);
    let csv = csv_of(&rows);
    let cut = |data: Vec<u8>| data[..data.len() - 9].to_vec();
    let twice = gzip(&gzip(&csv, 1), 1);
    for data in [
        cut(gzip(&csv, 2)),
        cut(zstd::encode_all(&csv[..], 3).unwrap()),
        [gzip(&csv, 1), b"garbage after it".to_vec()].concat(),
        twice,
        cut(parquet_of(&batch_of(&rows))),
        cut(file_of(&batch_of(&rows))),
        stream_of(&batch_of(&rows))[..5000].to_vec(),
        [stream_of(&batch_of(&rows)), stream_of(&batch_of(&rows))].concat(),
        b"PAR1".to_vec(),
        b"ARROW1\0\0".to_vec(),
        b"\xff\xff\xff\xff\xff\xff\xff\x7f".to_vec(),
        b"\x1f\x8b".to_vec(),
    ] {
        let found = seal_bytes(&data, &options()).unwrap_err();
        assert!(matches!(found, SealError::Format(_)), "{found}");
    }
}

#[test]
fn an_arrow_stream_ends_where_it_says_so() {
    let stream = stream_of(&batch_of(&many_rows(3000)));
    let said = |data: &[u8]| seal_bytes(data, &options()).unwrap_err().to_string();
    assert!(seal_bytes(&stream, &options()).is_ok());
    let found = said(&stream[..stream.len() - 8]);
    assert!(found.contains("breaks off without its end-of-stream marker"), "{found}");
    for more in [&b"x"[..], &stream] {
        let found = said(&[&stream, more].concat());
        assert!(found.contains("goes on after its end-of-stream marker"), "{found}");
    }
}

#[test]
fn a_device_is_not_replaced_by_a_snapshot() {
    let found = seal(Path::new("/nonexistent"), &options(), Path::new("/dev/null"), &Silent).unwrap_err();
    assert!(!found.is_refusal(), "{found}");
    let input = Input::Reader(Box::new(Cursor::new(b"actor,category,units\n")));
    let found = seal(input, &options(), Path::new("/dev/null"), &Silent).unwrap_err().to_string();
    assert!(found.contains("/dev/null: it is there, and no regular file"), "{found}");
}

#[test]
fn what_was_there_before_stays_after_a_refusal() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.arrows");
    std::fs::write(&out, b"before").unwrap();
    let bad = Input::Reader(Box::new(Cursor::new(b"actor,category,units\na,b,1.5\n")));
    assert!(seal(bad, &options(), &out, &Silent).is_err());
    assert_eq!(std::fs::read(&out).unwrap(), b"before");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    let missing = seal(Path::new("/nonexistent/input.csv"), &options(), &out, &Silent).unwrap_err();
    assert!(
        !missing.is_refusal() && missing.to_string().starts_with("cannot open /nonexistent/input.csv: "),
        "{missing}"
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    let nowhere = dir.path().join("no/such/out.arrows");
    let input = || Input::Reader(Box::new(Cursor::new(b"actor,category,units\n")));
    assert!(seal(input(), &options(), &nowhere, &Silent).is_err());
}

#[test]
fn warns_of_names_that_look_alike() {
    let dir = tempfile::tempdir().unwrap();
    let csv = "actor,category,units\nz\u{200b},x,1\nplain,x,1\ne\u{301},x,1\né,x,1\nz\u{200b},x,1\n";
    let input = Input::Reader(Box::new(Cursor::new(csv.as_bytes())));
    let sealed = seal(input, &options(), &dir.path().join("x"), &Silent).unwrap();
    assert_eq!((sealed.warnings.format_characters, sealed.warnings.not_nfc), (1, 1));
    assert_eq!(sealed.warnings.names, ["e\\u{301}", "z\\u{200b}"]);
    assert_eq!((sealed.rows, sealed.actors, sealed.categories), (5, 4, 1));
}

fn a_row() -> impl Strategy<Value = Row> {
    let actor = "[a-c]{1,2}|[ -~]{1,20}|[a\"',\\\\é\u{200d}日 ]{1,6}|x{250,256}";
    let units = prop_oneof![Just(0), Just(u64::MAX), any::<u64>(), 0_u64..1000];
    (actor, "[a-e]|[ab,1]{1,3}|[ !#-&(-\\[\\]-~]{1,64}", units)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn what_goes_in_comes_out(
        rows in proptest::collection::vec(a_row(), 0..60),
        block_bytes in 1_usize..400,
        threads in 1_usize..4,
        rows_held_bytes_max in 0_usize..500,
        crlf: bool,
    ) {
        let bounds = Bounds { block_bytes, rows_held_bytes_max, ..Bounds::default() };
        let options = SealOptions { threads, bounds, ..options() };
        let mut writer = csv_core::WriterBuilder::new();
        if crlf {
            writer.terminator(csv_core::Terminator::CRLF);
        }
        let sealed = seal_bytes(&csv_with(&rows, writer.build()), &options).unwrap();
        prop_assert!(unseal(&sealed) == rows);
        if !rows.is_empty() {
            prop_assert!(seal_bytes(&ndjson_of(&rows), &options).unwrap() == sealed);
        }
        prop_assert!(seal_bytes(&parquet_of(&batch_of(&rows)), &options).unwrap() == sealed);
        prop_assert!(seal_bytes(&stream_of(&batch_of(&rows)), &options).unwrap() == sealed);
    }

    /// Whatever the bytes are: an answer, the same at every block size, and no panic.
    #[test]
    fn any_text_is_answered(text in "([ab\",\n\r1\\-.]|,1\n|\",\"|é|x,\"a,1\",1\n|y,a,1\n){0,80}", block_bytes in 1_usize..40) {
        let text = format!("actor,category,units\n{text}");
        let answer = |block_bytes| {
            let bounds = Bounds { block_bytes, ..Bounds::default() };
            seal_bytes(text.as_bytes(), &SealOptions { bounds, ..options() }).map_err(|e| e.to_string())
        };
        prop_assert_eq!(answer(block_bytes), answer(1 << 20));
    }
}
