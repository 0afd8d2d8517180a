//! Who a process runs as: names and groups looked up in the container's passwd and group files (passwd(5), group(5)).

use fram_cri::ContainerUser;
use thiserror::Error;

use super::UserRequest;

#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum UserError {
    #[error("user {0:?} is not in the container's /etc/passwd")]
    UnknownUser(String),
    #[error("group {0:?} is not in the container's /etc/group")]
    UnknownGroup(String),
    #[error("{0} is not a user or group id")]
    Id(i64),
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// The pod's wish comes before the image's. A number needs no entry: without one the group is root's.
pub(crate) fn resolve_user(request: &UserRequest, passwd: &str, group: &str) -> Result<ContainerUser, UserError> {
    let (user, named_group) = wanted(request);
    let entry = find_user(passwd, &user);
    let uid = match (&entry, user.parse::<u32>()) {
        (Some(entry), _) => entry.uid,
        (None, Ok(uid)) => uid,
        (None, Err(_)) => return Err(UserError::UnknownUser(user)),
    };
    let gid = match (request.run_as_group, named_group) {
        (Some(gid), _) => id(gid)?,
        (None, Some(name)) => find_group(group, &name)?,
        (None, None) => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    let mut supplemental_groups = vec![gid];
    let mut add = |gid: u32| {
        if !supplemental_groups.contains(&gid) {
            supplemental_groups.push(gid);
        }
    };
    if !request.strict
        && let Some(entry) = &entry
    {
        let member = |group: &Group| group.members.split(',').any(|member| member == entry.name);
        groups(group).filter(member).for_each(|group| add(group.gid));
    }
    for gid in &request.supplemental_groups {
        add(id(*gid)?);
    }
    Ok(ContainerUser { uid, gid, supplemental_groups })
}

/// User and group as text: a number or a name.
fn wanted(request: &UserRequest) -> (String, Option<String>) {
    if !request.run_as_username.is_empty() {
        return (request.run_as_username.clone(), None);
    }
    if let Some(uid) = request.run_as_user {
        return (uid.to_string(), None);
    }
    match request.image_user.split_once(':') {
        Some((user, group)) => (or_root(user), Some(group).filter(|group| !group.is_empty()).map(str::to_owned)),
        None => (or_root(&request.image_user), None),
    }
}

fn or_root(user: &str) -> String {
    if user.is_empty() { "0".to_owned() } else { user.to_owned() }
}

fn id(value: i64) -> Result<u32, UserError> {
    u32::try_from(value).map_err(|_| UserError::Id(value))
}

/// Where a user is at home, the root directory where nothing is known of him.
pub(crate) fn home(passwd: &str, uid: u32) -> &str {
    let home = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let is_him = fields.get(2).and_then(|field| field.parse().ok()) == Some(uid);
        fields.get(5).copied().filter(|home| is_him && !home.is_empty())
    });
    home.unwrap_or("/")
}

/// A name comes before a number, as in runc: a user may be called `1000`.
fn find_user<'a>(passwd: &'a str, user: &str) -> Option<Passwd<'a>> {
    let entries = || {
        passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _password) = (fields.next()?, fields.next()?);
            Some(Passwd { name, uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
        })
    };
    let number = user.parse::<u32>().ok();
    entries().find(|entry| entry.name == user).or_else(|| entries().find(|entry| Some(entry.uid) == number))
}

fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        Some(Group { name, gid: fields.next()?.parse().ok()?, members: fields.next().unwrap_or_default().trim() })
    })
}

fn find_group(group: &str, name: &str) -> Result<u32, UserError> {
    let entry = groups(group).find(|entry| entry.name == name).map(|entry| entry.gid);
    entry.or_else(|| name.parse().ok()).ok_or_else(|| UserError::UnknownGroup(name.to_owned()))
}
