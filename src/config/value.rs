//! Single values: texts, durations, sizes, modes, choices. Each reader says what to write if it can't read.

use std::time::Duration;

use toml::de::DeValue;

use crate::core::access::Mode;

/// What a value is, with its article.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or a time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// `items` as a sentence has them: `a`, `b` and `c`.
pub(super) fn listed(items: &[&str], quote: char, last: &str) -> String {
    let quoted: Vec<String> = items.iter().map(|item| format!("{quote}{item}{quote}")).collect();
    match quoted.split_last() {
        None => "none".to_owned(),
        Some((only, [])) => only.clone(),
        Some((end, rest)) => format!("{} {last} {end}", rest.join(", ")),
    }
}

/// A text that is not empty.
pub(super) fn text<'a>(key: &str, value: &'a DeValue<'a>) -> Result<&'a str, String> {
    match value.as_str() {
        Some("") => Err("is empty: write a value, or leave the key out".to_owned()),
        Some(text) => Ok(text),
        None => Err(format!("is {}: write a text in quotes, `{key} = \"…\"`", kind(value))),
    }
}

/// A whole number that is not negative.
pub(super) fn number(value: &DeValue<'_>) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// A span of time with its unit.
pub(super) fn duration(key: &str, value: &DeValue<'_>) -> Result<Duration, String> {
    let units = format!("write a number with its unit in quotes, such as `{key} = \"5s\"` or \"1m30s\"");
    if let Some(bare) = number(value) {
        return Err(format!("has no unit: write `{key} = \"{bare}s\"` if seconds are meant"));
    }
    let Some(text) = value.as_str() else {
        return Err(format!("is {}: {units}", kind(value)));
    };
    humantime::parse_duration(text).map_err(|error| match error {
        humantime::DurationError::UnknownUnit { unit, value, .. } if unit.is_empty() => {
            format!("has no unit: write `{key} = \"{value}s\"` if seconds are meant")
        }
        humantime::DurationError::UnknownUnit { unit, .. } => {
            format!(
                "has an unknown unit {unit:?}: write it with ms, s, m, h or d, such as `{key} = \"1m30s\"`"
            )
        }
        humantime::DurationError::NumberOverflow => format!("is too long or too fine: {units}"),
        humantime::DurationError::InvalidCharacter(_)
        | humantime::DurationError::NumberExpected(_)
        | humantime::DurationError::Empty => format!("is no span of time: {units}"),
    })
}

/// A span of time from `least` to `most`.
pub(super) fn duration_within(
    key: &str,
    value: &DeValue<'_>,
    least: Duration,
    most: Duration,
) -> Result<Duration, String> {
    let span = duration(key, value)?;
    if span < least {
        Err(format!("is too short: write `{key} = \"{}\"` or more", spelled(least)))
    } else if span > most {
        Err(format!("is too long: write `{key} = \"{}\"` or less", spelled(most)))
    } else {
        Ok(span)
    }
}

/// A span of time as it is written in a configuration.
pub(super) fn spelled(span: Duration) -> String {
    humantime::format_duration(span).to_string().replace(' ', "")
}

/// The units of a size; those of one letter are refused since they mean two things.
const UNITS: [(&str, u64); 7] = [
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// An amount of memory in bytes, at least `least`.
pub(super) fn size(key: &str, value: &DeValue<'_>, least: u64) -> Result<u64, String> {
    let example =
        format!("write `{key} = \"1MiB\"`, with KiB, MiB, GiB, KB, MB or GB, or a whole number of bytes");
    let bytes = match (number(value), value.as_str()) {
        (Some(bytes), _) => bytes,
        (None, None) => return Err(format!("is {}: {example}", kind(value))),
        (None, Some(text)) => {
            let text = text.trim();
            let (digits, unit) =
                text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
            let factor = match unit.trim() {
                "" => Some(1),
                unit => {
                    UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, factor)| *factor)
                }
            };
            let (Ok(amount), Some(factor)) = (digits.parse::<u64>(), factor) else {
                return Err(format!("is no size: {example}"));
            };
            amount.checked_mul(factor).ok_or_else(|| format!("is too large: {example}"))?
        }
    };
    if bytes < least {
        return Err(format!("is too small: write {least} bytes or more, such as `{key} = \"1MiB\"`"));
    }
    Ok(bytes)
}

/// Whose permission bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ModeOf {
    /// A file's, which is never executed.
    File,
    /// A directory's, which is searched.
    Directory,
}

