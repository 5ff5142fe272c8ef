//! Records of Parquet: the columns named, batch by batch, whatever the sizes of row groups and the kinds of strings.
//!
//! Stops at the first damage. Never trusts a length in the file: reads are bounded by the file and by the batch.

use super::{
    item::{Item, Trouble, unreadable},
    place::Place,
    record::{Maker, Values, ways},
    records::{Records, Refused, broken_stream},
};
use arrow_array::{Array, RecordBatch, StructArray, cast::AsArray, types};
use arrow_schema::{DataType, Field, FieldRef, Fields, Schema};
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{
            ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
        },
    },
    basic::Compression,
    column::page::{Page, PageReader},
    errors::ParquetError,
    file::{metadata::ColumnChunkMetaData, serialized_reader::SerializedPageReader},
};
use serde_json::Value;
use std::{
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

/// Text held at once, and the rows of a batch where rows are short.
const BATCH_BYTES: u64 = 16 << 20;
const BATCH_ROWS_MAX: u64 = 512;

/// The records of a Parquet file.
struct Columns {
    maker: Maker,
    plan: Plan,
    row_group: usize,
    reader: Option<ParquetRecordBatchReader>,
    /// Rows of this group that did not come yet.
    rows_left: u64,
    batch: Option<RecordBatch>,
    row: usize,
    record: u64,
}

/// What is read of a file.
struct Plan {
    file: Place,
    metadata: ArrowReaderMetadata,
    mask: ProjectionMask,
    text: Way,
    id: Option<Way>,
    group: Option<Way>,
    source: Option<Way>,
}

/// Names of the fields that lead to a column.
type Way = Vec<String>;

/// The records of a file, or the one item that says why there are none.
pub(super) fn open(file: File, maker: Maker) -> Box<dyn Records> {
    match plan(file, &maker) {
        Ok(plan) => {
            Box::new(Columns { maker, plan, row_group: 0, reader: None, rows_left: 0, batch: None, row: 0, record: 0 })
        }
        Err(problem) => Box::new(Refused { maker, problem: Some(problem) }),
    }
}

fn plan(file: File, maker: &Maker) -> Result<Plan, Trouble> {
    let file = Place::new(file).map_err(|error| broken_stream(0, &error))?;
    let read = || {
        // Arrow's own types (dictionaries, large strings) are how the file was written, not how it must be read.
        let plain = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new().with_skip_arrow_metadata(true))?;
        let views = Schema::new(plain.schema().fields().iter().map(as_views).collect::<Fields>());
        ArrowReaderMetadata::try_new(plain.metadata().clone(), ArrowReaderOptions::new().with_schema(Arc::new(views)))
    };
    let metadata = guarded(read).map_err(|why| file.trouble(0, format!("the file is damaged: {why}")))?;
    let schema = metadata.schema();
    let find = |name: &str| {
        way(schema.fields(), name).ok_or_else(|| {
            let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            unreadable(0, format!("column {name:?} is missing; the columns are {}", names.join(", ")))
        })
    };
    let typed = |name: &str, expected: &str, fits: fn(&DataType) -> bool| {
        let (way, kind) = find(name)?;
        if fits(&kind) {
            return Ok(way);
        }
        Err(unreadable(0, format!("column {name:?}: expected {expected}, found {kind}")))
    };
    let label = |name: &Option<String>| {
        name.as_deref().map(|name| typed(name, "text, numbers or lists of texts", is_label)).transpose()
    };
    let text = typed(&maker.fields.text, "text or lists of texts", is_text)?;
    let (id, group, source) = (label(&maker.fields.id)?, label(&maker.fields.group)?, label(&maker.fields.source)?);
    let descriptor = metadata.parquet_schema();
    let ways: Vec<&Way> = [Some(&text), id.as_ref(), group.as_ref(), source.as_ref()].into_iter().flatten().collect();
    let leaves: Vec<usize> = (0..descriptor.num_columns())
        .filter(|&leaf| ways.iter().any(|way| descriptor.column(leaf).path().parts().starts_with(way)))
        .collect();
    for column in
        metadata.metadata().row_groups().iter().flat_map(|group| leaves.iter().map(|&leaf| group.column(leaf)))
    {
        let codec = column.compression();
        let known = matches!(
            codec,
            Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_) | Compression::ZSTD(_)
        );
        if !known {
            let name = column.column_path().string();
            return Err(unreadable(
                0,
                format!("column {name:?}: expected no compression, snappy, gzip or zstd, found {codec:?}"),
            ));
        }
    }
    let mask = ProjectionMask::leaves(descriptor, leaves);
    Ok(Plan { file, metadata, mask, text, id, group, source })
}

