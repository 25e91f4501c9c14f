use std::io::Write;

use meterline_schemas::time::format_micros;

use super::*;

fn read(name: &str, text: &str, options: &FileOptions) -> Result<Vec<String>, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
    rows(open(&path, options).map_err(|e| e.to_string())?)
}

fn rows(readings: FileReadings) -> Result<Vec<String>, String> {
    readings.map(|r| r.map(|r| show(&r)).map_err(|e| e.to_string())).collect()
}

fn show(r: &FileReading) -> String {
    let unit = r.unit.as_ref().map(|u| format!(" {u}")).unwrap_or_default();
    let quality = if r.quality == Quality::Measured { String::new() } else { format!(" {}", r.quality) };
    let label = if r.label == Label::Begin { " begin" } else { "" };
    format!("{} {} {}{unit}{quality}{label}", format_micros(r.at), r.series, r.value)
}

#[test]
fn every_form_is_understood_without_options() {
    let cases: &[(&str, &str, &str, &[&str])] = &[
        (
            "the published form of LD2011_2014.txt",
            "LD2011_2014.txt",
            "\"\";\"MT_001\";\"MT_002\"\n\"2011-01-01 00:15:00\";0;3,80710659898477\n\"2011-01-01 00:30:00\";1,5;0\n",
            &[
                "2011-01-01T00:15:00Z MT_001 0 kW",
                "2011-01-01T00:15:00Z MT_002 3.80710659898477 kW",
                "2011-01-01T00:30:00Z MT_001 1.5 kW",
                "2011-01-01T00:30:00Z MT_002 0 kW",
            ],
        ),
        (
            "long without a header",
            "hourly.csv",
            "2014-01-01 01:00:00,23.5,client_1\n2014-01-01 01:00:00,0.0,client_2\n2014-01-01 02:00:00,24,client_1\n",
            &[
                "2014-01-01T01:00:00Z client_1 23.5",
                "2014-01-01T01:00:00Z client_2 0",
                "2014-01-01T02:00:00Z client_1 24",
            ],
        ),
        (
            "long with a header, unit and quality, one value missing",
            "long.csv",
            "series_id,timestamp,value,unit,quality\na,2024-01-01T00:15:00Z,1.5,kWh,estimated\na,2024-01-01T00:30:00Z,,kWh,\nb,2024-01-01T00:30:00Z,2,MWh,\n",
            &["2024-01-01T00:15:00Z a 1.5 kWh estimated", "2024-01-01T00:30:00Z b 2 MWh"],
        ),
        (
            "wide behind an index column, with columns of text",
            "station.csv",
            ",datetime,load,holiday,solar\n0,2021-07-31 00:15:00+00:00,1.53,TRUE,0\n1,2021-07-31 00:30:00+00:00,1.36,FALSE,-0.1\n",
            &[
                "2021-07-31T00:15:00Z load 1.53",
                "2021-07-31T00:15:00Z solar 0",
                "2021-07-31T00:30:00Z load 1.36",
                "2021-07-31T00:30:00Z solar -0.1",
            ],
        ),
        (
            "date and time in columns of their own beside the stamp, units in the names",
            "market.csv",
            "Datum;Uhrzeit;DateTime;Wind [MWh];Last [MWh]\n2024-01-01;00:00;2024-01-01 00:00:00;3,0;105,75\n",
            &["2024-01-01T00:00:00Z Wind [MWh] 3 MWh", "2024-01-01T00:00:00Z Last [MWh] 105.75 MWh"],
        ),
        (
            "one column called value is the file's own series",
            "meter_7.csv",
            "interval_start,value\n2024-01-01 00:00,1\n2024-01-01 00:15,NaN\n2024-01-01 00:30,2\n",
            &["2024-01-01T00:00:00Z meter_7 1 begin", "2024-01-01T00:30:00Z meter_7 2 begin"],
        ),
        (
            "tabs, epoch seconds, a byte order mark, line ends of Windows, an empty line",
            "epoch.tsv",
            "\u{feff}time\ta\tb\r\n1704067200\t1,5\t2\r\n\r\n1704068100\t3\t4\r\n",
            &[
                "2024-01-01T00:00:00Z a 1.5",
                "2024-01-01T00:00:00Z b 2",
                "2024-01-01T00:15:00Z a 3",
                "2024-01-01T00:15:00Z b 4",
            ],
        ),
        (
            "German dates and thousands",
            "de.csv",
            "Ende;Zähler 1\n31.03.2024 24:00;1.234,5\n",
            &["2024-04-01T00:00:00Z Zähler 1 1234.5"],
        ),
    ];
    for (what, name, text, expected) in cases {
        let found = read(name, text, &FileOptions::default());
        assert_eq!(found.as_deref().map_err(String::as_str), Ok(&expected.map_owned()[..]), "{what}");
    }
}