/// Permission bits in octal.
pub(super) fn mode(key: &str, value: &DeValue<'_>, whose: ModeOf) -> Result<Mode, String> {
    let advice = |bits: Option<u16>| {
        let meant = bits.map_or(whose.example(), |bits| whose.fitting(bits));
        format!("write `{key} = \"{meant:04o}\"`")
    };
    if let Some(integer) = value.as_integer() {
        let meant = advice(octal(integer.as_str()));
        return Err(format!("is a number, which TOML may take for decimal: {meant}"));
    }
    let Some(text) = value.as_str() else {
        return Err(format!("is {}: {}", kind(value), advice(None)));
    };
    let Some(bits) = octal(text) else {
        return Err(format!("is no mode in octal digits: {}", advice(None)));
    };
    if bits == whose.fitting(bits) {
        return Ok(Mode(bits));
    }
    let why = match whose {
        _ if bits > 0o777 => "has setuid, setgid or sticky bits, which mean nothing here",
        ModeOf::File => "has execute bits, and a secret is never executed",
        ModeOf::Directory => "lets some list a directory that they can't enter",
    };
    Err(format!("{why}: {}", advice(Some(bits))))
}

impl ModeOf {
    fn example(self) -> u16 {
        match self {
            ModeOf::File => 0o400,
            ModeOf::Directory => 0o550,
        }
    }

    /// The nearest bits that make sense: whoever may list a directory may enter it.
    fn fitting(self, bits: u16) -> u16 {
        match self {
            ModeOf::File => bits & 0o666,
            ModeOf::Directory => bits & 0o777 | (bits & 0o444) >> 2,
        }
    }
}

