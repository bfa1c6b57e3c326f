//! Workspaces -> text and JSON. Pure. Control characters in labels are escaped: others may have
//! written them.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use crate::{
    agent::protocol::Held,
    spec::Route,
    text::{
        numbers, one_line,
        table::{Column, Fit, facts, listing},
    },
    workspace::{
        Generation,
        list::{Listed, Owner, Place, Unused},
        storage::CACHE_PREFIX,
    },
};

const COLUMNS: [Column; 10] = [
    Column { heading: "SOURCE", fit: Fit::Path },
    Column { heading: "ENGINE", fit: Fit::Spare(6) },
    Column { heading: "IMAGE", fit: Fit::Spare(3) },
    Column { heading: "STATE", fit: Fit::Whole },
    Column { heading: "SIZE", fit: Fit::Spare(1) },
    Column { heading: "KEPT", fit: Fit::Spare(4) },
    Column { heading: "LEFT", fit: Fit::Spare(5) },
    Column { heading: "AGE", fit: Fit::Spare(7) },
    Column { heading: "USED", fit: Fit::Spare(2) },
    Column { heading: "NAME", fit: Fit::Spare(8) },
];

/// A workspace as a short text.
pub(super) fn title(listed: &Listed) -> String {
    one_line(&format!("{} ({})", listed.name, listed.source))
}

/// An unused volume as text.
pub(super) fn volume(unused: &Unused) -> String {
    one_line(&match unused {
        Unused::OfWorkspace { name, .. } => format!("the volume {name}, whose workspace is gone"),
        Unused::Cache { name } => {
            format!("the cache {}", name.strip_prefix(CACHE_PREFIX).unwrap_or(name))
        }
    })
}

/// An aligned table, this project's workspaces first and marked. Without workspaces only the
/// headings, as in `docker ps`.
pub(super) fn table(all: &[Listed], here: &[&Listed], now: u64, width: Option<usize>) -> String {
    let is_here = |listed: &&Listed| here.contains(listed);
    let (first, others): (Vec<_>, Vec<_>) = all.iter().partition(is_here);
    let rows: Vec<_> = first.into_iter().chain(others).map(|one| row(one, is_here(&one), now)).collect();
    listing(&COLUMNS, &rows, width)
}

fn row(listed: &Listed, is_here: bool, now: u64) -> [String; COLUMNS.len()] {
    [
        format!("{}{}", source(listed), if is_here { " *" } else { "" }),
        listed.place.engine().to_owned(),
        image(listed).to_owned(),
        state(&listed.state).to_owned(),
        size(listed, "?"),
        listed.held.map_or_else(|| "-".to_owned(), |held| numbers::bytes(held.kept)),
        listed.held.map_or_else(|| "-".to_owned(), |held| numbers::bytes(held.leftovers)),
        numbers::rough(since(listed.made, now)),
        ago(listed.last_used, now),
        listed.name.clone(),
    ]
    .map(|cell| one_line(&cell))
}

/// Engines measure only layers.
fn size(listed: &Listed, unknown: &str) -> String {
    let layer = listed.size.map_or_else(|| unknown.to_owned(), numbers::bytes);
    match listed.beside {
        Some(route) => format!("{layer} + {route}"),
        None => layer,
    }
}

/// The size of the files that only a workspace has.
pub(in crate::cli) fn held(Held { kept, leftovers }: Held) -> String {
    format!("{} kept, {} left beside outputs", numbers::bytes(kept), numbers::bytes(leftovers))
}

fn image(listed: &Listed) -> &str {
    if listed.image.is_empty() { "-" } else { &listed.image }
}

fn source(listed: &Listed) -> String {
    match listed.owner {
        Owner::Here => listed.source.clone(),
        Owner::Elsewhere => format!("{} (elsewhere)", listed.source),
    }
}

/// Engines say `exited`, which sounds like a failure.
pub(in crate::cli) fn state(state: &str) -> &str {
    if state == "exited" { "stopped" } else { state }
}

