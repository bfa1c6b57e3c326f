//! Moments that some formats cannot hold: what was changed before 1970 or after 2262 keeps its time, both ways. (An engine that unpacks
//! an archive by itself does not know them.)

use std::{fs, os::unix::fs::MetadataExt as _, process::Command};

use crate::common::Project;

/// As `touch` has them, and in seconds.
const MOMENTS: [(&str, i64); 4] = [
    ("1901-12-14 12:00:00", -2_147_428_800),
    ("1969-12-31 23:59:58", -2),
    ("2262-04-12 00:00:00", 9_223_372_800),
    ("2400-01-01 00:00:00", 13_569_465_600),
];

#[test]
fn moments_before_1970_and_after_2262_go_up_and_come_back() {
    let places = [(Project::new(), &[][..]), (Project::kept(), &[]), (Project::here(), &[])];
    for (project, options) in places {
        let (mut there, mut seen) = (String::new(), String::new());
        for (number, (when, seconds)) in MOMENTS.iter().enumerate() {
            project.write(format!("source{number}"), "");
            let mut touch = Command::new("touch");
            touch.env("TZ", "UTC").args(["-d", when]);
            assert!(touch.arg(project.path(format!("source{number}"))).status().unwrap().success());
            there += &format!("TZ=UTC touch -d '{when}' made{number}; stat -c %Y source{number}; ");
            seen += &format!("{seconds}\n");
        }
        let ended = project.sh(options, &there);
        assert_eq!(ended.exits(0).out(), seen, "{options:?}");
        for (number, (when, seconds)) in MOMENTS.iter().enumerate() {
            let made = fs::metadata(project.path(format!("made{number}"))).unwrap();
            assert_eq!(made.mtime(), *seconds, "{when}, {options:?}");
        }
    }
}
