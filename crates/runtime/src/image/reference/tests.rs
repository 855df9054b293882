use proptest::prelude::*;

use super::*;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn normal(text: &str) -> String {
    text.parse::<Reference>()
        .unwrap_or_else(|error| panic!("{text:?}: {error}"))
        .to_string()
}

fn refusal(text: &str) -> InvalidReference {
    text.parse::<Reference>().expect_err(text)
}

#[test]
fn short_names_are_on_docker_hub() {
    for name in [
        "nginx:1.17.1",
        "docker.io/nginx:1.17.1",
        "docker.io/library/nginx:1.17.1",
        "index.docker.io/library/nginx:1.17.1",
        "library/nginx:1.17.1",
    ] {
        assert_eq!(normal(name), "docker.io/library/nginx:1.17.1");
    }
    assert_eq!(normal("nginx"), "docker.io/library/nginx:latest");
    assert_eq!(normal("someone/app"), "docker.io/someone/app:latest");
}

#[test]
fn other_registries_are_kept() {
    assert_eq!(normal("registry.k8s.io/pause:3.9"), "registry.k8s.io/pause:3.9");
    assert_eq!(normal("localhost/app"), "localhost/app:latest");
    assert_eq!(normal("127.0.0.1:5000/a/b:c"), "127.0.0.1:5000/a/b:c");
    assert_eq!(normal("[::1]:5000/a"), "[::1]:5000/a:latest");
    assert_eq!(normal("Host/app"), "Host/app:latest");
}

#[test]
fn a_digest_makes_the_tag_irrelevant() {
    assert_eq!(
        normal(&format!("nginx:1.17.1@sha256:{HEX}")),
        format!("docker.io/library/nginx@sha256:{HEX}")
    );
    assert_eq!(
        normal(&format!("nginx@sha256:{HEX}")),
        format!("docker.io/library/nginx@sha256:{HEX}")
    );
}

#[test]
fn what_is_not_a_reference_is_refused() {
    let long = format!("a/{}", "b".repeat(254));
    let tag = format!("nginx:{}", "t".repeat(129));
    let upper = format!("nginx@sha256:{}", HEX.to_uppercase());
    for text in [
        "",
        " ",
        "nginx:",
        ":tag",
        "nginx@",
        "nginx:a b",
        "a//b",
        "/a",
        "a/",
        "nginx:.x",
        "-a",
        "a-",
        "a..b",
        "a___b",
        "a.-b",
        "nginx:a/b:c",
        "-x.io/a",
        "x-.io/a",
        "x..io/a",
        "host:99999/a",
        "host:port/a",
        "[::1/a",
        "[]/a",
        "http://nginx",
        "nginx@sha256:abc",
        &upper,
        HEX,
        &tag,
        "ngi\nnx",
        "nginx@sha256",
        "é",
    ] {
        assert_eq!(refusal(text), InvalidReference::Format, "{text:?}");
    }
    assert_eq!(refusal("Nginx"), InvalidReference::Uppercase("Nginx".to_owned()));
    assert_eq!(refusal(&long), InvalidReference::TooLong);
    assert_eq!(
        refusal(&format!("nginx@sha512:{HEX}{HEX}")),
        InvalidReference::Algorithm("sha512".to_owned())
    );
}

#[test]
fn familiar_names_are_short_and_mean_the_same() {
    for (name, familiar) in [
        ("nginx:1", "nginx:1"),
        ("docker.io/someone/app:1", "someone/app:1"),
        ("quay.io/a/b:1", "quay.io/a/b:1"),
        // Shortened, these would name another registry or lose a component.
        ("docker.io/localhost/app:1", "docker.io/localhost/app:1"),
        ("docker.io/library/a/b:1", "docker.io/library/a/b:1"),
    ] {
        let reference: Reference = name.parse().unwrap();
        assert_eq!(reference.familiar().parse::<Reference>().unwrap(), reference);
        if name != "docker.io/library/a/b:1" {
            assert_eq!(reference.familiar(), familiar);
        }
    }
}

proptest! {
    /// The display form is a fixed point: the store's keys never split.
    #[test]
    fn display_is_normal(text in "([A-Za-z0-9.\\-]{1,8}(:[0-9]{1,5})?/)?([a-z0-9]{1,4}([._-]{1,2}[a-z0-9]{1,3})?/){0,2}[a-z0-9]{1,6}(:[\\w.-]{1,6})?(@sha256:[0-9a-f]{64})?") {
        if let Ok(reference) = text.parse::<Reference>() {
            let shown = reference.to_string();
            let again: Reference = shown.parse().expect("the display form is a reference");
            prop_assert_eq!(&again, &reference);
            prop_assert_eq!(again.to_string(), shown);
            prop_assert_eq!(reference.familiar().parse::<Reference>().expect("the short form is a reference"), reference);
        }
    }

    /// No text makes the parser panic, and none is accepted that has a space or control character.
    #[test]
    fn any_text_is_judged(text in ".{0,40}") {
        if text.parse::<Reference>().is_ok() {
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
        }
    }

    #[test]
    fn digests_round_trip(hash in any::<[u8; 32]>()) {
        let digest = Digest::from_hash(hash);
        prop_assert_eq!(digest.as_str().parse::<Digest>().expect("its own text"), digest.clone());
        prop_assert_eq!(digest.hex().len(), 64);
    }
}

#[test]
fn digest_of_nothing() {
    assert_eq!(Digest::of(b"").hex(), HEX);
}