impl Columns {
    /// Reads until there is a row. None at the end.
    fn fill(&mut self) -> Result<Option<()>, String> {
        loop {
            if self.batch.as_ref().is_some_and(|batch| self.row < batch.num_rows()) {
                return Ok(Some(()));
            }
            self.batch = None;
            if let Some(mut reader) = self.reader.take() {
                match guarded(|| reader.next().transpose().map_err(ParquetError::from))? {
                    Some(batch) => {
                        let rows = batch.num_rows() as u64;
                        self.rows_left = self
                            .rows_left
                            .checked_sub(rows)
                            .ok_or_else(|| "a row group has more rows than the footer says".to_owned())?;
                        (self.batch, self.row, self.reader) = (Some(batch), 0, Some(reader));
                    }
                    None if self.rows_left > 0 => {
                        return Err(format!("a row group has {} rows fewer than the footer says", self.rows_left));
                    }
                    None => {}
                }
                continue;
            }
            let Some(group) = self.plan.metadata.metadata().row_groups().get(self.row_group) else { return Ok(None) };
            let rows = u64::try_from(group.num_rows()).map_err(|_| "a row group has a negative length".to_owned())?;
            let bytes: u64 = group
                .columns()
                .iter()
                .enumerate()
                .filter(|(leaf, _)| self.plan.mask.leaf_included(*leaf))
                .map(|(_, column)| {
                    let unpacked = column.unencoded_byte_array_data_bytes().unwrap_or(0);
                    u64::try_from(unpacked.max(column.uncompressed_size())).unwrap_or(0)
                })
                .sum();
            let batch = batch_rows(rows, bytes);
            let builder =
                ParquetRecordBatchReaderBuilder::new_with_metadata(self.plan.file.clone(), self.plan.metadata.clone())
                    .with_row_groups(vec![self.row_group])
                    .with_projection(self.plan.mask.clone())
                    .with_batch_size(usize::try_from(batch).unwrap_or(1));
            guarded(|| {
                let mut leaves = (0..group.num_columns()).filter(|leaf| self.plan.mask.leaf_included(*leaf));
                leaves.try_for_each(|leaf| check_dictionary(&self.plan.file, group.column(leaf), rows))
            })?;
            self.reader = Some(guarded(|| builder.build())?);
            self.rows_left = rows;
            self.row_group += 1;
        }
    }

    fn rows_after(&self) -> u64 {
        let groups = &self.plan.metadata.metadata().row_groups()[self.row_group..];
        groups.iter().map(|group| u64::try_from(group.num_rows()).unwrap_or(0)).sum::<u64>() + self.rows_left
    }
}

impl Records for Columns {
    fn next(&mut self) -> Option<Item> {
        match self.fill() {
            Ok(None) => return None,
            Ok(Some(())) => {}
            Err(why) => {
                let why = format!("the file is damaged: {why}; {} rows are not read", self.rows_after());
                return Some(Err(self.plan.file.trouble(self.record, why)));
            }
        }
        let (record, batch) = (self.record, self.batch.as_ref()?);
        let value = |way: &Way| cell(batch, way, self.row);
        let found = (|| -> Result<_, String> {
            let label = |way: &Option<Way>| way.as_ref().map(value).transpose();
            Ok((value(&self.plan.text)?, label(&self.plan.id)?, label(&self.plan.group)?, label(&self.plan.source)?))
        })();
        (self.record, self.row) = (record + 1, self.row + 1);
        Some(match found {
            Ok((text, id, group, source)) => {
                let (id, group, source) = (id.as_ref(), group.as_ref(), source.as_ref());
                self.maker.document(record, &Values { text: Some(&text), id, group, source })
            }
            Err(why) => self.maker.broken(record, why),
        })
    }

    fn maker(&self) -> &Maker {
        &self.maker
    }
}

/// A decoder makes room for as many values as a dictionary page says it has: more than it has bytes is damage.
fn check_dictionary(file: &Place, column: &ColumnChunkMetaData, rows: u64) -> Result<(), ParquetError> {
    let rows = usize::try_from(rows).unwrap_or(usize::MAX);
    let first = SerializedPageReader::new(Arc::new(file.clone()), column, rows, None)?.get_next_page()?;
    match first {
        Some(Page::DictionaryPage { buf, num_values, .. }) if num_values as usize > buf.len() => {
            Err(ParquetError::General(format!("a dictionary page says {num_values} values in {} bytes", buf.len())))
        }
        _ => Ok(()),
    }
}

