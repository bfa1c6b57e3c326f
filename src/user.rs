//! `USER[:GROUP]` and the image's own tables -> the command's ids, further groups and home. Pure.
//!
//! The engine resolves the user when the command starts, which is too late: uploaded files must
//! belong to that user before. In a workspace it does not resolve the user at all: the agent is
//! root there and becomes the user itself. So this module repeats what `docker run` does, from the
//! same two files.

use std::fmt;

/// The highest id that engines accept.
const MAX_ID: u32 = i32::MAX as u32;

/// The numbers of a user and a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// The user's.
    pub uid: u32,
    /// The group's.
    pub gid: u32,
}

/// The superuser.
pub const ROOT: Ids = Ids { uid: 0, gid: 0 };

/// The identity of a process of the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The user and the main group.
    pub ids: Ids,
    /// All its groups, the main one first.
    pub groups: Vec<u32>,
    /// Its home directory; `/` when the image has none for it.
    pub home: Vec<u8>,
}

/// Which table of the image a name is looked up in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// `/etc/passwd`.
    Passwd,
    /// `/etc/group`.
    Group,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Table::Passwd => "/etc/passwd",
            Table::Group => "/etc/group",
        })
    }
}

/// Why a user specification gives no ids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// A name that the image does not know.
    #[error("{name:?} is not in the image's {table}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// Where it was looked for.
        table: Table,
    },
    /// A number out of range.
    #[error("{number} is not a user or group id: ids go from 0 to {MAX_ID}")]
    OutOfRange {
        /// The number asked for.
        number: String,
    },
}

/// Resolves `spec` as `docker run --user` does. `passwd` and `group` are the contents of the
/// image's files; `None` when the image has no such file.
///
/// A number is always an id, even where a user has that number as a name. A user without a group
/// gets the group of its line in `passwd`, or 0 if there is no line. An empty `spec` is user 0.
/// Lines without proper numbers are skipped; engines read such a number as 0, which would give
/// files to root by accident.
///
/// # Errors
/// A name that is not in its table, or a number out of range.
pub fn resolve(spec: &str, passwd: Option<&[u8]>, group: Option<&[u8]>) -> Result<Ids, UserError> {
    let (user, named_group) = spec.split_once(':').unwrap_or((spec, ""));
    let own = resolve_user(user, passwd.unwrap_or_default())?;
    if named_group.is_empty() {
        return Ok(own);
    }
    let gid = resolve_group(named_group, group.unwrap_or_default())?;
    Ok(Ids { uid: own.uid, gid })
}

/// Resolves `spec` as [`resolve`] does, with the groups and the home that `docker run` gives: the
/// groups whose lines in `group` name the user, or only the group that `spec` names.
///
/// # Errors
/// As [`resolve`].
pub fn account(spec: &str, passwd: Option<&[u8]>, group: Option<&[u8]>) -> Result<Account, UserError> {
    let ids = resolve(spec, passwd, group)?;
    let (user, named_group) = spec.split_once(':').unwrap_or((spec, ""));
    let line = user_line(user, passwd.unwrap_or_default())?;
    let mut groups = vec![ids.gid];
    if let Some(line) = line.as_ref().filter(|_| named_group.is_empty()) {
        groups.extend(groups_of(line.name, group.unwrap_or_default()).filter(|gid| *gid != ids.gid));
    }
    let home = line.map(|line| line.home).filter(|home| !home.is_empty()).unwrap_or(b"/").to_vec();
    Ok(Account { ids, groups, home })
}

fn groups_of<'a>(user: &'a [u8], table: &'a [u8]) -> impl Iterator<Item = u32> + 'a {
    entries(table).filter_map(move |fields| {
        let members = fields.get(3)?;
        let is_member = members.split(|&b| b == b',').any(|member| member == user);
        number(fields.get(2)?).filter(|_| is_member)
    })
}

/// A line of `passwd`.
struct UserLine<'a> {
    name: &'a [u8],
    ids: Ids,
    home: &'a [u8],
}

fn user_line<'a>(user: &str, passwd: &'a [u8]) -> Result<Option<UserLine<'a>>, UserError> {
    let wanted = if user.is_empty() { Some(0) } else { id(user)? };
    let line = |fields: Vec<&'a [u8]>| {
        let ids = Ids { uid: number(fields.get(2)?)?, gid: number(fields.get(3)?)? };
        Some(UserLine { name: fields.first()?, ids, home: fields.get(5).copied().unwrap_or_default() })
    };
    let is_wanted =
        |line: &UserLine<'_>| wanted.map_or(line.name == user.as_bytes(), |wanted| wanted == line.ids.uid);
    Ok(entries(passwd).filter_map(line).find(is_wanted))
}

fn resolve_user(user: &str, passwd: &[u8]) -> Result<Ids, UserError> {
    let wanted = if user.is_empty() { Some(0) } else { id(user)? };
    match (user_line(user, passwd)?, wanted) {
        (Some(line), _) => Ok(line.ids),
        (None, Some(uid)) => Ok(Ids { uid, gid: 0 }),
        (None, None) => Err(UserError::Unknown { name: user.to_owned(), table: Table::Passwd }),
    }
}

