use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Quantity {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

#[test]
fn prints_canonically() {
    for (text, canonical) in [
        ("0", "0"),
        ("0Ki", "0"),
        ("-0", "0"),
        ("0.5", "500m"),
        (".5", "500m"),
        ("1.", "1"),
        ("+1", "1"),
        ("1.5", "1500m"),
        ("100m", "100m"),
        ("1000m", "1"),
        ("0.1m", "100u"),
        ("1500", "1500"),
        ("1000", "1k"),
        ("1000k", "1M"),
        ("1024Mi", "1Gi"),
        ("1000Mi", "1000Mi"),
        ("1Ki", "1Ki"),
        ("1024", "1024"),
        ("1023Ki", "1023Ki"),
        ("1.5Gi", "1536Mi"),
        ("0.5Ki", "512"),
        ("0.3Ki", "307200m"),
        ("1024Ei", "9223372036854775807"),
        ("0.00001Ki", "10240u"),
        ("128974848", "128974848"),
        ("129e6", "129e6"),
        ("129M", "129M"),
        ("123Mi", "123Mi"),
        ("12e3", "12e3"),
        ("1200e1", "12e3"),
        ("1E6", "1e6"),
        ("1e-3", "1e-3"),
        ("1E", "1E"),
        ("1000E", "1000E"),
        ("0.1n", "1n"),
        ("-1.5", "-1500m"),
        ("-0.1n", "-1n"),
        ("-2Gi", "-2Gi"),
        ("007", "7"),
        ("1234567890123456789", "1234567890123456789"),
        ("1e400", "170141183460469231731687303715884105727e-9"),
        ("1e-400", "1e-9"),
        ("0e400", "0"),
    ] {
        assert_eq!(parse(text).to_string(), canonical, "{text}");
    }
}

#[test]
fn what_is_no_quantity_is_refused() {
    for text in ["", "abc", "1x", " 1", "1 ", "1..2", "1.2.3", "0x10", "1Kib", "1e1.5", "1,5", "½"] {
        assert_eq!(text.parse::<Quantity>(), Err(QuantityError::Syntax), "{text}");
    }
    for text in ["1K", "--1", "1e", "1mi", "1Mm", "1ki", "1i", "1e+", "1E99999999999"] {
        assert_eq!(text.parse::<Quantity>(), Err(QuantityError::Suffix), "{text}");
    }
}

#[test]
fn whole_numbers_round_away_from_zero() {
    for (text, milli, bytes) in [
        ("100m", 100, 1),
        ("1", 1000, 1),
        ("1n", 1, 1),
        ("1.0001", 1001, 2),
        ("-1.0001", -1001, -2),
        ("1Gi", 1_073_741_824_000, 1_073_741_824),
        ("1e30", i64::MAX, i64::MAX),
        ("-1e30", i64::MIN, i64::MIN),
    ] {
        assert_eq!((parse(text).milli(), parse(text).bytes()), (milli, bytes), "{text}");
    }
    assert_eq!(parse("1.0001").round_up_to_milli().to_string(), "1001m");
    assert_eq!(parse("1n").round_up_to_milli().to_string(), "1m");
}

#[test]
fn amounts_add_up_in_the_family_of_the_first() {
    assert_eq!((parse("1Gi") + parse("512Mi")).to_string(), "1536Mi");
    assert_eq!((Quantity::ZERO + parse("1Gi")).to_string(), "1Gi");
    assert_eq!((parse("1") - parse("1500m")).to_string(), "-500m");
    assert_eq!([parse("100m"), parse("0.9")].into_iter().sum::<Quantity>(), Quantity::from_units(1));
    assert!(parse("1Gi") > parse("1G"));
    assert_eq!(parse("0.5"), Quantity::from_milli(500));
    assert_eq!(Quantity::from_bytes(2048).to_string(), "2Ki");
    assert_eq!(parse("1e30") + parse("1e30"), parse("1e30"));
}

/// The amount in nano units, as a plain computation would have it.
fn expected(whole: u32, fraction: u16, suffix: &str) -> i128 {
    let thousandths = i128::from(whole) * 1000 + i128::from(fraction);
    match suffix {
        "n" => (thousandths + 999) / 1000,
        "u" => thousandths,
        "m" => thousandths * 1_000,
        "" => thousandths * 1_000_000,
        "k" | "e3" | "E3" | "e+3" => thousandths * 1_000_000_000,
        "M" => thousandths * 1_000_000_000_000,
        "G" => thousandths * 1_000_000_000_000_000,
        "Ki" => thousandths * 1_000_000 * 1024,
        "Mi" => thousandths * 1_000_000 * 1024 * 1024,
        "Gi" => thousandths * 1_000_000 * 1024 * 1024 * 1024,
        other => unreachable!("{other} is not generated"),
    }
}

proptest! {
    #[test]
    fn the_grammar_is_read_exactly(
        negative: bool,
        whole in 0..u32::MAX,
        fraction in 0..1000_u16,
        suffix in proptest::sample::select(vec!["n", "u", "m", "", "k", "M", "G", "Ki", "Mi", "Gi", "e3", "E3", "e+3"]),
    ) {
        let sign = if negative { "-" } else { "" };
        let quantity = parse(&format!("{sign}{whole}.{fraction:03}{suffix}"));
        let want = expected(whole, fraction, suffix);
        prop_assert_eq!(quantity.nanos, if negative { -want } else { want });
    }

    #[test]
    fn the_canonical_form_is_the_same_amount_and_stays(text in "[+-]?[0-9]{1,12}(\\.[0-9]{0,12})?(n|u|m||k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|e[+-]?[0-9])") {
        let quantity = parse(&text);
        let canonical = quantity.to_string();
        prop_assert_eq!(parse(&canonical), quantity);
        prop_assert_eq!(parse(&canonical).to_string(), canonical);
    }

    #[test]
    fn no_text_panics(text in "[-+0-9.eEinumkKMGTP]{0,40}") {
        if let Ok(quantity) = text.parse::<Quantity>() {
            prop_assert_eq!(parse(&quantity.to_string()), quantity);
        }
    }

    #[test]
    fn order_is_the_order_of_amounts(a: i32, b: i32) {
        prop_assert_eq!(Quantity::from_milli(a.into()).cmp(&Quantity::from_milli(b.into())), a.cmp(&b));
        prop_assert_eq!((Quantity::from_milli(a.into()) + Quantity::from_milli(b.into())).milli(), i64::from(a) + i64::from(b));
    }
}
