//! Sizes in qemu-img's form.

/// Three digits that count, without zeros at their end, as `%.3g` of C prints them: `1.33 MiB`. What
/// has four digits is shown in the next unit.
pub(super) fn human(bytes: u64) -> String {
    const UNITS: &[&str] = &["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let shown = bytes as f64;
    let mut unit = 0;
    let mut divisor = 1.0;
    while unit + 1 < UNITS.len() && shown / divisor >= 1000.0 {
        unit += 1;
        divisor *= 1024.0;
    }
    format!("{} {}B", three_digits(shown / divisor), UNITS[unit])
}

fn three_digits(value: f64) -> String {
    let rounded = format!("{value:.2e}");
    let (digits, exponent) = rounded.split_once('e').unwrap_or((&*rounded, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if exponent >= 3 {
        let digits = digits.trim_end_matches('0').trim_end_matches('.');
        return format!("{digits}e+{exponent:02}");
    }
    let places = usize::try_from(2 - exponent).unwrap_or(0);
    let text = format!("{value:.places$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_look_as_those_of_qemu_img() {
        // each of them seen of qemu-img 10.0.2
        for (bytes, text) in [
            (0, "0 B"),
            (512, "512 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (2560, "2.5 KiB"),
            (197_120, "192 KiB"),
            (1_396_736, "1.33 MiB"),
            (1_638_912, "1.56 MiB"),
            (10_000_384, "9.54 MiB"),
            (1_000_000_000, "954 MiB"),
            (123_456_789_504, "115 GiB"),
            (1 << 30, "1 GiB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }
}
