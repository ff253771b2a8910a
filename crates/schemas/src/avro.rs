//! Avro: schemas with what they refer to, and values as JSON.
//!
//! Values are decoded here and not by the library, whose decoder follows a schema that refers to itself as
//! deep as the bytes say.

use std::collections::BTreeMap;

use apache_avro::Schema;
use apache_avro::schema::{Name, NamesRef, ResolvedSchema};
use serde_json::{Map, Value};

/// Deepest nesting of a value.
const DEPTH_MAX: usize = 64;
/// Items of a value at most, of all its arrays and maps: one of nothing costs no bytes.
const ITEMS_MAX: usize = 1_000_000;
/// Names of Avro's own types, which no reference can mean.
const PRIMITIVES: [&str; 14] = [
    "null", "boolean", "int", "long", "float", "double", "bytes", "string", "record", "enum",
    "array", "map", "fixed", "error",
];

/// The schema of a text; what it refers to is put where it is named first.
///
/// # Errors
/// If it is none.
pub fn parse(text: &str, referred: &[String]) -> Result<Schema, String> {
    let mut definitions = BTreeMap::new();
    for text in referred {
        let json: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if let Some(name) = full_name(&json) {
            definitions.insert(name, json);
        }
    }
    let mut json: Value = match serde_json::from_str(text) {
        Ok(json) => json,
        // A schema can be the bare name of a type.
        Err(_) if is_name(text.trim()) => Value::String(text.trim().to_owned()),
        Err(error) => return Err(error.to_string()),
    };
    put_definitions(&mut json, "", &mut definitions);
    check_names(&json)?;
    Schema::parse(&json).map_err(|error| error.to_string())
}

/// Names joined by dots.
fn is_name(text: &str) -> bool {
    text.split('.').all(|part| {
        let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
        part.bytes().next().is_some_and(is_letter)
            && part.bytes().all(|byte| is_letter(byte) || byte.is_ascii_digit())
    })
}