trait MapOwned {
    fn map_owned(&self) -> Vec<String>;
}

impl MapOwned for &[&str] {
    fn map_owned(&self) -> Vec<String> {
        self.iter().map(|s| (*s).to_owned()).collect()
    }
}

#[test]
fn options_say_what_the_file_does_not() {
    let text = ",datetime,load,solar\n0,2024-03-31 01:45:00,1,2\n1,2024-03-31 03:00:00,3,4\n";
    let columns = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    let berlin = FileOptions {
        columns: columns(&["load"]),
        series: Some("HAL".into()),
        unit: Some("MW".parse().unwrap()),
        label: Some(Label::Begin),
        zone: Some("Europe/Berlin".into()),
        ..FileOptions::default()
    };
    assert_eq!(
        read("a.csv", text, &berlin).unwrap(),
        ["2024-03-31T00:45:00Z HAL 1 MW begin", "2024-03-31T01:00:00Z HAL 3 MW begin"]
    );
    let both =
        FileOptions { columns: columns(&["load", "solar"]), series: Some("HAL".into()), ..FileOptions::default() };
    assert_eq!(read("a.csv", text, &both).unwrap()[1], "2024-03-31T01:45:00Z HAL/solar 2");
}

#[test]
fn a_local_hour_that_comes_twice_is_read_twice_in_both_shapes() {
    let zone = FileOptions { zone: Some("Europe/Berlin".into()), ..FileOptions::default() };
    let wide =
        "time,a\n2024-10-27 02:00,1\n2024-10-27 02:30,2\n2024-10-27 02:00,3\n2024-10-27 02:30,4\n2024-10-27 03:00,5\n";
    let expected = ["00:00", "00:30", "01:00", "01:30", "02:00"];
    for (row, expected) in read("w.csv", wide, &zone).unwrap().iter().zip(expected) {
        assert!(row.starts_with(&format!("2024-10-27T{expected}:00Z")), "{row}");
    }
    let long = "2024-10-27 02:00,x,1\n2024-10-27 02:00,y,1\n2024-10-27 02:00,x,2\n2024-10-27 02:00,y,2\n";
    assert_eq!(
        read("l.csv", long, &zone).unwrap(),
        [
            "2024-10-27T00:00:00Z x 1",
            "2024-10-27T00:00:00Z y 1",
            "2024-10-27T01:00:00Z x 2",
            "2024-10-27T01:00:00Z y 2"
        ]
    );
}

