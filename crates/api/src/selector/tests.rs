use proptest::prelude::*;

use super::*;
use crate::typed::{LabelSelector, LabelSelectorRequirement};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn the_query_form_reads_prints_and_matches() {
    let subject = labels(&[("app", "web"), ("tier", "front"), ("n", "5"), ("in", "x"), ("example.com/a", "")]);
    for (text, shown, matches) in [
        ("", "", true),
        (" ", "", true),
        ("app=web", "app=web", true),
        ("app==web", "app==web", true),
        ("app = web , tier != back", "app=web,tier!=back", true),
        ("app!=web", "app!=web", false),
        ("none!=web", "none!=web", true),
        ("app in (db, web)", "app in (db,web)", true),
        ("app in(db)", "app in (db)", false),
        ("app notin (db)", "app notin (db)", true),
        ("none notin (db)", "none notin (db)", true),
        ("tier,app", "app,tier", true),
        ("!app", "!app", false),
        ("!none", "!none", true),
        ("n>4,n<6", "n>4,n<6", true),
        ("n>5", "n>5", false),
        ("app>1", "app>1", false),
        ("none<1", "none<1", false),
        ("in in (in,x)", "in in (in,x)", true),
        ("example.com/a=", "example.com/a=", true),
        ("example.com/a in ()", "example.com/a in ()", true),
        ("example.com/a in (,b)", "example.com/a in (,b)", true),
        ("example.com/a in (b,)", "example.com/a in (,b)", true),
        ("app in (a,,b)", "app in (,a,b)", false),
    ] {
        let selector: Selector = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(selector.to_string(), shown, "{text}");
        assert_eq!(selector.matches(&subject), matches, "{text}");
        assert_eq!(shown.parse::<Selector>().unwrap(), selector, "{text}");
    }
}

#[test]
fn what_is_no_selector_is_refused_in_upstreams_words() {
    for (text, want) in [
        (
            "a b",
            "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
        ),
        ("a,,b", "found ',', expected: identifier after ','"),
        ("a,", "found '', expected: identifier after ','"),
        (",a", "found ',', expected: !, identifier, or 'end of string'"),
        ("=a", "found '=', expected: !, identifier, or 'end of string'"),
        ("!a=b", "found '=', expected: ',' or 'end of string'"),
        ("a=b c", "found 'c', expected: ',' or 'end of string'"),
        ("a in b", "unable to parse requirement: found 'b' expected: '('"),
        ("a in (b c)", "unable to parse requirement: found 'c', expected: ',' or ')'"),
        ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
        (
            "a in (=)",
            "unable to parse requirement: found '=', expected: ',', ')' or identifier",
        ),
        ("a in (b,=)", "unable to parse requirement: found '=', expected: ',', or identifier"),
        ("a==!", "unable to parse requirement: found '!', expected: identifier"),
        ("!", "unable to parse requirement: found '', expected: identifier"),
        (
            "a>x",
            r#"unable to parse requirement: values[0]: Invalid value: "x": for 'Gt', 'Lt' operators, the value must be an integer"#,
        ),
        (
            "a=-x",
            r#"unable to parse requirement: values[0][a]: Invalid value: "-x": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"#,
        ),
        (
            "a@b",
            r#"unable to parse requirement: <nil>: Invalid value: "a@b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"#,
        ),
    ] {
        assert_eq!(text.parse::<Selector>().unwrap_err().to_string(), want, "{text}");
    }
}

#[test]
fn keys_and_values_have_limits() {
    for good in ["a", "A.b_c-1", "example.com/a", &"x".repeat(63), &format!("{}/x", "a".repeat(253))] {
        assert_eq!(label_key_errors(good), Vec::<String>::new(), "{good}");
    }
    for bad in [
        "",
        "-a",
        "a-",
        "a/b/c",
        "/a",
        "a/",
        "Ex.com/a",
        "a..b/c",
        &"x".repeat(64),
        &format!("{}/x", "a".repeat(254)),
        "ä",
    ] {
        assert!(!label_key_errors(bad).is_empty(), "{bad}");
    }
    assert!(label_value_errors("").is_empty());
    assert!(label_value_errors(&"x".repeat(63)).is_empty());
    assert_eq!(label_value_errors(&"x".repeat(64)), ["must be no more than 63 characters"]);
}