fn since(then: u64, now: u64) -> Duration {
    Duration::from_secs(now.saturating_sub(then))
}

pub(in crate::cli) fn ago(then: u64, now: u64) -> String {
    format!("{} ago", numbers::rough(since(then, now)))
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    engine: &'static str,
    container: Option<&'a str>,
    project: &'a str,
    source: &'a str,
    image: &'a str,
    version: &'a str,
    owner: &'static str,
    state: &'a str,
    made: u64,
    last_used: u64,
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    beside: Option<Route>,
    /// Of that, the files that only the workspace has.
    #[serde(skip_serializing_if = "Option::is_none")]
    held: Option<Held>,
}

impl<'a> Row<'a> {
    fn of(listed: &'a Listed) -> Row<'a> {
        Row {
            name: &listed.name,
            engine: listed.place.engine(),
            container: match &listed.place {
                Place::Container(container) => Some(container.as_str()),
                Place::Directory(_) => None,
            },
            project: &listed.project,
            source: &listed.source,
            image: &listed.image,
            version: &listed.version,
            owner: match listed.owner {
                Owner::Here => "here",
                Owner::Elsewhere => "elsewhere",
            },
            state: &listed.state,
            made: listed.made,
            last_used: listed.last_used,
            size: listed.size,
            beside: listed.beside,
            held: listed.held,
        }
    }
}

/// An array of objects.
pub(super) fn json_list(all: &[Listed]) -> String {
    json(&all.iter().map(Row::of).collect::<Vec<_>>())
}

pub(in crate::cli) fn json(value: &impl Serialize) -> String {
    // Cannot fail: strings and numbers, and maps of strings.
    serde_json::to_string_pretty(value).map(|text| text + "\n").unwrap_or_default()
}

/// All known data about one workspace.
pub(super) struct Facts<'a> {
    /// Its entry in the list.
    pub(super) listed: &'a Listed,
    /// The start time of its process, as the engine writes it.
    pub(super) started: Option<&'a str>,
    /// The settings that it was made with.
    pub(super) made_with: Option<&'a Generation>,
}

