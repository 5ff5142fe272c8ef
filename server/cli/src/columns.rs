//! Exported curves as Parquet: a row a point, a column a metric, in double precision, as pandas and its like read them.
//!
//! Never asks a server.

use crate::points::{self, Curves, HEADS, Point};
use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    errors::{ParquetError, Result},
    file::properties::WriterProperties,
};
use std::{io::Write, sync::Arc};

/// Zone of times.
const ZONE: &str = "UTC";

/// Writes all points: a group of rows a branch at most, so that one branch of many is read alone.
///
/// # Errors
/// When it cannot be written.
pub fn write(to: &mut (impl Write + Send), experiment: &str, all: &[Curves]) -> Result<()> {
    let keys: Vec<&str> = points::keys(all).into_iter().collect();
    let schema = schema(&keys);
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let mut writer = ArrowWriter::try_new(to, schema.clone(), Some(properties))?;
    for curves in all {
        let rows: Vec<Point<'_>> = points::of_one(curves).collect();
        let batch = RecordBatch::try_new(schema.clone(), columns(experiment, &keys, &rows));
        writer.write(&batch.map_err(|error| ParquetError::ArrowError(error.to_string()))?)?;
        writer.flush()?;
    }
    writer.close()?;
    Ok(())
}

fn schema(keys: &[&str]) -> Arc<Schema> {
    let kinds = [
        DataType::Utf8,
        DataType::Utf8,
        DataType::Utf8,
        DataType::Int64,
        DataType::Int64,
        DataType::Timestamp(TimeUnit::Millisecond, Some(ZONE.into())),
    ];
    let begin = HEADS.into_iter().zip(kinds).map(|(name, kind)| Field::new(name, kind, false));
    let metrics = keys.iter().map(|key| Field::new(*key, DataType::Float64, true));
    Arc::new(Schema::new(begin.chain(metrics).collect::<Vec<_>>()))
}

/// The columns in the order of the schema.
fn columns(experiment: &str, keys: &[&str], rows: &[Point<'_>]) -> Vec<ArrayRef> {
    let texts =
        |of: fn(&Point<'_>) -> String| -> ArrayRef { Arc::new(StringArray::from_iter_values(rows.iter().map(of))) };
    let counts = |of: fn(&Point<'_>) -> u64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| i64::try_from(of(row)).unwrap_or(i64::MAX))))
    };
    let times = TimestampMillisecondArray::from_iter_values(rows.iter().map(|row| row.at.timestamp_millis()));
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|_| experiment))),
        texts(|row| row.branch.to_owned()),
        texts(|row| row.role.to_owned()),
        counts(|row| row.step),
        counts(|row| row.tokens),
        Arc::new(times.with_timezone(ZONE)),
    ];
    let values = |key: &&str| -> ArrayRef { Arc::new(rows.iter().map(|row| row.value(key)).collect::<Float64Array>()) };
    columns.extend(keys.iter().map(values));
    columns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::points::sample;
    use arrow_array::{
        Array as _,
        cast::AsArray as _,
        types::{Float64Type, Int64Type, TimestampMillisecondType},
    };
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use std::fs::File;

    #[test]
    fn what_is_written_is_read_back() {
        let mut all = sample();
        all.extend(sample());
        all[1].branch = "料理".into();
        all.push(Curves { branch: "empty".into(), role: "expert".into(), pieces: vec![] });
        let path = std::env::temp_dir().join(format!("senmon-columns-{}", std::process::id()));
        write(&mut File::create(&path).unwrap(), "a, \"b\"", &all).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(reader.metadata().num_row_groups(), 2);
        let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
        let [batch] = &batches[..] else { panic!("{} batches", batches.len()) };
        assert_eq!(
            batch.schema().fields()[5].data_type(),
            &DataType::Timestamp(TimeUnit::Millisecond, Some(ZONE.into()))
        );
        let names: Vec<String> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(
            names,
            ["experiment", "branch", "role", "step", "tokens", "time", "train/learning_rate", "train/loss"]
        );
        assert_eq!(batch.column(0).as_string::<i32>().value(3), "a, \"b\"");
        assert_eq!(
            batch.column(1).as_string::<i32>().iter().flatten().collect::<Vec<_>>(),
            ["expert-0", "expert-0", "料理", "料理"]
        );
        assert_eq!(batch.column(3).as_primitive::<Int64Type>().values(), &[5, 10, 5, 10]);
        assert_eq!(batch.column(4).as_primitive::<Int64Type>().values(), &[20_480, 40_960, 20_480, 40_960]);
        assert_eq!(batch.column(5).as_primitive::<TimestampMillisecondType>().values(), &[1_000, 2_500, 1_000, 2_500]);
        let losses = batch.column(7).as_primitive::<Float64Type>();
        assert_eq!((losses.value(0), losses.is_null(1)), (3.5, true));
    }
}
