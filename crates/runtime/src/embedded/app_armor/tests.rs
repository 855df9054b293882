use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

fn asks(app_armor: AppArmor) -> ContainerConfig {
    ContainerConfig {
        app_armor,
        ..ContainerConfig::default()
    }
}

fn profiles(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn what_is_asked_for_is_given_or_refused() {
    let none = profiles(&[]);
    let own = || AppArmor::Localhost("own".into());
    let unsaid = || AppArmor::Unsaid;
    for (choice, enabled, loaded, parser, wanted) in [
        (unsaid(), false, None, false, Ok(Decision::None)),
        (unsaid(), true, Some(none.clone()), true, Ok(Decision::Load)),
        (unsaid(), true, Some(profiles(&[DEFAULT])), false, Ok(Decision::Use(DEFAULT.into()))),
        // A kernel with it, in which nothing can be loaded.
        (unsaid(), true, Some(none.clone()), false, Ok(Decision::None)),
        (unsaid(), true, None, true, Ok(Decision::None)),
        (AppArmor::Unconfined, true, Some(profiles(&[DEFAULT])), true, Ok(Decision::None)),
        (AppArmor::Unconfined, false, None, false, Ok(Decision::None)),
        (AppArmor::RuntimeDefault, true, Some(none.clone()), true, Ok(Decision::Load)),
        (
            AppArmor::RuntimeDefault,
            true,
            Some(profiles(&[DEFAULT])),
            true,
            Ok(Decision::Use(DEFAULT.into())),
        ),
        (AppArmor::RuntimeDefault, false, None, false, Err("apparmor is not supported")),
        (
            AppArmor::RuntimeDefault,
            true,
            Some(none.clone()),
            false,
            Err("the profile lifepod-default is not loaded, and this host has no"),
        ),
        (own(), true, Some(profiles(&["own"])), false, Ok(Decision::Use("own".into()))),
        (own(), true, Some(none), true, Err("apparmor profile not found own")),
        (own(), true, None, true, Err("apparmor profile not found own")),
        (own(), false, None, false, Err("apparmor is not supported")),
    ] {
        let got = decide(&asks(choice.clone()), enabled, loaded.as_ref(), parser);
        match wanted {
            Ok(wanted) => assert_eq!(got, Ok(wanted), "{choice:?} {enabled} {loaded:?} {parser}"),
            Err(text) => {
                let refusal = got.unwrap_err();
                assert!(refusal.starts_with(&format!("{REFUSED}: {text}")), "{refusal}");
            }
        }
        let privileged = ContainerConfig {
            privileged: true,
            ..asks(choice)
        };
        if enabled {
            assert_eq!(decide(&privileged, true, loaded.as_ref(), parser), Ok(Decision::None));
        }
    }
}

#[test]
fn the_kernels_list_names_profiles() {
    for (line, name) in [
        ("lifepod-default (enforce)", Some("lifepod-default")),
        ("/usr/sbin/cups (x)d (complain)", Some("/usr/sbin/cups (x)d")),
        (":lxd-a://unconfined (unconfined)", Some(":lxd-a://unconfined")),
        ("", None),
    ] {
        assert_eq!(named(line), name);
    }
}

/// A directory that stands in for the files of a host with AppArmor, and a
/// parser there that does `script`.
fn host(name: &str, script: Option<&str>) -> (PathBuf, Kernel) {
    let root = std::env::temp_dir().join(format!("lifepod-app-armor-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&root);
    for dir in ["sys/module/apparmor/parameters", "sys/kernel/security/apparmor", "sbin"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::write(root.join("sys/module/apparmor/parameters/enabled"), "Y\n").unwrap();
    fs::write(
        root.join("sys/kernel/security/apparmor/profiles"),
        "own (enforce)\nman_groff (complain)\n",
    )
    .unwrap();
    if let Some(script) = script {
        let parser = root.join("sbin/apparmor_parser");
        fs::write(&parser, format!("#!/bin/sh\ncd {}\n{script}\n", root.display())).unwrap();
        fs::set_permissions(&parser, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let kernel = Kernel::below(&root);
    (root, kernel)
}

#[tokio::test]
async fn the_default_profile_is_loaded_once() {
    let script = r#"echo "$@" >> calls; cat > text; echo "lifepod-default (enforce)" >> sys/kernel/security/apparmor/profiles"#;
    let (root, kernel) = host("loads", Some(script));
    assert!(kernel.enabled);
    for choice in [AppArmor::Unsaid, AppArmor::RuntimeDefault, AppArmor::Unsaid] {
        assert_eq!(kernel.profile(&asks(choice)).await, Ok(Some(DEFAULT.to_owned())));
    }
    assert_eq!(fs::read_to_string(root.join("calls")).unwrap(), "--skip-cache --replace\n");
    assert_eq!(fs::read_to_string(root.join("text")).unwrap(), DEFAULT_PROFILE);
    assert_eq!(
        kernel.profile(&asks(AppArmor::Localhost("own".into()))).await,
        Ok(Some("own".to_owned()))
    );
    assert_eq!(kernel.profile(&asks(AppArmor::Unconfined)).await, Ok(None));
    fs::remove_dir_all(root).unwrap();
}

#[tokio::test]
async fn a_parser_that_refuses_is_quoted() {
    let (root, kernel) = host("refuses", Some("cat > /dev/null; echo 'syntax error, line 3' >&2; exit 1"));
    let refusal = kernel.profile(&asks(AppArmor::Unsaid)).await.unwrap_err();
    assert!(
        refusal.starts_with("failed to generate apparmor spec opts: loading the profile lifepod-default: ")
            && refusal.ends_with("(exit status: 1): syntax error, line 3"),
        "{refusal}"
    );
    fs::remove_dir_all(root).unwrap();
}

#[tokio::test]
async fn a_host_without_it_confines_nobody() {
    let root = std::env::temp_dir().join(format!("lifepod-app-armor-none-{}", std::process::id()));
    let kernel = Kernel::below(&root);
    assert!(!kernel.enabled);
    assert_eq!(kernel.profile(&asks(AppArmor::Unsaid)).await, Ok(None));
    let refusal = kernel.profile(&asks(AppArmor::RuntimeDefault)).await.unwrap_err();
    assert_eq!(refusal, "failed to generate apparmor spec opts: apparmor is not supported");
}