impl Facts<'_> {
    /// One fact per line.
    pub(super) fn text(&self, now: u64, width: Option<usize>) -> String {
        let listed = self.listed;
        let mut rows = vec![
            ("name", listed.name.clone()),
            ("source", source(listed)),
            ("engine", listed.place.engine().to_owned()),
            ("image", image(listed).to_owned()),
            ("state", state(&listed.state).to_owned()),
            ("size", size(listed, "unknown")),
            ("only there", listed.held.map_or_else(|| "unknown".to_owned(), held)),
            ("made", format!("{}, by fastbuild {}", ago(listed.made, now), listed.version)),
            ("last used", ago(listed.last_used, now)),
        ];
        rows.extend(self.started.map(|started| ("started", started.to_owned())));
        if let Place::Container(container) = &listed.place {
            rows.push(("container", container.as_str().to_owned()));
        }
        rows.push(("project", listed.project.clone()));
        let made_with = self.made_with.into_iter().flat_map(Generation::values);
        rows.extend(made_with.map(|(what, value)| ("made with", format!("{what} {value}"))));
        rows.iter_mut().for_each(|(_, value)| *value = one_line(value));
        facts(&rows, width)
    }

    /// One object: the entry in the list and the other known data.
    pub(super) fn json(&self) -> String {
        #[derive(Serialize)]
        struct Document<'a> {
            #[serde(flatten)]
            row: Row<'a>,
            started: Option<&'a str>,
            made_with: BTreeMap<&'a str, &'a str>,
        }
        json(&Document {
            row: Row::of(self.listed),
            started: self.started,
            made_with: self.made_with.into_iter().flat_map(Generation::values).collect(),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::engine::ContainerId;

    pub(in super::super) fn workspace(name: &str, source: &str, owner: Owner) -> Listed {
        Listed {
            name: name.to_owned(),
            place: Place::Container(ContainerId::new("0123abcd")),
            project: "00ff".to_owned(),
            source: source.to_owned(),
            image: "ruby:3.3".to_owned(),
            version: "0.1.0".to_owned(),
            owner,
            state: "running".to_owned(),
            made: 1_000,
            last_used: 90_000,
            size: Some(20_100_000),
            beside: None,
            held: Some(Held { kept: 12_300_000, leftovers: 3_400 }),
            workdir: "/workspace".to_owned(),
        }
    }

    #[test]
    fn a_list_is_a_table_that_fits_its_columns() {
        let mut stopped = workspace("fastbuild-ws-2", "/home/me/\u{1b}[2Jx", Owner::Elsewhere);
        (stopped.state, stopped.size, stopped.last_used) = ("exited".to_owned(), None, 1_000);
        (stopped.beside, stopped.held) = (Some(Route::Tmpfs), None);
        let mut here = workspace("/c/00ff", "/home/me/blog", Owner::Here);
        (here.image, here.place, here.state) =
            (String::new(), Place::Directory("/c/00ff".into()), "idle".to_owned());
        let all = [workspace("fastbuild-ws-1", "/home/me/blog", Owner::Here), stopped, here];
        insta::assert_snapshot!(table(&all, &[&all[2]], 90_120, None), @r"
        SOURCE                           ENGINE  IMAGE     STATE    SIZE       KEPT     LEFT    AGE  USED    NAME
        /home/me/blog *                  host    -         idle     20.1 MB    12.3 MB  3.4 kB  1d   2m ago  /c/00ff
        /home/me/blog                    docker  ruby:3.3  running  20.1 MB    12.3 MB  3.4 kB  1d   2m ago  fastbuild-ws-1
        /home/me/\u{1b}[2Jx (elsewhere)  docker  ruby:3.3  stopped  ? + tmpfs  -        -       1d   1d ago  fastbuild-ws-2
        ");
        insta::assert_snapshot!(table(&all, &[&all[2]], 90_120, Some(60)), @r"
        SOURCE                           STATE    SIZE       USED
        /home/me/blog *                  idle     20.1 MB    2m ago
        /home/me/blog                    running  20.1 MB    2m ago
        /home/me/\u{1b}[2Jx (elsewhere)  stopped  ? + tmpfs  1d ago
        ");
        for width in [40, 60, 80] {
            let shown = table(&all, &[], 90_120, Some(width));
            assert!(shown.lines().all(|line| line.chars().count() <= width), "{width}\n{shown}");
        }
        assert_eq!(table(&[], &[], 0, None).lines().count(), 1);
    }

    #[test]
    fn all_that_is_known_is_shown_in_both_forms() {
        let listed = workspace("fastbuild-ws-1", "/home/me/blog", Owner::Here);
        let made_with = Generation::from_label(r#"[["image","sha256:0"],["user","app"]]"#);
        let facts =
            Facts { listed: &listed, started: Some("2026-01-01T00:00:00Z"), made_with: made_with.as_ref() };
        insta::assert_snapshot!(facts.text(90_120, None), @r"
        name        fastbuild-ws-1
        source      /home/me/blog
        engine      docker
        image       ruby:3.3
        state       running
        size        20.1 MB
        only there  12.3 MB kept, 3.4 kB left beside outputs
        made        1d ago, by fastbuild 0.1.0
        last used   2m ago
        started     2026-01-01T00:00:00Z
        container   0123abcd
        project     00ff
        made with   image sha256:0
        made with   user app
        ");
        let read: serde_json::Value = serde_json::from_str(&facts.json()).unwrap();
        assert_eq!(read["made_with"]["user"], "app");
        assert_eq!(&read["size"], &20_100_000);
        let read: serde_json::Value = serde_json::from_str(&json_list(&[listed])).unwrap();
        assert_eq!((&read[0]["owner"], &read[0]["last_used"]), (&"here".into(), &90_000.into()));
    }
}
