//! Delimited files as they lie in the data folder. Every complaint names the file, the line and a remedy.

use std::path::Path;

use csv::{ReaderBuilder, StringRecord};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use meterline_schemas::Micros;

/// What to do about a file that is not what it should be.
pub(super) const REMEDY: &str =
    "fetch the file again as its publisher has it, or name the folder of unchanged files by METERLINE_DATA";

/// A file in memory: names of columns and rows of text.
pub(super) struct Table {
    file: String,
    columns: Vec<String>,
    rows: Vec<StringRecord>,
}

/// One row.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    table: &'a Table,
    fields: &'a StringRecord,
}

impl Table {
    /// A comma-separated file whose first line names its columns.
    pub fn open(path: &Path) -> Result<Table, String> {
        let mut table = Table::without_header(path, &[])?;
        table.take_header()?;
        Ok(table)
    }

    /// A comma-separated file without a header, and what its columns are.
    pub fn without_header(path: &Path, columns: &[&str]) -> Result<Table, String> {
        let file = path.display().to_string();
        let bytes = std::fs::read(path)
            .map_err(|e| format!("reading {file}: {e}; name the folder with the data by METERLINE_DATA"))?;
        Table::parse(&file, &bytes, columns)
    }

    /// The bytes of a comma-separated file whose first line names its columns; `file` is what complaints call it.
    pub fn from_bytes(file: &str, bytes: &[u8]) -> Result<Table, String> {
        let mut table = Table::parse(file, bytes, &[])?;
        table.take_header()?;
        Ok(table)
    }

    fn parse(file: &str, bytes: &[u8], columns: &[&str]) -> Result<Table, String> {
        // The parser counts a line that ends in CR LF one record late, and lines are what complaints are about.
        let bytes: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != b'\r').collect();
        // Lines may have different numbers of fields: M4 series are as long as they are.
        let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes.as_slice());
        let rows: Result<Vec<StringRecord>, csv::Error> = reader.records().collect();
        let rows = rows.map_err(|e| format!("reading {file}: {e}; {REMEDY}"))?;
        Ok(Table { file: file.to_owned(), columns: columns.iter().map(|c| (*c).to_owned()).collect(), rows })
    }

    fn take_header(&mut self) -> Result<(), String> {
        if self.rows.is_empty() {
            return Err(format!("{} is empty; {REMEDY}", self.file));
        }
        self.columns = self.rows.remove(0).iter().map(str::to_owned).collect();
        Ok(())
    }

    /// What complaints call the file.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Index of a column by its name.
    pub fn column(&self, name: &str) -> Result<usize, String> {
        let found = self.columns.iter().position(|c| c == name);
        found.ok_or_else(|| format!("{}, line 1: no column `{name}`; {REMEDY}", self.file))
    }

    /// The rows in the order of the file.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|fields| Row { table: self, fields })
    }
}

impl<'a> Row<'a> {
    /// Line of the file that it starts on, from 1.
    pub fn line(self) -> u64 {
        self.fields.position().map_or(0, csv::Position::line)
    }

    /// A complaint about this row.
    pub fn refuse(self, what: &str) -> String {
        format!("{}, line {}: {what}; {REMEDY}", self.table.file, self.line())
    }

    /// All fields.
    pub fn fields(self) -> impl Iterator<Item = &'a str> {
        self.fields.iter()
    }

    /// The text of a column.
    pub fn text(self, column: usize) -> Result<&'a str, String> {
        self.fields.get(column).ok_or_else(|| self.refuse(&format!("no field {}", column + 1)))
    }

    /// The finite number of a column.
    pub fn number(self, column: usize) -> Result<f32, String> {
        let text = self.text(column)?;
        let number: Option<f32> = text.trim().parse().ok();
        number.filter(|n| n.is_finite()).ok_or_else(|| self.refuse(&format!("`{text}` is not a finite number")))
    }

    /// The number of a column, NaN where the field is empty.
    pub fn number_or_missing(self, column: usize) -> Result<f32, String> {
        if self.text(column)?.trim().is_empty() { Ok(f32::NAN) } else { self.number(column) }
    }

    /// The instant of a column; a stamp without an offset is taken as UTC.
    pub fn stamp(self, column: usize) -> Result<Micros, String> {
        let text = self.text(column)?;
        let stamp = text.parse::<Timestamp>().or_else(|_| TimeZone::UTC.to_timestamp(text.parse::<DateTime>()?));
        let stamp = stamp.map_err(|e| self.refuse(&format!("time stamp `{text}`: {e}")))?;
        Ok(stamp.as_microsecond())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_complaint_names_file_line_and_remedy() {
        let table = Table::from_bytes("load.csv", b"at,load\r\n2014-01-01 01:00:00,x\r\nnever,1.5\r\n").unwrap();
        let load = table.column("load").unwrap();
        let complaints: Vec<String> = vec![
            table.column("wind").unwrap_err(),
            table.rows().next().unwrap().number(load).unwrap_err(),
            table.rows().nth(1).unwrap().stamp(0).unwrap_err(),
            table.rows().nth(1).unwrap().text(2).unwrap_err(),
        ];
        for (complaint, line) in complaints.iter().zip([1, 2, 3, 3]) {
            assert!(complaint.starts_with(&format!("load.csv, line {line}: ")), "{complaint}");
            assert!(complaint.ends_with(REMEDY), "{complaint}");
        }
        let absent = Table::open(Path::new("/absent/load.csv")).err().unwrap();
        assert!(absent.starts_with("reading /absent/load.csv: ") && absent.contains("METERLINE_DATA"), "{absent}");
        assert!(Table::from_bytes("empty.csv", b"").err().unwrap().starts_with("empty.csv is empty"));
    }

    #[test]
    fn stamps_are_read_in_each_form_that_the_files_have() {
        let bytes = b"at\n2014-01-01 01:00:00\n2014-01-01 01:00:00+00:00\n2014-01-01T01:00:00Z\n";
        let table = Table::from_bytes("stamps", bytes).unwrap();
        let stamps: Vec<Micros> = table.rows().map(|row| row.stamp(0).unwrap()).collect();
        assert_eq!(stamps, vec![1_388_538_000_000_000; 3]);
    }

    #[test]
    fn an_empty_field_is_missing_and_a_word_is_not_a_number() {
        let table = Table::from_bytes("values", b"a,b,c\n1.5,,NA\n").unwrap();
        let row = table.rows().next().unwrap();
        assert_eq!(row.number_or_missing(0), Ok(1.5));
        assert!(row.number_or_missing(1).unwrap().is_nan());
        assert!(row.number_or_missing(2).is_err() && row.number(1).is_err());
    }
}
