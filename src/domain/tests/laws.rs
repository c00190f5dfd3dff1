//! Laws that hold for all values, not for chosen ones.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use bigdecimal::BigDecimal;
use crm_domain::validation::{Rule, Rules, utf16_length};
use crm_domain::{CellHashes, Cells, DataType, Number, Value, canonical, cells, snapshot, value};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

/// A number spelt in any way: padded with zeros, with a sign, a point, an exponent.
fn spelling() -> impl Strategy<Value = String> {
    "-?0{0,3}[0-9]{1,30}(\\.[0-9]{0,20}0{0,3})?(e[+-]?[0-9]{1,2})?"
}

/// A number as JSON spells it.
fn json_spelling() -> impl Strategy<Value = String> {
    "-?(0|[1-9][0-9]{0,9})(\\.[0-9]{1,5})?(e[+-]?[0-9]{1,2})?"
}

fn json_value() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::Bool),
        json_spelling().prop_map(|text| serde_json::from_str(&text).unwrap()),
        "\\PC{0,6}".prop_map(Json::String),
        "[\"\\\\\u{0}-\u{1f}/ a\u{7f}\u{2028}é😀]{0,6}".prop_map(Json::String),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Json::Array),
            prop::collection::btree_map("[a-c\u{e9}\"]{0,2}", inner, 0..5)
                .prop_map(|entries| Json::Object(entries.into_iter().collect())),
        ]
    })
}

/// A type and a canonical value of it.
fn typed_value() -> impl Strategy<Value = (DataType, Value)> {
    let words = prop::collection::vec("[\\[a-c ;]{0,4}", 0..4);
    let text = prop_oneof!["\\PC{0,20}", "[ab \t\r\n\u{a0}]{0,8}"];
    let text_type =
        prop::sample::select(vec![DataType::Text, DataType::Choice, DataType::Reference]);
    prop_oneof![
        (text_type, text).prop_map(|(data_type, text)| (data_type, Value::text(&text))),
        spelling().prop_map(|text| (DataType::Number, Value::number(&text).unwrap())),
        any::<bool>().prop_map(|b| (DataType::Boolean, Value::Boolean(b))),
        (1_i16..=9999, 1_i8..=12, 1_i8..=28)
            .prop_map(|(y, m, d)| (DataType::Date, Value::Date(jiff::civil::date(y, m, d)))),
        moment().prop_map(|ms| (DataType::Timestamp, Value::timestamp_ms(ms))),
        words.prop_map(|words| (DataType::MultiChoice, Value::multi_choice(words))),
        json_value().prop_map(|json| (DataType::Json, Value::json(json))),
    ]
}

fn moment() -> impl Strategy<Value = i64> {
    prop_oneof![
        -62_135_596_800_000..=253_402_300_799_999_i64,
        -100_000..100_000_i64
    ]
}

/// The same JSON, its keys the other way round and its numbers spelt otherwise.
fn respelt(json: &Json) -> String {
    match json {
        Json::Number(n) => {
            let (mantissa, exponent) = n.as_str().split_once('e').unwrap_or((n.as_str(), "0"));
            let exponent: i32 = exponent.parse().unwrap();
            let dot = if mantissa.contains('.') { "" } else { "." };
            format!("{mantissa}{dot}00E{exponent:+}")
        }
        Json::Array(items) => format!(
            "[ {} ]",
            items.iter().map(respelt).collect::<Vec<_>>().join(" , ")
        ),
        Json::Object(entries) => {
            let entries = entries
                .iter()
                .rev()
                .map(|(k, v)| format!("{} : {}", json!(k), respelt(v)));
            format!("{{ {} }}", entries.collect::<Vec<_>>().join(" , "))
        }
        other => other.to_string(),
    }
}

fn normal(mut json: Json) -> Json {
    canonical::normalise(&mut json);
    json
}