/// The library panics at names that are none, so they are refused before.
fn check_names(json: &Value) -> Result<(), String> {
    let check = |name: &str| match is_name(name) {
        true => Ok(()),
        false => Err(format!("'{name}' is no name")),
    };
    match json {
        Value::String(name) => check(name),
        Value::Array(branches) => branches.iter().try_for_each(check_names),
        Value::Object(object) => {
            if let Some(Value::String(name)) = object.get("name") {
                check(name)?;
            }
            if let Some(Value::String(namespace)) = object.get("namespace")
                && !namespace.is_empty()
            {
                check(namespace)?;
            }
            if let Some(Value::Array(aliases)) = object.get("aliases") {
                aliases.iter().filter_map(Value::as_str).try_for_each(check)?;
            }
            for part in ["type", "items", "values"] {
                object.get(part).map_or(Ok(()), check_names)?;
            }
            match object.get("fields") {
                Some(Value::Array(fields)) => fields.iter().try_for_each(check_names),
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

fn full_name(json: &Value) -> Option<String> {
    let name = json.get("name")?.as_str()?;
    match json.get("namespace").and_then(Value::as_str) {
        Some(namespace) if !namespace.is_empty() && !name.contains('.') => {
            Some(format!("{namespace}.{name}"))
        }
        _ => Some(name.to_owned()),
    }
}

/// Puts each definition where its name stands first. JSON is nested as deep as its parser allows, and each
/// definition is put once.
fn put_definitions(json: &mut Value, namespace: &str, definitions: &mut BTreeMap<String, Value>) {
    match json {
        Value::String(name) if !PRIMITIVES.contains(&name.as_str()) => {
            let qualified = format!("{namespace}.{name}");
            let found = definitions.remove(&qualified).or_else(|| definitions.remove(name));
            if let Some(mut definition) = found {
                put_definitions(&mut definition, "", definitions);
                *json = definition;
            }
        }
        Value::Array(branches) => {
            for branch in branches {
                put_definitions(branch, namespace, definitions);
            }
        }
        Value::Object(object) => {
            let own = object.get("namespace").and_then(Value::as_str);
            let namespace = own.unwrap_or(namespace).to_owned();
            for part in ["items", "values"] {
                if let Some(inner) = object.get_mut(part) {
                    put_definitions(inner, &namespace, definitions);
                }
            }
            if let Some(Value::Array(fields)) = object.get_mut("fields") {
                for field in fields {
                    if let Some(inner) = field.get_mut("type") {
                        put_definitions(inner, &namespace, definitions);
                    }
                }
            }
            if let Some(inner @ (Value::Object(_) | Value::Array(_))) = object.get_mut("type") {
                put_definitions(inner, &namespace, definitions);
            }
        }
        _ => {}
    }
}

/// A schema whose values can be decoded.
pub struct Decoder {
    schema: Schema,
}

impl Decoder {
    /// For what was written with this schema.
    ///
    /// # Errors
    /// If it is none.
    pub fn new(text: &str, referred: &[String]) -> Result<Decoder, String> {
        Ok(Decoder { schema: parse(text, referred)? })
    }

    /// A value as JSON; `None` if the bytes are none of the schema. Dates and times are ISO 8601, decimals and
    /// UUIDs text, bytes hexadecimal after `\x`.
    pub fn decode(&self, bytes: &[u8]) -> Option<Value> {
        let resolved = ResolvedSchema::try_from(&self.schema).ok()?;
        let mut reader = Reader { bytes, names: resolved.get_names(), items_left: ITEMS_MAX };
        let value = reader.value(&self.schema, 0)?;
        reader.bytes.is_empty().then_some(value)
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    names: &'a NamesRef<'a>,
    items_left: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.bytes.split_first_chunk::<N>()?;
        self.bytes = rest;
        Some(*taken)
    }

    /// A number of variable length, zigzag.
    fn long(&mut self) -> Option<i64> {
        let mut number: u64 = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array::<1>()?;
            number |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Some((number >> 1).cast_signed() ^ -(number & 1).cast_signed());
            }
        }
        None
    }

    fn blob(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.long()?).ok()?;
        self.take(length)
    }

    fn text(&mut self) -> Option<String> {
        Some(std::str::from_utf8(self.blob()?).ok()?.to_owned())
    }

    fn value(&mut self, schema: &Schema, depth: usize) -> Option<Value> {
        if depth > DEPTH_MAX {
            return None;
        }
        let inner = depth + 1;
        Some(match schema {
            Schema::Null => Value::Null,
            Schema::Boolean => match self.array::<1>()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                _ => return None,
            },
            Schema::Int | Schema::Long => self.long()?.into(),
            Schema::Float => number(f64::from(f32::from_le_bytes(self.array()?))),
            Schema::Double => number(f64::from_le_bytes(self.array()?)),
            Schema::Bytes | Schema::BigDecimal => hexadecimal(self.blob()?),
            Schema::String | Schema::Uuid => Value::String(self.text()?),
            Schema::Fixed(fixed) => hexadecimal(self.take(fixed.size)?),
            Schema::Duration => hexadecimal(self.take(12)?),
            Schema::Decimal(decimal) => {
                let bytes = match &*decimal.inner {
                    Schema::Fixed(fixed) => self.take(fixed.size)?,
                    _ => self.blob()?,
                };
                decimal_text(bytes, decimal.scale)?
            }
            Schema::Enum(of) => {
                let index = usize::try_from(self.long()?).ok()?;
                Value::String(of.symbols.get(index)?.clone())
            }
            Schema::Array(of) => {
                let mut items = Vec::new();
                self.blocks(|reader| {
                    items.push(reader.value(&of.items, inner)?);
                    Some(())
                })?;
                Value::Array(items)
            }
            Schema::Map(of) => {
                let mut entries = Map::new();
                self.blocks(|reader| {
                    let key = reader.text()?;
                    entries.insert(key, reader.value(&of.types, inner)?);
                    Some(())
                })?;
                Value::Object(entries)
            }
            Schema::Union(of) => {
                let branch = usize::try_from(self.long()?).ok()?;
                self.value(of.variants().get(branch)?, inner)?
            }
            Schema::Record(of) => {
                let mut fields = Map::new();
                for field in &of.fields {
                    fields.insert(field.name.clone(), self.value(&field.schema, inner)?);
                }
                Value::Object(fields)
            }
            Schema::Ref { name } => {
                let named = self.named(name)?;
                self.value(named, inner)?
            }
            time => self.time(time)?,
        })
    }

    fn named(&self, name: &Name) -> Option<&'a Schema> {
        self.names.get(name).copied()
    }

    /// Calls `item` for each item of an array or map.
    fn blocks(&mut self, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        loop {
            let mut count = self.long()?;
            if count == 0 {
                return Some(());
            }
            if count < 0 {
                // How many bytes it has, for those who pass it over.
                self.long()?;
                count = count.checked_neg()?;
            }
            self.items_left = self.items_left.checked_sub(usize::try_from(count).ok()?)?;
            for _ in 0..count {
                item(self)?;
            }
        }
    }

    fn time(&mut self, schema: &Schema) -> Option<Value> {
        use chrono::DateTime;
        let number = self.long()?;
        let of_day = |micros: i64| {
            let seconds = u32::try_from(micros.div_euclid(1_000_000)).ok()?;
            let nanos = u32::try_from(micros.rem_euclid(1_000_000)).ok()? * 1000;
            chrono::NaiveTime::from_num_seconds_from_midnight_opt(seconds, nanos)
        };
        let text = match schema {
            Schema::Date => {
                let midnight = DateTime::from_timestamp(number.checked_mul(86_400)?, 0)?;
                midnight.format("%Y-%m-%d").to_string()
            }
            Schema::TimeMillis => of_day(number.checked_mul(1000)?)?.to_string(),
            Schema::TimeMicros => of_day(number)?.to_string(),
            Schema::TimestampMillis => zoned(DateTime::from_timestamp_millis(number)?),
            Schema::TimestampMicros => zoned(DateTime::from_timestamp_micros(number)?),
            Schema::TimestampNanos => zoned(DateTime::from_timestamp_nanos(number)),
            Schema::LocalTimestampMillis => local(DateTime::from_timestamp_millis(number)?),
            Schema::LocalTimestampMicros => local(DateTime::from_timestamp_micros(number)?),
            Schema::LocalTimestampNanos => local(DateTime::from_timestamp_nanos(number)),
            _ => return None,
        };
        Some(Value::String(text))
    }
}