#[test]
fn what_cannot_be_read_is_named_with_its_place() {
    let good = "time,a,b\n2024-01-01 00:00,1,2\n2024-01-01 00:15,1,2\n2024-01-01 00:30,1,2\n";
    let none = FileOptions::default();
    let cases = [
        (format!("{good}2024-01-01 00:45,1,x7\n"), "line 5, column `b`: `x7` is no number"),
        (format!("{good}tomorrow,1,2\n"), "line 5, column `time`: `tomorrow` is no time stamp"),
        (format!("{good}2024-01-01 00:45,1\n"), "line 5, column `b`: the row has only 2 columns"),
        ("a,b\n1,2\n".to_owned(), "no column holds time stamps"),
        ("time,name\n2024-01-01 00:00,x\n".to_owned(), "no column beside the stamp holds numbers"),
        ("time,a\n".to_owned(), "a header and no rows"),
        (String::new(), "it is empty"),
        ("{\"a\": 1}\n".to_owned(), "looks like JSON"),
    ];
    for (text, expected) in cases {
        let message = read("f.csv", &text, &none).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
    for (options, expected) in [
        (FileOptions { zone: Some("Lisbon".into()), ..none.clone() }, "no known time zone"),
        (
            FileOptions { columns: vec!["c".into()], ..none.clone() },
            "it has no column `c`; its columns are `time`, `a`, `b`",
        ),
    ] {
        let message = read("f.csv", good, &options).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
    assert!(open(Path::new("/nowhere/f.csv"), &none).is_err());
}

#[test]
fn bad_cells_are_skipped_and_counted_when_asked() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f.csv");
    let text = "time,a,b\n2024-01-01 00:00,1,2\nbroken,1,2\n2024-01-01 00:30,oops,2\n2024-01-01 00:45,1,2\n";
    std::fs::write(&path, text).unwrap();
    let mut readings = open(&path, &FileOptions { skip_bad: true, ..FileOptions::default() }).unwrap();
    let read: Vec<_> = readings.by_ref().map(|r| show(&r.unwrap())).collect();
    assert_eq!(read.len(), 5, "{read:?}");
    assert_eq!(readings.skipped(), 2);
}

#[test]
fn several_files_come_in_the_order_of_their_stamps() {
    let directory = tempfile::tempdir().unwrap();
    let files = [("x.csv", ["00:15", "00:45", "01:00"]), ("y.csv", ["00:00", "00:15", "02:00"])];
    let opened = files.map(|(name, stamps)| {
        let path = directory.path().join(name);
        let rows: String = stamps.iter().map(|s| format!("2024-01-01 {s},1\n")).collect();
        std::fs::write(&path, format!("time,value\n{rows}")).unwrap();
        open(&path, &FileOptions::default()).unwrap()
    });
    let mut merged = Merged::new(opened.into());
    let order: Vec<String> =
        merged.by_ref().map(|r| r.map(|r| format!("{}{}", r.series, &format_micros(r.at)[11..16])).unwrap()).collect();
    assert_eq!(order, ["y00:00", "x00:15", "y00:15", "x00:45", "x01:00", "y02:00"]);
    assert_eq!(merged.disordered(), 0);
}

#[test]
fn files_that_share_columns_are_told_apart_by_their_names() {
    let directory = tempfile::tempdir().unwrap();
    let paths = ["HAL.csv", "WEW.csv"].map(|name| directory.path().join(name));
    for path in &paths {
        std::fs::write(path, ",datetime,load,solar\n0,2024-01-01 00:15,1,2\n").unwrap();
    }
    let names = |columns: &[&str]| {
        let columns = columns.iter().map(|c| (*c).to_owned()).collect();
        let files = open_all(&paths, &FileOptions { columns, ..FileOptions::default() }).unwrap();
        Merged::new(files).map(|r| r.unwrap().series.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&["load"]), ["HAL", "WEW"]);
    assert_eq!(names(&[]), ["HAL/load", "HAL/solar", "WEW/load", "WEW/solar"]);
    let one_name = FileOptions { series: Some("x".into()), ..FileOptions::default() };
    assert!(open_all(&paths, &one_name).is_err_and(|e| e.is_usage()));
}

#[test]
fn a_file_that_lies_series_after_series_comes_in_the_order_of_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f.csv");
    let day = |d: i64| format_micros(d * meterline_schemas::time::DAY);
    let mut text = "series_id,timestamp,value,unit,quality\n".to_owned();
    for series in ["a", "b", "c"] {
        for d in 0..30 {
            let quality = if d == 3 { "estimated" } else { "" };
            text.push_str(&format!(
                "{series},{},{d}.5,{},{quality}\n",
                day(d),
                if series == "a" { "kW" } else { "kWh" }
            ));
        }
    }
    std::fs::write(&path, text).unwrap();
    let none = FileOptions::default();
    let mut expected: Vec<FileReading> = open(&path, &none).unwrap().map(Result::unwrap).collect();
    expected.sort_by_key(|r| r.at);

    let mut merged = Merged::new(open_all(std::slice::from_ref(&path), &none).unwrap());
    let read: Vec<FileReading> = merged.by_ref().map(Result::unwrap).collect();
    assert_eq!(read, expected);
    assert_eq!((merged.disordered(), merged.progress()), (0, 1.0));

    let readings = open(&path, &none).unwrap();
    let form = readings.form().clone();
    let spilled = sorted::Sorted::new(&path, form, readings, 7).unwrap();
    assert_eq!(spilled.map(Result::unwrap).collect::<Vec<_>>(), expected);
}