/// Rows to read at once of a group with so many rows and so many bytes of text.
pub(super) fn batch_rows(rows: u64, bytes: u64) -> u64 {
    (BATCH_BYTES / (bytes / rows.max(1)).max(1)).clamp(1, BATCH_ROWS_MAX)
}

/// What a decoder does with damaged bytes is an error, whichever way it goes.
fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the decoder gave up".into()),
    }
}

/// A column by its name, or by a way through structs, with its type.
fn way(fields: &Fields, name: &str) -> Option<(Way, DataType)> {
    let field = |name: &str| fields.iter().find(|field| field.name() == name);
    if let Some(found) = field(name) {
        return Some((vec![name.to_owned()], found.data_type().clone()));
    }
    ways(name).find_map(|(first, rest)| match field(first)?.data_type() {
        DataType::Struct(inner) => {
            let (mut path, kind) = way(inner, rest)?;
            path.insert(0, first.to_owned());
            Some((path, kind))
        }
        _ => None,
    })
}

/// Strings as views: a value that a dictionary repeats is held once, and no batch is too long for its offsets.
fn as_views(field: &FieldRef) -> FieldRef {
    let kind = match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
        DataType::List(inner) => DataType::List(as_views(inner)),
        DataType::LargeList(inner) => DataType::LargeList(as_views(inner)),
        DataType::Struct(inner) => DataType::Struct(inner.iter().map(as_views).collect()),
        _ => return field.clone(),
    };
    Arc::new(Field::clone(field).with_data_type(kind))
}

fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8View | DataType::BinaryView | DataType::Null => true,
        DataType::List(inner) | DataType::LargeList(inner) => {
            matches!(inner.data_type(), DataType::Utf8View | DataType::BinaryView)
        }
        _ => false,
    }
}

fn is_label(kind: &DataType) -> bool {
    is_text(kind) || kind.is_integer() || matches!(kind, DataType::Boolean | DataType::Float32 | DataType::Float64)
}

fn cell(batch: &RecordBatch, way: &Way, row: usize) -> Result<Value, String> {
    let name = || way.join(".");
    let mut names = way.iter();
    let missing = || format!("column {:?} is missing", name());
    let mut array = names.next().and_then(|name| batch.column_by_name(name)).ok_or_else(missing)?;
    for inner in names {
        if array.is_null(row) {
            return Ok(Value::Null);
        }
        let record: &StructArray = array.as_struct_opt().ok_or_else(missing)?;
        array = record.column_by_name(inner).ok_or_else(missing)?;
    }
    value(array, row).map_err(|why| format!("column {:?}: {why}", name()))
}

fn value(array: &dyn Array, row: usize) -> Result<Value, String> {
    if array.is_null(row) || *array.data_type() == DataType::Null {
        return Ok(Value::Null);
    }
    let list =
        |inner: &dyn Array| (0..inner.len()).map(|i| value(inner, i)).collect::<Result<_, _>>().map(Value::Array);
    Ok(match array.data_type() {
        DataType::Utf8View => array.as_string_view().value(row).into(),
        DataType::BinaryView => {
            let bytes = array.as_binary_view().value(row);
            std::str::from_utf8(bytes).map_err(|error| format!("invalid UTF-8: {error}"))?.into()
        }
        DataType::List(_) => list(&array.as_list::<i32>().value(row))?,
        DataType::LargeList(_) => list(&array.as_list::<i64>().value(row))?,
        DataType::Boolean => array.as_boolean().value(row).into(),
        DataType::Int8 => array.as_primitive::<types::Int8Type>().value(row).into(),
        DataType::Int16 => array.as_primitive::<types::Int16Type>().value(row).into(),
        DataType::Int32 => array.as_primitive::<types::Int32Type>().value(row).into(),
        DataType::Int64 => array.as_primitive::<types::Int64Type>().value(row).into(),
        DataType::UInt8 => array.as_primitive::<types::UInt8Type>().value(row).into(),
        DataType::UInt16 => array.as_primitive::<types::UInt16Type>().value(row).into(),
        DataType::UInt32 => array.as_primitive::<types::UInt32Type>().value(row).into(),
        DataType::UInt64 => array.as_primitive::<types::UInt64Type>().value(row).into(),
        DataType::Float32 => array.as_primitive::<types::Float32Type>().value(row).into(),
        DataType::Float64 => array.as_primitive::<types::Float64Type>().value(row).into(),
        other => return Err(format!("expected text, found {other}")),
    })
}
