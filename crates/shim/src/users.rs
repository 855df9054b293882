//! Which numbers a container's user and groups are.
//!
//! Pure: the image's `/etc/passwd` and `/etc/group` come in as text. A user
//! given by number need not be listed; one given by name must be.
//!
//! Source: OCI image specification, `config.User`; CRI `SecurityContext`;
//! containerd `oci.WithUser` and `WithAdditionalGIDs`.

use crate::protocol::{IdRange, UserSpec};

/// The kernel takes the greatest number for "leave as it is", so a process told
/// to become that user stays root. Source: the range containerd takes.
const NUMBER_MAX: u32 = i32::MAX as u32;

/// Who a process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Sorted, without repeats.
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

impl Identity {
    /// Whether a pod with these users of its own has it. The error is for people.
    pub(crate) fn check(&self, ids: IdRange) -> Result<(), String> {
        let mut numbers = self.groups.iter().chain([&self.uid, &self.gid]);
        match numbers.find(|number| ids.on_node(**number).is_none()) {
            None => Ok(()),
            Some(number) => Err(format!(
                "user or group {number} is out of range: a pod with `hostUsers: false` has the numbers from 0 to {}",
                ids.length - 1
            )),
        }
    }
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let home = fields.nth(1).unwrap_or("");
        Some(Account {
            name,
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home,
        })
    })
}

fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password, gid) = (fields.next()?, fields.next()?, fields.next()?);
        Some((name, gid.parse().ok()?, fields.next().unwrap_or("")))
    })
}

/// Looks the user up. The error is for people.
pub(crate) fn resolve(user: &UserSpec, passwd: &str, group: &str) -> Result<Identity, String> {
    let (image_user, image_group) = match user.image.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (user.image.as_str(), None),
    };
    let account = match user.uid {
        Some(uid) => accounts(passwd).find(|a| a.uid == uid),
        None if image_user.is_empty() => accounts(passwd).find(|a| a.uid == 0),
        None => match image_user.parse::<u32>() {
            Ok(uid) => accounts(passwd).find(|a| a.uid == uid),
            Err(_) => Some(
                accounts(passwd)
                    .find(|a| a.name == image_user)
                    .ok_or_else(|| format!("unable to find user {image_user}: no matching entries in passwd file of the image"))?,
            ),
        },
    };
    let uid = match (&account, user.uid) {
        (_, Some(uid)) => uid,
        (Some(account), None) => account.uid,
        (None, None) => image_user.parse().unwrap_or(0),
    };
    // A group named by the image belongs to the image's user only.
    let gid = match (user.gid, image_group.filter(|g| user.uid.is_none() && !g.is_empty())) {
        (Some(gid), _) => gid,
        (None, Some(name)) => match name.parse() {
            Ok(gid) => gid,
            Err(_) => {
                groups(group)
                    .find(|(n, ..)| *n == name)
                    .ok_or_else(|| format!("unable to find group {name}: no matching entries in group file of the image"))?
                    .1
            }
        },
        (None, None) => account.as_ref().map_or(0, |a| a.gid),
    };
    let mut further = user.groups.clone();
    if let Some(account) = account.as_ref().filter(|_| !user.only_these_groups) {
        further.extend(
            groups(group)
                .filter(|(_, _, members)| members.split(',').any(|m| m == account.name))
                .map(|(_, gid, _)| gid),
        );
    }
    further.push(gid);
    further.sort_unstable();
    further.dedup();
    if let Some(number) = further.iter().chain([&uid]).find(|number| **number > NUMBER_MAX) {
        return Err(format!("user or group {number} is out of range: numbers go from 0 to {NUMBER_MAX}"));
    }
    let home = account
        .map(|a| a.home.to_owned())
        .filter(|h| !h.is_empty())
        .unwrap_or_else(|| "/".to_owned());
    Ok(Identity {
        uid,
        gid,
        groups: further,
        home,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/srv:/bin/false\nbroken\n";
    const GROUP: &str = "root:x:0:\nweb:x:102:\nlogs:x:7:root,web\n";

    #[test]
    fn the_images_groups_are_left_out_when_asked() {
        let user = UserSpec {
            image: "web".into(),
            groups: vec![9],
            only_these_groups: true,
            ..UserSpec::default()
        };
        assert_eq!(resolve(&user, PASSWD, GROUP).unwrap().groups, [9, 102]);
    }

    fn of(image: &str, uid: Option<u32>, gid: Option<u32>) -> Result<Identity, String> {
        resolve(
            &UserSpec {
                image: image.into(),
                uid,
                gid,
                groups: vec![9],
                only_these_groups: false,
            },
            PASSWD,
            GROUP,
        )
    }

    #[test]
    fn users_are_numbers_or_names_of_the_image() {
        for (image, uid, gid, want) in [
            ("", None, None, (0, 0, vec![0, 7, 9], "/root")),
            ("web", None, None, (101, 102, vec![7, 9, 102], "/srv")),
            ("101", None, None, (101, 102, vec![7, 9, 102], "/srv")),
            ("web:logs", None, None, (101, 7, vec![7, 9], "/srv")),
            ("web:55", None, None, (101, 55, vec![7, 9, 55], "/srv")),
            ("4000", None, None, (4000, 0, vec![0, 9], "/")),
            ("web:logs", Some(5000), None, (5000, 0, vec![0, 9], "/")),
            ("nobody-here", Some(101), Some(3), (101, 3, vec![3, 7, 9], "/srv")),
        ] {
            let got = of(image, uid, gid).unwrap();
            assert_eq!((got.uid, got.gid, got.groups, got.home.as_str()), want, "{image} {uid:?} {gid:?}");
        }
    }

    #[test]
    fn numbers_that_change_nothing_are_refused() {
        const NOBODY: u32 = u32::MAX;
        let image = |user: &str| UserSpec {
            image: user.into(),
            ..UserSpec::default()
        };
        let by_number = UserSpec {
            uid: Some(NOBODY),
            ..UserSpec::default()
        };
        let in_group = UserSpec {
            groups: vec![NOBODY],
            ..UserSpec::default()
        };
        let passwd = format!("{PASSWD}sly:x:{NOBODY}:7::/:\n");
        for user in [image("4294967295"), image("sly"), image("101:4294967295"), by_number, in_group] {
            let refusal = resolve(&user, &passwd, GROUP).unwrap_err();
            assert!(refusal.contains("4294967295 is out of range"), "{user:?}: {refusal}");
        }
        assert!(resolve(&image("2147483647"), PASSWD, GROUP).is_ok());
    }

    #[test]
    fn a_pod_with_users_of_its_own_has_no_others() {
        let ids = IdRange {
            first: 65_536,
            length: 65_536,
        };
        assert_eq!(of("web", None, None).unwrap().check(ids), Ok(()));
        assert_eq!(of("", Some(65_535), Some(65_535)).unwrap().check(ids), Ok(()));
        let refusal = of("", Some(65_536), None).unwrap().check(ids).unwrap_err();
        assert!(refusal.starts_with("user or group 65536 is out of range"), "{refusal}");
        assert!(of("", None, Some(70_000)).unwrap().check(ids).is_err());
    }

    #[test]
    fn unknown_names_are_refused() {
        assert!(of("ghost", None, None).unwrap_err().contains("unable to find user ghost"));
        assert!(of("web:ghosts", None, None).unwrap_err().contains("unable to find group ghosts"));
    }
}