#[test]
fn long_files_are_read_as_they_were_written() {
    let directory = tempfile::tempdir().unwrap();
    let readings =
        [("a", 0, 1.25, "kW", Quality::Measured), ("b, \"c\"", 900_000_000, -0.5, "kWh", Quality::Estimated)];
    for name in ["f.csv", "f.parquet"] {
        let path = directory.path().join(name);
        let mut writer = LongWriter::create(&path).unwrap();
        for (series, at, value, unit, quality) in readings {
            writer.write(series, at, value, unit, quality).unwrap();
        }
        writer.finish().unwrap();
        assert_eq!(
            rows(open(&path, &FileOptions::default()).unwrap()).unwrap(),
            ["1970-01-01T00:00:00Z a 1.25 kW", "1970-01-01T00:15:00Z b, \"c\" -0.5 kWh estimated"]
        );
    }
}

/// Rows of files that are read with covariates: stamp, series, value and covariates.
fn beside(files: &[(&str, &str)], options: &FileOptions, covariates: &[&str]) -> Result<Vec<String>, String> {
    let directory = tempfile::tempdir().unwrap();
    let write = |(name, text): &(&str, &str)| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let paths: Vec<PathBuf> = files.iter().map(write).collect();
    let opened = open_each(&paths, options, &names(covariates)).map_err(|e| e.to_string())?;
    opened.into_iter().flatten().map(|r| r.map(|r| shown_beside(&r)).map_err(|e| e.to_string())).collect()
}

fn names(names: &[&str]) -> Vec<String> {
    names.map_owned()
}

fn shown_beside(r: &FileReading) -> String {
    format!("{} {} {} {:?}", &format_micros(r.at)[5..16], r.series, r.value, r.covariates)
}

const WEATHER: &str = "series_id,timestamp,value,temperature,note,holiday\n\
    a,2024-01-01T00:15:00Z,1.5,-2.5,x,TRUE\n\
    a,2024-01-01T00:30:00Z,2,,x,false\n\
    a,2024-01-01T00:45:00Z,,3,y,\n\
    a,2024-01-01T01:00:00Z,,,y,\n";

#[test]
fn covariates_stand_beside_readings_and_where_there_is_none() {
    let none = FileOptions::default();
    assert_eq!(
        beside(&[("f.csv", WEATHER)], &none, &["holiday", "Temperature"]).unwrap(),
        [
            "01-01T00:15 a 1.5 [1.0, -2.5]",
            "01-01T00:30 a 2 [0.0, NaN]",
            // A row that has only covariates, and the next one has nothing.
            "01-01T00:45 a NaN [NaN, 3.0]",
        ]
    );
    assert_eq!(beside(&[("f.csv", WEATHER)], &none, &[]).unwrap(), ["01-01T00:15 a 1.5 []", "01-01T00:30 a 2 []"]);
    // Of two files one has it.
    let other = "meter;time;kwh\nb;2024-01-01 00:15;7\n";
    let both = beside(&[("o.csv", other), ("f.csv", WEATHER)], &none, &["temperature"]).unwrap();
    assert_eq!(
        (both.len(), both[0].as_str(), both[1].as_str()),
        (4, "01-01T00:15 b 7 [NaN]", "01-01T00:15 a 1.5 [-2.5]")
    );
}

#[test]
fn a_covariate_is_never_taken_for_the_value() {
    let none = FileOptions::default();
    // `load` would be the value by its name.
    let text = "series_id,timestamp,feed_in,load\na,2024-01-01T00:15:00Z,1,2\n";
    assert_eq!(beside(&[("f.csv", text)], &none, &["load"]).unwrap(), ["01-01T00:15 a 1 [2.0]"]);
    let alone = "series_id,timestamp,temperature\na,2024-01-01T00:15:00Z,2\n";
    let error = beside(&[("f.csv", alone)], &none, &["temperature"]).unwrap_err();
    assert!(error.contains("which column holds the value (of covariates alone an empty one)?"), "{error}");
}