fn octal(text: &str) -> Option<u16> {
    let octal = (3..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    octal.then(|| u16::from_str_radix(text, 8).ok()).flatten()
}

/// One of a few words.
pub(super) fn choice<T: Copy>(key: &str, value: &DeValue<'_>, choices: &[(&str, T)]) -> Result<T, String> {
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    let advice = format!("write `{key} =` {}", listed(&words, '"', "or"));
    let Some(text) = value.as_str() else {
        return Err(format!("is {}: {advice}", kind(value)));
    };
    let found = choices.iter().find(|(word, _)| *word == text);
    found.map(|(_, choice)| *choice).ok_or_else(|| format!("is {text:?}, which means nothing here: {advice}"))
}

/// A value as JSON text.
pub(super) fn json(value: &DeValue<'_>) -> Result<String, String> {
    Ok(json_value(value)?.to_string())
}

fn json_value(value: &DeValue<'_>) -> Result<serde_json::Value, String> {
    use serde_json::Value;
    let unfit = || format!("is {} that JSON does not have: write it as a text in quotes", kind(value));
    Ok(match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(truth) => Value::Bool(*truth),
        DeValue::Integer(integer) => {
            i64::from_str_radix(integer.as_str(), integer.radix()).map_err(|_| unfit())?.into()
        }
        DeValue::Float(float) => {
            let number = float.as_str().parse().ok().and_then(serde_json::Number::from_f64);
            Value::Number(number.ok_or_else(unfit)?)
        }
        DeValue::Datetime(_) => return Err(unfit()),
        DeValue::Array(items) => {
            Value::Array(items.iter().map(|item| json_value(item.get_ref())).collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => {
            let entry = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
                let key: &std::borrow::Cow<'_, str> = key.get_ref();
                json_value(value.get_ref()).map(|value| (key.to_string(), value))
            };
            Value::Object(table.iter().map(entry).collect::<Result<_, _>>()?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<T>(text: &str, read: impl FnOnce(&DeValue<'_>) -> T) -> T {
        read(DeValue::parse(text).unwrap().get_ref())
    }

    #[test]
    fn durations_need_a_unit() {
        for (text, seconds) in [("\"5s\"", 5), ("\"1m\"", 60), ("\"1h30m\"", 5400), ("\"1h 30m\"", 5400)] {
            assert_eq!(with(text, |v| duration("k", v)), Ok(Duration::from_secs(seconds)));
        }
        for (text, fragment) in [
            ("5", "write `k = \"5s\"`"),
            ("\"5\"", "write `k = \"5s\"`"),
            ("1.5", "`k = \"5s\"`"),
            ("\"5 parsecs\"", "unknown unit \"parsecs\""),
            ("\"\"", "is no span of time"),
            ("\"-5s\"", "is no span of time"),
            ("\"soon\"", "is no span of time"),
            ("\"99999999999999999999s\"", "is too long"),
            ("true", "is true or false: write a number with its unit"),
        ] {
            let error = with(text, |v| duration("k", v)).unwrap_err();
            assert!(error.contains(fragment), "{text}: {error}");
        }
    }

    #[test]
    fn bounds_are_part_of_the_complaint() {
        let (least, most) = (Duration::from_millis(100), Duration::from_secs(30));
        let read = |text| with(text, |v| duration_within("k", v, least, most));
        assert_eq!(read("\"30s\""), Ok(most));
        assert_eq!(read("\"100ms\""), Ok(least));
        assert_eq!(read("\"31s\""), Err("is too long: write `k = \"30s\"` or less".to_owned()));
        assert_eq!(read("\"99ms\""), Err("is too short: write `k = \"100ms\"` or more".to_owned()));
    }

    #[test]
    fn sizes_take_binary_and_decimal_units_and_plain_bytes() {
        for (text, bytes) in [
            ("\"256MiB\"", 256 << 20),
            ("\"1 MiB\"", 1 << 20),
            ("\"64KiB\"", 64 << 10),
            ("\"64kib\"", 64 << 10),
            ("\"10MB\"", 10_000_000),
            ("\"1GiB\"", 1 << 30),
            ("\"512B\"", 512),
            ("\"512\"", 512),
            ("4096", 4096),
            ("4_096", 4096),
            ("0x1000", 4096),
        ] {
            assert_eq!(with(text, |v| size("k", v, 1)), Ok(bytes), "{text}");
        }
        for (text, fragment) in [
            ("\"64M\"", "is no size: write `k = \"1MiB\"`"),
            ("\"1.5MiB\"", "is no size"),
            ("\"MiB\"", "is no size"),
            ("-5", "is a number: write"),
            ("1.5", "is a number with a point: write"),
            ("0", "is too small: write 1 bytes or more"),
            ("\"99999999999GiB\"", "is too large"),
            ("\"99999999999999999999\"", "is no size"),
        ] {
            let error = with(text, |v| size("k", v, 1)).unwrap_err();
            assert!(error.contains(fragment), "{text}: {error}");
        }
    }

    #[test]
    fn modes_are_octal_texts_without_bits_that_mean_nothing() {
        for (text, whose, bits) in [
            ("\"0400\"", ModeOf::File, 0o400),
            ("\"640\"", ModeOf::File, 0o640),
            ("\"0000\"", ModeOf::File, 0),
            ("\"0550\"", ModeOf::Directory, 0o550),
            ("\"0711\"", ModeOf::Directory, 0o711),
        ] {
            assert_eq!(with(text, |v| mode("mode", v, whose)), Ok(Mode(bits)), "{text}");
        }
        for (text, whose, fragment) in [
            ("400", ModeOf::File, "write `mode = \"0400\"`"),
            ("0o440", ModeOf::File, "write `mode = \"0440\"`"),
            ("256", ModeOf::Directory, "write `mode = \"0257\"`"),
            ("9", ModeOf::Directory, "write `mode = \"0550\"`"),
            ("\"u=r\"", ModeOf::File, "write `mode = \"0400\"`"),
            ("\"0800\"", ModeOf::File, "write `mode = \"0400\"`"),
            ("\"04\"", ModeOf::File, "is no mode"),
            ("\"04000000000\"", ModeOf::File, "is no mode"),
            ("\"4400\"", ModeOf::File, "write `mode = \"0400\"`"),
            ("0o755", ModeOf::File, "write `mode = \"0644\"`"),
            ("\"4755\"", ModeOf::File, "write `mode = \"0644\"`"),
            ("\"1770\"", ModeOf::Directory, "write `mode = \"0770\"`"),
            ("\"0755\"", ModeOf::File, "write `mode = \"0644\"`"),
            ("\"0440\"", ModeOf::Directory, "write `mode = \"0550\"`"),
            ("true", ModeOf::File, "write `mode = \"0400\"`"),
        ] {
            let error = with(text, |v| mode("mode", v, whose)).unwrap_err();
            assert!(error.contains(fragment), "{text}: {error}");
        }
    }

    #[test]
    fn parameters_become_json_texts() {
        for (text, written) in [
            ("\"1h\"", "\"1h\""),
            ("\"a\\\"b\"", "\"a\\\"b\""),
            ("5", "5"),
            ("0x10", "16"),
            ("1_0.5", "10.5"),
            ("true", "true"),
            ("[1, \"a\"]", "[1,\"a\"]"),
            ("{ a = { b = 1 } }", "{\"a\":{\"b\":1}}"),
        ] {
            assert_eq!(with(text, json).as_deref(), Ok(written), "{text}");
        }
        for text in ["1979-05-27", "nan", "inf", "99999999999999999999", "[nan]", "{ a = 07:32:00 }"] {
            assert!(with(text, json).unwrap_err().contains("write it as a text in quotes"), "{text}");
        }
    }
}