proptest! {
    // A failing case belongs into a unit test, not into a file beside the sources.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn numbers_agree_with_big_decimals(a in spelling(), b in spelling()) {
        let (x, y) = (Number::from_str(&a).unwrap(), Number::from_str(&b).unwrap());
        let (p, q) = (BigDecimal::from_str(&a).unwrap(), BigDecimal::from_str(&b).unwrap());
        prop_assert_eq!(x.cmp(&y), p.cmp(&q));
        prop_assert_eq!(x == y, p == q);
        prop_assert_eq!(BigDecimal::from_str(x.as_str()).unwrap(), p);
        prop_assert_eq!(Number::from_str(x.as_str()).unwrap(), x.clone());
        prop_assert!(serde_json::from_str::<serde_json::Number>(x.as_str()).is_ok());
    }

    #[test]
    fn near_numbers_agree_with_big_decimals(
        n in -1200_i64..1200,
        scale in 0_usize..4,
        zeros in 0_usize..3,
        m in -1200_i64..1200,
    ) {
        let spelt = format!("{n}{}e-{}", "0".repeat(zeros), scale + zeros);
        let (x, y) = (Number::from_str(&spelt).unwrap(), Number::from(m));
        let (p, q) = (BigDecimal::new(n.into(), scale as i64), BigDecimal::from(m));
        prop_assert_eq!(x.cmp(&y), p.cmp(&q), "{} {}", x, y);
        prop_assert_eq!(x.floor(), Some(n.div_euclid(10_i64.pow(scale as u32))));
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,20}|[-+0-9.eE]{0,12}|[-0-9T: .+Z]{0,30}") {
        for data_type in DataType::ALL {
            for value in [Value::from_postgres(data_type, Some(&text)), Value::from_json(data_type, &json!(text))] {
                match value {
                    Ok(value) => prop_assert_eq!(Value::from_json(data_type, &value.to_json()), Ok(value)),
                    Err(error) => prop_assert!(error.to_string().chars().count() < 500),
                }
            }
        }
    }

    #[test]
    fn values_survive_the_round_trip((data_type, value) in typed_value()) {
        let json = value.to_json();
        prop_assert_eq!(Value::from_json(data_type, &json).unwrap(), value.clone());
        // Through bytes too, as every peer sends it.
        let read: Json = serde_json::from_str(&canonical::text(&json)).unwrap();
        prop_assert_eq!(&read, &json);
        prop_assert_eq!(Value::from_postgres(data_type, value.to_text().as_deref()).unwrap(), value);
    }

    #[test]
    fn the_hash_is_that_of_the_json_form((_, value) in typed_value()) {
        prop_assert_eq!(value.hash(), canonical::hash(&value.to_json()));
        prop_assert_eq!(value.hash(), blake3::hash(canonical::text(&value.to_json()).as_bytes()));
    }

    #[test]
    fn different_values_differ((_, a) in typed_value(), (_, b) in typed_value()) {
        prop_assert_eq!(a.hash() == b.hash(), a.to_json() == b.to_json());
    }

    #[test]
    fn hashes_ignore_key_order_and_spelling(json in json_value()) {
        let other: Json = serde_json::from_str(&respelt(&json)).unwrap();
        prop_assert_eq!(canonical::text(&other), canonical::text(&json));
        prop_assert_eq!(canonical::hash(&other), canonical::hash(&json));
        prop_assert_eq!(Value::json(other), Value::json(json));
    }

    #[test]
    fn canonical_text_tells_all(json in json_value()) {
        let text = canonical::text(&json);
        let read: Json = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(canonical::text(&read), text.clone());
        // Normal JSON is what canonical text parses to, so unequal JSON has unequal text.
        prop_assert_eq!(&read, &normal(json.clone()));
        prop_assert_eq!(canonical::hash(&json), blake3::hash(text.as_bytes()));
        prop_assert_eq!(normal(read.clone()), read);
    }

    #[test]
    fn a_moment_is_the_same_in_every_zone(
        ms in -60_000_000_000_000..250_000_000_000_000_i64,
        minutes in -14 * 60..=14 * 60_i32,
        micros in 0..1000,
    ) {
        let here = jiff::Timestamp::from_millisecond(ms).unwrap();
        let offset = jiff::tz::Offset::from_seconds(minutes * 60).unwrap();
        let local = offset.to_datetime(here);
        let (sign, hours, minutes) = (if minutes < 0 { '-' } else { '+' }, minutes.abs() / 60, minutes.abs() % 60);
        let (date, time) = (local.date(), local.strftime("%H:%M:%S%.3f"));
        for zone in [format!("{hours:02}:{minutes:02}"), format!("{hours:02}{minutes:02}")] {
            let text = format!("{date}T{time}{micros:03}{sign}{zone}");
            let value = Value::from_json(DataType::Timestamp, &json!(text)).unwrap();
            prop_assert_eq!(&value, &Value::Timestamp(ms), "{}", text);
            prop_assert_eq!(value.hash(), Value::timestamp_ms(ms).hash());
        }
    }

    #[test]
    fn moments_agree_with_jiff(ms in moment()) {
        // jiff's own timestamps end a day before the year does.
        let text = Value::timestamp_ms(ms).to_text().unwrap().into_owned();
        if let Ok(expected) = jiff::Timestamp::from_millisecond(ms) {
            prop_assert_eq!(text.parse::<jiff::Timestamp>().unwrap(), expected);
            prop_assert_eq!(text, format!("{expected:.3}"));
        }
    }

    #[test]
    fn canonical_text_is_a_fixed_point(text in "[ab\0 \t\r\n\u{a0}\u{3000}]{0,12}") {
        let once = Value::text(&text);
        let again = once.to_text().map_or(Value::Null, |text| Value::text(&text));
        prop_assert_eq!(again, once);
    }

    #[test]
    fn what_is_blank_and_how_long_it_is_has_one_answer(text in "[ab\\x00\\x01\\x1f \t\r\n\u{85}\u{a0}\u{200b}\u{2028}\u{3000}😀]{0,8}") {
        let value = Value::text(&text);
        let filled = value::filled(&text);
        prop_assert_eq!(value.to_text(), filled.clone());
        prop_assert_eq!(value.is_null(), text.chars().all(value::is_blank));
        // By whichever way it comes.
        for data_type in [DataType::Text, DataType::Choice, DataType::Reference] {
            prop_assert_eq!(&Value::from_postgres(data_type, Some(&text)).unwrap(), &value);
            prop_assert_eq!(&Value::from_json(data_type, &json!(text)).unwrap(), &value);
        }
        // What is no value in one type is none in the others.
        if value.is_null() {
            for data_type in DataType::ALL {
                prop_assert_eq!(Value::from_postgres(data_type, Some(&text)).unwrap(), Value::Null);
            }
        }
        let rules = json!({"nullable": false, "max_length": 4});
        let rules = Rules::parse(&rules, DataType::Text).unwrap();
        let fits = filled.is_some_and(|text| text.encode_utf16().count() <= 4);
        prop_assert_eq!(rules.check(&value).is_ok(), fits);
    }

    #[test]
    fn a_snapshot_does_not_tell_null_from_missing(
        values in prop::collection::btree_map("[a-e]", typed_value(), 0..5),
    ) {
        let fields: BTreeMap<String, Value> = values.into_iter().map(|(name, (_, value))| (name, value)).collect();
        let mut fewer = fields.clone();
        fewer.retain(|_, value| !value.is_null());
        prop_assert_eq!(snapshot::hash(&fewer), snapshot::hash(&fields));
        prop_assert_eq!(
            canonical::hash(&snapshot::json(&fields)),
            snapshot::hash(&fields),
        );
    }

    #[test]
    fn long_text_hashes_as_its_json_does(parts in prop::collection::vec("[a\"\n]{0,90}", 0..12)) {
        let json = json!(parts);
        prop_assert_eq!(canonical::hash(&json), blake3::hash(json.to_string().as_bytes()));
    }

    #[test]
    fn number_rules_agree_with_integers(
        min in -50..50_i64,
        width in 0..50_i64,
        n in -120..120_i64,
        nullable: bool,
    ) {
        let json = json!({"min": min, "max": format!("{}.00", min + width), "nullable": nullable});
        let rules = Rules::parse(&json, DataType::Number).unwrap();
        let broken = if n < min {
            Some(Rule::Min)
        } else if n > min + width {
            Some(Rule::Max)
        } else {
            None
        };
        let value = Value::number(&format!("{n}.0")).unwrap();
        prop_assert_eq!(rules.check(&value).err().map(|v| v.rule()), broken);
        prop_assert_eq!(rules.check(&Value::Null).is_ok(), nullable);
    }

    #[test]
    fn text_rules_agree_with_an_oracle(text in "[ab😀]{1,6}", max_length in 1..9_usize) {
        let json = json!({"max_length": max_length, "pattern": "ab", "choices": ["ab", "aab", "😀ab", text]});
        let rules = Rules::parse(&json, DataType::Text).unwrap();
        let length = text.encode_utf16().count();
        prop_assert_eq!(utf16_length(&text), length);
        let broken = if length > max_length {
            Some(Rule::MaxLength)
        } else if !text.contains("ab") {
            Some(Rule::Pattern)
        } else {
            None
        };
        prop_assert_eq!(rules.check(&Value::text(&text)).err().map(|v| v.rule()), broken);
    }

    #[test]
    fn cells_are_sets(a in ordinals(), b in ordinals(), probe in 0..300_u16) {
        let (x, y): (Cells, Cells) = (a.iter().copied().collect(), b.iter().copied().collect());
        let set = |cells: &Cells| cells.iter().collect::<BTreeSet<u16>>();
        prop_assert_eq!(set(&x), a.clone());
        prop_assert!(x.iter().is_sorted());
        prop_assert_eq!(set(&x.union(&y)), &a | &b);
        prop_assert_eq!(set(&x.difference(&y)), &a - &b);
        prop_assert_eq!(set(&x.intersection(&y)), &a & &b);
        prop_assert_eq!(
            (x.len(), x.is_empty(), x.contains(probe)),
            (a.len(), a.is_empty(), a.contains(&probe)),
        );
        prop_assert_eq!(x == y, a == b);

        let mut mask = x.to_bytes();
        prop_assert!(mask.len() % 8 == 0 && !mask.is_empty());
        prop_assert!(mask.len() == 8 || mask[mask.len() - 8..].iter().any(|&byte| byte != 0));
        mask.resize(mask.len() + 8, 0);
        prop_assert_eq!(&Cells::from_bytes(&mask), &x);
        prop_assert_eq!(cells::iter(&mask).collect::<BTreeSet<u16>>(), a.clone());
        prop_assert_eq!(
            (cells::len(&mask), cells::is_empty(&mask), cells::contains(&mask, probe)),
            (a.len(), a.is_empty(), a.contains(&probe)),
        );
    }

    #[test]
    fn cell_hashes_are_a_map(
        steps in prop::collection::vec(prop::collection::btree_map(0..40_u16, any::<[u8; 2]>(), 0..6), 0..5),
    ) {
        let mut model = BTreeMap::new();
        let mut stored: Option<Vec<u8>> = None;
        for step in steps {
            let cells: Cells = step.keys().copied().collect();
            let new: Vec<u8> = step.values().flat_map(|hash| hash.repeat(8)).collect();
            stored = Some(CellHashes::set_many(stored.as_deref(), &cells, &new));
            model.extend(step.into_iter().map(|(cell, hash)| (cell, hash.repeat(8))));
        }
        let stored = stored.unwrap_or_default();
        for cell in 0..50 {
            let expected = model.get(&cell).filter(|hash| hash.iter().any(|&byte| byte != 0));
            prop_assert_eq!(CellHashes(&stored).get(cell), expected.map(Vec::as_slice));
        }
    }
}

fn ordinals() -> impl Strategy<Value = BTreeSet<u16>> {
    prop_oneof![
        prop::collection::btree_set(0..300_u16, 0..20),
        prop::collection::btree_set(0..5_u16, 0..5),
        prop::collection::btree_set(any::<u16>(), 0..3),
    ]
}