#[test]
fn covariates_that_are_not_there_or_cannot_be_read_are_refused_with_the_remedy() {
    let none = FileOptions::default();
    let wide = "time,a,temperature\n2024-01-01 00:00,1,2\n";
    let bad = WEATHER.replace(",3,", ",mild,");
    for (text, options, covariate, words) in [
        (
            WEATHER,
            &none,
            "temprature",
            vec!["`temprature`", "did you mean `temperature`?", "`value`, `temperature`, `note`"],
        ),
        (wide, &none, "temperature", vec!["f.csv", "long files", "`time`, `a`, `temperature`"]),
        (WEATHER, &none, "timestamp", vec!["`timestamp` is the time stamp"]),
        (WEATHER, &none, "note", vec!["line 2, column `note`: `x` is no number"]),
        (&bad, &none, "temperature", vec!["line 4, column `temperature`: `mild` is no number"]),
        (
            WEATHER,
            &FileOptions { value_column: Some("value".into()), ..none.clone() },
            "value",
            vec!["`value` is the value and cannot be a covariate"],
        ),
    ] {
        let error = beside(&[("f.csv", text)], options, &[covariate]).unwrap_err();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f.csv");
    std::fs::write(&path, &bad).unwrap();
    let skipping = FileOptions { skip_bad: true, ..none };
    let mut file = open_each(&[path], &skipping, &names(&["temperature"])).unwrap().remove(0);
    assert_eq!((file.by_ref().count(), file.skipped()), (2, 1));
}

mod parquet_files {
    use ::parquet::arrow::ArrowWriter;
    use arrow::array::{
        ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
    };
    use arrow::compute::cast;
    use arrow::datatypes::DataType;

    use super::*;

    fn written(columns: Vec<(&str, ArrayRef)>) -> Result<Vec<String>, String> {
        let (_directory, path) = file(columns);
        rows(open(&path, &FileOptions::default()).map_err(|e| e.to_string())?)
    }

    fn file(columns: Vec<(&str, ArrayRef)>) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f.parquet");
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        (directory, path)
    }

    #[test]
    fn covariates_are_numbers_or_yes_and_no_or_texts_that_are_such() {
        let stamps = Arc::new(TimestampMillisecondArray::from_iter_values((1..5).map(|i| i * 900_000)));
        let series = Arc::new(StringArray::from(vec!["a"; 4]));
        let (_directory, path) = file(vec![
            ("temperature", Arc::new(Float64Array::from(vec![Some(1.5), Some(f64::NAN), None, Some(4.0)]))),
            ("series_id", series),
            ("ignored", Arc::new(StringArray::from(vec!["x"; 4]))),
            ("holiday", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None, None]))),
            ("timestamp", stamps),
            ("tariff", Arc::new(StringArray::from(vec![Some("0.25"), None, None, Some("high")]))),
            ("value", Arc::new(Float64Array::from(vec![Some(1.0), None, None, None]))),
        ]);
        let read = |covariates: &[&str]| -> Vec<Result<String, String>> {
            let opened = open_each(std::slice::from_ref(&path), &FileOptions::default(), &names(covariates)).unwrap();
            let rows = opened.into_iter().flatten();
            rows.map(|r| r.map(|r| shown_beside(&r)).map_err(|e| e.to_string())).collect()
        };
        assert_eq!(
            read(&["holiday", "temperature"]),
            ["01-01T00:15 a 1 [1.0, 1.5]", "01-01T00:30 a NaN [0.0, NaN]", "01-01T01:00 a NaN [NaN, 4.0]"]
                .map(|row| Ok(row.to_owned()))
        );
        let found = read(&["tariff"]);
        assert_eq!(found[0], Ok("01-01T00:15 a 1 [0.25]".to_owned()));
        let error = found[1].as_ref().unwrap_err();
        assert!(error.contains("row 4, column `tariff`: `high` is no number"), "{error}");
        assert_eq!(read(&[]).len(), 1);
        let refused = open_each(std::slice::from_ref(&path), &FileOptions::default(), &names(&["tarif"]));
        let refused = refused.map(|_| ()).unwrap_err();
        assert!(refused.is_usage() && refused.to_string().contains("did you mean `tariff`?"), "{refused}");
    }

    #[test]
    fn long_and_wide_are_understood() {
        let stamps = || Arc::new(TimestampMillisecondArray::from(vec![1_704_067_200_000, 1_704_068_100_000]));
        assert_eq!(
            written(vec![
                ("unique_id", Arc::new(StringArray::from(vec!["a", "b"]))),
                ("ds", stamps()),
                ("y", Arc::new(Int64Array::from(vec![1, 2]))),
            ]),
            Ok(vec!["2024-01-01T00:00:00Z a 1".into(), "2024-01-01T00:15:00Z b 2".into()])
        );
        assert_eq!(
            written(vec![
                ("y1", Arc::new(Float64Array::from(vec![Some(1.5), None]))),
                ("at", Arc::new(stamps().as_ref().clone().with_timezone("UTC"))),
                ("y2", Arc::new(Float64Array::from(vec![f64::NAN, 2.0]))),
            ]),
            Ok(vec!["2024-01-01T00:00:00Z y1 1.5".into(), "2024-01-01T00:15:00Z y2 2".into()])
        );
        let text = Arc::new(StringArray::from(vec!["2024-01-01 00:00", "2024-01-01 00:15"]));
        assert_eq!(
            written(vec![("time", text), ("a", Arc::new(Int64Array::from(vec![1, 2])))]),
            Ok(vec!["2024-01-01T00:00:00Z a 1".into(), "2024-01-01T00:15:00Z a 2".into()])
        );
    }
    /// What is read where what cannot be read is skipped, how much that was, and the error where it is not.
    fn skipping(columns: Vec<(&str, ArrayRef)>) -> (Vec<String>, u64, String) {
        let (_directory, path) = file(columns);
        let mut readings = open(&path, &FileOptions { skip_bad: true, ..FileOptions::default() }).unwrap();
        let read = readings.by_ref().map(|r| show(&r.unwrap())).collect();
        let strict = rows(open(&path, &FileOptions::default()).unwrap());
        (read, readings.skipped(), strict.err().unwrap_or_default())
    }

    #[test]
    fn texts_in_a_column_of_values_are_numbers_or_missing_or_errors_and_none_is_lost() {
        let stamps = || Arc::new(TimestampMillisecondArray::from_iter_values((0..5).map(|i| i * 900_000)));
        let texts = || StringArray::from(vec![Some("1.5"), Some("2,5"), Some("broken"), None, Some("n/a")]);
        let dictionary = || cast(&texts(), &DataType::Dictionary(DataType::Int8.into(), DataType::Utf8.into()));
        let read = |series: [&str; 2]| {
            let [at_0, at_1] = series;
            [format!("1970-01-01T00:00:00Z {at_0} 1.5"), format!("1970-01-01T00:15:00Z {at_1} 2.5")]
        };
        for values in [Arc::new(texts()) as ArrayRef, dictionary().unwrap()] {
            let series = StringArray::from(vec!["a", "b", "c", "d", "e"]);
            let (found, skipped, error) =
                skipping(vec![("series_id", Arc::new(series)), ("value", Arc::clone(&values)), ("ts", stamps())]);
            assert_eq!((&found[..], skipped), (&read(["a", "b"])[..], 1));
            assert!(error.contains("row 3, column `value`: `broken` is no number"), "{error}");

            let (found, skipped, error) = skipping(vec![
                ("x", values),
                ("ts", stamps()),
                ("y", Arc::new(Float64Array::from(vec![None, None, Some(7.0), None, Some(f64::NAN)]))),
            ]);
            let mut expected = read(["x", "x"]).to_vec();
            // The other cell of that row is good.
            expected.push("1970-01-01T00:30:00Z y 7".to_owned());
            assert_eq!((found, skipped), (expected, 1));
            assert!(error.contains("row 3, column `x`: `broken` is no number"), "{error}");
        }
    }

    #[test]
    fn a_column_that_comes_to_hold_no_numbers_is_an_error() {
        // Nothing in the first rows says that these are no values.
        let count = 60;
        let stamps = TimestampMillisecondArray::from_iter_values((0..count).map(|i| i * 900_000));
        let last = |row: i64| (row == count - 1).then_some(row);
        let later = TimestampMillisecondArray::from_iter((0..count).map(last));
        let (found, skipped, error) = skipping(vec![
            ("timestamp", Arc::new(stamps)),
            ("load", Arc::new(Int64Array::from_iter_values(0..count))),
            ("read_at", Arc::new(later)),
        ]);
        assert_eq!((found.len(), skipped), (60, 1));
        assert!(error.contains("row 60, column `read_at`: `1970-01-01T00:00:00.059` is no number"), "{error}");
    }
}