#[test]
fn typed_selectors_convert() {
    let expression = |operator: &str, values: &[&str]| LabelSelectorRequirement {
        key: "tier".to_owned(),
        operator: operator.to_owned(),
        values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
    };
    let typed = LabelSelector {
        match_labels: Some(labels(&[("app", "web")])),
        match_expressions: Some(vec![expression("In", &["b", "a"]), expression("DoesNotExist", &[])]),
    };
    assert_eq!(Selector::try_from(&typed).unwrap().to_string(), "app=web,tier in (a,b),!tier");
    assert!(Selector::try_from(&LabelSelector::default()).unwrap().is_everything());
    for (bad, want) in [
        (expression("Like", &[]), r#""Like" is not a valid label selector operator"#),
        (
            expression("In", &[]),
            "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty",
        ),
        (
            expression("Exists", &["a"]),
            r#"values: Invalid value: ["a"]: values set must be empty for exists and does not exist"#,
        ),
    ] {
        let typed = LabelSelector {
            match_labels: None,
            match_expressions: Some(vec![bad]),
        };
        assert_eq!(Selector::try_from(&typed).unwrap_err().to_string(), want);
    }
    assert!(!Selector::nothing().matches(&Labels::new()));
    assert!(!Selector::nothing().is_everything());
}

#[test]
fn field_selectors_read_and_escape() {
    let selector: FieldSelector = r"status.phase!=Running,metadata.name==a\,b\=c\\d,spec.nodeName=,".parse().unwrap();
    let got: Vec<_> = selector
        .requirements
        .iter()
        .map(|r| (r.field.as_str(), r.operator, r.value.as_str()))
        .collect();
    assert_eq!(
        got,
        [
            ("metadata.name", FieldOperator::Equals, r"a,b=c\d"),
            ("spec.nodeName", FieldOperator::Equals, ""),
            ("status.phase", FieldOperator::NotEquals, "Running"),
        ]
    );
    assert_eq!(
        selector.to_string(),
        r"metadata.name=a\,b\=c\\d,spec.nodeName=,status.phase!=Running"
    );
    assert_eq!(selector.exact("metadata.name"), Some(r"a,b=c\d"));
    assert_eq!(selector.exact("status.phase"), None);
    assert!(selector.matches(|field| if field == "metadata.name" {
        r"a,b=c\d".to_owned()
    } else {
        String::new()
    }));
    assert!(!selector.matches(|_| String::new()));
    for (text, want) in [
        ("a", "invalid selector: 'a'; can't understand 'a'"),
        ("a=b,c", "invalid selector: 'a=b,c'; can't understand 'c'"),
        (r"a=\x", r"invalid field selector: invalid escape sequence: \x"),
        ("a=b\\", r"invalid field selector: invalid escape sequence: \"),
        ("a=b=c", "invalid field selector: unescaped character in value: 61"),
    ] {
        assert_eq!(text.parse::<FieldSelector>().unwrap_err().to_string(), want, "{text}");
    }
}

fn requirement() -> impl Strategy<Value = Requirement> {
    let value = "([A-Za-z0-9]([-A-Za-z0-9_.]{0,5}[A-Za-z0-9])?)?";
    let key = "([a-z][a-z0-9]{0,4}\\.com/)?[A-Za-z]([-A-Za-z0-9_.]{0,5}[A-Za-z0-9])?";
    (key, 0..9, proptest::collection::btree_set(value, 1..4), any::<i64>()).prop_map(|(key, operator, values, bound)| {
        let first = values.iter().take(1).cloned().collect();
        // A leading sign is no label.
        let bound = BTreeSet::from([bound.unsigned_abs().min(i64::MAX.unsigned_abs()).to_string()]);
        let (operator, values) = match operator {
            0 => (Operator::Equals, first),
            1 => (Operator::DoubleEquals, first),
            2 => (Operator::NotEquals, first),
            3 => (Operator::In, values),
            4 => (Operator::NotIn, values),
            5 => (Operator::Exists, BTreeSet::new()),
            6 => (Operator::DoesNotExist, BTreeSet::new()),
            7 => (Operator::GreaterThan, bound),
            _ => (Operator::LessThan, bound),
        };
        Requirement::new(&key, operator, values).unwrap()
    })
}

proptest! {
    #[test]
    fn a_printed_selector_reads_back(requirements in proptest::collection::vec(requirement(), 0..5)) {
        let selector = Selector::of(requirements);
        prop_assert_eq!(selector.to_string().parse::<Selector>().unwrap(), selector);
    }

    #[test]
    fn a_negation_selects_the_rest(requirement in requirement(), label in proptest::option::of("[a-c]?")) {
        let opposite = match requirement.operator {
            Operator::Equals | Operator::DoubleEquals => Operator::NotEquals,
            Operator::NotEquals => Operator::Equals,
            Operator::In => Operator::NotIn,
            Operator::NotIn => Operator::In,
            Operator::Exists => Operator::DoesNotExist,
            Operator::DoesNotExist => Operator::Exists,
            Operator::GreaterThan | Operator::LessThan => return Ok(()),
        };
        let negated = Requirement::new(&requirement.key, opposite, requirement.values.clone()).unwrap();
        let labels: Labels = label.into_iter().map(|l| (requirement.key.clone(), l)).collect();
        prop_assert_ne!(requirement.matches(&labels), negated.matches(&labels));
    }

    #[test]
    fn no_text_makes_the_parsers_panic(text in "[a-z=!<>(), \\\\./\\-é]{0,24}") {
        if let Ok(selector) = text.parse::<Selector>() {
            prop_assert_eq!(selector.to_string().parse::<Selector>().unwrap(), selector);
        }
        if let Ok(selector) = text.parse::<FieldSelector>() {
            let again = selector.to_string().parse::<FieldSelector>().unwrap();
            let sorted = |s: FieldSelector| { let mut r: Vec<_> = s.requirements.into_iter().map(|r| format!("{r:?}")).collect(); r.sort(); r };
            prop_assert_eq!(sorted(again), sorted(selector));
        }
    }

    #[test]
    fn any_value_survives_escaping(value in "\\PC{0,12}") {
        let selector: FieldSelector = format!("metadata.name={}", escape(&value)).parse().unwrap();
        prop_assert_eq!(selector.exact("metadata.name"), Some(value.as_str()));
    }
}
