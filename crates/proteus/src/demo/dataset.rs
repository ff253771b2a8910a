//! The readings that ship with the binary: a year of Auckland's pedestrian counters.

use std::fmt;

/// See `data/README.md` for source and licence.
const CSV: &str = include_str!("../../data/auckland-pedestrians-2023.csv");

/// The data's name and licence, for the report.
pub(crate) const CREDIT: &str =
    "Auckland pedestrian counts 2023, Heart of the City Auckland, CC BY 4.0";

/// Sensors' names and the year's readings in order of time.
pub(crate) struct Dataset {
    pub(crate) sensors: Vec<String>,
    readings: Vec<YearReading>,
}

struct YearReading {
    sensor: u16,
    month_day: (u8, u8),
    hour: u8,
    value: i64,
}

/// One sensor's count of one hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Index into [`Dataset::sensors`].
    pub(crate) sensor: usize,
    pub(crate) time: Hour,
    pub(crate) value: i64,
}

/// An hour of a day, as text in ISO 8601.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Hour {
    year: u32,
    month: u8,
    day: u8,
    hour: u8,
}

impl Hour {
    /// `YYYY-MM-DD`.
    pub(crate) fn date(&self) -> String {
        format!("{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }

    /// 0 to 23.
    pub(crate) fn hour_of_day(&self) -> i32 {
        i32::from(self.hour)
    }
}

impl fmt::Display for Hour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:02}:00:00", self.date(), self.hour)
    }
}

impl Dataset {
    /// Reads the readings that ship with the binary.
    ///
    /// # Errors
    /// If a line of the file is not of its form.
    pub(crate) fn load() -> Result<Dataset, String> {
        let mut lines = CSV.lines();
        let header = lines.next().ok_or("the data is empty")?;
        let sensors: Vec<String> = header.split(',').skip(2).map(str::to_owned).collect();
        let mut readings = Vec::new();
        for (number, line) in lines.enumerate() {
            let wrong = || format!("line {} of the data is malformed: {line}", number + 2);
            let mut fields = line.split(',');
            let mut date = fields.next().ok_or_else(wrong)?.split('-').skip(1);
            let mut part = || date.next().and_then(|part| part.parse().ok());
            let month_day = part().zip(part()).ok_or_else(wrong)?;
            let hour = fields.next().and_then(|hour| hour.parse().ok()).ok_or_else(wrong)?;
            for (sensor, value) in fields.enumerate().filter(|(_, value)| !value.is_empty()) {
                let sensor = u16::try_from(sensor).map_err(|_| wrong())?;
                let value = value.parse().map_err(|_| wrong())?;
                readings.push(YearReading { sensor, month_day, hour, value });
            }
        }
        readings.sort_by_key(|reading| (reading.month_day, reading.hour, reading.sensor));
        Ok(Dataset { sensors, readings })
    }

    /// Readings in one year.
    pub(crate) fn len(&self) -> usize {
        self.readings.len()
    }

    /// Reading number `number` from 0: the year's readings, and the same again for each year after.
    pub(crate) fn reading(&self, number: usize) -> Reading {
        let year = u32::try_from(number / self.readings.len()).unwrap_or(u32::MAX - 2023) + 2023;
        let source = &self.readings[number % self.readings.len()];
        let (month, day) = source.month_day;
        let time = Hour { year, month, day, hour: source.hour };
        Reading { sensor: usize::from(source.sensor), time, value: source.value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_year_of_21_sensors() {
        let dataset = Dataset::load().unwrap();
        assert_eq!(dataset.sensors.len(), 21);
        assert_eq!(dataset.len(), 183_801);
        let first = dataset.reading(0);
        assert_eq!(first.time.to_string(), dataset.reading(1).time.to_string());
        assert_eq!(dataset.reading(dataset.len()).time.date().split_at(4).0, "2024");
    }

    #[test]
    fn no_sensor_counts_an_hour_twice() {
        let dataset = Dataset::load().unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..dataset.len() {
            let reading = dataset.reading(number);
            assert!(seen.insert((reading.sensor, reading.time)), "{reading:?}");
        }
    }
}