fn local(time: chrono::DateTime<chrono::Utc>) -> String {
    time.format("%Y-%m-%d %H:%M:%S%.6f").to_string()
}

fn zoned(time: chrono::DateTime<chrono::Utc>) -> String {
    time.format("%Y-%m-%d %H:%M:%S%.6f+00").to_string()
}

/// JSON has no word for what is no number.
fn number(value: f64) -> Value {
    serde_json::Number::from_f64(value)
        .map_or_else(|| Value::String(value.to_string()), Value::Number)
}

fn hexadecimal(bytes: &[u8]) -> Value {
    let mut text = String::with_capacity(2 + 2 * bytes.len());
    text.push_str("\\x");
    bytes.iter().for_each(|byte| text.push_str(&format!("{byte:02x}")));
    Value::String(text)
}

/// A number of two's complement, big end first, with so many digits after the point.
fn decimal_text(bytes: &[u8], scale: usize) -> Option<Value> {
    if bytes.len() > 16 || bytes.is_empty() || scale > 38 {
        return None;
    }
    let fill = if bytes[0] & 0x80 == 0 { 0 } else { 0xFF };
    let mut whole = [fill; 16];
    whole[16 - bytes.len()..].copy_from_slice(bytes);
    let unscaled = i128::from_be_bytes(whole);
    let digits = format!("{:0>width$}", unscaled.unsigned_abs(), width = scale + 1);
    let (before, after) = digits.split_at(digits.len() - scale);
    let sign = if unscaled < 0 { "-" } else { "" };
    let point = if scale == 0 { "" } else { "." };
    Some(Value::String(format!("{sign}{before}{point}{after}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const EVERYTHING: &str = r#"{"type":"record","name":"All","fields":[
        {"name":"n","type":"null"},{"name":"b","type":"boolean"},{"name":"i","type":"int"},
        {"name":"l","type":"long"},{"name":"d","type":"double"},{"name":"s","type":"string"},
        {"name":"y","type":"bytes"},{"name":"e","type":{"type":"enum","name":"E","symbols":["X","Y"]}},
        {"name":"a","type":{"type":"array","items":"int"}},
        {"name":"m","type":{"type":"map","values":"long"}},
        {"name":"u","type":["null","string"]},
        {"name":"day","type":{"type":"int","logicalType":"date"}},
        {"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}},
        {"name":"c","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}}]}"#;

    #[test]
    fn every_type_is_decoded() {
        let mut bytes = vec![1, 3, 0x80, 0x02];
        bytes.extend(2.5f64.to_le_bytes());
        bytes.extend([4, b'h', b'i', 2, 0xAB, 2]);
        bytes.extend([4, 2, 4, 0]);
        bytes.extend([2, 2, b'k', 14, 0]);
        bytes.extend([2, 2, b'z']);
        bytes.extend([2]);
        bytes.extend([0xD0, 0x0F]);
        bytes.extend([4, 0xFF, 0x38]);
        let decoder = Decoder::new(EVERYTHING, &[]).unwrap();
        let expected = json!({"n": null, "b": true, "i": -2, "l": 128, "d": 2.5, "s": "hi", "y": "\\xab",
            "e": "Y", "a": [1, 2], "m": {"k": 7}, "u": "z", "day": "1970-01-02",
            "at": "1970-01-01 00:00:01.000000+00", "c": "-2.00"});
        assert_eq!(decoder.decode(&bytes), Some(expected));
        bytes.push(0);
        assert_eq!(decoder.decode(&bytes), None, "a byte too many");
    }

    #[test]
    fn a_schema_that_refers_to_itself_is_followed_so_deep_and_no_deeper() {
        let list = r#"{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}"#;
        let decoder = Decoder::new(list, &[]).unwrap();
        assert_eq!(decoder.decode(&[2, 2, 0]), Some(json!({"next": {"next": {"next": null}}})));
        let mut deep = vec![2; 1_000_000];
        deep.push(0);
        assert_eq!(decoder.decode(&deep), None);
    }

    #[test]
    fn items_of_nothing_are_counted() {
        let nothing = r#"{"type":"array","items":"null"}"#;
        let decoder = Decoder::new(nothing, &[]).unwrap();
        assert_eq!(decoder.decode(&[4, 0]), Some(json!([null, null])));
        assert_eq!(decoder.decode(&[0xFE, 0xFF, 0xFF, 0xFF, 0x0F, 0]), None);
    }

    #[test]
    fn fuzz() {
        let decoder = Decoder::new(EVERYTHING, &[]).unwrap();
        let corpus = [EVERYTHING.as_bytes().to_vec(), vec![1, 3, 4, 2, 4, 0, 2, 2, b'k', 14, 0]];
        proteus_testkit::fuzz::run("avro", &corpus, |bytes| {
            let _ = decoder.decode(bytes);
            let text = String::from_utf8_lossy(bytes);
            if let Ok(decoder) = Decoder::new(&text, &[]) {
                let _ = decoder.decode(bytes);
            }
            let _ = parse(EVERYTHING, &[text.into_owned()]);
        });
    }
}