fn resolve_group(group: &str, table: &[u8]) -> Result<u32, UserError> {
    if let Some(gid) = id(group)? {
        return Ok(gid);
    }
    entries(table)
        .filter_map(|fields| Some((*fields.first()?, number(fields.get(2)?)?)))
        .find(|&(name, _)| name == group.as_bytes())
        .map(|(_, gid)| gid)
        .ok_or_else(|| UserError::Unknown { name: group.to_owned(), table: Table::Group })
}

/// `text` as a number; `None` when it is not one.
fn id(text: &str) -> Result<Option<u32>, UserError> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= MAX_ID => Ok(Some(id)),
        _ => Err(UserError::OutOfRange { number: text.to_owned() }),
    }
}

fn entries(table: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    table
        .split(|&b| b == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
        .map(|line| line.split(|&b| b == b':').collect())
}

fn number(field: &[u8]) -> Option<u32> {
    str::from_utf8(field).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        # a comment:x:7:7\n\
        \n\
        app:x:1000:1001::/home/app:/bin/sh\r\n\
        caf\xe9:x:1100:1101::/:/bin/sh\n\
        2000:x:2001:2002::/:/bin/sh\n\
        broken:x:abc:def::/:/bin/sh\n\
        short:x\n\
        app:x:9:9:second line of the same name:/:/bin/sh\n\
        last:x:3000:3001::/:/bin/sh";
    const GROUP: &[u8] = b"root:x:0:\napp:x:1001:\nstaff:x:50:app,root\n4000:x:4001:\nbad:x:nan:";

    #[test]
    fn users_are_resolved_as_docker_run_does() {
        let cases: &[(&str, u32, u32)] = &[
            ("", 0, 0),
            (":", 0, 0),
            (":staff", 0, 50),
            ("root", 0, 0),
            ("app", 1000, 1001),
            ("app:", 1000, 1001),
            ("app:staff", 1000, 50),
            ("app:7", 1000, 7),
            ("1000", 1000, 1001),
            ("1000:staff", 1000, 50),
            ("5", 5, 0),
            ("5:6", 5, 6),
            ("2000", 2000, 0),
            ("root:4000", 0, 4000),
            ("last", 3000, 3001),
            ("2147483647", 2_147_483_647, 0),
        ];
        for (spec, uid, gid) in cases {
            assert_eq!(
                resolve(spec, Some(PASSWD), Some(GROUP)),
                Ok(Ids { uid: *uid, gid: *gid }),
                "{spec:?}"
            );
        }
    }

    #[test]
    fn groups_and_home_are_those_of_docker_run() {
        let cases: &[(&str, &[u32], &[u8])] = &[
            ("", &[0, 50], b"/root"),
            ("app", &[1001, 50], b"/home/app"),
            ("1000", &[1001, 50], b"/home/app"),
            ("app:7", &[7], b"/home/app"),
            ("app:staff", &[50], b"/home/app"),
            ("5", &[0], b"/"),
            ("5:6", &[6], b"/"),
        ];
        for (spec, groups, home) in cases {
            let account = account(spec, Some(PASSWD), Some(GROUP)).unwrap();
            assert_eq!((account.groups.as_slice(), account.home.as_slice()), (*groups, *home), "{spec:?}");
        }
    }

    #[test]
    fn an_image_without_tables_takes_numbers_only() {
        assert_eq!(resolve("", None, None), Ok(Ids { uid: 0, gid: 0 }));
        assert_eq!(resolve("12:34", None, None), Ok(Ids { uid: 12, gid: 34 }));
        let unknown = UserError::Unknown { name: "root".to_owned(), table: Table::Passwd };
        assert_eq!(resolve("root", None, None), Err(unknown));
    }

    #[test]
    fn what_the_image_does_not_know_is_named() {
        let unknown = |name: &str, table| UserError::Unknown { name: name.to_owned(), table };
        let out_of_range = |number: &str| UserError::OutOfRange { number: number.to_owned() };
        let cases = [
            ("nobody", unknown("nobody", Table::Passwd)),
            ("broken", unknown("broken", Table::Passwd)),
            ("short", unknown("short", Table::Passwd)),
            ("app:wheel", unknown("wheel", Table::Group)),
            ("app:bad", unknown("bad", Table::Group)),
            ("-1", out_of_range("-1")),
            ("2147483648", out_of_range("2147483648")),
            ("0:99999999999999999999", out_of_range("99999999999999999999")),
        ];
        for (spec, why) in cases {
            assert_eq!(resolve(spec, Some(PASSWD), Some(GROUP)), Err(why), "{spec:?}");
        }
        assert_eq!(
            unknown("nobody", Table::Passwd).to_string(),
            "\"nobody\" is not in the image's /etc/passwd"
        );
    }
}
