//! Sizes and times: read as qemu-img and people write them, shown for people.

use std::time::Duration;

/// Parses `4096`, `4k`, `1.5G`: the suffixes count in steps of 1024, in either case.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let (number, shift) = match lower.strip_suffix(['b', 'k', 'm', 'g', 't', 'p', 'e']) {
        Some(number) => {
            let shift = match lower.as_bytes().last() {
                Some(b'k') => 10,
                Some(b'm') => 20,
                Some(b'g') => 30,
                Some(b't') => 40,
                Some(b'p') => 50,
                Some(b'e') => 60,
                _ => 0,
            };
            (number, shift)
        }
        None => (&*lower, 0),
    };
    let wrong = || match likely_size(&lower) {
        Some(likely) => format!("'{text}' is no size: did you mean {likely}?"),
        None => format!("'{text}' is no size such as 4096, 64k or 1.5G"),
    };
    let large = || format!("'{text}' is too large");
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return Err(wrong());
    }
    let unit = 1u128 << shift;
    let whole: u128 = whole.parse().map_err(|_| large())?;
    let scale = 10u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
    let part: u128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| wrong())? };
    let total = whole.checked_mul(unit).ok_or_else(large)? + part * unit / scale;
    u64::try_from(total).map_err(|_| large())
}

/// What somebody may have meant who wrote `64KiB`, `10 GB` or `1,5G`.
fn likely_size(lower: &str) -> Option<String> {
    let likely = lower.replace(' ', "").replace(',', ".");
    let likely = likely.strip_suffix("ib").or_else(|| likely.strip_suffix('b')).unwrap_or(&likely);
    let likely = likely.to_ascii_uppercase();
    (!likely.eq_ignore_ascii_case(lower) && parse_size(&likely).is_ok()).then_some(likely)
}

/// Parses `30`, `2.5`, `500ms`, `30s`, `5m`, `1h`: seconds where there is no unit.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let found = units.iter().find_map(|&(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)));
    let (number, unit) = found.unwrap_or((text, 1.0));
    let plain = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let seconds = Some(number).filter(|_| plain).and_then(|number| number.parse::<f64>().ok());
    let wrong = || format!("'{text}' is no time such as 30, 2.5, 500ms, 30s or 5m");
    let time = Duration::try_from_secs_f64(seconds.ok_or_else(wrong)? * unit);
    let time = time.map_err(|_| format!("'{text}' is too long"))?;
    if time.is_zero() {
        return Err("it must be more than no time at all".into());
    }
    Ok(time)
}

/// Units in steps of 1024.
pub(crate) const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// `1.5 GiB`: three digits that count, in steps of 1024.
pub(crate) fn human_size(bytes: u64) -> String {
    let mut unit = 0;
    let mut shown = bytes as f64;
    while shown >= 1023.5 && unit + 1 < UNITS.len() {
        shown /= 1024.0;
        unit += 1;
    }
    let digits =
        if shown.fract() < 0.005 || shown >= 100.0 { 0 } else { 1 + usize::from(shown < 10.0) };
    let number = format!("{shown:.digits$}");
    let number =
        if digits > 0 { number.trim_end_matches('0').trim_end_matches('.') } else { &number };
    format!("{number} {}", UNITS[unit])
}

/// `8 s`, `2 min 5 s`, `1 h 3 min`: rounded up, so that it is over only at its end.
pub(crate) fn human_time(time: Duration) -> String {
    let seconds = time.as_millis().div_ceil(1000);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// A size for people, and exactly: `1.5 GiB (1610612736 bytes)`.
pub(crate) fn sized(bytes: u64) -> String {
    format!("{} ({bytes} bytes)", human_size(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_qemu_img_reads_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("4k", 4096),
            ("1.5K", 1536),
            ("64M", 64 << 20),
            ("2T", 2 << 40),
            ("512b", 512),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "k", "-1", "1x", "1.5.5", "16E", "99999999999999999999", "1 k", "0x10"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_was_meant_is_suggested() {
        for (text, meant) in [("64KiB", "64K"), ("10GB", "10G"), ("10 g", "10G"), ("1,5G", "1.5G")]
        {
            let told = parse_size(text).unwrap_err();
            assert!(told.ends_with(&format!("did you mean {meant}?")), "{told}");
        }
        for text in ["lots", "0x10", "-1", "1e3", "KiB"] {
            assert!(parse_size(text).unwrap_err().contains("such as 4096"), "{text}");
        }
    }

    #[test]
    fn times_are_seconds_or_have_a_unit() {
        for (text, millis) in [
            ("30", 30_000),
            ("2.5", 2500),
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(parse_time(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "s",
            "-1",
            "1d",
            "inf",
            "nan",
            "1e3",
            "0",
            "0ms",
            "1.2.3",
            "soon",
            "9999999999999999999999h",
        ] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_short_for_people() {
        for (millis, text) in [
            (0, "0 s"),
            (1, "1 s"),
            (59_000, "59 s"),
            (125_000, "2 min 5 s"),
            (3_780_000, "1 h 3 min"),
        ] {
            assert_eq!(human_time(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn sizes_are_short_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (513, "513 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (388_096, "379 KiB"),
            (64 << 20, "64 MiB"),
            ((1 << 30) + (1 << 29), "1.5 GiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(human_size(bytes), text);
        }
    }
}
